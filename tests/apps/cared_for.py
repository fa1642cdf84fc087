"""A WSGI app with the agent inside: after `/grow/MIB` the worker that answers holds so much, a cleanup drops it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "targets"), str(Path(__file__).resolve().parents[2])]

from blocks import MIB, Blocks  # noqa: E402

from sidecar import agent  # noqa: E402

held = Blocks(256 * MIB)
agent.on_cleanup(lambda level: held.drop(), name="blocks")
agent.start(directory=os.environ["PLACE"])


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Which worker it is, and what it holds."""
    word, _, number = environ["PATH_INFO"].strip("/").partition("/")
    if word == "grow":
        held.grow(max(0, int(number) - held.held_bytes // MIB))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "held_bytes": held.held_bytes}).encode()]
