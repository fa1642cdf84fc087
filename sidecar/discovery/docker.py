"""Asks a Docker engine which containers are meant, and again whenever they change: `python -m` this module.

It is a program of its own because the SDK takes 13 MiB, waits, and holds whole answers in memory. What it is to do
comes as one line of JSON on stdin, what it finds goes as such lines to stdout; it ends when stdin does. Whoever may
use an engine's socket is root on its machine, so no request but GET /version, /events, /containers/json and
/containers/ID/json is ever made. What the engine answers is untrusted: docs.docker.com/reference/api/engine has it.
"""

import json
import logging
import os
import re
import resource
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any

from sidecar.discovery.container import Container, Exit
from sidecar.errors import printable

MOST_DATA_BYTES = 384 << 20
"""An engine whose answers take more memory is given up."""
MOST_EVENT_BYTES = 1 << 20
ANSWER_SECONDS, LOOK_SECONDS = 10.0, 60.0
"""So long an answer may take; so long after the last event the engine is asked nevertheless: is it still there?"""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
TOLD = ("create", "start", "die", "oom", "update", "rename", "destroy")
SERVICE, PROJECT, ONE_OFF = (f"com.docker.compose.{word}" for word in ("service", "project", "oneoff"))
NOT_UNDERSTOOD = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What an answer that is not an engine's may lead to, in the SDK too."""

Wanted = Mapping[str, Any]
"""How a container is named: `container`, or `service` and perhaps `project`, or `label`; see `ByDocker.words`."""


class Trouble(Exception):
    """The engine cannot be asked, or no longer; the message says why. `served`: it had answered everything before."""

    def __init__(self, why: str, *, served: bool = False) -> None:
        super().__init__(why)
        self.served = served


def container_of(answer: Any, others: int = 0, seen: Exit | None = None) -> Container:
    """What is kept of the answer to GET /containers/ID/json; `seen` is the end that was told of last.

    Raises one of NOT_UNDERSTOOD where it is none.
    """
    state, config, host = answer["State"], answer["Config"], answer["HostConfig"]
    labels = config["Labels"] or {}
    if not re.fullmatch(r"[0-9a-f]{64}", answer["Id"]):
        raise ValueError("a container's id is 64 hexadecimal digits")
    pid, last = _number(state["Pid"]), seen
    if not pid and state["Status"] != "created":
        oom = state["OOMKilled"] is True or (seen is not None and seen.oom_killed)
        last = Exit(_number(state["ExitCode"]), oom)
    return Container(
        answer["Id"], printable(answer["Name"].removeprefix("/")), printable(config["Image"]),
        printable(labels.get(SERVICE, "")), printable(labels.get(PROJECT, "")), pid,
        _number(answer["RestartCount"]), _number(host["Memory"]), last, others)


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError("a number of 0 and more is expected")
    return value


def choose(listed: Sequence[Any], wanted: Wanted) -> tuple[str, int] | str:
    """The id of the container that is meant by labels, and how many more there are; or why none is.

    Of those that run the oldest, else the newest. `docker compose run` makes containers that do not count.
    """
    fit = [each for each in listed if (each["Labels"] or {}).get(ONE_OFF) != "True"]
    if not fit:
        return f"no container has {' and '.join(labels_of(wanted))}"
    projects = sorted({each["Labels"].get(PROJECT, "") for each in fit})
    if len(projects) > 1 and "service" in wanted:
        names = printable(", ".join(projects))
        return f"the service {wanted['service']} is in {len(projects)} projects ({names}): say which with 'project'"
    running = [each for each in fit if each["State"] == "running"]
    oldest = sorted(running or fit, key=lambda each: (each["Created"], each["Id"]))
    return oldest[0 if running else -1]["Id"], len(running or fit) - 1


def labels_of(wanted: Wanted) -> list[str]:
    """The labels that a container must have, as the engine's filter takes them."""
    if "service" in wanted:
        project = [f"{PROJECT}={wanted['project']}"] if wanted.get("project") else []
        return [f"{SERVICE}={wanted['service']}", *project]
    return [f"{name}={value}" for name, value in wanted.get("label", {}).items()]


class Changes:
    """What events say has changed. One thread notes them, another takes them; never more than there are targets."""

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        self.ids: dict[str, str] = {}
        self._wanted = wanted
        self._changed: set[str] = set()
        self._oom: dict[str, str] = {}
        self._exits: dict[str, tuple[str, Exit]] = {}
        self._over = ""
        self._news = threading.Condition()

    def note(self, event: Any) -> None:
        """An event of the engine. Raises one of NOT_UNDERSTOOD for something else."""
        action, actor = event["Action"], event["Actor"]
        container, attributes = actor["ID"], actor["Attributes"]
        for name, wanted in self._wanted.items():
            if container != self.ids.get(name) and not fits(attributes, wanted):
                continue
            with self._news:
                if action == "oom":
                    self._oom[name] = container
                elif action == "start" and self._oom.get(name) == container:
                    del self._oom[name]
                elif action == "die":
                    last = Exit(int(attributes["exitCode"]), self._oom.get(name) == container)
                    self._exits[name] = container, last
                self._changed.add(name)
                self._news.notify()

    def end(self, why: str) -> None:
        """No more events come."""
        with self._news:
            self._over = why
            self._news.notify()

    def wait(self, seconds: float) -> list[str]:
        """The targets about which there is news; all of them if there is none for so long. Raises Trouble at the end.
        """
        with self._news:
            self._news.wait_for(lambda: self._changed or self._over, seconds)
            if self._over:
                raise Trouble(self._over, served=True)
            found, self._changed = sorted(self._changed), set()
            return found or sorted(self._wanted)

    def last_exit(self, name: str, container: str) -> Exit | None:
        """How this container of a target ended last, if an event told."""
        with self._news:
            of, last = self._exits.get(name, ("", None))
            return last if of == container else None


