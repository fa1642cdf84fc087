"""Rules over any history and of any text: alerts move as the field's rules say, and no file brings anything down."""

import contextlib
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from servers import AlertRecorder, free_port, wait_until
from sidecars import config, running_sidecar

from sidecar.cli import main
from sidecar.errors import QueryError, RuleError
from sidecar.model import Alert, Labels, Sample
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.promql.values import Point
from sidecar.rules.gotemplate.lex import TemplateSyntaxError
from sidecar.rules.group import Group
from sidecar.rules.load import load
from sidecar.rules.restart import continued
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.rules.template import Surroundings, Template
from sidecar.rules.template_functions import FUNCTIONS
from sidecar.store import Store

RULES = Path(__file__).parent.parent / "rules"
START = 1_700_000_000.0
INTERVAL = 15.0
ELEMENTS = ("a", "b", "c")

# Alerts over time: a few lines that know nothing of the code, beside the code.


@dataclass(frozen=True)
class Terms:
    """What one rule file says. `merges`: the rule's labels take away what tells its elements apart."""

    hold: float
    keep: float
    limit: int
    merges: bool
    severity: str
    edition: int = 0

    def spec(self) -> GroupSpec:
        """The group with the rule."""
        labels = {"severity": self.severity, **({"i": ""} if self.merges else {})}
        text = (f"{self.edition}: {{{{ $value }}}} of {{{{ $labels.i }}}}"
                '{{ with query "count(x > 0)" }}, {{ . | first | value }}{{ end }}')
        rule = AlertingSpec("A", parse("x > 0"), self.hold, self.keep, labels, {"text": text})
        return GroupSpec("g", "r.yml", (rule,), limit=self.limit)


@dataclass
class Known:
    """One alert as the model knows it."""

    state: str
    active: float
    fired: float | None
    value: float
    text: str
    gone_since: float | None = None
    resolved: float | None = None


@dataclass
class Model:
    """The life of the alerts of one rule, as Prometheus's documentation and its code tell it."""

    terms: Terms
    alerts: dict[str, Known] = field(default_factory=dict)

    def judge(self, at: float, values: dict[str, float]) -> bool:
        """One evaluation; whether it went well."""
        found = {name: value for name, value in values.items() if value > 0}
        if self.terms.merges and len(found) > 1:
            return False
        for name, value in found.items():
            key = "" if self.terms.merges else name
            shown = "+Inf" if value == math.inf else f"{value:g}"
            text = f"{self.terms.edition}: {shown} of {name}, {len(found)}"
            known = self.alerts.get(key)
            if known is None or known.state == "inactive":
                self.alerts[key] = Known("pending", at, None, value, text)
            else:
                known.value, known.text, known.gone_since = value, text, None
        there = {"" if self.terms.merges else name for name in found}
        self.alerts = {key: known for key, known in self.alerts.items() if key in there or self._stays(known, at)}
        for known in self.alerts.values():
            waited = round(at - known.active, 3) >= self.terms.hold
            if known.state == "pending" and waited:
                known.state, known.fired = "firing", at
            elif known.state == "firing" and not waited:
                known.state, known.fired, known.gone_since = "pending", None, None
        if self.terms.limit and sum(known.state != "inactive" for known in self.alerts.values()) > self.terms.limit:
            self.alerts = {}
            return False
        return True

    def _stays(self, known: Known, at: float) -> bool:
        if known.state == "firing":
            if self.terms.keep and known.gone_since is None:
                known.gone_since = at
            if known.gone_since is None or round(at - known.gone_since, 3) >= self.terms.keep:
                known.state, known.resolved = "inactive", at
            return True
        return known.resolved is not None and round(at - known.resolved, 3) <= 900

    def reload(self, terms: Terms) -> None:
        """The file is another one. A rule with other labels is another rule."""
        if (terms.merges, terms.severity) != (self.terms.merges, self.terms.severity):
            self.alerts = {}
        self.terms = terms

    def restart(self, away: float, at: float) -> None:
        """Nobody looked for a while, and then somebody looks who has read what was left."""
        self.alerts = {key: known for key, known in self.alerts.items()
                       if away <= 3600 and (known.resolved is None or round(at - known.resolved, 3) <= 900)}
        for known in self.alerts.values():
            if known.state == "pending":
                known.active += max(0.0, away - INTERVAL)


