"""The shape of sidecar.yml (Document and what it holds), and what comes out of it (Settings).

Values only. The options of a stage are that stage's own class.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidecar.actions.options import Mode, Options, Policy, Verification
from sidecar.config_channels import AgentChannel, ExecChannel, HttpChannel, SignalChannel, check_request
from sidecar.config_values import Address, Bytes, DockerHost, Factor, HttpUrl, PerHour, Program, TargetName
from sidecar.discovery.match import AsChild, ByUrl, Match
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup
from sidecar.notify.options import Alertmanager
from sidecar.probes.endpoint_figures import MOST_CHARACTERS, OTHER, STATES, Endpoint, Selector
from sidecar.promql.features import Feature
from sidecar.thresholds import UNITS, Wanted

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "logfmt", "json"]

INTERVAL_SECONDS, CALM_INTERVAL_SECONDS = 1.0, 2.0
DEFAULTS = Options()
LEAST_LOAN_BYTES, MOST_LOAN_BYTES = 16 << 20, 64 << 30


@dataclass(frozen=True, slots=True)
class AgentSection:
    """How the agents in a target's processes are reached. `directory` is where theirs is, besides the usual places.

    `inside`: a program that is started with `run -- COMMAND` gets one.
    """

    directory: str = ""
    every_seconds: float = 5.0
    inside: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.every_seconds <= 3600:
            raise ValueError("every must be at least 1s and at most 1h")
        if self.directory and (not self.directory.startswith("/") or ".." in self.directory.split("/")):
            raise ValueError("directory must be an absolute path without '..', as the target's process sees it")


@dataclass(frozen=True, slots=True)
class EndpointSection:
    """A debug endpoint that the target has: where, and what in its answer counts. Headers may hold secrets.

    `used` and `status` are paths such as `rag.memory.used`; on a page of Prometheus's format `used` is a metric's name
    or selector. `states` are the texts that `status` may have. `url` is left out where `match` has it.
    """

    url: HttpUrl | None = field(default=None, repr=False)
    used: str = ""
    unit: Literal["B", "KiB", "MiB", "GiB", "KB", "MB", "GB"] = "B"
    status: str = ""
    states: tuple[str, ...] = STATES
    every_seconds: float = 5.0
    timeout_seconds: float = 2.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_request(self.timeout_seconds, self.headers)
        if not 1 <= self.every_seconds <= 3600:
            raise ValueError("every must be at least 1s and at most 1h")
        if not 1 <= len(self.states) <= 10 or len({*self.states, "", OTHER}) < len(self.states) + 2:
            raise ValueError(f"states must be 1 to 10 different texts, none of them empty or {OTHER!r}")
        for name, texts in (("used", [self.used]), ("status", [self.status]), ("states", self.states)):
            for text in texts:
                if isinstance(text, str) and (len(text) > MOST_CHARACTERS or not text.isprintable()):
                    raise ValueError(f"{name} must be at most {MOST_CHARACTERS} printable characters")
        Selector.of(self.used)

    def at(self, url: str) -> Endpoint:
        """How it is asked."""
        return Endpoint(url, self.used, UNITS[self.unit], self.status, self.states, self.every_seconds,
                        self.timeout_seconds, tuple(self.headers.items()))


@dataclass(frozen=True, slots=True)
class BrakeSection:
    """How much a target may be lent beyond its cgroup's limit instead of being killed there, and for how long.

    Naming a loan is consent: docs/brake.md.
    """

    loan: Bytes
    hold_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not LEAST_LOAN_BYTES <= self.loan <= MOST_LOAN_BYTES:
            raise ValueError("loan must be at least 16MiB and at most 64GiB")
        if not 1 <= self.hold_seconds <= 60:
            raise ValueError("hold must be at least 1s and at most 60s")


@dataclass(frozen=True, slots=True)
class Target:
    """A process to watch. `name` becomes the label `target`."""

    name: TargetName
    match: Match = AsChild()  # noqa: RUF009 - frozen
    children: bool = True
    memory: Wanted = Wanted()  # noqa: RUF009 - frozen
    endpoint: EndpointSection | None = None
    agent: AgentSection = AgentSection()
    cleanup: tuple[AgentChannel | ExecChannel | HttpChannel | SignalChannel, ...] = ()
    brake: BrakeSection | None = None

    def asked(self) -> Endpoint | None:
        """How its debug endpoint is asked, None if it has none."""
        url = self.match.url if isinstance(self.match, ByUrl) else self.endpoint and self.endpoint.url
        return (self.endpoint or EndpointSection()).at(url) if url else None

    def channels(self, cleanup: Cleanup) -> tuple[Channel, ...]:
        """The ways to ask this target for `cleanup`, in the order in which they are tried."""
        return tuple(way for channel in self.cleanup if (way := channel.serves(cleanup)) is not None)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often anything may be done at all."""

    max_concurrent: int = DEFAULTS.max_concurrent
    min_interval_seconds: float = DEFAULTS.min_interval_seconds
    max_per_hour: int = DEFAULTS.max_per_hour
    warmup_seconds: float = DEFAULTS.warmup_seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """How often one cleanup may be tried again when it did not help, and when the next one is tried instead."""

    cooldown_seconds: float
    budget: PerHour
    escalate_after: int


