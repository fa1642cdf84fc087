"""How near to its end a target is, in one word: what an app needs to know to take on less. Pure."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Literal, get_args

from sidecar.model import Labels, Metric, Sample, series
from sidecar.said import Said

Mode = Literal["normal", "cautious", "degraded"]

MODE = Metric("rag_mode", "gauge", "1 for the mode of the target, 0 for the two others: normal, cautious or degraded.")
METRICS = (MODE,)

MODES: tuple[Mode, ...] = get_args(Mode)
CAUTIOUS_OF_LIMIT = 0.78
DEGRADED_OF_LIMIT = 0.88
HYSTERESIS = 0.03
"""A mode is left when used bytes are so much, as a share, below the line at which it was entered."""


class Modes:
    """The modes of all targets, by name. Lives as long as the desk, and remembers a target until it is forgotten."""

    def __init__(self) -> None:
        self._modes: dict[str, Mode] = {}
        self._said = Said()

    def update(self, target: str, used: float, limit: float | None, main: float, critical: float) -> Mode:
        """The mode of a target that uses so many bytes.

        It is entered at a share of the limit, or at the lines `main` and `critical` where no limit is known (all in
        bytes). Values that tremble at a line do not make it come and go.
        """
        lines = (CAUTIOUS_OF_LIMIT * limit, DEGRADED_OF_LIMIT * limit) if limit else (main, critical)
        held = MODES.index(self._modes.get(target, "normal"))
        rank = max((rank for rank, line in enumerate(lines, 1)
                    if used >= line * (1 - HYSTERESIS if rank <= held else 1)), default=0)
        self._modes[target] = MODES[rank]
        return MODES[rank]

    def forget(self, target: str) -> None:
        """The target is not there: when it comes again it begins as normal."""
        self._modes.pop(target, None)

    def found(self) -> Mapping[str, Mode]:
        """The modes as they were last found, of the targets that are there: a copy."""
        return dict(self._modes)

    def samples(self, bases: Mapping[str, Labels], at: float, spared: Collection[str] = ()) -> list[Sample]:
        """Three series of each target whose mode is known, at Unix time `at`; `bases` are their labels by name.

        For `spared` see `Said`.
        """
        self._said.keep(self._modes)
        return [sample for target, base in bases.items() if (found := self._modes.get(target))
                for sample in self._said.of(base, found, at, spared, partial(_told, base, found, at))]


def _told(base: Labels, found: Mode, at: float) -> list[Sample]:
    return [Sample(series(base, MODE.name, "mode", mode), float(mode == found), at) for mode in MODES]