class World:
    """The rule at work, with its model, its store and its time. Lives as long as one history."""

    def __init__(self, terms: Terms) -> None:
        self.at = START
        self.model = Model(terms)
        self.group = self._made(terms)
        self.store = Store()

    def _made(self, terms: Terms) -> Group:
        return Group(terms.spec(), default_interval_seconds=INTERVAL, external_labels={}, external_url="http://h")

    def evaluate(self, seconds: float, values: dict[str, float], fails: bool, alone: bool) -> None:
        """Some time later: samples, one evaluation (of the rule alone, or of its group), and a comparison."""
        self.at = round(self.at + seconds, 3)
        for name, value in values.items():
            self.store.append([Sample(Labels({"__name__": "x", "i": name}), value, self.at)])

        def query(expr: Any, at: float) -> Any:
            if fails:
                raise QueryError("nobody knows")
            return instant(expr, self.store.select, at)

        if alone:
            self.group.evaluate_rule(self.group.rules[0], self.at, query, self.store.append)
        else:
            self.group.evaluate(self.at, query, self.store.append)
        went_well = not fails and self.model.judge(self.at, values)
        assert self.group.rules[0].health == ("ok" if went_well else "err")
        self._compare()
        if went_well and not alone:  # the series of rules that a reload dropped end with the next slot
            self._compare_series()

    def _compare(self) -> None:
        """The alerts are those of the model, and obey what always holds."""
        seen = {}
        for alert in self.group.alerts():
            self._always(alert)
            since = alert.keep_firing_since if alert.state == "firing" else None
            seen[alert.labels.get("i", "")] = Known(alert.state, alert.active_at, alert.fired_at, alert.value,
                                                    alert.annotations["text"], since, alert.resolved_at)
        expected = {key: replace(known, gone_since=known.gone_since if known.state == "firing" else None)
                    for key, known in self.model.alerts.items()}
        assert seen == expected

    def _always(self, alert: Alert) -> None:
        terms = self.model.terms
        assert alert.labels.items() >= {"alertname": "A", "severity": terms.severity}.items()
        assert alert.active_at <= (alert.fired_at or self.at) <= (alert.resolved_at or self.at) <= self.at
        assert (alert.fired_at is None) == (alert.state == "pending")
        assert (alert.resolved_at is None) == (alert.state != "inactive")
        assert not alert.condition or alert.state != "inactive"

    def _compare_series(self) -> None:
        """ALERTS and ALERTS_FOR_STATE show what is active now, and nothing that was."""
        def values(name: str) -> dict[tuple[str, str], float]:
            found = instant(parse(name), self.store.select, self.at)
            assert isinstance(found, list)
            return {(point.labels.get("i", ""), point.labels.get("alertstate", "")): point.value for point in found}

        active = {key: known for key, known in self.model.alerts.items() if known.state != "inactive"}
        assert values("ALERTS") == {(key, known.state): 1.0 for key, known in active.items()}
        assert values("ALERTS_FOR_STATE") == {(key, ""): math.floor(known.active) for key, known in active.items()}

    def reload(self, terms: Terms) -> None:
        """Another rule file."""
        fresh = self._made(terms)
        fresh.copy_state(self.group)
        self.group = fresh
        self.model.reload(terms)

    def restart(self, away: float) -> None:
        """Another process, some time later, with nothing but the alerts."""
        left, seen_at = [(key, alert) for key, rule in self.group.keyed for alert in rule.alerts()], self.at
        self.at = round(self.at + away, 3)
        goes_on = [(key, continued(alert, seen_at=seen_at, now=self.at, interval_seconds=INTERVAL,
                                   same_process=True)) for key, alert in left]
        self.store, self.group = Store(), self._made(self.model.terms)
        self.group.restore([(key, alert) for key, alert in goes_on if alert is not None], self.at, {})
        self.model.restart(away, self.at)


def mostly(usual: Any, *seldom: Any) -> st.SearchStrategy[Any]:
    """One value nine times of ten."""
    return st.sampled_from([usual] * (9 * len(seldom)) + list(seldom))


