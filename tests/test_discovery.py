"""Finding the process behind a target, and noticing when it is another one. Real processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import read_line, wait_until

from sidecar.discovery.local import by_cmdline, ourselves, pid_in
from sidecar.discovery.match import AsChild, ByCmdline, ByPid, ByPidfile, Match
from sidecar.discovery.roster import METRICS, Roster, Wanted
from sidecar.model import Labels, Sample
from sidecar.procfs import Identity, identify

TREES = Path(__file__).parent / "proc"
BASE = Labels({"target": "rag", "job": "sidecar"})
WAIT = "import sys; print(1, flush=True); sys.stdin.read()"
FORK = f"import os; pid = os.fork(); {WAIT}"


class Programs:
    """Starts real programs and ends them all, with what they have started. Lives as long as a test."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, lines: int = 1, **popen: Any) -> subprocess.Popen[bytes]:
        """A program that says so on stdout, once for each process that it becomes, and ends with its stdin."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                                   **popen)
        self._started.append(process)
        for _ in range(lines):
            read_line(process, "ready")
        return process

    def python(self, *arguments: str, code: str = WAIT, **popen: Any) -> subprocess.Popen[bytes]:
        """A Python with these words in its command line."""
        return self.start(sys.executable, "-c", code, *arguments, **popen)

    def end(self) -> None:
        """Close every stdin, which ends all who read it; the group of each is killed for those who do not."""
        for process in reversed(self._started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Programs that end with the test."""
    made = Programs()
    yield made
    made.end()


@pytest.fixture
def word() -> str:
    """A word that stands in no other command line."""
    return f"word-{uuid.uuid4().hex}"


def roster(match: Match, *, not_these: frozenset[int] = frozenset(), proc: str = "/proc") -> Roster:
    """A roster of one target."""
    return Roster([Wanted("rag", BASE, match)], not_these, proc)


def found(made: Roster) -> Identity | None:
    """Which process is behind the one target now."""
    [target] = made.update()
    assert (target.name, target.base) == ("rag", BASE)
    return target.identity


def restarts(made: Roster) -> float:
    """How often the target's process was replaced."""
    [sample] = made.samples(5.0)
    assert sample == Sample(BASE.merged({"__name__": METRICS[0].name}), sample.value, 5.0)
    return sample.value


# By pid


def test_process_given_by_its_pid_is_held_until_it_ends(programs: Programs) -> None:
    """The same identity at every look; after its end nothing, and no restart is counted."""
    process = programs.python()
    made = roster(ByPid(process.pid))

    assert found(made) == found(made) == identify(process.pid)
    process.kill()
    process.wait()
    assert found(made) is None
    assert restarts(made) == 0


def test_zombie_is_gone(programs: Programs) -> None:
    """A process that has ended and was not reaped: not held, not found again, not counted again and again."""
    process = programs.python()
    made = roster(ByPid(process.pid))
    assert found(made)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert [found(made) for _ in range(3)] == [None] * 3
    assert found(roster(ByPid(process.pid))) is None
    assert restarts(made) == 0


@pytest.mark.parametrize("match", [ByPid(42), AsChild()], ids=str)
def test_recycled_pid_is_not_taken(tmp_path: Path, match: Match) -> None:
    """The number alone is given: another process that gets it later is not meant."""
    shutil.copytree(TREES / "odd" / "proc", tmp_path, dirs_exist_ok=True)
    made = roster(match, proc=str(tmp_path))
    made.child_pid = 42
    first, stat = found(made), tmp_path / "42" / "stat"
    assert first is not None
    stat.write_bytes(stat.read_bytes().replace(b" 627893 ", b" 727893 "))

    assert found(made) is None
    assert found(made) is None
    assert found(roster(ByPid(42), proc=str(tmp_path))) == first._replace(start_time_ticks=727893)


def test_pid_of_an_earlier_desk_is_not_given_to_another_process(programs: Programs) -> None:
    """The guard has held that number's process: a desk that starts anew takes that one or none."""
    process = programs.python()
    real = identify(process.pid)
    before, same = roster(ByPid(process.pid)), roster(ByPid(process.pid))
    before.resume({"rag": real._replace(start_time_ticks=real.start_time_ticks - 100)})
    same.resume({"rag": real})

    assert found(before) is None
    assert found(same) == real


def test_restart_of_the_desk_is_none_of_the_target(programs: Programs, word: str) -> None:
    """The process that the guard held all the time has not been replaced; one that came meanwhile has."""
    process = programs.python(word)
    real = identify(process.pid)
    same, other = (roster(ByCmdline(re.compile(word))) for _ in range(2))
    same.resume({"rag": real})
    other.resume({"rag": real._replace(start_time_ticks=real.start_time_ticks - 100)})

    assert found(same) == found(other) == real
    assert (restarts(same), restarts(other)) == (0, 1)


