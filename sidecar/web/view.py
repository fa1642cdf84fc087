"""What the web server shows: one frozen snapshot, replaced as a whole once per tick."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sidecar.model import Alert, Metric, Sample, Sight
from sidecar.promql.context import Options
from sidecar.promql.steps import Steps, finish
from sidecar.promql.values import Newest, Select
from sidecar.rules.group import Group
from sidecar.web.hands import Hands


class Family(NamedTuple):
    """A metric and its present samples."""

    metric: Metric
    samples: Sequence[Sample]


class Families:
    """The families of a tick, made by `sort` when somebody first asks for them. Lives as long as its snapshot.

    Of most ticks nobody does.
    """

    def __init__(self, sort: Callable[[], Steps[Sequence[Family]]]) -> None:
        self._sort: Callable[[], Steps[Sequence[Family]]] | None = sort
        self._sorted: Sequence[Family] = ()

    def __iter__(self) -> Iterator[Family]:
        return iter(finish(self.steps()))

    def steps(self) -> Steps[Sequence[Family]]:
        """All of them; whoever asks while they are being sorted sorts them, too."""
        if self._sort:
            self._sorted = yield from self._sort()
            self._sort = None
        return self._sorted


def sorted_out(families: Iterable[Family]) -> Steps[Iterable[Family]]:
    """These families, sorted in pieces where that has still to be done."""
    return (yield from families.steps()) if isinstance(families, Families) else families


class TargetStatus(NamedTuple):
    """One watched target. Bytes are None where they cannot be read or no line is known.

    `until` (Unix seconds): so long lines hold that were put in force while it ran; None where none were.
    """

    name: str
    up: bool
    used_bytes: float | None = None
    main_bytes: float | None = None
    critical_bytes: float | None = None
    until: float | None = None


class ModeStatus(NamedTuple):
    """How careful a target had better be: `normal`, `cautious` or `degraded`. Bytes are None where unknown."""

    mode: str
    used_bytes: float | None = None
    limit_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is shown, as it was after tick number `tick`.

    `unready` says why the sidecar is not ready; the empty string means that it is. `actions` are JSON objects as
    `GET /api/v1/actions` returns them, each with `started_at`; `decisions` and `incidents` alike, each with `target`.
    `modes` has the targets whose mode is known; `sights` say what can be seen of each target, and why not. `by_target`
    is empty until a page of a target is first asked for.
    """

    tick: int = 0
    unready: str = "the first tick has not ended yet"
    families: Iterable[Family] = ()
    targets: Sequence[TargetStatus] = ()
    alerts: Sequence[Alert] = ()
    actions: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Mapping[str, Any]] = ()
    incidents: Sequence[Mapping[str, Any]] = ()
    modes: Mapping[str, ModeStatus] = field(default_factory=dict)
    sights: Mapping[str, Sight] = field(default_factory=dict)
    by_target: dict[str, Sequence[Family]] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Sources:
    """What queries are answered from. All of it is only read.

    `now` is Unix time and `elapsed` a clock that never goes back, in seconds; awaiting `breathe` lets others run.
    `newest` is a quicker way to what `select` gives an instant selector.
    """

    select: Select
    groups: Sequence[Group]
    now: Callable[[], float]
    elapsed: Callable[[], float]
    breathe: Callable[[], Awaitable[None]]
    options: Options = field(default_factory=Options)
    experimental: bool = False
    newest: Newest | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What the sidecar tells of itself. It was started at `started_at` (Unix time) and is found at `url`.

    `labels` are job and instance, as a scrape would add them; `external_labels` go with every alert. `settings` gives
    the configuration in force as (key, text), keys like `targets[0].name`, without secrets; it is so since
    `configured_at` (Unix time), and `reloaded` says whether the last one that was read was taken.
    """

    started_at: float
    url: str
    labels: Mapping[str, str]
    external_labels: Mapping[str, str]
    interval_seconds: float
    settings: Callable[[], Iterable[tuple[str, str]]]
    configured_at: float = 0.0
    reloaded: bool = True


class View:
    """Holds the snapshot that is shown now. Lives as long as the server; its one writer is the tick.

    `sources` and `about` are None until there is anything to ask, `hands` until there is anybody who could carry out an
    order. `reload` has the configuration read again, and gives what is wrong with it, "" if it is in force.
    """

    about: About | None = None
    reload: Callable[[], Awaitable[str]] | None = None

    def __init__(self, snapshot: Snapshot | None = None, sources: Sources | None = None,
                 hands: Hands | None = None) -> None:
        self.snapshot = snapshot or Snapshot()
        self.sources = sources
        self.hands = hands
