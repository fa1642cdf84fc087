"""Lines that are moved while the sidecar runs: who may, what is taken, when it is in force, and how it ends."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from acting_world import MIB, START, World
from asking import Answer
from conftest import Target
from ordering import NOW, TOKEN, Desk
from servers import free_port, wait_until
from sidecars import Sidecar, config, running_sidecar, told

from sidecar.cli import main
from sidecar.pipeline_thresholds import NOTE, Lines
from sidecar.thresholds import LONGEST_OVERRIDE_SECONDS, Override, Share, Size, Wanted
from sidecar.web.control import build_control, listening
from sidecar.web.server import build, serving
from sidecar.web.view import View

GIB = 1 << 30
PATH = "/api/v1/thresholds"
KNOWN = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
HOUR = {"ttl": "1h"}

Ask = Callable[..., Coroutine[Any, Any, Answer]]
Spawn = Callable[..., Target]


def serve(steps: Callable[[Ask], Coroutine[Any, Any, None]], desk: Desk, token: str = TOKEN) -> None:
    """Run `steps` with `await ask(method, body, headers, path)` to a real server, with the token unless said else."""

    async def run() -> None:
        async with (serving(build(View(hands=desk.hands()), token=token), ["127.0.0.1:0"]) as (url,),
                    aiohttp.ClientSession() as session):

            async def ask(method: str, body: Any = None, headers: Any = None, path: str = PATH) -> Answer:
                data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
                async with session.request(method, url + path, data=data, headers={**KNOWN, **(headers or {})}) as got:
                    return Answer(got.status, dict(got.headers), await got.text())

            await steps(ask)

    asyncio.run(run())


def rows(answer: Answer) -> Any:
    """The targets of an answer."""
    assert answer.status == 200, answer.text
    return json.loads(answer.text)["data"]["targets"]


# What is taken

def test_lines_are_put_shown_and_withdrawn() -> None:
    """PUT answers with what is in force and until when; GET shows it; DELETE, or a ttl of 0, ends it."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        (row,) = rows(await ask("PUT", {"target": "rag", "main": "1500MiB", "critical": "1.75GiB", "ttl": "2h"}))
        assert row["override"] == {"main_bytes": 1500 << 20, "critical_bytes": 1792 << 20, "until": NOW + 7200}
        assert rows(await ask("GET")) == rows(await ask("GET", path=f"{PATH}?target=rag")) == [row]
        assert rows(await ask("DELETE", path=f"{PATH}?target=rag"))[0]["override"] is None
        assert rows(await ask("PUT", {"critical": "2GiB", "ttl": 60.0}))[0]["override"]["until"] == NOW + 60
        assert rows(await ask("PUT", {"ttl": 0}))[0]["override"] is None
        assert rows(await ask("DELETE", headers={"Content-Type": ""}))[0]["override"] is None

    serve(steps, desk)


def test_answer_waits_until_the_guard_goes_by_the_new_lines() -> None:
    """It comes when they are in force; where that takes more than five seconds it comes then, and says so."""
    desk, slow = Desk(acknowledged_at=NOW + 2), Desk(acknowledged_at=NOW + 1e9)

    async def steps(ask: Ask) -> None:
        assert rows(await ask("PUT", {"main": "1GiB", **HOUR}))[0]["in_force"] is True

    async def in_vain(ask: Ask) -> None:
        assert rows(await ask("PUT", {"main": "1GiB", **HOUR}))[0]["in_force"] is False

    serve(steps, desk)
    serve(in_vain, slow)
    assert 2.0 <= desk.now - NOW < 2.5
    assert 5.0 <= slow.now - NOW < 5.5


