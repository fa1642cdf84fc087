"""Whether signals may be sent to the target, and what each would mean to it. None is sent.

What servers use signals for: gunicorn's page on signals, Celery's workers guide, uvicorn's supervisors, uWSGI's
management page.
"""

import os
import signal
from collections.abc import Collection, Iterator
from signal import Signals

from sidecar.doctor.facts import Fact, told
from sidecar.doctor.patient import Patient

GROUP = "signals"
SHOWN = (Signals.SIGUSR1, Signals.SIGUSR2, Signals.SIGHUP, Signals.SIGWINCH)
USES = {
    "gunicorn": {Signals.SIGUSR1: "reopens its logs", Signals.SIGUSR2: "starts a second master",
                 Signals.SIGHUP: "reloads and replaces its workers", Signals.SIGWINCH: "ends its workers",
                 Signals.SIGTTIN: "adds a worker", Signals.SIGTTOU: "takes a worker away"},
    "celery": {Signals.SIGUSR1: "logs the stacks of all threads", Signals.SIGUSR2: "opens a remote debugger",
               Signals.SIGHUP: "restarts"},
    "uvicorn": {Signals.SIGHUP: "replaces its workers", Signals.SIGTTIN: "adds a worker",
                Signals.SIGTTOU: "takes a worker away"},
    "uwsgi": {Signals.SIGHUP: "reloads", Signals.SIGUSR1: "prints statistics", Signals.SIGUSR2: "prints its workers"},
}


def facts(patient: Patient, asked: Collection[int]) -> Iterator[Fact]:
    """`asked` are the signals that the configuration names as a way to ask for a cleanup."""
    yield _pidfd(patient.pid)
    for number in dict.fromkeys([*SHOWN, *map(Signals, asked)]):
        yield _disposition(patient, number, number in asked)


def _pidfd(pid: int) -> Fact:
    """Signals go through a pidfd only. Signal 0 asks the kernel whether one might be sent and sends none: kill(2)."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        return Fact(GROUP, "sendable", "missing", f"no pidfd: {told(error)}",
                    "pidfds need Linux 5.3, and a seccomp filter that knows them",
                    "without one no signal is sent: use an endpoint for cleanups")
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        return Fact(GROUP, "sendable", "missing", told(error), "another user's process is signalled only with CAP_KILL",
                    "run the sidecar as the target's user, or give it CAP_KILL", ("same_user", "kill"))
    finally:
        os.close(pidfd)
    return Fact(GROUP, "sendable", "ok", "we may, through a pidfd")


def _disposition(patient: Patient, number: Signals, asked: bool) -> Fact:
    """What it does at this signal. A signal that ends it, or does nothing, asks for no cleanup."""
    caught, ignored, name = patient.it.caught, patient.it.ignored, number.name
    if caught is None or ignored is None:
        return Fact(GROUP, name, "missing" if asked else "info", "what it does then is not shown by this kernel",
                    do="use an endpoint for cleanups" if asked else "")
    if not caught >> (number - 1) & 1:
        what = "ignored" if ignored >> (number - 1) & 1 else "default" + (
            ": nothing happens" if number == Signals.SIGWINCH else ": would end it, so it is never sent")
        return Fact(GROUP, name, "missing" if asked else "info", what,
                    "the configuration names it for cleanups, and the target has no handler for it" if asked else "",
                    "install a handler in the target, or take the signal out of `cleanup`" if asked else "")
    use = USES.get(patient.server, {}).get(number)
    if use:
        return Fact(GROUP, name, "warning" if asked else "info", f"caught: {patient.server} {use}",
                    "it is no request for a cleanup there" if asked else "",
                    "choose another signal or an endpoint for cleanups" if asked else "")
    return Fact(GROUP, name, "ok", "caught; by what code cannot be seen from outside")
