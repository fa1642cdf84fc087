"""The unit that `rag-sidecar init systemd` writes, run by a real systemd: process 1 of a room of its own."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from sidecar.cli import main

SYSTEMD = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), "")
USER = "daemon"
ROOM = "/run/room"
PYTHON = f"{ROOM}/venv/bin/python"
STATE = "/var/lib/rag-sidecar"
MUST_BE_SEEN = {"anon", "fd", "io", "pss", "tree"}
NEEDED = ("unshare", "nsenter", "systemctl", "setpriv", "ps")
CGROUPS = Path("/sys/fs/cgroup")

ENTER = """\
for folder in $CGROUPS; do echo $$ > "$folder/cgroup.procs" || exit; done
exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc --net "$@"
"""
SET_UP = f"""\
set -e
here=$1 checkout=$2 prefix=$3
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {ROOM}/checkout {ROOM}/venv
cp -r "$here"/files/. {ROOM}
mount --bind "$checkout" {ROOM}/checkout
mount --bind "$prefix" {ROOM}/venv
mount --bind "$here"/units /etc/systemd/system
mount -o remount,bind,ro /
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/memory
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
  mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory
fi
mount -t tmpfs -o mode=1777 tmpfs /tmp
export container=room
exec {SYSTEMD} --system --unit=room.target --log-target=console --show-status=no
"""
TARGET = """\
import signal, time
held = []
signal.signal(signal.SIGUSR1, lambda *_: held.clear())
while True:
    if len(held) < 300:
        held.append(b"x" * (1 << 20))
    time.sleep(0.02)
"""
CONFIG = f"""\
targets:
  - name: rag
    match: {{cmdline: "{ROOM}/target\\\\.py"}}
    memory: {{main: 100MiB, critical: 150MiB}}
    cleanup: [{{signal: SIGUSR1}}]
web: {{listen: ":11611"}}
"""
DROP_IN = f"""\
[Unit]
DefaultDependencies=no
[Service]
StandardOutput=append:{ROOM}/log
StandardError=append:{ROOM}/log
"""


class Room:
    """A systemd in namespaces of its own: of processes, files, cgroups and networks. Lives as long as its test."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.log = folder / "boot.log"
        self._cgroups = [place / f"rag-sidecar-room-{os.getpid()}" for place in own_cgroups()]
        for cgroup in self._cgroups:
            cgroup.mkdir()
        with self.log.open("wb") as out:
            self._outside = subprocess.Popen(
                ["sh", "-c", ENTER, "enter", "sh", "-c", SET_UP, "room", str(folder), str(checkout), sys.prefix],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, "CGROUPS": " ".join(map(str, self._cgroups))})

    def is_up(self) -> bool:
        """Whether its systemd answers. AssertionError with what it said if it has ended."""
        assert self._outside.poll() is None, self.log.read_text()
        return self._pid() != "" and self.run("systemctl", "show", "-P", "Version").returncode == 0

    def _pid(self) -> str:
        return Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().strip()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command in the room, as root."""
        return subprocess.run(["nsenter", "-t", self._pid(), "--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net",
                               *command], capture_output=True, text=True, timeout=60, check=False)

    def show(self, key: str) -> str:
        """A property of the sidecar's unit."""
        return self.run("systemctl", "show", "-P", key, "rag-sidecar").stdout.strip()

    def ask(self, query: str) -> list[dict[str, str]]:
        """The labels of what a query of the sidecar finds; nothing while it does not answer."""
        done = self.run(f"{ROOM}/rag-sidecar", "query", query, "--url", f"unix:{STATE}/control.sock", "-o", "json")
        return [each["metric"] for each in json.loads(done.stdout)["result"]] if done.returncode == 0 else []

    def close(self) -> None:
        """End it, and with it all that is in it."""
        self._outside.kill()
        self._outside.wait(timeout=30)
        for cgroup in self._cgroups:
            wait_until(lambda cgroup=cgroup: removed(cgroup), 30, f"{cgroup} to be empty")


