"""The architecture, executable: who may import whom, who may read the clock, and how big a thing may get.

A rule is a function from one file to its violations. `test_every_rule_bites` feeds each a file that breaks it.
An exception to a rule is listed here by name with its reason; it is never made silently.
"""

import ast
import fnmatch
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [  # top to bottom: a unit imports only from rows below its own; siblings in a row never import each other
    {"__main__"},
    {"cli"},
    {"demo"},
    {"app", "replay"},  # the composition roots: one for real time, one for virtual time
    {"config", "pipeline"},  # app_*.py, cli_*.py, config_*.py and pipeline_*.py are parts of theirs
    {"web", "doctor", "explain", "attach", "init"},
    {"discovery", "probes", "store", "thresholds", "mode", "rules", "actions", "notify", "journal"},
    {"promql", "guard", "handout"},
    {"said"},
    {"model", "errors", "clock", "logs", "secretfile", "trust"},
    {"procfs"},  # below the rest: values that cross stages name the life of a process, which it defines
    {"tuples"},
]
RANK = {unit: row for row, units in enumerate(LAYERS) for unit in units}

ALONE = {  # modules that import the standard library and, of ours, only these, whatever way leads there
    "sidecar": (),  # importing one module must not cost the others
    "sidecar.guard*": (  # small, and runs beside a burning process
        "sidecar.guard", "sidecar.clock", "sidecar.procfs", "sidecar.tuples"),
    "sidecar.agent": ("sidecar.agent",),  # one file that is copied into other people's images
    "sidecar.attach.startup*": ("sidecar.attach",),  # runs in other people's programs
    "sidecar.demo.rag": ("sidecar.demo",),  # plays a user's program, which knows nothing of a sidecar
}

FENCES = {  # third-party package -> the only modules that import it
    "bcrypt": ["sidecar.web.passwords"],
    "psutil": ["sidecar.discovery.local"],
    "docker": ["sidecar.discovery.docker"],
    "promql_parser": ["sidecar.promql.parse"],
    "prometheus_client": ["sidecar.web.metrics", "sidecar.probes.endpoint_page"],
    "yaml": ["sidecar.config", "sidecar.config_*", "sidecar.rules.load", "sidecar.rules.testing"],
    "aiohttp": ["sidecar.app", "sidecar.notify.posting", "sidecar.probes.endpoint", "sidecar.web.*"],
}

CLOCK = {
    *(f"time.{name}{unit}" for unit in ("", "_ns")
      for name in ("time", "monotonic", "perf_counter", "thread_time", "process_time")),
    "time.sleep", "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "asyncio.sleep",
}  # fmt: skip
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
MAY_READ = {  # module -> what it may read of the two, because …
    "sidecar.clock": CLOCK,  # … it is the clock
    "sidecar.config": ENVIRONMENT,  # … the environment is configuration
    "sidecar.config_*": ENVIRONMENT,
    "sidecar.app": {"asyncio.sleep"},  # … the composition root waits for the next tick, so that no stage has to
    "sidecar.agent": CLOCK | ENVIRONMENT,  # … it lives in a foreign process and has nothing of ours to ask
    "sidecar.guard.children": {"os.environ"},  # … it hands it on to the user's program
    "sidecar.demo.*": CLOCK,  # … it plays a user's program and tells a story in real time
}

SUPERVISION = {  # "module:function" that may catch everything -> why
    "sidecar.promql.parse:parse_once": "the parser's panics derive from BaseException and cannot be imported by name",
    "sidecar.attach.startup.sitecustomize:_start_agent": "whatever happens in it must not stop the user's program",
    "sidecar.agent:_attempt": "it calls what the app registered, which may raise anything and must not end the agent",
}

TOO_BIG: dict[str, str] = {  # "module" or "module:function" that may exceed a budget -> why
    "sidecar.agent": "one file, because it is copied into other people's images",
    "sidecar.agent:start": "each argument is something that an app chooses, by its name",
}
FILE_LINES, FUNCTION_LINES, PARAMETERS, METHODS = 400, 40, 7, 15

IN_TARGETS = [
    path for path in [ROOT / "sidecar" / "agent.py", *(ROOT / "sidecar" / "attach" / "startup").glob("*.py"),
                      *(ROOT / "tests" / "targets").glob("*.py")] if path.exists()
]

DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "types", "constants"}
VAGUE = ("Manager", "Helper", "Util", "Utils", "Handler", "Service", "Processor")


class File(NamedTuple):
    """One source file, parsed."""

    module: str
    source: str
    tree: ast.Module