@pytest.mark.parametrize(("body", "status", "said"), [
    ({"main": "1GiB"}, 400, "ttl is missing"), ({"main": "1GiB", "ttl": None}, 400, "ttl is missing"),
    ({"main": "1GiB", "ttl": -1}, 400, "ttl is to be"), ({"main": "1GiB", "ttl": "-2h"}, 400, "ttl is to be"),
    ({"main": "1GiB", "ttl": 1e99}, 400, "ttl is to be"), ({"main": "1GiB", "ttl": "8d"}, 400, "at most 1w"),
    ({"main": "1GiB", "ttl": 604800.1}, 400, "ttl is to be"), ({"main": "1GiB", "ttl": 0.5}, 400, "1s or more"),
    ({"main": "1GiB", "ttl": True}, 400, "ttl is to be"), ({"main": "1GiB", "ttl": "soon"}, 400, "ttl is to be"),
    ({"main": "1GiB", "ttl": float("nan")}, 400, "ttl is to be"),
    ({"main": "1GiB", "ttl": float("inf")}, 400, "ttl is to be"),
    (HOUR, 400, "neither main nor critical"), ({"main": None, **HOUR}, 400, "neither main nor critical"),
    ({"main": 1500, **HOUR}, 400, "with a unit"), ({"main": "1500", **HOUR}, 400, "has no unit: write 1500MiB"),
    ({"main": True, **HOUR}, 400, "with a unit"), ({"main": ["1GiB"], **HOUR}, 400, "with a unit"),
    ({"main": "NaNMiB", **HOUR}, 400, "not a size"), ({"main": "-5MiB", **HOUR}, 400, "not a size"),
    ({"main": "80%", **HOUR}, 400, "not a size"), ({"critical": "5mib", **HOUR}, 400, "did you mean MiB?"),
    ({"critical": "9999999TiB", **HOUR}, 400, "less than 8 EiB"), ({"critical": "0B", **HOUR}, 400, "more than 0"),
    ({"critical": "1" * 60_000 + "MiB", **HOUR}, 400, "with a unit"), ({"main": float("nan"), **HOUR}, 400, "a unit"),
    ({"main": "1GiB", "critical": "1GiB", **HOUR}, 400, "main is not below critical"),
    ({"target": "web", "main": "1GiB", **HOUR}, 404, "no target"), ({"target": [], **HOUR}, 404, "no target"),
    ({"preventive": "1GiB", **HOUR}, 400, "none of them"), ([], 400, "none"), (b"{", 400, "no JSON"),
    (b"[" * 60_000, 400, "no JSON"), (b" " * 65_537, 413, ""),
])
def test_what_makes_no_sense_is_refused_with_the_reason(body: Any, status: int, said: str) -> None:
    """No unit, no end, no line, no such target, contradictions: refused with a sentence, and nothing changes."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        answer = await ask("PUT", body)
        assert (answer.status, said in answer.text.replace('\\"', '"')) == (status, True), answer.text
        assert len(answer.text) < 400
        assert rows(await ask("GET"))[0]["override"] is None

    serve(steps, desk)
    assert not desk.overrides


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(("headers", "status"), [
    ({"Authorization": ""}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 403)])
def test_lines_are_moved_with_the_token_and_from_no_other_site(
        method: str, headers: dict[str, str], status: int) -> None:
    """Over TCP a change takes the token, and no page of another site may ask for it; looking needs none."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        assert (await ask(method, {"main": "1GiB", **HOUR}, headers)).status == status
        assert (await ask("GET", headers={"Authorization": ""})).status == 200

    serve(steps, desk)
    assert desk.said == []


def test_without_a_configured_token_lines_stay() -> None:
    """A sidecar without a token moves no line over TCP; it shows them."""

    async def steps(ask: Ask) -> None:
        for method in ("PUT", "DELETE"):
            assert (await ask(method, {"main": "1GiB", **HOUR})).error[:2] == (403, "forbidden")
        assert len(rows(await ask("GET"))) == 2

    serve(steps, Desk(targets=("rag", "web")), token="")


