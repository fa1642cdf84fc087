"""What Prometheus's query engine has behind --enable-feature, by Prometheus's names."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple, get_args

Feature = Literal["promql-experimental-functions", "promql-delayed-name-removal"]


class Features(NamedTuple):
    """Which of them are on: functions that may still change, and names dropped only at the end of a query."""

    experimental_functions: bool = False
    delayed_name_removal: bool = False

    @classmethod
    def of(cls, names: Collection[Feature]) -> "Features":
        """Those with these names on, the others off."""
        return cls("promql-experimental-functions" in names, "promql-delayed-name-removal" in names)


def read_features(texts: Iterable[str]) -> tuple[Feature, ...]:
    """The features in texts such as `a,b`, each once. ValueError, with all that are known, for any other name."""
    known: dict[str, Feature] = {name: name for name in get_args(Feature)}
    names = [name.strip() for text in texts for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no feature; known here: {', '.join(known)}")
    return tuple(dict.fromkeys(known[name] for name in names))
