"""A target on the status page: its memory against its lines, its figures, and what can and cannot be seen of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sidecar.model import Sample, Sight
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps
from sidecar.web.markup import TONES, chip, moment, prose, seconds, size, text
from sidecar.web.view import Family, Snapshot, TargetStatus

QUIET = ("below_threshold", "target_down")
"""Reasons for doing nothing that the rest of the card has said."""
SIGHT = {
    "process": "its process",
    "anon": "memory by kind",
    "tree": "its child processes",
    "pss": "memory that processes share",
    "cgroup": "its cgroup and limits",
    "gc": "its garbage collector",
    "agent": "an agent in it",
    "endpoint": "its debug endpoint",
    "fd": "open files",
    "io": "bytes read and written",
    "limit": "a limit of its memory",
}
"""What there is to see of a target, by the names of `Sight`, in the order in which it is shown."""
HELP = {
    "agent": "`import sidecar.agent` and `start()` in the program adds one.",
    "limit": "Lines in bytes (`memory.main`, `memory.critical`) do without one.",
}
"""What to add to a reason, whatever it is."""
NOTHING = Sight((), {})
SHOWN = frozenset((
    "rag_target_info", "rag_process_resident_memory_bytes", "rag_memory_headroom_bytes", "rag_target_processes",
    "rag_process_threads", "rag_process_open_fds", "rag_python_info", "rag_python_gc_collections_total",
    "rag_python_gc_objects_collected_total", "rag_python_gc_tracked_objects", "rag_python_gc_pause_seconds_max",
    "rag_python_gc_enabled", "rag_agent_up", "rag_agent_info", "rag_malloc_releasable_bytes", "rag_cache_size_bytes",
    "rag_cache_entries", "rag_model_loaded", "rag_torch_reserved_bytes", "rag_requests_total",
))
"""The metrics whose figures a card has."""

Series = Mapping[str, Sequence[Sample]]
"""metric -> the samples of one target."""


def by_target(families: Iterable[Family]) -> Steps[dict[str, dict[str, list[Sample]]]]:
    """The samples of every target, of those metrics that its card shows."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for metric, samples in families:
        if metric.name in SHOWN:
            for number, sample in enumerate(samples, 1):
                found.setdefault(sample.labels.get("target", ""), {}).setdefault(metric.name, []).append(sample)
                if number % ELEMENTS_A_PIECE == 0:
                    yield
    return found


def target_card(target: TargetStatus, shown: Snapshot, series: Series, paused: Mapping[str, float | None],
                number: int) -> str:
    """The card of a target. The scripts put the chart and the buttons where `data-chart` and `data-orders` stand."""
    summary, sight = _sight(shown.sights.get(target.name, NOTHING), _pid(series))
    return (
        f'<article class="target" data-target="{text(target.name)}">'
        f'<div id="top-{number}" data-live>{_top(target, shown, paused)}</div>'
        f'<div data-chart></div><div data-orders></div>'
        f'<div id="figures-{number}" data-live>{_figures(series)}</div>'
        f'<details><summary id="sees-{number}" data-live>{text(summary)}</summary>'
        f'<div id="sight-{number}" data-live>{sight}</div></details></article>'
    )


def _top(target: TargetStatus, shown: Snapshot, paused: Mapping[str, float | None]) -> str:
    """Its name, its state, used bytes, also as a bar up to a little above the critical line, and what is decided."""
    used, main, critical = target.used_bytes, target.main_bytes, target.critical_bytes
    bar = lines = ""
    if main and critical:
        lines = f'<p class="dim">main {size(main)} · critical {size(critical)}{_limit(target, shown)}</p>'
        if target.until:
            lines += f'<p class="dim">These lines were set by the API, until {moment(target.until)}.</p>'
        if used is not None:
            bar = (f'<meter min="0" max="{1.1 * critical:.0f}" low="{0.8 * main:.0f}" high="{main:.0f}" optimum="0" '
                   f'value="{used:.0f}" aria-label="used memory"></meter>')
    mode = shown.modes[target.name].mode if target.name in shown.modes else ""
    chips = chip("up", "good") if target.up else chip("gone", "bad")
    chips += chip(mode, TONES.get(mode, "dim")) if mode else ""
    if target.name in paused:
        chips += chip("paused", "warn", more=" data-paused")
    if any(row.get("parked") and row.get("ended_at") is None for row in shown.incidents
           if row.get("target") == target.name):
        chips += chip("parked", "bad", more=" data-parked")
    calm = used is not None and main is not None and used < main
    return (f'<div class="top"><b>{text(target.name)}</b>{chips}<span class="right big">{size(used)}</span></div>'
            f"{bar}{lines}{_decided(target.name, shown, paused, calm)}")


def _limit(target: TargetStatus, shown: Snapshot) -> str:
    limit = shown.modes[target.name].limit_bytes if target.name in shown.modes else None
    return f" · limit {size(limit)}" if limit else ""