def _limits(cleanup: Cleanup) -> Limits:
    return Limits(DEFAULTS.cooldown_seconds[cleanup], PerHour(DEFAULTS.budget_per_hour[cleanup]),
                  DEFAULTS.escalate_after[cleanup])


@dataclass(frozen=True, slots=True)
class Levels:
    """The limits of each cleanup."""

    light: Limits = _limits("light")  # noqa: RUF009 - frozen
    standard: Limits = _limits("standard")  # noqa: RUF009 - frozen
    aggressive: Limits = _limits("aggressive")  # noqa: RUF009 - frozen

    def items(self) -> Iterable[tuple[Cleanup, Limits]]:
        """(cleanup, limits) from the lightest to the strongest."""
        return (("light", self.light), ("standard", self.standard), ("aggressive", self.aggressive))


@dataclass(frozen=True, slots=True)
class Learning:
    """After so many cleanups of a level that were of no use it is left out, for longer each time."""

    strikes: int = DEFAULTS.strikes
    skip_for_seconds: float = DEFAULTS.skip_seconds
    skip_backoff: Factor = Factor(DEFAULTS.skip_backoff)  # noqa: RUF009 - a number
    skip_max_seconds: float = DEFAULTS.skip_max_seconds


@dataclass(frozen=True, slots=True)
class Every:
    """Cleanups that are asked for periodically, whatever the memory; 0: never."""

    light_seconds: float = 0.0
    standard_seconds: float = 0.0
    aggressive_seconds: float = 0.0

    def items(self) -> Iterable[tuple[Cleanup, float]]:
        """(cleanup, seconds) from the lightest to the strongest."""
        return (("light", self.light_seconds), ("standard", self.standard_seconds),
                ("aggressive", self.aggressive_seconds))


@dataclass(frozen=True, slots=True)
class Policies:
    """What alerts of each level ask for."""

    preventive: Policy = DEFAULTS.policies["preventive"]
    main: Policy = DEFAULTS.policies["main"]
    critical: Policy = DEFAULTS.policies["critical"]

    def items(self) -> Iterable[tuple[str, Policy]]:
        """(level, policy) from the lowest level to the highest."""
        return (("preventive", self.preventive), ("main", self.main), ("critical", self.critical))


@dataclass(frozen=True, slots=True)
class Acting:
    """The section `actions`."""

    mode: Mode | None = None
    kill_switch: Path | None = None
    global_: Pace = Pace()
    levels: Levels = Levels()
    policies: Policies = Policies()
    verify: Verification = DEFAULTS.verification
    exit_for_seconds: float = DEFAULTS.exit_for_seconds
    learning: Learning = Learning()
    every: Every = Every()
    allow_exec: tuple[Program, ...] = ()

    def options(self, kill_switch: Path) -> Options:
        """What the policy reads."""
        levels = dict(self.levels.items())
        return Options(
            mode=self.mode,
            kill_switch=str(kill_switch),
            max_concurrent=self.global_.max_concurrent,
            min_interval_seconds=self.global_.min_interval_seconds,
            max_per_hour=self.global_.max_per_hour,
            warmup_seconds=self.global_.warmup_seconds,
            cooldown_seconds={cleanup: limits.cooldown_seconds for cleanup, limits in levels.items()},
            budget_per_hour={cleanup: limits.budget for cleanup, limits in levels.items()},
            escalate_after={cleanup: limits.escalate_after for cleanup, limits in levels.items()},
            policies=dict(self.policies.items()),
            verification=self.verify,
            exit_for_seconds=self.exit_for_seconds,
            strikes=self.learning.strikes,
            skip_seconds=self.learning.skip_for_seconds,
            skip_backoff=self.learning.skip_backoff,
            skip_max_seconds=self.learning.skip_max_seconds,
            every_seconds={cleanup: seconds for cleanup, seconds in self.every.items() if seconds},
        )


