"""What the shipped rules cost, by number of targets: here, and in a Prometheus that scrapes the same series.

`python benchmarks/rules.py [SECONDS] [TARGETS…]` writes benchmarks/results/rules.json and rules.md, and prints a table.
Ours is evaluated in virtual time over a store with the history that the rules look at, a sample a second, as the tick
does it. Prometheus scrapes a page of the same series once a second for SECONDS (45), so its ranges are shorter than
ours; its durations are those that it tells of itself. Both evaluate the shipped rules.
"""

import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from fleet import Fleet  # noqa: E402
from machine import RESULTS, describe, save, sentence  # noqa: E402
from servers import RunningPrometheus, running_prometheus  # noqa: E402

from sidecar.pipeline_collector import LongPasses  # noqa: E402
from sidecar.pipeline_pace import HELD_SECONDS  # noqa: E402
from sidecar.promql.context import Options  # noqa: E402
from sidecar.rules.group import Group  # noqa: E402
from sidecar.rules.load import load, shipped  # noqa: E402
from sidecar.rules.source import MAX_SAMPLES, MAX_SECONDS, Bounded  # noqa: E402

SIZES = (1, 10, 100, 300, 1000)
NOW = 1.8e9
TICKS = 60
ALL_AT_ONCE = 7


class Ours:
    """The rules over a store of our own. Lives as long as one size is measured."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.store = fleet.store(NOW)
        self.groups = [Group(spec, default_interval_seconds=1.0, external_labels={}, external_url="http://s:1")
                       for spec in load(shipped())]
        self.source = Bounded(self.store.select, self.store.newest, Options(
            max_samples=MAX_SAMPLES, max_seconds=MAX_SECONDS, clock=time.monotonic))
        self.held = self.worked = 0.0

    def tick(self, at: float, *, all_at_once: bool = False) -> tuple[float, float]:
        """Seconds that the evaluations of one tick take, and seconds of processor time.

        `held` becomes the longest time between two pauses, `worked` the longest processor time.
        """
        self.store.append(self.fleet.samples(at))
        begun, begun_cpu = self._breathe(), time.thread_time()
        for group in self.groups:
            slot = at if all_at_once else group.due(at)
            for _ in group.steps(slot, self.source, self.store.append) if slot is not None else ():
                if time.perf_counter() - self._since > HELD_SECONDS:  # as the tick does it: here others would run
                    self._pause()
        self._pause()
        return time.perf_counter() - begun, time.thread_time() - begun_cpu

    def _breathe(self) -> float:
        self._since, self._since_cpu = time.perf_counter(), time.thread_time()
        return self._since

    def _pause(self) -> None:
        self.held = max(self.held, time.perf_counter() - self._since)
        self.worked = max(self.worked, time.thread_time() - self._since_cpu)
        self._breathe()

    def measured(self) -> dict[str, float]:
        """A minute of ticks a second apart, then all groups at once, some times."""
        for index in range(40):  # caches fill, alerts get through their `for`
            self.tick(NOW + 1 + index)
        self.held = self.worked = 0.0
        ticks = [self.tick(NOW + 41 + index) for index in range(TICKS)]
        together = [self.tick(NOW + 102 + index, all_at_once=True) for index in range(ALL_AT_ONCE)]
        bad = {rule.name: rule.last_error for group in self.groups for rule in group.rules if rule.health != "ok"}
        assert not bad, bad
        return {**figures("tick", ticks), **figures("all_groups_at_once", together),
                "longest_hold_ms": ms(self.held), "longest_hold_cpu_ms": ms(self.worked),
                "alerts_firing": sum(one.state == "firing" for group in self.groups for one in group.alerts())}


def figures(name: str, taken: list[tuple[float, float]]) -> dict[str, float]:
    """Mean, median and worst by the clock; the same of processor time, which other programs do not lengthen."""
    found = {}
    for kind, seconds in (("", [one for one, _ in taken]), ("_cpu", [cpu for _, cpu in taken])):
        found[f"{name}_mean{kind}_ms"] = ms(statistics.mean(seconds))
        found[f"{name}_p50{kind}_ms"] = ms(statistics.median(seconds))
        found[f"{name}_worst{kind}_ms"] = ms(max(seconds))
    return found


def ms(seconds: float) -> float:
    """Milliseconds, as they are shown."""
    return round(seconds * 1000, 2)


@contextmanager
def page(fleet: Fleet) -> Iterator[int]:
    """A server of the fleet's page; its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = fleet.page(time.time()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def by_prometheus(targets: int, over_lines: bool, seconds: float) -> dict[str, float]:
    """The durations that a Prometheus tells of its groups, read once a second in the second half of the time."""
    fleet = Fleet(targets, time.time() - 3600, over_lines=over_lines)
    with page(fleet) as port, tempfile.TemporaryDirectory() as folder:
        scraping = ("global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nscrape_configs:\n"
                    f"- {{job_name: rag-sidecar, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}")
        with running_prometheus(scraping, Path(folder), [Path(file) for file in shipped()]) as prometheus:
            threading.Event().wait(seconds / 2)
            looks = []
            for _ in range(int(seconds / 2)):
                looks.append(durations(prometheus))
                threading.Event().wait(1.0)
            firing = sum(alert["state"] == "firing" for alert in prometheus.alerts())
            scraped = prometheus.query("scrape_samples_scraped")["result"]
    groups = {name: statistics.median(look[name] for look in looks if name in look) for name in looks[-1]}
    intervals = {spec.name: spec.interval_seconds or 1.0 for spec in load(shipped())}
    return {"mean_ms": ms(sum(lasted / intervals[name] for name, lasted in groups.items())),
            "all_groups_at_once_p50_ms": ms(sum(groups.values())), "alerts_firing": firing,
            "series": int(float(scraped[0]["value"][1])) if scraped else 0}


