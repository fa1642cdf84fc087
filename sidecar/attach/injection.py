"""The agent into a process that runs already, one step after the other. Whatever happens, nothing is left behind."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from sidecar.attach.debugger import Debugger, Refused
from sidecar.attach.payload import placed
from sidecar.errors import ProbeFailed
from sidecar.guard.process import NotTheSame, Process
from sidecar.probes.agent_socket import dial
from sidecar.procfs import KeptFile, identify, status_field

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 0.3
"""A busy interpreter looks by itself within this: its threads take turns every few milliseconds."""

INSTEAD = ("`rag-sidecar run -- COMMAND` starts a program with the agent inside;\n  "
           "`rag-sidecar export agent DIR` writes the file to import")
"""What to do where nothing else helps."""


class Clock(NamedTuple):
    """A clock that never jumps, and a way to wait, both in seconds."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


class Patient:
    """One life of one process. Lives until closed. Raises Refused if there is no such process."""

    def __init__(self, pid: int) -> None:
        try:
            self._process = Process(identify(pid))
            status = KeptFile(f"/proc/{pid}/status").read()
            numbers = status.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
            self.thread = int(numbers[-1]) if numbers else status_field(status, b"Pid")
            self.uid = int(status.partition(b"\nUid:")[2].split(None, 2)[1])
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read(4096).rstrip(b"\0").split(b"\0")
            self.check()
        except (NotTheSame, FileNotFoundError, ProcessLookupError):
            raise Refused(f"there is no process {pid}", help="`ps -e` shows those there are") from None
        self.pid = pid
        self.command = b" ".join(words).decode("utf-8", "replace") or "(a kernel thread)"

    def check(self) -> None:
        """Raise ProcessLookupError unless it still lives and runs the same program."""
        try:
            self._process.check()
        except NotTheSame as error:
            raise ProcessLookupError(str(error)) from None

    def has_agent(self) -> bool:
        """Whether an agent answers in it. OSError as the kernel does."""
        try:
            dial(self.pid, self.check).close()
        except ProbeFailed:
            return False
        return True

    def waits_in(self) -> str:
        """The kernel's name for what its main thread waits in, "" where that is not told."""
        try:
            with open(f"/proc/{self.pid}/wchan") as file:
                found = file.read(64)
        except OSError:
            return ""
        return "" if found == "0" else found

    def close(self) -> None:
        """Let go of it."""
        self._process.close()


def inject(patient: Patient, seconds: float, clock: Clock, say: Callable[[str], None],
           poke: Callable[[], None]) -> None:
    """Have the process start the agent, and wait until that answers. `poke` is called again and again meanwhile.

    Raises Refused with the reason, in the end without anything changed in it, and OSError as the kernel does.
    """
    try:
        debugger = Debugger(patient.pid, patient.thread)
        try:
            patient.check()  # the number was still its own when the memory was opened
            with placed(patient.pid) as script:
                say(f"CPython {debugger.places.version}; {script} is to be run by its main thread")
                _ask(patient, debugger, script, clock.now() + seconds, clock, poke)
                say("its main thread has taken it; the agent starts")
                _await_agent(patient, clock.now() + seconds, clock)
        finally:
            debugger.close()
    except ProcessLookupError:
        raise Refused(f"process {patient.pid} has ended") from None
    except BlockingIOError:
        raise Refused("its interpreter has only just started", help="try again in a moment") from None


def _ask(patient: Patient, debugger: Debugger, script: str, until: float, clock: Clock,
         poke: Callable[[], None]) -> None:
    """Arm the request and wait until it is taken; take it back when nobody does."""
    begun, hurried = clock.now(), False
    try:
        debugger.arm(script)
        while not debugger.taken() and clock.now() < until:
            patient.check()
            if not hurried and clock.now() > begun + PATIENCE_SECONDS:
                debugger.hurry()
                hurried = True
            poke()
            clock.sleep(LOOK_SECONDS)
        if not debugger.disarm():
            return
    finally:  # whatever has come between: nobody may find a request whose file is gone
        with suppress(OSError):
            debugger.disarm()
    raise Refused(_never_looked(patient, until - begun), help=(
        "send it something that its main thread has to answer, and try again; --poke URL does that meanwhile, "
        "--timeout SECONDS waits longer"))


def _never_looked(patient: Patient, seconds: float) -> str:
    """The main thread runs no Python: it waits in the kernel, or computes in C."""
    where = patient.waits_in()
    doing = f"waits in the kernel ({where})" if where else "computes in C, or holds no turn"
    return (f"the main thread of process {patient.pid} has run no Python for {seconds:.0f} s: it {doing}. The request "
            "has been taken back")


def _await_agent(patient: Patient, until: float, clock: Clock) -> None:
    while not patient.has_agent():
        patient.check()
        if clock.now() > until:
            raise Refused("the agent was started and does not answer: it found no place for its socket, or it failed",
                          help="the program's own standard error says why; docs/agent.md names the places")
        clock.sleep(LOOK_SECONDS)


def owner(patient: Patient) -> str:
    """The name of the user whose process it is, or the number."""
    import pwd

    try:
        return pwd.getpwuid(patient.uid).pw_name
    except KeyError:
        return str(patient.uid)


def may_be_refused(error: OSError, patient: Patient) -> Refused:
    """Permission to write into its memory is missing."""
    return Refused(f"process {patient.pid} of user {owner(patient)} may not be written to: {error.strerror}",
                   help=f"`rag-sidecar doctor --pid {patient.pid}` says what is missing; its own user with all the "
                        "capabilities that it has, or root with CAP_SYS_PTRACE and CAP_DAC_OVERRIDE, may")


