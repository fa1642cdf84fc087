"""What is shown of each target, made when somebody looks: of what a tick has left, which nothing changes any more."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, overload

from sidecar.actions.facts import Subject
from sidecar.mode import Mode
from sidecar.pipeline_thresholds import Known
from sidecar.web.view import ModeStatus, TargetStatus


class Left(NamedTuple):
    """What a tick has left: who was there, and by name their lines, used bytes and modes."""

    subjects: Sequence[Subject]
    lines: Mapping[str, Known]
    used: Mapping[str, float]
    modes: Mapping[str, Mode]


class Statuses(Sequence[TargetStatus]):
    """The targets as they are shown. Lives as long as a snapshot."""

    def __init__(self, left: Left) -> None:
        self._left = left

    @overload
    def __getitem__(self, place: int) -> TargetStatus: ...
    @overload
    def __getitem__(self, place: slice) -> list[TargetStatus]: ...
    def __getitem__(self, place: int | slice) -> TargetStatus | list[TargetStatus]:
        chosen = self._left.subjects[place]
        return self._status(chosen) if isinstance(chosen, Subject) else [self._status(each) for each in chosen]

    def __len__(self) -> int:
        return len(self._left.subjects)

    def _status(self, subject: Subject) -> TargetStatus:
        known, used_bytes = self._left.lines.get(subject.name), self._left.used.get(subject.name)
        main, critical = (known.lines.main, known.lines.critical) if known else (None, None)
        return TargetStatus(
            subject.name, subject.up, used_bytes, main.size_bytes if main else None,
            critical.size_bytes if critical else None, known.override.until if known and known.override else None)


class ModeStatuses(Mapping[str, ModeStatus]):
    """The modes as they are shown, by target. Lives as long as a snapshot."""

    def __init__(self, left: Left) -> None:
        self._left = left

    def __getitem__(self, target: str) -> ModeStatus:
        known = self._left.lines.get(target)
        return ModeStatus(self._left.modes[target], self._left.used.get(target), known.limit_bytes if known else None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._left.modes)

    def __len__(self) -> int:
        return len(self._left.modes)