def dotted(path: Path) -> str:
    """The module that a file is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> frozenset[str]:
    """The names of all modules of ours."""
    return frozenset(dotted(path) for path in (ROOT / "sidecar").rglob("*.py"))


@functools.cache
def files() -> tuple[File, ...]:
    """Every file of the package."""
    found = []
    for path in sorted((ROOT / "sidecar").rglob("*.py")):
        source = path.read_text()
        found.append(File(dotted(path), source, ast.parse(source, str(path))))
    return tuple(found)


def matches(module: str, patterns: Iterable[str]) -> bool:
    """Whether a module is named by one of the patterns."""
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def imports(file: File) -> Iterator[tuple[int, str]]:
    """(line, module) of every import at any depth: also inside functions, also for the type checker alone."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in modules() else node.module or ""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def unit(module: str) -> str:
    """The part of the package that a module belongs to: the name that LAYERS knows."""
    name = module.split(".")[1] if "." in module else ""
    return name.split("_")[0] if name.startswith(("app_", "cli_", "config_", "pipeline_")) else name


def imports_point_down(file: File) -> Iterator[str]:
    """Rows may be skipped, never climbed; `from .x import y` would hide the way."""
    own = unit(file.module)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{node.lineno}: a relative import"
    if own and own != "agent" and own not in RANK:
        yield f"1: {own} has no place in LAYERS"
    for line, target in imports(file):
        other = unit(target) if target.startswith("sidecar.") else ""
        if not other or other == own:
            continue
        if other not in RANK or RANK[other] <= RANK.get(own, -1):
            yield f"{line}: {own} imports {target}, which is not below it"


def third_parties_are_fenced(file: File) -> Iterator[str]:
    """One module knows a library, so one module changes with it."""
    for line, target in imports(file):
        top = target.split(".")[0]
        if top not in sys.stdlib_module_names | {"sidecar"} and not matches(file.module, FENCES.get(top, [])):
            yield f"{line}: imports {top}"


def clock_and_environment_are_fenced(file: File) -> Iterator[str]:
    """Whoever gets the time as an argument can be tested in virtual time."""
    may: set[str] = set().union(*(names for pattern, names in MAY_READ.items() if matches(file.module, [pattern])))
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute):
            holder = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            used = {f"{holder}.{node.attr}"}
        elif isinstance(node, ast.ImportFrom):
            used = {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        for name in used & (CLOCK | ENVIRONMENT) - may:
            yield f"{node.lineno}: {name}"


def budgets_are_kept(file: File) -> Iterator[str]:
    """What fits on a page is read; what does not is split."""
    if file.source.count("\n") > FILE_LINES and file.module not in TOO_BIG:
        yield f"1: {file.source.count(chr(10))} lines, more than {FILE_LINES}"
    for node in functions(file.tree):
        if f"{file.module}:{node.name}" in TOO_BIG:
            continue
        doc = node.body[0] if ast.get_docstring(node) else None
        lines = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
        if lines > FUNCTION_LINES:
            yield f"{node.lineno}: {node.name} has {lines} lines, more than {FUNCTION_LINES}"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(argument.arg not in ("self", "cls") for argument in arguments)
        if count > PARAMETERS:
            yield f"{node.lineno}: {node.name} has {count} parameters, more than {PARAMETERS}"
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef) and f"{file.module}:{node.name}" not in TOO_BIG:
            count = sum(isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) for member in node.body)
            if count > METHODS:
                yield f"{node.lineno}: {node.name} has {count} methods, more than {METHODS}"


def errors_are_named(file: File) -> Iterator[str]:
    """Who catches everything hides bugs: a handler says which trouble it expects."""
    watched = {id(node) for name in SUPERVISION for node in _body_of(file, name)}
    for node in ast.walk(file.tree):
        if id(node) in watched:
            continue
        if isinstance(node, ast.ExceptHandler):
            caught = [node.type]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "suppress":
            caught = list(node.args)
        else:
            continue
        names = [part for kind in caught for part in (kind.elts if isinstance(kind, ast.Tuple) else [kind])]
        for name in names:
            if name is None or getattr(name, "id", "") in {"Exception", "BaseException"}:
                yield f"{node.lineno}: catches everything"


def _body_of(file: File, name: str) -> Iterator[ast.AST]:
    module, _, function = name.partition(":")
    for node in functions(file.tree):
        if file.module == module and node.name == function:
            yield from ast.walk(node)


def names_are_nouns_of_the_domain(file: File) -> Iterator[str]:
    """A drawer has no subject, so it takes everything."""
    for part in set(file.module.split(".")) & DRAWERS:
        yield f"1: a module named {part}"
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(VAGUE):
            yield f"{node.lineno}: a class named {node.name}"


def public_things_are_described(file: File) -> Iterator[str]:
    """Modules that hold anything, public classes, functions and methods say what they are."""
    if file.tree.body and not ast.get_docstring(file.tree):
        yield "1: the module has no docstring"
    yield from _undescribed(file.tree.body)