INTERVALS = st.sampled_from([0.0, 0.01, 1.0, 2.0, 2.5])
SPANS = INTERVALS.map(lambda number: number * INTERVAL)
TERMS = st.builds(Terms, SPANS, SPANS, mostly(0, 1, 2), mostly(False, True), mostly("low", "high"), st.integers(0, 9))
TURNED = st.sampled_from(["", "", "", "a", "a", "b", "ab", "abc"])
"""The elements that come, or go, before an evaluation."""
EVALUATION = st.tuples(st.just("evaluate"), mostly(1, 2, 70), TURNED, st.sampled_from([1.0, 2.5, math.inf]),
                       mostly(False, True), mostly(False, True))
EVENT = st.one_of(*[EVALUATION] * 12, st.tuples(st.just("reload"), TERMS),
                  st.tuples(st.just("restart"), st.sampled_from([0.4, 15.0, 45.5, 1000.0, 4000.0])))


@examples(150)
@given(TERMS, st.lists(EVENT, min_size=10, max_size=40))
def test_alerts_live_as_they_should(terms: Terms, events: list[tuple[Any, ...]]) -> None:
    """Whatever comes and goes, fails, is reloaded or restarted: states, times, values and series are the expected."""
    world, values = World(terms), dict.fromkeys(ELEMENTS, 0.0)
    for kind, *details in events:
        if kind == "evaluate":
            intervals, turned, value, fails, alone = details
            values |= {name: 0.0 if values[name] else value for name in turned}
            world.evaluate(intervals * INTERVAL - (0.6 if alone else 0.0), values, fails, alone)
        elif kind == "reload":
            world.reload(*details)
        else:
            world.restart(*details)


# Files of any text.

FIELDS = ["groups", "name", "interval", "query_offset", "limit", "labels", "rules", "record", "alert", "expr", "for",
          "keep_firing_for", "annotations", "rule_files", "tests", "input_series", "series", "values",
          "evaluation_interval", "alert_rule_test", "promql_expr_test", "eval_time", "alertname", "exp_alerts",
          "exp_labels", "exp_samples", "external_labels", "<<", "nonsense", ""]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["5m", "1y", "-1s", "0", "1e9", "99999999999999y", "x > 0", "sum(", "up{", '{{ .Nope }}', "{{",
                     "{{ $x }}", "{{ range 1000000000 }}{{ end }}", "a b", "__name__", "é", "1x999999999", "1+1x5",
                     "_x3 stale", "NaN",
                     '{{ printf "%999999999d" 1 }}', "{{histogram}}", "\u2028", "a" * 500, "*", "../..", "/dev/zero"]))
NESTED = st.recursive(ODD, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)), max_leaves=15)
DURATION = st.one_of(st.sampled_from(["0s", "1ms", "5m", "292y", "1d2h"]), ODD)
EXPR = st.one_of(
    st.sampled_from(["x", "x > 0", "1", "vector(1)", "absent(y)", "-x", "x / 0", '"text"', "x[5m]", "rate(x[1h])",
                     "x offset -1y", 'label_replace(x, "i", "", "", "")', "x * on () group_left () y"]), ODD)
NAMES = st.dictionaries(
    st.one_of(st.sampled_from(["a", "i", "__name__", "alertname", "alertstate", "é"]), st.text(max_size=5)),
    st.one_of(st.sampled_from(["", "{{ $value }}", "{{ $labels }}", '{{ query "x" }}']), ODD), max_size=3)
RULE = st.one_of(
    st.fixed_dictionaries({"alert": ODD, "expr": EXPR}, optional={
        "for": DURATION, "keep_firing_for": DURATION, "labels": NAMES, "annotations": NAMES}),
    st.fixed_dictionaries({"record": st.one_of(st.just("r"), ODD), "expr": EXPR}, optional={"labels": NAMES}), NESTED)
RULE_FILE = st.fixed_dictionaries({"groups": st.lists(st.fixed_dictionaries(
    {"name": ODD, "rules": st.one_of(st.lists(RULE, max_size=4), NESTED)},
    optional={"interval": DURATION, "limit": ODD, "query_offset": DURATION, "labels": NAMES}), max_size=3)})
ALERT_TEST = st.fixed_dictionaries({"eval_time": DURATION, "alertname": ODD}, optional={
    "exp_alerts": st.lists(st.fixed_dictionaries({"exp_labels": NAMES, "exp_annotations": NAMES}), max_size=2)})
QUERY_TEST = st.fixed_dictionaries({"eval_time": DURATION, "expr": EXPR}, optional={
    "exp_samples": st.lists(st.fixed_dictionaries({"labels": ODD, "value": ODD}), max_size=2)})
