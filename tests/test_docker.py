"""Finding a container's process through the engine, and following it. A real HTTP server plays a recorded engine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, read_line, wait_until
from engines import Engine, events, listening, recorded
from servers import end, free_port
from sidecars import Sidecar, config, refused, running_sidecar

from sidecar.config import Overrides, load, rows
from sidecar.discovery.container import METRICS, Container, Exit, first_process
from sidecar.discovery.docker import MOST_EVENT_BYTES, Changes, choose, container_of, events_in, fits
from sidecar.discovery.engine import Engine as Desk
from sidecar.discovery.match import ByDocker
from sidecar.discovery.roster import Roster, Wanted
from sidecar.errors import ConfigError
from sidecar.model import Labels

BASE = Labels({"target": "rag", "job": "sidecar"})
SERVICE, PROJECT = "com.docker.compose.service", "com.docker.compose.project"
V1 = Path("/sys/fs/cgroup/memory")
ID = f"{1:064x}"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that does not listen yet."""
    return Engine(tmp_path / "docker.sock")


# What the engine says


def test_what_is_kept_of_a_running_container() -> None:
    """Names, limit and pid as the engine gives them; how it ended is not known before it has."""
    found = container_of(recorded("running"))

    assert found == Container(recorded("running")["Id"], "rag", "tiny:1", "rag", "shop", found.pid, 0, 64 << 20, None)
    assert found.pid > 1


@pytest.mark.parametrize(("name", "last"), [
    ("created", None), ("stopped", Exit(137, False)), ("oom", Exit(137, True))])
def test_how_a_container_has_ended(name: str, last: Exit | None) -> None:
    """A stop that took SIGKILL is told from a kill for want of memory, although both end with 137."""
    found = container_of(recorded(name))

    assert (found.pid, found.last_exit) == (0, last)


@pytest.mark.parametrize("wrong", [
    None, [], {}, {"Id": "x"}, *({**recorded("running"), **more} for more in (
        {"Id": "../" + "0" * 61}, {"Id": 7}, {"State": None}, {"State": {"Pid": -1}}, {"State": {"Pid": "1"}},
        {"Name": 7}, {"RestartCount": True}, {"HostConfig": {"Memory": 1 << 80}}, {"Config": {"Labels": ["a"]}}))])
def test_an_answer_that_is_none_is_refused(wrong: Any) -> None:
    """Whatever listens on the socket, its answer is taken only if it has the form of an engine's."""
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, IndexError)):
        container_of(wrong)


def test_names_of_a_container_are_harmless() -> None:
    """An image's or container's name, however long or odd, is short and printable where people see it."""
    odd = recorded("running") | {"Name": "/rag\x1b[2J" + "x" * 9999}

    assert container_of(odd).name.startswith("rag\\x1b[2J")
    assert len(container_of(odd).name) < 250


def test_recorded_events_tell_of_every_end() -> None:
    """A kill for want of memory is seen by its events, also where a policy has started the container again by then."""
    changes, seen = Changes({"rag": {"container": "rag"}}), []
    for event in events():
        changes.note(event)
        if event["Action"] == "die":
            assert changes.wait(0) == ["rag"]
            seen.append(changes.last_exit("rag", event["Actor"]["ID"]))

    assert seen == [Exit(137, False)] * 3 + [Exit(137, True)] * 4
    assert changes.last_exit("rag", ID) is None


@pytest.mark.parametrize(("wanted", "fit"), [
    ({"container": "rag"}, True), ({"container": "ra"}, False), ({"service": "rag"}, True),
    ({"service": "rag", "project": "shop"}, True), ({"service": "rag", "project": "other"}, False),
    ({"label": {"team": "search"}}, True), ({"label": {"team": "search", "gone": "x"}}, False)])
def test_events_of_other_containers_cost_nothing(wanted: dict[str, Any], fit: bool) -> None:
    """Only what happens to a container that is named has the engine asked again."""
    attributes = next(each["Actor"]["Attributes"] for each in events() if "team" in each["Actor"]["Attributes"])

    assert fits(attributes, wanted) is fit