def own_cgroups() -> list[Path]:
    """The folders of the cgroups in which we are, of those hierarchies that a room has."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    found = {names: path.lstrip("/") for _, names, path in lines}
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / found[""]]
    return [CGROUPS / "systemd" / found["name=systemd"], CGROUPS / "memory" / found["memory"]]


def removed(cgroup: Path) -> bool:
    """Whether a cgroup and those in it are gone; they cannot be while somebody is in them."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


@pytest.fixture
def room(tmp_path: Path, checkout: Path) -> Iterator[Room]:
    """One in which the unit is installed beside a program that grows."""
    if os.geteuid() or not SYSTEMD or not all(map(shutil.which, NEEDED)) or USER not in (
            each.pw_name for each in pwd.getpwall()):
        pytest.skip(f"takes root, systemd, {', '.join(NEEDED)} and the user {USER}")
    files, units = tmp_path / "files", tmp_path / "units"
    files.mkdir()
    (files / "target.py").write_text(TARGET)
    (files / "sidecar.yml").write_text(CONFIG)
    (files / "rag-sidecar").write_text(f'#!/bin/sh\nPYTHONPATH={ROOM}/checkout exec {PYTHON} -P -m sidecar "$@"\n')
    (files / "rag-sidecar").chmod(0o755)
    assert main(["init", "systemd", str(units), "--user", USER, "--command", f"{ROOM}/rag-sidecar", "--config.file",
                 f"{ROOM}/sidecar.yml"]) == 0
    (units / "room.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "rag.service").write_text(f"[Service]\nUser={USER}\nExecStart={PYTHON} {ROOM}/target.py\n")
    for name in ("rag", "rag-sidecar"):
        (units / f"{name}.service.d").mkdir()
        (units / f"{name}.service.d" / "room.conf").write_text(DROP_IN)
    try:
        made = Room(tmp_path, checkout)
    except (OSError, KeyError) as error:
        pytest.skip(f"no cgroup can be made here: {error!r}")
    try:
        try:
            wait_until(made.is_up, 30, "systemd to be up")
        except AssertionError as error:
            pytest.skip(f"no systemd can be started in namespaces here: {error}")
        if made.run("setpriv", f"--reuid={USER}", "--clear-groups", PYTHON, "-c", "pass").returncode:
            pytest.skip(f"the user {USER} may not run {sys.prefix}")
        yield made
        print(made.run("cat", f"{ROOM}/log").stdout)
    finally:
        made.close()


def test_unit_does_what_it_promises(room: Room) -> None:
    """Under systemd, without any capability and in all of the unit's walls, the sidecar sees its program and has it
    clean up; a reload that is refused fails; a guard that is killed comes again; and it ends in order."""
    started = room.run("systemctl", "start", "rag", "rag-sidecar")
    assert started.returncode == 0, started.stderr
    wait_until(lambda: room.ask('rag_cleanups_total{outcome="effective"} > 0'), 60, "a cleanup")
    seen = {each["capability"] for each in room.ask("rag_sidecar_attach_capability == 1")}
    assert seen >= MUST_BE_SEEN
    status = room.run("cat", f"/proc/{room.show('MainPID')}/status").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status

    assert room.run("systemctl", "reload", "rag-sidecar").returncode == 0
    room.run("sed", "-i", "s/150MiB/none/", f"{ROOM}/sidecar.yml")
    assert room.run("systemctl", "reload", "rag-sidecar").returncode != 0
    assert "'none' is not a size" in room.run("cat", f"{ROOM}/log").stdout
    room.run("sed", "-i", "s/none/150MiB/", f"{ROOM}/sidecar.yml")

    killed = room.show("MainPID")
    room.run("kill", "-KILL", killed)
    wait_until(lambda: room.show("MainPID") not in ("0", killed) and room.ask("rag_target_up == 1"), 60, "another one")
    assert room.show("NRestarts") == "1"

    assert room.run("systemctl", "stop", "rag-sidecar").returncode == 0
    assert (room.show("Result"), room.show("ActiveState")) == ("success", "inactive")
    left = room.run("ps", "-u", USER, "-o", "args=").stdout.splitlines()
    assert left == [f"{PYTHON} {ROOM}/target.py"]
