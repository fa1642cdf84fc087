"""The only module that reads the clock. Everything else gets `now` as an argument."""

import time


def wall() -> float:
    """Unix time in seconds: for timestamps that people and other programs see."""
    return time.time()


def monotonic() -> float:
    """Seconds that never jump: for waiting and for measuring how long something took."""
    return time.monotonic()


def busy() -> float:
    """Seconds of processor time that this thread has had: what others do to a machine does not count."""
    return time.thread_time()


def sleep(seconds: float) -> None:
    """Wait, where there is nothing else to do meanwhile: in a command, never in the guard or the desk."""
    time.sleep(seconds)


def since_boot() -> float:
    """Seconds since the machine was booted, sleep included: the clock of process start times (proc(5), field 22)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
