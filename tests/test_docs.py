"""The documentation is true: links lead somewhere, names exist, and what exists is named."""

import argparse
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from sidecar.actions.attempt import Attempt
from sidecar.actions.incident import Incident
from sidecar.pipeline_families import METRICS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RULES = sorted((ROOT / "rules").glob("*.yml"))

LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(?<![\w/.-])rag_[a-z0-9_]*[a-z0-9](?![\w*/]|\.py)")
PARTS = ("_bucket", "_sum", "_count", "_total", "_info", "")  # what an exposition adds to the name of a family

REGISTRIES = re.compile(r"//[a-z0-9.-]*(debian|ubuntu|pythonhosted|npmjs|pypi)\.")
HOMES = re.compile(r"(?<![\w.])/(root|home/\w+)/")


def place(path: Path) -> str:
    """A path as a reader of the repository knows it."""
    return str(path.relative_to(ROOT))


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links, those in code blocks aside."""
    for match in LINK.finditer(FENCE.sub("", page.read_text())):
        yield match[1] or match[2]


def anchors(page: Path) -> set[str]:
    """The fragments under which a page's headings are found, made as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text()), re.MULTILINE)
    found: set[str] = set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text()))
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        count = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", other) is not None for other in found)
        found.add(f"{slug}-{count}" if count else slug)
    return found


def is_broken(link: str, base: Path) -> bool:
    """Whether a relative link, seen from a folder, leads to no file or to no heading of it."""
    path, _, fragment = link.partition("#")
    target = base / path if path else base
    if not target.exists():
        return True
    return bool(fragment) and target.suffix == ".md" and fragment not in anchors(target)


@functools.cache
def declared_metrics() -> frozenset[str]:
    """Every family of /metrics that is ours."""
    return frozenset(METRICS)


@functools.cache
def rules_named(kind: str) -> frozenset[str]:
    """The names of the alerting (`alert`) or recording (`record`) rules of the shipped files."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return frozenset(rule[kind] for group in groups for rule in group["rules"] if kind in rule)


def words(pages: Iterable[Path]) -> set[str]:
    """Every name that stands anywhere in these pages."""
    return set(re.findall(r"[A-Za-z_:][\w:]*", "\n".join(page.read_text() for page in pages if page.exists())))


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page):
    """Every relative link of a page leads to a file of the repository, and its fragment to a heading there."""
    relative = [link for link in links(page) if not re.match(r"[a-z]+:|//", link)]
    broken = [link for link in relative if is_broken(link, page if link.startswith("#") else page.parent)]

    assert broken == []


@pytest.mark.parametrize("path", RULES, ids=place)
def test_runbooks_of_the_rules_exist(path):
    """An alert that points to a runbook of this repository points to an existing section of it."""
    urls = re.findall(r"(?:runbook|dashboard)_url: *[\"']?(docs/[^\s\"']+)", path.read_text())

    assert [url for url in urls if is_broken(url, ROOT)] == []


def test_every_metric_is_documented():
    """Whoever sees a metric of ours finds it in docs/metrics.md."""
    assert declared_metrics()
    assert sorted(declared_metrics() - words([ROOT / "docs" / "metrics.md"])) == []


@pytest.mark.parametrize("path", [*PAGES, *RULES], ids=place)
def test_every_metric_named_exists(path):
    """A metric that a page or a rule names is one that the code exports or a rule records."""
    exposed = {name.removesuffix("_total") + part for name in declared_metrics() for part in PARTS} | declared_metrics()
    recorded = {part for name in rules_named("record") for part in (name, *name.split(":"))}

    assert sorted(set(NAME.findall(path.read_text())) - exposed - recorded) == []


def test_every_alert_is_documented():
    """Whoever is woken by an alert finds it in docs/rules.md or in a runbook."""
    documented = words([ROOT / "docs" / "rules.md", *(ROOT / "docs" / "runbooks").glob("*.md")])

    assert rules_named("alert")
    assert sorted(rules_named("alert") - documented) == []


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser and of all its commands."""
    found = set()
    for action in parser._actions:  # argparse has no public way to list them
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= flags(command)
        elif action.help != argparse.SUPPRESS:
            found |= {option for option in action.option_strings if option.startswith("--")}
    return found - {"--help"}


def test_every_member_of_what_was_done_is_documented():
    """docs/api.md names whatever `GET /api/v1/actions` says of a cleanup and of an incident."""
    rows = (Attempt("a", "rag", "light", {}, None, 0.0, 0.0, 0.0).as_json(), Incident("i", "rag", 0.0).as_json())
    named = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "api.md").read_text()))

    assert {member for row in rows for member in row} <= named


def test_every_flag_is_documented():
    """Each option of the command line stands in the README or in docs/."""
    from sidecar.cli import build_parser  # here, so that the other tests run while the command line is broken

    documented = set(re.findall(r"--[a-z][\w.-]*\w", "\n".join(page.read_text() for page in PAGES if page.exists())))
    offered = flags(build_parser())

    assert offered
    assert sorted(offered - documented) == []


def published() -> list[Path]:
    """The files of the repository: what git tracks, or in a copy without git everything that is not hidden."""
    command = ["git", "-C", str(ROOT), "-c", "safe.directory=*", "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if path.is_file() and not re.search(r"(^|/)[._]", place(path))]
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_machine():
    """What is published works elsewhere: no address of a package registry, no path of somebody's computer."""
    found = []
    for path in published():
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            if REGISTRIES.search(line) or HOMES.search(line) or f"{ROOT}/" in line:
                found.append(f"{place(path)}:{number}: {line.strip()[:100]}")

    assert found == []


def test_what_the_readme_says_about_costs_was_measured() -> None:
    """The README's figures are those of the last measurement: benchmarks/figures.py writes them."""
    readme = (ROOT / "README.md").read_text()
    said = re.search(r"<!-- cost: by benchmarks/figures.py -->\n(.*?)<!-- end of cost -->", readme, re.DOTALL)
    made = subprocess.run([sys.executable, "-c", "import figures; print(figures.section(), end='')"], check=True,
                          cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=60)
    assert said
    assert said[1] == made.stdout
