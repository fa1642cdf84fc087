"""Starts the agent in a Python that `rag-sidecar run -- COMMAND` has started, or that such a program has started.

Python's module `site` imports this by its name, before the program. It takes itself out of sys.path and sys.modules,
starts the agent, and imports the program's own `sitecustomize`, as `site` would have done; where there is none, the
ImportError that `site` expects goes on to it. Whatever Python comes upon this file must be able to read it.
"""

import sys

OURS = "_rag_sidecar_agent"
"""The agent's module, under a name that no program imports; an agent that a program starts itself takes its place."""


def _step_aside():
    # type: () -> None
    """Leave nothing of us behind, but for PYTHONPATH: children are to get an agent, too."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if not place or os.path.abspath(place) != here]
    for place in [place for place in sys.path_importer_cache if os.path.abspath(place) == here]:
        del sys.path_importer_cache[place]
    sys.modules.pop("sitecustomize", None)


def _start_agent():
    # type: () -> None
    """Load the agent by its path, so that our package's folder is not on sys.path, and start it.

    A failure is told in one line: the program goes on without.
    """
    try:
        import os
        from importlib.util import module_from_spec, spec_from_file_location

        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        spec = spec_from_file_location(OURS, os.path.join(package, "agent.py"))
        assert spec
        assert spec.loader
        sys.modules[OURS] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
        module.start()
    except Exception as error:  # whatever fails in a stranger's Python: its program must not fail by it
        sys.modules.pop(OURS, None)
        sys.stderr.write("rag-sidecar: no agent in process: " + type(error).__name__ + ": " + str(error) + "\n")


if __name__ == "sitecustomize":
    _step_aside()
    if sys.version_info >= (3, 8):  # noqa: UP036 - it is the program's Python, not ours
        _start_agent()
    __import__("sitecustomize")  # the program's own
