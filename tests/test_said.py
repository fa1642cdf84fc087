"""What was said of targets, said again."""

from sidecar.model import Labels, Sample
from sidecar.said import AGAIN_SECONDS, Said

RAG, OTHER = Labels({"target": "rag"}), Labels({"target": "rag", "instance": "box"})


def test_only_news_is_new() -> None:
    """A target that is spared is given the same samples, with their time, until what they say is another, or is old."""
    said = Said()

    def at(now: float, facts: object, *spared: str, base: Labels = RAG) -> float:
        (sample,) = said.of(base, facts, now, spared, lambda: [Sample(base, 1.0, now)])
        assert sample.labels is base
        return sample.at

    assert [at(1.0, "a", "rag"), at(2.0, "a", "rag"), at(3.0, "a")] == [1.0, 1.0, 3.0]
    assert [at(4.0, "a", "rag"), at(5.0, "b", "rag"), at(6.0, "b", "rag")] == [3.0, 5.0, 5.0]
    assert [at(7.0, "b", "rag", base=OTHER), at(8.0, "b", "rag", base=OTHER)] == [7.0, 7.0]
    assert at(7.0 + AGAIN_SECONDS, "b", "rag", base=OTHER) == 7.0 + AGAIN_SECONDS
    assert at(9.0, "b", "rag", base=OTHER) == 9.0, "the clock was set back"
    said.keep(())
    assert at(10.0, "b", "rag", base=OTHER) == 10.0
