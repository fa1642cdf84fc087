"""Results of queries as Prometheus writes them (web/api/v1/json_codec.go), in pieces of text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, cast

from sidecar.model import Labels
from sidecar.promql.context import Note
from sidecar.promql.notation import format_float
from sidecar.promql.tree import Expr, MatrixSelector, StringLiteral, Subquery, unwrap
from sidecar.promql.values import Matrix, Value, Vector
from sidecar.web.api import exponent_form

MAX_REMARKS = 10
SAMPLES_A_PIECE = 500

ResultType = Literal["scalar", "string", "vector", "matrix"]


def result_type(expr: Expr, value: Value) -> ResultType:
    """What kind of result this is; an empty list does not tell by itself."""
    if isinstance(value, float):
        return "scalar"
    if isinstance(value, str):
        return "string"
    return "matrix" if isinstance(unwrap(expr), MatrixSelector | Subquery) else "vector"


def unfit_for_range(expr: Expr) -> str:
    """Why an expression cannot be evaluated over a range; the empty string if it can."""
    inner = unwrap(expr)
    kind = "string" if isinstance(inner, StringLiteral) else \
        "range vector" if isinstance(inner, MatrixSelector | Subquery) else ""
    return kind and f'invalid expression type "{kind}" for range query, must be Scalar or instant Vector'


def success_pieces(kind: ResultType, value: Value, at: float, remarks: dict[str, list[str]]) -> Iterator[str]:
    """The whole envelope. `remarks` are `warnings` and `infos`; empty ones are left out.

    `resultType` comes before `result`, because Grafana reads the answer as it comes.
    """
    yield f'{{"status":"success","data":{{"resultType":"{kind}","result":'
    if kind == "vector":
        yield from _list(_element(point.labels, f'"value":{_pair(at, point.value)}') for point in cast(Vector, value))
    elif kind == "matrix":
        yield from _matrix(cast(Matrix, value))
    else:
        text = json.dumps(value) if isinstance(value, str) else f'"{sample_text(cast(float, value))}"'
        yield f"[{timestamp(at)},{text}]"
    said = {name: texts for name, texts in remarks.items() if texts}
    yield "}" + "".join(f',"{name}":{json.dumps(texts)}' for name, texts in said.items()) + "}"


def listed(elements: Iterable[str], warnings: Sequence[str] = ()) -> Iterator[str]:
    """The whole envelope around a list; each element is JSON already."""
    yield '{"status":"success","data":'
    yield from _list(elements)
    yield (f',"warnings":{json.dumps(list(warnings))}' if warnings else "") + "}"


def _matrix(matrix: Matrix) -> Iterator[str]:
    separator = "["
    for series in matrix:
        times, values = series.times, series.values
        yield f'{separator}{{"metric":{_metric(series.labels)},"values":['
        separator = ","
        for start in range(0, len(times), SAMPLES_A_PIECE):
            end = start + SAMPLES_A_PIECE
            pairs = ",".join(map(_pair, times[start:end], values[start:end]))
            yield f",{pairs}" if start else pairs
        yield "]}"
    yield "]" if matrix else "[]"


def _list(elements: Iterable[str]) -> Iterator[str]:
    separator = "["
    for element in elements:
        yield separator + element
        separator = ","
    yield "]" if separator == "," else "[]"


def _element(labels: Labels, value: str) -> str:
    return f'{{"metric":{_metric(labels)},{value}}}'


def _metric(labels: Labels) -> str:
    return json.dumps(dict(labels), separators=(",", ":"))


def _pair(at: float, value: float) -> str:
    return f'[{timestamp(at)},"{sample_text(value)}"]'


def timestamp(at: float) -> str:
    """Unix time in seconds: a whole number, or one with milliseconds."""
    milliseconds = round(at * 1000)
    seconds, rest = divmod(abs(milliseconds), 1000)
    return f"{'-' if milliseconds < 0 else ''}{seconds}{f'.{rest:03d}' if rest else ''}"


def sample_text(value: float) -> str:
    """A sample as text: digits, an exponent only below 1e-6 and from 1e21 on, `NaN`, `+Inf`, `-Inf`."""
    return format_float(value) if value == 0 or 1e-6 <= abs(value) < 1e21 else exponent_form(value)


def remarks(notes: Sequence[Note], query: str) -> dict[str, list[str]]:
    """`warnings` and `infos` of an envelope: ten of each, and how many more there are."""
    found: dict[str, list[str]] = {}
    for name, severity in (("warnings", "warning"), ("infos", "info")):
        texts = [note.render(query) for note in notes if note.severity == severity]
        more = len(texts) - MAX_REMARKS
        found[name] = texts[:MAX_REMARKS] + ([f"{more} more {severity} annotations omitted"] if more > 0 else [])
    return found
