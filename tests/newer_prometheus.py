"""Prometheus 3 of Debian's next release, unpacked beside the other servers, never installed: what the rules follow."""

from pathlib import Path

import pythons
import servers

PACKAGES = ("prometheus", "promtool")


def find(program: str = "prometheus") -> Path:
    """`prometheus` or `promtool` of version 3. Raises servers.NoServer."""
    folder = servers.unpacked(f"prometheus-{pythons.SUITE}", lambda work: pythons.download(work, PACKAGES))
    return folder / "usr" / "bin" / program


def needed(program: str = "prometheus") -> Path:
    """The same for a test, which is skipped without it, and with CI=true fails."""
    return servers.needed(lambda: find(program))
