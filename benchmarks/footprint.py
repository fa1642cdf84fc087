"""What the sidecar costs while nothing happens: CPU and memory of guard and desk, beside a Prometheus that scrapes it.

`python benchmarks/footprint.py [SECONDS]` writes benchmarks/results/footprint.json and prints a table.
"""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from machine import describe, save  # noqa: E402
from servers import end, free_port, running_prometheus, wait_until  # noqa: E402
from sidecars import Sidecar, config  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kib(pid: int, file: str, key: str) -> int:
    """One kB line of a file of /proc/PID."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()
                if line.startswith(f"{key}:"))


def cost(pid: int, cpu: float, seconds: float) -> dict[str, float]:
    """CPU share and memory of one process."""
    return {"cpu_percent_of_a_core": round(100 * cpu / seconds, 2),
            "pss_mib": round(memory_kib(pid, "smaps_rollup", "Pss") / 1024, 1),
            "anon_mib": round(memory_kib(pid, "status", "RssAnon") / 1024, 2)}


def main() -> None:
    """Run the installed command beside an idle target, with a Prometheus that scrapes it once a second."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    command = Path(sys.executable).parent / "rag-sidecar"  # as installed: `python -m` would count Python's own runpy
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        leaky = subprocess.Popen([sys.executable, str(HERE.parent / "tests/targets/leaky.py"), "--handle", "SIGUSR1"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        target = {"name": "t", "match": {"pid": leaky.pid}, "cleanup": [{"signal": "SIGUSR1"}],
                  "memory": {"main": "200MiB", "critical": "260MiB"}}
        file = folder / "sidecar.yml"
        file.write_text(config(port, folder, [target]))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([command, "run", "--config.file", file], stderr=log, env=environment)
        try:
            sidecar = Sidecar(process, port, folder / "log")
            wait_until(sidecar.ready, 20, "the sidecar")
            scraping = ("global: {scrape_interval: 1s}\n"
                        f"scrape_configs:\n- {{job_name: rag, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}")
            with running_prometheus(scraping, folder) as prometheus:
                threading.Event().wait(5)
                pids = {"guard": process.pid, "desk": sidecar.child("desk"), "Prometheus": prometheus.pid}
                before = {who: cpu_seconds(pid) for who, pid in pids.items()}
                threading.Event().wait(seconds)
                rows = {who: cost(pid, cpu_seconds(pid) - before[who], seconds) for who, pid in pids.items()}
        finally:
            end(process)
            end(leaky)
    ours = {key: round(rows["guard"][key] + rows["desk"][key], 2) for key in rows["guard"]}
    save("footprint", {"machine": describe(), "seconds": seconds, **rows, "guard and desk": ours})


if __name__ == "__main__":
    main()
