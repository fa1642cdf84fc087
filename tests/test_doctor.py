"""The doctor: real processes of several users with several capabilities, real namespaces and cgroups."""

import ctypes
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probing import seen_as

from sidecar.doctor import guard, machine, report, signals, surroundings
from sidecar.doctor.advice import advise
from sidecar.doctor.examination import GROUPS, Examination, Question, examine
from sidecar.doctor.facts import Fact, Roots, printable
from sidecar.doctor.patient import Patient, meet, still_there, yama_scope
from sidecar.doctor.python import _python, attach
from sidecar.doctor.report import Style, as_json, as_text, code
from sidecar.errors import TargetGone
from sidecar.guard import endure
from sidecar.pipeline_guard import protection
from sidecar.probes.gc_attach import PythonInfo
from sidecar.probes.sampler import CAPABILITIES
from sidecar.thresholds import Size, Wanted

GUIDE = Path(__file__).parent.parent / "docs" / "doctor.md"
V1 = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20
NOW = 1_800_000_000.0
ASKED = Question("rag", Wanted())
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 1, 4, 8, 15
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, MS_REC_PRIVATE = 0x20000, 0x20000000, 0x10000000, 0x44000
DAC_OVERRIDE, DAC_READ_SEARCH, SYS_PTRACE = 1 << 1, 1 << 2, 1 << 19
DOCKER = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
"""The capabilities that Docker gives by default: chown, dac_override, fowner, fsetid, kill, setgid, setuid …"""

MINE = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
root = pytest.mark.skipif(os.geteuid() != 0 or not MINE >> 19 & MINE >> 21 & 1,
                          reason="takes root with CAP_SYS_PTRACE and CAP_SYS_ADMIN, to become others")
YAMA = {"gc"} if yama_scope(Roots()) else set()
"""What Yama bars on this machine, whoever looks without CAP_SYS_PTRACE and is no ancestor."""


def capset(mask: int) -> None:
    """Have these capabilities and no others: capset(2), version 3, without a library."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0)
    assert LIBC.capset(header, data) == 0, os.strerror(ctypes.get_errno())


def become(user: int, group: int | None = None) -> None:
    """Be another user, without capabilities, as if started by it: dumpable."""
    os.setgroups([])
    os.setgid(user if group is None else group)
    os.setuid(user)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def become_with(user: int, mask: int) -> None:
    """Be another user with some capabilities, as systemd's AmbientCapabilities give them."""
    LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    become(user)
    capset(mask)


def nothing() -> None:
    """Stay who one is."""


