"""The shape of sidecar.yml (Document and what it holds), and what comes out of it (Settings).

Values only. The options of a stage are that stage's own class.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import ClassVar, Literal

from sidecar.actions.options import Mode, Options, Policy, Verification
from sidecar.config_values import UNITS, Address, BaseUrl, HttpUrl, TargetName, duration_text, signal_name
from sidecar.discovery.match import AsChild, ByUrl, Match
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup
from sidecar.probes.endpoint_figures import MOST_CHARACTERS, OTHER, STATES, Endpoint, Selector
from sidecar.promql.features import Feature
from sidecar.thresholds import Wanted

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "logfmt", "json"]

DEFAULTS = Options()


def _check_request(timeout_seconds: float, headers: Mapping[str, str]) -> None:
    """Raise ValueError for what no HTTP request can have."""
    if not 0 < timeout_seconds <= 60:
        raise ValueError("timeout must be more than 0s and at most 60s")
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
            raise ValueError(f"{name!r} is not the name of a header")
        if not re.fullmatch(r"[ -~]{1,4096}", value):
            raise ValueError(f"the header {name} must be 1 to 4096 printable ASCII characters")


@dataclass(frozen=True, slots=True)
class HttpChannel:
    """A cleanup is asked for by POST. Headers may hold secrets: they are not shown."""

    KEY: ClassVar = "http"
    url: HttpUrl
    timeout_seconds: float = 10.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_request(self.timeout_seconds, self.headers)

    def __str__(self) -> str:
        headers = f", headers {', '.join(self.headers)}" if self.headers else ""
        return f"http POST {self.url} (timeout {duration_text(self.timeout_seconds)}{headers})"

    def serves(self, cleanup: Cleanup) -> Channel:
        """The way to ask for this cleanup: the level stands in the body."""
        return Channel("http", url=self.url, headers=tuple(self.headers.items()), timeout_seconds=self.timeout_seconds)


@dataclass(frozen=True, slots=True)
class SignalChannel:
    """A cleanup is asked for by a signal, each by its own or all by one. None: not by signal."""

    KEY: ClassVar = "signal"
    light: Signals | None = None
    standard: Signals | None = None
    aggressive: Signals | None = None

    def __post_init__(self) -> None:
        if not any((self.light, self.standard, self.aggressive)):
            raise ValueError("names no signal: give light, standard or aggressive")

    @classmethod
    def short(cls, text: str) -> "SignalChannel":
        """One signal for every cleanup."""
        number = signal_name(text)
        return cls(number, number, number)

    def __str__(self) -> str:
        named = {level: number.name for level in ("light", "standard", "aggressive")
                 if (number := getattr(self, level)) is not None}
        if len(named) == 3 and len(set(named.values())) == 1:
            return f"signal {named['light']}"
        return "signal " + ", ".join(f"{level}: {name}" for level, name in named.items())

    def serves(self, cleanup: Cleanup) -> Channel | None:
        """The way to ask for this cleanup, None if there is no signal for it."""
        number = {"light": self.light, "standard": self.standard, "aggressive": self.aggressive}[cleanup]
        return Channel("signal", signal=int(number)) if number is not None else None


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """A cleanup is asked for at the agents in the target's processes. `timeout_seconds` is until their answers."""

    KEY: ClassVar = "agent"
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        _check_request(self.timeout_seconds, {})

    def __str__(self) -> str:
        return f"agent (timeout {duration_text(self.timeout_seconds)})"

    def serves(self, cleanup: Cleanup) -> Channel:
        """The way to ask for this cleanup: the level stands in the body."""
        return Channel("agent", timeout_seconds=self.timeout_seconds)


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
        _check_request(self.timeout_seconds, self.headers)
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
class Target:
    """A process to watch. `name` becomes the label `target`."""

    name: TargetName
    match: Match = AsChild()  # noqa: RUF009 - frozen
    children: bool = True
    memory: Wanted = Wanted()  # noqa: RUF009 - frozen
    endpoint: EndpointSection | None = None
    agent: AgentSection = AgentSection()
    cleanup: tuple[AgentChannel | HttpChannel | SignalChannel, ...] = ()

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
    warmup_seconds: float = DEFAULTS.warmup_seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """How often one cleanup may be tried again when it did not help."""

    cooldown_seconds: float


@dataclass(frozen=True, slots=True)
class Levels:
    """The limits of each cleanup."""

    light: Limits = Limits(DEFAULTS.cooldown_seconds["light"])
    standard: Limits = Limits(DEFAULTS.cooldown_seconds["standard"])
    aggressive: Limits = Limits(DEFAULTS.cooldown_seconds["aggressive"])


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

    def options(self, kill_switch: Path) -> Options:
        """What the policy reads."""
        return Options(
            mode=self.mode,
            kill_switch=str(kill_switch),
            max_concurrent=self.global_.max_concurrent,
            min_interval_seconds=self.global_.min_interval_seconds,
            warmup_seconds=self.global_.warmup_seconds,
            cooldown_seconds={
                "light": self.levels.light.cooldown_seconds,
                "standard": self.levels.standard.cooldown_seconds,
                "aggressive": self.levels.aggressive.cooldown_seconds,
            },
            policies=dict(self.policies.items()),
            verification=self.verify,
        )


@dataclass(frozen=True, slots=True)
class Web:
    """Where to serve, and under which further host names."""

    listen: Address = Address("127.0.0.1", 11611)  # noqa: RUF009 - frozen
    hosts: tuple[str, ...] = ()


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
    evaluation_interval_seconds: float = 1.0
    features: tuple[Feature, ...] = ()
    external_labels: Mapping[str, str] = field(default_factory=dict)
    job: str = "rag-sidecar"
    instance: str | None = None
    actions: Acting = Acting()
    alertmanagers: tuple[BaseUrl, ...] = ()
    web: Web = Web()
    storage: Storage = Storage()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was decided before the start; swapped whole on reload.

    `rules` None means the shipped ones. `origins` says who set a key (`sidecar.yml:7`, `--pid`); keys that are not
    in it have their default.
    """

    targets: tuple[Target, ...]
    rules: tuple[Path, ...] | None
    evaluation_interval_seconds: float
    features: tuple[Feature, ...]
    external_labels: Mapping[str, str]
    job: str
    instance: str
    actions: Options
    alertmanagers: tuple[BaseUrl, ...]
    web: Web
    storage: Path
    log: Log
    warnings: tuple[str, ...]
    origins: Mapping[str, str]

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
