"""What was said of targets, to be said again as it was while it holds: where there are many, only news is new."""

from collections.abc import Callable, Collection, Iterable

from sidecar.model import Labels, Sample

AGAIN_SECONDS = 30.0
"""For so long a sample stands for what still holds: rules look back for one value over five minutes."""


class Said:
    """The samples of each target with what they follow from. Lives as long as the stage that says them."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Labels, object, float, list[Sample]]] = {}

    def of(self, base: Labels, facts: object, at: float, spared: Collection[str],
           make: Callable[[], Iterable[Sample]]) -> list[Sample]:
        """The samples of a target, which `base` names, at Unix time `at`.

        Of one that is `spared` those of before are given again, as long as the facts that they follow from hold.
        """
        target = base["target"]
        known = self._said.get(target)
        if known and target in spared and known[0] is base and known[1] == facts and 0 <= at - known[2] < AGAIN_SECONDS:
            return known[3]
        made = list(make())
        self._said[target] = base, facts, at, made
        return made

    def keep(self, targets: Collection[str]) -> None:
        """Forget all others."""
        if len(self._said) > len(targets):
            self._said = {target: said for target, said in self._said.items() if target in targets}
