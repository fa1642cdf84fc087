"""Starting children and learning of their end. Works as pid 1 of a container too: orphans are reaped."""

import _socket
import os
import resource
import sys
from collections.abc import Mapping, Sequence

from sidecar.guard.endure import as_before
from sidecar.guard.signals import signal
from sidecar.guard.wire import pair

ENDING: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGHUP: "SIGHUP"}
IGNORED_BEFORE = tuple(number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN)
"""Those of them that were ignored when we were started: by nohup, or as a script's background job."""
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these at its start, and what is ignored stays so through exec: a user's program wants the default."""

MOST_FILES = 65536
FILES_BEFORE = resource.getrlimit(resource.RLIMIT_NOFILE)
"""The limit on open files that we were started with."""

MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_TOP_PAD_": "16384"}
"""Has glibc's malloc take one arena for all threads, and keep less of what is free: 0.4 MiB of the desk's memory."""


def allow_many_files() -> None:
    """Raise the soft limit on open files, usually 1024: a target takes eight of ours, eight of the desk's.

    A user's program gets back what was there before: one that uses select(2) fails beyond 1024.
    """
    soft, hard = FILES_BEFORE
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def program(module: str) -> list[str]:
    """The command line that runs one of our modules with this interpreter; -P: not from the working directory.

    Without the columns of each instruction, which only draw marks below lines of tracebacks, 0.3 MiB less are taken.
    """
    return [sys.executable, "-P", "-Xno_debug_ranges", "-m", module]


def spawn(
    command: Sequence[str], arguments: Sequence[str] = (), *, thrifty: bool = False
) -> tuple[int, _socket.socket]:
    """Start one of our own processes: `command`, the number of its end of a line to us, `arguments`.

    Gives its pid and our end of the line. A `thrifty` one has MALLOC in its environment.

    It ends when the guard hangs up: what is meant for the guard (Ctrl-C, a service manager's SIGTERM to all) must not
    end it before, while it still has alerts to send. Raises OSError where descriptors, processes or memory are short.
    """
    ours, theirs = pair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid:
        theirs.close()
        return pid, ours
    try:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        as_before()
        os.set_inheritable(theirs.fileno(), True)
        environment = {**MALLOC, **os.environ} if thrifty else os.environ
        os.execve(command[0], [*command, str(theirs.fileno()), *arguments], environment)  # noqa: S606
    finally:  # only reached if exec failed
        os._exit(127)


def spawn_user_program(command: list[str], agent: bool) -> int:
    """Start the program that is to be guarded, as a shell would: own process group, the terminal, default signals.

    What was ignored when we were started (nohup, a script's background job) stays so. With `agent` every Python in it
    and below it starts the agent. Raises OSError for want of room.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        give_terminal_to(os.getpgrp())
        resource.setrlimit(resource.RLIMIT_NOFILE, FILES_BEFORE)
        as_before()
        handled = (number for number in ENDING if number not in IGNORED_BEFORE)
        for number in (*handled, signal.SIGCHLD, *IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, with_agent(os.environ) if agent else os.environ)  # noqa: S606
    except OSError as error:
        os.write(2, f"rag-sidecar: cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)
    finally:
        os._exit(127)


def with_agent(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which each Python finds our sitecustomize first, and behind it what it found before."""
    startup = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "attach", "startup")
    before = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": f"{startup}{os.pathsep}{before}" if before else startup}


def has_terminal() -> bool:
    """Whether there is a terminal that we belong to. When it has been closed there is none any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


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


def how_it_ended(code: int) -> str:
    """An exit code as `reap` gives it, in words."""
    return f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