@contextmanager
def running(prepare: Callable[[], None] = nothing) -> Iterator[int]:
    """A process that has prepared itself and then only waits: its pid. It is killed in the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            prepare()
            os.write(writing, b"!")
            while True:
                signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1), "it failed to prepare itself: its traceback is above"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def look_at(pid: int, **question: Any) -> dict[str, Any]:
    """The examination as programs get it, with its facts by name."""
    found = examine(pid, ASKED._replace(**question), time.time())
    data: dict[str, Any] = json.loads(as_json((), [found]))["targets"][0]
    data["by_name"] = {fact["name"]: fact for fact in data["facts"]}
    return data


def missing(found: dict[str, Any]) -> set[str]:
    """The names of what is missing."""
    return {fact["name"] for fact in found["facts"] if fact["state"] == "missing"}


def needs(found: dict[str, Any]) -> set[str]:
    """What would mend it all."""
    return {need for fact in found["facts"] for need in fact["needs"]}


def picture(folder: Path, pid: int, **files: bytes | None) -> Roots:
    """A /proc that is the real one of this process but for some files of it (None: absent)."""
    (folder / str(pid)).mkdir(parents=True)
    for name in os.listdir(f"/proc/{pid}"):
        if name not in files:
            (folder / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
    for name, content in files.items():
        if content is not None:
            (folder / str(pid) / name).write_bytes(content)
    for name in ("self", "stat", "meminfo", "sys"):
        (folder / name).symlink_to(f"/proc/{name}")
    return Roots(str(folder))


# What can be seen


def test_own_process_is_seen_in_every_way(spawn: Callable[..., Any]) -> None:
    """A Python of ours: every capability that the metrics know is there, the collector too, and nothing is missing."""
    found = look_at(spawn("leaky").pid)
    reading = {fact["name"]: fact["state"] for fact in found["facts"] if fact["group"] == "reading"}

    assert {"process", "gc", *CAPABILITIES} <= reading.keys()
    assert set(reading.values()) == {"ok", "info"}
    assert [name for name, state in reading.items() if state == "info"] == ["agent"]
    assert missing(found) == set()
    assert found["by_name"]["python"]["what"].startswith(f"cpython {sys.version_info[0]}.{sys.version_info[1]}")


OWN = {"io", "pss", "maps", "exe", "gc", "agent"}


@root
@pytest.mark.parametrize(("us", "it", "hidden", "needed"), [
    pytest.param(lambda: become(1000), lambda: become(1000), set(), set(), id="same user without capabilities"),
    pytest.param(lambda: capset(DOCKER), lambda: become(1000), OWN, {"same_user"}, id="Docker's root"),
    pytest.param(lambda: capset(DOCKER), lambda: capset(DOCKER), set(), set(), id="Docker's root both"),
    pytest.param(lambda: capset(0), lambda: capset(DOCKER), OWN, {"sys_ptrace"}, id="root without, root with"),
    pytest.param(lambda: capset(SYS_PTRACE), lambda: become(1000), {"fd", "io", "gc", "sendable"},
                 {"same_user", "dac_read", "kill"}, id="root with SYS_PTRACE alone"),
    pytest.param(lambda: become(1001), lambda: become(1000), OWN | {"fd", "sendable"}, {"same_user", "kill"},
                 id="another user"),
    pytest.param(lambda: become(1000, 1001), lambda: become(1000), OWN, {"same_user"}, id="another group"),
    pytest.param(lambda: become(1000), lambda: (become(1000), LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)),
                 OWN | {"fd"}, {"sys_ptrace"}, id="not dumpable"),
    pytest.param(lambda: become(1000), lambda: os.setresuid(1000, 1000, 0), OWN | {"fd"}, {"sys_ptrace"},
                 id="has changed its user"),
    pytest.param(lambda: become_with(1000, SYS_PTRACE), lambda: (become(1000), LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)),
                 {"fd", "io", "gc"}, {"dac_read"}, id="not dumpable, same user with SYS_PTRACE"),
    pytest.param(lambda: become_with(1000, SYS_PTRACE | DAC_READ_SEARCH),
                 lambda: (become(1000), LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)), set(), set(),
                 id="not dumpable, same user as systemd is told to run it"),
    pytest.param(nothing, lambda: (become(1000), LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)), set(), set(),
                 id="root with everything"),
])
def test_who_may_see_what(us: Callable[[], None], it: Callable[[], None], hidden: set[str], needed: set[str]) -> None:
    """What the kernel refuses is missing, with the one reason that holds and what would mend it."""
    with running(it) as pid:
        found = seen_as(us, lambda: look_at(pid))

    assert missing(found) - {"limit", "cgroup"} - YAMA == hidden - YAMA
    assert needs(found) - {"yama"} == needed
    for name in hidden:
        assert found["by_name"][name]["why"], name
        assert found["by_name"][name]["do"], name


@root
@pytest.mark.parametrize(("us", "state", "needed"), [
    pytest.param(lambda: capset(SYS_PTRACE | DAC_READ_SEARCH), "info", ["dac_override"], id="root that only reads"),
    pytest.param(lambda: capset(SYS_PTRACE | DAC_OVERRIDE), "ok", [], id="root that may write"),
    pytest.param(lambda: become(1000), "ok", [], id="same user without capabilities"),
])
def test_who_may_attach(us: Callable[[], None], state: str, needed: list[str]) -> None:
    """Who may read another's memory and not write to it is told what `attach` takes; nothing is missing for it."""
    with running(lambda: become(1000)) as pid:
        found = seen_as(us, lambda: attach(meet(pid, Roots()))._asdict())

    if YAMA and not needed and state == "ok":
        pytest.skip("Yama decides here who may")
    assert (found["state"], list(found["needs"])) == (state, needed)
    assert ("call attach as 1000:1000, or add CAP_DAC_OVERRIDE" in found["do"]) == bool(needed)


@root
def test_reasons_name_the_users_and_what_is_set() -> None:
    """Who reads it sees both users, and for what is not dumpable that it is."""
    with running(lambda: become(1000)) as pid:
        other = seen_as(lambda: capset(DOCKER), lambda: look_at(pid))
    with running(lambda: (become(1000), LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))) as pid:
        shut = seen_as(lambda: capset(DOCKER), lambda: look_at(pid))

    assert "1000:1000" in other["by_name"]["io"]["why"]
    assert "0:0" in other["by_name"]["io"]["why"]
    assert "not dumpable" not in other["by_name"]["io"]["why"]
    assert "not dumpable" in shut["by_name"]["io"]["why"]
    assert {advice["title"] for advice in shut["advice"]} == {
        "to look into a process that only CAP_SYS_PTRACE may look into"}


@root
def test_other_user_namespace_is_named() -> None:
    """What we may do as root of a user namespace does not hold for a process outside of it."""
    with running() as pid:
        def alone() -> None:
            assert LIBC.unshare(CLONE_NEWUSER) == 0
            Path("/proc/self/uid_map").write_text("0 0 1")

        found = seen_as(alone, lambda: look_at(pid))

    assert "another user namespace" in found["by_name"]["pss"]["why"]


