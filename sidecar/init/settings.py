"""A sidecar.yml to begin with: what it needs, what most add, and why."""

import shlex
from pathlib import Path

from sidecar import __version__
from sidecar.errors import SidecarError
from sidecar.init.kit import Kit, Watched

FILE = "sidecar.yml"

_TEXT = """\
# What rag-sidecar {version} watches and what it may do. Every key: docs/configuration.md
# A running sidecar takes a changed file by itself, as a whole or not at all: first `rag-sidecar check config {file}`.
targets:
  - name: {target}  # the label `target` of its series and alerts
    match:
      cmdline: {cmdline}  # a regular expression, searched in its command line; or pidfile: FILE, port: 8000
{lines}
    # How it may be asked for a cleanup, tried in this order. Naming a way is consent. Without one, and without the
    # agent in the program, it only watches and tells.
    # cleanup:
    #   - agent: {{}}  # rag-sidecar export agent DIR
    #   - http: {{url: "http://127.0.0.1:5000/cleanup"}}  # gets {{"level": "light|standard|aggressive", "id": "…"}}
    #   - signal: SIGUSR1  # only while the program has a handler for it

{alertmanagers}

# actions: {{mode: dry_run}}  # says what it would do, and does nothing

{web}
"""
_NO_LINES = "    # memory: {main: 1000MiB, critical: 1200MiB}  # left out: 80 % and 90 % of the limit of its cgroup"
_LOOPBACK = '# web: {listen: "127.0.0.1:11611"}  # status page, /metrics: who gets there may read, and change nothing'
_INSIDE = """\
web: {{listen: ":11611", hosts: [{name}]}}  # inside the container; outside, the port is published on loopback alone
instance: "{name}:11611"  # as Prometheus calls it"""
_NOBODY = '# alertmanagers: ["http://127.0.0.1:9093"]  # each gets every alert'


def kit(watched: Watched, folder: Path) -> Kit:
    """sidecar.yml."""
    path = folder / FILE
    flag = f"--config.file {shlex.quote(str(path))}"
    return Kit({path: text(watched)}, (
        f"rag-sidecar doctor {flag}  # is the program found, and what can be seen of it", f"rag-sidecar run {flag}"))


def text(watched: Watched, container: str = "") -> str:
    """The content of the file; `container` is the name of the one that the sidecar is in, "" outside of any.

    Raises SidecarError where something cannot stand in a line of it.
    """
    said = [f"{level}: {quoted(size)}" for level, size in zip(("main", "critical"), watched.lines, strict=True) if size]
    tell = ", ".join(map(quoted, watched.alertmanagers))
    return _TEXT.format(
        version=__version__, file=FILE, target=quoted(watched.target), cmdline=quoted(watched.cmdline),
        lines=f"    memory: {{{', '.join(said)}}}" if said else _NO_LINES,
        alertmanagers=f"alertmanagers: [{tell}]" if tell else _NOBODY,
        web=_INSIDE.format(name=container) if container else _LOOPBACK)


def quoted(text: str) -> str:
    """A text as YAML has it in single quotes, where nothing but the quote means anything."""
    if not text.isprintable():
        raise SidecarError(f"{text!r} cannot be written in one line", help="leave out what cannot be printed")
    return "'" + text.replace("'", "''") + "'"
