"""The way from the desk to the agents in the targets' processes. Real processes, real sockets, other users."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target
from probing import NOBODY, Obedient

from sidecar.errors import ProbeFailed
from sidecar.probes.agent_socket import dial


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
    for parent in [tmp_path, *tmp_path.parents][:3]:
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
