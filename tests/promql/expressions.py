"""A small data set, and random expressions over it: what a real Prometheus and our evaluator must agree on.

Left out is what they may differ in by rights: the last digits of transcendental functions where they become a label or
decide a comparison, and which of equal elements topk takes.
"""

import random
from collections.abc import Callable, Iterator

from sidecar.model import Labels
from sidecar.promql.values import Series

START = 1_700_000_000.0
STEP_SECONDS = 30.0
STEPS = 60

_JOBS = (("api", "0"), ("api", "1"), ("db", "0"), ("db", "1"), ("web", "0"))
_METRICS = ("req_total", "temp", "temp", "odd", "info", "lat_bucket", "fall_bucket", "one", "none")
_LABELS = ("job", "instance", "zone", "k", "team", "le")
_SIMPLE = ("abs", "ceil", "floor", "sgn", "sqrt", "absent", "sort", "timestamp", "atan", "sinh", "ln", "log2", "deg")
_DATES = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month", "year")
_OVER_TIME = (
    "rate", "increase", "irate", "delta", "idelta", "deriv", "avg_over_time", "sum_over_time", "count_over_time",
    "max_over_time", "min_over_time", "present_over_time", "stdvar_over_time", "stddev_over_time", "changes", "resets",
    "last_over_time", "absent_over_time", "ts_of_last_over_time", "ts_of_max_over_time",
    "mad_over_time",
)
_GROUPED = ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
_ARITHMETIC = ("+", "-", "*", "/", "^")
_COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")


def data(seed: int) -> list[Series]:
    """Counters that fall, gauges with gaps, infinities, classic histograms; ordered by their labels."""
    rnd = random.Random(seed)
    found: dict[Labels, list[tuple[float, float]]] = {}

    def add(labels: dict[str, str], value: Callable[[int], float], gaps: float = 0.0) -> None:
        found[Labels(labels)] = [(START + index * STEP_SECONDS, float(value(index))) for index in range(STEPS + 1)
                                 if rnd.random() >= gaps]

    for index, (job, instance) in enumerate(_JOBS):
        place = {"job": job, "instance": instance}
        period, pace = rnd.randrange(7, 40), rnd.randrange(1, 20)
        add({"__name__": "req_total", **place}, lambda i, p=period, r=pace: i % p * r, 0.1)
        add({"__name__": "temp", **place, "zone": "ab"[index % 2]}, lambda i: round(rnd.gauss(0, 50), 3), 0.15)
    for job, team in (("api", "x"), ("db", "y"), ("web", "x")):
        add({"__name__": "info", "job": job, "team": team}, lambda i: 1)
    add({"__name__": "one"}, lambda i: 1)
    for k, values in enumerate(((0, 1, -1, 0.5), ("NaN", 2, "NaN"), ("Inf", "-Inf", 3600), (951_782_400, -86_400))):
        add({"__name__": "odd", "k": str(k)}, lambda i, v=values: v[i % len(v)])
    for instance in "01":
        for count, le in enumerate(("0.1", "0.5", "1.0", "10.0", "+Inf"), 1):
            add({"__name__": "lat_bucket", "instance": instance, "le": le}, lambda i, n=count: i * n * (n + 1))
    for le in ("0.1", "1.0", "10.0", "100.0", "+Inf", "bad"):
        add({"__name__": "fall_bucket", "le": le}, lambda i: rnd.randrange(20))
    ordered = sorted(found, key=lambda labels: tuple(labels.items()))
    return [Series(labels, [at for at, _ in found[labels]], [v for _, v in found[labels]]) for labels in ordered]


def exposition(series: list[Series]) -> Iterator[str]:
    """The data as OpenMetrics, line by line."""
    for one in series:
        pairs = ",".join(f'{name}="{value}"' for name, value in one.labels.items() if name != "__name__")
        for at, value in zip(one.times, one.values, strict=True):
            yield f"{one.labels.metric}{{{pairs}}} {value!r} {at}"
    yield "# EOF"


