"""Big answers are made in pieces: others have the event loop in between, whatever is asked for."""

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import aiohttp
import pytest

from sidecar.model import Alert, Labels, Metric, Sample, Sight
from sidecar.promql.context import Options
from sidecar.promql.steps import ELEMENTS_A_PIECE
from sidecar.store import Store
from sidecar.web import query, scrape
from sidecar.web.passes import NEVER, FullPasses
from sidecar.web.server import build, serving
from sidecar.web.view import Family, Snapshot, Sources, TargetStatus, View

AT = 1_700_000_000.0
TARGETS = 2000
METRICS = [Metric(f"rag_figure_{number}_bytes", "gauge", "A figure.") for number in range(3)]
ALL = '{__name__!=""}'
PIECES = len(METRICS) * TARGETS // ELEMENTS_A_PIECE


def fleet() -> list[Family]:
    """Many targets, of each some figures."""
    return [Family(metric, [Sample(Labels({"__name__": metric.name, "target": f"t{number}"}), float(number), AT)
                            for number in range(TARGETS)]) for metric in METRICS]


def alert(number: int) -> Alert:
    """One that fires."""
    labels = Labels({"alertname": "A", "target": f"t{number}"})
    return Alert(labels, {}, "firing", True, 1.0, AT, AT, None, None, AT, 1.0, "")


@asynccontextmanager
async def served(breaths: list[None]) -> AsyncIterator[str]:
    """A server of the fleet; every breath is counted. Yields its URL."""
    families, store = fleet(), Store(1 << 30)
    store.append([sample for family in families for sample in family.samples])
    names = [f"t{number}" for number in range(TARGETS)]
    view = View(Snapshot(1, "", families, [TargetStatus(name, True) for name in names],
                         [alert(number) for number in range(TARGETS)],
                         sights={name: Sight(("gc",), {}) for name in names}))

    async def breathe() -> None:
        breaths.append(None)
        await asyncio.sleep(0)

    view.sources = Sources(store.select, [], lambda: AT, lambda: 0.0, breathe, Options(), newest=store.newest)
    async with serving(build(view), ["127.0.0.1:0"]) as urls:
        yield urls[0]


async def breaths_of(paths: Sequence[str]) -> list[tuple[int, str]]:
    """(breaths, answer) of each path, asked one after the other."""
    breaths: list[None] = []
    found = []
    async with served(breaths) as url, aiohttp.ClientSession() as session:
        for path in paths:
            breaths.clear()
            async with session.get(url + path) as answer:
                text = await answer.text()
                assert answer.status == 200, text
            found.append((len(breaths), text))
    return found


@pytest.mark.parametrize("expression", [
    ALL, f'-label_join({ALL}, "name", "", "__name__")', f"{ALL} > 1", f"{ALL} and {ALL}", f"{ALL} or {ALL}",
    f"{ALL}[1m]", f"sum({ALL})",
    f"sum by (target, __name__) ({ALL})", f'count_values("value", {ALL})', f"sort({ALL})",
    f'abs(label_join({ALL}, "name", "", "__name__"))', f'label_join({ALL}, "name", "", "__name__") * 2',
    f'timestamp(label_join({ALL}, "name", "", "__name__"))',
])
def test_queries_over_everything_let_others_run(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done with all series at once, the event loop turns at least once for each few hundred of them."""
    monkeypatch.setattr(query, "HOLD_SECONDS", -1.0)
    [(breaths, _)] = asyncio.run(breaths_of([f"/api/v1/query?{urlencode({'query': expression})}"]))

    assert breaths >= PIECES


def test_ranges_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range is loaded, evaluated, ordered and written in pieces; nothing of it is lost."""
    monkeypatch.setattr(query, "HOLD_SECONDS", -1.0)
    path = f"/api/v1/query_range?{urlencode({'query': ALL, 'start': AT, 'end': AT + 2, 'step': 1})}"
    [(breaths, text)] = asyncio.run(breaths_of([path]))

    assert breaths >= 6 * PIECES
    assert text.count('"metric"') == len(METRICS) * TARGETS


def test_no_full_pass_of_the_collector_interrupts_an_answer() -> None:
    """However much a query makes, the collector goes through all of it only when it is answered, if at all."""
    async def passes_of(query: str) -> int:
        passes: list[str] = []

        def seen(phase: str, about: Mapping[str, int]) -> None:
            if about["generation"] == 2:
                passes.append(phase)

        async with served([]) as url, aiohttp.ClientSession() as session:
            gc.collect()
            gc.freeze()  # what little is left is gone through again and again
            gc.callbacks.append(seen)
            try:
                async with session.get(f"{url}/api/v1/query_range?{query}") as answer:
                    assert (await answer.read()).count(b'"metric"') == len(METRICS) * TARGETS
                return len(passes)
            finally:
                gc.callbacks.remove(seen)
                gc.unfreeze()

    thresholds = gc.get_threshold()
    assert asyncio.run(passes_of(urlencode({"query": ALL, "start": AT, "end": AT + 100, "step": 1}))) == 0
    assert gc.get_threshold() == thresholds


def test_who_postpones_passes_beside_another_takes_nothing_from_it() -> None:
    """Two servers answer at once, and end in any order: passes are back when both have ended."""
    usual, full = gc.get_threshold(), FullPasses()
    first, second = full.postponed(), full.postponed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[2] == NEVER
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual


def test_pages_of_targets_are_found_once_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape of each target goes through the fleet's figures once, in pieces, and not once for each target."""
    monkeypatch.setattr(scrape, "STANDARD", {METRICS[1].name: "figure_bytes"})
    (first, one), (again, same), (other, two) = asyncio.run(breaths_of(
        [f"/metrics/target/t{number}" for number in (1, 1, 1999)]))

    assert first >= TARGETS // ELEMENTS_A_PIECE
    assert max(again, other) <= 1  # of a page that is small
    assert one == same
    assert [text.splitlines()[-1] for text in (one, two)] == ["figure_bytes 1.0", "figure_bytes 1999.0"]


def test_pages_of_a_fleet_let_others_run() -> None:
    """The page for Prometheus and the page for people are made in pieces; of one tick the first is made once."""
    (metrics, text), (again, same), (page, seen) = asyncio.run(breaths_of(["/metrics", "/metrics", "/"]))

    assert metrics >= 2 * PIECES
    assert text.count("\nrag_figure_") == len(METRICS) * TARGETS
    assert text.count("# TYPE rag_figure_") == len(METRICS)
    assert (again, same) == (0, text)
    assert page >= TARGETS
    assert seen.count('class="target"') == TARGETS
