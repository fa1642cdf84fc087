"""Who to tell: every Alertmanager gets every alert, from a queue and a loop of its own."""

from sidecar.notify.alertmanager import METRICS, Notifier

__all__ = ["METRICS", "Notifier"]
