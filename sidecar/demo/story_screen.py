"""The demo's page: lines that stay, and on a terminal one line below them that is drawn anew."""

import os
import textwrap
from collections.abc import Mapping
from typing import TextIO

from sidecar.demo.story_events import Event, Kind, mib

MARGIN = 2
TIME_COLUMNS = 7
HEAD_COLUMNS = 17
USED_COLUMNS = 11
STATUS_COLUMNS = 29
WIDEST = 120
NARROWEST = 50
PROGRESS_SECONDS = 5.0
HEADROOM = 1.1
"""The bar ends this much above the highest line."""

BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "1", "2", "31", "32", "33", "34", "35", "36"

_MARKS: Mapping[Kind, tuple[str, str, str]] = {  # glyph, the same in ASCII, colour
    "over": ("▲", "^", YELLOW),
    "fires": ("●", "!", RED),
    "asked": ("→", ">", CYAN),
    "good": ("✔", "+", GREEN),
    "bad": ("✘", "x", RED),
    "back": ("○", "o", BLUE),
    "crowd": ("»", ">", MAGENTA),
}
_ZONES = (GREEN, YELLOW, RED, f"{BOLD};{RED}")  # below the first line, and above each of the three


class Screen:
    """Writes the story. `live` says that the last line may be redrawn. Lives as long as the demo; `close` it."""

    def __init__(self, out: TextIO, *, live: bool, colour: bool) -> None:
        self.live = live
        self._out = out
        self._colour = colour
        self._unicode = (out.encoding or "").lower().replace("-", "").startswith("utf")
        self._drawn = ""
        self._next_progress_seconds = 0.0
        if live:
            self._write("\x1b[?25l")  # no cursor that jumps about in the bar

    def close(self) -> None:
        """Take the live line away and give the cursor back."""
        if self.live:
            self._write("\r\x1b[2K\x1b[?25h")
            self.live = False

    def say(self, text: str = "", *, style: str = "") -> None:
        """A paragraph that stays, line by line as given."""
        self._stay("\n".join(self._styled(line, style) for line in text.splitlines() or [""]))

    def tell(self, event: Event, elapsed_seconds: float) -> None:
        """An event that stays, with its time, wrapped under its own text."""
        glyph, ascii_glyph, colour = _MARKS[event.kind]
        indent = MARGIN + TIME_COLUMNS + 2 + HEAD_COLUMNS
        first, *more = textwrap.wrap(event.text, self._width() - indent) or [""]
        mark = self._styled(glyph if self._unicode else ascii_glyph, colour)
        head = self._styled(event.head, f"{BOLD};{colour}") + " " * (HEAD_COLUMNS - len(event.head))
        lines = [f"{self._stamp(elapsed_seconds)}{mark} {head}{first}", *(" " * indent + line for line in more)]
        self._stay("\n".join(lines))

    def show(self, used_bytes: float, lines: Mapping[str, float], status: str, elapsed_seconds: float) -> None:
        """How things stand: live a bar with the lines in it, otherwise now and then a line that stays."""
        stamp, used = self._stamp(elapsed_seconds), mib(used_bytes)
        if not self.live:
            if elapsed_seconds >= self._next_progress_seconds:
                self._next_progress_seconds = elapsed_seconds + PROGRESS_SECONDS
                self._stay(f"{stamp}  {used:{HEAD_COLUMNS}}{status}")
            return
        # The last column is left free: some terminals wrap as soon as it is written.
        columns = self._width() - 1 - MARGIN - TIME_COLUMNS - USED_COLUMNS - STATUS_COLUMNS
        bar = self._bar(used_bytes, lines, max(10, columns))
        self._drawn = f"{stamp}{bar}{self._styled(used.rjust(USED_COLUMNS - 2), BOLD)}  {status[:STATUS_COLUMNS]}"
        self._write(f"\r\x1b[2K{self._drawn}")

    def _bar(self, used_bytes: float, lines: Mapping[str, float], columns: int) -> str:
        """`columns` cells from nothing to a little above the highest line; P, M and C stand where the lines are."""
        top = max(lines.values()) * HEADROOM
        filled = round(min(1.0, used_bytes / top) * columns)
        marks = {min(columns - 1, int(at / top * columns)): level[0].upper() for level, at in lines.items()}
        full, empty = ("█", "░") if self._unicode else ("#", ".")
        cells, zone = [], 0
        for cell in range(columns):
            if cell in marks:
                zone += 1
                cells.append(self._styled(marks[cell], f"{BOLD};7" if cell < filled else BOLD))
            else:
                cells.append(self._styled(full, _ZONES[zone]) if cell < filled else self._styled(empty, DIM))
        return "".join(cells)

    def _stamp(self, elapsed_seconds: float) -> str:
        minutes, seconds = divmod(int(elapsed_seconds), 60)
        return " " * MARGIN + self._styled(f"{minutes}:{seconds:02}".rjust(TIME_COLUMNS - 2), DIM) + "  "

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and style and text else text

    def _stay(self, text: str) -> None:
        self._write(f"\r\x1b[2K{text}\n{self._drawn}" if self.live else f"{text}\n")

    def _width(self) -> int:
        """Columns that may be used."""
        try:
            columns = os.get_terminal_size(self._out.fileno()).columns
        except OSError:  # no terminal
            columns = 100
        return max(NARROWEST, min(WIDEST, columns))

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
