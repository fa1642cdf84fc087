"""Its garbage collector, read from outside: tried with the probe itself."""

from collections.abc import Iterator

from sidecar.doctor.facts import Fact
from sidecar.doctor.patient import Patient
from sidecar.doctor.refusals import refused

GROUP = "reading"


def facts(patient: Patient) -> Iterator[Fact]:
    """gc, and which Python it is."""
    try:
        open(f"{patient.folder}/mem", "rb", buffering=0).close()
    except OSError as error:
        yield refused(patient, GROUP, "gc", "mem", error)
        return
    yield Fact(GROUP, "gc", "ok", "memory can be read")
