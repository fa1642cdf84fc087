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
from probing import as_nobody

from sidecar.discovery.listening import STAND_INS, by_port
from sidecar.discovery.local import Running, by_cmdline, ourselves, pid_in, running
from sidecar.discovery.match import AsChild, ByCmdline, ByPid, ByPidfile, ByPort, ByUrl, Match
from sidecar.discovery.roster import LOOKS_A_ROUND, METRICS, Roster, Wanted
from sidecar.model import Labels, Sample
from sidecar.procfs import Identity, identify

TREES = Path(__file__).parent / "proc"
BASE = Labels({"target": "rag", "job": "sidecar"})
WAIT = "import sys; print(1, flush=True); sys.stdin.read()"
FORK = f"import os; pid = os.fork(); {WAIT}"
LISTEN = """
import os, socket, sys
def listen(family=socket.AF_INET, host="127.0.0.1", shared=False):
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    made.bind((host, int(sys.argv[1])))
    made.listen()
    return made
"""


ELSEWHERE = "run as root or as the same user, and in the same pid namespace"


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

    (tmp_path / "link").symlink_to("rag.pid")

    for file in ("rag.pid", "link"):
        noted = pid_in(tmp_path / file)
        assert (noted.pid if noted else None) == pid


def test_pidfile_that_is_none(tmp_path: Path) -> None:
    """Missing, a folder, a pipe that nobody writes to, a device, a link to itself: there is no process, and no wait."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for _ in range(20):
        for name in ("missing", "", "pipe", "loop", "zero"):
            assert pid_in(tmp_path / name) is None
    assert found(roster(ByPidfile(tmp_path / "pipe"))) is None


def test_number_of_a_stale_pidfile_is_not_taken(programs: Programs, tmp_path: Path, caplog: Any) -> None:
    """A process that started long after its number was written down is another one. It is said once."""
    pidfile, process = tmp_path / "rag.pid", programs.python()
    pidfile.write_text(f"{process.pid}\n")
    os.utime(pidfile, (0, pidfile.stat().st_mtime - 60))
    made = roster(ByPidfile(pidfile))

    assert [found(made), found(made)] == [None, None]
    [record] = caplog.records
    assert re.fullmatch(rf"process {process.pid} started \d\d s after pidfile .*: its number must have been another "
                        "process's, so it is not taken", record.reason)
    pidfile.write_text(f"{process.pid}\n")
    assert found(made) == identify(process.pid)


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
    return by_cmdline(re.compile(text), not_these, running())


def test_process_is_found_by_its_command_line(programs: Programs, word: str) -> None:
    """By a regular expression over its words joined by spaces."""
    process = programs.python("--app", word, "--port", "80")

    assert by_line(rf"--app {word} --p\w+ 80$") == process.pid
    assert by_line(f"{word}x") is None


def test_processes_are_read_once_however_many_targets_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of thousands of processes, many targets that are not there do not hold the sidecar up."""
    looks: list[list[Running]] = []
    monkeypatch.setattr("sidecar.discovery.roster.running", lambda proc: looks.append(running(proc)) or looks[-1])
    wanted = [Wanted(f"t{number}", Labels(), ByCmdline(re.compile(f"no such program {number}"))) for number in range(5)]
    roster = Roster(wanted, ourselves())

    assert [target.identity for target in roster.update()] == [None] * 5
    assert len(looks) == 1
    roster.update()
    assert len(looks) == 2


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
    (fake / "part.py").write_text(WAIT)
    script = tmp_path / "rag-sidecar"
    script.write_text(f"#!{sys.executable}\n{WAIT}\n")
    script.chmod(0o755)
    programs.start(sys.executable, "-m", "sidecar", "run", "--match", word, cwd=tmp_path)
    programs.start(sys.executable, "-m", "sidecar.part", word, cwd=tmp_path)
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


@pytest.mark.parametrize("noise", ["x" * 120_000, "\n\x1b[2J\r\t", "\udcff\udcfe"], ids=["huge", "control", "bytes"])
def test_hostile_command_lines_are_only_text(programs: Programs, word: str, noise: str) -> None:
    """Hundreds of kilobytes, control characters, bytes that are no text: neither found nor in the way."""
    behind = programs.python(*[noise] * 5, word, code=WAIT)
    assert by_line(word) == (None if len(noise) > 4096 else behind.pid)
    programs.python(word)

    assert by_line(f"{word}$") is not None


def test_program_that_renames_itself_is_found_by_its_command_line(programs: Programs, word: str) -> None:
    """The kernel's name of a process is what the process likes, also that of a sidecar."""
    rename = f"import sys; open('/proc/self/comm', 'w').write('rag-sidecar'); {WAIT}"
    process = programs.python(word, code=rename)

    assert by_line(word) == process.pid


