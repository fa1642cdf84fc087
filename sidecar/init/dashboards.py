"""The dashboards for a Grafana, and what has it load them: they ask a Prometheus, or the sidecar itself."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from sidecar.init.kit import ADDRESS, Kit, fit
from sidecar.init.shipped import renamed, shipped

SIDECAR, PROMETHEUS = "localhost:11611", "localhost:9090"
_THERE = ("sidecar:11611", "prometheus:9090")
_ALLOWED = re.compile(r" The sidecar needs `web: {hosts: \[sidecar\]}` for this name\.")


class Sources(NamedTuple):
    """Where Grafana finds the two, HOST:PORT."""

    sidecar: str
    prometheus: str


def kit(sources: Sources, folder: Path) -> Kit:
    """The dashboards, and provisioning/ beside them. Raises SidecarError for what is no address."""
    fit(sources.sidecar, ADDRESS, "where the sidecar is", SIDECAR)
    fit(sources.prometheus, ADDRESS, "where Prometheus is", PROMETHEUS)
    source = shipped("dashboards")
    files = {folder / path.name: path.read_text(encoding="utf-8") for path in sorted(source.glob("*.json"))}
    for path in sorted(source.glob("provisioning/*/*.yml")):
        text = _ALLOWED.sub(_allowed(sources.sidecar.rpartition(":")[0]), path.read_text(encoding="utf-8"))
        files[folder / path.relative_to(source)] = renamed(
            renamed(text, _THERE[0], sources.sidecar), _THERE[1], sources.prometheus)
    place, provisioning = shlex.quote(str(folder)), shlex.quote(str(folder / "provisioning"))
    return Kit(files, (f"sudo cp -r {provisioning} /etc/grafana/ && sudo mkdir -p /var/lib/grafana/dashboards",
                       f"sudo cp {place}/*.json /var/lib/grafana/dashboards/ && sudo systemctl restart grafana-server"))


def _allowed(host: str) -> str:
    """What a sidecar is to be told so that it answers to this name: addresses and localhost it always answers to."""
    if host == "localhost" or re.fullmatch(r"[\d.]+", host):
        return ""
    return f" The sidecar needs `web: {{hosts: [{host}]}}` for this name."
