"""YAML with its positions → dataclasses. The shape of a file is the shape of the dataclass, key for key.

A field `timeout_seconds` is the key `timeout`, `global_` is `global`; every other field is the key of its name. How a
value is written follows from its type and from the unit in the field's name. A union of dataclasses is a mapping with
exactly one key, the `KEY` of the one that is meant (one without a `KEY` cannot be written). A dataclass with a class
method `short` may be written as one word; of one with a field `ALONE` that field's value may stand alone. Mistakes are
collected, not raised.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from sidecar.config_values import choice, duration, nearest, ratio
from sidecar.errors import Problem
from sidecar.thresholds import size

MAX_TEXT_CHARACTERS = 256 * 1024
NULL = "tag:yaml.org,2002:null"
MAX_VALUES = 50_000  # aliases can make a small file large

Parse = Callable[[str], Any]
UNITS: Mapping[str, Parse] = {"_seconds": duration, "_bytes": size, "_ratio": ratio}


class Place(NamedTuple):
    """Where something stands in the file; both count from 1."""

    line: int
    column: int


class _Invalid:
    """Stands for a value that could not be read; its mistake has been noted."""


INVALID = _Invalid()


def key_of(name: str) -> str:
    """The key in the file of the field `name`."""
    return name.removesuffix("_seconds").removesuffix("_")


class Reader:
    """Reads one file. Lives for one load; afterwards `problems` holds every mistake, `places` where each key stood."""

    def __init__(self, file: str, scalars: Mapping[Any, Parse]) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.places: dict[str, Place] = {}
        self._scalars = scalars
        self._values = 0

    def read(self, text: str, default: Any) -> Any:
        """`text` laid over `default`, a dataclass; `default` itself where `text` is beyond reading."""
        if len(text) > MAX_TEXT_CHARACTERS:
            self.note("", f"is larger than {MAX_TEXT_CHARACTERS} characters: this is not a configuration")
            return default
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = ", ".join(filter(None, (error.context, error.problem)))
            self._add(Place(mark.line + 1, mark.column + 1) if mark else None, "", f"not YAML: {words}")
            return default
        except yaml.YAMLError as error:
            self.note("", f"not YAML: {' '.join(str(error).split())}")
            return default
        except RecursionError:
            self.note("", "is nested too deeply: this is not a configuration")
            return default
        found = default if node is None else self._value(node, type(default), "", default)
        return default if found is INVALID else found

    def note(self, where: str, what: str) -> None:
        """Note a mistake at the key `where`, or at the nearest key around it that stands in the file."""
        around = where
        while around and around not in self.places:
            around = around[:max(around.rfind("."), around.rfind("["), 0)]
        self._add(self.places.get(around), where, what)

    def _add(self, place: Place | None, where: str, what: str) -> None:
        line, column = place or (0, 0)
        self.problems.append(Problem(self.file, line, column, where, what))

    def _refuse(self, node: yaml.Node, where: str, what: str) -> _Invalid:
        self._add(_place(node), where, what)
        return INVALID

    def _no_mapping(self, node: yaml.Node, where: str) -> _Invalid:
        return self._refuse(node, where, f"expected a mapping (key: value), not {_named(node)}")

    def _value(self, node: yaml.Node, kind: Any, where: str, default: Any = None) -> Any:
        if node.tag != NULL:
            self.places[where] = _place(node)
        self._values += 1
        if self._values == MAX_VALUES:
            self._refuse(node, where, "too many values: this is not a configuration")
        if self._values >= MAX_VALUES:
            return INVALID
        kind = _without_none(kind)
        parse = self._parser(kind)
        if parse and isinstance(node, yaml.ScalarNode):
            return self._scalar(node, parse, where)
        if node.tag == NULL and default is not None:
            return default  # a heading whose entries are all commented out
        if parse:
            return self._refuse(node, where, f"expected one value, not {_named(node)}")
        if (alone := getattr(kind, "ALONE", "")) and isinstance(node, yaml.ScalarNode):
            found = self._value(node, get_type_hints(kind)[alone], where)
            return found if found is INVALID else kind(**{alone: found})
        if is_dataclass(kind):
            short: Parse | None = getattr(kind, "short", None)
            if short and isinstance(node, yaml.ScalarNode):
                return self._scalar(node, short, where)
            return self._mapping(node, kind, where, default)
        if get_origin(kind) is tuple:
            return self._sequence(node, get_args(kind)[0], where)
        if get_origin(kind) is Mapping:
            return self._words(node, where)
        return self._one_of(node, {member.KEY: member for member in get_args(kind) if hasattr(member, "KEY")}, where)

    def _parser(self, kind: Any) -> Parse | None:
        if get_origin(kind) is Literal:
            return lambda text: choice(text, get_args(kind))
        return self._scalars.get(kind)

    def _scalar(self, node: yaml.ScalarNode, parse: Parse, where: str) -> Any:
        if node.tag == NULL:
            return self._refuse(node, where, "has no value: give one, or leave the key out")
        try:
            return parse(node.value)
        except ValueError as error:
            return self._refuse(node, where, str(error))

    def _entries(self, node: yaml.MappingNode, where: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """(key, key node, value node) of a mapping; mistakes of form are noted and left out."""
        seen: dict[str, Place] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, where, f"expected a word as the key, not {_named(key)}")
            elif key.value in seen:
                self._refuse(key, where, f"{key.value!r} stands here twice, first in line {seen[key.value].line}")
            else:
                seen[key.value] = _place(key)
                yield key.value, key, value

    def _mapping(self, node: yaml.Node, kind: Any, where: str, default: Any) -> Any:
        """What could be read is kept beside a mistake, so that checks across keys still see it."""
        if not isinstance(node, yaml.MappingNode):
            return self._no_mapping(node, where)
        problems = len(self.problems)
        known: dict[str, Field[Any]] = {key_of(field.name): field for field in fields(kind)}
        hints = get_type_hints(kind)
        given: dict[str, Any] = {}
        for key, key_node, value in self._entries(node, where):
            if key not in known:
                self._refuse(key_node, where, f"unknown key {key!r}, {nearest(key, tuple(known))}")
                continue
            field = known[key]
            fallback = getattr(default, field.name, None if field.default is MISSING else field.default)
            given[field.name] = self._field(value, field.name, hints[field.name], _join(where, key), fallback)
        required = [] if default is not None else [
            key for key, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
        for key in required:
            if known[key].name not in given:
                self._refuse(node, where, f"{key!r} is missing")
        if any(given.get(known[key].name, INVALID) is INVALID for key in required):
            return INVALID
        valid = {name: value for name, value in given.items() if value is not INVALID}
        try:
            return replace(default, **valid) if default is not None else kind(**valid)
        except ValueError as error:  # the dataclass looks at several fields; what it lacks may have been noted already
            return self._refuse(node, where, str(error)) if len(self.problems) == problems else INVALID

    def _field(self, node: yaml.Node, name: str, kind: Any, where: str, default: Any) -> Any:
        for suffix, parse in UNITS.items():
            if name.endswith(suffix) and isinstance(node, yaml.ScalarNode):
                self.places[where] = _place(node)
                return self._scalar(node, parse, where)
        return self._value(node, kind, where, default)

    def _one_of(self, node: yaml.Node, kinds: Mapping[str, Any], where: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._no_mapping(node, where)
        entries = list(self._entries(node, where))
        unknown = [(key, key_node) for key, key_node, _ in entries if key not in kinds]
        for key, key_node in unknown:
            self._refuse(key_node, where, f"unknown key {key!r}, {nearest(key, tuple(kinds))}")
        if not unknown and len(entries) != 1:
            self._refuse(node, where, f"expected exactly one of {', '.join(kinds)}")
        found = [self._value(value, kinds[key], _join(where, key)) for key, _, value in entries if key in kinds]
        return found[0] if len(found) == 1 and not unknown else INVALID

    def _sequence(self, node: yaml.Node, kind: Any, where: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            return self._refuse(node, where, f"expected a list, not {_named(node)}")
        return tuple(self._value(item, kind, f"{where}[{index}]") for index, item in enumerate(node.value))

    def _words(self, node: yaml.Node, where: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._no_mapping(node, where)
        found = {key: self._value(value, str, _join(where, key)) for key, _, value in self._entries(node, where)}
        return {key: value for key, value in found.items() if value is not INVALID}


def read_file(reader: Reader, file: Path, default: Any) -> Any:
    """What stands in `file`, laid over `default`; `default` itself where the file is beyond reading."""
    try:
        with open(file, "rb") as opened:
            text = opened.read(4 * MAX_TEXT_CHARACTERS + 1).decode("utf-8-sig")
    except OSError as error:
        reader.note("", f"cannot be read: {error.strerror}")
        return default
    except UnicodeDecodeError as error:
        reader.note("", f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}")
        return default
    return reader.read(text, default)


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _named(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "an empty value" if node.tag == NULL else "a single value"  # which may be a secret
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _without_none(kind: Any) -> Any:
    """`X` of `X | None`; any other type as it is."""
    if get_origin(kind) not in (Union, UnionType) or NoneType not in get_args(kind):
        return kind
    return reduce(or_, (member for member in get_args(kind) if member is not NoneType))
