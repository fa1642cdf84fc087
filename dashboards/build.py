"""Writes the dashboards: `python dashboards/build.py`. What it writes is committed; a test compares.

`--docs.url URL` names the place where the pages of docs/ are found, `--output DIRECTORY` another folder.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import page_actions
import page_overview
import page_sidecar
import page_target
from frame import DOCS, dashboard

HERE = Path(__file__).resolve().parent
PAGES = (page_overview, page_target, page_actions, page_sidecar)


def files(docs: str = DOCS) -> Iterator[tuple[str, str]]:
    """(name, content) of every dashboard, the same at every time."""
    for page in PAGES:
        made = dashboard(page.UID, page.TITLE, page.ABOUT, page.ROWS, docs)
        yield f"{page.UID}.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write them all, and say which."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs.url", dest="docs", default=DOCS, metavar="URL", help=f"default: {DOCS}")
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIRECTORY", help="default: beside this file")
    chosen = parser.parse_args()
    for name, content in files(chosen.docs.rstrip("/")):
        (chosen.output / name).write_text(content)
        print(chosen.output / name)


if __name__ == "__main__":
    main()