class Expressions:
    """Random expressions, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rnd = random.Random(seed)

    def _one(self, *choices: str) -> str:
        return self._rnd.choice(choices)

    def vector(self, depth: int) -> str:
        """An expression that gives an instant vector."""
        if depth <= 0:
            return self._selector() + self._moved()
        make = self._rnd.choice((self._call, self._over_time, self._joined, self._scaled, self._grouped, self._chosen,
                                 self._labelled, self._buckets, self._both))
        return make(depth - 1)

    def _selector(self) -> str:
        if self._rnd.random() < 0.05:
            return '{__name__=~"temp|one|req.*"}'
        matchers = (self._matcher() for _ in range(self._rnd.choice((0, 0, 1, 2))))
        return f"{self._one(*_METRICS)}{{{','.join(matchers)}}}"

    def _matcher(self) -> str:
        value = self._one("api", "0", ".*", "a|b", "", "[^d].+")
        return f'{self._one(*_LABELS)}{self._one("=", "!=", "=~", "!~")}"{value}"'

    def _moved(self) -> str:
        if self._rnd.random() < 0.8:
            return ""
        fixed = START + self._rnd.randrange(0, 1800)
        return self._one(" offset 1m", " offset -2m", f" @ {fixed}", " @ start()", f" offset 45s @ {fixed}", " @ end()")

    def _range(self, depth: int) -> str:
        length = self._one("30s", "1m", "5m", "10m", "90s", "450")
        if self._rnd.random() < 0.3:
            return f"({self.vector(depth)})[{length}:{self._one('', '30s', '1m', '17s')}]{self._moved()}"
        return f"{self._selector()}[{length}]{self._moved()}"

    def _number(self, depth: int) -> str:
        if depth <= 0 or self._rnd.random() < 0.7:
            return self._one("0", "1", "-1", "2.5", "1e3", "NaN", "Inf", "-Inf", "0x1f", "1m", "time()", "pi()")
        return f"scalar({self.vector(depth - 1)})"

    def _call(self, depth: int) -> str:
        vector = self.vector(depth)
        low, high = self._number(depth), self._number(depth)
        return self._one(f"{self._one(*_SIMPLE)}({vector})", f"clamp({vector}, {low}, {high})", f"-({vector})",
                         f"clamp_min({vector}, {low})", f"round({vector}, 2.5)", f"vector({low})",
                         f"{self._one(*_DATES)}({self._one('temp * 1e6', 'odd{k=~`0|3`}', 'vector(time())')})")

    def _over_time(self, depth: int) -> str:
        ranged = self._range(depth)
        return self._one(f"{self._one(*_OVER_TIME)}({ranged})", f"quantile_over_time({self._share()}, {ranged})",
                         f"predict_linear({ranged}, {self._number(0)})", f"{self._one(*_OVER_TIME)}({ranged})",
                         f"double_exponential_smoothing({ranged}, 0.3, 0.6)")

    def _share(self) -> str:
        return self._one("0", "0.5", "0.9", "1", "0.25", "-1", "2", "NaN")

    def _matching(self) -> str:
        if self._rnd.random() < 0.5:
            return ""
        labels = ", ".join(self._rnd.sample(_LABELS, self._rnd.choice((0, 1, 1, 2))))
        grouped = self._one("", "", " group_left()", " group_right(zone)", " group_left(team, job)")
        return f" {self._one('on', 'ignoring')} ({labels}){grouped}"

    def _joined(self, depth: int) -> str:
        left, right = self.vector(depth), self.vector(depth)
        if self._rnd.random() < 0.3:
            return f"({self._one('temp', 'req_total')} {self._operator()} on (job) group_left(team) info)"
        return f"({left} {self._operator()}{self._matching()} {right})"

    def _operator(self) -> str:
        return self._one(*_ARITHMETIC, *_COMPARISONS, *(f"{comparison} bool" for comparison in _COMPARISONS))

    def _scaled(self, depth: int) -> str:
        sides = [self.vector(depth), self._number(depth)]
        self._rnd.shuffle(sides)
        return f"({sides[0]} {self._operator()} {sides[1]})"

    def _by(self) -> str:
        labels = self._rnd.sample((*_LABELS, "__name__"), self._rnd.choice((0, 1, 2)))
        return self._one("", f" {self._one('by', 'without')} ({', '.join(labels)}) ")

    def _grouped(self, depth: int) -> str:
        return f"{self._one(*_GROUPED)}{self._by()}({self.vector(depth)})"

    def _chosen(self, depth: int) -> str:
        by, vector = self._by(), self.vector(depth)
        ratio = self._one("0.5", "-0.5", "0.1", "-0.25", "1", "1.5", "0")
        counted = self._one("info", "req_total", "odd")
        return self._one(f"quantile{by}({self._share()}, {vector})", f"topk{by}({self._one('1', '2', '0')}, temp)",
                         f"bottomk{by}(2, temp > 0)", f'count_values{by}("{self._one("value", "job")}", {counted})',
                         f"limit_ratio{by}({ratio}, {vector})", f"count(limitk{by}(2, {vector}))")

    def _labelled(self, depth: int) -> str:
        vector, target, source = self.vector(depth), self._one(*_LABELS), self._one(*_LABELS, "__name__")
        value = self._one("$1", "x${1}y", "", "$$", "$name")
        pattern = self._one("(.*)", "(a|d).*", "", "(?P<name>.).*", "(.)(.)?.*")
        return self._one(f'label_replace({vector}, "{target}", "{value}", "{source}", "{pattern}")',
                         f'label_join({vector}, "{target}", "-", "{source}", "job")')

    def _buckets(self, depth: int) -> str:
        buckets = self._one("lat_bucket", "fall_bucket", "rate(lat_bucket[5m])", "sum by (le) (lat_bucket)",
                            self.vector(depth))
        return self._one(f"histogram_quantile({self._share()}, {buckets})",
                         f"histogram_fraction({self._number(0)}, {self._number(0)}, {buckets})")

    def _both(self, depth: int) -> str:
        matching = self._one("", " on (job)", " ignoring (zone, team)", " on ()")
        return f"({self.vector(depth)} {self._one('and', 'or', 'unless')}{matching} {self.vector(depth)})"
