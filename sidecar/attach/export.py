"""The agent as a file for other people's programs and images, with a page on how to start it."""

from collections.abc import Iterator
from pathlib import Path

from sidecar import __version__
from sidecar.errors import SidecarError
from sidecar.handout import hand_out, in_the_way

AGENT = Path(__file__).resolve().parent.parent / "agent.py"

README = f"""\
# The agent of rag-sidecar {__version__}

`agent.py` is one file without dependencies, for Python 3.8 and later. Rename it as you like. Ways to start it:

- in the program: `import agent; agent.start()`
- without changing the program: put this folder on PYTHONPATH, with a `sitecustomize.py` of these two words in it
- gunicorn, in its configuration: `def post_fork(server, worker): import agent; agent.start()`
- in an image: `COPY agent.py /opt/rag-agent/agent.py` and `ENV PYTHONPATH=/opt/rag-agent`
- what to register, and what it answers: docs/agent.md of rag-sidecar. `python -c "import agent; print(agent.VERSION)"`
"""


def export(folder: Path, *, force: bool) -> Iterator[tuple[Path, str]]:
    """Write the files; each one's path and what was done. Raises SidecarError, before anything is written, where a file
    is in the way that differs and is not to be overwritten."""
    files = {folder / "agent.py": AGENT.read_bytes(), folder / "README.md": README.encode()}
    differing = in_the_way(files)
    if differing and not force:
        raise SidecarError(f"{' and '.join(map(str, differing))}: there already, and different",
                           help="--force overwrites; another version's agent goes on working with this sidecar")
    yield from hand_out(files)
