"""A real Prometheus beside us: the same rules over the same series give the same alerts, told in the same words."""

import contextlib
import itertools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import newer_prometheus
import pytest
import servers
from conftest import read_line
from replay import Replay, Rows, alike, all_written, between, rows, stored, written
from servers import AlertRecorder, RunningPrometheus, free_port, running_prometheus, wait_until
from sidecars import config as sidecar_config
from sidecars import running_sidecar

from sidecar.promql.xxhash64 import labels_hash, xxhash64
from sidecar.rules.load import load

FOLDER = Path(__file__).parent / "differential"
TARGET = Path(__file__).parent / "targets" / "endpoint.py"
EXTERNAL = {"site": "here <&> there", "replica": "1"}
EXTERNAL_URL = "http://there:1/prefix"
RESEND_SECONDS = 5.0
OFFSETS = {"late": 2.0}
"""Group → its query_offset."""

BEAT = 'beat{svc="a b"} 1'
ODD = ('odd{svc="x \\"y\\" \\\\ é 𝄞"} 1', 'odd{svc="one\\ntwo"} 0.25', 'odd{svc="{{ .Value }}"} 2',
       'odd{svc="x"} 3', "odd{svc=\"<&>'\"} 0.5")
GARBAGE = "this is no page of samples\n"


def page(step: int, *lines: str, count: float = 0.0, line: float = 50.0, **mem: float) -> str:
    """One page: memory by instance, a counter, a line to compare with, and whatever else."""
    services = {"a": "a b", "b": "<&> ü", "c": "x", "d": "{{ $value }}"}
    found = [f'mem{{inst="{inst}",svc="{services[inst]}"}} {value}' for inst, value in mem.items()]
    return "\n".join([f"step {step}", f"count_total {count}", f"line {line}", *found, *lines]) + "\n"


STEPS: tuple[tuple[int, str], ...] = (  # for how many evaluations at least a page stands; two or three go by besides
    (6, page(1, BEAT, *ODD, a=10, b=20, c=30)),
    (1, page(2, BEAT, *ODD, a=95.5, b=20, c=30, count=5)),  # shorter than the hold
    (3, page(3, BEAT, *ODD, a=10, b=20, c=30, count=40)),
    (7, page(4, BEAT, *ODD, a=95.5, b=20, c=30, count=70)),
    (4, page(5, BEAT, *ODD[:3], a=96, b=92.25, c=30, count=90)),  # the second comes later
    (3, page(6, BEAT, *ODD[:3], a=96, b=92.25, c=1e9, count=91)),  # too many, and two that become one
    (3, page(7, BEAT, *ODD, a=96, b=91, count=2)),  # one vanishes, the counter starts anew
    (3, page(8, *ODD, a=10, b=91, line=95)),  # the beat is gone; shorter than what is steadied
    (3, page(9, BEAT, a=97, b=20, d=90.0000001, count=3)),
    (9, page(10, BEAT, *ODD, a=1, b=2, c=3, d=4, count=4)),  # everything ends
)
AFTER_RELOAD: tuple[tuple[int, str], ...] = (
    (4, page(11, *ODD, a=93, b=2, c=3, count=40)),
    (3, page(12, BEAT, *ODD, a=2, b=2, c=3, count=44)),
)
SECONDS_BETWEEN_GROUPS = 0.1
APART_SECONDS = 3.5
"""The series that Prometheus judges have come through the sidecar: two looks and a scrape lie between."""


@dataclass
class Told:
    """What one Prometheus did: what it stored, what its range query from `start` to `end` shows, what it posted.

    `start` is when it had got going: it begins with two evaluations that write no ALERTS, in order to restore alerts
    from those that it wrote before, and needs seconds to find its Alertmanagers.
    """

    version: int
    stored: Rows
    start: float
    end: float
    visible: Rows
    posted: list[dict[str, Any]]


@dataclass
class Played:
    """Everything that happened. Then rules were reloaded: what Prometheus had to post meanwhile was lost there."""

    files: dict[str, list[Path]]
    told: dict[int, Told]
    sidecar: list[dict[str, Any]]
    reloaded_at: float