SERIES = st.fixed_dictionaries({
    "series": st.one_of(st.sampled_from(['x{i="a"}', "x", "y"]), ODD),
    "values": st.one_of(st.sampled_from(["1x5", "0+1x10", "1 _ stale 2", "NaN Inf"]), ODD)})
TEST = st.fixed_dictionaries({}, optional={
    "interval": st.sampled_from(["1s", "1m", "5m", None, "0s"]), "input_series": st.lists(SERIES, max_size=2),
    "alert_rule_test": st.lists(ALERT_TEST, max_size=2), "promql_expr_test": st.lists(QUERY_TEST, max_size=2),
    "name": ODD, "external_labels": NAMES})
TEST_FILE = st.fixed_dictionaries({"rule_files": st.just(["rules.yml"]), "tests": st.lists(TEST, max_size=2)},
                                  optional={"evaluation_interval": st.sampled_from(["1s", "1m", None, "0s"])})


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A real rule file with some characters changed."""
    text = draw(st.sampled_from([path.read_text() for path in sorted(RULES.glob("*.yml"))]))
    for _ in range(draw(st.integers(1, 4))):
        at, gone = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        put = draw(st.sampled_from([*"\n\t :-'\"{}[]&*!|>%@`#,\0é", "  ", "<<: *a", "&a ", "*a", "---\n"]))
        text = text[:at] + put + text[at + gone:]
    return text


YAML = st.one_of(RULE_FILE.map(json.dumps), NESTED.map(json.dumps), st.text(), edited())


def commanded(*arguments: str) -> tuple[int, str]:
    """What a command answers: its exit code and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    return code, said.getvalue()