def test_searches_pause_while_the_target_is_absent(programs: Programs, word: str) -> None:
    """Each costs a look at every process: after 0.5 s, then doubled up to 5 s, and at once when a process has ended."""
    made = roster(ByCmdline(re.compile(word)))

    def at(now: float) -> bool:
        return made.update(now)[0].identity is not None

    assert not at(100.0)
    process = programs.python(word)
    assert [at(now) for now in (100.4, 100.5)] == [False, True]
    assert at(100.6)
    process.kill()
    process.wait()
    assert not at(100.7)
    assert not any(at(100.7 + later) for later in range(20))
    programs.python(word)
    waited = next(tenths for tenths in range(100) if at(120.0 + tenths / 10))
    assert waited <= 50


def test_clock_that_was_set_back_does_not_stop_the_search(programs: Programs, word: str) -> None:
    """A pause ends in seconds, also where the time of its end has become the far future."""
    made = roster(ByCmdline(re.compile(word)))
    made.update(1_000_000.0)
    programs.python(word)

    assert made.update(1000.0)[0].identity is not None


# By port


def test_process_is_found_by_the_port_it_listens_on(programs: Programs, free_port: int) -> None:
    """Not before it listens, not by its connections to such a port, and held when it listens no more."""
    made = roster(ByPort(free_port))
    assert found(made) is None
    code = LISTEN + "a = listen(); b = socket.create_connection(a.getsockname()); c = a.accept()[0]\n"
    process = programs.python(
        str(free_port), code=code + "print(1, flush=True); input(); a.close(); print(2, flush=True); input()")
    programs.python(str(free_port), code="import socket, sys; "
                    f"s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); {WAIT}")

    assert by_port(free_port) == (process.pid, "")
    assert found(made) == identify(process.pid)
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    read_line(process, "the close")
    assert by_port(free_port) == (None, "")
    assert found(made) == identify(process.pid)
    process.kill()
    process.wait()
    assert found(made) is None


@pytest.mark.parametrize(("family", "host"), [("AF_INET", "0.0.0.0"), ("AF_INET6", "::1"), ("AF_INET6", "::")])
def test_any_address_will_do(programs: Programs, free_port: int, family: str, host: str) -> None:
    """IPv4 and IPv6, one address or all."""
    process = programs.python(str(free_port), code=LISTEN + f"a = listen(socket.{family}, {host!r}); {WAIT}")

    assert by_port(free_port).pid == process.pid


def test_master_of_a_prefork_server_is_found_by_port(programs: Programs, free_port: int) -> None:
    """Master and workers hold one socket: the one that started the others is meant, also through a process between."""
    code = LISTEN + f"a = listen(); a.set_inheritable(True); os.fork(); os.fork(); {WAIT}"
    master = programs.python(str(free_port), code=code, lines=4)

    assert by_port(free_port).pid == master.pid


def test_oldest_of_those_that_share_a_port_is_found(programs: Programs, free_port: int) -> None:
    """SO_REUSEPORT: each has a socket of its own, and none started the others."""
    code = LISTEN + f"a = listen(shared=True); {WAIT}"
    first, second = (programs.python(str(free_port), code=code) for _ in range(2))

    assert by_port(free_port).pid == first.pid
    first.kill()
    first.wait()
    assert by_port(free_port).pid == second.pid


@pytest.mark.parametrize("name", sorted(STAND_INS))
def test_stand_in_is_not_the_program(programs: Programs, free_port: int, name: str, caplog: Any) -> None:
    """systemd holds the socket of a service that it starts on demand, docker-proxy that of a container."""
    rename = f"open('/proc/self/comm', 'w').write({name!r}); "
    code = LISTEN + f"a = listen(); a.set_inheritable(True); pid = os.fork()\nif pid: {rename}"
    alone = programs.python(str(free_port), code=LISTEN + f"a = listen(shared=True); {rename}{WAIT}")
    made = roster(ByPort(free_port))
    assert [found(made), found(made)] == [None, None]
    [record] = caplog.records
    assert record.reason == f"{name} holds port {free_port} for another program, which is not seen"
    alone.kill()
    alone.wait()
    outer = programs.python(str(free_port), code=f"{code}\n{WAIT}", lines=2)
    [child] = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()

    assert by_port(free_port).pid == int(child)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace")
