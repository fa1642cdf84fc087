"""Where the lines lie, what they are compared with, and what people are told about it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.errors import SidecarError
from sidecar.model import Labels
from sidecar.thresholds import LEVELS, METRICS, Share, Size, Source, Wanted, contradiction, resolve, samples

MIB = 1 << 20
GIB = 1 << 30


def mib(size: float, source: Source = "file") -> Size:
    """A wish in MiB."""
    return Size(round(size * MIB), source)


@pytest.mark.parametrize(("limit", "wanted", "expected"), [
    # limit, wishes, (preventive, main, critical) in MiB, basis, armed
    (1000 * MIB, Wanted(), (640, 800, 900, "cgroup", True)),
    (None, Wanted(), (800, 1000, 1200, "anon", False)),
    (None, Wanted(main=mib(500)), (400, 500, 600, "anon", True)),
    (None, Wanted(critical=mib(600)), (400, 500, 600, "anon", True)),
    (None, Wanted(preventive=mib(400)), (400, 500, 600, "anon", True)),
    (None, Wanted(main=mib(500), critical=mib(900)), (400, 500, 900, "anon", True)),
    (4000 * MIB, Wanted(main=mib(500)), (400, 500, 600, "anon", True)),
    (4000 * MIB, Wanted(preventive=mib(500)), (500, 3200, 3600, "cgroup", True)),
    (1000 * MIB, Wanted(main=Share(0.5, "file")), (400, 500, 600, "cgroup", True)),
    (1000 * MIB, Wanted(main=mib(500), critical=Share(0.7, "file")), (400, 500, 700, "cgroup", True)),
    (None, Wanted(main=Share(0.5, "file")), (800, 1000, 1200, "anon", False)),
    (4000 * MIB, Wanted(main=mib(1000, "environment")), (800, 1000, 1200, "rss", True)),
    (None, Wanted(main=mib(1000), critical=mib(1200, "environment")), (800, 1000, 1200, "rss", True)),
    (None, Wanted(main=mib(1000, "environment"), critical=mib(1200, "command line")), (800, 1000, 1200, "anon", True)),
    (1000 * MIB, Wanted(basis="rss"), (640, 800, 900, "rss", True)),
    (None, Wanted(main=mib(1000, "environment"), basis="anon"), (800, 1000, 1200, "anon", True)),
])
def test_lines(limit: int | None, wanted: Wanted, expected: tuple[object, ...]) -> None:
    """Explicit sizes beat the limit, one level sets the others, and critical's source decides the basis."""
    found = resolve(limit, wanted)
    assert (*(line.size_bytes / MIB for line in found.lines.values()), found.basis, found.armed) == expected


def test_everybody_can_see_where_a_line_comes_from() -> None:
    """Each line carries who said it and how it followed."""
    found = resolve(1000 * MIB, Wanted(main=mib(500, "command line")))
    assert [str(line) for line in found.lines.values()] == [
        "400MiB (command line, 80% of main)", "500MiB (command line)", "600MiB (command line, 1.2 × main)"]
    assert str(resolve(1000 * MIB, Wanted()).critical) == "900MiB (cgroup limit, 90% of the cgroup limit)"


@pytest.mark.parametrize(("limit", "wanted", "said"), [
    (1000 * MIB, Wanted(main=mib(900)), ["critical 1080MiB (file, 1.2 × main) is not below the cgroup limit of"]),
    (GIB, Wanted(main=mib(2000, "environment")), ["preventive 1600MiB", "main 2000MiB (env", "critical 2400MiB"]),
    (None, Wanted(main=mib(500), critical=Share(0.9, "file")), ["critical is a share of the cgroup limit"]),
    (None, Wanted(), ["1000MiB and 1200MiB are shown and alerted on, but nothing is done"]),
    (GIB, Wanted(), []),
    (GIB, Wanted(main=mib(500)), []),
])
def test_warnings(limit: int | None, wanted: Wanted, said: list[str]) -> None:
    """A line that the kernel would forestall, a share of nothing, an unarmed target are said; nothing else is."""
    found = resolve(limit, wanted).warnings
    assert len(found) == len(said)
    for warning, words in zip(found, said, strict=True):
        assert words in warning


@pytest.mark.parametrize(("limit", "wanted"), [
    (None, Wanted(main=mib(1200), critical=mib(1000))),
    (None, Wanted(main=mib(1200), critical=mib(1200))),
    (None, Wanted(preventive=mib(600), main=mib(500))),
    (1000 * MIB, Wanted(preventive=mib(850))),
    (1000 * MIB, Wanted(main=mib(900), critical=Share(0.85, "file"))),
])
def test_disorder_is_refused(limit: int | None, wanted: Wanted) -> None:
    """Unless preventive < main < critical there are no thresholds, and the error names the two lines."""
    with pytest.raises(SidecarError, match=r"(preventive|main) .* is not below (main|critical) ") as caught:
        resolve(limit, wanted)
    assert "preventive < main < critical" in caught.value.help


WISHES = st.none() | st.builds(Size, st.integers(MIB, 64 * GIB), st.just("file")) | st.builds(
    Share, st.floats(0.01, 0.99), st.just("file"))


@given(st.none() | st.integers(16 * MIB, 1 << 44), WISHES, WISHES, WISHES)
@example(None, mib(900), Share(0.8, "file"), mib(1000))
def test_lines_are_always_in_order(
    limit: int | None, preventive: Size | Share | None, main: Size | Share | None, critical: Size | Share | None
) -> None:
    """Whatever is asked for: lines in order or an error; and a contradiction holds under this limit too."""
    wanted = Wanted(preventive, main, critical)
    try:
        found = resolve(limit, wanted)
    except SidecarError:
        return
    sizes = [line.size_bytes for line in found.lines.values()]
    assert sizes == sorted(set(sizes))
    if limit is not None:
        assert contradiction(wanted) == ""


def test_series() -> None:
    """The three lines and the limit are series of the target; without a limit there is no series of one."""
    base = Labels({"target": "rag", "job": "j", "instance": "i"})
    limit = 1000 * MIB
    found = samples(base, resolve(limit, Wanted()), limit, 5.0)
    series = {(sample.labels.metric, sample.labels.get("level")): sample for sample in found}
    assert {key: sample.value / MIB for key, sample in series.items()} == {
        ("rag_memory_threshold_bytes", "preventive"): 640, ("rag_memory_threshold_bytes", "main"): 800,
        ("rag_memory_threshold_bytes", "critical"): 900, ("rag_memory_limit_bytes", None): 1000}
    assert all(sample.at == 5.0 and sample.labels["target"] == "rag" for sample in series.values())
    assert {name for name, _ in series} == {metric.name for metric in METRICS}
    assert [sample.labels["level"] for sample in samples(base, resolve(None, Wanted()), None, 5.0)] == list(LEVELS)
