"""The collector read from outside: equal to what each real Python tells of itself, and never more than is known."""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import read_line, wait_until
from elf_files import START, process, shared_object
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import NOBODY, as_nobody
from pythons import NEWER, Interpreter, installed, wanted
from servers import end

from sidecar.model import Labels
from sidecar.probes.gc_layouts import COOKIE, PATHS, PUBLISHED, STATES, State
from sidecar.probes.gc_remote import GcProbe, Unsupported
from sidecar.probes.series import SeriesOf

BASE = Labels({"target": "rag", "job": "sidecar", "instance": "host", "process": "main"})
SOURCE = (Path(__file__).parent / "targets" / "collector.py").read_text()


class Told(NamedTuple):
    """What a Python says of its own collector."""

    stats: list[dict[str, float]]
    threshold: list[int]
    enabled: bool
    objects: int
    count: list[int]


class Program:
    """A running tests/targets/collector.py. Lives until its context ends."""

    def __init__(self, command: tuple[str, ...], **popen: Any) -> None:
        command = (*command, "-c", SOURCE)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen)
        self.pid = self.process.pid
        assert read_line(self.process, "ready") == "ready"

    def ask(self, line: str) -> str:
        """The answer to a line."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return read_line(self.process, f"the answer to {line!r}")

    def do(self, *statements: str) -> None:
        """Have Python statements carried out."""
        for statement in statements:
            assert self.ask(statement) == "done"

    def tell(self) -> Told:
        """What it says, at rest afterwards."""
        main, _, count = self.ask("tell").rpartition(" [")
        return Told(*json.loads(main), json.loads(f"[{count}"))


@contextlib.contextmanager
def running(interpreter: Interpreter | None = None, command: tuple[str, ...] = (), **popen: Any) -> Iterator[Program]:
    """A Python that obeys."""
    if interpreter and interpreter.home:
        popen["env"] = {**os.environ, "PYTHONHOME": interpreter.home}
    program = Program(command or (interpreter.command if interpreter else (sys.executable,)), **popen)
    try:
        yield program
    finally:
        end(program.process)


@contextlib.contextmanager
def watched(pid: int, proc: str = "/proc") -> Iterator[GcProbe]:
    """A probe of a process."""
    probe = GcProbe(pid, SeriesOf(BASE), proc)
    try:
        yield probe
    finally:
        probe.close()


def figures(probe: GcProbe) -> dict[str, Any]:
    """A reading: metric without its prefix -> value, or values by generation."""
    found: dict[str, Any] = {}
    for sample in probe.read(7.0):
        assert sample.at == 7.0
        assert BASE.items() <= dict(sample.labels).items()
        name = sample.labels.metric.removeprefix("rag_python_").removeprefix("gc_")
        if "generation" in sample.labels:
            assert sample.labels["generation"] == str(len(found.setdefault(name, [])))
            found[name].append(sample.value)
        else:
            found[name] = sample.value
    return found


def at_rest(program: Program, probe: GcProbe) -> tuple[Told, dict[str, Any]]:
    """What a program tells and what is read of it at the same time: no collection lies between."""
    for _ in range(20):
        told, read, again = program.tell(), figures(probe), program.tell()
        if told.stats == again.stats and told.count == again.count:
            return told, read
    raise AssertionError("it collects all the time")


def check(program: Program, probe: GcProbe) -> tuple[Told, dict[str, Any]]:
    """What is read is what is told."""
    told, read = at_rest(program, probe)
    assert read["collections_total"] == [each["collections"] for each in told.stats]
    assert read["objects_collected_total"] == [each["collected"] for each in told.stats]
    assert read["objects_uncollectable_total"] == [each["uncollectable"] for each in told.stats]
    assert read.get("pause_seconds_total", []) == [each["duration"] for each in told.stats if "duration" in each]
    assert (read["threshold"], read["objects"]) == (told.threshold, told.count)
    assert (read["enabled"], read["info"]) == (told.enabled, 1)
    return told, read


def through_all(interpreter: Interpreter, **popen: Any) -> None:
    """A Python's collector is put through everything, and what is read stays equal to what it tells."""
    with running(interpreter, **popen) as program, watched(program.pid) as probe:
        _, minor, micro = interpreter.version
        assert probe.info == (f"3.{minor}.{micro}" if minor > 10 else f"3.{minor}", "cpython", "generational")
        first, read = check(program, probe)
        assert ("tracked_objects" in read) == (minor >= 14 or first.stats[2]["collections"] > 0)
        program.do("import gc", "gc.collect()", "kept = [[] for _ in range(5000)]", "gc.collect()")
        second, read = check(program, probe)
        assert second.stats[2]["collections"] > first.stats[2]["collections"]
        assert abs(read["tracked_objects"] - second.objects) < 100
        program.do("gc.disable()", "gc.set_threshold(12345, 67, 89)")
        third, read = check(program, probe)
        assert (read["enabled"], read["threshold"]) == (0, [12345, 67, 89])
        program.do("exec('for _ in range(10_000):\\n a = []; a.append(a); del a')", "gc.collect()", "gc.freeze()")
        fourth, _ = check(program, probe)
        with watched(program.pid) as late:  # objects are frozen now
            check(program, late)
        assert fourth.stats[2]["collected"] >= third.stats[2]["collected"] + 9999
        program.do("gc.set_debug(gc.DEBUG_SAVEALL)", "gc.set_threshold(0)", "gc.set_threshold(2 ** 31 - 1)",
                   "gc.enable()", "gc.set_debug(0)")
        _, read = check(program, probe)
        assert (read["enabled"], read["threshold"][0]) == (1, 2**31 - 1)