def test_yama_bars_the_collector_alone(tmp_path: Path) -> None:
    """ptrace_scope 1, as captured: memory is refused, Yama is the reason, three ways out are told."""
    with running() as pid:
        roots = picture(tmp_path, pid, mem=b"")
        (tmp_path / "sys").unlink()
        (tmp_path / "sys/kernel/yama").mkdir(parents=True)
        (tmp_path / "sys/kernel/yama/ptrace_scope").write_text("1\n")
        (tmp_path / str(pid) / "mem").chmod(0)
        found = seen_as(nothing if os.geteuid() else lambda: capset(0),
                        lambda: json.loads(as_json((), [examine(pid, ASKED, NOW, roots)])))["targets"][0]
    gc = next(fact for fact in found["facts"] if fact["name"] == "gc")

    assert "ptrace_scope is 1" in gc["why"]
    assert [need for fact in found["facts"] for need in fact["needs"]][-1] == "yama"
    lines = [line for advice in found["advice"] for line in advice["lines"]]
    assert "sysctl -w kernel.yama.ptrace_scope=0" in lines
    assert any("0x59616d61" in line for line in lines)


def test_lines_for_the_target_are_python() -> None:
    """The call that lets others look into a process can be made: a kernel without Yama only says no."""
    with running() as pid:
        patient = meet(pid, Roots())._replace(yama=1)
    (allow,) = [advice for advice in advise(patient, [], "shell", True) if advice.place == "the target's code"]

    exec("\n".join(allow.lines), {})  # noqa: S102 - our own


@root
@pytest.mark.parametrize("way", ["1", "2", "4"])
def test_hidden_processes_are_there(way: str) -> None:
    """A /proc mounted with hidepid: the process exists, cannot be seen, and that is said; it is no wrong pid."""
    def hide() -> None:
        assert LIBC.unshare(CLONE_NEWNS) == 0
        assert LIBC.mount(b"none", b"/", None, MS_REC_PRIVATE, None) == 0
        assert LIBC.mount(b"proc", b"/proc", b"proc", 0, f"hidepid={way}".encode()) == 0
        become(1001)

    with running(lambda: become(1000)) as pid:
        found = seen_as(hide, lambda: [look_at(pid), code((), [examine(pid, ASKED, NOW)]), look_at(os.getpid())])

    assert "hides it" in found[0]["by_name"]["process"]["what"]
    assert needs(found[0]) == {"hidepid"}
    assert found[0]["advice"][0]["lines"] == ["mount -o remount,hidepid=0 /proc"]
    assert found[1] == 3
    if way != "1":
        assert found[2]["by_name"]["tree"]["state"] == "warning"


# Memory


@root
@pytest.mark.skipif(not V1.exists(), reason="takes a memory cgroup of version 1")
def test_limit_of_a_cgroup_gives_the_lines() -> None:
    """256 MiB in the cgroup are the limit, and main and critical its shares; without one there is a warning."""
    group = V1 / f"doctor-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
        with running() as pid:
            (group / "cgroup.procs").write_text(str(pid))
            limited = look_at(pid)
            (group / "memory.limit_in_bytes").write_text("-1")
            unlimited = look_at(pid)
    finally:
        group.rmdir()

    assert limited["by_name"]["limit"]["what"].startswith("256MiB")
    assert limited["by_name"]["lines"]["state"] == "ok"
    assert "main 204.8MiB, critical 230.4MiB" in limited["by_name"]["lines"]["what"]
    assert unlimited["by_name"]["limit"]["state"] == "info"
    assert unlimited["by_name"]["lines"]["state"] == "warning"


def test_limit_that_cannot_be_read_is_not_unlimited(tmp_path: Path) -> None:
    """Where no cgroup is visible the limit is missing, not "none"."""
    with running() as pid:
        picture(tmp_path / "proc", pid, root=b"", mountinfo=b"")
        found = examine(pid, ASKED, NOW, Roots(str(tmp_path / "proc"), str(tmp_path / "sys")))
    facts = {fact.name: fact for fact in found.facts}

    assert facts["cgroup"].state == facts["limit"].state == "missing"
    assert "not known" in facts["limit"].what


def test_lines_that_were_set_are_told() -> None:
    """What the configuration says holds, also without a limit."""
    wanted = Wanted(main=Size(100 * MIB, "file"), critical=Size(200 * MIB, "command line"))
    with running() as pid:
        found = look_at(pid, wanted=wanted)

    assert found["by_name"]["lines"]["state"] == "ok"
    assert "main 100MiB, critical 200MiB (file, command line)" in found["by_name"]["lines"]["what"]


