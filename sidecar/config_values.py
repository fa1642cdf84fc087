"""What one word of the configuration means: text → value. Every function raises ValueError with a whole sentence."""

import ipaddress
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NewType
from urllib.parse import urlsplit

from sidecar.thresholds import UNITS, Share, Size, Source, mib, size

HttpUrl = NewType("HttpUrl", str)
DockerHost = NewType("DockerHost", str)
TargetName = NewType("TargetName", str)
Program = NewType("Program", str)
Bytes = NewType("Bytes", int)
PerHour = NewType("PerHour", int)
Factor = NewType("Factor", float)

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGWINCH)
"""Signals that ask for a cleanup: those that programs catch to do something and carry on. Every other one ends, stops
or faults a process by design, or belongs to its runtime (SIGCHLD, SIGALRM, SIGPROF …)."""

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host is every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def nearest(word: str, known: tuple[str, ...]) -> str:
    """What to say after an unknown word: the known one closest to it, or all of them."""
    folded = {name.lower(): name for name in known}
    from difflib import get_close_matches  # mistakes are seldom, and it takes 0.1 MiB

    close = get_close_matches(word.lower(), folded, n=1)
    return f"did you mean {folded[close[0]]}?" if close else f"known here: {', '.join(known)}"


def choice(text: str, choices: tuple[str, ...]) -> str:
    """One of `choices`."""
    if text not in choices:
        raise ValueError(f"{text!r} is none of the choices, {nearest(text, choices)}")
    return text


def wish(text: str, source: Source) -> Size | Share:
    """A memory line: a size, or a share of the cgroup limit such as `80%`."""
    if not text.endswith("%"):
        return Size(size(text), source)
    if not re.fullmatch(r"\d{1,2}(\.\d{1,3})?%", text) or float(text[:-1]) == 0:
        raise ValueError(f"{text!r} is not a share of the cgroup limit: it must be more than 0% and less than 100%")
    return Share(float(text[:-1]) / 100, source)


def file_wish(text: str) -> Size | Share:
    """A memory line as the file gives it."""
    return wish(text, "file")


def megabytes(text: str) -> Size:
    """A memory line as the seeds' environment variables give it: a bare number of MB, each 1024² bytes."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) or float(text) == 0:
        raise ValueError(f"{text!r} is not a number of MB: write 1000 for 1000 MiB, without a unit")
    return Size(round(float(text) * 1024 ** 2), "environment")


def duration(text: str) -> float:
    """Seconds of a Prometheus duration: `30s`, `1m30s`, `500ms`."""
    match = _DURATION.fullmatch(text)
    if match and any(match.groups()):
        return sum(float(n) * unit for n, unit in zip(match.groups(), _SECONDS.values(), strict=True) if n)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{text} has no unit: write {text}s (or {text}ms, {text}m, {text}h)")
    raise ValueError(f"{text!r} is not a duration such as 30s, 1m30s or 500ms")


def ratio(text: str) -> float:
    """A number from 0 to 1."""
    if not re.fullmatch(r"\d(\.\d{1,9})?", text) or float(text) > 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1, such as 0.05")
    return float(text)


def per_hour(text: str) -> PerHour:
    """A number of times an hour: `12/h`."""
    match = re.fullmatch(r"([1-9]\d{0,3})/h", text)
    if not match:
        raise ValueError(f"{text!r} is not a number of times an hour such as 12/h, from 1/h to 9999/h")
    return PerHour(int(match[1]))


def factor(text: str) -> Factor:
    """A number from 1 to 100."""
    if not re.fullmatch(r"\d{1,3}(\.\d{1,9})?", text) or not 1 <= float(text) <= 100:
        raise ValueError(f"{text!r} is not a number from 1 to 100, such as 2 or 1.5")
    return Factor(float(text))


def program(text: str) -> Program:
    """The absolute path of a program."""
    if not text.startswith("/") or text.endswith("/") or ".." in text.split("/") or not text.isprintable():
        raise ValueError(f"{text!r} is not the absolute path of a program, without '..'")
    return Program(text)


def truth(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    """The number of a TCP port."""
    number = count(text)
    if number > 65535:
        raise ValueError(f"{text} is not a port: they end at 65535")
    return number


def path(text: str) -> Path:
    """A path of the file system."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    if text.startswith("~"):
        raise ValueError(f"{text!r}: '~' means nothing to a daemon, write the whole path")
    return Path(text)


