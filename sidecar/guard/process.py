"""A hold on one life of one process: a pidfd to signal through and its /proc directory to look through."""

import os
import select

from sidecar.guard.signals import signal
from sidecar.procfs import ENDED, Identity, KeptFile, boot_id, exe_of, start_time_ticks, status_mask


class NotTheSame(Exception):
    """The process is not, or no longer, the one that was meant. The message is a constant word."""


class Process:
    """Holds a target from attach to detach. Lives as long as the guard watches this identity.

    The pidfd and the directory are opened first and compared afterwards, so both belong to the same life of the
    same process: a pid that is given to another process cannot be signalled through them (pidfd_open(2)).
    Raises NotTheSame("gone" | "changed"), and OSError where it cannot be held: no descriptors are left, or there are
    no pidfds (an old kernel, a seccomp filter), without which no signal is safe.
    """

    def __init__(self, identity: Identity, proc: str = "/proc") -> None:
        self.identity = identity
        try:
            self.pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            raise NotTheSame("gone") from None
        self.dir_fd = -1
        try:
            self.dir_fd = os.open(f"{proc}/{identity.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.stat = KeptFile("stat", dir_fd=self.dir_fd, size=1024)
            self.status = KeptFile("status", dir_fd=self.dir_fd, size=4096)
            if boot_id(proc) not in ("", identity.boot_id):
                raise NotTheSame("changed")
            self.check()
        except ENDED:
            self.close()
            raise NotTheSame("gone") from None
        except (OSError, NotTheSame):
            self.close()
            raise

    def check(self) -> None:
        """Raise NotTheSame unless this is still the process that was meant, running the same program.

        Raises OSError where that cannot be read now.
        """
        if self.ended():
            raise NotTheSame("gone")
        try:
            started = start_time_ticks(self.stat.read())
            exe = exe_of(".", self.dir_fd)
        except (*ENDED, ValueError):
            raise NotTheSame("gone") from None
        if started != self.identity.start_time_ticks or (self.identity.exe and exe and exe != self.identity.exe):
            raise NotTheSame("changed")

    def ended(self) -> bool:
        """Whether the process has ended: its pidfd is readable then."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def disposition(self, number: int) -> str:
        """`caught`, `ignored` or `default`: what the process has chosen for this signal, from its status file."""
        status, bit = self.status.read(), 1 << (number - 1)
        if status_mask(status, b"SigCgt") & bit:
            return "caught"
        return "ignored" if status_mask(status, b"SigIgn") & bit else "default"

    def pending(self, number: int) -> bool:
        """Whether the signal has been sent and not yet been taken."""
        status, bit = self.status.read(), 1 << (number - 1)
        return bool((status_mask(status, b"ShdPnd") | status_mask(status, b"SigPnd")) & bit)

    def signal(self, number: int) -> None:
        """Send it. Raises ProcessLookupError (ended), PermissionError (another user's)."""
        signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Let go of the process."""
        for kept in (getattr(self, "stat", None), getattr(self, "status", None)):
            if kept:
                kept.close()
        for fd in (self.dir_fd, self.pidfd):
            if fd >= 0:
                os.close(fd)


class Remote:
    """A target known by an URL alone: there is no process here to hold, to look at or to signal."""

    identity = None
    pidfd = -1

    def check(self) -> None:
        """Nobody can take its place."""

    def ended(self) -> bool:
        """Whether it still answers is the desk's to find out."""
        return False

    def close(self) -> None:
        """There is nothing to let go of."""
