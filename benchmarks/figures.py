"""What cost.json and growth.json say, in Markdown: a page each, and a section of the README.

`python benchmarks/figures.py` writes them anew; whoever measures a part does that, too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import RESULTS, sentence

README = Path(__file__).resolve().parent.parent / "README.md"
SECTION = re.compile(r"(<!-- cost: by benchmarks/figures\.py -->\n).*?(<!-- end of cost -->)", re.DOTALL)
Found = Mapping[str, Any]


def found(name: str) -> Found:
    """A result, or nothing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def table(*rows: tuple[object, ...]) -> list[str]:
    """Rows, the first of which is the head."""
    head, *rest = ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    return [head, "| ---: " * len(rows[0]) + "|", *rest, ""]


def about(part: Found) -> str:
    """Where and when."""
    return f"{sentence(part['machine'])}; {part['took_seconds']} s."


def cost_page(cost: Found) -> list[str]:
    """cost.md."""
    lines = ["# What being watched costs", "", "`python benchmarks/cost.py` makes this page.", ""]
    if part := cost.get("processes"):
        lines += ["## The machine", "", f"{about(part)} Percent of a core, and MiB of PSS; a scrape as the median.", ""]
        head = ("processes", "as it comes: guard", "desk", "every second: guard", "desk", "scraped: guard", "desk",
                "scrape ms", "process-exporter",
                "Prometheus", "Alertmanager", "scrape ms", "processor time: ours / theirs", "memory: ours / theirs")
        rows = []
        for count, row in part["sizes"].items():
            ours, theirs = row["ours"], row["theirs"]
            shown = [f"{one['cpu_percent']} %, {one['pss_mib']} MiB" for one in (
                ours["guard"], ours["desk"], theirs["process-exporter"], theirs["prometheus"], theirs["alertmanager"])]
            alone = [f"{ours[how][who]} %" for how in ("calm", "unscraped") for who in ("guard", "desk")]
            rows.append((count, *alone, *shown[:2], ours["scrape_ms"], *shown[2:], theirs["scrape_ms"],
                         row["ratio"]["cpu_percent"], row["ratio"]["pss_mib"]))
        lines += table(head, *rows)
        lines += ["As it comes it looks every other second as long as all is calm. From `scraped` on both sides are",
                  "scraped once a second; they watch the same processes, one after the other. process-exporter looks",
                  f"at every process of the machine: there were {part['other_processes']} others.",
                  "It reads neither smaps nor threads here.", ""]
    if part := cost.get("target"):
        lines += ["## The program that is watched", "", about(part), "",
                  f"It holds {part['held_mib']} MiB, and maps, touches and unmaps memory all the time. "
                  "Page faults beside those while", "nobody looks: the median of "
                  f"{part['rounds']} rounds, and where it lies with 95 %.", ""]
        rows = []
        for state, row in part["states"].items():
            ratios = [row.get(f"faults_{what}_ratio") for what in ("a_cpu_second", "a_second")]
            rows.append((state, *(between(ratio) for ratio in ratios), row["longest_map_ms"]["median"],
                         row["longest_map_ms"]["worst"]))
        lines += table(("watched by", "in a second of its processor time", "in a second",
                        "longest mapping of 1 MiB in a round, ms", "worst"), *rows)
    if part := cost.get("reads"):
        lines += ["## What is read of it", "", about(part), ""]
        for what, row in part["watched"].items():
            files = ", ".join(f"{file} {count}" for file, count in row["files"].items())
            lines += [f"- {what}, in its first {row['seconds']:g} s: {files}"]
        lines += [""]
    return lines


def between(ratio: Found | None) -> str:
    """A ratio with its interval."""
    return f"{ratio['median']} ({ratio['from']} to {ratio['to']})" if ratio else "1"