@pytest.mark.parametrize(("collector", "state"), [("generational", "info"), ("incremental", "warning"),
                                                  ("free_threaded", "warning")])
def test_collectors_that_need_more_memory_are_told(collector: str, state: str) -> None:
    """CPython 3.14.0 to 3.14.4, and free-threaded builds."""
    assert _python(PythonInfo("3.14.2", "cpython", collector)).state == state


# Signals


def test_what_signals_mean_and_none_is_sent() -> None:
    """Caught, ignored and default are told apart; the handler has not run afterwards, and the process is alive."""
    reading, writing = os.pipe()

    def prepare() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: os.write(writing, b"!"))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    with running(prepare) as pid:
        found = look_at(pid)["by_name"]
        asked = look_at(pid, signals=frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTTIN}))
        assert Path(f"/proc/{pid}").exists()
    os.close(writing)
    with open(reading, "rb") as heard:
        assert heard.read() == b""

    assert found["sendable"]["state"] == "ok"
    assert (found["SIGUSR1"]["state"], found["SIGUSR1"]["what"][:6]) == ("ok", "caught")
    assert (found["SIGUSR2"]["state"], found["SIGUSR2"]["what"]) == ("info", "ignored")
    assert (found["SIGHUP"]["state"], found["SIGHUP"]["what"][:7]) == ("info", "default")
    assert missing(asked) == {"SIGUSR2", "SIGHUP", "SIGTTIN"}
    assert asked["by_name"]["SIGUSR1"]["state"] == "ok"


