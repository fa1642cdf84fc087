"""The garbage collectors of a target's processes: those that are CPython's and may be read."""

from collections.abc import Callable, Mapping
from math import inf

from sidecar.errors import told
from sidecar.model import Sample
from sidecar.probes.gc_remote import GcProbe, Unsupported
from sidecar.probes.series import SeriesOf
from sidecar.probes.tree import MAIN, Slot

Count = Callable[[str, Exception], None]


class _Interpreter:
    """What runs in a slot. Lives until another program or process does; `reason` says why it cannot be read."""

    def __init__(self, slot: Slot, proc: str) -> None:
        self.reason = "not tried yet"
        self._slot = slot
        self._proc = proc
        self._program = slot.stack
        self._probe: GcProbe | None = None
        self._next_at, self._pause_seconds = -inf, 1.0

    def is_of(self, slot: Slot) -> bool:
        """Whether it is still the same life of the same process, running the same program."""
        return self._slot is slot and self._program == slot.stack

    def read(self, at: float, count: Count) -> list[Sample]:
        """Its figures; none while it cannot be read. That is tried again ever more seldom: it may be starting still."""
        try:
            if self._probe is None:
                if at < self._next_at:
                    return []
                self._next_at, self._pause_seconds = at + self._pause_seconds, 2 * self._pause_seconds
                self._probe = self._attach()
            samples = self._probe.read(at)
        except Unsupported as error:
            self.reason = str(error)
        except OSError as error:
            self.reason = told(error)
            self.close()
        except ValueError as error:
            self.reason = str(error)
            count("gc", error)
        else:
            self.reason = ""
            return samples
        return []

    def _attach(self) -> GcProbe:
        identity = self._slot.target.identity
        assert identity
        probe = GcProbe(identity.pid, SeriesOf(self._slot.target.base), self._proc)
        try:
            self._slot.process.check()  # the number was still its own when the memory was opened
        except OSError:
            probe.close()
            raise
        return probe

    def close(self) -> None:
        """Give the descriptor back."""
        if self._probe:
            self._probe.close()
        self._probe = None


class Interpreters:
    """The collectors of one target. Lives as long as its tree; `missing` says why none of them can be read."""

    def __init__(self, proc: str = "/proc") -> None:
        self.missing = ""
        self._proc = proc
        self._known: dict[str, _Interpreter] = {}

    def read(self, slots: Mapping[str, Slot], at: float, count: Count) -> list[Sample]:
        """The figures of all that can be read. Readings that cannot be true are counted and left out."""
        for label in self._known.keys() - slots.keys():
            self._known.pop(label).close()
        samples: list[Sample] = []
        for label, slot in slots.items():
            known = self._known.get(label)
            if known is None or not known.is_of(slot):
                if known:
                    known.close()
                known = self._known[label] = _Interpreter(slot, self._proc)
            samples += known.read(at, count)
        read = any(not each.reason for each in self._known.values())
        self.missing = "" if read else self._known[MAIN].reason
        return samples

    def close(self) -> None:
        """Give the descriptors back."""
        for known in self._known.values():
            known.close()