def fits(attributes: Mapping[str, str], wanted: Wanted) -> bool:
    """Whether an event's attributes, which hold the container's name and labels, are those of what is wanted."""
    if "container" in wanted:
        return attributes.get("name") == str(wanted["container"])
    labels = (label.partition("=") for label in labels_of(wanted))
    return all(attributes.get(name) == value for name, _, value in labels)


def events_in(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The events of a stream that has one in each line. Raises ValueError for something else."""
    buffer = b""
    for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > MOST_EVENT_BYTES:
            raise ValueError("an event is longer than 1 MiB")
        for line in lines:
            if line.strip():
                yield json.loads(line)


def meet(host: str) -> tuple[Any, str]:
    """The SDK's client for an engine that has answered, and its version. Raises Trouble."""
    try:
        from docker import APIClient  # type: ignore[import-untyped]
        from docker.errors import DockerException  # type: ignore[import-untyped]
    except ImportError as error:
        raise Trouble(f"the Python package docker is not installed ({error}): pip install docker") from None
    try:
        client = APIClient(base_url=host, timeout=ANSWER_SECONDS)
        about = client.version()
        return client, printable(f"{about['Version']}, API {about['ApiVersion']}")
    except (DockerException, OSError, *NOT_UNDERSTOOD) as error:  # those of requests are OSErrors
        raise Trouble(_reason(error)) from None


def follow(client: Any, wanted: Mapping[str, Wanted]) -> None:
    """Tell which containers are meant, now and whenever that changes. Raises Trouble as soon as that cannot be."""
    from docker.errors import DockerException

    changes = Changes(wanted)
    try:
        stream = client.events(filters={"type": "container", "event": list(TOLD)}, decode=False)
        threading.Thread(target=_listen, args=(stream, changes), daemon=True).start()
        try:
            names = sorted(wanted)
            while True:
                for name in names:
                    _look(client, name, wanted[name], changes)
                names = changes.wait(LOOK_SECONDS)
        finally:
            with suppress(OSError, *NOT_UNDERSTOOD):  # it has ended already
                stream.close()
    except (DockerException, OSError, *NOT_UNDERSTOOD) as error:
        raise Trouble(_reason(error)) from None


def _listen(stream: Iterable[bytes], changes: Changes) -> None:
    """Note what a stream of events says, until it ends."""
    why = "it has hung up"
    try:
        for event in events_in(stream):
            changes.note(event)
    except (OSError, *NOT_UNDERSTOOD) as error:
        why = _reason(error)
    except MemoryError:
        os._exit(os.EX_SOFTWARE)
    changes.end(why)


def _look(client: Any, name: str, wanted: Wanted, changes: Changes) -> None:
    """Ask for the container of one target, and tell."""
    from docker.errors import NotFound

    meant: tuple[str, int] | str = (wanted["container"], 0) if "container" in wanted else choose(
        client.containers(all=True, filters={"label": labels_of(wanted)}), wanted)
    if not isinstance(meant, str):
        try:
            answer = client.inspect_container(meant[0])
            found = container_of(answer, meant[1], changes.last_exit(name, answer["Id"]))
        except NotFound:
            meant = f"there is no container {meant[0]}"
        else:
            changes.ids[name] = found.id
            tell(target=name, container=found)
            return
    changes.ids.pop(name, None)
    tell(target=name, why=meant)


def _reason(error: BaseException) -> str:
    """The innermost cause that says something: the SDK's libraries wrap a refused connection four times."""
    while True:
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        inner = before or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    said = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    if isinstance(error, MemoryError):
        return f"its answer takes more than {MOST_DATA_BYTES >> 20} MiB"
    if isinstance(error, (HTTPException, *NOT_UNDERSTOOD)) and not isinstance(error, OSError):
        return f"its answer is not one of a Docker engine ({said})"
    return said


def tell(**what: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(os.EX_OK)


def main() -> int:
    """Follow until stdin ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA_BYTES, MOST_DATA_BYTES))
    logging.disable()  # what the libraries remark about a connection is told as trouble
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    pause = 0.0
    while True:
        try:
            client, version = meet(asked["host"])
            tell(engine=version)
            follow(client, asked["wanted"])
        except Trouble as trouble:
            tell(trouble=str(trouble))
            pause = max(FIRST_PAUSE_SECONDS, 0.0 if trouble.served else min(2 * pause, LONGEST_PAUSE_SECONDS))
        except MemoryError:
            return os.EX_SOFTWARE
        threading.Event().wait(pause)


if __name__ == "__main__":
    sys.exit(main())