def entry(number: int, state: str = "running", **labels: str) -> dict[str, Any]:
    """A line of `GET /containers/json`."""
    return {**recorded("listed")[0], "Id": f"{number:064x}", "Created": number, "State": state,
            "Labels": {SERVICE: "rag", PROJECT: "shop", **labels}}


@pytest.mark.parametrize(("listed", "meant"), [
    ([entry(3), entry(2), entry(1, "exited")], (f"{2:064x}", 1)),
    ([entry(1, "exited"), entry(2, "exited")], (f"{2:064x}", 1)),
    ([entry(1, **{"com.docker.compose.oneoff": "True"}), entry(2)], (f"{2:064x}", 0)),
    ([], "no container has com.docker.compose.service=rag"),
    ([entry(1), entry(2, **{PROJECT: "other"})],
     "the service rag is in 2 projects (other, shop): say which with 'project'")])
def test_which_container_is_meant(listed: list[Any], meant: object) -> None:
    """Of several that run the oldest, else the newest; a one-off does not count; two projects are not guessed about."""
    assert choose(listed, {"service": "rag"}) == meant


def test_events_however_they_arrive() -> None:
    """Events are told apart by lines, not by packets; what never ends is given up."""
    assert list(events_in([b'{"a"', b': 1}\n{"b": 2}\n\n', b"{}\n"])) == [{"a": 1}, {"b": 2}, {}]
    with pytest.raises(ValueError, match="longer"):
        list(events_in([b"x" * MOST_EVENT_BYTES, b"x"]))


# The process that asks


@contextmanager
def asking(host: str, wanted: Mapping[str, Any], **constants: float) -> Iterator[Callable[[], Any]]:
    """The program that asks, with short pauses and other constants: what reads its next line."""
    constants = {"FIRST_PAUSE_SECONDS": 0.02, "LONGEST_PAUSE_SECONDS": 0.02, **constants}
    code = ("import sys; from sidecar.discovery import docker; "
            f"vars(docker).update({constants}); sys.exit(docker.main())")
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, "NO_PROXY": "*"})
    assert process.stdin
    process.stdin.write(json.dumps({"host": host, "wanted": wanted}).encode() + b"\n")
    process.stdin.flush()
    try:
        yield lambda: json.loads(read_line(process, "a line"))
    finally:
        end(process)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_only_harmless_requests_are_made(tmp_path: Path, tcp: bool) -> None:
    """Whoever may use the socket is root there, so nothing is asked for but GETs of four paths."""
    engine = Engine(tmp_path / "docker.sock", free_port() if tcp else 0)
    engine.run("rag", 7)
    with listening(engine), asking(engine.host, {"a": {"container": "rag"}, "b": {"service": "rag"}}) as line:
        assert [line()["engine"], line()["target"], line()["target"]] == ["20.10.24+dfsg1, API 1.41", "a", "b"]
        engine.tell("start", engine.run("rag", 8))
        assert [line()["container"][5] for _ in "ab"] == [8, 8]

    assert {method for method, _ in engine.asked} == {"GET"}
    assert {path.removeprefix("/v1.41") for _, path in engine.asked} == {
        "/version", "/events", "/containers/json", "/containers/rag/json", f"/containers/{ID}/json"}


def test_what_is_no_engine_is_said_and_asked_again(engine: Engine) -> None:
    """Garbage, refusals, silence and hang-ups end nothing: each is told in words, and later the engine is used."""
    json_of = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s"
    texts = {b"": "closed", b"garbage\r\n\r\n": "not one of a Docker engine (garbage",
             json_of % (b"200 OK", 2, b"[]"): "not one of",
             json_of % (b"200 OK", 2, b"{}"): "not one of", json_of % (b"403 Forbidden", 4, b"null"): "403",
             json_of % (b"200 OK", 23, b'{"ApiVersion": "a.b.c"}'): "not one of"}
    engine.run("rag", 7)
    with asking(engine.host, {"rag": {"service": "rag"}}, ANSWER_SECONDS=0.3) as line:
        assert line() == {"trouble": "No such file or directory"}
        with listening(engine):
            for text, said in texts.items():
                engine.instead = text
                told = [line() for _ in range(8)]
                assert said in told[-1]["trouble"]
            engine.instead, engine.waits_seconds = None, 0.5
            wait_until(lambda: "timed out" in line().get("trouble", ""), 10, "it to be told as slow")
            engine.waits_seconds = 0.0
            wait_until(lambda: "container" in line(), 10, "the container")
            engine.say(b"no event\n")
            assert "not one of a Docker engine" in line()["trouble"]
            assert "container" in [line() for _ in range(2)][1]
            engine.say(None)
            assert line() == {"trouble": "it has hung up"}
            wait_until(lambda: "container" in line(), 10, "the container again")


