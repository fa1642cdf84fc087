"""Its garbage collector, read from outside: tried with the probe itself. Which Python it is, and who may `attach`."""

import os
from collections.abc import Iterator
from contextlib import closing

from sidecar.doctor.facts import UNREADABLE, Fact, told
from sidecar.doctor.patient import Patient
from sidecar.doctor.refusals import refused, unwritable
from sidecar.model import Labels
from sidecar.probes.gc_attach import PythonInfo, Unsupported
from sidecar.probes.gc_remote import GcProbe
from sidecar.probes.series import SeriesOf

GROUP = "reading"
TAKES_IN_CODE = (3, 14)
"""The first Python that takes in code while it runs (PEP 768)."""


def facts(patient: Patient) -> Iterator[Fact]:
    """gc; python and attach where it is known. What is no CPython lacks nothing: it has no such collector."""
    try:
        with closing(GcProbe(patient.pid, SeriesOf(Labels()), patient.roots.proc)) as probe:
            probe.read(0.0)
            info = probe.info
    except Unsupported as error:
        yield Fact(GROUP, "gc", "info", str(error))
    except BlockingIOError as error:
        yield Fact(GROUP, "gc", "info", told(error))
    except OSError as error:
        yield refused(patient, GROUP, "gc", "mem", error)
    except UNREADABLE as error:
        yield Fact(GROUP, "gc", "missing", told(error))
    else:
        yield Fact(GROUP, "gc", "ok", "collections, objects and thresholds of each generation")
        yield _python(info)
        if tuple(map(int, info.version.split(".")[:2])) >= TAKES_IN_CODE:
            yield attach(patient)


def attach(patient: Patient) -> Fact:
    """Whether `rag-sidecar attach` might write into its memory, which is opened for that and not written to.

    Nothing is missing where it may not: watching and cleaning do without.
    """
    try:
        os.close(os.open(f"{patient.folder}/mem", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return unwritable(patient, GROUP, "attach", error)
    return Fact(GROUP, "attach", "ok", "`rag-sidecar attach` may put the agent into it while it runs")


def _python(info: PythonInfo) -> Fact:
    what = f"{info.implementation} {info.version}, {info.collector.replace('_', '-')} collector"
    if info.collector == "incremental":  # gh-148726: given up again in 3.14.5
        return Fact("memory", "python", "warning", what, "the incremental collector of CPython 3.14.0 to 3.14.4 lets "
                    "garbage lie longer: memory grows higher", "update to CPython 3.14.5 or later")
    if info.collector == "free_threaded":
        return Fact("memory", "python", "warning", what, "the free-threaded build collects later, and uses more memory")
    return Fact("memory", "python", "info", what)