def test_server_that_uses_the_signal_for_itself(tmp_path: Path) -> None:
    """gunicorn catches SIGUSR1 to reopen its logs: it is no way to ask it for a cleanup, and that is said."""
    program = tmp_path / "gunicorn"
    program.write_text("import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nprint(1, flush=True)\n"
                       "sys.stdin.read()\n")
    with subprocess.Popen([sys.executable, str(program), "rag:app", "--password=hunter2"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = look_at(process.pid)
        asked = look_at(process.pid, signals=frozenset({signal.SIGUSR1}))["by_name"]

    assert "reopens its logs" in found["by_name"]["SIGUSR1"]["what"]
    assert found["by_name"]["SIGUSR1"]["state"] == "info"
    assert asked["SIGUSR1"]["state"] == "warning"
    assert "gunicorn" in found["by_name"]["program"]["what"]
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize(("words", "server"), [
    (("gunicorn: master [rag]",), "gunicorn"), (("python3", "-m", "uvicorn", "rag:app"), "uvicorn"),
    (("/usr/bin/python", "/usr/local/bin/celery", "worker"), "celery"), (("uwsgi",), "uwsgi"),
    (("python", "gunicorn_like.py"), ""), (("sleep", "10"), ""), ((), ""),
])
def test_servers_are_known_by_their_first_words(words: tuple[str, ...], server: str) -> None:
    """As a script, as a module, by a title that the process gave itself."""
    with running() as pid:
        assert meet(pid, Roots())._replace(words=words).server == server


def test_signals_of_the_servers_are_real() -> None:
    """Every signal of the table is one that may be asked about."""
    assert {number for uses in signals.USES.values() for number in uses} <= set(signal.Signals)


# Surroundings


@root
def test_process_of_another_pid_namespace() -> None:
    """From outside both of its numbers are told, and a sidecar beside it has to share its namespace."""
    def enter() -> None:
        assert LIBC.unshare(CLONE_NEWPID) == 0
        if inner := os.fork():
            os.write(writing, struct.pack("i", inner))
            os.waitpid(inner, 0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    reading, writing = os.pipe()
    with running(enter):
        (pid,) = struct.unpack("i", os.read(reading, 4))
        found = look_at(pid, runs_in="compose")
        outside = look_at(pid)
    os.close(reading)
    os.close(writing)

    assert found["by_name"]["pid"]["what"] == f"{pid}, 1 in its own pid namespace"
    assert "others: pid" in found["by_name"]["namespaces"]["what"]
    assert "init" not in found["by_name"]
    assert any('pid: "service:' in line for line in found["advice"][0]["lines"])
    assert outside["advice"] == []


@root
@pytest.mark.skipif(not shutil.which("unshare"), reason="takes unshare")
def test_first_process_of_a_shared_namespace_takes_us_with_it(checkout: Path) -> None:
    """Beside process 1 of a namespace there is a warning: the kernel kills all with it."""
    command = f"{sys.executable} -m sidecar doctor --pid 1 -o json; true"
    found = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", command], cwd=checkout,
                           capture_output=True, text=True, timeout=60, check=True)
    (target,) = json.loads(found.stdout)["targets"]

    assert [fact["state"] for fact in target["facts"] if fact["name"] == "init"] == ["warning"]


@pytest.mark.parametrize(("cgroup", "mounts", "kind"), [
    ("0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-ab12.scope", "", "kubernetes"),
    ("4:memory:/kubepods/besteffort/pod12/ab\n0::/", "", "kubernetes"),
    ("4:memory:/docker/0123abcd\n0::/", "", "compose"),
    ("0::/system.slice/docker-0123abcd.scope", "", "compose"),
    ("0::/machine.slice/libpod-0123.scope", "", "compose"),
    ("0::/", "9 8 8:1 /var/lib/docker/containers/01/hosts /etc/hosts rw - ext4 /dev/a rw", "compose"),
    ("0::/", "9 8 8:1 /var/lib/kubelet/pods/01/etc-hosts /etc/hosts rw - ext4 /dev/a rw", "kubernetes"),
    ("0::/system.slice/rag.service", "", "systemd"),
    ("0::/user.slice/user-1000.slice/session-1.scope", "", "systemd"),
    ("0::/", "9 8 8:1 / /var/lib/docker/overlay2/1/merged rw - ext4 /dev/a rw", "shell"),
    ("", "garbage", "shell"),
])
def test_what_it_runs_in(tmp_path: Path, cgroup: str, mounts: str, kind: str) -> None:
    """By its cgroup's path, or by what an engine has mounted into it; a host that runs Docker is no container."""
    with running() as pid:
        roots = picture(tmp_path, pid, cgroup=cgroup.encode(), mountinfo=mounts.encode())

        assert surroundings.runs_in(meet(pid, roots)) == kind


def test_prefork_server_is_known_by_its_workers() -> None:
    """A process with children of its own name is one; their number is told."""
    def prefork() -> None:
        for _ in range(3):
            if not os.fork():
                LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                signal.pause()

    with running(prefork) as pid:
        assert "4 processes: a prefork server, main and 3 workers" in look_at(pid)["by_name"]["tree"]["what"]
        assert look_at(pid)["by_name"]["tree"]["state"] == "ok"


@root
def test_workers_that_changed_their_user_are_told() -> None:
    """A master of root whose workers run as another user, as gunicorn does it: the master can be read, they cannot."""
    def prefork() -> None:
        capset(DOCKER)
        if not os.fork():
            os.setresuid(1000, 1000, 1000)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # afterwards: a change of user clears it
            os.write(writing, b"!")
            while True:
                signal.pause()

    reading, writing = os.pipe()
    with running(prefork) as pid:
        os.read(reading, 1)
        found = seen_as(lambda: capset(DOCKER), lambda: look_at(pid))
        everything = look_at(pid)
    os.close(reading)
    os.close(writing)

    assert missing(found) - YAMA == {"children"}
    assert found["advice"][0]["title"] == "to look into a process that only CAP_SYS_PTRACE may look into"
    assert "we as 0:0" in found["by_name"]["children"]["why"]
    assert everything["by_name"]["children"]["state"] == "ok"


def test_first_process_need_not_be_the_target(tmp_path: Path) -> None:
    """An init that only starts the target (docker run --init) ends with it; the pause of a pod does not."""
    def first(cgroup: str) -> list[str]:
        folder = tmp_path / cgroup.strip("/")
        with running() as pid:
            name, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
            stat = f"{name}) S 1 {' '.join(fields.split()[2:])}\n"
            roots = picture(folder, pid, cgroup=b"4:memory:/docker/01\n", stat=stat.encode())
            (folder / "1").mkdir()
            (folder / "1" / "cgroup").write_text(f"4:memory:{cgroup}\n")
            return [fact.state for fact in examine(pid, ASKED, NOW, roots).facts if fact.name == "init"]

    assert first("/docker/01") == ["warning"]
    assert first("/docker/02") == []


def test_sidecar_that_is_killed_first(tmp_path: Path) -> None:
    """A target better protected from the kernel's killer than we are is worth a warning."""
    with running() as pid:
        found = examine(pid, ASKED, NOW, picture(tmp_path, pid, oom_score_adj=b"-900\n"))

    assert {fact.name: fact.state for fact in found.facts}["oom_score_adj"] == "warning"


# Lines to add


def patient(**change: Any) -> Patient:
    """Us, to be looked at, with some things otherwise."""
    found = meet(os.getpid(), Roots())
    return found._replace(pid=4242, dumpable=True, it=found.it._replace(uids=(4321,) * 4, gids=(4321,) * 4), **change)


REFUSED = Fact("reading", "io", "missing", "", needs=("same_user",))
BARRED = Fact("reading", "gc", "missing", "", needs=("sys_ptrace",))


@pytest.mark.parametrize(("kind", "fact", "lines"), [
    ("compose", REFUSED, ["services:", "  rag-sidecar:", '    user: "4321:4321"']),
    ("compose", BARRED, ["services:", "  rag-sidecar:", '    user: "0:0"', "    cap_add: [SYS_PTRACE]"]),
    ("kubernetes", REFUSED, ["spec:", "  containers:", "    - name: rag-sidecar", "      securityContext:",
                             "        runAsUser: 4321", "        runAsGroup: 4321"]),
    ("systemd", REFUSED, ["[Service]", "User=4321", "Group=4321"]),
    ("systemd", BARRED, ["[Service]", "User=4321", "Group=4321", "AmbientCapabilities=CAP_SYS_PTRACE"]),
    ("shell", REFUSED, ["sudo -u '#4321' -g '#4321' rag-sidecar run --pid 4242"]),
    ("shell", BARRED, ["sudo rag-sidecar run --pid 4242"]),
])
def test_lines_to_add(kind: Any, fact: Fact, lines: list[str]) -> None:
    """For each manager, exactly these, and only for what is missing."""
    assert [list(advice.lines) for advice in advise(patient(), [fact], kind, False)] == [lines]


def test_nothing_to_add_where_nothing_would_change() -> None:
    """No advice where all is seen."""
    assert list(advise(patient(), [], "compose", False)) == []


@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
@pytest.mark.parametrize("change", [{}, {"dumpable": False}, {"yama": 1}, {"yama": 2}])
def test_lines_for_files_are_yaml(kind: Any, change: dict[str, Any]) -> None:
    """What is to be put into a YAML file can be read as such, and shares the target's pid namespace."""
    found = [advice for advice in advise(patient()._replace(**change), [], kind, True)
             if advice.place in ("compose.yaml", "the pod's manifest")]
    read = [yaml.safe_load("\n".join(advice.lines)) for advice in found]

    assert read
    for each in read:
        shared = each["services"]["rag-sidecar"]["pid"] if kind == "compose" else each["spec"]["shareProcessNamespace"]
        assert shared in ("service:rag", True)


# Bad days


def test_no_such_process() -> None:
    """A number that nobody has is told as such, with code 1."""
    found = examine(1 << 22, ASKED, NOW)

    assert found.pid is None
    assert "no process" in found.facts[0].what
    assert code((), [found]) == 1


def test_process_that_has_ended_is_none() -> None:
    """A zombie, too."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert "has ended" in examine(process.pid, ASKED, NOW).facts[0].what


@pytest.mark.skipif(not Path("/proc/2/stat").exists() or b"kthreadd" not in Path("/proc/2/stat").read_bytes(),
                    reason="no kernel threads are visible here")
def test_kernel_thread_is_no_target() -> None:
    """It has no memory of its own, and is told as that."""
    assert "kernel thread" in examine(2, ASKED, NOW).facts[0].what


def test_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever that happens, there is an answer and no traceback: it has ended."""
    with running() as pid:
        known = meet(pid, Roots())
    with pytest.raises(TargetGone, match="ended while"):
        still_there(known)
    monkeypatch.setattr("sidecar.doctor.examination.meet", lambda *_: known)
    found = examine(pid, ASKED, NOW)

    assert found.pid is None
    assert "ended while it was looked at" in found.facts[0].what


ODD = ("status", "stat", "statm", "io", "limits", "cgroup", "mountinfo", "oom_score_adj", "cmdline", "uid_map", "maps",
       "auxv", "mem")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(ODD), min_size=1, max_size=4),
       st.one_of(st.binary(max_size=200), st.none(), st.sampled_from([b"1 (a) S " + b"9" * 30 + b" 9" * 50,
                                                                      b"Uid:\nGid:\n", b"1" * 5000, b"a) (\n" * 50])))
