"""Where a program allocates memory that it keeps: a bounded look with tracemalloc, carried out by the agent in it."""

import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from sidecar.attach.debugger import Refused
from sidecar.attach.injection import INSTEAD, Patient
from sidecar.errors import ProbeFailed
from sidecar.guard.reply import Reply, question
from sidecar.guard.wire import loads
from sidecar.probes.agent_socket import dial

LONGEST_SECONDS = 60
"""The agent looks no longer than this."""
ANSWER_SECONDS = 60.0
"""A summary of many traces takes seconds, and so does a cleanup that is under way."""
PROGRESS_SECONDS = 0.5
READ_BYTES, MOST_SITES, MOST_CHARACTERS = 65536, 30, 120


class Site(NamedTuple):
    """A line of a source file: what was allocated there and is still held."""

    place: str
    size_bytes: int
    blocks: int


class Profile(NamedTuple):
    """What the agent found. `since_before`: tracing was on already, so older allocations are in it. `note`: why it is
    not the whole, "" if it is."""

    sites: tuple[Site, ...]
    since_before: bool
    note: str
    raw: dict[str, Any]

    def largest(self) -> list[Site]:
        """The lines with a hundredth of the whole or more, and all others summed up."""
        least = sum(site.size_bytes for site in self.sites) / 100
        large = [site for site in self.sites if site.size_bytes >= least and site.place != "other"]
        rest = [site for site in self.sites if site not in large]
        summed = Site("all other lines", sum(site.size_bytes for site in rest), sum(site.blocks for site in rest))
        return [*large, summed] if rest else large


def profile(patient: Patient, seconds: int, clock: Callable[[], float], tell: Callable[[float], None],
            directory: str = "") -> Profile:
    """Have the agent in the process look for so many seconds; `tell` hears how many have passed.

    Raises Refused where there is no agent or it does not do it, OSError as the kernel does (EACCES, EPERM).
    """
    with _connected(patient, directory) as line:
        before = _asked(line, "/memory", clock, lambda _: None)
        found = _asked(line, f"/report?seconds={seconds}", clock, tell)
    traced = before.get("tracemalloc")
    return _read(found, isinstance(traced, dict) and traced.get("tracing") is True)


def _connected(patient: Patient, directory: str) -> socket.socket:
    try:
        return dial(patient.pid, patient.check, directory)
    except ProbeFailed as error:
        if error.reason == "absent":
            attach = f"`rag-sidecar attach {patient.pid}` puts one into Python 3.14 and later;"
            raise Refused("no agent answers in it", help=f"{attach}\n  {INSTEAD}") from None
        raise Refused(f"its agent is not used: {error}", help="docs/agent-channel.md: how an agent is known") from None
    except ProcessLookupError:
        raise Refused("it has ended") from None


def _asked(line: socket.socket, path: str, clock: Callable[[], float], tell: Callable[[float], None]) -> dict[str, Any]:
    """One question and its answer. Raises Refused."""
    reply, begun = Reply(), clock()
    line.settimeout(PROGRESS_SECONDS)
    try:
        line.sendall(question("GET", path))
        while not reply.whole:
            passed = clock() - begun
            if passed > LONGEST_SECONDS + ANSWER_SECONDS:
                raise Refused(f"its agent has not answered for {passed:.0f} s", help="is the process stopped?")
            tell(passed)
            try:
                data = line.recv(READ_BYTES)
            except TimeoutError:
                continue
            if not data:
                raise Refused("its agent has hung up: the process is about to end, or the agent was stopped")
            reply.feed(data)
        answer = loads(reply.body)
    except OSError as error:
        raise Refused(f"its agent cannot be asked: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(f"its agent does not answer as one does: {error}", help="is it of another version?") from None
    if reply.status == 409:
        raise Refused("its agent makes another report just now", help="try again when that has ended")
    if reply.status != 200 or not isinstance(answer, dict):
        raise Refused(f"its agent answered {reply.status}", help="is it of another version?")
    return answer


def _read(answer: dict[str, Any], since_before: bool) -> Profile:
    """What of the answer makes sense."""
    found = answer.get("tracemalloc")
    told = found if isinstance(found, dict) else {}
    sites = told.get("sites")
    rows = [Site(_text(each.get("site")), each["size_bytes"], each["blocks"])
            for each in (sites if isinstance(sites, list) else ())[:MOST_SITES]
            if isinstance(each, dict) and all(type(each.get(key)) is int for key in ("size_bytes", "blocks"))]
    return Profile(tuple(sorted(rows, key=lambda row: (row.place == "other", -row.size_bytes))), since_before,
                   _text(told.get("cut_short")), told)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return (text if text.isprintable() else ascii(text))[:MOST_CHARACTERS]