def test_an_endless_answer_is_given_up(engine: Engine) -> None:
    """What an engine sends takes memory of the program that asks alone, and that up to a bound."""
    engine.instead = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"[" * 99999999
    with listening(engine), asking(engine.host, {}, MOST_DATA_BYTES=64 << 20) as line:
        assert line() == {"trouble": "its answer takes more than 64 MiB"}
        engine.instead = None
        wait_until(lambda: "engine" in line(), 20, "it to answer as an engine")


def test_ten_thousand_containers(engine: Engine) -> None:
    """Of 10,000 replicas the oldest is found, within the bound on memory."""
    for number in range(10_000, 0, -1):
        engine.containers[f"{number:064x}"] = {**recorded("running"), "Id": f"{number:064x}"} if number == 1 else {
            "Id": f"{number:064x}", "Name": f"/rag-{number}", "State": {"Status": "running"},
            "Config": {"Labels": {SERVICE: "rag", PROJECT: "shop", "more": "x" * 500}}}
    with listening(engine), asking(engine.host, {"rag": {"service": "rag"}}) as line:
        assert "engine" in line()
        assert line()["container"][:2] == [ID, "rag"]


# Its process here


def pictured(folder: Path, container: str, **pids: int) -> str:
    """A /proc in which these numbers are these real processes, all of them in a container of this id; "" of none."""
    for number, pid in pids.items():
        home = folder / number.removeprefix("p")
        home.mkdir(parents=True)
        (home / "cgroup").write_text(f"4:memory:/docker/{container}\n0::/../docker-{container}.scope\n" if container
                                     else "0::/user.slice\n")
        for name in ("stat", "exe", "comm", "task"):
            (home / name).symlink_to(f"/proc/{pid}/{name}")
    return str(folder)


CONTAINER = container_of(recorded("running"))


@pytest.fixture
def two(spawn: Callable[..., Target]) -> tuple[int, int]:
    """Two processes, the older one first."""
    return spawn("leaky").pid, spawn("leaky").pid


def test_engines_number_counts_only_within_the_container(two: tuple[int, int], tmp_path: Path) -> None:
    """In another pid namespace the engine's number is somebody else's: the oldest one of the container is taken."""
    old, young = two
    here = pictured(tmp_path / "same", CONTAINER.id, p700=old, p800=young)
    elsewhere = pictured(tmp_path / "other", CONTAINER.id, p1=young, p9=old)
    pictured(tmp_path / "other", "f" * 64, p700=old)

    assert first_process(CONTAINER._replace(pid=800), lambda: False, here) == 800
    assert first_process(CONTAINER._replace(pid=700), lambda: True, elsewhere) == 9
    assert first_process(CONTAINER._replace(pid=700), lambda: False, elsewhere) is None
    assert first_process(CONTAINER._replace(pid=0), lambda: True, here) is None
    assert first_process(CONTAINER._replace(id="e" * 64), lambda: True, here) is None


