"""JSON of any shape → its numbers by their paths: `{"a": {"b": [1]}}` is `a.b.0`. Pure."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice

from sidecar.errors import ProbeFailed
from sidecar.probes.endpoint_figures import (
    MOST_CHARACTERS,
    Endpoint,
    Figures,
    gathered,
    instance,
    state,
    used_bytes,
)

DEEPEST = 16
MOST_ITEMS = 16
"""How many items of a list are looked at."""
INSTANCE_ID = "instance_id"
MOST_LEAVES = 1000
"""How many numbers of one answer are looked at."""


def figures(text: str, endpoint: Endpoint, metric: str) -> Figures:
    """What the text tells. Raises ProbeFailed if it is not JSON.

    Texts and nulls are no figures. What could be read in two ways, a key that stands twice, is left out.
    """
    dropped: Counter[str] = Counter()
    try:  # float takes a number of a million digits in its stride, int refuses it
        tree: object = json.loads(text, parse_int=float, object_pairs_hook=partial(_unique, dropped))
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:MOST_CHARACTERS]
        raise ProbeFailed("parse", f"not JSON: {what}") from None
    leaves = _leaves(tree, "", 0, dropped)
    values = gathered(_printable(islice(leaves, MOST_LEAVES), dropped), dropped)
    dropped["too_many"] += next(leaves, None) is not None
    used = used_bytes([*_at(tree, endpoint.used)], endpoint, dropped)
    told = state([*_at(tree, endpoint.status)], endpoint, dropped)
    named = instance(tree.get(INSTANCE_ID) if isinstance(tree, dict) else None, dropped)
    return Figures(metric, values, used, told, +dropped, named)


def _unique(dropped: Counter[str], pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object without the keys that stand in it twice: which of them is meant nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                del found[key]
                dropped["duplicate"] += 1
    return found


def _leaves(node: object, path: str, depth: int, dropped: Counter[str]) -> Iterator[tuple[str, float]]:
    """(path, value) of every number and truth value, in their order. The path of a bare number is a dot."""
    if node is None or isinstance(node, str):
        return
    if len(path) > MOST_CHARACTERS:
        dropped["path"] += 1
    elif isinstance(node, float | bool):
        yield path or ".", float(node)
    elif isinstance(node, dict | list) and depth == DEEPEST:
        dropped["depth"] += 1
    elif isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node[:MOST_ITEMS])
        for key, value in pairs:
            yield from _leaves(value, f"{path}.{key}" if depth else str(key), depth + 1, dropped)
        if isinstance(node, list):
            dropped["list"] += max(0, len(node) - MOST_ITEMS)


def _printable(leaves: Iterator[tuple[str, float]], dropped: Counter[str]) -> Iterator[tuple[tuple[str, ...], float]]:
    """The leaves whose paths can be labels, with these labels."""
    for path, value in leaves:
        if path.isprintable():
            yield ("path", path), value
        else:
            dropped["path"] += 1


def _at(node: object, path: str) -> Iterator[object]:
    """Everything that stands at this path: more than one thing where a key holds a dot itself."""
    if isinstance(node, list):
        index, _, rest = path.partition(".")
        if index.isdecimal() and len(index) < 4 and int(index) < len(node):
            yield from _at(node[int(index)], rest) if rest else (node[int(index)],)
    elif isinstance(node, dict):
        if path in node:
            yield node[path]
        for dot in (at for at, character in enumerate(path) if character == "." and path[:at] in node):
            yield from _at(node[path[:dot]], path[dot + 1:])
    elif path == ".":
        yield node