def test_listeners_in_other_network_namespaces_are_found(programs: Programs, free_port: int, caplog: Any) -> None:
    """Where nobody listens beside us: the process in a container's network, if there is only one such."""
    code = LISTEN + f"a = listen(host='0.0.0.0'); {WAIT}"
    unshare = ("unshare", "--net", sys.executable, "-c", code, str(free_port))
    first = programs.start(*unshare)
    assert by_port(free_port) == (first.pid, "")
    programs.start(*unshare)
    made = roster(ByPort(free_port))
    assert [found(made), found(made)] == [None, None]
    [record] = caplog.records
    assert record.reason == (f"port {free_port} is listened on in 2 containers or other networks: name the process by "
                             "its command line or a pidfile")
    here = programs.python(str(free_port), code=code)

    assert found(made) == identify(here.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_listener_of_another_user_is_told_of(programs: Programs, free_port: int) -> None:
    """Its port is seen, its descriptors are not: that is said, and nothing is guessed."""
    programs.python(str(free_port), code=LISTEN + f"a = listen(); {WAIT}")

    assert as_nobody(lambda: by_port(free_port)) == [
        None, f"something listens on port {free_port}, but its process may not be seen: {ELSEWHERE}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a pid namespace")
def test_listener_in_another_pid_namespace_is_told_of(programs: Programs, free_port: int, checkout: Path) -> None:
    """Containers of one pod share the network and not their processes."""
    programs.python(str(free_port), code=LISTEN + f"a = listen(); {WAIT}")
    code = f"from sidecar.discovery.listening import by_port; print(by_port({free_port}).why)"
    said = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
                          cwd=checkout, capture_output=True, text=True, timeout=30, check=True).stdout

    assert said.strip() == f"something listens on port {free_port}, but its process may not be seen: {ELSEWHERE}"


def test_strange_tables_of_sockets_name_nobody(tmp_path: Path) -> None:
    """A sandbox may show what it likes, or nothing at all, as its /proc/net."""
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[5]")
    listener = b"0: 0:1F40 0:0 0A 0:0 00:0 0 0 0 5\n"
    for table in (b"", b"\x00\xff", b"head\n0: 0:1F40\n", b"head\n" + b"0: 0:1F40 0:0 0A " * 2 + b"\n",
                  b"head\n0: 0:1F40 0:0 01 0:0 00:0 0 0 0 5\n" + listener):
        (tmp_path / "self" / "net" / "tcp").write_bytes(table)
        assert by_port(8000, str(tmp_path)) == (None, "")
    (tmp_path / "self" / "net" / "tcp").write_bytes(b"head\n" + listener)
    assert by_port(8000, str(tmp_path)).why.endswith(ELSEWHERE)


def test_listener_beside_us_that_is_hidden_is_not_mixed_up_with_another(tmp_path: Path) -> None:
    """What listens in our own network is meant, seen or not; only where nobody does a container's process is."""
    for pid, network in (("self", 1), ("7", 2)):
        (tmp_path / pid / "net").mkdir(parents=True)
        (tmp_path / pid / "ns").mkdir()
        (tmp_path / pid / "ns" / "net").symlink_to(f"net:[{network}]")
        (tmp_path / pid / "net" / "tcp").write_text(f"head\n0: 0:1F40 0:0 0A 0:0 00:0 0 0 0 {network}\n")
    shutil.copy("/proc/self/stat", tmp_path / "7" / "stat")
    (tmp_path / "7" / "comm").write_text("rag\n")
    (tmp_path / "7" / "fd").mkdir()
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[2]")

    assert by_port(8000, str(tmp_path)).why.endswith(ELSEWHERE)
    (tmp_path / "self" / "net" / "tcp").write_text("head\n")
    assert by_port(8000, str(tmp_path)) == (7, "")


# By URL


def test_target_known_by_its_url_has_no_process() -> None:
    """It is there at every look, without an identity."""
    assert found(roster(ByUrl("http://127.0.0.1:9/memory"))) is None


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


@pytest.mark.parametrize("doubted", [True, False])
def test_of_many_targets_one_that_ended_is_missed(programs: Programs, doubted: bool) -> None:
    """At the next look where something speaks for it, as the guard's word; else within one look at each of them."""
    process, other = programs.python(), programs.python()
    wanted = [Wanted(f"rag-{number}", BASE.merged({"target": f"rag-{number}"}), ByPid(process.pid if number else
                     other.pid)) for number in range(2 * LOOKS_A_ROUND + 1)]
    made = Roster(wanted, frozenset())
    assert all(target.identity for target in made.update())
    other.kill()
    other.wait()
    if doubted:
        made.doubt("rag-0")
    rounds = [made.update() for _ in range(3)]

    assert [target.name for target in rounds[-1] if not target.identity] == ["rag-0"]
    assert not doubted or rounds[0][0].missing


def test_matches_say_what_they_look_for() -> None:
    """For log lines and messages."""
    matches = [ByPid(7), ByPidfile(Path("/run/rag.pid")), ByCmdline(re.compile("uvicorn rag")), ByPort(8000),
               ByUrl("http://rag:5000/memory?token=s3cret"), AsChild()]

    assert list(map(str, matches)) == ["pid 7", "pidfile /run/rag.pid", "cmdline 'uvicorn rag'", "port 8000",
                                       "url http://rag:5000/memory", "the command after --"]
    assert "s3cret" not in repr(matches)
