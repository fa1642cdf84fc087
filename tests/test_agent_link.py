"""The way from the desk to the agents in the targets' processes. Real processes, real sockets, other users."""

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, read_line
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import NOBODY, OWN, TOLD, Obedient, as_nobody, target, values

from sidecar.errors import ProbeFailed
from sidecar.model import Sample
from sidecar.probes import agent_figures, agent_talk
from sidecar.probes.agent import Agents, Handover, Reach
from sidecar.probes.agent_socket import dial
from sidecar.probes.sampler import Sampler


def alive() -> None:
    """A process of which nobody says that it has ended."""


def reach(pid: int, place: Path | str) -> str:
    """`ok`, or the reason why the agent in this process is not used."""
    try:
        dial(pid, alive, str(place)).close()
    except ProbeFailed as error:
        return error.reason
    return "ok"


def socket_of(pid: int, place: Path) -> Path:
    """Where the agent of this process listens."""
    return place / f"rag-sidecar-{os.geteuid()}" / f"{pid}.sock"


@pytest.fixture
def sleeper() -> Iterator[Obedient]:
    """A Python that does as it is told."""
    made = Obedient()
    yield made
    made.end()


LISTEN = "import os, socket; s = socket.socket(1); s.bind({path!r}); os.chmod({path!r}, {mode}); s.listen(1)"


def have_listen(process: Obedient, path: Path, mode: int = 0o600) -> None:
    """Have a process listen there."""
    process.do(LISTEN.format(path=str(path), mode=mode))


def folder_for(place: Path) -> Path:
    """The directory of our own agents at that place."""
    folder = place / f"rag-sidecar-{os.geteuid()}"
    folder.mkdir(0o700)
    return folder


