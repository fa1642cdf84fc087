"""A Prometheus and an Alertmanager beside the sidecar: their configurations, and the rules."""

import shlex
from pathlib import Path
from typing import NamedTuple

from sidecar.init.kit import ADDRESS, Kit, fit
from sidecar.init.shipped import renamed, shipped

SIDECAR, ALERTMANAGER, WEBHOOK = "rag-sidecar:11611", "alertmanager:9093", "http://sink:8080/"
_THERE = "sidecar:11611"
_RULES = "/etc/prometheus/rules/"


class Beside(NamedTuple):
    """Where Prometheus finds the sidecar and Alertmanager (HOST:PORT), and what URL Alertmanager tells."""

    sidecar: str
    alertmanager: str
    webhook: str


def kit(beside: Beside, folder: Path) -> Kit:
    """prometheus.yml, alertmanager.yml and rules/. Raises SidecarError for what is no address."""
    fit(beside.sidecar, ADDRESS, "where the sidecar is", SIDECAR)
    fit(beside.alertmanager, ADDRESS, "where Alertmanager is", ALERTMANAGER)
    fit(beside.webhook, r"https?://[!#-\[\]-~]{1,1000}", "a URL", WEBHOOK)
    source = shipped("compose")
    prometheus = (source / "prometheus.yml").read_text(encoding="utf-8").replace(_RULES, "rules/")
    prometheus = renamed(renamed(prometheus, _THERE, beside.sidecar), ALERTMANAGER, beside.alertmanager)
    alerts = (source / "alertmanager.yml").read_text(encoding="utf-8")
    alerts = renamed(alerts.replace(WEBHOOK, beside.webhook), _THERE, beside.sidecar)
    rules = {folder / "rules" / path.name: path.read_text(encoding="utf-8")
             for path in sorted(shipped("rules").glob("*.yml"))}
    first, second = (shlex.quote(str(folder / name)) for name in ("prometheus.yml", "alertmanager.yml"))
    return Kit({folder / "prometheus.yml": prometheus, folder / "alertmanager.yml": alerts, **rules},
               (f"promtool check config {first}", f"amtool check-config {second}"))
