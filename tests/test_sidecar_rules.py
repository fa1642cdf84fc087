"""A whole sidecar with rules that explode: they are cut off, and nothing else suffers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Target, wait_until
from servers import free_port
from sidecars import Sidecar, config, running_sidecar

RULES = """
groups:
  - name: bad
    rules:
      - alert: TooManySamples
        expr: count_over_time(vector(1)[1y:1ms]) > 0
      - record: too:slow
        expr: sum_over_time(sum({__name__=~".+"})[1d:1s])
      - alert: TooSlowToTell
        expr: rag_target_up == 1
        annotations: {summary: '{{ query "sum_over_time(sum({__name__=~\\".+\\"})[1d:1s])" }}'}
      - alert: Beside
        expr: rag_target_up == 1
  - name: good
    rules:
      - alert: Elsewhere
        expr: vector(1)
"""


def rules(sidecar: Sidecar) -> dict[str, dict[str, Any]]:
    """Every rule by its name."""
    groups = json.loads(sidecar.get("/api/v1/rules"))["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def test_a_rule_that_explodes_takes_nothing_with_it(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The rules beside it fire, failures are counted and told with the limit that was met, and the ticks go on."""
    leaky, port = spawn("leaky"), free_port()
    file = tmp_path / "rules.yml"
    file.write_text(RULES)
    settings = config(port, tmp_path, [{"name": "t", "match": {"pid": leaky.pid}}], rules=[str(file)])
    with running_sidecar(tmp_path, file=settings, port=port) as sidecar:
        def failures() -> float:
            return sidecar.value("rag_sidecar_rule_evaluation_failures_total", 'group="bad"') or 0.0

        wait_until(lambda: {("Beside", "firing"), ("Elsewhere", "firing")} <= sidecar.alerts(), 30, "both to fire")
        wait_until(lambda: failures() >= 3, 30, "failures to be counted")
        ticks, failed = sidecar.value("rag_sidecar_ticks_total") or 0.0, failures()
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0.0) >= ticks + 3, 60, "more ticks")
        wait_until(lambda: failures() > failed, 30, "more failures")
        told = rules(sidecar)

        assert {name: rule["health"] for name, rule in told.items()} == {
            "TooManySamples": "err", "too:slow": "err", "TooSlowToTell": "err", "Beside": "ok", "Elsewhere": "ok"}
        assert "more than 5000000 samples" in told["TooManySamples"]["lastError"]
        assert "more than 1 s" in told["too:slow"]["lastError"]
        assert "more than 1 s" in told["TooSlowToTell"]["lastError"]
        assert sidecar.value("rag_sidecar_rule_evaluation_failures_total", 'group="good"') == 0
        assert sidecar.value("rag_sidecar_desk_starts_total") == 1
        assert (sidecar.value("rag_sidecar_rule_group_last_duration_seconds", 'group="bad"') or 0.0) > 0.0
        assert sidecar.value("rag_sidecar_rule_group_rules", 'group="bad"') == 4
        assert sidecar.stop() == 0


def test_long_passes_of_the_collector_do_not_come_again() -> None:
    """What has survived one that held the event loop is left out from then on, a few times at most; short ones pass."""
    script = """
import gc
from sidecar.pipeline_collector import MOST_FREEZES, LongPasses
clock = iter(range(10_000))
gc.callbacks.append(LongPasses(lambda: next(clock) * pace))
pace, counts = 0.001, []
gc.collect()
assert gc.get_freeze_count() == 0, "a millisecond"
pace = 1.0
gc.collect(1)
assert gc.get_freeze_count() == 0, "not a full pass"
for _ in range(MOST_FREEZES + 5):
    kept = [[] for _ in range(100)] + counts
    gc.collect()
    counts.append(gc.get_freeze_count())
    counts = [*counts]
print(counts[0] > 1000, len(set(counts)) <= MOST_FREEZES)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("True True\n", "")