def _undescribed(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"{node.lineno}: {node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from _undescribed(node.body)


RULES: dict[Callable[[File], Iterator[str]], str] = {  # rule -> a file `sidecar/notify/planted.py` that breaks it
    imports_point_down: "from sidecar.rules.load import load",
    third_parties_are_fenced: "def f():\n    import psutil",
    clock_and_environment_are_fenced: "import time\ntime.monotonic()",
    budgets_are_kept: "def f():\n" + "    x = 1\n" * 40,
    errors_are_named: "try:\n    f()\nexcept (OSError, Exception):\n    pass",
    names_are_nouns_of_the_domain: "class AlertManager: ...",
    public_things_are_described: "'''Doc.'''\nclass A:\n    '''Doc.'''\n    def b(self): ...",
}
MORE = [
    (imports_point_down, "from sidecar.config import read"),
    (imports_point_down, "from . import queue"),
    (imports_point_down, "import sidecar.agent"),
    (third_parties_are_fenced, "import requests"),
    (clock_and_environment_are_fenced, "from time import sleep"),
    (clock_and_environment_are_fenced, "import datetime\ndatetime.datetime.now()"),
    (clock_and_environment_are_fenced, "import os\nos.environ['A']"),
    (budgets_are_kept, "\n" * 401),
    (budgets_are_kept, "def f(a, b, c, d, /, e, f, *, g, h): ..."),
    (budgets_are_kept, "class A:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(16))),
    (errors_are_named, "try:\n    f()\nexcept:\n    pass"),
    (errors_are_named, "with contextlib.suppress(Exception):\n    f()"),
    (public_things_are_described, "x = 1"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    """Nothing in the package breaks the rule."""
    found = [f"{file.module}:{violation}" for file in files() for violation in rule(file)]

    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(("rule", "source"), [*RULES.items(), *MORE], ids=lambda value: getattr(value, "__name__", ""))
def test_every_rule_bites(rule, source):
    """A rule finds what breaks it, so its silence means something."""
    assert list(rule(File("sidecar.notify.planted", source, ast.parse(source))))


def test_no_cycles_between_files():
    """Every file can be understood after those that it imports."""
    graph = {file.module: {target for _, target in imports(file)} & modules() for file in files()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def reachable(module: str) -> set[str]:
    """Everything that may be imported when this module is used, by any way."""
    known = {file.module: file for file in files()}
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= {target for _, target in imports(known[name])} & modules() - found if name in known else set()
        found |= {target for _, target in imports(known[name])} - modules() if name in known else set()
    return found - {module}


@functools.cache
def imported_by(statement: str) -> frozenset[str]:
    """The modules loaded after a statement, in a bare interpreter that sees the checkout and no installed package."""
    script = f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-I", "-S", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return frozenset(json.loads(result.stdout))


def strangers(found: Set[str], allowed: tuple[str, ...]) -> set[str]:
    """What is neither in the standard library nor allowed of ours. The package itself is in the way of all."""
    ours = {name for name in found if name.startswith("sidecar.") and not name.startswith(allowed or ("-",))}
    return ours | {name for name in found if name.split(".")[0] not in sys.stdlib_module_names | {"sidecar"}}


def alone() -> list[tuple[str, tuple[str, ...]]]:
    """(module, what it may import of ours), for those of ALONE that exist."""
    return [(module, ALONE[pattern]) for module in sorted(modules()) for pattern in ALONE if matches(module, [pattern])]


@pytest.mark.parametrize(("module", "allowed"), alone(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_stands_alone_imports_only_the_standard_library(module, allowed):
    """Such a module names nothing else in any branch, and loads without any installed package."""
    assert not strangers(reachable(module), allowed)
    assert module in imported_by(f"import {module}")
    assert not strangers(imported_by(f"import {module}") - imported_by("pass"), allowed)


def test_starting_the_command_loads_neither_libraries_nor_the_command_line():
    """`rag-sidecar run` becomes the guard, whose few megabytes are a promise: the entry point loads next to nothing."""
    found = imported_by("import sidecar.__main__") - imported_by("pass")

    assert not strangers(found, ("sidecar.__main__", *ALONE["sidecar.guard*"]))
    assert not found & {"argparse", "asyncio", "logging", "ssl", "http.client"}


def test_importing_any_module_starts_nothing():
    """No thread, no output, no handler of a signal comes from an import alone."""
    names = sorted(modules() - {"sidecar.__main__"})
    script = (
        f"import importlib, signal, threading\nfor name in {names!r}: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2): assert signal.getsignal(n) == signal.SIG_DFL, n\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert result.stderr == ""
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("path", IN_TARGETS, ids=lambda path: path.name)
def test_what_runs_in_a_target_parses_on_old_pythons(path):
    """A target may run Python 3.8, and so may the programs that tests start as targets."""
    assert ast.parse(path.read_text(), feature_version=(3, 8)).body


def test_every_exception_is_still_needed():
    """An exception that names nothing that exists has outlived its reason."""
    known = modules() | {f"{file.module}:{node.name}" for file in files() for node in functions(file.tree)}
    known |= {f"{f.module}:{node.name}" for f in files() for node in ast.walk(f.tree) if isinstance(node, ast.ClassDef)}

    assert set(SUPERVISION) | set(TOO_BIG) <= known
