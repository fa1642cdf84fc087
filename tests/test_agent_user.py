"""The agent in a process that becomes another user's after its start: a daemon that drops root, gunicorn --user."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_apps import App, Client, launching
from servers import free_port, wait_until
from sidecars import Sidecar, running_sidecar

APPS = Path(__file__).parent / "apps"
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sockets that every user may write to, as /tmp is; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o1777)
        yield path


@pytest.fixture
def apps(place: Path) -> Iterator[tuple[App, App]]:
    """Two apps of root with agents."""
    with launching(place) as launch:
        yield launch(RAG_SIDECAR_AGENT_DIR=str(place)), launch(RAG_SIDECAR_AGENT_DIR=str(place))


def answers(path: Path) -> bool:
    """Whether somebody listens there. The file is there a moment earlier."""
    try:
        Client(path).socket.close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def socket_of(place: Path, user: int, pid: int) -> Path:
    """Where the agent of this user's process listens."""
    return place / f"rag-sidecar-{user}" / f"{pid}.sock"


def test_agent_follows_a_process_that_drops_root(apps: tuple[App, App], place: Path) -> None:
    """After setuid the agent listens in the new user's folder alone; what it had to leave is swept by root's next."""
    app, roots = apps
    old, new = (socket_of(place, user, app.pid) for user in (0, NOBODY))
    with Client(old) as client:
        assert client.ask("GET", "/").body["pid"] == app.pid

    app.do(f"os.setgid({NOBODY}); os.setuid({NOBODY})")
    wait_until(lambda: answers(new), 30, "the socket in the new user's folder")

    with Client(new) as client:
        assert client.ask("GET", "/").body["pid"] == app.pid
        assert client.ask("POST", "/cleanup", {"level": "standard"}).body["outcome"] == "done"
    assert (new.stat().st_uid, new.parent.stat().st_uid) == (NOBODY, NOBODY)
    wait_until(lambda: app.do("__import__('threading').active_count()") == 2, 30, "the cleanup's thread to end")
    with pytest.raises(ConnectionRefusedError):
        Client(old)
    assert app.close() == 0
    assert not new.exists()
    roots.do("agent.stop(); agent.start()")
    assert not old.exists()
    assert app.errors.read_text() == ""


def test_agent_follows_there_and_back(apps: tuple[App, App], place: Path) -> None:
    """Who gives root up for a while is followed both ways, and root leaves nothing in the other user's folder."""
    app, _ = apps
    roots, others = (socket_of(place, user, app.pid) for user in (0, NOBODY))
    app.do(f"os.seteuid({NOBODY})")
    wait_until(lambda: answers(others), 30, "the socket in the other user's folder")
    app.do("os.seteuid(0)")
    wait_until(lambda: not others.exists(), 60, "the way back")

    with Client(roots) as client:
        assert client.ask("GET", "/").body["pid"] == app.pid


def test_agent_stays_where_it_is_if_the_new_user_has_no_place(apps: tuple[App, App], place: Path) -> None:
    """Where no folder can be had the program goes on, the logger says why, and the old socket still answers root."""
    app, _ = apps
    app.do("agent.PLACES = (); os.environ['RAG_SIDECAR_AGENT_DIR'] = '/nowhere'; "
           f"os.setgid({NOBODY}); os.setuid({NOBODY})")
    wait_until(lambda: "no directory for the socket could be used" in app.errors.read_text(), 30, "the warning")

    with Client(socket_of(place, 0, app.pid)) as client:
        assert client.ask("GET", "/").body["pid"] == app.pid
    assert app.close() == 0


def test_once_it_cannot_change_its_user_nothing_wakes_the_agent(apps: tuple[App, App], place: Path) -> None:
    """Only a process that may become another user's is looked at from time to time."""
    app, _ = apps
    app.do(f"os.setgid({NOBODY}); os.setuid({NOBODY})")
    wait_until(lambda: answers(socket_of(place, NOBODY, app.pid)), 30, "the socket in the new user's folder")
    wait_until(lambda: app.agent_sleeps(2), 30, "two seconds without waking")


def up(sidecar: Sidecar) -> int:
    """How many agents answer."""
    return int(sum(sidecar.series("rag_agent_up").values()))


def test_workers_of_gunicorn_that_become_another_user_are_found_and_asked(tmp_path: Path, checkout: Path) -> None:
    """gunicorn of root with --user: its master and its workers answer, and one order reaches them all."""
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--user", "nobody", "--group", str(NOBODY),
               "--chdir", str(APPS), "--bind", f"127.0.0.1:{free_port()}", "wsgi:app"]
    with running_sidecar(tmp_path, "--", *command) as sidecar:
        wait_until(lambda: up(sidecar) == 3, 60, f"three agents; log:\n{sidecar.log.read_text()[-2000:]}")
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "cleanup", "--storage.path",
                               str(tmp_path / "state"), "-o", "json"], capture_output=True, text=True, timeout=60,
                              check=False, cwd=checkout)
        row = json.loads(done.stdout)

        assert (row["channel"], {each["outcome"] for each in row["processes"]}) == ("agent", {"done"})
        assert len(row["processes"]) == 3
        assert sidecar.stop() == 0
