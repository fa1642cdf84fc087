"""Devices by the keys that torch documents for them, and the check that a machine with a GPU can run."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_apps import App, launching

from sidecar.probes.agent_figures import figures

CHECK = Path(__file__).parent / "cuda_check.py"
DEVICES = """
import sys, types
from types import SimpleNamespace as Of
CORE = ('allocated_bytes', 'reserved_bytes', 'active_bytes', 'requested_bytes')
def stats(names, events=()):
    per_pool = {f'{name}.{pool}.{what}': size for name, size in zip(names, (600, 1000, 700, 590, 100, 3, 2, 5))
                for pool in ('all', 'large_pool', 'small_pool') for what in ('current', 'peak', 'allocated', 'freed')}
    return {**per_pool, **{name: 4 for name in events}}
torch = types.ModuleType('torch')
"""
XPU = """
torch.xpu = Of(is_initialized=lambda: True, device_count=lambda: 1, memory_stats=lambda index: stats(CORE),
               mem_get_info=lambda index: (5000, 8000), get_device_properties=lambda index: Of(name='Arc'))
"""
MPS = """
torch.backends = Of(mps=Of(is_available=lambda: True))
torch.mps = Of(current_allocated_memory=lambda: 600, driver_allocated_memory=lambda: 1000,
               recommended_max_memory=lambda: 8000)
"""
ACCELERATOR = """
EVENTS = ('num_alloc_retries', 'num_ooms', 'num_sync_all_streams', 'num_device_alloc', 'num_device_free')
torch.npu = Of(is_initialized=lambda: True)
torch.accelerator = Of(current_accelerator=lambda: Of(type='npu'), device_count=lambda: 1, memory_stats=lambda index:
    stats((*CORE[:3], 'allocated', 'inactive_split_bytes', 'segment', 'active', 'inactive_split'), EVENTS))
"""
COMMON = {"allocated_bytes": 600, "reserved_bytes": 1000}
CACHING = {**COMMON, "allocated_max_bytes": 600, "active_bytes": 700}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """An app with an agent."""
    with launching(tmp_path) as launch:
        yield launch()


@pytest.mark.parametrize(("keys", "device", "expected"), [
    (XPU, ("xpu:0", "xpu"), {**CACHING, "requested_bytes": 590, "releasable_bytes": 300}),
    (MPS, ("mps", "mps"), {**COMMON, "releasable_bytes": 400}),
    (ACCELERATOR, ("accelerator:0", "accelerator"), {
        **CACHING, "inactive_split_bytes": 100, "segments": 3, "releasable_bytes": 200, "alloc_retries_total": 4,
        "ooms_total": 4, "device_alloc_total": 4, "device_free_total": 4}),
])  # fmt: skip
def test_a_device_is_told_by_the_keys_that_are_documented(app, keys, device, expected):
    """Each kind of device has the series for which torch documents figures, and no others."""
    app.do(f"{DEVICES}\n{keys}\nsys.modules['torch'] = torch")
    rows = {key[0]: value for key, value in figures(app.get("/memory")).items()
            if key[0].startswith("rag_torch_") and "_device_memory" not in key[0] and "_info" not in key[0]}
    labels = {key[1:5] for key in figures(app.get("/memory")) if key[0].startswith("rag_torch_")}

    assert rows == {f"rag_torch_{name}": value for name, value in expected.items()}
    assert labels == {("device", device[0], "backend", device[1])}


def test_the_check_of_a_gpu_says_when_there_is_none(tmp_path):
    """`cuda_check.py` on a machine without torch, or without a GPU, says so, writes nothing, and exits with 3."""
    found = tmp_path / "cuda.json"
    command = [sys.executable, str(CHECK), "--out", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode in (0, 1):
        assert json.loads(found.read_text())["differences"] == []
        return

    assert done.returncode == 3, done.stderr
    has_torch = importlib.util.find_spec("sentence_transformers") is not None
    assert ("no CUDA device" if has_torch else "no torch") in done.stderr
    assert not found.exists()