@pytest.mark.parametrize("interpreter", installed(), ids=str)
def test_every_python_of_this_machine_is_read_as_it_tells_itself(interpreter):
    """3.9 to the newest, shared and static, stripped or not, in a venv: every figure equal, whatever is done."""
    through_all(interpreter)


@pytest.mark.parametrize("version", NEWER)
def test_newer_pythons_are_read_as_they_tell_themselves(version):
    """Of Debian's next release, each started by its own loader: the program in /proc/PID/exe is not Python."""
    through_all(wanted(version))


@pytest.mark.parametrize("version", NEWER)
def test_a_python_in_a_chroot_is_read(version):
    """What /proc/PID/maps calls its path is the path of another program here, or of none."""
    python = wanted(version)
    if os.geteuid() or not python.tree:
        pytest.skip("chroot is for root, and needs a Python that was fetched")

    with running(command=(shutil.which("chroot") or "chroot", str(python.tree), f"/usr/bin/python{version}"), env={},
                 cwd="/") as program, watched(program.pid) as probe:
        check(program, probe)
        assert probe.info.version == ".".join(map(str, python.version))


OLD_FINALIZER = """
import ctypes
slots = ('refcount type size name basicsize itemsize dealloc vectorcall getattr setattr async repr number sequence '
         'mapping hash call str getattro setattro buffer flags doc traverse clear richcompare weaklistoffset iter '
         'iternext methods members getset base dict descr_get descr_set dictoffset init alloc new free is_gc bases mro '
         'cache subclasses weaklist del').split()
class Loop: pass
never = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
slot = ctypes.c_void_p.from_address(id(Loop) + 8 * slots.index('del'))
slot.value = ctypes.cast(never, ctypes.c_void_p).value
loop = Loop(); loop.own = loop; del loop
gc.collect()
slot.value = None
"""


def test_uncollectable_objects_are_counted():
    """A type with a finalizer of the old kind, which the collector dares not call: since 3.4 only C can make one."""
    with running() as program, watched(program.pid) as probe:
        program.do("import gc", f"exec({OLD_FINALIZER!r})")
        _, read = check(program, probe)

    assert read["objects_uncollectable_total"][2] >= 1


def static_python() -> Interpreter:
    """A Python in one file if there is one, else the tests' own."""
    return next((each for each in installed() if b"_PyRuntime" in Path(os.path.realpath(each.command[0])).read_bytes()),
                installed()[0])