def test_of_several_targets_one_has_to_be_named() -> None:
    """What moves lines says whose; unknown names and parameters are refused."""
    desk = Desk(targets=("rag", "web"))

    async def steps(ask: Ask) -> None:
        assert (await ask("PUT", {"main": "1GiB", **HOUR})).status == 400
        assert (await ask("DELETE")).status == 400
        assert (await ask("DELETE", path=f"{PATH}?target=x")).status == 404
        assert (await ask("GET", path=f"{PATH}?target=x")).status == 404
        assert (await ask("DELETE", path=f"{PATH}?name=rag")).status == 400
        assert (await ask("PUT", {"main": "1GiB", **HOUR}, {"Content-Type": "text/plain"})).status == 415

    serve(steps, desk)
    assert desk.said == []


def test_crowd_that_moves_lines_is_bounded() -> None:
    """Of 200 at once some are told to come again; who is not has been served, and one set of lines is in force."""
    desk = Desk(acknowledged_at=NOW + 3)

    async def steps(ask: Ask) -> None:
        sizes = [f"{1001 + number}MiB" for number in range(200)]
        answers = await asyncio.gather(*(ask("PUT", {"main": size, "critical": "2GiB", **HOUR}) for size in sizes))
        assert {answer.status for answer in answers} == {200, 503}
        assert all("Retry-After" in answer.headers for answer in answers if answer.status == 503)
        served = [size for size, answer in zip(sizes, answers, strict=True) if answer.status == 200]
        assert len(served) == len(desk.said)
        assert f"{(desk.overrides['rag'].main_bytes or 0) >> 20}MiB" in served
        assert (await ask("PUT", {"main": "1GiB", **HOUR})).status == 200

    serve(steps, desk)


# What is in force

def lines_of(lines: Lines, limit_bytes: int | None = None, now: float = NOW) -> tuple[object, ...]:
    """Its lines in MiB, and the basis."""
    found = lines.of("rag", limit_bytes, now)
    return *(line.size_bytes / MIB for line in found.lines.values()), found.basis


def mib(size: int) -> Size:
    """As the file says it."""
    return Size(size * MIB, "file")


@pytest.mark.parametrize(("wanted", "limit", "given", "expected"), [
    (Wanted(), GIB, (500, None), (400, 500, 600, "cgroup")),
    (Wanted(), GIB, (None, 600), (400, 500, 600, "cgroup")),
    (Wanted(), None, (500, 700), (400, 500, 700, "anon")),
    (Wanted(mib(100), mib(200), mib(300)), None, (None, 400), (100, 200, 400, "anon")),
    (Wanted(mib(100), mib(200), mib(300)), None, (50, None), (40, 50, 300, "anon")),
    (Wanted(critical=Size(900 * MIB, "environment")), None, (None, 1200), (800, 1000, 1200, "rss")),
    (Wanted(critical=Share(0.5, "file")), GIB, (300, None), (240, 300, 512, "cgroup")),
    (Wanted(basis="pss"), GIB, (500, None), (400, 500, 600, "pss")),
])
def test_what_is_not_said_follows_from_what_is(
        wanted: Wanted, limit: int | None, given: tuple[int | None, int | None], expected: tuple[object, ...]) -> None:
    """Beside a line that is moved the configured one stays; without one it follows; the basis is always kept."""
    lines = Lines({"rag": wanted})
    before = lines_of(lines, limit)
    main, critical = (None if size is None else size * MIB for size in given)
    lines.put("rag", Override(main, critical, NOW + 60), NOW)

    assert lines_of(lines, limit) == expected
    assert lines.of("rag", limit, NOW).armed
    assert expected[-1] == before[-1]
    lines.withdraw("rag", NOW)
    assert lines_of(lines, limit) == before


