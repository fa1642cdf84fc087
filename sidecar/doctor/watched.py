"""The memory lines of a process that a running sidecar watches are those of this sidecar."""

from collections.abc import Mapping
from typing import Any

from sidecar.doctor.examination import Examination
from sidecar.doctor.facts import Fact, printable
from sidecar.thresholds import mib

UNCONFIGURED = "of a sidecar without configuration"


def in_force(found: Examination, row: Mapping[str, Any], sidecar: str) -> Examination:
    """With the lines of a row of /api/v1/thresholds, as the `sidecar` of this name tells it."""
    try:
        return _with(found, _told(row, printable(sidecar)))
    except (KeyError, TypeError, ValueError) as error:
        return _with(found, Fact("memory", "lines", "info", f"the sidecar at {printable(sidecar)} watches it",
                                 f"what it tells of them is odd: {printable(repr(error))}"))


def _told(row: Mapping[str, Any], sidecar: str) -> Fact:
    if row["lines"] is None:
        return Fact("memory", "lines", "info", f"not known yet to the sidecar at {sidecar}, which watches it")
    main, critical = row["lines"]["main"], row["lines"]["critical"]
    sources = ", ".join(dict.fromkeys(printable(str(line["source"])) for line in (main, critical)))
    what = (f"main {mib(int(main['bytes']))}, critical {mib(int(critical['bytes']))} ({sources}), basis "
            f"{printable(str(row['basis']))}: in force at the sidecar at {sidecar}")
    why = "; ".join(printable(str(warning)) for warning in row["warnings"])
    return Fact("memory", "lines", "warning" if why else "ok", what, why)


def would_be(found: Examination) -> Examination:
    """No sidecar is known to watch it: that its lines are nobody's is said."""
    lines = next((fact for fact in found.facts if fact.name == "lines"), None)
    return _with(found, lines._replace(what=f"{lines.what}: {UNCONFIGURED}")) if lines else found


def _with(found: Examination, lines: Fact) -> Examination:
    return found._replace(facts=tuple(lines if fact.name == "lines" else fact for fact in found.facts))