def pattern(text: str) -> re.Pattern[str]:
    """A Python regular expression, searched for in a command line."""
    try:
        compiled = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    if compiled.search(""):
        raise ValueError(f"{text!r} matches every process: say more")
    return compiled


def target_name(text: str) -> TargetName:
    """The value of the label `target`."""
    if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,100}", text):
        raise ValueError(f"{text!r} is not a name: use letters, digits, '_', '.' and '-', at most 100 of them")
    return TargetName(text)


def signal_name(text: str) -> signal.Signals:
    """One of SIGNALS by its name."""
    for allowed in SIGNALS:
        if text == allowed.name:
            return allowed
    names = tuple(allowed.name for allowed in SIGNALS)
    if text in signal.Signals.__members__:
        raise ValueError(f"{text} is refused: a cleanup may be asked for by {', '.join(names)} only")
    raise ValueError(f"{text!r} is not a signal, {nearest(text, names)}")


def http_url(text: str) -> HttpUrl:
    """An http or https URL without credentials; path and query are free."""
    url = _url(text)
    if "@" in urlsplit(url).netloc:
        raise ValueError("credentials in the URL are not sent: give an Authorization header")
    return HttpUrl(url)


def _url(text: str) -> str:
    said = repr(without_credentials(text))
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and (parts.hostname or "").encode("idna") and parts.port != 0
    except ValueError as error:  # a port that is no number, brackets without an IPv6 address, a name with two dots
        raise ValueError(f"{said} is not a URL: {error}") from None
    if not usable or parts.fragment or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(f"{said} is not a URL such as http://127.0.0.1:9093")
    return text


def docker_host(text: str) -> DockerHost:
    """Where a Docker engine listens: `unix:///PATH`, or `tcp://HOST:PORT`, which is not encrypted."""
    if re.fullmatch(r"unix:///[!-~]+", text) and ".." not in text.split("/"):
        return DockerHost(text)
    if text.startswith("tcp://") and text.count("/") == 2:
        try:
            if address(text.removeprefix("tcp://")).port:
                return DockerHost(text)
        except ValueError:
            pass
    raise ValueError(f"{without_credentials(text)!r} is not the address of a Docker engine such as "
                     "unix:///var/run/docker.sock or tcp://127.0.0.1:2375")


def base_url(text: str) -> str:
    """An http or https URL below which paths are added: it has no query."""
    url = _url(text)
    if "?" in url:
        raise ValueError(f"{without_credentials(text)!r} has a query: give scheme, host, port and path prefix only")
    return url.rstrip("/")


def without_credentials(url: str) -> str:
    """`url` as it may be shown: `user:password@` is left out."""
    return re.sub(r"//[^/]*@", "//", url)


def address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT`; port 0 lets the kernel choose."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address: write HOST:PORT, [IPV6]:PORT or :PORT")
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"{text!r}: {host} is not an IPv6 address") from None
        return Address(host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets: [{host}]:{port}")
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"{text!r}: {host!r} is not a host name")
    return Address(host, int(port))


def size_text(size_bytes: int) -> str:
    """A size for people: exact in the largest unit that goes, 1536MiB and not 1.5GiB, else MiB with one decimal."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % UNITS[unit] == 0:
            return f"{size_bytes // UNITS[unit]}{unit}"
    return mib(size_bytes)


def duration_text(seconds: float) -> str:
    """A duration as `duration` reads it."""
    left, words = round(seconds * 1000), []
    for unit, worth in _SECONDS.items():
        many, left = divmod(left, round(worth * 1000))
        if many:
            words.append(f"{many}{unit}")
    return "".join(words) or "0s"