def test_everybody_sees_who_said_so_and_what_is_odd(caplog: pytest.LogCaptureFixture) -> None:
    """A row names the source of each line; a line above the limit is taken, with a warning."""
    lines = Lines({"rag": Wanted(critical=mib(3000))})
    lines.of("rag", GIB, NOW)
    lines.put("rag", Override(2000 * MIB, None, NOW + 60), NOW)
    assert lines.row("rag")["in_force"] is False
    lines.of("rag", GIB, NOW)
    lines.acted()
    row = lines.row("rag")

    assert [(row["lines"][level]["source"], row["lines"][level]["how"]) for level in row["lines"]] == [
        ("api", "80% of main"), ("api", ""), ("file", "")]
    assert row["in_force"] is True
    assert "main 2000MiB (api) is not below the cgroup limit of 1024MiB" in row["warnings"][1]
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize("seen", [True, False])
def test_contradictions_are_refused_and_what_was_in_force_stays(seen: bool) -> None:
    """Main not below critical, whoever said the other one: refused with both and their sources."""
    lines = Lines({"rag": Wanted(critical=mib(300))})
    lines.put("rag", Override(200 * MIB, None, NOW + 60), NOW)
    if seen:
        lines.of("rag", None, NOW)
    with pytest.raises(ValueError, match=r"main 400MiB \(api\) is not below critical 300MiB \(file\)"):
        lines.put("rag", Override(400 * MIB, None, NOW + 60), NOW)

    assert lines_of(lines)[:3] == (160, 200, 300)


def test_limit_that_makes_them_contradict_ends_them() -> None:
    """When the container shrinks so that its share lies below what was put, the configured lines are in force again."""
    lines = Lines({"rag": Wanted(critical=Share(0.5, "file"))})
    lines.of("rag", 2 * GIB, NOW)
    lines.put("rag", Override(700 * MIB, None, NOW + 60), NOW)
    assert lines_of(lines, 2 * GIB)[1] == 700

    assert lines_of(lines, GIB)[2] == 512
    assert lines.row("rag")["override"] is None
    assert lines.drain_notes() == [(f"{NOTE}rag", NOW, {"until": None})]


@pytest.mark.parametrize("body", [
    {}, {"until": None}, {"main_bytes": 5, "critical_bytes": None}, {"main_bytes": None, "until": NOW + 60},
    {"main_bytes": "5", "until": NOW + 60}, {"main_bytes": -5, "until": NOW + 60}, {"main_bytes": 2**63, "until": 9e9},
    {"main_bytes": True, "until": NOW + 60}, {"main_bytes": 5, "until": "x"}, {"main_bytes": 5, "until": NOW - 1},
    {"main_bytes": 5, "until": NOW + LONGEST_OVERRIDE_SECONDS + 60}, {"main_bytes": 5.0, "until": NOW + 60}])
def test_notes_without_sense_and_those_that_are_over_put_nothing_in_force(body: dict[str, Any]) -> None:
    """What the journal says is checked like everything else from outside; a time that has passed has passed."""
    lines = Lines({"rag": Wanted(main=mib(100))})
    lines.restore_notes([(f"{NOTE}rag", NOW - 60, body), (f"{NOTE}gone", NOW, {"main_bytes": 5, "until": NOW + 60}),
                         ("paused:rag", NOW, {"main_bytes": 5, "until": NOW + 60})])
    lines.expire(NOW)

    assert lines_of(lines)[1] == 100
    assert lines.row("rag")["override"] is None


# In virtual time, through the whole desk

