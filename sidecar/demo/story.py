"""`rag-sidecar demo`: a RAG that leaks, the sidecar that guards it, and a narrator who tells what happens.

Nothing here is staged: the RAG is a real service whose caches have no bound, the sidecar is `rag-sidecar run` with a
configuration of a dozen lines and the shipped rules, and the narrator reads what the sidecar shows to everybody.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from sidecar import __version__
from sidecar.config import environment
from sidecar.demo.story_children import Child, Ended, Failed, ended_by_signals, free_port, ignore_endings
from sidecar.demo.story_crowd import Crowd
from sidecar.demo.story_events import CLEANUP_OF, HOLD_SECONDS, MIB, Climb, Event, events, status, summary
from sidecar.demo.story_screen import BOLD, DIM, RED, Screen
from sidecar.demo.story_state import State, look, ready

# Idle, the RAG has about 13 MiB. At 10 MiB/s it is over the main line after 11 s and its cleanup comes 10 s later, at
# about 230 MiB: well below the critical line, which is for the crowd.
GROWTH_MIB = 10
LINES_MIB: Mapping[str, int] = {"preventive": 96, "main": 120, "critical": 280}
CROWD_MIB = 50
MAX_RSS_MIB = 512
RAG = (sys.executable, "-P", "-m", "sidecar.demo.rag", "--port", "0",
       "--growth", f"{GROWTH_MIB}MiB", "--max-rss", f"{MAX_RSS_MIB}MiB")

LIMIT_SECONDS = 60.0
LOOK_SECONDS = 0.5
EPILOGUE_SECONDS = 3.0

_NOT_OURS = ("MEMORY_THRESHOLD_MB", "MEMORY_CRITICAL_THRESHOLD_MB")
"""They win over the file: the lines of somebody's own service are not those of this small one."""


def main(*, once: bool, limit_seconds: float = LIMIT_SECONDS, rag: Sequence[str] = RAG) -> int:
    """Tell the story until Ctrl-C; `once`: until the first verified effective cleanup. Returns the exit code.

    0 after Ctrl-C or that cleanup; 1 if there is none within `limit_seconds` or a child ends by itself; 128 + n after
    another signal n. `rag` is the command to guard: one that prints `ready URL …` and takes POST /cleanup under it.
    """
    env = environment()
    terminal = sys.stdout.isatty() and env.get("TERM") != "dumb"
    screen = Screen(sys.stdout, live=terminal, colour=terminal and not env.get("NO_COLOR"))
    try:
        with ended_by_signals(), ExitStack() as stack:
            stack.callback(screen.close)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="rag-sidecar-demo-", ignore_cleanup_errors=True))
            story = Story(screen, Path(folder), once, limit_seconds)
            stack.callback(story.end)
            stack.callback(ignore_endings)
            return story.perform(rag)
    except Ended as ended:
        return 0 if ended.number == signal.SIGINT else 128 + ended.number
    except BrokenPipeError:  # `… | head`: nobody listens any more, and nor may the interpreter's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def configuration(pid: int, rag: str, listen: str, storage: Path) -> str:
    """The sidecar.yml of the demo. `rag` and `listen` are host:port."""
    lines = ", ".join(f"{level}: {line_mib}MiB" for level, line_mib in LINES_MIB.items())
    return f"""\
targets:
  - name: rag
    match: {{pid: {pid}}}
    memory: {{basis: anon, {lines}}}
    cleanup:
      - http: {{url: "http://{rag}/cleanup"}}
      - signal: {{light: SIGUSR1, standard: SIGUSR1, aggressive: SIGUSR2}}
actions: {{global: {{warmup: 0s}}}}      # a real service needs its start in peace
evaluation_interval: 500ms            # so that you see more; 1s is usual
instance: demo
web: {{listen: "{listen}"}}
storage: {{path: {json.dumps(str(storage))}}}
"""