def test_an_init_stands_for_its_first_child(tmp_path: Path) -> None:
    """`docker run --init`: what is watched is the program, not the init that would swallow its signals."""
    code = ("import subprocess, sys; open('/proc/self/comm', 'w').write('docker-init'); "
            "subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()']).wait()")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        read_line(process, "the child to be there")
        (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        proc = pictured(tmp_path, CONTAINER.id, **{f"p{process.pid}": process.pid, f"p{child}": child})
        assert first_process(CONTAINER._replace(pid=process.pid), lambda: False, proc) == child
    finally:
        process.communicate(b"\n")


# The desk


def on_a_desk(test: Callable[[Desk], Awaitable[None]]) -> None:
    """Run it with the desk's side, which it ends."""
    async def run() -> None:
        async with Desk(lambda _: asyncio.sleep(0.02)) as desk:
            await test(desk)

    asyncio.run(run())


async def until(true: Callable[[], Any], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


def figures(desk: Desk) -> dict[str, float]:
    """Metric → value of what is told of the one target."""
    return {sample.labels.metric: sample.value for sample in desk.samples({"rag": BASE}, 5.0)}


def test_a_container_is_followed_through_its_lives(
        engine: Engine, two: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Started, restarted, killed for memory, removed, made anew, its engine away and back: always the process it is."""
    old, young = two
    proc = pictured(tmp_path / "proc", ID, **{f"p{old}": old, f"p{young}": young})
    roster = Roster([Wanted("rag", BASE, ByDocker(service="rag"))], frozenset(), proc)

    def pid() -> int | None:
        [target] = roster.update()
        return target.identity.pid if target.identity else None

    async def lives(desk: Desk) -> None:
        roster.engine = desk
        desk.change(engine.host, {"rag": ByDocker(service="rag")})
        await until(lambda: "No such file" in desk.trouble, "the engine to be missed")
        assert pid() is None
        assert figures(desk) == {"rag_sidecar_docker_up": 0}
        with listening(engine):
            engine.run("rag", old)
            await until(lambda: pid() == old, "the process")
            assert figures(desk) == {"rag_sidecar_docker_up": 1, "rag_container_info": 1, "rag_container_running": 1,
                                     "rag_container_restarts_total": 0, "rag_container_memory_limit_bytes": 64 << 20}
            engine.tell("oom", engine.run("rag", 0, "oom"))
            engine.tell("die", engine.run("rag", 0, "oom"), exitCode="137")
            await until(lambda: figures(desk).get("rag_container_last_exit_oom_killed") == 1, "the kill")
            assert figures(desk)["rag_container_running"] == 0
            os.kill(old, signal.SIGKILL)
            engine.tell("start", engine.run("rag", young))
            await until(lambda: pid() == young, "the process that came after")
            assert figures(desk)["rag_container_last_exit_code"] == 137
            engine.tell("destroy", engine.containers.pop(ID))
            await until(lambda: "rag_container_running" not in figures(desk), "the end of what is told of it")
            assert desk.find("rag") == f"no container has {SERVICE}=rag"
            engine.tell("start", engine.run("rag", young))
            await until(lambda: "rag_container_running" in figures(desk), "the container")
        await until(lambda: desk.trouble, "the engine's end")
        assert figures(desk) == {"rag_sidecar_docker_up": 0}
        assert pid() == young
        assert isinstance(desk.find("rag"), Container)

    on_a_desk(lives)
    assert [each.reason for each in caplog.records if each.msg == "target"] == [f"no container has {SERVICE}=rag"]
    troubles = [each.trouble for each in caplog.records if each.msg == "docker"]
    assert len(troubles) == len(set(troubles)) == 2


def test_other_wishes_take_effect(engine: Engine) -> None:
    """After a reload other containers are followed; with none left nobody asks any more."""
    async def reloads(desk: Desk) -> None:
        engine.run("rag", 7)
        engine.run("other", 8, number=2)
        with listening(engine):
            desk.change(engine.host, {"rag": ByDocker(container="rag")})
            await until(lambda: isinstance(desk.find("rag"), Container), "the container")
            desk.change(engine.host, {"b": ByDocker(container="other"), "rag": ByDocker(container="rag")})
            assert isinstance(desk.find("rag"), Container)
            await until(lambda: isinstance(desk.find("b"), Container), "the other one")
            desk.change(engine.host, {})
            await until(lambda: not children(), "the end of the program")

    on_a_desk(reloads)


def test_the_program_that_asks_is_started_again(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever kills it, or starves it of memory, is told, and containers are followed on."""
    async def dies(desk: Desk) -> None:
        engine.run("rag", 7)
        with listening(engine):
            desk.change(engine.host, {"rag": ByDocker(container="rag")})
            await until(lambda: isinstance(desk.find("rag"), Container), "the container")
            [first] = children()
            os.kill(int(first), signal.SIGKILL)
            await until(lambda: desk.trouble, "its end")
            await until(lambda: not desk.trouble and children() not in ([], [first]), "the next one")

    on_a_desk(dies)
    assert [each.trouble for each in caplog.records if each.msg == "docker"] == [
        "the program that asks the Docker engine has ended with -9"]


def test_without_the_sdk_it_is_said(tmp_path: Path) -> None:
    """An installation without Docker's package for Python runs, and says what to install."""
    (tmp_path / "docker.py").write_text("raise ImportError('No module named docker')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sidecar.discovery.docker import main; main()"
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin
        process.stdin.write(b'{"host": "unix:///nowhere", "wanted": {}}\n')
        process.stdin.flush()
        assert "pip install docker" in json.loads(read_line(process, "what it says"))["trouble"]
    finally:
        end(process)


def children() -> list[str]:
    """The children of this process that ask an engine."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in found if b"sidecar.discovery.docker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# Configured


MISTAKES = {
    "{docker: {}}": "expected exactly one of container, service, label",
    "{docker: {service: a, container: b}}": "expected exactly one of container, service, label",
    "{docker: {project: a}}": "expected exactly one of container, service, label",
    "{docker: {container: a, project: b}}": "a project has services: say which with 'service'",
    "{docker: {container: ../version}}": "a container, service or project is named by letters",
    "{docker: {label: {'a=b': c}}}": "each with a name without '='",
    "{docker: rag}": "expected a mapping",
}


def test_mistakes_are_told(tmp_path: Path) -> None:
    """Containers that are named wrongly, or in two ways, are refused at the start, all of them, with their lines."""
    targets = [f"- {{name: t{at}, match: {match}}}" for at, match in enumerate(MISTAKES)]
    code, text = refused(tmp_path, file="\n".join(["docker: {host: 'ssh://there'}", "targets:", *targets]))

    assert code == 1
    assert "bad.yml:1:16: docker.host: 'ssh://there' is not the address of a Docker engine" in text
    for at, said in enumerate(MISTAKES.values()):
        assert any(f"bad.yml:{3 + at}:" in line and said in line for line in text.splitlines()), said


def test_where_the_engine_listens(tmp_path: Path) -> None:
    """The file says it, else DOCKER_HOST, else it is the usual socket; without such a target nobody asks."""
    def shown(file: str, host: str = "") -> tuple[str, str] | None:
        (tmp_path / "sidecar.yml").write_text(file)
        env = {"HOME": str(tmp_path), "DOCKER_HOST": host}
        found = {row.key: (row.value, row.origin) for row in rows(load(tmp_path / "sidecar.yml", env, Overrides()))}
        return found.get("docker.host")

    file = "targets: [{name: rag, match: {docker: {service: rag, project: shop}}}]\n"
    said = "docker: {host: 'unix:///run/podman.sock'}\n"
    assert shown(file) == ("unix:///var/run/docker.sock", "default")
    assert shown(file, "tcp://127.0.0.1:2375") == ("tcp://127.0.0.1:2375", "DOCKER_HOST")
    assert shown(file + said, "tcp://[::1]:1") == ("unix:///run/podman.sock", f"{tmp_path}/sidecar.yml:2")
    assert shown("targets: [{name: rag, match: {pid: 1}}]\n", "ssh://me@there") is None
    with pytest.raises(ConfigError, match="environment: DOCKER_HOST: 'ssh://there' is not the address"):
        shown(file, "ssh://me@there")


# The whole sidecar


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup that is named as an engine names a container's."""
    if os.geteuid() != 0 or not (V1 / "cgroup.procs").exists():
        pytest.skip("takes root and a memory hierarchy of cgroup v1")
    path = V1 / uuid.uuid4().hex / (uuid.uuid4().hex * 2)
    path.mkdir(parents=True)
    yield path
    wait_until(lambda: not (path / "cgroup.procs").read_text(), 20, "the end of its processes")
    path.rmdir()
    path.parent.rmdir()


def up(sidecar: Sidecar) -> str:
    """The pid that is watched."""
    found = sidecar.series("rag_target_info")
    return next(iter(found)).partition('pid="')[2].partition('"')[0] if found else ""


def test_sidecar_watches_a_container(
        engine: Engine, spawn: Callable[..., Target], cgroup: Path, tmp_path: Path) -> None:
    """Its process is watched and watched again after a restart; a sidecar that is killed leaves nobody who asks."""
    def life() -> int:
        target = spawn("leaky")
        (cgroup / "cgroup.procs").write_text(str(target.pid))
        engine.tell("start", engine.run("rag", target.pid, number=int(cgroup.name, 16)))
        return target.pid

    port = free_port()
    file = config(port, tmp_path / "state", [{"name": "rag", "match": {"docker": {"service": "rag"}}}],
                  docker={"host": engine.host})
    with listening(engine), running_sidecar(tmp_path, file=file, port=port) as sidecar:
        first = life()
        wait_until(lambda: up(sidecar) == str(first), 20, "the process to be watched")
        assert sidecar.value("rag_container_running") == 1
        os.kill(first, signal.SIGKILL)
        second = life()
        wait_until(lambda: up(sidecar) == str(second), 20, "the next process to be watched")
        assert sidecar.value("rag_target_restarts_total") == 1
        desk = sidecar.child("desk")
        asks = Path(f"/proc/{desk}/task/{desk}/children").read_text().split()
        assert len(asks) == 1
        os.kill(desk, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{asks[0]}").exists(), 20, "the end of the program that asks")
        wait_until(lambda: sidecar.child("desk") not in (0, desk), 20, "the next desk")
        wait_until(sidecar.ready, 20, "it to be ready")
        wait_until(lambda: up(sidecar) == str(second), 20, "the process to be watched by the next desk")
        os.kill(second, signal.SIGKILL)


def test_every_metric_is_one_that_a_container_can_have() -> None:
    """Each figure that the documentation names can be seen."""
    container = CONTAINER._replace(last_exit=Exit(0, False))

    assert {sample.labels.metric for sample in container.samples(BASE, 5.0)} == {each.name for each in METRICS} - {
        "rag_sidecar_docker_up"}


def test_doctor_says_what_the_engine_says(engine: Engine, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Whether it answers, and of each container why no process of it is seen."""
    def said(host: str) -> dict[str, str]:
        (tmp_path / "sidecar.yml").write_text(json.dumps({"docker": {"host": host}, "targets": [
            {"name": name, "match": {"docker": {"container": name}}} for name in ("ended", "elsewhere", "none")]}))
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "doctor", "--config.file",
                               str(tmp_path / "sidecar.yml"), "-o", "json"], capture_output=True, text=True,
                              timeout=60, check=False, env={**os.environ, "HOME": str(tmp_path)})
        assert done.stderr == ""
        told = json.loads(done.stdout)
        facts = {fact["name"]: fact for fact in told["machine"]}
        return {"docker": f"{facts['docker']['state']} {facts['docker']['what']}",
                **{target["name"]: target["facts"][0]["what"] for target in told["targets"]}}

    engine.run("ended", 0, "stopped")
    engine.run("elsewhere", spawn("leaky").pid, number=2)
    with listening(engine):
        found = said(engine.host)
    assert found["docker"] == f"ok {engine.host}: 20.10.24+dfsg1, API 1.41"
    assert found["ended"] == "the container ended does not run"
    assert found["elsewhere"].endswith("is not seen here")
    assert found["none"] == "there is no container none"
    trouble = f"the Docker engine at {engine.host} cannot be asked: No such file or directory"
    found = said(engine.host)
    assert found.pop("docker") == f"missing {trouble}"
    assert set(found.values()) == {trouble}