def test_agent_of_a_process_is_found_and_connected(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The socket of the process's own agent is reached, and what is said there arrives."""
    made = spawn("odd_agent", "--place", str(tmp_path))
    connected = dial(made.pid, alive, str(tmp_path))
    connected.setblocking(True)
    connected.sendall(b"GET / HTTP/1.1\r\n\r\n")

    assert connected.recv(4096).startswith(b"HTTP/1.1 200 OK")
    connected.close()


def test_process_without_an_agent_has_none(sleeper: Obedient, tmp_path: Path) -> None:
    """Nothing there is nothing wrong."""
    assert reach(sleeper.process.pid, tmp_path) == "absent"


def test_socket_that_nobody_serves_any_more_is_no_agent(sleeper: Obedient, tmp_path: Path) -> None:
    """A file left behind by a process that was killed is passed over."""
    path = folder_for(tmp_path) / f"{sleeper.process.pid}.sock"
    have_listen(sleeper, path)
    sleeper.do("s.close()")

    assert reach(sleeper.process.pid, tmp_path) == "absent"


def test_another_process_under_the_name_is_refused(
    spawn: Callable[..., Target], sleeper: Obedient, tmp_path: Path
) -> None:
    """Whoever listens there must be the process itself: the kernel says who it is."""
    spawn("odd_agent", "--place", str(tmp_path), "--name", str(sleeper.process.pid))

    assert reach(sleeper.process.pid, tmp_path) == "peer"


def test_socket_inherited_from_the_parent_is_not_the_childs(sleeper: Obedient, tmp_path: Path) -> None:
    """A listening socket that a fork took along was made by another process, and is refused for it."""
    folder = folder_for(tmp_path)
    have_listen(sleeper, folder / "before")
    sleeper.do("import os, signal; p = os.fork(); p or (signal.alarm(60), signal.pause(), os._exit(0))")
    pid = int(Path(f"/proc/{sleeper.process.pid}/task/{sleeper.process.pid}/children").read_text())
    (folder / "before").rename(folder / f"{pid}.sock")

    assert reach(pid, tmp_path) == "peer"
    sleeper.do("os.kill(p, 9); os.waitpid(p, 0)")


@pytest.mark.parametrize("component", ["place", "folder", "socket"])
def test_no_link_is_followed(spawn: Callable[..., Target], tmp_path: Path, component: str) -> None:
    """A link at any component of the way, even one that leads to the right socket, is refused."""
    real, place = tmp_path / "real", tmp_path / "place"
    real.mkdir()
    made = spawn("odd_agent", "--place", str(real))
    if component == "place":
        place.symlink_to(real)
    elif component == "folder":
        place.mkdir()
        socket_of(made.pid, place).parent.symlink_to(socket_of(made.pid, real).parent)
    else:
        place.mkdir()
        (folder_for(place) / f"{made.pid}.sock").symlink_to(socket_of(made.pid, real))

    assert reach(made.pid, real) == "ok"
    assert reach(made.pid, place) == "link"


@pytest.mark.parametrize("kind", ["fifo", "file", "directory", "datagram"])
def test_what_is_no_stream_socket_is_refused(sleeper: Obedient, tmp_path: Path, kind: str) -> None:
    """A pipe that nobody writes to, a file or another kind of socket in its place keeps nobody waiting."""
    path = folder_for(tmp_path) / f"{sleeper.process.pid}.sock"
    made = None
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "file":
        path.touch(0o600)
    elif kind == "directory":
        path.mkdir(0o700)
    else:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(str(path))
        path.chmod(0o600)

    assert reach(sleeper.process.pid, tmp_path) == "kind"
    if made:
        made.close()


@pytest.mark.parametrize(("folder_mode", "socket_mode"), [
    (0o777, 0o600), (0o770, 0o600), (0o700, 0o666), (0o700, 0o620)])
def test_what_others_may_write_to_is_refused(
    sleeper: Obedient, tmp_path: Path, folder_mode: int, socket_mode: int
) -> None:
    """In a directory that others may write to anybody could have put the socket there."""
    folder = folder_for(tmp_path)
    folder.chmod(folder_mode)
    have_listen(sleeper, folder / f"{sleeper.process.pid}.sock", socket_mode)

    assert reach(sleeper.process.pid, tmp_path) == "mode"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.parametrize("what", ["folder", "socket"])
def test_what_belongs_to_somebody_else_is_refused(sleeper: Obedient, tmp_path: Path, what: str) -> None:
    """Directory and socket must be those of the process's own user."""
    folder = folder_for(tmp_path)
    path = folder / f"{sleeper.process.pid}.sock"
    have_listen(sleeper, path)
    os.chown(folder if what == "folder" else path, NOBODY, NOBODY)

    assert reach(sleeper.process.pid, tmp_path) == "owner"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_agent_of_another_users_process_is_found_by_root(tmp_path: Path) -> None:
    """The directory is named after the user that the process runs as."""
    tmp_path.chmod(0o777)
    for parent in [tmp_path, *tmp_path.parents][:4]:  # pytest's own folders, one more for each of its workers
        parent.chmod(parent.stat().st_mode | 0o711)
    made = Obedient(user=NOBODY)
    try:
        folder = tmp_path / f"rag-sidecar-{NOBODY}"
        made.do(f"import os; os.mkdir({str(folder)!r}, 0o700)")
        have_listen(made, folder / f"{made.process.pid}.sock")

        assert reach(made.process.pid, tmp_path) == "ok"
    finally:
        made.end()


def test_first_place_that_is_its_own_counts(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """What somebody else has put into an earlier place does not hide the agent in a later one."""
    made = spawn("odd_agent", "--place", "/dev/shm")
    path = folder_for(tmp_path) / f"{made.pid}.sock"
    path.touch()

    assert reach(made.pid, tmp_path) == "ok"


def test_full_queue_keeps_nobody_waiting(sleeper: Obedient, tmp_path: Path) -> None:
    """An agent that lets nobody in is busy, and whoever knocks goes on."""
    path = folder_for(tmp_path) / f"{sleeper.process.pid}.sock"
    have_listen(sleeper, path)
    waiting = []
    for _ in range(10):
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        waiting.append(one)
        try:
            one.connect(str(path))
        except BlockingIOError:
            break

    assert reach(sleeper.process.pid, tmp_path) == "busy"
    for one in waiting:
        one.close()


def test_end_of_the_process_while_it_is_looked_for_is_seen(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Nothing is connected for a process that has ended in between, whoever has its number by then."""
    made = spawn("odd_agent", "--place", str(tmp_path))
    answers = iter([None, ProcessLookupError()])

    def ended_in_between() -> None:
        answer = next(answers)
        if answer:
            raise answer

    with pytest.raises(ProcessLookupError):
        dial(made.pid, ended_in_between, str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chroot")
def test_agent_below_another_root_is_found(sleeper: Obedient, tmp_path: Path) -> None:
    """The places are those that the process sees, not ours."""
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "tmp" / "rag-sidecar-0"
    folder.mkdir(0o700)
    sleeper.do(f"import os, socket; os.chroot({str(tmp_path)!r}); os.chdir('/')")
    have_listen(sleeper, Path(f"/tmp/rag-sidecar-0/{sleeper.process.pid}.sock"))

    assert reach(sleeper.process.pid, "") == "ok"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_agent_in_a_container_is_found(checkout: Path, tmp_path: Path) -> None:
    """In namespaces of its own a process has another number and other directories: these are what counts."""
    inside = "mount -t tmpfs none /dev/shm && exec \"$@\""
    program = [sys.executable, str(checkout / "tests/targets/odd_agent.py"), "--place", "/dev/shm"]
    apart = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", inside, "sh"]
    process = subprocess.Popen([*apart, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert read_line(process, "ready") == "ready"
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        assert b"\nNSpid:\t%d\t1\n" % pid in Path(f"/proc/{pid}/status").read_bytes()

        assert reach(pid, "") == "ok"
    finally:
        process.kill()
        process.communicate()


# The figures that agents tell


class Watching:
    """A sampler that looks for agents, with a clock that is moved on by hand. Lives inside `watching`."""

    def __init__(self, agents: Agents, pid: int) -> None:
        self.agents = agents
        self.now = time.monotonic()
        self.target = target(pid)
        self.sampler = Sampler(OWN, time.monotonic)
        self.sampler.agents = agents
        self.samples: list[Sample] = []

    async def step(self, seconds: float = 1.0) -> dict[str, float]:
        """A tick after so many seconds; its samples by name. What waits on sockets has its turn."""
        self.now += seconds
        self.samples = self.sampler.read([self.target], time.time()).samples
        await asyncio.sleep(0.02)
        return values([sample for sample in self.samples if sample.labels.get("process", "main") == "main"])

    async def until(self, name: str, value: float = 1.0) -> dict[str, float]:
        """Ticks until this series has this value, NaN: until it is gone; the samples of that tick."""
        for _ in range(100):
            found = await self.step()
            if found.get(name) == value or (math.isnan(value) and name not in found):
                return found
        raise AssertionError(f"no {name} of {value} among {sorted(found)}")


def watching(pid: int, place: Path | str, scenario: Callable[[Watching], Awaitable[Any]]) -> Any:
    """Run a scenario with the agents of one process."""
    async def run() -> Any:
        async def sleep(_: float) -> None:
            await asyncio.sleep(0.01)

        made: list[Watching] = []
        async with Agents({"rag": Reach(str(place), 1.0)}, sleep, lambda: made[0].now) as agents:
            made.append(Watching(agents, pid))
            return await scenario(made[0])

    return asyncio.run(run())


def test_everything_that_an_agent_tells_becomes_series(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Each figure under the name that docs/metrics.md has for it; what the agent is stands in rag_agent_info."""
    made = spawn("odd_agent", "--place", str(tmp_path), "--memory", json.dumps(TOLD))
    found = watching(made.pid, tmp_path, lambda watch: watch.until("rag_requests_total", 42.0))

    assert found["rag_agent_up"] == found["rag_agent_info glibc 1 0.0.1"] == 1.0
    assert found["rag_sidecar_attach_capability agent"] == 1.0
    assert found["rag_python_gc_pause_seconds_total 2"] == 0.5
    assert found["rag_malloc_releasable_bytes"] == 2.0
    assert found["rag_torch_reserved_bytes cuda cuda:0"] == 20.0
    assert found["rag_torch_device_memory_bytes cuda cuda:0 total"] == 200.0
    assert found["rag_torch_device_info cuda cuda:0 A100 u"] == 1.0
    assert found["rag_tracemalloc_tracing"] == 0.0
    assert found["rag_cache_hits_total answers"] == 8.0
    assert found["rag_model_memory_bytes cpu reranker measured"] == 99.0
    assert found["rag_model_loaded reranker"] == 1.0
    names = {metric.name for metric in agent_figures.METRICS}
    assert names <= {name.split()[0] for name in found}


def test_figures_of_the_collector_are_not_told_twice(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """What is read from outside stays as it is; the agent adds what cannot be read there."""
    made = spawn("odd_agent", "--place", str(tmp_path), "--memory", json.dumps(TOLD))

    async def look(watch: Watching) -> list[Sample]:
        await watch.until("rag_requests_total", 42.0)
        return watch.samples

    samples = watching(made.pid, tmp_path, look)
    assert len({sample.labels for sample in samples}) == len(samples)
    thresholds = [sample.value for sample in samples if sample.labels.metric == "rag_python_gc_threshold"]
    assert thresholds == [700.0, 10.0, 10.0]


def test_end_of_an_agent_ends_its_series(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """rag_agent_up is 0 from then on, nothing else of it is told, and it is found again when it is back."""
    made = spawn("odd_agent", "--place", str(tmp_path), "--memory", json.dumps(TOLD), "--stoppable")

    async def stop(watch: Watching) -> tuple[dict[str, float], list[Any]]:
        await watch.until("rag_requests_total", 42.0)
        os.kill(made.pid, 12)
        found = await watch.until("rag_agent_up", 0.0)
        return found, watch.agents.present("rag")

    found, present = watching(made.pid, tmp_path, stop)
    assert "rag_requests_total" not in found
    assert "rag_agent_info glibc 1 0.0.1" not in found
    assert found["rag_sidecar_attach_capability agent"] == 0.0
    assert present == []


def test_process_without_an_agent_tells_nothing_of_one(sleeper: Obedient, tmp_path: Path) -> None:
    """No agent is no trouble: there is no series but the capability."""
    found = watching(sleeper.process.pid, tmp_path, lambda watch: watch.step())

    assert not [name for name in found if name.startswith("rag_agent")]
    assert found["rag_sidecar_attach_capability agent"] == 0.0


@pytest.mark.parametrize(("answer", "reason"), [
    ("garbage", "parse"), ("endless", "parse"), ("interim", "parse"), ("huge", "parse"), ("more", "parse"),
    ("deep", "parse"), ("chunked", "parse"), ("list", "protocol"), ("error", "status"), ("nothing", "timeout"),
    ("drip", "timeout"), ("memory-garbage", "parse"), ("memory-list", "protocol"), ("memory-error", "status"),
    ("memory-nothing", "timeout")])
def test_odd_answers_are_counted_and_nothing_of_them_told(
    spawn: Callable[..., Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, reason: str
) -> None:
    """Whatever listens there instead of an agent: a reason, no figures, and no more memory than an answer may have."""
    monkeypatch.setattr(agent_talk, "ANSWER_SECONDS", 0.3)
    made = spawn("odd_agent", "--place", str(tmp_path), "--answer", answer)

    async def look(watch: Watching) -> dict[str, float]:
        for _ in range(200):
            found = await watch.step(0.1)
            if found.get(f"rag_agent_errors_total {reason}"):
                return found
        raise AssertionError(sorted(found))

    found = watching(made.pid, tmp_path, look)
    assert found.get("rag_agent_up", 0.0) == 0.0
    assert not [name for name in found if name.startswith(("rag_malloc", "rag_agent_info"))]


def test_newer_protocol_is_used_as_far_as_it_is_known(
    spawn: Callable[..., Target], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its figures count, and that it is newer is said once."""
    made = spawn("odd_agent", "--place", str(tmp_path), "--answer", "newer", "--memory", json.dumps({**TOLD, "new": 1}))

    async def look(watch: Watching) -> None:
        await watch.until("rag_requests_total", 42.0)
        await watch.step()
        os.kill(made.pid, 19)
        os.kill(made.pid, 18)

    with caplog.at_level(logging.WARNING):
        watching(made.pid, tmp_path, look)
    assert [record.message for record in caplog.records if "protocol" in record.message] == [
        "an agent speaks a newer protocol: what is known of it is used"]


def test_names_without_end_make_no_series_without_end() -> None:
    """The first 32 caches that a process has named are shown, whatever it names later."""
    talk = agent_talk.Talk(socket.socket(), 1.0, time.monotonic)
    shown = set()
    for number in range(100):
        rows = agent_figures.figures({"caches": [{"cache": f"c{number}", "entries": 1}]})
        shown |= {key for key in rows if talk.is_known(key)}

    assert len(shown) == 32
    talk.close()


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                        st.sampled_from([*TOLD, *TOLD["caches"][0], *TOLD["models"][0], *TOLD["torch"][0],
                                         "generations"]),
                        inner, max_size=6), max_leaves=30)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*TOLD]), JSON, max_size=8) | JSON)
def test_whatever_an_agent_tells_gives_figures_that_can_be_true(told: Any) -> None:
    """No figure is negative, infinite or no number; no label is empty, long or unprintable; nothing is raised."""
    try:
        rows = agent_figures.figures(told)
    except ProbeFailed:
        return
    for (metric, *labels), value in rows.items():
        assert metric.startswith("rag_")
        assert 0 <= value < math.inf
        assert all(len(label) <= 100 and label.isprintable() for label in labels)


@given(JSON)
def test_whatever_an_agent_says_at_first_is_an_introduction_or_none(told: Any) -> None:
    """Only what names a protocol is an agent, and only signals that may be announced are taken from it."""
    try:
        hello = agent_figures.hello({"protocol": 1, "signals": told} if isinstance(told, dict) else told)
    except ProbeFailed:
        return
    assert hello.protocol >= 1
    assert set(hello.signals.values()) <= {10, 12}


def test_agent_is_looked_for_ever_more_seldom(
    sleeper: Obedient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1, 2, 4 … 30 seconds; and at once when the process has a new thread, which an agent's may be."""
    looks: list[float] = []

    async def count(watch: Watching) -> None:
        begun = watch.now
        monkeypatch.setattr("sidecar.probes.agent.dial", lambda *_: looks.append(watch.now - begun) or absent())
        for _ in range(100):
            await watch.step()
        sleeper.do("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
        await watch.step()

    watching(sleeper.process.pid, tmp_path, count)
    assert [round(at) for at in looks] == [1, 2, 4, 8, 16, 32, 62, 92, 101]


def absent() -> Any:
    """What is found where there is no agent."""
    raise ProbeFailed("absent", "no agent")


def test_guard_gets_a_socket_at_once_and_a_new_one_now_and_then(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Before the agent closes it as idle; at once when the guard has lost it; none to an agent that is not there."""
    made = spawn("odd_agent", "--place", str(tmp_path), "--stoppable")

    async def hand_over(watch: Watching) -> list[int]:
        counts = [len(take(watch))]
        await watch.until("rag_agent_up")
        for seconds in (0.0, 1.0, 40.0):
            watch.now += seconds
            counts.append(len(take(watch)))
        watch.agents.note_unlinked("rag", made.pid)
        counts.append(len(take(watch)))
        os.kill(made.pid, 12)
        while watch.agents.present("rag"):
            await watch.step()
        watch.now += 40.0
        return [*counts, len(take(watch))]

    def take(watch: Watching) -> list[Handover]:
        found = list(watch.agents.handovers("rag"))
        for each in found:
            assert (each.process, each.pid) == ("main", made.pid)
            each.connected.close()
        return found

    assert watching(made.pid, tmp_path, hand_over) == [0, 1, 0, 1, 1, 0]


def test_real_agent_is_understood(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """What the agent of this package tells arrives: its figures, its caches, its signals."""
    made = spawn("cared_for", "--place", str(tmp_path))

    async def look(watch: Watching) -> tuple[dict[str, float], list[Any]]:
        found = await watch.until("rag_cache_entries answers", 2.0)
        return found, watch.agents.present("rag")

    found, present = watching(made.pid, tmp_path, look)
    assert found["rag_python_allocated_blocks"] > 0
    assert found["rag_python_gc_pause_seconds_total 2"] >= 0
    assert dict(present[0].signals) == {"standard": 10, "aggressive": 12}


def test_real_agent_is_found_by_its_own_user_without_any_capability(tmp_path: Path) -> None:
    """Same user, nothing else: that is enough, and another user's process is out of reach."""
    def look() -> tuple[str, str]:
        made = Obedient()
        try:
            place = Path("/dev/shm") / f"rag-sidecar-{os.geteuid()}"
            place.mkdir(0o700, exist_ok=True)
            path = place / f"{made.process.pid}.sock"
            have_listen(made, path)
            with contextlib.ExitStack() as stack:
                stack.callback(path.unlink)
                found = reach(made.process.pid, "")
            try:
                other = reach(1, "")
            except PermissionError:
                other = "permission"
            return found, other
        finally:
            made.end()

    assert list(as_nobody(look)) == ["ok", "permission"]
