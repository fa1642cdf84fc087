"""Real Pythons for tests: those of the machine, and newer ones of Debian's next release, unpacked, never installed."""

import functools
import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import servers

SUITE = "forky"
NEWER = ("3.13", "3.14", "3.15")
MUST = "3.14"
"""Of that release: the first and the last come and go with time, so only the one between is a must in CI."""
PACKAGES = ("python{0}-minimal", "libpython{0}-minimal", "libpython{0}-stdlib")
SHARED = ("libc6", "libexpat1", "zlib1g", "libgcc-s1", "libzstd1")


class Interpreter(NamedTuple):
    """A CPython: its version, its command, its PYTHONHOME. `tree` is the root of what was fetched, fit for chroot."""

    version: tuple[int, int, int]
    command: tuple[str, ...]
    home: str = ""
    tree: Path | None = None

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} {self.command[0]}"


def installed(oldest: tuple[int, int] = (3, 9)) -> list[Interpreter]:
    """Every CPython from `oldest` on that this machine has, each once."""
    return [python for python in _installed() if python.version >= oldest]


@functools.cache
def _installed() -> list[Interpreter]:
    """All of them, asked once. pyenv's shims stand for what is asked itself, and are slow."""
    home = os.path.expanduser("~/.pyenv/versions/*/bin/python3")
    named = [found for minor in range(6, 16) if (found := shutil.which(f"python3.{minor}")) and "/shims/" not in found]
    found = {}
    for path in [sys.executable, *sorted(glob.glob(home)), *glob.glob("/usr/bin/python3"), *named]:
        ask = ("import sys; print(*sys.version_info[:3], sys.implementation.name, sys.version_info.releaselevel, "
               "sys.executable)")
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True, timeout=60, check=False)
        major, minor, micro, implementation, level, program = done.stdout.split() or ("0", "0", "0", "", "", "")
        if (implementation, level) == ("cpython", "final"):
            found.setdefault(os.path.realpath(program), Interpreter((int(major), int(minor), int(micro)), (program,)))
    return list(found.values())


def fetched(version: str) -> Interpreter:
    """Python `version` ("3.14") of Debian's next release, started by its own loader: it needs its own C library.

    Where that cannot be had, one of the machine's own. Raises servers.NoServer.
    """
    try:
        tree = servers.unpacked(f"python{version}-{SUITE}", functools.partial(_fetch, version))
    except servers.NoServer:
        for own in installed():
            if f"{own.version[0]}.{own.version[1]}" == version:
                return own
        raise
    (loader,), (libraries,) = tree.glob("usr/lib/*/ld-linux-*.so.*"), tree.glob("usr/lib/*-linux-gnu")
    command = (str(loader), "--library-path", str(libraries), f"{tree}/usr/bin/python{version}")
    told = subprocess.run([*command, "-c", "import sys; print(*sys.version_info[:3])"], check=True, text=True,
                          env={"PYTHONHOME": f"{tree}/usr"}, capture_output=True, timeout=60).stdout.split()
    return Interpreter((int(told[0]), int(told[1]), int(told[2])), command, f"{tree}/usr", tree)


def sources() -> dict[str, str]:
    """The machine's own sources of Debian, for another suite: what a file of them must be named, and its text.

    Raises servers.NoServer where there are none.
    """
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            if re.search(r"^URIs:.*/debian/?$", stanza, re.MULTILINE):
                return {f"{SUITE}.sources": re.sub(r"(?m)^Suites:.*", f"Suites: {SUITE}", stanza) + "\n"}
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]:
        line = re.search(r"^(deb .*/debian/?) \S+ ", path.read_text() if path.exists() else "", re.MULTILINE)
        if line:
            return {f"{SUITE}.list": f"{line[1]} {SUITE} main\n"}
    raise servers.NoServer("this machine has no apt-get with Debian's packages")


def _fetch(version: str, work: Path) -> None:
    """One version with the libraries that it needs, fit for chroot."""
    download(work, (*(package.format(version) for package in PACKAGES), *SHARED))
    for name in ("lib", "lib64"):
        (work / "unpacked" / name).symlink_to(f"usr/{name}")


def download(work: Path, packages: Sequence[str]) -> None:
    """Packages of that release, unpacked in `work`/unpacked.

    Lists of our own need no root and leave the machine as it was. Raises servers.NoServer and what `subprocess.run`
    raises.
    """
    state, parts = servers.CACHE / f"apt-{SUITE}", work / "parts"
    for folder in (state / "lists" / "partial", state / "archives" / "partial", parts):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources().items():
        (parts / name).write_text(text)
    own = [f"-oDir::State::Lists={state / 'lists'}", f"-oDir::Cache={state}", "-oDir::Etc::sourcelist=/dev/null",
           f"-oDir::Etc::sourceparts={parts}", "-oDir::State::status=/dev/null"]
    servers.apt(work, *own, "update")
    servers.apt(work, *own, "download", *packages)
    servers.unpack(work)


def wanted(version: str) -> Interpreter:
    """`fetched`; where it cannot be had the test is skipped, and fails where `CI=true` and it is a must."""
    import pytest  # only here: `python tests/servers.py` runs before anything is installed

    try:
        return fetched(version)
    except servers.NoServer as error:
        reason = str(error)
    if servers.must_have() and version == MUST:
        raise pytest.fail.Exception(reason, pytrace=False)
    raise pytest.skip.Exception(reason)
