"""Prometheus 3 of Debian's next release, unpacked beside the other servers, never installed: what the rules follow."""

import fcntl
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pythons
import servers

PACKAGES = ("prometheus", "promtool")
FOLDER = servers.CACHE / f"prometheus-{pythons.SUITE}"


def find(program: str = "prometheus") -> Path:
    """`prometheus` or `promtool` of version 3. Raises servers.NoServer."""
    folder = _unpacked()
    if isinstance(folder, str):
        raise servers.NoServer(f"Prometheus 3 could not be fetched: {folder}")
    return folder / "usr" / "bin" / program


def needed(program: str = "prometheus") -> Path:
    """The same for a test, which is skipped without it, and with CI=true fails."""
    return servers.needed(lambda: find(program))


@functools.cache
def _unpacked() -> Path | str:
    """Where it lies, or why it does not: remembered, so that a machine without a network asks once."""
    sources = pythons._sources()
    if not (shutil.which("apt-get") and shutil.which("dpkg") and sources):
        return "this machine has no apt-get with Debian's packages"
    servers.CACHE.mkdir(parents=True, exist_ok=True)
    with (servers.CACHE / "lock").open("w") as lock:  # several test runs may share a checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        if FOLDER.exists():
            return FOLDER
        with tempfile.TemporaryDirectory(dir=servers.CACHE) as work:
            try:
                pythons.download(Path(work), sources, PACKAGES)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                return (error.stderr or b"").decode(errors="replace").strip() or str(error)
            (Path(work) / "unpacked").rename(FOLDER)
    return FOLDER