def _decided(name: str, shown: Snapshot, paused: Mapping[str, float | None], calm: bool) -> str:
    """Why nothing is done, where that is so. Of a target that is `calm`, the guard's standing orders are no news."""
    quiet = (*QUIET, "standing_order") if calm else QUIET
    told = [row for row in shown.decisions if row.get("target") == name and row.get("reason") not in quiet]
    said = [prose(row.get("message", "")) for row in told]
    said += [f"The rest lasts until {moment(row['until'])}." for row in told if row.get("until")]
    if until := paused.get(name):
        said.append(f"Paused until {moment(until)}.")
    return "".join(f"<p>{sentence}</p>" for sentence in said)


def _sight(sight: Sight, pid: str) -> tuple[str, str]:
    """What can be seen and what cannot, as one line, and with each reason as HTML."""
    there = [name for name in SIGHT if name in sight.sought and name not in sight.missing]
    missing = [name for name in SIGHT if name in sight.missing]
    sees = f"Sees {len(there)} of {len(there) + len(missing)}" if there or missing else "Sees nothing yet"
    lacking = f" · cannot see: {_words(SIGHT[name] for name in missing)}" if missing else ""
    lists = "".join(f'<li class="no"><b>{text(SIGHT[name])}</b><br>{_reason(name, sight.missing[name])}</li>'
                    for name in missing)
    lists += "".join(f'<li class="yes">{text(SIGHT[name])}</li>' for name in there)
    hint = (f'<p class="dim">What would help: <code>rag-sidecar doctor{pid}</code></p>' if missing and pid else "")
    return sees + lacking, f'<ul class="sight">{lists}</ul>{hint}'


def _reason(name: str, why: str) -> str:
    """A sentence, and what to do where that is always the same."""
    return f"{text(why[:1].upper() + why[1:])}. {prose(HELP.get(name, ''))}".rstrip()


def _pid(series: Series) -> str:
    return next((f" --pid {text(sample.labels.get('pid', ''))}" for sample in series.get("rag_target_info", ())), "")


def _figures(series: Series) -> str:
    """Groups of figures; one that nothing is known of is left out."""
    groups = {"Process": _process(series), "Garbage collector": _collector(series), "Agent": _agent(series)}
    shown = []
    for title, pairs in groups.items():
        rows = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs if value)
        shown.append(f"<section><h3>{title}</h3><dl>{rows}</dl></section>" if rows else "")
    return f'<div class="figures">{"".join(shown)}</div>'


def _process(series: Series) -> Iterator[tuple[str, str]]:
    yield "resident", _sum(series, "rag_process_resident_memory_bytes", size)
    headroom = [each.value for each in series.get("rag_memory_headroom_bytes", ())]
    yield "headroom", size(min(headroom)) if headroom else ""
    yield "processes", _sum(series, "rag_target_processes")
    yield "threads", _sum(series, "rag_process_threads")
    yield "open files", _sum(series, "rag_process_open_fds")


def _collector(series: Series) -> Iterator[tuple[str, str]]:
    """Of all its processes together; collections by generation, the youngest first."""
    versions = sorted({each.labels.get("version", "") for each in series.get("rag_python_info", ())} - {""})
    yield "Python", text(_words(versions[:3]))
    by_generation: dict[str, float] = {}
    for each in series.get("rag_python_gc_collections_total", ()):
        generation = each.labels.get("generation", "")
        by_generation[generation] = by_generation.get(generation, 0.0) + each.value
    yield "collections", " / ".join(_count(value) for _, value in sorted(by_generation.items()))
    yield "objects freed", _sum(series, "rag_python_gc_objects_collected_total")
    yield "tracked objects", _sum(series, "rag_python_gc_tracked_objects")
    pauses = [each.value for each in series.get("rag_python_gc_pause_seconds_max", ())]
    yield "longest pause", seconds(max(pauses)) if pauses else ""
    enabled = [each.value for each in series.get("rag_python_gc_enabled", ())]
    yield "automatic", "" if not enabled or all(enabled) else chip("off", "warn")


def _agent(series: Series) -> Iterator[tuple[str, str]]:
    up = [each.value for each in series.get("rag_agent_up", ())]
    if not up:
        return
    yield "answers", text(f"{sum(up):.0f} of {len(up)}") if len(up) > 1 else ("yes" if up[0] else chip("no", "warn"))
    info = next(iter(series.get("rag_agent_info", ())), None)
    yield "version", text(info.labels.get("version", "")) if info else ""
    yield "allocator", text(info.labels.get("allocator", "")) if info else ""
    yield "malloc can return", _sum(series, "rag_malloc_releasable_bytes", size)
    yield "caches", _sum(series, "rag_cache_size_bytes", size) or _sum(series, "rag_cache_entries")
    yield "models loaded", _sum(series, "rag_model_loaded")
    yield "torch holds", _sum(series, "rag_torch_reserved_bytes", size)
    yield "requests", _sum(series, "rag_requests_total")


def _sum(series: Series, metric: str, shown: Callable[[float], str] | None = None) -> str:
    """Of all series of a metric; nothing where there are none."""
    values = [each.value for each in series.get(metric, ())]
    return (shown or _count)(sum(values)) if values else ""


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _words(names: Iterable[str]) -> str:
    return ", ".join(names)
