"""What an evaluation remarks on, in Prometheus's words (util/annotations/annotations.go)."""

from sidecar.promql.context import Evaluation
from sidecar.promql.notation import format_general, quote
from sidecar.promql.notes import Fix, Note

_COUNTER_SUFFIXES = ("_total", "_sum", "_count", "_bucket")
_FIXED = ("input to histogram_quantile needed to be fixed for monotonicity "
          "(see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)")


def _of(name: str) -> str:
    return f" for metric name {quote(name)}" if name else ""


def remark_share(ev: Evaluation, share: float, position: int | None) -> None:
    """A quantile that is not between 0 and 1."""
    if not 0 <= share <= 1:
        ev.note("warning", f"quantile value should be between 0 and 1, got {format_general(share)}", position)


def remark_ratio(ev: Evaluation, ratio: float, position: int | None) -> None:
    """A ratio for `limit_ratio` beyond 1 or -1."""
    if abs(ratio) > 1:
        cap = "1" if ratio > 0 else "-1"
        what = f"ratio value should be between -1 and 1, got {format_general(ratio)}, capping to {cap}"
        ev.note("warning", what, position)


def remark_gauge(ev: Evaluation, name: str, position: int | None) -> None:
    """A metric taken for a counter that is not named like one."""
    if name and not name.endswith(_COUNTER_SUFFIXES):
        what = f"metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {quote(name)}"
        ev.note("info", what, position)


def remark_bucket(ev: Evaluation, name: str, bound: str, position: int | None) -> None:
    """An element that is no bucket of a classic histogram, because its `le` is no number."""
    what = f'bucket label "le" is missing or has a malformed value of {quote(bound)}{_of(name)}'
    ev.note("warning", what, position)


def remark_fix(ev: Evaluation, name: str, fix: Fix, position: int | None) -> None:
    """Buckets whose counts fell from one to the next. One remark for all histograms of a name and all steps."""
    if ev.notes is None:
        return
    note = Note("info", _FIXED + _of(name), position, fix)
    for index, known in enumerate(ev.notes):
        if known.fix and known[:3] == note[:3]:
            ev.notes[index] = known._replace(fix=known.fix.joined(fix))
            return
    ev.notes.append(note)
