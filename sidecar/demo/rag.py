"""A small but genuine RAG service that leaks as real ones do: the patient of the demo.

Standard library only, and nothing of the sidecar outside this folder, so that the folder also runs by itself:
`python -m sidecar.demo.rag --port 8000 --growth 10MiB`.

SIGUSR1 asks for a standard cleanup, SIGUSR2 for an aggressive one, SIGTERM and SIGINT for the end.
"""

import argparse
import logging
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from sidecar.demo.assistant import Assistant, Reply
from sidecar.demo.cleanup import MIB, Cleaner
from sidecar.demo.corpus import documents, topics
from sidecar.demo.load import Load, questions
from sidecar.demo.server import RagServer

log = logging.getLogger("rag")

_CLEANUPS = {signal.SIGUSR1: "standard", signal.SIGUSR2: "aggressive"}
_ENDS = (signal.SIGTERM, signal.SIGINT)


class SignalPipe:
    """Signals as values to wait for. The handler only notes the number and writes one byte to a pipe.

    It runs between two bytecodes of whatever the main thread does: a handler that took a lock or logged could
    interrupt the very code that holds that lock, and stop the process for ever. Lives as long as the process.
    """

    def __init__(self, wanted: Sequence[signal.Signals]) -> None:
        self._noted: set[int] = set()
        self._pipe, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        for each in wanted:
            signal.signal(each, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.add(number)
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:  # the pipe is full: whoever reads it is awake already
            return

    def wait(self) -> Iterator[signal.Signals]:
        """Each signal, as it arrives. The same one twice before it was looked at counts once, as in the kernel."""
        while True:
            os.read(self._pipe, 4096)
            while self._noted:
                yield signal.Signals(self._noted.pop())


def size(text: str) -> int:
    """Bytes from a size with a unit: 600MiB, 1.5GiB. MB is 1024² too, as in the rest of the demo."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG])i?B", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it with a unit, such as 600MiB")
    return int(float(match[1]) * 1024 ** ("KMG".index(match[2]) + 1))


def rate(text: str) -> float:
    """Bytes per second from a size above zero, with or without /s."""
    if bytes_per_second := size(text.removesuffix("/s")):
        return float(bytes_per_second)
    raise argparse.ArgumentTypeError("the growth must be above zero")


def frequency(text: str) -> float:
    """Questions per second: a number above zero."""
    try:
        if 0 < float(text) < float("inf"):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number of questions per second")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, parsed. Exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.rag", description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides documents and questions (default: %(default)s)")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--load", type=frequency, metavar="QPS", help="ask so many questions per second (default: none)")
    load.add_argument("--growth", type=rate, metavar="SIZE", help="ask until this much is kept per second: 10MiB")
    parser.add_argument("--max-rss", type=size, default=1024 * MIB, metavar="SIZE",
                        help="the load rests while the process is larger (default: 1GiB)")
    parser.add_argument("--no-signal", action="store_true", help="no handlers of SIGUSR1 and SIGUSR2: they kill")
    return parser.parse_args(argv)


def clean_until_end(signals: SignalPipe, cleaner: Cleaner, server: RagServer) -> None:
    """Carry out what signals ask for; at SIGTERM or SIGINT stop the server and return."""
    for each in signals.wait():
        if each in _ENDS:
            server.shutdown()
            return
        log.info("%s", cleaner.clean(_CLEANUPS[each], each.name, wait=True))


def pauses(options: argparse.Namespace) -> Callable[[Reply], float] | None:
    """How long the load waits after a reply, in seconds; None if no load is wanted."""
    if options.growth:
        return lambda reply: reply.kept_bytes / options.growth
    return (lambda reply: 1 / options.load) if options.load else None


def main(argv: Sequence[str] | None = None, prepare: Callable[[Assistant], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. `prepare` sees the assistant before the first question."""
    options = arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    signals = SignalPipe([*_ENDS, *([] if options.no_signal else _CLEANUPS)])
    assistant = Assistant(documents(options.seed))
    try:
        cleaner = Cleaner(assistant)
        server = RagServer((options.host, options.port), assistant, cleaner, options.max_rss)
    except (OSError, OverflowError) as error:
        print(f"cannot serve on {options.host}:{options.port}: {error}", file=sys.stderr)
        print("Is the port taken? Try --port 0. Is there no /proc? The demo needs Linux.", file=sys.stderr)
        return 1
    if prepare:
        prepare(assistant)
    worker = threading.Thread(target=clean_until_end, args=(signals, cleaner, server), name="signals")
    worker.start()
    pause = pauses(options)
    load = Load(assistant, questions(topics(), random.Random(options.seed)), pause, options.max_rss) if pause else None
    if load:
        load.start()
    print(f"ready http://{options.host}:{server.server_port} pid {os.getpid()}", flush=True)
    server.serve_forever(poll_interval=0.1)
    if load:
        load.stop()
    worker.join()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
