"""A container engine of our own, in namespaces of its own, and the images that the Compose file names.

It runs where `make test-stack` puts the tests: in a network, pid and mount namespace of theirs. What is published on
127.0.0.1 there is in nobody's way here, and with the namespaces everything ends: containers, mounts, bridges.
"""

import contextlib
import fcntl
import json
import shutil
import socket
import struct
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from servers import CHECKOUT, end, wait_until
from stack import packages

CONTEXT = ("compose", "dashboards", "rules", "sidecar", "pyproject.toml", "README.md", "LICENSE", ".dockerignore")
CGROUPS, CGROUP = Path("/sys/fs/cgroup"), "docker-rag-sidecar"
SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x1 | 0x40
BASE = "python:3.13-slim-trixie"
STAND_INS = {
    "prom/prometheus:v3.5.3": f"""\
FROM {BASE}
COPY prometheus promtool /bin/
RUN install -d -o 65534 -g 65534 /prometheus
ENTRYPOINT ["/bin/prometheus"]
""",
    "prom/alertmanager:v0.33.1": f"""\
FROM {BASE}
COPY prometheus-alertmanager amtool /bin/
COPY alertmanager /usr/share/prometheus/alertmanager
RUN mv /bin/prometheus-alertmanager /bin/alertmanager && install -d -o 65534 -g 65534 /alertmanager
ENTRYPOINT ["/bin/alertmanager"]
""",
}
"""Image → how one with Debian's binaries is built that is used in the same way."""


class Engine:
    """A running engine. Lives until its context ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._compose = packages.newer() / "usr/libexec/docker/cli-plugins/docker-compose"
        self._env = {**packages.environment(), "DOCKER_HOST": f"unix://{folder}/docker.sock", "DOCKER_BUILDKIT": "0",
                     "DOCKER_CONFIG": str(folder / "config")}

    @contextlib.contextmanager
    def running(self) -> Iterator["Engine"]:
        """dockerd, and containerd below it; both have ended when the context has."""
        log = self.folder / "dockerd.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "-H",
                 self._env["DOCKER_HOST"], "--pidfile", self.folder / "pid", "--cgroup-parent", f"/{CGROUP}"],
                stdout=out, stderr=out, env=self._env)
        try:
            wait_until(lambda: process.poll() is not None or self._answers(), 60, "the engine to answer")
            assert process.poll() is None, log.read_text()[-3000:]
            yield self
        finally:
            end(process, 60)
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            for place in [*CGROUPS.glob(f"*/{CGROUP}"), *CGROUPS.glob(CGROUP)]:
                with contextlib.suppress(OSError):  # somebody else's engine of this test has containers there
                    place.rmdir()

    def _answers(self) -> bool:
        return subprocess.run(["docker", "version"], env=self._env, capture_output=True, check=False).returncode == 0

    def docker(self, *arguments: str | Path, code: int = 0, cwd: Path = CHECKOUT) -> str:
        """What `docker` says, errors too. AssertionError where it ends with another code."""
        return self._run(["docker", *arguments], code, cwd)

    def compose(self, *arguments: str | Path, code: int = 0, cwd: Path = CHECKOUT) -> str:
        """What `docker compose` says, errors too."""
        return self._run([self._compose, *arguments], code, cwd)

    def _run(self, command: Sequence[str | Path], code: int, cwd: Path) -> str:
        done = subprocess.run(command, cwd=cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=600, check=False)
        said = done.stdout.decode(errors="replace")
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{said[-4000:]}"
        return said

    def state(self, container: str) -> dict[str, Any]:
        """What `docker inspect` says of a container: its State, with RestartCount and Id."""
        (found,) = json.loads(self.docker("inspect", container))
        return {**found["State"], **{key: found[key] for key in ("RestartCount", "Id")}}

    def build(self, context: Path) -> None:
        """The base, the stand-ins, and our own images as their Dockerfiles say, without a network."""
        self.docker("import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    packages.base() / "base.tar", BASE)
        for image, dockerfile in STAND_INS.items():
            folder = self.folder / image.replace("/", "-").replace(":", "-")
            folder.mkdir()
            (folder / "Dockerfile").write_text(dockerfile)
            for path in self._binaries(image):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
            self.docker("build", "--quiet", "-t", image, folder)
            shutil.rmtree(folder)
        shutil.copytree(packages.wheels(), context / "compose" / "wheels")
        args = ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/src", "--network", "none"]
        self.docker("build", "-f", "compose/Dockerfile", "-t", "rag-sidecar:0.1.0", *args, ".", cwd=context)
        self.docker("build", "-f", "compose/rag/Dockerfile", "-t", "rag-demo:0.1.0", "--network", "none", ".",
                    cwd=context)

    def _binaries(self, image: str) -> list[Path]:
        if "alertmanager" in image:
            parts = ("bin/prometheus-alertmanager", "bin/amtool", "share/prometheus/alertmanager")
            return [packages.newer() / "usr" / part for part in parts]
        return [packages.prometheus() / name for name in ("prometheus", "promtool")]


def raise_loopback() -> None:
    """`ip link set lo up`: a new network namespace has it down. See netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))


def copy_of_the_checkout(folder: Path) -> Path:
    """What the images are built of and the Compose file mounts; without what else lies about."""
    folder.mkdir()
    for name in CONTEXT:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
        else:
            shutil.copy(source, folder / name)
    return folder


def page(url: str) -> str:
    """The body of a page; the empty string while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


