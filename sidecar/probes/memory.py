"""The memory of another process, read through /proc/PID/mem: it is neither stopped nor traced."""

import errno
import os


class Memory:
    """One program of one process: the file belongs to what runs now, so an exec ends it as an exit does.

    Raises OSError when it cannot be opened (EACCES, EPERM: not permitted; ENOENT, ESRCH: gone). Who may: proc(5),
    "Ptrace access mode checking", PTRACE_MODE_ATTACH_FSCREDS.
    """

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        self._path = f"{proc}/{pid}/mem"
        self._fd = -1
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        self.close()

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises ValueError where they are not mapped, ProcessLookupError after the end."""
        if not 0 < address < 1 << 63:
            raise ValueError(f"{address:#x} is no address")
        try:
            content = os.pread(self._fd, size, address)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EFAULT):
                raise
            raise ValueError(f"nothing is mapped at {address:#x}") from None
        if len(content) == size:
            return content
        if content:
            raise ValueError(f"less than {size} bytes are mapped at {address:#x}")
        raise ProcessLookupError(errno.ESRCH, "the program has ended", self._path)

    def close(self) -> None:
        """Give the descriptor back; harmless when called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