@dataclass(frozen=True, slots=True)
class WebSection:
    """Where to serve, under which further host names, and where the token stands that lets others change state.

    `config_file` says with which TLS, and to whom: docs/web-config.md.
    """

    listen: Address = Address("127.0.0.1", 11611)  # noqa: RUF009 - frozen
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    config_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Web(WebSection):
    """The section `web` with the token itself; "": there is none, so nothing can be changed over TCP.

    `lifecycle`: whoever can reach the pages may have the configuration read again.
    """

    token: str = field(default="", repr=False)
    lifecycle: bool = False


@dataclass(frozen=True, slots=True)
class DockerSection:
    """Where the engine listens that knows the containers; None: at $DOCKER_HOST, else where engines usually do."""

    host: DockerHost | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """Where state is kept."""

    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """How to log, as `sidecar.logs.set_up` takes it."""

    level: LogLevel = "info"
    format: LogFormat = "auto"


@dataclass(frozen=True, slots=True)
class Document:
    """The whole file."""

    targets: tuple[Target, ...] = ()
    rules: tuple[str, ...] | None = None
    evaluation_interval_seconds: float | None = None
    calm_interval_seconds: float | None = None
    features: tuple[Feature, ...] = ()
    external_labels: Mapping[str, str] = field(default_factory=dict)
    job: str = "rag-sidecar"
    instance: str | None = None
    actions: Acting = Acting()
    alertmanagers: tuple[Alertmanager, ...] = ()
    web: WebSection = WebSection()
    storage: Storage = Storage()
    docker: DockerSection = DockerSection()

    def intervals(self) -> tuple[float, float]:
        """How many seconds ticks lie apart, and while all is calm: whoever says the first is taken at that word."""
        said, calm = self.evaluation_interval_seconds, self.calm_interval_seconds
        interval = INTERVAL_SECONDS if said is None else said
        return interval, calm if calm is not None else CALM_INTERVAL_SECONDS if said is None else interval


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was decided before the start; swapped whole on reload.

    `rules` None means the shipped ones. `origins` says who set a key (`sidecar.yml:7`, `--pid`); keys that are not
    in it have their default. `watched` are the files that all this was read from, as patterns of `glob`.
    `docker_host` is "" where no target is a container.
    """

    targets: tuple[Target, ...]
    rules: tuple[Path, ...] | None
    evaluation_interval_seconds: float
    calm_interval_seconds: float
    features: tuple[Feature, ...]
    external_labels: Mapping[str, str]
    job: str
    instance: str
    actions: Options
    allow_exec: tuple[Program, ...]
    alertmanagers: tuple[Alertmanager, ...]
    web: Web
    storage: Path
    log: Log
    warnings: tuple[str, ...]
    origins: Mapping[str, str]
    watched: tuple[str, ...] = ()
    docker_host: str = ""

    def mode(self, target: Target) -> Mode:
        """What may be done to `target`: as set, else enforce where it has a channel (naming one is consent).

        Where it has none, an agent that announces itself is one: see `waits_for_agent`.
        """
        return self.actions.mode or ("enforce" if target.cleanup else "observe")

    def agent_inside(self) -> bool:
        """Whether a program that is started is started with an agent inside."""
        return any(isinstance(target.match, AsChild) and target.agent.inside for target in self.targets)

    def waits_for_agent(self, target: Target) -> bool:
        """Whether nothing is said about what may be done to `target`: then an agent that announces itself decides."""
        return self.actions.mode is None and not target.cleanup and not isinstance(target.match, ByUrl)