def durations(prometheus: RunningPrometheus) -> dict[str, float]:
    """Group → seconds of its last evaluation."""
    found: dict[str, float] = {}
    for line in text(prometheus).splitlines():
        if line.startswith("prometheus_rule_group_last_duration_seconds{"):
            labels, _, value = line.rpartition(" ")
            found[labels.rpartition(";")[2].rstrip('"}')] = float(value)
    return found


def text(prometheus: RunningPrometheus) -> str:
    """Prometheus's own /metrics."""
    import urllib.request

    with urllib.request.urlopen(f"{prometheus.url}/metrics", timeout=10) as answer:
        found: str = answer.read().decode()
    return found


def measure(targets: int, over_lines: bool, seconds: float) -> dict[str, Any]:
    """One size, both sides."""
    gc.collect()
    gc.freeze()
    gc.callbacks[:] = [LongPasses(time.monotonic)]  # as the desk does
    ours = Ours(Fleet(targets, NOW - 3600, over_lines=over_lines))
    series = len(ours.fleet)
    found = ours.measured()
    del ours
    gc.unfreeze()
    peer = by_prometheus(targets, over_lines, seconds)
    return {"series": series, "load_average": round(os.getloadavg()[0], 1), "ours": found, "prometheus": peer,
            "ratio_mean": round(found["tick_mean_ms"] / peer["mean_ms"], 2),
            "ratio_all_at_once": round(found["all_groups_at_once_p50_ms"] / peer["all_groups_at_once_p50_ms"], 2)}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# The shipped rules, by number of targets", "",
        f"{sentence(result['machine'])}, Prometheus {result['prometheus_version']}. Milliseconds an evaluation; "
        "`python benchmarks/rules.py` makes this page.", "",
        "| targets | alerts firing | tick: mean | worst | all groups at once: p50 | worst | longest hold "
        "| Prometheus: mean | all at once | ratio of means | ratio at once | load |",
        "| ---: " * 12 + "|"]
    for name, row in result["sizes"].items():
        ours, peer = row["ours"], row["prometheus"]
        shown = [f"{ours[f'{key}_ms']} ({ours[f'{key}_cpu_ms']})" for key in (
            "tick_mean", "tick_worst", "all_groups_at_once_p50", "all_groups_at_once_worst", "longest_hold")]
        cells = [name.split()[0], ours["alerts_firing"], *shown, peer["mean_ms"], peer["all_groups_at_once_p50_ms"],
                 row["ratio_mean"], row["ratio_all_at_once"], row["load_average"] or "not noted"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "A tick evaluates the groups that are due: one every second, the others every 5, 15 and 30 s; the mean is that",
        "of all ticks of a minute. A hold is the time between two moments at which others may run. In brackets:",
        "processor time, which other programs on the machine hardly lengthen. Prometheus evaluates its groups side by",
        "side and has gathered less history; its mean is made of the durations it tells. Load is the machine's load",
        "average: more than its cores, and only the figures in brackets say much."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every size, save, print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 45.0
    sizes = tuple(map(int, sys.argv[2:])) or SIZES
    rows = {}
    for targets in sizes:
        for over_lines in (False, True):
            name = f"{targets} {'over three lines' if over_lines else 'quiet'}"
            rows[name] = measure(targets, over_lines, seconds)
            print(name, json.dumps(rows[name]), flush=True)
    result = {"machine": describe(), "prometheus_version": version(), "seconds": seconds, "sizes": rows}
    save("rules", result)
    (RESULTS / "rules.md").write_text(table(result))
    print(table(result))


def version() -> str:
    """The version of the Prometheus beside."""
    with tempfile.TemporaryDirectory() as folder, running_prometheus("global: {}", Path(folder)) as prometheus:
        found: str = prometheus.get("/api/v1/status/buildinfo")["data"]["version"]
    return found


if __name__ == "__main__":
    main()