class Story:
    """One performance. Lives as long as the command; `end` it."""

    def __init__(self, screen: Screen, folder: Path, once: bool, limit_seconds: float) -> None:
        self._screen = screen
        self._folder = folder
        self._once = once
        self._limit_seconds = limit_seconds
        self._begun = time.monotonic()
        self._children: list[Child] = []
        self._sidecar = ""
        self._crowd: Crowd | None = None
        self._state: State | None = None
        self._climb = Climb()
        self._last_look = float("inf")

    def perform(self, rag: Sequence[str]) -> int:
        """Start both programs, narrate, sum up. Returns the exit code; raises Ended once it has summed up."""
        try:
            self._start(rag)
            self._play()
            self._sum_up()
        except Ended:
            self._sum_up()
            raise
        except Failed as failed:
            self._screen.close()
            self._screen.say(f"\n{failed}", style=RED)
            return 1
        return 0

    def end(self) -> None:
        """End everything that was started: the crowd, then the sidecar, then the RAG."""
        if self._crowd:
            self._crowd.end()
        for child in reversed(self._children):
            child.end()

    def _sum_up(self) -> None:
        """What was achieved, in at most three lines."""
        self._screen.close()
        if self._state:
            self._screen.say()
            for line in summary(self._state, self._climb, self._elapsed()):
                self._screen.say(line, style=BOLD)
        self._screen.say("To guard a process of your own: rag-sidecar run --pid N --memory.critical 2GiB", style=DIM)

    def _start(self, rag: Sequence[str]) -> None:
        """Start the RAG, then the sidecar; say where they are and what the lines mean."""
        self._screen.say(f"rag-sidecar {__version__} guards a small RAG that leaks. Ctrl-C ends it.", style=BOLD)
        self._screen.say()
        env = {name: value for name, value in environment().items() if name not in _NOT_OURS}
        self._children.append(child := Child("RAG", rag, self._folder / "rag.log", env))
        address = child.wait_for(lambda: child.said(r"^ready http://(\S+)"))
        self._crowd = None if self._once else Crowd(address, CROWD_MIB * MIB)
        self._sidecar = f"127.0.0.1:{free_port()}"
        config = self._folder / "sidecar.yml"
        config.write_text(configuration(child.pid, address, self._sidecar, self._folder / "state"))
        command = [sys.executable, "-P", "-m", "sidecar", "run", "--config.file", str(config), "--log.format", "logfmt"]
        self._children.append(child := Child("sidecar", command, self._folder / "sidecar.log", env))
        child.wait_for(lambda: ready(self._sidecar))
        self._introduce(f"http://{address}", f"http://{self._sidecar}")

    def _introduce(self, rag: str, sidecar: str) -> None:
        for name, place, what in (
            ("RAG", f"{rag}/memory", "answers, and keeps too much"),
            ("sidecar", f"{sidecar}/", "watches, judges, acts"),
            ("", f"{sidecar}/metrics", "the same, for Prometheus"),
            ("files", f"{self._folder}/", "sidecar.yml and the logs"),
        ):
            self._screen.say(f"  {name:9}{place:39}{what}")
        self._screen.say()
        for level, line_mib in LINES_MIB.items():
            hold = f"for {HOLD_SECONDS[level]:.0f} s" if HOLD_SECONDS[level] else "even once"
            line = f"{level[0].upper()}  {level:11} over {line_mib:3.0f} MiB {hold}"
            self._screen.say(f"  {line:39}-> {CLEANUP_OF[level]} cleanup")
        self._screen.say()

    def _play(self) -> None:
        """Look and tell, until `once` is done. Raises Failed when a child has ended or the limit is over."""
        due = time.monotonic()
        while not (self._once and self._is_told(time.monotonic())):
            for child in self._children:
                child.check()
            now = time.monotonic()
            if state := look(self._sidecar):
                self._narrate(state, now)
            if self._once and now > self._begun + self._limit_seconds:
                logs = (f"The {child.name}: {child.last_words()}" for child in self._children)
                raise Failed("\n".join((f"No cleanup was effective within {self._limit_seconds:g} s.", *logs)))
            due = max(due + LOOK_SECONDS, now)
            time.sleep(max(0.0, due - time.monotonic()))

    def _narrate(self, state: State, now: float) -> None:
        """Tell what is new; then the crowd may come or go."""
        self._climb.note(state, now)
        for event in events(self._state, state):
            self._screen.tell(event, self._elapsed())
        self._state = state
        if state.used_bytes is not None and state.lines:
            self._screen.show(state.used_bytes, state.lines, status(state, time.time()), self._elapsed())
        newest = state.newest
        if self._crowd and newest and self._crowd.attend(newest, now):
            self._screen.tell(Event("crowd", "a crowd", f"Visitors add {CROWD_MIB} MiB/s: too fast to wait for 10 s."),
                              self._elapsed())

    def _is_told(self, now: float) -> bool:
        """Whether a cleanup has been effective and its alert is over too, which comes with the next tick or two."""
        if not self._state or all(attempt.outcome != "effective" for attempt in self._state.attempts.values()):
            return False
        self._last_look = min(self._last_look, now + EPILOGUE_SECONDS)
        return now >= self._last_look or not any(
            alert.firing and not alert.kept for alert in self._state.alerts.values())

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun
