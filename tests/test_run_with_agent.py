"""`rag-sidecar run -- COMMAND`: unmodified programs with the agent inside, which changes nothing else for them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pythons import Interpreter, installed, wanted
from servers import free_port, wait_until
from sidecars import running_sidecar

from sidecar.guard.children import with_agent

APPS = Path(__file__).parent / "apps"
TELL = """
import json, os, sys
from threading import active_count
print(json.dumps({
    "agent": "_rag_sidecar_agent" in sys.modules, "threads": active_count(), "path": sys.path,
    "site": getattr(sys.modules.get("sitecustomize"), "__file__", None), "pid": os.getpid(),
    "listens": os.path.exists(os.environ["RAG_SIDECAR_AGENT_DIR"] + "/rag-sidecar-%d/%d.sock" % (
        os.geteuid(), os.getpid()))}))
"""
Ask = Callable[..., Any]


@pytest.fixture
def tell(tmp_path: Path) -> Ask:
    """Run a program that tells what it finds: `tell(arguments…, python=…, agent=…, **environment)`."""
    (tmp_path / "tell.py").write_text(TELL)

    def run(*arguments: str, python: tuple[str, ...] = (sys.executable,), agent: bool = True, code: str = "",
            **environment: str) -> Any:
        env: dict[str, str] = {**{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
                               "RAG_SIDECAR_AGENT_DIR": str(tmp_path), **environment}
        command = [*python, *arguments, *(["-c", code] if code else [str(tmp_path / "tell.py")])]
        done = subprocess.run(command, env=with_agent(env) if agent else env, capture_output=True, text=True,
                              timeout=60, check=True, cwd=tmp_path)
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("interpreter", installed((3, 8)), ids=str)
def test_every_python_starts_the_agent_and_sees_nothing_else_of_it(interpreter: Interpreter, tell: Ask) -> None:
    """From 3.8 on an unmodified program has the agent; its sys.path and sitecustomize are as without."""
    without, inside = (tell(python=interpreter.command, agent=agent) for agent in (False, True))

    assert (without["agent"], inside["agent"], inside["listens"]) == (False, True, True)
    assert inside["threads"] == without["threads"] + 1
    assert (inside["path"], inside["site"]) == (without["path"], without["site"])


def test_newer_python_starts_the_agent(tell: Ask) -> None:
    """The same for CPython 3.14."""
    newer = wanted("3.14")
    found = tell(python=newer.command, **({"PYTHONHOME": newer.home} if newer.home else {}))

    assert (found["agent"], found["listens"]) == (True, True)


@pytest.mark.parametrize("option", ["-S", "-I", "-E"])
def test_python_that_asks_for_nothing_gets_nothing(option: str, tell: Ask) -> None:
    """Isolated Pythons, and those without `site`, run as before, without an agent."""
    assert tell(option)["agent"] is False


def test_own_sitecustomize_is_run_as_ever(tell: Ask, tmp_path: Path) -> None:
    """The program's own sitecustomize runs after the agent's start, under its own name, from its own place."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys\nassert __name__ == 'sitecustomize'\nsys.own_ran = True\n")
    found = tell(PYTHONPATH=str(own))
    ran = tell(PYTHONPATH=str(own), code="import json, sys; print(json.dumps(sys.own_ran))")

    assert found["agent"]
    assert found["site"] == str(own / "sitecustomize.py")
    assert str(own) in found["path"]
    assert ran is True


def test_sitecustomize_that_fails_fails_as_ever(tmp_path: Path) -> None:
    """What Python says about a broken sitecustomize is the same with the agent, and the program runs on."""
    (tmp_path / "sitecustomize.py").write_text("raise ValueError('mine')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "RAG_SIDECAR_AGENT_DIR": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", "print('ran')"], env=each, capture_output=True, text=True, timeout=60,
                           check=True) for each in (env, with_agent(env))]

    assert said[0].stdout == said[1].stdout == "ran\n"
    assert said[0].stderr == said[1].stderr
    assert "ValueError: mine" in said[1].stderr


