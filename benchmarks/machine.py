"""What every result carries: the machine and the date; and where results go."""

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def describe() -> dict[str, Any]:
    """The machine, for readers who want to know what a number is worth."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "cpu": model, "cores": os.cpu_count(),
            "kernel": platform.release().split("-")[0], "python": platform.python_version()}


def sentence(machine: Mapping[str, Any]) -> str:
    """The same in words, without a full stop."""
    return (f"{machine['date']}, {machine['cores']} cores {machine['cpu']}, kernel {machine['kernel']}, "
            f"Python {machine['python']}")


def save(name: str, result: dict[str, Any]) -> None:
    """Write results/NAME.json and print the rows as a table."""
    _write(name, result)
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{key:58} " + "  ".join(f"{what}={figure}" for what, figure in value.items()))
        else:
            print(f"{key:58} {value}")


def merge(name: str, part: str, result: dict[str, Any]) -> None:
    """Write one part of results/NAME.json, leave the others as they are, and print the part."""
    path = RESULTS / f"{name}.json"
    _write(name, {**(json.loads(path.read_text()) if path.exists() else {}), part: result})
    print(f"{part}: {json.dumps(result, indent=2)}")


def _write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