@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A program of 400 MiB below its lines of 640, 800 and 960 MiB, and a desk that has looked at it twice."""
    made = World(tmp_path)
    made.wait(2.0)
    yield made
    made.close()


def put(world: World, main: int | None, critical: int | None, seconds: float = 3600.0) -> None:
    """Move its lines, in MiB."""
    sizes = (None if size is None else size * int(MIB) for size in (main, critical))
    world.desk.pipeline.by_hand.override("rag", Override(*sizes, world.now + seconds), world.now)


def critical(world: World) -> float:
    """The critical line as people and Prometheus see it, in MiB."""
    status = world.desk.view.snapshot.targets[0]
    (shown,) = (sample.value for family in world.desk.view.snapshot.families for sample in family.samples
                if family.metric.name == "rag_memory_threshold_bytes" and sample.labels["level"] == "critical")
    assert status.critical_bytes == shown
    return shown / MIB


def test_lines_are_in_force_at_the_next_tick_and_end_by_themselves(world: World) -> None:
    """The series shows the new line at once, until its time is over, and then the configured one."""
    put(world, 700, 900, 60.0)
    world.tick()
    assert (critical(world), world.desk.view.snapshot.targets[0].until) == (900, START + 62)
    world.desk.dispatch.receive()  # what the guard has acknowledged meanwhile
    assert world.desk.pipeline.by_hand.lines("rag")["in_force"]
    world.wait(58.0)
    assert critical(world) == 900
    world.wait(2.0)
    assert (critical(world), world.desk.view.snapshot.targets[0].until) == (960, None)
    assert world.asked == []


def test_line_below_what_is_used_acts_at_once_and_is_no_baseline(world: World) -> None:
    """A critical line that is put below used bytes is a crossing: the guard acts, more than once, and nothing parks."""
    world.program.shares["aggressive"] = 0.05
    put(world, 100, 200)
    world.wait(3.0)
    assert [asked.cleanup for asked in world.asked] == ["aggressive"]
    world.wait(60.0)

    assert len([asked for asked in world.asked if asked.cleanup == "aggressive"]) > 1
    assert world.incident
    assert not world.incident.baseline
    assert "baseline" not in world.incident.parked


def test_guard_acts_at_the_new_line_between_two_ticks(world: World) -> None:
    """The guard's own order has the moved line: below it nothing is done, over it the guard does not wait."""
    put(world, 1000, 1500)
    world.tick()
    world.program.used = 1400.0 * MIB  # over the configured line of 960 MiB
    world.desk.guard.advance(world.now + 0.9)
    assert world.desk.guard.deliveries.asked == []
    world.program.used = 1600.0 * MIB
    world.desk.guard.advance(world.now + 0.95)

    assert [asked.cleanup for asked in world.desk.guard.deliveries.asked] == ["aggressive"]


def test_incident_goes_on_when_its_line_is_moved(world: World) -> None:
    """Raising the line over used bytes ends nothing by itself: what is open stays open until it has been calm."""
    world.program.shares["aggressive"] = 0.0
    world.program.used = 1000.0 * MIB
    world.wait(8.0)
    assert world.incident
    before = world.incident.id
    put(world, 1900, 2000)
    world.wait(3.0)
    assert (world.incident.id, world.reason) == (before, "below_threshold")
    world.wait(60.0)
    assert world.incident is None


@pytest.mark.parametrize("crash", [World.crash_desk, World.crash_all])
def test_moved_lines_outlive_a_crash_and_their_end_too(world: World, crash: Callable[[World], None]) -> None:
    """Whoever is killed, the next desk has them in force at its first tick; what has passed is over."""
    put(world, 700, 900, 60.0)
    world.tick()
    crash(world)
    world.tick()
    assert critical(world) == 900
    world.wait(30.0)
    world.desk.pipeline.by_hand.override("rag", None, world.now)
    put(world, 600, 850, 5.0)
    world.tick()
    crash(world)
    world.wait(6.0)
    assert critical(world) == 960
    crash(world)
    world.tick()
    assert critical(world) == 960


# The command

def run(tmp_path: Path, desk: Desk, *arguments: str) -> int:
    """`rag-sidecar thresholds …` against a control socket; the exit code."""

    async def steps() -> int:
        async with listening(build_control(View(hands=desk.hands())), tmp_path / "state"):
            return await asyncio.to_thread(main, ["thresholds", *arguments, "--storage.path", str(tmp_path / "state")])

    return asyncio.run(steps())