def test_safe_path_and_a_home_that_is_not_there(tell: Ask) -> None:
    """PYTHONSAFEPATH, no home folder, no bytecode: the agent starts all the same."""
    found = tell(PYTHONSAFEPATH="1", HOME="/nowhere", PYTHONDONTWRITEBYTECODE="1", PYTHONWARNINGS="error")

    assert (found["agent"], found["listens"]) == (True, True)


def test_virtual_environment_gets_the_agent(tell: Ask, tmp_path: Path) -> None:
    """A program in a virtual environment of its own, which knows nothing of rag-sidecar."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    found = tell(python=(str(tmp_path / "venv" / "bin" / "python"),))

    assert (found["agent"], found["listens"]) == (True, True)


def test_children_of_the_program_get_one_each(tell: Ask, tmp_path: Path) -> None:
    """A program that a program starts has an agent of its own, also with multiprocessing's spawn, and after a fork."""
    (tmp_path / "family.py").write_text(
        "import json, multiprocessing, os, subprocess, sys\n"
        "def name(): return os.environ['RAG_SIDECAR_AGENT_DIR'] + '/rag-sidecar-%d/%d.sock' % "
        "(os.geteuid(), os.getpid())\n"
        "def child(q): q.put(os.path.exists(name()))\n"
        "if __name__ == '__main__':\n"
        "    found = [json.loads(subprocess.check_output([sys.executable, 'tell.py']))['listens']]\n"
        "    for way in ('spawn', 'fork', 'forkserver'):\n"
        "        context = multiprocessing.get_context(way)\n"
        "        q = context.SimpleQueue()\n"
        "        p = context.Process(target=child, args=(q,)); p.start(); found.append(q.get()); p.join()\n"
        "    print(json.dumps(found))\n")

    code = "import subprocess, sys; subprocess.run([sys.executable, 'family.py'], check=True)"

    assert tell(code=code) == [True] * 4


def test_programs_that_are_no_python_run_as_ever(tmp_path: Path) -> None:
    """What the environment carries is only read by Pythons."""
    done = subprocess.run(["/bin/sh", "-c", "echo $0 $PYTHONPATH"], env=with_agent({"PYTHONPATH": "/a:/b"}),
                          capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.endswith(":/a:/b\n")
    assert (done.stdout.count(":"), done.stderr) == (2, "")


@pytest.fixture
def package(tmp_path: Path, checkout: Path) -> Path:
    """A copy of what of the package comes into other programs."""
    made = tmp_path / "package"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(checkout / "sidecar" / "attach", made / "attach", ignore=ignore)
    shutil.copy(checkout / "sidecar" / "agent.py", made)
    return made


def test_agent_that_cannot_start_is_one_line(package: Path, tmp_path: Path) -> None:
    """A failure is told in one line on standard error; the program goes on."""
    (package / "agent.py").write_text("raise RuntimeError('broken')\n")
    env = {**os.environ, "PYTHONPATH": str(package / "attach" / "startup")}
    done = subprocess.run([sys.executable, "-c", "print('ran')"], env=env, capture_output=True, text=True, timeout=60,
                          check=True)

    assert done.stdout == "ran\n"
    assert done.stderr == "rag-sidecar: no agent in process: RuntimeError: broken\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_nothing_is_written_into_a_package_of_somebody_else(package: Path, tmp_path: Path) -> None:
    """A program of another user starts the agent from a package that it may only read, and leaves no trace in it."""
    for path in [tmp_path, *tmp_path.parents[:3]]:
        path.chmod(path.stat().st_mode | 0o055)
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 65534, 65534)
    drop = ("import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "os.execve(sys.argv[1], [sys.argv[1], '-c', sys.argv[2]], dict(os.environ))")
    code = f"import glob, sys; print('_rag_sidecar_agent' in sys.modules, glob.glob('{place}/*/*.sock') != [])"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), "")
    if not python:
        pytest.skip("no Python that another user may run")
    done = subprocess.run([sys.executable, "-I", "-c", drop, python, code], capture_output=True, text=True, timeout=60,
                          check=True, cwd="/", env={**env, "PYTHONPATH": str(package / "attach" / "startup"),
                                                    "RAG_SIDECAR_AGENT_DIR": str(place)})

    assert (done.stdout, done.stderr) == ("True True\n", "")
    assert not list(package.rglob("__pycache__"))


