"""Log lines: a constant sentence with fields; logfmt on a terminal, JSON otherwise or as chosen."""

import json
import logging
import select
import sys
from typing import Any, TextIO

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra=`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class Logfmt(logging.Formatter):
    """`time level "sentence" key=value …`, for people; what is empty is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback where there is one."""
        stamp = self.formatTime(record, "%H:%M:%S")
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields(record).items() if value not in ("", None))
        line = f"{stamp} {record.levelname.lower():7} {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Json(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback is its field `error`."""
        entry = {"ts": round(record.created, 3), "level": record.levelname.lower(), "msg": record.getMessage(),
                 "logger": record.name}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        more = {key: _plain(value) for key, value in fields(record).items() if key not in entry}
        return json.dumps({**entry, **more})


def _plain(value: object) -> object:
    """The value as it is where JSON has a word for it, else as text: nan has none, nor has a path."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


def _quoted(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or any(c.isspace() or c in '"=' or not c.isprintable() for c in text) else text


class Unhurried(logging.StreamHandler[TextIO]):
    """Writes where there is room now and drops the line otherwise: a stuck pipe or terminal must not stop the desk.

    The next line that is written says how many were dropped.
    """

    dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless that would wait."""
        poll = select.poll()
        poll.register(self.stream, select.POLLOUT)
        if not poll.poll(0):
            self.dropped += 1
            return
        if self.dropped:
            record.dropped_before, self.dropped = self.dropped, 0
        super().emit(record)


def set_up(level: str = "info", style: str = "auto", stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error). `style` is `logfmt`, `json`, or `auto`: JSON unless `stream` is a terminal."""
    out = stream or sys.stderr
    if style == "auto":
        style = "logfmt" if out.isatty() else "json"
    handler = logging.StreamHandler(out) if stream else Unhurried(out)
    handler.setFormatter(Logfmt() if style == "logfmt" else Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
