"""What guard and desk say to each other arrives as it was said, or is refused; and the tuples that it is said in."""

import json
import os
import socket
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guard import wire
from sidecar.guard.wire import MAX_MESSAGE_BYTES, Basis, Channel, Event, Order
from sidecar.procfs import Identity

TEXT = st.text(max_size=20)
WORD = TEXT.filter(lambda word: "\0" not in word)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SECONDS = st.floats(0, allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63), 2**64)
BYTES = st.one_of(st.integers(0, 2**53).map(float), NUMBER)
CHANNELS = st.one_of(
    st.builds(Channel, st.just("signal"), signal=st.integers(1, 64)), st.builds(Channel, st.just("agent")),
    st.builds(Channel, st.just("http"), url=TEXT, headers=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
              timeout_seconds=st.floats(0, 600, exclude_min=True)),
    st.builds(Channel, st.just("exec"), argv=st.lists(WORD, max_size=3).map(lambda words: ("/bin/x", *words))))
ORDERS = st.builds(
    Order, TEXT, TEXT, TEXT, st.lists(CHANNELS, max_size=3).map(tuple), st.dictionaries(TEXT, TEXT, max_size=5),
    st.none() | BYTES, st.booleans(), st.integers(0, 10), SECONDS, SECONDS, SECONDS, st.booleans(), TEXT)
IDENTITIES = st.builds(Identity, TEXT, st.integers(1, wire.MOST_PIDS), st.integers(0, 2**63),
                       st.none() | st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)))
JSON = st.recursive(st.none() | st.booleans() | WHOLE | NUMBER | TEXT,
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12)
EVENTS = st.builds(Event, st.integers(0, 2**53), NUMBER, TEXT, TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=5))


def arrived(kind: str, **body: Any) -> dict[str, Any]:
    """The body of a message after its way over the wire."""
    said, found = wire.decode(wire.encode(kind, **body))
    assert said == kind
    return found


@settings(deadline=None)
@given(ORDERS)
def test_order_arrives_as_it_was_given(order: Order) -> None:
    """Every field with its type: tuples are tuples again, whole numbers whole."""
    found = wire.order(arrived("deliver", order=order)["order"])

    assert found == order
    assert list(map(type, found)) == list(map(type, order))
    assert all(isinstance(each, Channel) for each in found.channels)


@settings(deadline=None)
@given(IDENTITIES)
def test_identity_arrives_as_it_was_given(identity: Identity) -> None:
    """With and without a program that may be read."""
    assert wire.identity(arrived("watch", identity=identity)["identity"]) == identity


@settings(deadline=None)
@given(EVENTS)
def test_event_arrives_as_it_was_told(event: Event) -> None:
    """With whatever plain values its detail holds."""
    assert wire.event(arrived("event", event=event)["event"]) == event


@settings(deadline=None)
@given(st.sampled_from(["anon", "rss", "cgroup"]), TEXT, TEXT)
def test_basis_arrives_as_it_was_given(kind: Any, usage: str, stat: str) -> None:
    """Also paths that are no proper text: surrogates stand for bytes of a file's name."""
    assert Basis(*arrived("watch", basis=Basis(kind, usage + "\udcff", stat))["basis"]) == Basis(
        kind, usage + "\udcff", stat)


@settings(deadline=None)
@given(st.text(string.ascii_letters, min_size=1), st.dictionaries(
    st.text(string.ascii_lowercase, min_size=3).filter(lambda name: name not in ("kind", "type", "most_bytes")), JSON))
def test_message_arrives_as_it_was_sent(kind: str, body: dict[str, Any]) -> None:
    """Any kind with any plain values."""
    assert arrived(kind, **body) == json.loads(json.dumps(body))


READERS: list[Callable[[Any], Any]] = [wire.order, wire.event, wire.identity]
ODD = st.one_of(JSON, st.builds(list, st.one_of(ORDERS, EVENTS, IDENTITIES)).flatmap(
    lambda raw: st.tuples(st.integers(0, len(raw) - 1), JSON | st.sampled_from([1e308, "1e999", "nan", -1, 2**64])).map(
        lambda change: [*raw[:change[0]], change[1], *raw[change[0] + 1:]])))


