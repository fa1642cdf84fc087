"""What a request asks with: its query string and its form, and the texts in them as times, durations and numbers.

Wording and limits are those of Prometheus's web/api/v1/api.go, so that clients understand what they did wrong.
"""

import asyncio
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from sidecar.promql.notation import quote
from sidecar.rules.durations import parse_duration
from sidecar.web.admission import FORM
from sidecar.web.api import ApiError

MAX_FIELDS = 1000
FORM_SECONDS = 10.0
"""For how long a form may come in."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LARGEST_SECONDS = (2**63 - 1) / 1e9
_FAREST_SECONDS = (2**63 - 1) / 1e3

T = TypeVar("T")


class Parameters:
    """The parameters of one request. Those of the form go before those of the query string; unknown ones are idle."""

    def __init__(self, form: list[tuple[str, str]], query: list[tuple[str, str]]) -> None:
        self._given: dict[str, list[str]] = {}
        for name, value in [*form, *query]:
            self._given.setdefault(name, []).append(value)

    def first(self, name: str) -> str:
        """The first value, or the empty string."""
        return self._given.get(name, [""])[0]

    def every(self, name: str) -> list[str]:
        """All values."""
        return self._given.get(name, [])

    def read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The first value as `parse` understands it, or `default` where there is none. Raises ApiError."""
        text = self.first(name)
        return default if text == "" else self.must(name, parse)

    def must(self, name: str, parse: Callable[[str], T]) -> T:
        """The first value as `parse` understands it, which gets the empty string where there is none."""
        try:
            return parse(self.first(name))
        except ValueError as error:
            raise invalid(name, str(error)) from None


def invalid(name: str, reason: str) -> ApiError:
    """The error for a parameter that cannot be used."""
    return ApiError("bad_data", f"invalid parameter {quote(name)}: {reason}")


async def parameters(request: web.Request) -> Parameters:
    """The parameters of a request. Raises ApiError for a form that has too many fields, or that does not come."""
    form: list[tuple[str, str]] = []
    if request.content_type == FORM:
        try:
            async with asyncio.timeout(FORM_SECONDS):
                body = (await request.read()).decode("utf-8", "replace")
            form = parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except TimeoutError:
            raise ApiError("timeout", f"the form did not come within {FORM_SECONDS:g} s") from None
        except ValueError as error:
            raise ApiError("bad_data", f"error parsing form values: {error}") from None
    return Parameters(form, list(request.query.items()))


def moment(text: str) -> float:
    """Unix seconds, to the millisecond, of a number or an RFC 3339 time. ValueError."""
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) <= _FAREST_SECONDS:
            return round(value, 3)
    elif _RFC3339.fullmatch(text):
        try:
            return round(datetime.fromisoformat(text.upper()).timestamp(), 3)
        except (ValueError, OverflowError):
            pass  # such as the 30th of February
    raise ValueError(f"cannot parse {quote(text)} to a valid timestamp")


def named_moment(name: str) -> Callable[[str], float]:
    """`moment` with the words for a parameter that may be absent."""

    def read(text: str) -> float:
        try:
            return moment(text)
        except ValueError as error:
            raise ValueError(f"invalid time value for '{name}': {error}") from None

    return read


def duration(text: str) -> float:
    """Seconds of a number or a duration such as `1m30s`. ValueError."""
    if _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        if abs(value) > _LARGEST_SECONDS:
            raise ValueError(f"cannot parse {quote(text)} to a valid duration. It overflows int64")
        return value
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"cannot parse {quote(text)} to a valid duration") from None


def limit(text: str) -> int:
    """How many results are wanted at most; 0 is all. ValueError."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII):
        raise ValueError(f"cannot parse {quote(text)} to a number")
    if int(text) < 0:
        raise ValueError("limit must be non-negative")
    return int(text)


def truth(text: str) -> bool:
    """What Go's strconv.ParseBool takes for true or false. ValueError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"cannot parse {quote(text)} to true or false")
