"""A program that the courier starts as an errand: no shell, a session of its own, one deadline for all of it."""

import errno
import os
import pwd
import select
import signal
import socket
import subprocess
from typing import Any

from sidecar.clock import monotonic
from sidecar.guard.errand import Errand

KEPT_BYTES = 65536
MOST_TOLD = 300
GRACE_SECONDS = 2.0
"""From SIGTERM to SIGKILL."""
PULSE_SECONDS = 0.25
NO_PROGRAM = {errno.ENOENT: "not_found", errno.ENOTDIR: "not_found", errno.ELOOP: "not_found",
              errno.EACCES: "permission", errno.EPERM: "permission", errno.ENOEXEC: "not_executable"}


class Command(Errand):
    """One run of a program. Its exit code is the answer: 0 is yes. What it leaves running then is its own matter."""

    lingers = True

    def __init__(self, message: dict[str, Any], out: socket.socket) -> None:
        super().__init__(message, out)
        self._argv = [str(word) for word in message["argv"]]
        self._environment = {"HOME": _home(), **{str(k): str(v) for k, v in message["environment"].items()}}
        self._output = bytearray()

    def run(self) -> None:
        """Start it and wait for its end, which comes soon after the deadline at the latest."""
        try:
            process = subprocess.Popen(
                self._argv, env=self._environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            refused, message = NO_PROGRAM.get(error.errno or 0), f"{self._argv[0]}: {error.strerror}"
            self.report(**({"refused": refused} if refused else {"error": type(error).__name__}), message=message)
            return
        self.send(sent=True)
        code = self._wait(process)
        self.report(exit_code=code if code >= 0 else 128 - code, message=self._told_last())

    def expire(self) -> None:
        """Its thread sees the deadline, too, and ends the program."""
        self.report(error="timeout", message=self._told_last())

    def _told_last(self) -> str:
        return bytes(self._output[-4 * MOST_TOLD:]).decode(errors="replace")[-MOST_TOLD:]

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Its exit code. Past the deadline its whole session is asked to end, then made to."""
        assert process.stdout
        out, pidfd, poll = process.stdout.fileno(), os.pidfd_open(process.pid), select.poll()
        os.set_blocking(out, False)
        poll.register(out, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        asked_at = 0.0
        try:
            while all(fd != pidfd for fd, _ in poll.poll(PULSE_SECONDS * 1000)):
                if not self._read(out):
                    poll.unregister(out)
                if not asked_at and monotonic() >= self.deadline:
                    asked_at = monotonic()
                    self.expire()
                    _signal(process, signal.SIGTERM)
                elif asked_at and monotonic() >= asked_at + GRACE_SECONDS:
                    _signal(process, signal.SIGKILL)
            if asked_at:
                _signal(process, signal.SIGKILL)  # of whom it has left; until it is reaped the number is its own
            self._read(out)
            return process.wait()
        finally:
            os.close(pidfd)
            process.stdout.close()

    def _read(self, out: int) -> bool:
        """Take what it has said, of which the last is kept. False if nothing more can come."""
        try:
            data = os.read(out, KEPT_BYTES)
        except BlockingIOError:
            return True
        self._output += data
        del self._output[:-KEPT_BYTES]
        return bool(data)


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a user without a name, as containers have them
        return "/"


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except OSError:
        return  # ended, or another user's by now