def test_exec_makes_a_new_identity(programs: Programs, tmp_path: Path) -> None:
    """Same pid, same start, another program: what was known of the old one, handlers above all, is void."""
    other = tmp_path / "sleep"
    shutil.copy(shutil.which("sleep") or "", other)
    code = f"import os; print(1, flush=True); input(); os.execv({str(other)!r}, ['sleep', '60'])"
    process = programs.python(code=code)
    made = roster(ByPid(process.pid))
    first = found(made)
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    wait_until(lambda: os.path.samefile(f"/proc/{process.pid}/exe", other), 10, "the exec")
    second = found(made)

    assert first is not None
    assert second is not None
    assert second[:3] == first[:3]
    assert second.exe == (other.stat().st_dev, other.stat().st_ino) != first.exe
    assert restarts(made) == 1


# By pidfile


@pytest.mark.parametrize(("content", "pid"), [
    (b"4711", 4711), (b" 4711\n", 4711), (b"4711\n/usr/bin/rag\n", 4711), (b"", None), (b"\n", None), (b"rag\n", None),
    (b"-1", None), (b"0", None), (b"4711abc", None), (b"\xff\x00", None), ("٤٢".encode(), None), (b"9" * 5000, None),
    (b"4294967296", None), (b"4711 " + b"x" * 10_000_000, 4711)])
def test_pidfile(tmp_path: Path, content: bytes, pid: int | None) -> None:
    """The first word is the number; whatever else a file may hold is no process, and is not read to its end."""
    (tmp_path / "rag.pid").write_bytes(content)

    assert pid_in(tmp_path / "rag.pid") == pid


def test_pidfile_that_is_none(tmp_path: Path) -> None:
    """Missing, or a folder: there is no process now."""
    assert pid_in(tmp_path / "missing") is None
    assert pid_in(tmp_path) is None
    assert found(roster(ByPidfile(tmp_path / "missing"))) is None


def test_pidfile_is_followed_from_process_to_process(programs: Programs, tmp_path: Path) -> None:
    """Not there yet, there, ended with a stale file, replaced: each is seen at the next look."""
    pidfile = tmp_path / "rag.pid"
    made, first, second = roster(ByPidfile(pidfile)), programs.python(), programs.python()
    seen = [found(made)]
    pidfile.write_text(f"{first.pid}\n")
    seen.append(found(made))
    pidfile.write_text("")  # a supervisor is about to write it anew: what is held is held
    seen.append(found(made))
    pidfile.write_text(f"{first.pid}\n")
    first.kill()
    first.wait()
    seen.append(found(made))
    pidfile.write_text(f"{second.pid}\n")
    seen.append(found(made))

    assert [each.pid if each else None for each in seen] == [None, first.pid, first.pid, None, second.pid]
    assert restarts(made) == 1


# By command line


def by_line(text: str, *not_these: int) -> int | None:
    """The process in whose command line the text is found."""
    return by_cmdline(re.compile(text), not_these)


def test_process_is_found_by_its_command_line(programs: Programs, word: str) -> None:
    """By a regular expression over its words joined by spaces."""
    process = programs.python("--app", word, "--port", "80")

    assert by_line(rf"--app {word} --p\w+ 80$") == process.pid
    assert by_line(f"{word}x") is None


def test_newline_in_an_argument_is_a_space(programs: Programs, word: str) -> None:
    """`python -c` with a program of many lines has a command line of one."""
    process = programs.python(f"first {word}\nsecond line")

    assert by_line(f"first {word} second line$") == process.pid
    assert by_line(f"{word}.*line") == process.pid


def test_master_is_found_and_not_its_workers(programs: Programs, word: str) -> None:
    """A prefork server's processes all look alike: the one that started the others is meant."""
    master = programs.python(word, code=FORK, lines=2)

    assert by_line(word) == master.pid


def test_oldest_of_several_is_found(programs: Programs, word: str) -> None:
    """Always the same one, as long as it lives."""
    first, second = programs.python(word), programs.python(word)

    assert by_line(word) == first.pid
    first.kill()
    first.wait()
    assert by_line(word) == second.pid


@pytest.mark.parametrize("wrapper", [
    ["sh", "-c", "{python} -c '{code}' {word} --port 80; true"], ["setpriv", "{python}", "-c", "{code}", "{word}"],
    ["timeout", "60", "{python}", "-c", "{code}", "{word}"],
    ["timeout", "60", "sh", "-c", "{python} -c '{code}' {word}; true"]], ids=lambda words: words[0] + words[-2][:2])