@settings(deadline=None)
@given(ODD)
def test_values_that_make_no_sense_are_refused(value: Any) -> None:
    """Whatever stands where an order, an event or an identity should be: an error that the guard catches, or one."""
    raw = arrived("x", value=value)["value"]
    for read in READERS:
        try:
            read(raw)
        except (ValueError, TypeError, KeyError):
            continue


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode), st.sampled_from([
    b"", b"[]", b"1", b"null", b"{}", b'{"v":2,"type":"beat"}', b'{"v":"1"}', b"{", b"\xff\xfe", b"[" * 60000,
    b'{"v":1,"x":' + b"[" * 60000, b'{"v":1,"n":NaN}', b'{"v":1,"n":-Infinity}', b'{"v":1,"n":1e999}',
    b'{"v":1,"n":' + b"9" * 400 + b"}", b'{"v":1,"n":' + b"9" * 5000 + b"}"])))
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Garbage, another version, lists without end, numbers without measure: one kind of error."""
    with pytest.raises(ValueError):  # noqa: PT011 - json has many words for it
        wire.decode(data)


def test_message_without_a_type_has_an_empty_one() -> None:
    """Nobody listens to it, and nobody fails over it."""
    assert wire.decode(b'{"v":1,"a":2}') == ("", {"a": 2})


def test_message_that_is_too_large_is_refused_before_it_is_sent() -> None:
    """Cut off on its way it would be garbage."""
    largest = MAX_MESSAGE_BYTES - len(wire.encode("x", text=""))
    assert len(wire.encode("x", text="a" * largest)) == MAX_MESSAGE_BYTES

    with pytest.raises(ValueError, match="65537 bytes"):
        wire.encode("x", text="a" * (largest + 1))
    with pytest.raises(ValueError, match="100"):
        wire.encode("x", 100, text="a" * 100)


def test_what_is_no_json_is_refused_before_it_is_sent() -> None:
    """The other side would not read it."""
    with pytest.raises(ValueError, match="JSON"):
        wire.encode("x", number=float("nan"))
    with pytest.raises(TypeError):
        wire.encode("x", value={1, 2})


@pytest.mark.parametrize("change", [
    {"kind": "exec"}, {"kind": "exec", "argv": ("bin/x",)}, {"kind": "exec", "argv": ("/bin/x", "a\0b")},
    {"kind": "exec", "argv": ("/x",) * 65}, {"kind": "exec", "argv": ("/" * 9000,)}, {"argv": ("/bin/x",)},
    {"kind": "exec", "argv": 7}, {"kind": "shell"}, {"kind": ["signal"]},
    {"signal": 65}, {"signal": -1}, {"signal": "ten"}, {"signal": None},
    {"headers": (("a", "b", "c"),)}, {"timeout_seconds": None},
    {"timeout_seconds": 0.0}, {"timeout_seconds": 1e308}], ids=str)
def test_channel_that_is_none_makes_the_order_none(change: dict[str, Any]) -> None:
    """The guard knows four kinds of channels and 64 signals, and tries nothing else."""
    order = Order("o", "t", "light", (Channel("signal", signal=10)._replace(**change),), {}, None)

    with pytest.raises((ValueError, TypeError)):
        wire.order(arrived("deliver", order=order)["order"])


@pytest.mark.parametrize("change", [
    {"times": -1}, {"not_before_seconds": -0.1}, {"again_after_seconds": -300.0}, {"valid_seconds": -1e308}], ids=str)
def test_order_for_the_past_is_none(change: dict[str, Any]) -> None:
    """A pause that is less than nothing would lift every pause."""
    order = Order("o", "t", "light", (), {}, None)._replace(**change)

    with pytest.raises(ValueError, match="before now"):
        wire.order(arrived("deliver", order=order)["order"])


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**64])
def test_number_that_no_process_has_is_no_identity(pid: int) -> None:
    """-1 would mean every process there is."""
    with pytest.raises(ValueError, match="no process has"):
        wire.identity(["boot", pid, 1, None])


@pytest.mark.parametrize(("line", "inclusive", "used", "crossed"), [
    (100.0, False, 100.0, False), (100.0, False, 100.5, True), (100.0, True, 100.0, True), (100.0, True, 99.5, False),
    (None, False, 0.0, True)])
def test_order_is_crossed_as_its_rule_says(line: float | None, inclusive: bool, used: float, crossed: bool) -> None:
    """`>` and `>=` differ on the line itself; without a line an order is for now."""
    assert Order("o", "t", "light", (), {}, line, inclusive).crossed(used) is crossed


def test_line_is_never_waited_for() -> None:
    """Nothing there is None, a full line is False, the other side's end is b"" and False."""
    ours, theirs = wire.pair()
    theirs.setblocking(False)
    assert wire.receive(ours) is None
    sent = 0
    while wire.send(ours, b"x" * 60000):
        sent += 1
    assert sent > 0
    assert [len(wire.receive(theirs) or b"") for _ in range(sent)] == [60000] * sent
    assert wire.receive(theirs) is None
    assert wire.send(ours, b"one")
    assert wire.send(ours, b"two")
    assert [wire.receive(theirs), wire.receive(theirs)] == [b"one", b"two"]
    theirs.close()

    assert wire.receive(ours) == b""
    assert not wire.send(ours, b"x")
    ours.close()


