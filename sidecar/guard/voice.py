"""What the guard says to people by itself: one line on standard error where no desk can say it."""

import os
import select

STDERR = 2


def say(sentence: str) -> None:
    """Write the line if there is room for it now, else drop it: the guard waits for no terminal and no pipe."""
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    if any(happened & select.POLLOUT for _, happened in poll.poll(0)):
        try:
            os.write(STDERR, f"rag-sidecar: {sentence}\n".encode(errors="replace"))
        except OSError:
            return  # nobody reads there any more


def keep_standard_files_open() -> None:
    """Give /dev/null to those of stdin, stdout and stderr that are closed, and so keep our own files from their places.

    Otherwise the first files that are opened would get these numbers, and what is printed would go there.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
