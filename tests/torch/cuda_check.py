"""Compare what the agent tells of a CUDA device with what torch tells, on a machine that has one.

    python tests/torch/cuda_check.py [--out FILE]      # default: cuda_check.json, in the current folder

In a process of its own for each setting of the allocator (as it comes, and with expandable segments) tensors of many
sizes are allocated and every second one dropped. At each moment every figure of `GET /memory` must be the one of
torch.cuda.memory_stats() and mem_get_info(), and what a standard cleanup returns to the device is held against
`releasable_bytes`. All answers are written to FILE. Exit code: 0 everything agrees, 1 something differs, 3 nothing to
check here (no torch, or no CUDA device).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MIB = 1 << 20
NOTHING_TO_CHECK = 3
SETTINGS = {"default": "", "expandable_segments": "expandable_segments:True"}
SIZES_MIB = (0.3, 0.9, 3.0, 7.0, 14.0, 33.0, 64.0)
ROUNDS = 12
KEYS = {  # as torch documents them, written down apart from the agent's own table
    "allocated_bytes": "allocated_bytes.all.current", "allocated_max_bytes": "allocated_bytes.all.peak",
    "requested_bytes": "requested_bytes.all.current", "reserved_bytes": "reserved_bytes.all.current",
    "active_bytes": "active_bytes.all.current", "inactive_split_bytes": "inactive_split_bytes.all.current",
    "segments": "segment.all.current", "alloc_retries_total": "num_alloc_retries", "ooms_total": "num_ooms",
    "device_alloc_total": "num_device_alloc", "device_free_total": "num_device_free",
}  # fmt: skip


def check(setting: str) -> dict[str, Any]:
    """One setting, in this process: the moments, the cleanup, and where agent and torch differ."""
    import torch
    from agent_apps import Client

    from sidecar import agent

    with tempfile.TemporaryDirectory() as folder:
        agent.start(directory=folder)
        with Client(Path(folder) / f"rag-sidecar-{os.geteuid()}" / f"{os.getpid()}.sock") as client:
            moments = [_moment(client, "before the device is used")]
            woken = torch.cuda.is_initialized()
            tensors = [torch.zeros(int(size * MIB), dtype=torch.uint8, device="cuda")
                       for _ in range(ROUNDS) for size in SIZES_MIB]
            moments.append(_moment(client, "all allocated"))
            del tensors[::2]
            moments.append(_moment(client, "every second one dropped"))
            cleanup = client.ask("POST", "/cleanup", {"level": "standard"}).body
            moments.append(_moment(client, "after a standard cleanup"))
            tensors.clear()
            moments.append(_moment(client, "all dropped"))
            emptied = client.ask("POST", "/cleanup", {"level": "standard"}).body
            moments.append(_moment(client, "after another cleanup"))
        agent.stop()
    differences = ["the agent has woken the device"] if woken else []
    for moment in moments:
        differences += [f"{setting}, {moment['when']}: {difference}" for difference in moment["differences"]]
    for before, result in ((moments[2], cleanup), (moments[4], emptied)):
        differences += _kept(setting, before, result)
    return {"setting": setting, "torch": torch.__version__, "device": torch.cuda.get_device_name(0),
            "moments": moments, "cleanups": [cleanup, emptied], "differences": differences}


def _moment(client: Any, when: str) -> dict[str, Any]:
    """What both tell now. Nothing else may allocate meanwhile."""
    import torch

    told = client.ask("GET", "/memory").body["torch"]
    if not torch.cuda.is_initialized():
        return {"when": when, "told": told, "torch": {}, "differences": [f"told {told}"] if told else []}
    stats, (free, total) = dict(torch.cuda.memory_stats(0)), torch.cuda.mem_get_info(0)
    expected = {name: stats[key] for name, key in KEYS.items() if key in stats}
    expected |= {"device_free_bytes": free, "device_total_bytes": total}
    row = next((row for row in told if row["device"] == "cuda:0"), {})
    differences = [f"{name} is {row.get(name)}, torch says {value}" for name, value in expected.items()
                   if row.get(name) != value]
    return {"when": when, "told": told, "torch": stats, "differences": differences}


def _kept(setting: str, before: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """`releasable_bytes` is what whole segments return, exactly; of expandable ones, no more than that returns."""
    row = next((row for row in before["told"] if row["device"] == "cuda:0"), {})
    step = next((step for step in result["steps"] if step["step"] == "torch:cuda:0"), {})
    promised, returned = row.get("releasable_bytes"), step.get("device_freed_bytes")
    print(f"{setting}, {before['when']}: {promised} bytes releasable, {returned} returned")
    exactly = setting == "default"
    if promised is None or returned is None or returned > promised or (exactly and returned != promised):
        return [f"{setting}, {before['when']}: {promised} bytes releasable, {returned} returned"]
    return []


def main() -> int:
    """Every setting in a process of its own: torch reads its settings once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuda_check.json"))
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.setting:
        chosen.out.write_text(json.dumps(check(chosen.setting)))
        return 0
    try:
        import torch
    except ModuleNotFoundError:
        torch = None
    if torch is None or not hasattr(torch, "cuda"):
        print(f"Nothing was checked: {sys.executable} has no torch. `make test-torch` brings it.", file=sys.stderr)
        return NOTHING_TO_CHECK
    if not torch.cuda.is_available():
        print(f"Nothing was checked: torch {torch.__version__} finds no CUDA device on this machine.", file=sys.stderr)
        return NOTHING_TO_CHECK
    found = []
    for setting, value in SETTINGS.items():
        own = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": value} if value else dict(os.environ)
        with tempfile.NamedTemporaryFile() as answer:
            command = [sys.executable, __file__, "--setting", setting, "--out", answer.name]
            subprocess.run(command, env=own, check=True, timeout=600)
            found.append(json.loads(Path(answer.name).read_text()))
    differences = [difference for each in found for difference in each["differences"]]
    chosen.out.write_text(json.dumps({"settings": found, "differences": differences}, indent=1) + "\n")
    print("\n".join(differences) or "everything agrees")
    print(f"written to {chosen.out}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