def test_guards_end_never_blocks_and_the_other_one_does() -> None:
    """A child that has nothing to do sleeps on its end."""
    ours, theirs = wire.pair()
    assert (ours.getblocking(), theirs.getblocking()) == (False, True)
    assert ours.type == theirs.type == socket.SOCK_SEQPACKET
    ours.close()
    theirs.close()


def test_descriptor_comes_with_its_message() -> None:
    """Only with the message that it was sent with; what the receiver has of it is its own, and not for its children."""
    ours, theirs = wire.pair()
    reading, writing = os.pipe()
    assert wire.receive_passed(ours) == (None, [])
    theirs.send(b"one")
    assert wire.send(theirs, b"two", writing)
    os.close(writing)

    assert wire.receive_passed(ours) == (b"one", [])
    data, fds = wire.receive_passed(ours)
    assert (data, len(fds)) == (b"two", 1)
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(reading, 2) == b"x"
    theirs.close()
    assert wire.receive_passed(ours) == (b"", [])
    ours.close()
    for fd in (reading, *fds):
        os.close(fd)


def test_descriptor_that_nobody_takes_is_closed() -> None:
    """A message read without its descriptor, or never read, keeps nothing open."""
    ours, theirs = wire.pair()
    reading, writing = os.pipe()
    for _ in range(2):
        assert wire.send(theirs, b"one", writing)
    os.close(writing)
    wire.receive(ours)
    ours.close()
    theirs.close()

    assert os.read(reading, 1) == b""
    os.close(reading)


# sidecar.tuples, in which all of this is said


THREE = """
from __future__ import annotations
from {module} import NamedTuple

class Three(NamedTuple):
    "Three."
    a: int
    b: str = "x"
    c: float = 0.5

    def double(self) -> int:
        return self.a * 2

    @property
    def size(self) -> int:
        return len(self)

    @classmethod
    def of(cls, a: int) -> Three:
        return cls(a, "of")
"""


def pairs() -> Iterator[type]:
    """The same class by our means and by typing's."""
    for module in ("sidecar.tuples", "typing"):
        names: dict[str, Any] = {"__name__": __name__}
        exec(THREE.format(module=module), names)  # noqa: S102 - one text, run with two imports
        yield names["Three"]


@pytest.mark.parametrize("question", [
    lambda made: made(1), lambda made: made(1, c=2.0), lambda made: made(1)._replace(b="y"),
    lambda made: made(1).double(),
    lambda made: made._fields, lambda made: made._field_defaults, lambda made: made(1)._asdict(),
    lambda made: repr(made(1)), lambda made: made(1) == (1, "x", 0.5), lambda made: hash(made(1)),
    lambda made: made(1) < made(2), lambda made: made.of(3), lambda made: made(1).size, lambda made: made.__doc__,
    lambda made: made.__match_args__, lambda made: made._make([1, 2, 3]),
    lambda made: type(made(1)._replace(a=2)) is made,
    lambda made: made.__name__, lambda made: made.__module__, lambda made: json.dumps(made(1)),
    lambda made: hasattr(made(1), "__dict__"), lambda made: isinstance(made(1), tuple)])
def test_named_tuple_is_as_that_of_typing(question: Callable[[type], Any]) -> None:
    """Defaults, replacement, methods, comparison, representation: one answer from both."""
    ours, theirs = pairs()

    assert question(ours) == question(theirs)


@pytest.mark.parametrize("mistake", [
    lambda made: made(), lambda made: made(1, 2, 3, 4), lambda made: made(d=1), lambda made: made(1)._replace(d=1),
    lambda made: setattr(made(1), "a", 2), lambda made: setattr(made(1), "d", 2)])
def test_named_tuple_refuses_what_that_of_typing_refuses(mistake: Callable[[type], Any]) -> None:
    """The same kinds of errors."""
    errors = []
    for made in pairs():
        with pytest.raises((TypeError, ValueError, AttributeError)) as raised:
            mistake(made)
        errors.append(raised.type)

    assert errors[0] is errors[1]


def test_named_tuple_matches_and_unpacks() -> None:
    """As any tuple, and by its names."""
    match Channel("signal", 10):
        case Channel(kind="signal", signal=number):
            assert number == 10
        case _:
            pytest.fail("it did not match")
    kind, *_ = Channel("http")
    assert kind == "http"
