"""The agent, in real processes: what it tells, how it cleans, and that it does no harm to its host."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pythons
import servers
from agent_apps import App, Client, launching
from servers import wait_until

from sidecar import __version__, agent

MIB = 1024 * 1024
OLDEST = (3, 8)
HOLES = "cache = {n: (bytearray(24000), keep.append(bytes(900))) for n in range(N)}"
"""Dropped blocks between kept ones: the heap's top cannot shrink, so free memory stays until it is released."""
ALLOCATORS = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4", "mimalloc": "libmimalloc2.0"}


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """See agent_apps.launching."""
    with launching(tmp_path) as start:
        yield start


@pytest.fixture
def app(launch: Callable[..., App]) -> App:
    """An app with an agent started as it comes."""
    return launch()


def python_named(version: str) -> Any:
    """An interpreter of the machine, or a fetched one. The test is skipped where there is none."""
    if version in pythons.NEWER and version != "3.13":
        return pythons.wanted(version)
    for found in pythons.installed(OLDEST):
        if f"{found.version[0]}.{found.version[1]}" == version:
            return found
    raise pytest.skip.Exception(f"this machine has no Python {version}")


def preload(name: str) -> str:
    """The library of an allocator, from Debian's package. Without it the test is skipped, and with CI=true it fails."""
    folder = servers.needed(lambda: servers.debian(ALLOCATORS[name]))
    return str(sorted(folder.rglob(f"lib{name}*.so*"))[0])


