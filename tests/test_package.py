"""The wheel, as a user gets it: built, looked into, installed elsewhere and run from an empty folder."""

import json
import os
import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest


def run(*command: str, cwd: Path, **environment: str) -> str:
    """What a command prints. Its failure fails the test, with what it said."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment
    result = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network: the build backend is among the development tools."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(
        *pip,
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(checkout),
        cwd=folder,
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def members(wheel: Path) -> set[str]:
    """The paths of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped(checkout: Path) -> set[str]:
    """What is beside the code in the checkout and goes with it: rules, and what `init` writes."""
    patterns = ("rules/*.yml", "compose/sidecar-only*.yml", "dashboards/*.json", "dashboards/provisioning/*/*.yml")
    files = [path for pattern in patterns for path in checkout.glob(pattern)]
    files += [checkout / "compose" / name for name in ("prometheus.yml", "alertmanager.yml")]
    return {f"sidecar/shipped/{path.relative_to(checkout)}" for path in files}


def test_the_wheel_carries_rules_types_and_licence(checkout, wheel):
    """What is beside the code in the checkout arrives at the user: rules, dashboards, py.typed, the licence."""
    found = members(wheel)

    assert len(shipped(checkout)) > 12
    assert shipped(checkout) | {"sidecar/py.typed"} <= found
    assert [name for name in found if name.endswith("/licenses/LICENSE")]


def test_the_wheel_carries_the_package_and_nothing_else(checkout, wheel):
    """All code and data of the package are in it, and beside them what is shipped: no test, no benchmark, no cache."""
    files = {path for path in (checkout / "sidecar").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {name for name in members(wheel) if ".dist-info/" not in name}

    assert found == {str(path.relative_to(checkout)) for path in files} | shipped(checkout)


def test_the_metadata_name_the_project(wheel):
    """Its name, licence and lowest Python are what the documentation says."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())

    assert (metadata["Name"], metadata["License-Expression"]) == ("rag-sidecar", "Apache-2.0")
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_installed_command_tells_its_version(installed, tmp_path):
    """`python -m sidecar --version` from an empty folder runs the installed package, not the checkout."""
    place = run(
        sys.executable, "-c", "import sidecar; print(sidecar.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(place.strip()).is_relative_to(installed)

    said = run(sys.executable, "-m", "sidecar", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    version = re.search(r'__version__ = "(.+)"', (installed / "sidecar" / "__init__.py").read_text())
    assert version
    assert version[1] in said


def test_the_installed_package_finds_and_loads_its_rules(installed, tmp_path):
    """Without a configuration the shipped rules are used, so they must be found where pip put them."""
    script = "from sidecar.rules.load import load, shipped; paths = shipped(); load(paths); print(*paths, sep='\\n')"
    paths = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(installed)).split()

    assert [Path(path) for path in paths if Path(path).name == "memory.yml"]
    assert all(Path(path).is_relative_to(installed) for path in paths)


@pytest.mark.parametrize("what", ["config", "systemd", "compose", "prometheus", "dashboards"])
def test_the_installed_command_writes_files_to_begin_with(installed, checkout, tmp_path, what):
    """`rag-sidecar init` needs no checkout: what it writes came with the wheel."""
    command = [sys.executable, "-P", "-m", "sidecar", "init", what]
    there = run(*command, "--print", "-o", "json", cwd=tmp_path, PYTHONPATH=str(installed))
    here = run(*command, "--print", "-o", "json", cwd=tmp_path, PYTHONPATH=str(checkout))

    assert json.loads(there) == json.loads(here) != []