def growth_page(growth: Found) -> list[str]:
    """growth.md."""
    lines = ["# How what it costs grows", "", "`python benchmarks/growth.py` makes this page.", ""]
    for what in ("targets", "rules", "series"):
        if part := growth.get(what):
            lines += [f"## With {what}", "", f"{about(part)} Processor time; in brackets beside the smallest.", ""]
            rows = [(size, f"{row['tick_mean_ms']} ({row['tick_mean_ratio']})", row["tick_worst_ms"],
                     f"{row['scrape_ms']} ({row['scrape_ratio']})", row["page_kib"], row["series"], row["grown_mib"])
                    for size, row in part["sizes"].items()]
            lines += table((UNITS[what], "tick: mean ms", "worst", "scrape ms", "page KiB", "series stored",
                            "memory after two minutes, MiB"), *rows)
    if part := growth.get("soak"):
        lines += ["## With a day", "", about(part), "", f"{soaked(part)}", ""]
        keys = ("hour", "anon_kib", "series", "store_kib", "journal_kib", "cleanups", "tick_mean_ms", "tick_worst_ms",
                "scrape_ms")
        lines += table(keys, *(tuple(row[key] for key in keys) for row in part["hours"]))
    if part := growth.get("real"):
        lines += ["## As users run it", "", f"{about(part)} {part['seconds']:g} s, the first quarter left out.", ""]
        rows = [(who.replace("_", " "), f"{part[who]['kib_an_hour']} ± {part[who]['error']}")
                for who in ("guard", "desk", "store", "desk_less_store")]
        lines += table(("anonymous memory of", "KiB an hour"), *rows)
        lines += table(("minute", "guard KiB", "desk KiB", "of it store KiB"),
                       *map(tuple, part.get("minutes", ())[::5]))
    return lines


UNITS = {"targets": "targets", "rules": "rules, with 10 targets", "series": "more series of each of 10 targets"}


def soaked(part: Found) -> str:
    """What a day did."""
    first = next((row for row in part["hours"] if row["hour"] == part["full_after_hours"]), part["hours"][-1])
    last = part["hours"][-1]
    return (f"After {last['hour']} virtual hours with {last['cleanups']:,} cleanups, memory changed by a factor of "
            f"{last['anon_kib'] / first['anon_kib']:.3f} from hour {first['hour']}, when all that is kept was full.")


def section() -> str:
    """The README's."""
    return "\n".join(_section(found("cost"), found("growth")))


def _section(cost: Found, growth: Found) -> Iterator[str]:
    if part := cost.get("processes"):
        yield "## What it costs"
        yield ""
        yield "Beside process-exporter, Prometheus and Alertmanager, all scraped once a second on the same machine"
        yield f"([{part['machine']['date']}](benchmarks/results/cost.md)); below 1 is less than theirs."
        yield "The sidecar judges and acts without being scraped, too, which they cannot, and as it comes it looks"
        yield "every other second while [all is calm](docs/configuration.md#how-often-it-looks):"
        yield ""
        yield "| processes watched | processor time | not scraped | as it comes | memory (PSS) |"
        yield "| ---: | ---: | ---: | ---: | ---: |"
        for count, row in part["sizes"].items():
            theirs, ratio = row["theirs"]["together"]["cpu_percent"], row["ratio"]
            alone, calm = (row["ours"][how]["together"] / theirs for how in ("unscraped", "calm"))
            yield f"| {int(count):,} | {ratio['cpu_percent']:.2f} | {alone:.2f} | {calm:.2f} | {ratio['pss_mib']:.2f} |"
        yield ""
    if part := cost.get("target"):
        ratio = part["states"]["rag-sidecar"]["faults_a_cpu_second_ratio"]
        yield (f"- A program that does nothing but map, touch and unmap memory gets {100 * ratio['median']:.1f} % "
               f"({100 * ratio['from']:.1f} to {100 * ratio['to']:.1f} %)")
        yield "  of it done in a second of its processor time while it is watched."
    if part := growth.get("targets"):
        sizes = part["sizes"]
        most = list(sizes)[-1]
        yield (f"- [With {int(most):,} targets](benchmarks/results/growth.md) a tick takes "
               f"{sizes[most]['tick_mean_ratio']:.0f} times as long as with one, a scrape "
               f"{sizes[most]['scrape_ratio']:.0f} times.")
    if part := growth.get("soak"):
        yield f"- {soaked(part)}"
    if cost or growth:
        yield ""


def write() -> None:
    """Both pages and the README's section."""
    for name, page in (("cost", cost_page), ("growth", growth_page)):
        if result := found(name):
            (RESULTS / f"{name}.md").write_text("\n".join(page(result)))
    text = README.read_text()
    README.write_text(SECTION.sub(lambda match: match[1] + section() + match[2], text))


if __name__ == "__main__":
    write()
