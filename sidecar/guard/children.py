"""Starting children and learning of their end. Works as pid 1 of a container too: orphans are reaped."""

import os
import signal
import sys

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these at its start, and what is ignored stays so through exec: a user's program wants the default."""


def program(module: str) -> list[str]:
    """The command line that runs one of our modules with this interpreter; -P: not from the working directory."""
    return [sys.executable, "-P", "-m", module]


def spawn(command: list[str], keep_fd: int) -> int:
    """Start one of our own processes with one descriptor handed on; Ctrl-C is left to the guard. Gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.set_inheritable(keep_fd, True)
        os.execv(command[0], command)  # noqa: S606
    finally:  # only reached if exec failed
        os._exit(127)


def spawn_user_program(command: list[str]) -> int:
    """Start the program that is to be guarded, as a shell would: own process group, the terminal, default signals."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        give_terminal_to(os.getpgrp())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, *IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"rag-sidecar: cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)
    finally:
        os._exit(127)


def give_terminal_to(group: int) -> None:
    """Make a process group the terminal's foreground group, so that Ctrl-C reaches it and nobody else."""
    try:
        if not os.isatty(0) or os.tcgetpgrp(0) == group:
            return
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background group is stopped for asking otherwise
        os.tcsetpgrp(0, group)
        signal.signal(signal.SIGTTOU, before)
    except OSError:
        return  # no controlling terminal: nothing to give


def reap() -> list[tuple[int, int]]:
    """(pid, exit code) of every child that has ended, orphans included; a signal n is 128 + n, as in a shell."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended.append((pid, code if code >= 0 else 128 - code))
