"""Its garbage collector, read from outside: tried with the probe itself. And which Python it is."""

from collections.abc import Iterator
from contextlib import closing

from sidecar.doctor.facts import UNREADABLE, Fact, told
from sidecar.doctor.patient import Patient
from sidecar.doctor.refusals import refused
from sidecar.model import Labels
from sidecar.probes.gc_attach import PythonInfo, Unsupported
from sidecar.probes.gc_remote import GcProbe
from sidecar.probes.series import SeriesOf

GROUP = "reading"


def facts(patient: Patient) -> Iterator[Fact]:
    """gc, and python where it is known. What is no CPython lacks nothing: it has no such collector."""
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


def _python(info: PythonInfo) -> Fact:
    what = f"{info.implementation} {info.version}, {info.collector.replace('_', '-')} collector"
    if info.collector == "incremental":  # gh-148726: given up again in 3.14.5
        return Fact("memory", "python", "warning", what, "the incremental collector of CPython 3.14.0 to 3.14.4 lets "
                    "garbage lie longer: memory grows higher", "update to CPython 3.14.5 or later")
    if info.collector == "free_threaded":
        return Fact("memory", "python", "warning", what, "the free-threaded build collects later, and uses more memory")
    return Fact("memory", "python", "info", what)