def programs() -> dict[int, Path]:
    """Every Prometheus that can be had, by its major version. Skips where there is none; in CI both must be there."""
    found = {2: servers.prometheus()}
    try:
        found[3] = newer_prometheus.find()
    except servers.NoServer:
        if servers.must_have():
            raise
    return found


def prometheus_config(sidecar_port: int, page_url: str, recorder: AlertRecorder) -> str:
    """Scrapes the sidecar, whose series get the labels that the sidecar itself gives them, and the page."""
    parts = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s",
                   "external_labels": EXTERNAL},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [recorder.url.removeprefix("http://")]}]}]},
        "scrape_configs": [
            {"job_name": "script", "static_configs": [{"targets": [f"127.0.0.1:{sidecar_port}"]}],
             "relabel_configs": [{"target_label": "instance", "replacement": "here:1"}],
             "metric_relabel_configs": [
                 {"source_labels": ["__name__"], "regex": "rag_endpoint_sample", "action": "keep"}]},
            {"job_name": "odd", "static_configs": [{"targets": [page_url.removeprefix("http://")]}],
             "metrics_path": "/memory"},
        ],
    }
    return "\n".join(f"{name}: {json.dumps(part)}" for name, part in parts.items())


@contextlib.contextmanager
def page_server() -> Iterator[str]:
    """The program whose page is what was last posted to it; its URL."""
    process = subprocess.Popen([sys.executable, str(TARGET)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{read_line(process, 'ready').removeprefix('ready http=')}"
    finally:
        servers.end(process)


def show(url: str, text: str) -> None:
    """Have the page server serve this page from now on."""
    request = urllib.request.Request(f"{url}/memory", text.encode(), {"Content-Type": "text/plain; version=0.0.4"})
    urllib.request.urlopen(request, timeout=10).close()


def stood(prometheus: RunningPrometheus, series: str, value: float) -> int:
    """For how many samples a series has had this value without a break."""
    found = rows(prometheus.query(f"{series}[1m]")["result"])
    points = [point for points in found.values() for _, point in points][::-1]
    return len(list(itertools.takewhile(lambda point: point == value, points)))


def play(running: Sequence[RunningPrometheus], url: str, steps: Sequence[tuple[int, str]]) -> None:
    """Show one page after the other, each until every Prometheus has judged it as often as the step says."""
    for evaluations, text in steps:
        show(url, text)
        number = float(text.split()[1])
        for prometheus in running:
            wait_until(lambda p=prometheus, n=number, e=evaluations: stood(p, "lab:step", n) >= e, 60, f"step {number}")


def second_edition(shared: Path) -> str:
    """The rules after a reload: a group with one rule less, a changed one, and a new one."""
    text = shared.read_text()
    text = "".join(line.replace('"1"', '"2"') if "EDITION" in line else line for line in text.splitlines(True))
    begin, end = text.index("      - alert: Peak"), text.index("      - alert: OverLine")
    added = "      - alert: Added\n        expr: lab:mem:max > 90\n"
    text = text[:begin] + added + text[end:]
    return text.replace("keep_firing_for: 4s", "keep_firing_for: 2s").replace("of the rule", "of the second edition")


def phases(groups: Mapping[str, Sequence[str]], folder: Path, version: int) -> list[float]:
    """When in a second the groups of these files are evaluated, in ascending order.

    Prometheus derives it from the names of group and file (rules/group.go), hashed in another form before 3.0.
    """
    found = []
    for file, name in ((str(folder / file), name) for file, names in groups.items() for name in names):
        hashed = labels_hash({"file": file, "name": name}) if version > 2 else xxhash64(
            b"\xff".join((b"file", file.encode(), b"name", name.encode(), b"")))
        found.append(hashed % 1_000_000_000 / 1e9)
    return sorted(found)


def far_apart(tmp: Path, groups: Mapping[str, Sequence[str]], versions: Collection[int]) -> Path:
    """A folder for the rule files with which no two groups are evaluated close to each other.

    Prometheus evaluates groups side by side: what one reads of the other would otherwise be a matter of luck.
    """
    for number in range(100_000):
        moments = [phases(groups, tmp / str(number), version) for version in versions]
        if all(late - early > SECONDS_BETWEEN_GROUPS for one in moments
               for early, late in itertools.pairwise([*one, one[0] + 1.0])):
            (tmp / str(number)).mkdir()
            return tmp / str(number)
    raise AssertionError("no such folder")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The script, played once to every Prometheus that can be had and to a sidecar."""
    tmp, found = tmp_path_factory.mktemp("played"), programs()
    texts = {name: (FOLDER / name).read_text() for name in ("shared.yml", "exact.yml", "newer.yml")}
    folder = far_apart(tmp, {name: [group.name for group in load([FOLDER / name])] for name in texts}, found)
    for name, text in texts.items():
        (folder / name).write_text(text)
    shared, *others = (folder / name for name in texts)
    first, second = tmp / "first.yml", tmp / "second.yml"
    first.write_text(texts["shared.yml"])
    second.write_text(second_edition(shared))
    with contextlib.ExitStack() as stack:
        url, port = stack.enter_context(page_server()), free_port()
        show(url, page(0))
        at_sidecar = stack.enter_context(AlertRecorder())
        stack.enter_context(running_sidecar(tmp, port=port, file=sidecar_config(
            port, tmp / "state", [{"name": "script", "match": {"url": f"{url}/memory"}, "endpoint": {"every": "1s"}}],
            rules=[str(first)], job="script", instance="here:1", alertmanagers=[at_sidecar.url],
            external_labels=EXTERNAL)))
        running: dict[int, tuple[RunningPrometheus, AlertRecorder]] = {}
        for version, program in found.items():
            recorder = stack.enter_context(AlertRecorder())
            flags = [f"--web.external-url={EXTERNAL_URL}", "--web.route-prefix=/",
                     f"--rules.alert.resend-delay={RESEND_SECONDS:g}s"]
            running[version] = stack.enter_context(running_prometheus(
                prometheus_config(port, url, recorder), tmp, [shared, *others[:version - 1]], flags, program)), recorder
        everyone = [prometheus for prometheus, _ in running.values()]
        play(everyone, url, STEPS)
        show(url, GARBAGE)
        for prometheus in everyone:
            wait_until(lambda p=prometheus: stood(p, 'up{job="odd"}', 0.0) >= 3, 60, "the scrape to fail")
        reloaded_at = time.time()
        shared.write_text(second.read_text())
        for prometheus in everyone:
            assert prometheus.get("/api/v1/status/config")["status"] == "success"
            prometheus.post("/-/reload")
        play(everyone, url, AFTER_RELOAD)
        told = {version: tell(version, *one) for version, one in running.items()}
        yield Played({"1": [first, *others], "2": [second]}, told, at_sidecar.alerts(), reloaded_at)


def tell(version: int, prometheus: RunningPrometheus, recorder: AlertRecorder) -> Told:
    """Read back what a Prometheus has done so far."""
    at = time.time()
    found = stored(prometheus, at)
    slots = [when for when, _ in next(points for labels, points in found.items()
                                      if labels.metric == "lab:seen" and labels["group"] == "few")]
    start = next(when for points in (found[labels] for labels in found if labels.metric == "lab:step")
                 for when, value in points if value == 1.0)
    start += (slots[0] - start) % 1 + 3
    end = slots[-1] - 4  # an evaluation every 2 s, with an offset of 2 s, has been complete until then
    answer = prometheus.get("/api/v1/query_range", query='{__name__!=""}', start=start, end=end, step=1)
    stood_before = stood(prometheus, "lab:step", 12.0)
    wait_until(lambda: stood(prometheus, "lab:step", 12.0) >= stood_before + 2, 60, "two more evaluations")
    return Told(version, found, start, end, rows(answer["data"]["result"]), recorder.alerts())


@pytest.fixture(params=[2, 3])
def told(request: pytest.FixtureRequest, played: Played) -> Told:
    """One of the Prometheuses."""
    if request.param not in played.told:
        pytest.skip("Prometheus 3 cannot be had here")
    return played.told[request.param]


@pytest.fixture
def replayed(told: Told, played: Played) -> Replay:
    """Our groups over what it stored."""
    specs = {edition: {spec.name: spec for spec in load(files)} for edition, files in played.files.items()}
    replay = Replay(specs, OFFSETS, EXTERNAL, EXTERNAL_URL, RESEND_SECONDS, includes_start=told.version == 2)
    assert replay.run(told.stored) > 100
    return replay


def differences(theirs: Rows, ours: Rows) -> list[str]:
    """Where two sets of series differ, in words."""
    found = [f"only there: {labels}" for labels in theirs if labels not in ours]
    found += [f"only here: {labels}" for labels in ours if labels not in theirs]
    for labels in theirs.keys() & ours.keys():
        there, here = dict(theirs[labels]), dict(ours[labels])
        found += [f"{labels} at {at}: there {there.get(at)}, here {here.get(at)}"
                  for at in sorted(there.keys() | here.keys())
                  if at not in there or at not in here or not alike(there[at], here[at])]
    return found


def test_what_rules_write_is_what_prometheus_stored(told: Told, replayed: Replay) -> None:
    """Over the same samples, at the same moments, every recorded series and every ALERTS series is the same."""
    found = differences(between(written(told.stored), told.start, told.end),
                        between(all_written(replayed.store), told.start, told.end))

    assert not found, "\n" + "\n".join(found[:40])


def test_series_end_when_they_end_in_prometheus(told: Told, replayed: Replay) -> None:
    """A range query shows the same at every step: what rules no longer give is stale at once, here and there."""
    found = differences(told.visible, replayed.visible('{__name__!=""}', told.start, told.end))

    assert not found, "\n" + "\n".join(found[:40])


def in_order(alerts: Sequence[dict[str, Any]]) -> list[str]:
    """Alerts as text. Those of one rule at one moment come in no order from Prometheus."""
    return [text for _, run in itertools.groupby(alerts, lambda alert: alert["labels"]["alertname"])
            for text in sorted(json.dumps(alert, sort_keys=True) for alert in run)]


def test_alertmanager_is_told_the_same_in_the_same_words(told: Told, replayed: Replay, played: Played) -> None:
    """Every alert that Prometheus posted, each field to the letter, in this order: first news, resends, ends.

    The order is that of each group: on a busy machine the posts of two groups overtake each other.
    """
    ours = [alert for at, alert in replayed.posted if at < played.reloaded_at and fired_at(alert) > told.start]
    theirs = [{"annotations": {}, **alert} for alert in told.posted if fired_at(alert) > told.start]
    groups = {rule.name: group.name for files in played.files.values() for group in load(files) for rule in group.rules}

    assert len(theirs) >= len(ours) > 100
    for group in sorted(set(groups.values())):
        here, there = ([alert for alert in alerts if groups[alert["labels"]["alertname"]] == group]
                       for alerts in (ours, theirs))
        texts = in_order(there[:len(here)])
        if told.version == 2:  # its values were never histograms
            texts = [text.replace("Value float64", "Value interface {}") for text in texts]
        assert in_order(here) == texts, group


def fired_at(alert: dict[str, Any]) -> float:
    """When a posted alert began to fire."""
    return datetime.fromisoformat(alert["startsAt"]).timestamp()


def episodes(alerts: Sequence[dict[str, Any]], start: float, end: float) -> dict[str, list[dict[str, Any]]]:
    """What was told for the first time of each firing between two moments, by its labels."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for alert in alerts:
        if start < fired_at(alert) < end:
            labels = json.dumps(alert["labels"], sort_keys=True)
            found.setdefault(labels, {}).setdefault(alert["startsAt"], alert)
    return {labels: list(told.values()) for labels, told in found.items()}


def test_sidecar_tells_what_prometheus_tells(played: Played) -> None:
    """Side by side, live: every firing is told by both, in the same words, at the same time but for the way between."""
    told = played.told[max(played.told)]
    shared = {rule.name for group in load(played.files["1"][:1]) for rule in group.rules}
    posted = [alert for alert in told.posted if alert["labels"]["alertname"] in shared]
    theirs = episodes(posted, told.start, played.reloaded_at)
    ours = episodes(played.sidecar, told.start, played.reloaded_at)

    assert len(theirs) > 15
    assert {labels: len(found) for labels, found in ours.items()} == \
        {labels: len(found) for labels, found in theirs.items()}
    for labels, found in ours.items():
        for here, there in zip(found, theirs[labels], strict=True):
            assert here.get("annotations") == there.get("annotations", {})
            assert abs(fired_at(here) - fired_at(there)) < APART_SECONDS
            assert here["generatorURL"].partition("/graph?")[2] == there["generatorURL"].partition("/graph?")[2]