def test_wrapper_is_not_the_program(programs: Programs, word: str, wrapper: list[str]) -> None:
    """`sh -c`, `timeout`, `sudo`, `tini --`, `uv run`: their command line holds that of what they start."""
    if not shutil.which(wrapper[0]):
        pytest.skip(f"no {wrapper[0]} here")
    words = {"python": sys.executable, "code": "import os; print(os.getpid(), flush=True); input()", "word": word}
    command = [each.format(**words) for each in wrapper]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        pid = int(read_line(process, "its pid"))
        assert by_line(word) == pid
        assert by_line(f"-c.*{word}") == pid
    finally:
        process.communicate(b"\n")


def test_program_that_starts_others_is_no_wrapper(programs: Programs, word: str) -> None:
    """A server whose child is another program that happens to match, too: the server is meant."""
    code = "import os, subprocess; subprocess.Popen(['sh', '-c', os.environ['TOOL']]); " + WAIT
    server = programs.python(f"/{word}/server", code=code, env={**os.environ, "TOOL": f"read line; : /{word}/tool"})
    wait_until(lambda: by_line(f"/{word}/tool"), 10, "the tool")

    assert by_line(f"/{word}/") == server.pid


def test_sidecars_are_never_targets(programs: Programs, word: str, tmp_path: Path) -> None:
    """In the command line of a sidecar stands the expression itself, or the program that it guards."""
    fake = tmp_path / "sidecar"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(WAIT)
    script = tmp_path / "rag-sidecar"
    script.write_text(f"#!{sys.executable}\n{WAIT}\n")
    script.chmod(0o755)
    programs.start(sys.executable, "-m", "sidecar", "run", "--match", word, cwd=tmp_path)
    programs.start(str(script), "top", "--match", word)
    assert by_line(word) is None
    guarded = programs.python(word)

    assert by_line(word) == guarded.pid


def test_neither_we_nor_who_started_us_are_targets() -> None:
    """This process and its ancestors are left out by number."""
    mine = ourselves()

    assert {os.getpid(), os.getppid()} <= mine
    me = " ".join(word.decode() for word in Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1])
    pattern = re.escape(me.replace("\n", " ")[:4000])
    assert by_line(f"^{pattern}") is not None
    assert by_line(f"^{pattern}", *mine) not in mine


def test_restart_is_seen_at_the_next_look_and_counted(programs: Programs, word: str) -> None:
    """Under the same name another process: a new identity, one restart; the gap between is no process."""
    made = roster(ByCmdline(re.compile(word)))
    lives = []
    for _ in range(3):
        process = programs.python(word)
        lives.append(found(made))
        assert lives[-1] is not None
        assert lives[-1].pid == process.pid
        process.kill()
        process.wait()
        assert found(made) is None

    assert len(set(lives)) == 3
    assert restarts(made) == 2


def test_held_process_stays_the_target(programs: Programs, word: str) -> None:
    """A look costs a read, not a search: that an older one matches now changes nothing while the held one lives."""
    made = roster(ByCmdline(re.compile(word)))
    process = programs.python(word)
    assert found(made) == identify(process.pid)
    programs.python(word)

    assert found(made) == identify(process.pid)


# As a child of the guard


def test_program_that_the_guard_starts(programs: Programs) -> None:
    """Its pid comes from the guard; before that, and after its end, there is none, whoever gets its number."""
    process = programs.python()
    made = roster(AsChild())
    assert found(made) is None
    made.child_pid = process.pid
    assert found(made) == identify(process.pid)
    process.kill()
    process.wait()

    assert found(made) is None
    assert restarts(made) == 0


def test_order_of_the_targets_is_that_of_the_configuration(programs: Programs) -> None:
    """Every target is there at every look, with or without its process."""
    process = programs.python()
    wanted = [Wanted(name, BASE.merged({"target": name}), match)
              for name, match in (("b", ByPid(process.pid)), ("a", AsChild()), ("c", ByPid(process.pid)))]
    made = Roster(wanted, frozenset())

    assert [(target.name, target.identity is None) for target in made.update()] == [
        ("b", False), ("a", True), ("c", False)]
    assert [sample.labels["target"] for sample in made.samples(1.0)] == ["b", "a", "c"]


def test_matches_say_what_they_look_for() -> None:
    """For log lines and messages."""
    matches = [ByPid(7), ByPidfile(Path("/run/rag.pid")), ByCmdline(re.compile("uvicorn rag")), AsChild()]

    assert list(map(str, matches)) == ["pid 7", "pidfile /run/rag.pid", "cmdline 'uvicorn rag'",
                                       "the command after --"]