@examples(75)
@given(text=YAML)
def test_any_rule_file_is_loaded_or_explained(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """What a file says is rules, which can be evaluated, or mistakes, each with its place; both commands agree."""
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    try:
        groups = load([path])
    except RuleError as error:
        refusal = error
    else:
        store = Store()
        for name, labels in (("x", {"i": "a"}), ("x", {"i": "b"}), ("y", {})):
            store.append([Sample(Labels({"__name__": name, **labels}), 1.0, START)])
        for spec in groups:
            group = Group(spec, default_interval_seconds=1.0, external_labels={}, external_url="http://h")
            group.evaluate(START, lambda expr, at: instant(expr, store.select, at), store.append)
            json.dumps([[*alert.labels.items(), *alert.annotations.items()] for alert in group.alerts()]).encode()
        assert commanded("check", "rules", "--lint", "none", str(path))[0] == 0
        return
    assert refusal.problems
    assert all(problem.what and problem.line >= 0 for problem in refusal.problems)
    assert len(str(refusal)) < 100 * len(text) + 10_000
    assert commanded("check", "rules", str(path))[0] == 1


@examples(100)
@given(rules=st.one_of(st.just({"groups": []}), RULE_FILE), tests=st.one_of(TEST_FILE, NESTED))
def test_any_unit_tests_pass_or_fail(tmp_path_factory: pytest.TempPathFactory, rules: Any, tests: Any) -> None:
    """`test rules` says what does not hold, or what cannot be read; nothing else can come of a file."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "rules.yml").write_text(json.dumps(rules))
    (folder / "tests.yml").write_text(json.dumps(tests))
    code, said = commanded("test", "rules", str(folder / "tests.yml"))
    assert code in (0, 1)
    assert code == 0 or said.strip()


BOMBS: dict[str, Callable[[], str]] = {
    "brackets": lambda: "[" * 100_000,
    "braces": lambda: "{a: " * 50_000,
    "indents": lambda: "\n".join(" " * i + "a:" for i in range(3000)),
    "lists": lambda: "- " * 50_000,
    "aliases": lambda: "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)) + "groups: *a11\n",
    "merges": lambda: "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)) + "groups: [*a39]\n",
    "itself": lambda: "groups: &g [*g]\n",
    "merges itself": lambda: "groups: [&g {<<: *g}]\n",
    "tags": lambda: 'groups: !!python/object/apply:os.system ["true"]\n',
    "numbers": lambda: "groups: [{name: a, limit: 0x" + "f" * 100_000 + "}]\n",
    "keys": lambda: "\n".join(f"k{i}: 1" for i in range(50_000)),
    "complex keys": lambda: "? [a, b]\n: c\n",
    "documents": lambda: "---\n" * 20_000,
    "byte order": lambda: "\ufeffgroups: []\n",
    "expression": lambda: json.dumps({"groups": [{"name": "g", "rules": [{"record": "r", "expr": "(" * 10_000}]}]}),
    "template": lambda: json.dumps({"groups": [{"name": "g", "rules": [
        {"alert": "A", "expr": "1", "annotations": {"a": "{{ if 1 }}" * 5000}}]}]}),
    "parentheses": lambda: json.dumps({"groups": [{"name": "g", "rules": [
        {"alert": "A", "expr": "1", "annotations": {"a": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"}}]}]}),
    "pipes": lambda: json.dumps({"groups": [{"name": "g", "rules": [
        {"alert": "A", "expr": "1", "annotations": {"a": "{{ 1" + " | print" * 5000 + " }}"}}]}]}),
}


@pytest.mark.parametrize("form", BOMBS)
def test_file_made_to_explode_is_read_or_refused(tmp_path: Path, form: str) -> None:
    """Depth, aliases, tags and sheer number end in an answer too, not in a crash or a full memory."""
    path = tmp_path / "bomb.yml"
    path.write_text(BOMBS[form]())
    code, said = commanded("check", "rules", str(path))
    assert code in (0, 1, 3)
    assert len(said) < 20_000_000


# Templates of any text.

ATOMS = ["$labels", "$value", "$labels.i", ".", ".Labels", ".Value", ".Nope", "$externalLabels.x", "$externalURL",
         "$x", "$", "1", "-1", "0", "1.5", "1e308", "0x1F", "9223372036854775807", "99999999999999999999", "nil",
         "true", '"a"', "1i", '"%d"', '"%1000000000d"', '"%.999999999f"', '"%*d"', '"%[3]v"', '"%z"', '"%"',
         '"%v %+v %#v %T %q %x %e %U %c %t"',
         '"(a*)*b"', '"("', '"$1${x}"', '"\\xff"', "'a'", "`raw`", '"é𝄞\\u2028"', '"x"', '"sum("', '"x[5m]"', "(now)",
         '(index $labels "i")', "(args 1 2)", '(query "x")', '(printf "%d" 3)', "(toTime 1)", "(toDuration 1e18)",
         '"1h"']
CALLED = [*FUNCTIONS, "query", "now", "externalURL", "pathPrefix", "nope"]
COMMAND = st.builds(lambda name, given: " ".join([name, *given]), st.sampled_from([*CALLED, *ATOMS]),
                    st.lists(st.sampled_from(ATOMS), max_size=3))
PIPELINE = st.lists(COMMAND, min_size=1, max_size=3).map(" | ".join)
TEMPLATE = st.recursive(
    st.one_of(PIPELINE.map("{{{{ {} }}}}".format),
              st.sampled_from(["text", "{{", "}}", "{{ end }}", "{{- /* c */ -}}", "\n"]),
              st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.builds("{{{{ if {} }}}}{}{{{{ else }}}}{}{{{{ end }}}}".format, PIPELINE, inner, inner),
        st.builds("{{{{ range $i, $x := {} }}}}{}{{{{ break }}}}{{{{ end }}}}".format, PIPELINE, inner),
        st.builds("{{{{ range {} }}}}{}{{{{ end }}}}".format, PIPELINE, inner),
        st.builds("{{{{ with $x := {} }}}}{}{{{{ end }}}}".format, PIPELINE, inner),
        st.builds("{{{{ $x := {} }}}}{}{{{{ $x = {} }}}}".format, PIPELINE, inner, PIPELINE),
        st.builds('{{{{ define "t" }}}}{}{{{{ end }}}}{{{{ template "t" {} }}}}'.format, inner, PIPELINE)),
    max_leaves=6)


@examples(250)
@given(TEMPLATE, st.sampled_from([1.5, math.nan, math.inf, -1e300, 0.0]))
def test_any_template_gives_a_text(text: str, value: float) -> None:
    """A template is refused when it is read, or gives a text, if need be the text of its error."""
    try:
        template = Template(text, "A")
    except TemplateSyntaxError as error:
        refusal = error
    else:
        point = Point(Labels({"__name__": "x", "i": 'é "\\\n'}), value)
        found = [point, Point(Labels({"__name__": "x"}), math.nan)]
        shown = template.expand(point, START, lambda expr, at: found, Surroundings({"x": "y"}, "http://h:1/p"))
        assert len(shown.encode()) < 400_000
        return
    assert refusal.reason
    assert 0 <= refusal.position <= len(text)


# A whole sidecar on rules that are odd but valid.

STRANGE = """
groups:
  - name: "é 𝄞 \\u2028 {{ .Value }} <script>"
    rules:
      - {record: "r", expr: "vector(0) / 0"}
      - {record: "r2", expr: "vector(1) / 0", labels: {a: "\\0\\x1b[31m\\n\\"\\\\"}}
      - {alert: "Ünïcode \\" \\\\ \\n <i>", expr: "r2 > 0", annotations: {value: "{{ $value }}", l: "{{ $labels }}"}}
      - {alert: NaN, expr: "r", annotations: {h: "{{ humanize $value }} {{ toTime $value }}"}}
      - {alert: Endless, expr: "1", annotations: {a: "{{ range 1000000000 }}{{ end }}", b: "{{ $x := $x }}"}}
      - {alert: Wide, expr: "1", annotations: {a: '{{ printf "%999999999d" 1 }}', b: '{{ printf "%.999999999f" 1.0 }}'}}
      - {alert: Doubling, expr: "1", annotations: {a: '{{ $x := "ab" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}'}}
      - {alert: Calling, expr: "1", annotations: {a: '{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}'}}
      - {alert: Asking, expr: "1", annotations: {a: '{{ query "sum(" }}', b: '{{ query "sum_over_time(r[1h:1ms])" }}'}}
      - {alert: Same, expr: '{__name__=~".+"}', labels: {target: "", job: "", instance: ""}}
      - {alert: All, expr: '{__name__=~"rag_.+"} * 0 == 0', for: 292y}
      - {alert: Joined, expr: 'count({__name__=~".+"} * on () group_left () vector(1))', keep_firing_for: 292y}
      - {alert: Empty, expr: 'absent({a=~"(a*)*b", b!~"(x+x+)+y"})', labels: {a: "{{ $labels.b }}"}}
      - {alert: Far, expr: "rag_sidecar_ticks_total offset 100y or rag_sidecar_ticks_total @ 9e9 > 0"}
      - {alert: Fast, expr: 'avg_over_time(rag_sidecar_ticks_total[1s:1ms]) > -1'}
  - {name: g, interval: 1ms, rules: [{alert: Often, expr: "vector(time())"}]}
  - {name: h, query_offset: 1h, limit: 1, rules: [{alert: Limited, expr: '{__name__=~".+"}'}]}
  - {name: i, interval: 292y, rules: [{alert: Seldom, expr: "1"}]}
"""


def test_strange_rules_keep_nobody_from_watching(tmp_path: Path) -> None:
    """Rules that fail, explode or give odd texts: the sidecar ticks on, its pages work, an ordinary alert is told."""
    (tmp_path / "rules.yml").write_text(STRANGE + """
  - {name: z, rules: [{alert: Ordinary, expr: "rag_sidecar_ticks_total > 3", annotations: {text: "as ever"}}]}
""")
    port = free_port()
    with AlertRecorder() as recorder, running_sidecar(tmp_path, port=port, file=config(
            port, tmp_path / "state", [{"name": "rag", "match": {"pid": os.getpid()}}], rules=["rules.yml"],
            alertmanagers=[recorder.url])) as sidecar:
        def told() -> bool:
            return any(alert["labels"]["alertname"] == "Ordinary" for alert in recorder.alerts())

        wait_until(told, 60, "the ordinary alert")
        before = sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > before + 2, 60, "more ticks")
        page = sidecar.get("/")
        rules = json.loads(sidecar.get("/api/v1/rules"))["data"]["groups"]
        starts = sidecar.value("rag_sidecar_desk_starts_total")

    assert starts == 1
    assert "Ünïcode" in page
    assert "<i>" not in page
    health = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
    assert (health["Same"], health["NaN"], health["Ordinary"]) == ("err", "ok", "ok")
    texts = {alert["labels"]["alertname"]: alert["annotations"] for alert in recorder.alerts()}
    assert "steps" in texts["Endless"]["a"]
    assert "undefined variable" in texts["Endless"]["b"]
    assert texts['Ünïcode " \\ \n <i>']["value"] == "+Inf"