def copied(folder: Path, name: str) -> tuple[Path, dict[str, str]]:
    """A copy of a Python under another name, and the environment in which it finds its library."""
    program = static_python().command[0]
    home = subprocess.check_output([program, "-c", "import sys; print(sys.base_prefix)"], text=True).strip()
    copy = folder / name
    shutil.copy(os.path.realpath(program), copy)
    return copy, {**os.environ, "PYTHONHOME": home}


@pytest.mark.parametrize("name", ["rag-server", "a name\nof two lines (deleted)"])
def test_a_renamed_python_is_read(tmp_path, name):
    """A Python is known by what it is, not by the name of its file."""
    copy, environment = copied(tmp_path, name)
    with running(command=(str(copy),), env=environment) as program, watched(program.pid) as probe:
        check(program, probe)


INTERPRETERS = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
others = [interpreters.create() for _ in range(3)]
"""


@pytest.mark.parametrize("interpreter", installed(), ids=str)
def test_of_several_interpreters_the_main_one_is_read(interpreter):
    """Sub-interpreters made before and after the attach change nothing of what is read."""
    with running(interpreter) as program:
        program.do(f"exec({INTERPRETERS!r})")
        with watched(program.pid) as probe:
            check(program, probe)
            program.do("import gc", "others.append(interpreters.create())", "gc.collect()")
            check(program, probe)


def test_a_forked_worker_has_figures_of_its_own():
    """A worker of a prefork server begins with its parent's figures and goes on alone."""
    with running() as program, watched(program.pid) as probe:
        program.do("import gc, os, signal", "gc.disable()",
                   "exec('child = os.fork()\\nif not child:\\n  gc.collect(); signal.pause()')")
        (child,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        try:
            with watched(int(child)) as worker:
                before = figures(probe)["collections_total"]
                after = [*before[:2], before[2] + 1]
                wait_until(lambda: figures(worker)["collections_total"] == after, 30, "its collection")
                assert figures(probe)["collections_total"] == before
        finally:
            os.kill(int(child), signal.SIGKILL)


MODULES = """
import glob, importlib, os, sysconfig
for path in glob.glob(os.path.join(sysconfig.get_path('platstdlib'), 'lib-dynload', '*.so')):
    try:
        importlib.import_module(os.path.basename(path).split('.')[0])
    except ImportError:
        pass
"""


@pytest.mark.parametrize("interpreter", installed(), ids=str)
def test_a_python_full_of_extension_modules_is_read(interpreter):
    """The many files with Python in their names that a program loads do not hide its library."""
    with running(interpreter) as program:
        program.do(f"exec({MODULES!r})")
        with watched(program.pid) as probe:
            check(program, probe)


@pytest.mark.parametrize("by", ["an upgrade", "a pipe", "nothing"])
def test_a_python_whose_file_is_another_one_by_now_is_read(tmp_path, by):
    """What counts is what runs. An upgrade, a removal or a pipe in the place of the file mislead and hold up nobody."""
    copy, environment = copied(tmp_path, "python3.11")
    with running(command=(str(copy),), env=environment) as program:
        copy.unlink()
        if by == "an upgrade":
            shutil.copy(shutil.which("sleep") or "/bin/sleep", copy)
        elif by == "a pipe":
            os.mkfifo(copy)
        with watched(program.pid) as probe:
            check(program, probe)


def test_what_is_no_python_is_named(tmp_path):
    """Other programs, whatever they are called, are said to be what they are."""
    (tmp_path / "bin").mkdir()
    for name, reason in (("sleep", "not CPython 3.9 or later"), ("python3.11", "not CPython 3.9 or later"),
                         ("pypy3.11", "PyPy: it has another collector"),
                         ("graalpy", "GraalPy: it has another collector")):
        program = shutil.copy(shutil.which("cat") or "/bin/cat", tmp_path / "bin" / name)
        other = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert other.stdin
            other.stdin.write(b"started\n")
            other.stdin.flush()
            assert read_line(other, "what it was given") == "started"
            with pytest.raises(Unsupported, match=reason):
                GcProbe(other.pid, SeriesOf(BASE))
        finally:
            end(other)


def test_the_end_of_a_program_is_noticed():
    """After an exec and after the end nothing is read any more: neither of the next program nor of the next process."""
    with running() as program, watched(program.pid) as probe:
        program.do("import os")
        assert program.process.stdin
        program.process.stdin.write(b"os.execv('/bin/sleep', ['sleep', '600'])\n")
        program.process.stdin.flush()
        wait_until(lambda: Path(f"/proc/{program.pid}/comm").read_text() == "sleep\n", 30, "the exec")
        with pytest.raises(ProcessLookupError):
            probe.read(1.0)
        with pytest.raises(Unsupported):
            GcProbe(program.pid, SeriesOf(BASE))
    with running() as program, watched(program.pid) as probe:
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
        with pytest.raises(ProcessLookupError):
            probe.read(1.0)
        with pytest.raises(OSError, match="No such") as caught:
            GcProbe(program.pid, SeriesOf(BASE))
        assert caught.value.errno in (errno.ENOENT, errno.ESRCH)


def nobody_gets(pid: int) -> int | None:
    """The error number with which a process is kept from another user; 0 if it is not."""
    def asked() -> int | None:
        try:
            GcProbe(pid, SeriesOf(BASE)).read(1.0)
        except OSError as error:
            return error.errno
        return 0

    found: int | None = as_nobody(asked)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_who_may_not_read_is_told_so():
    """Another user's process and one that keeps itself closed are refused with EACCES; else the same user may."""
    closed, opened = "libc.prctl(4, 0, 0, 0, 0)", "libc.prctl(4, 1, 0, 0, 0)"  # PR_SET_DUMPABLE
    with running() as program:
        assert nobody_gets(program.pid) == errno.EACCES
        program.do("import ctypes, os; libc = ctypes.CDLL(None)", f"os.setgid({NOBODY})",
                   f"os.setuid({NOBODY})", opened)
        assert nobody_gets(program.pid) == 0
        program.do(closed)
        assert nobody_gets(program.pid) == errno.EACCES


# What cannot be true


def test_a_program_that_forges_its_figures_is_refused():
    """Values out of range, pointers that lead elsewhere, counters that go back: an error while they last, no figure."""
    with running() as program, watched(program.pid) as probe:
        program.do("import ctypes, gc", "gc.disable()", "gc.collect()", "gc.collect()")
        good = figures(probe)
        state, put = probe._state, "ctypes.c_%s.from_address(%d).value = %d"
        for kind, address, value, restored in (
            ("int", probe._gc + state.enabled, 7, 0), ("int", probe._gc + state.collecting, -1, 0),
            ("int", probe._gc + state.generations + 16, -700, 700), ("long", probe._gc + state.stats, -1, None),
            ("long", probe._gc + state.stats + 8, 1 << 60, None),
            ("long", probe._main_at, 0, probe._main), ("long", probe._main_at, 8, probe._main),
        ):
            honest = ctypes.sizeof(getattr(ctypes, f"c_{kind}")), address
            before = int.from_bytes(probe._memory.read(address, honest[0]), "little", signed=True)
            program.do(put % (kind, address, value))
            for _ in range(2):
                with pytest.raises(ProcessLookupError if address == probe._main_at else ValueError):
                    probe.read(1.0)
            program.do(put % (kind, address, before))
            assert restored in (None, before)
            assert figures(probe)["collections_total"] == good["collections_total"]

        program.do(put % ("long", probe._gc + state.stats + 48, 1))  # one full collection less than before
        with pytest.raises(ValueError, match="gone back"):
            probe.read(1.0)
        assert figures(probe)["collections_total"][2] == 1


def made(folder: Path, version: int = 0x030E00F0, state: State | None = None, *, free: int = 0, published: bytes = b"",
         overlaid: dict[int, bytes] | None = None, symbols: tuple[str, ...] = ("_PyRuntime", "Py_Version"),
         seconds: float = 0.5) -> Path:
    """A made /proc whose process 42 holds a CPython of this version, with figures 1, 2, 3 … and 2000/5, 10/6, 11/7.

    `overlaid` is laid over the collector's state, by offset.
    """
    minor = version >> 16 & 255
    state = state or STATES[minor, bool(free)][0]
    runtime, main, thread = START + 0x10000, START + 0x40000, START + 0x60000
    path = PATHS.get(minor) or next(iter(PATHS.values()))._replace(main=0x408, id=0x10, threads_head=0x18, gc=0x1000)
    gc = main + path.gc
    content = bytearray(state.size)
    struct.pack_into("<i", content, state.enabled, 1)
    for number, pair in enumerate([(2000, 5), (10, 6), (11, 7)]):
        struct.pack_into("<ii", content, state.generations + 24 * number + 16, *pair)
    struct.pack_into("<QQ", content, state.stats - 24, gc + state.stats - 24, gc + state.stats - 24)
    rings = b""
    if state.ring:
        struct.pack_into("<Q", content, state.stats, START + 0x70000)
        for number, length in enumerate(state.ring):
            record = struct.pack("<6qdq", 1000, 2000, *range(3 * number + 1, 3 * number + 4), 99, seconds, 0)
            rings += record + struct.pack("<6qdq", 500, 1500, 0, 0, 0, 0, 0.0, 0) * (length - 1) + b"\0" * 8
    else:
        struct.pack_into("<9q", content, state.stats, *range(1, 10))
    for place, value in ((state.own, gc + state.generations), (state.heap, 4321), (state.survivors, 1234)):
        if place is not None:
            struct.pack_into("<Q", content, place, value)
    for place, bytes_ in (overlaid or {}).items():
        content[place:place + len(bytes_)] = bytes_
    memory = {
        START: shared_object(dict(zip(symbols, (0x10000, 0x1F000), strict=False))),
        runtime + path.main: main.to_bytes(8, "little"), START + 0x1F000: version.to_bytes(8, "little"),
        main + path.id: bytes(8), main + path.threads_head: thread.to_bytes(8, "little"),
        thread + path.interp: main.to_bytes(8, "little"), gc: bytes(content), START + 0x70000: rings,
    }
    if where := PUBLISHED.get(minor):
        block = bytearray(where.size)
        struct.pack_into("<8sQQ16xQ8xQ", block, 0, COOKIE, version, free, 0x400, path.id)
        for place, value in ((where.threads_head, path.threads_head), (where.gc, path.gc), (where.interp, path.interp),
                             (where.state, state.size), (where.state + 8, state.collecting)):
            struct.pack_into("<Q", block, place, value)
        memory[runtime] = published or bytes(block)
    return process(folder, memory)


def test_the_incremental_collector_is_read(tmp_path):
    """3.14.0 to 3.14.4, told by the state's size: two old generations that change places, no threshold for the last."""
    one, other = made(tmp_path / "a"), made(tmp_path / "b", overlaid={0xE8: b"\1"})
    with watched(42, str(one)) as first, watched(42, str(other)) as second:
        assert first.info == ("3.14.0", "cpython", "incremental")
        assert figures(first) == {
            "info": 1, "collections_total": [1, 4, 7], "objects_collected_total": [2, 5, 8], "enabled": 1,
            "objects_uncollectable_total": [3, 6, 9], "threshold": [2000, 10, 0], "objects": [5, 6, 7],
            "tracked_objects": 4321}
        assert figures(second)["objects"] == [5, 7, 6]


@pytest.mark.parametrize(("version", "size"), [
    (0x030D01F0, 248), (0x030E00F0, 264), (0x030E08F0, 288), (0x030F00F0, 176)])
def test_of_a_free_threaded_build_only_what_is_true_there_is_read(tmp_path, version, size):
    """Counts, thresholds and the number of objects are no figures of the whole process there."""
    state = next(state for state in STATES[version >> 16 & 255, True] if state.size == size)
    with watched(42, str(made(tmp_path / "a", version, state, free=1))) as probe:
        assert probe.info.collector == "free_threaded"
        assert figures(probe) == {
            "info": 1, "collections_total": [1, 4, 7], "objects_collected_total": [2, 5, 8], "enabled": 1,
            "objects_uncollectable_total": [3, 6, 9], **({"pause_seconds_total": [0.5] * 3} if state.ring else {})}


def test_a_collector_that_keeps_records_is_read(tmp_path):
    """3.15: the figures are those of the last whole record of each ring; a time that is no number is refused."""
    with watched(42, str(made(tmp_path / "a", 0x030F00F0))) as probe:
        assert figures(probe) == {
            "info": 1, "collections_total": [1, 4, 7], "objects_collected_total": [2, 5, 8], "enabled": 1,
            "objects_uncollectable_total": [3, 6, 9], "threshold": [2000, 10, 11], "objects": [5, 6, 7],
            "tracked_objects": 4321, "pause_seconds_total": [0.5, 0.5, 0.5]}
    with watched(42, str(made(tmp_path / "b", 0x030F00F0, seconds=float("nan")))) as probe, \
            pytest.raises(ValueError, match="no number"):
        probe.read(1.0)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"version": 0x030F00A2, "state": STATES[15, False][0]}, "CPython 3.15.0a2 is a pre-release"),
    ({"version": 0x030E00C1}, "CPython 3.14.0rc1 is a pre-release"),
    ({"version": 0x031000F0, "state": STATES[15, False][0]}, "CPython 3.16.0 is not known"),
    ({"version": 0x040000F0, "state": STATES[15, False][0]}, "0x40000f0 is no version of CPython 3"),
    ({"state": STATES[14, False][0]._replace(size=256)}, "CPython 3.14.0, but not built as known: .* 256 bytes"),
    ({"state": STATES[14, False][0]._replace(collecting=0xC8)}, "not built as known: .* 240 bytes"),
    ({"free": 2}, "not built as known"),
    ({"published": b"x" * 760}, "its table of offsets is not its version's"),
    ({"symbols": ("_PyRuntime",), "version": 0x030800F0, "state": STATES[9, False][0]}, "CPython before 3.9"),
    ({"symbols": ("_PyRunTime",)}, "not CPython 3.9 or later"),
    ({"overlaid": {0x60: b"\xff" * 8}}, "not built as known: nothing is mapped|is no address"),
    ({"version": 0x030B09F0, "overlaid": {0x60: bytes(8)}}, "does not lead back to itself"),
    ({"version": 0x030B09F0, "overlaid": {0x68: (START + 0x100).to_bytes(8, "little")}}, "no list"),
])
def test_what_is_not_known_is_refused_by_name(tmp_path, changes, reason):
    """Pre-releases, newer versions, other builds and damaged ones give a reason and no figures."""
    with pytest.raises(Unsupported, match=reason):
        GcProbe(42, SeriesOf(BASE), str(made(tmp_path / "a", **changes)))