def test_command_moves_shows_and_withdraws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`thresholds` with sizes moves the lines, without it shows them, and with --withdraw has them as configured."""
    desk = Desk()
    assert run(tmp_path, desk, "--main", "700MiB", "--ttl", "2h") == 0
    assert "main 700MiB until 2026-" in capsys.readouterr().out
    assert desk.overrides["rag"] == Override(700 << 20, None, NOW + 7200)
    assert run(tmp_path, desk) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "rag: compared with anon, no limit", "  main            700MiB  api", "  critical       1200MiB  file"]
    assert run(tmp_path, desk, "--withdraw", "--target", "rag", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["targets"][0]["override"] is None


@pytest.mark.parametrize(("arguments", "said"), [
    (["--main", "1GiB"], "for how long?"), (["--withdraw", "--main", "1GiB"], "leave one of both out"),
    (["--main", "1", "--ttl", "1h"], "has no unit"), (["--ttl", "1h"], "neither main nor critical"),
    (["--target", "x"], "no target"), (["--withdraw", "--target", "x&target=rag"], "no target")])
def test_command_refuses_what_makes_no_sense(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """A reason on standard error, exit code 1, and nothing is changed."""
    desk = Desk()
    assert run(tmp_path, desk, *arguments) == 1
    assert said in capsys.readouterr().err
    assert desk.said == []


# A whole sidecar

def settings(tmp_path: Path, port: int, pid: int) -> str:
    """A target that drops everything on SIGUSR1, with lines far above what it uses."""
    target = {"name": "rag", "match": {"pid": pid}, "memory": {"main": "1500MiB", "critical": "2000MiB"},
              "cleanup": [{"signal": "SIGUSR1"}]}
    return config(port, tmp_path / "state", [target])


def ordered(tmp_path: Path, *arguments: str) -> Any:
    """`rag-sidecar thresholds … -o json`: the row of the target."""
    done = told(tmp_path, "thresholds", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["targets"][0]


def in_force(sidecar: Sidecar, level: str) -> float:
    """A line of the target in MiB, as /metrics shows it."""
    return (sidecar.value("rag_memory_threshold_bytes", f'level="{level}"') or 0.0) / MIB


def test_guard_acts_at_a_line_that_was_put_while_it_ran(spawn: Spawn, tmp_path: Path) -> None:
    """A line put below what a program uses has it cleaned up; after its ttl the configured lines are in force again."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    target.tell("grow 200")
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "the target to be read")
        row = ordered(tmp_path, "--main", "100MiB", "--critical", "150MiB", "--ttl", "4s")
        assert (row["in_force"], row["basis"], row["lines"]["critical"]) == (
            True, "anon", {"bytes": 150 << 20, "source": "api", "how": ""})
        outcome = sidecar.outcome()
        assert (outcome["cleanup"], outcome["outcome"], outcome["line_bytes"]) == ("aggressive", "effective", 150 << 20)
        assert target.tell("grow 0") < 50 * MIB
        wait_until(lambda: in_force(sidecar, "critical") == 2000, 20, "the configured lines")
        assert [line["reason"] for line in sidecar.said("thresholds as configured")] == ["its time is over"]
        assert sidecar.said("thresholds put")[0]["critical_bytes"] == 150 << 20
        assert not any(incident["parked"] for incident in sidecar.incidents())


def test_lines_outlive_the_kill_of_everything_and_stand_in_the_journal(spawn: Spawn, tmp_path: Path) -> None:
    """What was answered holds for the next sidecar, too, and `export journal` tells of it."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    file = settings(tmp_path, port, target.pid)
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "the target to be read")
        until = ordered(tmp_path, "--critical", "1900MiB", "--ttl", "1h")["override"]["until"]
        desk = sidecar.child("desk")
        sidecar.process.kill()
        sidecar.process.wait(10)
        wait_until(lambda: not Path(f"/proc/{desk}/cmdline").exists(), 10, "the desk to be gone")
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: in_force(sidecar, "critical") == 1900, 20, "the line")
        assert ordered(tmp_path)["override"] == {
            "main_bytes": None, "critical_bytes": 1900 << 20, "until": until}
        assert '"thresholds:rag"' in told(tmp_path, "export", "journal").stdout
        assert "These lines were set by the API, until <time" in sidecar.get("/")
        refused = told(tmp_path, "thresholds", "--main", "2GiB", "--ttl", "1h")
        assert (refused.returncode, refused.stderr) == (1, (
            "rag-sidecar: target rag: main 2048MiB (api) is not below critical 2000MiB (file); give both lines\n"))
        assert ordered(tmp_path, "--withdraw")["lines"]["critical"]["bytes"] == 2000 << 20
        assert "set by the API" not in sidecar.get("/")