def test_agent_that_the_program_starts_itself_takes_the_place(tell: Ask, checkout: Path) -> None:
    """A program that imports and starts the agent has one agent: its own, which knows what it registers."""
    code = (f"import sys, os, json, threading; sys.path.insert(0, {str(checkout)!r})\n"
            "from sidecar import agent\nagent.start(name='own'); agent.register_cache('c', {1: 1})\n"
            "found = [t.name for t in threading.enumerate() if 'sidecar' in t.name]\n"
            "place = os.environ['RAG_SIDECAR_AGENT_DIR'] + '/rag-sidecar-%d' % os.geteuid()\n"
            "print(json.dumps([len(found), os.listdir(place).count('%d.sock' % os.getpid())]))")

    assert tell(code=code) == [1, 1]


def agents(sidecar: Any, count: int) -> bool:
    """Whether so many agents answer."""
    return sum(sidecar.series("rag_agent_up").values()) == count


def test_unmodified_program_is_started_watched_and_cleaned(tmp_path: Path, checkout: Path) -> None:
    """`run -- COMMAND` and nothing else: the agent is found, and an order reaches it."""
    program = "import time, gc\ngc.disable()\nfor _ in range(200000):\n    a = []; a.append(a)\ntime.sleep(100)"
    with running_sidecar(tmp_path, "--", sys.executable, "-c", program) as sidecar:
        wait_until(lambda: agents(sidecar, 1), 20, "the agent to be found")
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "cleanup", "--storage.path",
                               str(tmp_path / "state"), "-o", "json"], capture_output=True, text=True, timeout=60,
                              check=False, cwd=checkout)
        row = json.loads(done.stdout)

        assert row["channel"] == "agent"
        assert row["told"]["objects_collected"] >= 199_000


def test_workers_of_a_server_have_one_each(tmp_path: Path) -> None:
    """gunicorn, unmodified: its master and each worker answer by themselves, and serve as ever."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--chdir", str(APPS), "--bind", f"127.0.0.1:{port}",
               "wsgi:app"]
    with running_sidecar(tmp_path, "--", *command) as sidecar:
        wait_until(lambda: agents(sidecar, 3), 30, f"three agents; log:\n{sidecar.log.read_text()[-2000:]}")

        assert sidecar.stop() == 0


def test_no_agent_leaves_the_program_as_it_is(tmp_path: Path) -> None:
    """With `--no-agent` the program's environment is what it was."""
    out = tmp_path / "out"
    program = f"import os, sys; open({str(out)!r}, 'w').write(repr([os.environ.get('PYTHONPATH'), len(sys.modules)]))"
    said: dict[bool, str] = {}
    for without in (True, False):
        with running_sidecar(tmp_path, *(["--no-agent"] if without else []), "--", sys.executable, "-c", program,
                             env={"PYTHONPATH": "/nowhere"}, ready=False) as sidecar:
            assert sidecar.process.wait(30) == 0, sidecar.log.read_text()
            said[without] = out.read_text()

    assert said[True].startswith("['/nowhere', ")
    assert "attach/startup:/nowhere" in said[False]


def test_agent_that_the_program_starts_itself_takes_over_in_silence(tmp_path: Path) -> None:
    """Where a program starts an agent of its own, no log line says that one was lost; where it ends, one does."""
    (tmp_path / "app.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom time import sleep\nfrom sidecar import agent\n"
        "for name, act in (('start', agent.start), ('stop', agent.stop), ('end', sys.exit)):\n"
        "    while not Path(name).exists(): sleep(0.02)\n"
        "    act()\n")
    with running_sidecar(tmp_path, "--", "env", "-C", str(tmp_path), sys.executable, "app.py") as sidecar:
        wait_until(lambda: sidecar.said("agent found"), 20, "the agent that came with the start")
        (tmp_path / "start").touch()
        wait_until(lambda: len(sidecar.said("agent found")) == 2, 20, "the program's own agent")
        assert sidecar.said("agent lost") == []
        (tmp_path / "stop").touch()
        wait_until(lambda: sidecar.said("agent lost"), 20, "a word on its end")
        (tmp_path / "end").touch()
        assert sidecar.process.wait(20) == 0