def test_an_interpreter_that_has_not_started_is_asked_again_later(tmp_path):
    """Between the start of a program and that of its interpreter there is nothing to read: EAGAIN, not a verdict."""
    proc = made(tmp_path / "a", 0x030B09F0)
    with (proc / "42" / "mem").open("r+b") as memory:
        memory.seek(START + 0x10000 + PATHS[11].main)
        memory.write(bytes(8))

    with pytest.raises(BlockingIOError, match="not started"):
        GcProbe(42, SeriesOf(BASE), str(proc))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0x030B09F0, 0x030E00F0, 0x030F00F0]), st.sampled_from([START, START + 0x10000]),
       st.lists(st.tuples(st.integers(0, 0x60), st.binary(min_size=8, max_size=8)), min_size=1, max_size=5))
def test_forged_memory_is_an_error_and_nothing_else(version, over, changes):
    """Whatever a program writes over its symbols, runtime and collector: figures in range, or known errors."""
    with tempfile.TemporaryDirectory() as name:
        overlaid = {8 * place: word for place, word in changes[1:] if place < 20}
        proc = made(Path(name) / "proc", version, overlaid=overlaid)
        with (proc / "42" / "mem").open("r+b") as memory:
            for place, word in changes[:1]:
                memory.seek(over + 8 * place)
                memory.write(word)
        try:
            with watched(42, str(proc)) as probe:
                assert all(0 <= sample.value < 1 << 53 for sample in probe.read(1.0))
        except (Unsupported, ValueError, OSError):  # beyond the end of a made memory is after the end of its program
            pass
