"""What the stack of containers runs on, fetched beforehand: an engine, Compose, a base image, servers, wheels.

No container registry is asked. The engine and the servers are Debian's packages, unpacked into `.cache`, never
installed; the base image is made by debootstrap; Python's packages are downloaded for the Python in that image.
`PYTHONPATH=tests python -m stack.packages` fetches them all.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import newer_prometheus
import pythons
import servers

CACHE = servers.CHECKOUT / ".cache" / "stack"
SUITE, PYTHON = "trixie", "3.13"
"""Of the images' base, python:3.13-slim-trixie."""
ENGINE = ("docker.io", "containerd", "runc", "iptables", "debootstrap",
          "libxtables12", "libip4tc2", "libip6tc2", "libmnl0", "libnftnl11", "libnfnetlink0",
          "libnetfilter-conntrack3", "libdevmapper1.02.1", "libseccomp2")  # fmt: skip
NEWER = ("docker-compose", "prometheus-alertmanager")
UNUSED = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
MACHINE = platform.machine()


def engine() -> Path:
    """The root below which the engine's packages lie."""
    def fetch(folder: Path) -> None:
        servers.from_lists(folder, lambda options: servers.apt(folder, *options, "download", *ENGINE))
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True, timeout=300)
            package.unlink()
        for name in ("iptables", "ip6tables"):  # what Debian's alternatives would do
            (folder / "usr/sbin" / name).symlink_to("xtables-legacy-multi")

    return _made("engine", fetch)


def newer() -> Path:
    """The root below which Compose and Alertmanager of Debian's next release lie."""
    def fetch(folder: Path) -> None:
        pythons.download(folder, NEWER)
        for package in folder.glob("*.deb"):
            package.unlink()

    return _made("newer", fetch) / "unpacked"


def environment() -> dict[str, str]:
    """With it programs of the engine find each other and their libraries."""
    root, libraries = engine(), f"usr/lib/{MACHINE}-linux-gnu"
    return {**os.environ, "LD_LIBRARY_PATH": f"{root}/{libraries}", "XTABLES_LIBDIR": f"{root}/{libraries}/xtables",
            "DEBOOTSTRAP_DIR": f"{root}/usr/share/debootstrap",
            "PATH": f"{root}/usr/sbin:{root}/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin"}


def base() -> Path:
    """A folder with `base.tar`, the root of the image that stands for python:3.13-slim-trixie."""
    def fetch(folder: Path) -> None:
        (sources,) = pythons.sources().values()
        mirror = re.search(r"^(?:URIs: *|deb (?:\[.*\] )?)(\S+)", sources, re.MULTILINE)
        assert mirror, sources
        tree, env = folder / "tree", environment()
        script = f"{env['DEBOOTSTRAP_DIR']}/scripts/{SUITE}"
        subprocess.run(["debootstrap", "--variant=minbase", "--include=python3,python3-venv", SUITE, tree, mirror[1],
                        script], check=True, capture_output=True, timeout=900, env=env)
        for name in UNUSED:
            shutil.rmtree(tree / name)
        for name in ("python", "python3"):  # the official image has its own below /usr/local
            (tree / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
        subprocess.run(["tar", "-C", tree, "-cf", folder / "base.tar", "."], check=True, timeout=300)
        shutil.rmtree(tree)

    return _made("base", fetch)


def wheels() -> Path:
    """A folder with all that `pip wheel` needs to build and install rag-sidecar, for the base's Python."""
    project = tomllib.loads((servers.CHECKOUT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"],
              *project["project"]["optional-dependencies"]["auth"], "pip"]

    def fetch(folder: Path) -> None:
        platforms = [f"--platform={each}_{MACHINE}" for each in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", f"--dest={folder}",
               "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
        subprocess.run([*pip, *wanted], check=True, capture_output=True, timeout=600)

    return _made(f"wheels-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:12]}", fetch)


def prometheus() -> Path:
    """The folder with prometheus and promtool, version 3."""
    return newer_prometheus.find().parent


def _made(name: str, fetch: Callable[[Path], None]) -> Path:
    """CACHE/`name`, filled by `fetch` if it is not there. Raises servers.NoServer."""
    folder = CACHE / name
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    servers.CACHE.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {name} into {folder}", flush=True)
    work = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        fetch(work)
        work.chmod(0o755)
        work.rename(folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = error.stderr or error.output or b""
        raise servers.NoServer(f"{name} could not be fetched: {output.decode(errors='replace').strip() or error}; "
                               "is there a network, and is this Debian 12 with root?") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


if __name__ == "__main__":
    try:
        for need in (engine, newer, base, wheels, prometheus):
            print(need())
    except servers.NoServer as error:
        sys.exit(str(error))