def test_garbage_in_proc_leads_to_an_answer(tmp_path: Path, names: set[str], content: bytes | None) -> None:
    """Whatever stands in the files of a process, and if they are not there: text and JSON, within 80 columns."""
    folder = tmp_path / "odd"
    shutil.rmtree(folder, ignore_errors=True)
    found = examine(os.getpid(), ASKED, NOW, picture(folder, os.getpid(), **dict.fromkeys(names, content)))
    text = as_text((), [found], Style())

    assert json.loads(as_json((), [found]))["targets"][0]["facts"]
    assert max(len(line) for line in text.splitlines() if "sudo" not in line) <= 80
    assert all(each.isprintable() or each == "\n" for each in text)


def test_sidecar_that_acts_on_it_is_named() -> None:
    """Of several sidecars beside a process one acts: the doctor says which process that is, or that there is none."""
    with running() as pid, open(f"/proc/{pid}/environ", "rb") as claim:
        before = look_at(pid)["by_name"]["sidecar"]["what"]
        fcntl.flock(claim, fcntl.LOCK_EX)
        after = look_at(pid)["by_name"]["sidecar"]["what"]

    assert before == "none that can be seen has acted on it yet"
    assert after == f"process {os.getpid()} acts on it; any other one looks on"


def test_names_cannot_steer_the_terminal() -> None:
    """A process may call itself what it likes: escape sequences arrive as text."""
    with running(lambda: LIBC.prctl(PR_SET_NAME, b"\x1b[2J\x07evil", 0, 0, 0)) as pid:
        text = as_text((), [examine(pid, ASKED, NOW)], Style())

    assert "\x1b" not in text
    assert "\x07" not in text
    assert printable(b"\xff\x00\n" + b"a" * 1000).startswith("\\\\xff\\x00\\n") or "…" in printable("a" * 1000)