def fill(app: App, megabytes: int = 120) -> None:
    """Have it hold a cache whose entries lie between things that stay."""
    app.do("keep = []")
    app.do(HOLES.replace("N", str(megabytes * MIB // 25000)))


# Every Python


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"])
def test_the_agent_serves_cleans_and_leaves_on_any_python(launch, version):
    """On each Python an app can start the agent, be asked, be cleaned by request and by signal, and end in order."""
    app = launch(python=python_named(version))
    fill(app, 60)
    app.do("agent.register_cache('answers', cache)")

    hello = app.get("/")
    assert (hello["protocol"], hello["pid"], hello["agent"]) == (1, app.pid, __version__)
    assert hello["python"].startswith(version)
    assert hello["signals"] == {"SIGUSR1": "standard", "SIGUSR2": "aggressive"}
    assert [len(app.get("/memory")["gc"]["generations"]), app.get("/memory")["caches"][0]["cache"]] == [3, "answers"]
    result = app.post("/cleanup", level="standard", id="first").body
    assert (result["id"], result["outcome"]) == ("first", "done"), result["steps"]
    if hello["allocator"] != "unknown":  # a Python without ctypes cannot release
        assert result["freed_bytes"] > 15 * MIB
    os.kill(app.pid, signal.SIGUSR2)
    app.do("pass")  # a handler runs when the main thread does; a signal right before its next wait would not end that
    wait_until(lambda: len(app.get("/memory")["cleanups"]) == 2, 30, "the cleanup that a signal asked for")
    assert app.do("len(cache)") == 0
    assert app.get("/memory")["cleanups"][1]["trigger"] == "signal"
    assert (app.close(), app.path().exists(), app.errors.read_text()) == (0, False, "")


def test_pypy_has_no_generations_and_all_the_rest(launch):
    """Where the app runs on PyPy the agent serves and cleans too; what PyPy does not tell is left out."""
    pypy = shutil.which("pypy3")
    if not pypy:
        pytest.skip("this machine has no pypy3 on PATH")
    app = launch(python=pythons.Interpreter((3, 9, 0), (pypy,)))
    app.do("cache = {1: 1}; agent.register_cache('answers', cache)")

    assert app.get("/")["implementation"] == "pypy"
    assert app.get("/memory")["gc"] == {"enabled": True}
    assert app.post("/cleanup", level="aggressive").body["outcome"] == "done"
    assert (app.do("len(cache)"), app.close(), app.errors.read_text()) == (0, 0, "")


def test_the_copied_file_tells_the_version_of_the_package():
    """A copied agent says which rag-sidecar it comes from, so the two are changed together."""
    assert __version__ == agent.VERSION


# What a cleanup gives back


@pytest.mark.parametrize("allocator", ["glibc", "jemalloc", "tcmalloc", "mimalloc"])
def test_a_cleanup_promises_only_what_the_allocator_keeps(launch, allocator):
    """What the release step promises is what returns, within a fifth, under each allocator; or there is no promise."""
    app = launch(**({"LD_PRELOAD": preload(allocator)} if allocator != "glibc" else {}))
    fill(app)
    app.do("agent.register_cache('answers', cache)")

    assert app.get("/")["allocator"] == allocator
    result = app.post("/cleanup", level="aggressive").body

    release = result["steps"][-1]
    assert release["step"] == "release"
    if allocator == "mimalloc":
        assert "predicted_bytes" not in result
        assert "this thread's memory" in release["detail"]
        assert "mimalloc" in app.get("/memory")["malloc"]["reason"]
        return
    assert result["predicted_bytes"] == pytest.approx(release["freed_bytes"], rel=0.2, abs=2 * MIB)
    if allocator != "tcmalloc":  # its spans of eight kilobytes are held by what stays in them
        assert result["freed_bytes"] > 60 * MIB
    assert app.get("/memory")["malloc"]["trim_returned_bytes_total"] == pytest.approx(release["freed_bytes"], abs=MIB)


def test_a_python_without_ctypes_says_why_it_gives_nothing_back(launch):
    """Where malloc cannot be asked the figures and the release say so; the rest of the cleanup is done."""
    app = launch(None)
    app.do("sys.modules['_ctypes'] = None")
    app.do("agent.start()")

    result = app.post("/cleanup", level="standard").body
    assert app.get("/")["allocator"] == "unknown"
    assert "no ctypes" in app.get("/memory")["malloc"]["reason"]
    assert (result["steps"][-1]["step"], result["outcome"]) == ("release", "done")
    assert "no ctypes" in result["steps"][-1]["detail"]


@pytest.mark.parametrize("dropped", ["r.randrange(600, 40000)", "12000", "65000", "4096", "r.choice([700, 60000])"])
@pytest.mark.parametrize("threads", [1, 8])
def test_a_promise_of_glibc_is_kept_whatever_is_dropped(launch, dropped, threads):
    """`releasable_bytes` is within a fifth of what a trim returns, or absent with a reason, and zero after a trim."""
    app = launch(None)
    app.do("import random, threading")
    app.do(f"""def work(seed):
    r = random.Random(seed)
    both = [(bytes(r.randrange(600, 3000)), bytearray({dropped})) for _ in range({5000 // threads})]
    kept.append([keep for keep, _ in both])
kept = []
threads = [threading.Thread(target=work, args=(seed,)) for seed in range({threads})]
[thread.start() for thread in threads]; [thread.join() for thread in threads]""")
    app.do("told = agent._allocator().figures()")
    app.do("release = agent.cleanup('standard')['steps'][-1]")
    told, freed = app.do("told"), app.do("release['freed_bytes']")

    if "releasable_bytes" in told:
        assert told["releasable_bytes"] == pytest.approx(freed, rel=0.2, abs=2 * MIB)
    else:
        assert told["reason"]
    again = app.do("agent._allocator().figures()")
    assert again.get("releasable_bytes", 0) < max(2 * MIB, 0.2 * freed)


def test_cyclic_garbage_is_found_while_the_collector_is_off_and_its_memory_returned(app):
    """A light cleanup of an app that has switched its collector off collects once, and returns what that freed."""
    app.do("import gc; gc.disable(); keep = []")
    app.do("for n in range(2000): loop = [bytearray(60000)]; loop.append(loop); keep.append(bytes(900))")
    app.do("del loop")

    result = app.post("/cleanup", level="light").body

    assert result["objects_collected"] >= 2000
    assert result["freed_bytes"] > 80 * MIB
    assert result["pause_seconds"] > 0
    assert app.do("gc.isenabled()") is False


def test_a_light_cleanup_leaves_out_what_costs_more_than_it_may(launch):
    """A light cleanup collects not twice in a minute, nor where it expects too long a pause, and says so."""
    app, busy = launch(), launch("gc_pause_budget_seconds=1e-6")

    assert "passes: 1" in app.steps("light")["gc"]["detail"]
    assert "last full pass" in app.steps("light")["gc"]["detail"]
    assert "expected to take" in busy.steps("light")["gc"]["detail"]
    assert "left out" in app.steps("light")["release"]["detail"]


def test_levels_differ_in_how_far_they_go(app):
    """Light leaves caches alone, standard halves them, oldest first, aggressive clears them and unloads models."""
    app.do("cache = {n: n for n in range(100)}; agent.register_cache('answers', cache); calls = []")
    app.do("""class Model:
    def zero_grad(self, set_to_none): calls.append(('zero_grad', set_to_none))
    def eval(self): calls.append('eval')
model = Model()
def unload(): calls.append('unload'), globals().pop('model')
agent.register_model('reranker', lambda: globals().get('model'), unload=unload)""")

    app.steps("light")
    assert app.do("len(cache)") == 100
    assert "passes: " in app.steps("standard")["gc"]["detail"]
    assert (app.do("min(cache)"), app.do("len(cache)"), app.do("calls")) == (50, 50, [])
    thresholds = app.do("__import__('gc').get_threshold()")
    steps = app.steps("aggressive")
    assert steps["gc"]["detail"] == "passes: 3"
    assert list(steps) == ["cache:answers", "model:reranker", "gc", "release"]
    assert app.do("len(cache)") == 0
    assert app.do("calls") == [["zero_grad", True], "eval", "unload"]
    assert app.do("__import__('gc').get_threshold()") == thresholds
    assert app.get("/memory")["models"] == [{"model": "reranker", "loaded": False, "loads": 1, "unloads": 1}]


def test_a_standard_cleanup_finds_what_finalizers_leave_behind(app):
    """Garbage whose finalizer makes new garbage is gone after a standard cleanup; a light one collects only once."""
    app.do("""import gc, weakref; gc.disable(); left = []
class Loop:
    def __init__(self): self.itself = self
class Last(Loop):
    def __del__(self): loop = Loop(); left.append(weakref.ref(loop))""")

    app.do("agent.PASS_EVERY_SECONDS = 0; Last()")
    assert app.steps("light")["gc"]["detail"] == "passes: 1"
    assert app.do("[one() is None for one in left]") == [False]
    app.do("Last()")
    assert app.steps("standard")["gc"]["detail"] == "passes: 2"
    assert app.do("[one() is None for one in left]") == [True, True]


def test_an_aggressive_cleanup_collects_with_lowered_thresholds(app):
    """While an aggressive cleanup collects, thresholds are low; a standard one leaves them as the app has set them."""
    app.do("import gc; gc.set_threshold(900, 11, 12); seen = []")
    app.do("gc.callbacks.append(lambda phase, info: info['generation'] == 2 and seen.append(gc.get_threshold()))")

    app.steps("standard")
    assert {tuple(three) for three in app.do("seen")} == {(900, 11, 12)}
    app.steps("aggressive")
    assert app.do("seen.count((100, 5, 5))") >= 2 * 3  # each pass begins and ends
    assert app.do("gc.get_threshold()") == [900, 11, 12]


def test_a_model_that_cannot_be_measured_is_shown_with_the_estimate_given(app):
    """`estimated_bytes` counts for a model without parameters, and is marked so; parameters count as measured."""
    app.do("""class Tensor:
    numel, element_size = (lambda self: 1000), (lambda self: 4)
class Measured:
    def parameters(self): return [Tensor(), Tensor()]
class Opaque: pass
measured, opaque, unknown = Measured(), Opaque(), Opaque()
agent.register_model('measured', measured, estimated_bytes=1 << 30)
agent.register_model('opaque', opaque, estimated_bytes=2 << 30)
agent.register_model('unknown', unknown)""")

    told = {row["model"]: (row.get("memory_bytes"), row.get("source")) for row in app.get("/memory")["models"]}
    assert told == {"measured": (8000, "measured"), "opaque": (2 << 30, "estimated"), "unknown": (None, None)}


def test_caches_of_many_kinds_are_shown_and_trimmed(app):
    """A dict, an lru_cache function, an object with popitem, and bare functions can each be registered as a cache."""
    app.do("""import collections, functools
@functools.lru_cache(maxsize=64)
def answer(n): return n
[answer(n) for n in range(10)]; answer(1)
class Bounded(collections.OrderedDict):
    maxsize, hits, misses = 50, 3, 4
    size_bytes = lambda self: 10 * len(self)
bounded = Bounded((n, n) for n in range(20))
pages, lock = list(range(40)), __import__('threading').Lock()
agent.register_cache('answer', answer)
agent.register_cache('bounded', bounded, lock=lock)
agent.register_cache('pages', trim=lambda share: pages.__delitem__(slice(int(len(pages) * share))), clear=pages.clear,
                     entries=lambda: len(pages), size_bytes=lambda: 100 * len(pages))""")

    assert app.get("/memory")["caches"] == [
        {"cache": "answer", "entries": 10, "max_entries": 64, "hits": 1, "misses": 10},
        {"cache": "bounded", "max_entries": 50, "size_bytes": 200, "hits": 3, "misses": 4, "entries": 20},
        {"cache": "pages", "entries": 40, "size_bytes": 4000},
    ]
    app.steps("standard")
    assert [cache["entries"] for cache in app.get("/memory")["caches"]] == [0, 10, 20]
    app.steps("aggressive")
    assert [cache["entries"] for cache in app.get("/memory")["caches"]] == [0, 0, 0]


def test_registering_keeps_nothing_alive(app):
    """A cache, a model, a bound method that the app has dropped is gone from the figures, and its memory too."""
    app.do("""import weakref
class Thing(dict):
    def drop(self, level): pass
things = [Thing(a=1) for _ in range(3)]
gone = [weakref.ref(thing) for thing in things]
agent.register_cache('a', things[0]); agent.register_model('b', things[1]); agent.on_cleanup(things[2].drop)""")
    assert [row["cache"] for row in app.get("/memory")["caches"]] == ["a"]

    app.do("del things[:]; __import__('gc').collect()")

    assert app.do("[one() for one in gone]") == [None, None, None]
    assert (app.get("/memory")["caches"], app.get("/memory")["models"]) == ([], [])
    assert list(app.steps("aggressive")) == ["gc", "release"]


def test_ten_thousand_caches_stay_a_short_answer(app):
    """However many caches are registered, 32 rows and steps are told, the rest summed up; all of them are cleaned."""
    app.do("caches = [{n: n for n in range(10)} for _ in range(10000)]")
    app.do("for n, cache in enumerate(caches): agent.register_cache('cache %d' % n, cache)")

    rows = []
    wait_until(lambda: rows.extend(app.get("/memory")["caches"]) or bool(rows), 30, "the figures of the caches")
    steps = app.steps("standard")

    assert len(rows) == 32
    assert rows[-1] == {"cache": "other", "entries": (10000 - 31) * 10}
    assert len(steps) == 32 + 2
    assert steps["cache:other"]["detail"] == "9969 of them"
    assert app.do("sum(map(len, caches))") == 50000


def test_more_than_can_be_kept_is_refused_where_it_is_registered(app):
    """An app that registers without end is told so, instead of growing by it."""
    app.do("agent.REGISTERED = 10; [agent.register_cache(str(n), {}) for n in range(10)]")

    with pytest.raises(AssertionError, match="10 are registered already"):
        app.do("agent.register_cache('10', {})")
    app.do("agent.register_cache('9', {})")


def test_a_cleaner_that_fails_is_reported_and_stops_nothing(app):
    """Whatever a cleaner raises is told in its step, the others run, and the app's thread goes on."""
    app.do("done = []")
    for number, what in enumerate(["1 / 0", "raise SystemExit(3)", "raise KeyboardInterrupt", "done.append(level)"]):
        app.do(f"def cleaner{number}(level): {what}\nagent.on_cleanup(cleaner{number}, name='{number}')")
    app.do("async def late(level): pass\nagent.on_cleanup(late)")

    result = app.post("/cleanup", level="standard").body
    errors = {step["step"]: step["error"] for step in result["steps"] if "error" in step}

    assert result["outcome"] == "partial"
    assert errors["cleaner:0"] == "ZeroDivisionError: division by zero"
    assert errors["cleaner:1"] == "SystemExit: 3"
    assert errors["cleaner:2"].startswith("KeyboardInterrupt")
    assert "coroutine" in errors["cleaner:late"]
    assert app.do("done") == ["standard"]
    assert app.errors.read_text() == ""


def test_an_app_that_is_told_to_end_in_the_middle_of_its_own_cleanup_ends(app):
    """What the app's signal handlers raise in its main thread goes on to the app, and later cleanups are done."""
    app.do("import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))")
    app.do("number = signal.SIGINT; agent.on_cleanup(lambda level: os.kill(os.getpid(), number), name='signals')")
    app.do("""
try: agent.cleanup()
except KeyboardInterrupt: interrupted = True""")

    told = app.get("/memory")["cleanups"][-1]
    assert (app.do("interrupted"), told["outcome"]) == (True, "partial")
    assert told["steps"][-1]["error"] == "it was interrupted"
    app.do("number = 0")
    assert app.do("agent.cleanup()['outcome']") == "done"
    app.do("number = signal.SIGTERM")
    app.begin("agent.cleanup()")
    assert app.process.wait(30) == 7


def test_a_cleaner_that_hangs_is_left_behind(app):
    """A cleanup goes on without a callback that does not return, and later ones leave it out until it does."""
    app.do("import threading; gate = threading.Event(); agent.CALLBACK_SECONDS = 0.2")
    app.do("agent.on_cleanup(lambda level: gate.wait(), name='hangs')")
    app.do("cache = {1: 1}; agent.register_cache('answers', cache)")

    first, second = app.steps("aggressive"), app.steps("aggressive")

    assert "has not returned after 0.2 s" in first["cleaner:hangs"]["error"]
    assert "has not returned from an earlier cleanup" in second["cleaner:hangs"]["error"]
    assert first["release"]["detail"] == "malloc_trim"
    assert app.do("len(cache)") == 0
    app.do("gate.set()")
    wait_until(lambda: "error" not in app.steps("standard")["cleaner:hangs"], 30, "the cleaner to be used again")


def test_a_cleaner_says_what_it_freed_and_at_which_level_it_is_called(app):
    """`on_cleanup` works as a decorator, passes the level, and shows the bytes that the callback returns."""
    app.do("""levels = []
@agent.on_cleanup(level='aggressive', name='index')
def shrink(level):
    levels.append(level)
    return 4096""")

    assert "cleaner:index" not in app.steps("standard")
    assert app.steps("aggressive")["cleaner:index"]["told_bytes"] == 4096
    assert app.do("levels") == ["aggressive"]
    with pytest.raises(AssertionError, match="level 'hard' is none of light, standard, aggressive"):
        app.do("agent.on_cleanup(print, level='hard')")


def test_two_cleaners_of_the_same_name_are_both_called(app):
    """Methods of two objects, and two lambdas, do not replace each other; the same one twice is called once."""
    app.do("""called = []
class Store:
    def drop(self, level): called.append(id(self))
stores = [Store(), Store()]
for store in stores + stores: agent.on_cleanup(store.drop)
for n in (1, 2): agent.on_cleanup(lambda level, n=n: called.append(n))""")

    app.steps("standard")

    assert sorted(app.do("[stores.index(s) for s in stores if called.count(id(s)) == 1]")) == [0, 1]
    assert app.do("len(called)") == 4


def test_the_app_can_clean_up_by_itself(launch):
    """`cleanup()` works in the calling thread without a started agent, and says busy inside another cleanup."""
    app = launch(None)
    app.do("inner = []; agent.on_cleanup(lambda level: inner.append(agent.cleanup('aggressive')['outcome']))")

    assert app.do("agent.cleanup('standard')['outcome']") == "done"
    assert app.do("inner") == ["busy"]
    with pytest.raises(AssertionError, match="level 'x' is none of"):
        app.do("agent.cleanup('x')")


# Orders: once each, one at a time


def test_an_order_is_accepted_at_once_and_carried_out_once(app):
    """The acceptance comes before the work; the same id again gets the recorded result, also while it runs."""
    app.do("import threading; gate = threading.Event(); runs = []; agent.CALLBACK_SECONDS = 60")
    app.do("agent.on_cleanup(lambda level: (runs.append(level), gate.wait())[0])")
    with app.client() as first, app.client() as again:
        first.send("POST", "/cleanup", {"level": "standard", "id": "order-1"})
        assert first.head() == (102, {"x-rag-sidecar-accepted": "order-1"})
        again.send("POST", "/cleanup", {"level": "standard", "id": "order-1"})
        assert again.head()[0] == 102
        refused = app.post("/cleanup", level="standard", id="order-2")
        assert (refused.status, refused.body["error"], refused.headers["retry-after"]) == (409, "busy", "1")
        assert app.get("/memory")["pid"] == app.pid
        app.do("gate.set()")
        assert first.answer().body["steps"] == again.answer().body["steps"]

    recorded = app.post("/cleanup", level="standard", id="order-1")

    assert (recorded.status, recorded.body["id"], recorded.accepted) == (200, "order-1", "")
    assert app.do("runs") == ["standard"]


def test_a_cleanup_without_a_reason_shows_none(app):
    """The alert that asked is told of each cleanup; where a person asked, nothing is, whichever way it was left out."""
    for reason in ("RagMemoryMain", "", None):
        app.post("/cleanup", level="light", reason=reason)

    assert [cleanup.get("reason") for cleanup in app.get("/memory")["cleanups"]] == ["RagMemoryMain", None, None]


def test_a_stronger_order_runs_right_after_a_weaker_one(app):
    """One asked for during a weaker cleanup is remembered, even stronger ones join it, and each asker is answered."""
    app.do("import threading; gate = threading.Event(); runs = []; agent.CALLBACK_SECONDS = 60")
    app.do("agent.on_cleanup(lambda level: (runs.append(level), gate.wait())[0], level='light')")
    with contextlib.ExitStack() as clients:
        asked = {}
        for level in agent.LEVELS:
            asked[level] = clients.enter_context(app.client())
            asked[level].send("POST", "/cleanup", {"level": level, "id": level})
            assert asked[level].head()[0] == 102
        assert app.post("/cleanup", level="light", id="late").status == 409
        app.do("gate.set()")
        answers = {level: client.answer().body for level, client in asked.items()}

    assert app.do("runs") == ["light", "aggressive"]
    assert {level: body["level"] for level, body in answers.items()} == {
        "light": "light", "standard": "aggressive", "aggressive": "aggressive",
    }  # fmt: skip
    assert answers["standard"]["id"] == "standard"


def test_an_order_that_comes_just_after_the_signal_for_it_is_the_same_cleanup(app):
    """Whoever sends a signal because an order was not accepted in time gets one cleanup, and its result."""
    app.do("import threading; gate = threading.Event(); runs = []; agent.CALLBACK_SECONDS = agent.TWIN_SECONDS = 60")
    app.do("agent.on_cleanup(lambda level: (runs.append(level), gate.wait())[0])")
    os.kill(app.pid, signal.SIGUSR2)
    wait_until(lambda: app.do("runs") == ["aggressive"], 30, "the signal's cleanup")
    with app.client() as client:
        client.send("POST", "/cleanup", {"level": "aggressive", "id": "late"})
        assert client.head()[0] == 102
        app.do("gate.set()")
        assert (client.answer().body["trigger"], app.do("runs")) == ("signal", ["aggressive"])


def test_an_agent_remembers_a_bounded_number_of_results(app):
    """Results are kept for repeated ids, sixteen of them, and a light cleanup drops the details of all but the last."""
    for number in range(20):
        app.post("/cleanup", level="light", id=str(number))

    told = app.get("/memory")["cleanups"]

    assert [result["id"] for result in told] == [str(number) for number in range(4, 20)]
    assert ["steps" in result for result in told] == [False] * 15 + [True]


def test_requests_and_time_may_trigger_light_cleanups(launch):
    """Off by default; each n-th request and every n seconds clean lightly where start() was told so."""
    app, quiet = launch("every_requests=50"), launch()
    timed = launch("every_seconds=0.2")
    for each in (app, quiet):
        each.do("[agent.count_request() for _ in range(50)]")

    wait_until(lambda: bool(app.get("/memory")["cleanups"]), 30, "the cleanup that the fiftieth request asked for")
    wait_until(lambda: len(timed.get("/memory")["cleanups"]) > 1, 30, "the cleanups of an interval")

    assert [result["trigger"] for result in app.get("/memory")["cleanups"]] == ["requests"]
    assert app.get("/memory")["requests_total"] == 50
    assert timed.get("/memory")["cleanups"][0]["trigger"] == "interval"
    assert quiet.get("/memory")["cleanups"] == []


def test_requests_are_counted_from_many_threads(app):
    """No request is lost, however many threads count."""
    app.do("""import threading
threads = [threading.Thread(target=lambda: [agent.count_request() for _ in range(10000)]) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]""")

    assert app.get("/memory")["requests_total"] == 80000


def test_the_mode_reaches_the_app(app):
    """POST /mode sets what mode() says and calls the app's listeners, before it is answered."""
    app.do("heard = []; agent.on_mode(heard.append)")
    assert app.do("agent.mode()") == "normal"

    assert app.post("/mode", mode="degraded").body["mode"] == "degraded"
    assert app.post("/mode", mode="degraded").status == 200
    assert app.post("/mode", mode="panic").status == 400

    assert (app.do("agent.mode()"), app.do("heard"), app.get("/")["mode"]) == ("degraded", ["degraded"], "degraded")


def test_the_mode_is_forgotten_when_nobody_stands_by_it(launch):
    """A mode holds while whoever has told it is heard of, and for so many seconds more; then it is normal again."""
    app = launch()
    app.do("heard = []; agent.on_mode(heard.append)")
    with Client(app.path()) as teller:
        assert teller.ask("POST", "/mode", {"mode": "degraded", "seconds": 1}).status == 200
        for _ in range(3):
            time.sleep(0.5)
            assert teller.ask("GET", "/memory").body["mode"] == "degraded"
        assert teller.ask("POST", "/mode", {"mode": "degraded", "seconds": 0}).status == 400

    wait_until(lambda: app.do("agent.mode()") == "normal", 30, "the mode to be forgotten")
    assert app.do("heard") == ["degraded", "normal"]


# What it tells


def test_pauses_of_the_collector_are_measured(app):
    """Each generation's pauses are added up and the longest kept, without disturbing the app's own callbacks."""
    app.do("import gc; rest = [[] for _ in range(200000)]; [gc.collect() for _ in range(3)]")

    full = app.get("/memory")["gc"]["generations"][2]

    assert full["collections"] >= 3
    assert full["pause_seconds"] >= full["pause_max_seconds"] > 0.0001


def test_what_was_loaded_at_startup_can_be_frozen(launch):
    """With freeze_after_startup later passes leave out what was there, and stop() thaws it."""
    app = launch("freeze_after_startup=0.1")

    wait_until(lambda: app.get("/memory")["gc"]["frozen"] > 1000, 30, "the freeze")
    app.do("agent.stop()")

    assert app.do("__import__('gc').get_freeze_count()") == 0


def test_a_report_says_where_memory_comes_from(app):
    """A window of tracemalloc names the file and line, is bounded in time, and tracing is off after it."""
    app.do("""import threading, time
held, go = [], True
def grow():
    while go: held.append(bytearray(100000)); time.sleep(0.002)
thread = threading.Thread(target=grow); thread.start()""")

    report = app.get("/report?seconds=0.5&objects=1")
    app.do("go = False; thread.join()")

    assert report["tracemalloc"]["sites"][0]["size_bytes"] > 100000
    assert len(report["tracemalloc"]["sites"]) <= 26
    assert len(report["objects"]) == 25
    assert app.get("/memory")["tracemalloc"] == {"tracing": False}
    with app.client() as client:
        assert client.ask("GET", "/report?seconds=61").status == 400
        assert client.ask("GET", "/report?seconds=nan").status == 400


TORCH = """
import types
class Cuda(types.ModuleType):
    ready, calls, reserved = False, [], 1000
    def is_initialized(self): return self.ready
    def __getattribute__(self, name):
        if not name.startswith('_') and name not in ('ready', 'calls', 'reserved'): Cuda.calls.append(name)
        return super().__getattribute__(name)
    def device_count(self): return 2
    def memory_stats(self, index):
        return {'reserved_bytes.all.current': Cuda.reserved, 'active_bytes.all.current': 200, 'new.key': 1,
                'allocated_bytes.all.peak': 900, 'num_ooms': 3} if index == 0 else {'reserved_bytes.all.current': 0}
    def mem_get_info(self, index): assert index == 0; return (5000, 8000)
    def get_device_properties(self, index): return types.SimpleNamespace(name='GPU', uuid='1-2')
    def empty_cache(self): Cuda.reserved = 200
torch = types.ModuleType('torch'); torch.cuda = Cuda('torch.cuda'); sys.modules['torch'] = torch
"""


def test_torch_is_asked_only_once_the_app_has_initialised_it(app):
    """Nothing but is_initialized() is called before; then each device in use is shown and its cache emptied."""
    assert app.get("/memory")["torch"] == []
    assert app.do("'torch' in sys.modules") is False
    app.do(TORCH)
    assert (app.get("/memory")["torch"], "gc" in app.steps("standard")) == ([], True)
    assert app.do("set(Cuda.calls) == {'is_initialized'}")

    app.do("Cuda.ready = True")
    assert app.get("/memory")["torch"] == [{
        "device": "cuda:0", "backend": "cuda", "name": "GPU", "uuid": "1-2", "allocated_max_bytes": 900,
        "reserved_bytes": 1000, "active_bytes": 200, "ooms_total": 3, "releasable_bytes": 800,
        "device_free_bytes": 5000, "device_total_bytes": 8000,
    }]  # fmt: skip
    assert "torch:cuda:0" not in app.steps("light")
    steps = app.steps("standard")
    assert steps["torch:cuda:0"]["device_freed_bytes"] == 800
    assert "torch:cuda:1" not in steps


def test_a_torch_of_another_release_is_told_as_far_as_it_goes(app):
    """Functions that are missing or raise leave their figures out; the answer and the cleanup come all the same."""
    app.do(TORCH)
    app.do("""torch.accelerator = types.SimpleNamespace(
    memory_stats=lambda index: {'reserved_bytes.all.current': 7, 'allocated_bytes.all.current': 5},
    current_accelerator=lambda: types.SimpleNamespace(type='npu'), device_count=lambda: 1,
    get_memory_info=lambda index: (1, 2), empty_cache=lambda: 1 / 0)
torch.npu = types.SimpleNamespace(is_initialized=lambda: True)
torch.mps = types.SimpleNamespace(driver_allocated_memory=lambda: 9)
torch.backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: True))
Cuda.ready = True; Cuda.memory_stats = Cuda.device_count = None""")

    assert app.get("/memory")["torch"] == [
        {"device": "mps", "backend": "mps", "reserved_bytes": 9},
        {"device": "accelerator:0", "backend": "accelerator", "allocated_bytes": 5, "reserved_bytes": 7,
         "device_free_bytes": 1, "device_total_bytes": 2},
    ]  # fmt: skip
    steps = app.steps("standard")
    assert steps["torch:accelerator:0"]["error"].startswith("ZeroDivisionError")
    assert steps["release"]["detail"] == "malloc_trim"


# Signals


def test_a_signal_that_the_app_handles_stays_the_apps(launch):
    """Only signals that nobody handles are taken; what is told is what is really installed, also after a change."""
    app = launch(None)
    app.do("import signal; mine = lambda *_: None; signal.signal(signal.SIGUSR1, mine); agent.start()")
    assert app.get("/")["signals"] == {"SIGUSR2": "aggressive"}

    app.do("signal.signal(signal.SIGUSR2, mine)")
    assert app.get("/")["signals"] == {}

    app.do("agent.stop(); agent.start(signals={'SIGUSR1': 'light'})")
    assert app.get("/")["signals"] == {"SIGUSR1": "light"}
    app.do("agent.stop()")
    assert app.do("signal.getsignal(signal.SIGUSR1) is mine and signal.getsignal(signal.SIGUSR2) is mine")


@pytest.mark.parametrize("arguments", ["signals=False", None])
def test_without_the_main_thread_or_consent_no_signal_is_taken(launch, arguments):
    """No handler is installed where start() was told so, or runs in another thread; the socket serves all the same."""
    app = launch(arguments)
    if arguments is None:
        app.do("import threading; t = threading.Thread(target=agent.start); t.start(); t.join()")

    assert app.get("/")["signals"] == {}
    assert app.do("__import__('signal').getsignal(10)") == signal.SIG_DFL


def test_signals_may_arrive_anywhere(app):
    """Hundreds of signals during logging, allocation and cleanups lose neither the app nor the agent."""
    app.do("import logging, io; log = logging.getLogger('x'); log.addHandler(logging.StreamHandler(io.StringIO()))")
    app.do("agent.on_cleanup(lambda level: log.warning('cleaner'))")
    app.begin("for n in range(30000): log.warning('line %d', n); junk = [[] for _ in range(20)]")
    for number in range(300):
        os.kill(app.pid, signal.SIGUSR1 if number % 2 else signal.SIGUSR2)
        time.sleep(0.001)
    app.end()

    wait_until(lambda: app.post("/cleanup", level="aggressive").status == 200, 30, "the storm to be over")
    assert app.get("/memory")["cleanups"][-1]["outcome"] == "done"
    assert app.errors.read_text() == ""
