"""Prometheus rule files, read strictly: every mistake of every file at once, with its place, group and rule.

Source of the format: https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/ and
recording_rules/; what is refused is what `promtool check rules` refuses, and expressions that cannot be evaluated.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sidecar.errors import Problem, QueryError, RuleError
from sidecar.model import METRIC_NAME
from sidecar.promql.parse import parse
from sidecar.promql.tree import Expr
from sidecar.rules.gotemplate.lex import TemplateSyntaxError
from sidecar.rules.nodes import Fields, Items, Node, Reader, Scalar, TooMuch
from sidecar.rules.spec import AlertingSpec, GroupSpec, RecordingSpec, RuleSpec
from sidecar.rules.template import Template

MAX_BYTES = 4 * 1024 * 1024

_log = logging.getLogger(__name__)

_FILE = ("groups",)
_GROUP = ("name", "interval", "query_offset", "limit", "labels", "rules")
_RULE = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A rule file as it was read. Without `problems`, `groups` and their rules are those of `document`, in order."""

    path: Path
    groups: tuple[GroupSpec, ...]
    document: Node | None
    problems: tuple[Problem, ...] = ()


def shipped() -> list[Path]:
    """The rule files that come with rag-sidecar and are used when the configuration names none."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "shipped" / "rules", package.parent / "rules")
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise RuleError([Problem(str(package), 0, 0, "", "the shipped rules are missing from this installation")],
                        help="install rag-sidecar again, or name rule files in the configuration")
    return sorted(path for path in folder.glob("*.yml") if path.name != "fleet.yml")  # that one is for a Prometheus


def load(paths: Sequence[Path], *, experimental: bool = False, lenient: bool = False) -> tuple[GroupSpec, ...]:
    """The groups of all files, in order. All or nothing: RuleError holds the mistakes of every file.

    `experimental` admits what Prometheus has behind --enable-feature=promql-experimental-functions; `lenient` passes
    over fields that Prometheus does not know.
    """
    files = [read_rules(path, experimental=experimental, lenient=lenient) for path in paths]
    if problems := [problem for file in files for problem in file.problems]:
        raise RuleError(problems, help="no rule was loaded; `promtool check rules FILE` explains the same files")
    return tuple(group for file in files for group in file.groups)


def read_rules(path: Path, *, experimental: bool = False, lenient: bool = False) -> RuleFile:
    """One file, read as `load` reads it, with its problems in the order of their places."""
    reader = Reader(str(path), lenient=lenient)
    document, groups = read_yaml(path, reader), []
    if document is not None:
        try:
            groups = _groups(document, reader, experimental)
        except TooMuch:
            reader.problem((1, 1), "aliases make this file stand for too many values")
    problems = sorted(reader.problems, key=lambda problem: (problem.line, problem.column))
    return RuleFile(path, tuple(groups), document, tuple(problems))


def read_yaml(path: Path, reader: Reader) -> Node | None:
    """The first document of a YAML file; None for an empty file and, with a problem noted, for an unreadable one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            reader.problem((1, 1), f"larger than {MAX_BYTES // 1024**2} MiB: this is no rule file")
            return None
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reader.problem((0, 0), f"cannot be read: {error.strerror or error}")
        return None
    except UnicodeDecodeError as error:
        reader.problem((error.object[: error.start].count(b"\n") + 1, 1), "not UTF-8 text")
        return None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            _log.warning("only the first document of a YAML file is read", extra={"file": str(path)})
        return None if root is None else _Conversion(reader, text).convert(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        reader.problem(place, "not YAML: " + ", ".join(filter(None, (error.context, error.problem))))
    except yaml.YAMLError as error:
        reader.problem((1, 1), f"not YAML: {' '.join(str(error).split())}")
    except RecursionError:
        reader.problem((1, 1), "nested too deep")
    return None


class _Conversion:
    """From the YAML library's nodes to ours: merge keys resolved, repeated keys noted. Lives as long as one file."""

    def __init__(self, reader: Reader, source: str) -> None:
        self._reader = reader
        self._source = source.split("\n")
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def convert(self, node: yaml.Node) -> Node:
        """Each aliased node is converted once and shared."""
        key = id(node)
        if key not in self._done:
            place = (node.start_mark.line + 1, node.start_mark.column + 1)
            if key in self._open:
                self._reader.problem(place, "this value contains itself")
                return Scalar(None, place)
            self._open.add(key)
            self._done[key] = self._converted(node, place)
            self._open.remove(key)
        return self._done[key]

    def _converted(self, node: yaml.Node, place: tuple[int, int]) -> Node:
        if isinstance(node, yaml.SequenceNode):
            return Items(tuple(self.convert(child) for child in node.value), place)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
            return Scalar(None, place)
        return Scalar(self._text(node), place, self._lines(node))

    def _text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if _SURROGATE.search(text):
            self._reader.problem((node.start_mark.line + 1, node.start_mark.column + 1),
                                 "not YAML: half of a pair of UTF-16 surrogates is no character")
            return ""
        return text

    def _lines(self, node: yaml.ScalarNode) -> tuple[tuple[int, int], ...]:
        """Where the lines of the text begin; nothing where the layout folds them."""
        line, column = node.start_mark.line, node.start_mark.column
        if node.style == "|":
            body = self._source[line + 1 :]
            first = next((text for text in body if text.strip()), "")
            indent = len(first) - len(first.lstrip(" "))
            return tuple((line + 2 + index, indent + 1) for index in range(node.value.count("\n") + 1))
        if node.style == ">" or node.end_mark.line != line:
            return ()
        return ((line + 1, column + 1 + (node.style is not None)),)

    def _mapping(self, node: yaml.MappingNode, place: tuple[int, int]) -> Fields:
        entries: dict[str, Node] = {}
        keys: dict[str, tuple[int, int]] = {}
        merged: list[Node] = []
        for key, value in node.value:
            at = (key.start_mark.line + 1, key.start_mark.column + 1)
            if key.tag == _MERGE:
                found = self.convert(value)
                merged += found.items if isinstance(found, Items) else (found,)
            elif not isinstance(key, yaml.ScalarNode):
                self._reader.problem(at, "a key must be a single word")
            elif (name := self._text(key)) in entries:
                self._reader.problem(at, f"key {name} is given twice")
            else:
                entries[name], keys[name] = self.convert(value), at
        for source in merged:
            if isinstance(source, Fields):
                entries = {**source.entries, **entries}
                keys = {**source.keys, **keys}
            else:
                self._reader.problem(source.place, "<< takes a mapping or a list of mappings")
        return Fields(entries, keys, place)


def _groups(document: Node, reader: Reader, experimental: bool) -> list[GroupSpec]:
    groups: list[GroupSpec] = []
    for node in reader.items(reader.fields(document, _FILE).get("groups")):
        name = reader.text(reader.mapping(node).get("name"))
        with reader.inside(f'group "{name}"'):
            fields = reader.fields(node, _GROUP)
            if not name:
                reader.problem(node.place, "Groupname must not be empty")
            if any(name == group.name for group in groups):
                reader.problem(node.place, f'groupname: "{name}" is repeated in the same file')
            labels = _labels(fields.get("labels"), reader)
            _check_templates("label", "", fields.get("labels"), reader)
            rules = [_rule(child, index, labels, reader, experimental) for index, child in
                     enumerate(reader.items(fields.get("rules")), 1)]
            groups.append(GroupSpec(
                name, reader.file, tuple(rule for rule in rules if rule is not None),
                interval_seconds=reader.duration(fields.get("interval")) or None,
                limit=reader.integer(fields.get("limit")),
                query_offset_seconds=reader.duration(fields.get("query_offset")) or 0.0,
            ))
    return groups


def _labels(node: Node | None, reader: Reader) -> dict[str, str]:
    labels = reader.texts(node)
    for name in labels:
        if name in ("", METRIC_NAME):
            assert isinstance(node, Fields)
            reader.problem(node.keys[name], f"invalid label name: {name!r}")
    return labels


def _rule(node: Node, index: int, group_labels: dict[str, str], reader: Reader,
          experimental: bool) -> RuleSpec | None:
    """One rule, or None with the problems noted."""
    known = len(reader.problems)
    entries = reader.mapping(node)
    if len(reader.problems) > known:
        return None
    record, alert = reader.text(entries.get("record")), reader.text(entries.get("alert"))
    with reader.inside(f'rule {index} ("{alert or record}")' if alert or record else f"rule {index}"):
        fields = reader.fields(node, _RULE)
        if record and alert:
            reader.problem(node.place, "only one of 'record' and 'alert' must be set")
        elif not record and not alert:
            reader.problem(node.place, "one of 'record' or 'alert' must be set")
        expr = _expression(node, fields.get("expr"), reader, experimental)
        labels = {**group_labels, **_labels(fields.get("labels"), reader)}
        make = _recording if record else _alerting
        rule = make(record or alert, expr, labels, fields, reader)
    return rule if rule is not None and len(reader.problems) == known else None


def _expression(rule: Node, node: Node | None, reader: Reader, experimental: bool) -> Expr | None:
    text = reader.text(node)
    if not isinstance(node, Scalar) or not text.strip():
        reader.problem(rule.place, "field 'expr' must be set in rule")
        return None
    try:
        return parse(text, experimental=experimental)
    except QueryError as error:
        hint = f" ({error.help})" if error.help else ""
        reader.problem(node.place_of(error.position), f"could not parse expression: {error}{hint}")
        return None


def _recording(name: str, expr: Expr | None, labels: Mapping[str, str], fields: Mapping[str, Node],
               reader: Reader) -> RecordingSpec | None:
    for field in ("annotations", "for", "keep_firing_for"):
        if field in fields:
            reader.problem(fields[field].place, f"invalid field '{field}' in recording rule")
    if "{" in name or "}" in name:
        reader.problem(fields["record"].place,
                       f"braces present in the recording rule name; should it be in expr?: {name}")
    return None if expr is None else RecordingSpec(name, expr, labels, fields["record"].place[0])


def _alerting(name: str, expr: Expr | None, labels: Mapping[str, str], fields: Mapping[str, Node],
              reader: Reader) -> AlertingSpec | None:
    annotations = reader.texts(fields.get("annotations"))
    _check_templates("label", name, fields.get("labels"), reader)
    _check_templates("annotation", name, fields.get("annotations"), reader)
    hold = reader.duration(fields.get("for")) or 0.0
    keep = reader.duration(fields.get("keep_firing_for")) or 0.0
    line = fields["alert"].place[0] if "alert" in fields else 0
    return None if expr is None else AlertingSpec(name, expr, hold, keep, labels, annotations, line)


def _check_templates(what: str, alert: str, node: Node | None, reader: Reader) -> None:
    """Note annotations without a name, and every template that does not parse."""
    if not isinstance(node, Fields):
        return
    for name, child in node.entries.items():
        if what == "annotation" and not name:
            reader.problem(node.keys[name], f"invalid annotation name: {name!r}")
        if isinstance(child, Scalar) and child.text:
            try:
                Template(child.text, alert)
            except TemplateSyntaxError as error:
                reader.problem(child.place_of(error.position), f'{what} "{name}": template: {error.reason}')