# The screen, and the command


def spoken(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command, as a person calls it."""
    return subprocess.run([sys.executable, "-m", "sidecar", "doctor", *arguments], capture_output=True, text=True,
                          timeout=60, check=False, cwd=GUIDE.parent.parent, env={**os.environ, **environment})


IPC_LOCK, SYS_NICE, SYS_RESOURCE = 14, 23, 24
HERE = {f"CAP_{name}" for name, number in (
    ("IPC_LOCK", IPC_LOCK), ("SYS_NICE", SYS_NICE), ("SYS_RESOURCE", SYS_RESOURCE)) if not MINE >> number & 1}
"""What root lacks of these on this machine."""
ALL = {"CAP_IPC_LOCK", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"}


def lock_little() -> None:
    """Have a limit on locked memory."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))


def nice_within_limits() -> None:
    """Be another user who may be as little nice as he likes."""
    resource.setrlimit(resource.RLIMIT_NICE, (40, 40))
    become(1000)


@root
@pytest.mark.skipif(Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"],
                    reason="takes the first user namespace: in another nobody may do any of it")
@pytest.mark.parametrize(("us", "lacks"), [
    pytest.param(nothing, HERE, id="root"),
    pytest.param(lambda: capset(DOCKER), ALL, id="Docker's root"),
    pytest.param(lambda: become(1000), ALL, id="another user"),
    pytest.param(lambda: become_with(1000, 1 << IPC_LOCK), ALL - {"CAP_IPC_LOCK"}, id="a user who may lock"),
    pytest.param(lambda: become_with(1000, 1 << SYS_NICE), ALL - {"CAP_SYS_NICE"}, id="a user who may go first"),
    pytest.param(lambda: become_with(1000, 1 << SYS_RESOURCE), ALL - {"CAP_SYS_RESOURCE"}, id="a user who may last",
                 marks=pytest.mark.skipif("CAP_SYS_RESOURCE" in HERE, reason="takes CAP_SYS_RESOURCE")),
    pytest.param(nice_within_limits, ALL - {"CAP_SYS_NICE"}, id="a user whose limits allow it",
                 marks=pytest.mark.skipif("CAP_SYS_RESOURCE" in HERE, reason="takes CAP_SYS_RESOURCE")),
    pytest.param(lambda: LIBC.unshare(CLONE_NEWUSER), ALL, id="root of a user namespace"),
])
def test_what_a_guard_may_take_is_told_before_and_shown_later(us: Callable[[], None], lacks: set[str]) -> None:
    """What is said without trying is what a guard gets that tries, and what the page then shows of it."""
    def guarding() -> None:
        endure.prepare()
        endure.stay_in_memory()

    def look() -> tuple[dict[str, Any], dict[str, bool]]:
        lock_little()
        with running(guarding) as pid:
            return guard.fact("machine", Roots())._asdict(), dict(protection(pid))

    fact, has = seen_as(us, look)
    kinds = {"CAP_IPC_LOCK": "memory_locked", "CAP_SYS_RESOURCE": "killed_last", "CAP_SYS_NICE": "scheduled_first"}
    assert set(re.findall(r"CAP_\w+", fact["why"])) == lacks
    assert has == {kind: name not in lacks for name, kind in kinds.items()}
    assert fact["state"] == ("info" if lacks else "ok")


def test_machine_alone(tmp_path: Path) -> None:
    """Without a target it is about this machine and sidecar, and well."""
    found = spoken(XDG_STATE_HOME=str(tmp_path))

    assert found.stderr == ""
    assert "this machine, this sidecar" in found.stdout
    assert "storage" in found.stdout
    assert found.returncode == (3 if "✗" in found.stdout else 0)


def test_taken_port_and_unusable_storage(tmp_path: Path) -> None:
    """A port that another has is a warning, a storage path below a file is missing; neither is made."""
    (tmp_path / "file").write_text("")
    with subprocess.Popen([sys.executable, "-c", "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); "
                           "print(s.getsockname()[1], flush=True); sys.stdin.read()"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as taken:
        assert taken.stdout
        port = int(taken.stdout.readline())
        facts = {fact.name: fact for fact in machine.facts(Roots(), ("127.0.0.1", port), tmp_path / "file" / "x")}

    assert facts["listen"].state == "warning"
    assert facts["storage"].state == "missing"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_with_several_targets(tmp_path: Path) -> None:
    """Every target is looked at, one that is not there makes it code 1, and one may be chosen."""
    with running() as pid:
        file = tmp_path / "sidecar.yml"
        file.write_text(f"""
storage: {{path: {tmp_path}}}
targets:
  - {{name: here, match: {{pid: {pid}}}, memory: {{critical: 1GiB}}, cleanup: [{{signal: SIGUSR1}}]}}
  - {{name: away, match: {{cmdline: no-such-program-anywhere-x7}}}}
  - {{name: afar, match: {{url: "http://127.0.0.1:9/memory"}}}}
""")
        both = spoken("--config.file", str(file), "-o", "json")
        one = spoken("--config.file", str(file), "--target", "here", "-o", "json")
        afar = spoken("--config.file", str(file), "--target", "afar", "-o", "json")
    told = json.loads(both.stdout)

    assert (both.returncode, told["code"]) == (1, 1)
    assert [(target["name"], target["pid"]) for target in told["targets"]] == [
        ("here", pid), ("away", None), ("afar", None)]
    assert told["machine"]
    assert one.returncode == 3, "SIGUSR1 is named for cleanups, and the target does not catch it"
    assert [target["name"] for target in json.loads(one.stdout)["targets"]] == ["here"]
    assert afar.returncode == 0


def test_command_finds_by_its_command_line_and_says_codes() -> None:
    """--match as in `run`; a wrong pid is code 1; a configuration that is none leads nowhere."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", "doctor-test-x7"],
                          stdin=subprocess.PIPE) as process:
        found = spoken("--match", "doctor-test-x7", "-o", "json")

    assert json.loads(found.stdout)["targets"][0]["pid"] == process.pid
    assert found.returncode == 0
    assert spoken("--pid", str(1 << 22)).returncode == 1
    assert spoken("--pid", "x").returncode == 1
    assert "Traceback" not in spoken("--pid", "0").stderr


def sample() -> Examination:
    """An examination in which every state occurs."""
    facts = (Fact("identity", "pid", "info", "4242"), Fact("reading", "io", "missing", "Permission denied", "why " * 30,
             "do it"), Fact("reading", "pss", "missing", "Permission denied", "why " * 30, "do it"),
             Fact("memory", "limit", "ok", "word" * 60), Fact("memory", "lines", "warning", "default", "no limit"))
    return Examination("rag", 4242, "compose", facts, ())


@pytest.mark.parametrize("width", [20, 60, 80, 120, 400])
def test_screen_keeps_to_its_width(width: int) -> None:
    """From 40 to 120 columns; a reason that several share is told once."""
    text = as_text((), [sample()], Style(width))

    assert max(map(len, text.splitlines())) <= min(max(width, 40), 120)
    assert text.count("io, pss: why why") == 1
    assert re.search(r"✗ io +Permission denied", text)
    assert text.endswith("✗ 2 things missing, 1 warning")


def test_colour_and_plain_signs() -> None:
    """Colour only where it is asked for; where a terminal has no such signs, letters."""
    assert "\x1b" not in as_text((), [sample()], Style())
    assert "\x1b[31m✗\x1b[0m" in as_text((), [sample()], Style(colour=True))
    plain = as_text((), [sample()], Style(plain=True))
    assert plain.isascii()
    assert "x io" in plain
    with running(lambda: LIBC.prctl(PR_SET_NAME, "caché".encode(), 0, 0, 0)) as pid:
        found = spoken("--pid", str(pid), PYTHONIOENCODING="ascii", HOME="", XDG_STATE_HOME="")
    assert found.stderr == ""
    assert r"cach\xe9" in found.stdout


def test_codes() -> None:
    """0 with warnings, 3 with anything missing."""
    facts = (Fact("machine", "listen", "warning", ""),)

    assert code(facts, []) == report.WELL
    assert code(facts, [sample()]) == report.MISSING


@root
def test_every_name_is_documented() -> None:
    """Groups, facts and needs that programs may meet stand in docs/doctor.md."""
    words = set(re.findall(r"`([\w.]+)`", GUIDE.read_text()))
    facts = [*machine.facts(Roots(), ("127.0.0.1", 0), Path("/tmp")), *examine(os.getpid(), ASKED, NOW).facts]

    assert {fact.name for fact in facts} <= words
    assert set(GROUPS) <= words
