"""Words of the status page: everything that is shown goes through `text`, so that markup in names is text."""

import re
from datetime import UTC, datetime
from html import escape

TONES = {
    "firing": "bad", "pending": "warn", "effective": "good", "dry_run": "dim", "running": "dim", "skipped": "dim",
    "partial": "warn", "unknown": "warn", "interrupted": "warn", "ineffective": "bad", "refused": "bad",
    "undelivered": "bad", "normal": "good", "cautious": "warn", "degraded": "bad",
}  # fmt: skip
"""state, outcome or mode -> how it looks: `good`, `warn`, `bad` or `dim`."""


def text(given: object) -> str:
    """Anything, escaped."""
    return escape(str(given))


def prose(given: object) -> str:
    """A sentence, escaped; what stands between backquotes is to be typed."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(given))


def chip(word: str, tone: str, *, more: str = "") -> str:
    """A small sign. `more` are further attributes, as HTML."""
    return f'<span class="chip {tone}"{more}>{text(word)}</span>'


def moment(at: float) -> str:
    """Unix time in UTC; a script shows it in the reader's own time."""
    try:
        when = datetime.fromtimestamp(float(at), UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when:%Y-%m-%d %H:%M:%S} UTC</time>'


def size(given_bytes: float | None) -> str:
    """MiB with one decimal, GiB from 10 GiB on; a dash for what is not known."""
    if given_bytes is None:
        return "–"
    if abs(given_bytes) >= 10 * 2**30:
        return f"{given_bytes / 2**30:,.1f} GiB"
    return f"{given_bytes / 2**20:,.1f} MiB"


def seconds(given: float) -> str:
    """A time span: µs, ms or s."""
    if given < 1e-3:
        return f"{given * 1e6:.0f} µs"
    return f"{given * 1e3:.0f} ms" if given < 1 else f"{given:.1f} s"
