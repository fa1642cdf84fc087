"""The guard's hands: what it delivers, to whom, and above all what it never delivers. Real processes, no desk."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target, wait_until
from guarding import ANON, MIB, USR1, Hands, order, running_courier
from probing import as_nobody
from servers import free_port

from sidecar.guard.record import FlightRecord
from sidecar.guard.wire import Channel, decode, encode, event, pair
from sidecar.probes.agent_socket import dial
from sidecar.procfs import identify


@pytest.fixture
def hands() -> Iterator[Hands]:
    """A guard without a desk."""
    made = Hands()
    yield made
    made.close()


@pytest.fixture
def courier(hands: Hands) -> Iterator[subprocess.Popen[bytes]]:
    """A real courier process, connected."""
    with running_courier(hands) as process:
        yield process


def test_standing_order_is_carried_out_at_the_crossing(hands: Hands, spawn: Callable[..., Target]) -> None:
    """The signal is sent when the line is crossed, not before, and the event says what was used."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(target)
    hands.stand()
    for _ in range(20):
        hands.turn()
    assert hands.events == []

    target.tell("grow 100")
    crossed, answered = hands.until("crossed"), hands.until("answered")

    assert crossed.detail["used_bytes"] > 60 * MIB
    assert crossed.detail["labels"] == {"alertname": "RagMemoryCritical"}
    assert answered.detail["channel"] == "signal"
    assert hands.kinds() == ["crossed", "delivered", "answered"]


def test_signal_without_a_handler_is_refused_and_the_process_lives(hands: Hands, spawn: Callable[..., Target]) -> None:
    """SIGUSR1 kills a process that does not catch it: it is never sent there."""
    target = spawn("no_handler")
    hands.watch(target)
    target.tell("grow 100")
    hands.stand()

    refused = hands.until("refused")
    hands.until("spent")

    assert refused.detail["reason"] == "signal_default"
    assert target.process.poll() is None


def test_ignored_signal_is_refused(hands: Hands, spawn: Callable[..., Target]) -> None:
    """A signal that the process ignores would be lost: that is told instead."""
    target = spawn("no_handler", preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN))
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver()

    assert hands.until("refused").detail["reason"] == "signal_ignored"


def test_dry_run_walks_through_everything_and_delivers_nothing(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """The events are those of a delivery, and the handler never runs."""
    handled = tmp_path / "handled"
    target = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled))
    hands.watch(target)
    held = target.tell("grow 100")
    hands.stand(dry_run=True)

    answered = hands.until("answered")

    assert answered.detail["dry_run"] is True
    assert target.tell("grow 0") == held
    assert not handled.exists()


def test_no_id_is_given_twice_whatever_was_restarted(hands: Hands, spawn: Callable[..., Target]) -> None:
    """The same orders to another guard make other attempts: who keeps ids takes none for a repetition."""
    again = Hands()
    target = spawn("leaky")
    ids = []
    for guard in (hands, again):
        guard.watch(target)
        for _ in range(2):
            guard.events.clear()
            guard.deliver(line_bytes=None, dry_run=True)
            ids.append(guard.until("crossed").order)
            guard.until("spent")
    again.close()

    assert len(set(ids)) == 4
    assert all(attempt.startswith("o.") for attempt in ids)


def test_nothing_is_delivered_while_the_kill_switch_exists(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """The file alone stops the guard, whatever the desk has ordered."""
    switch = tmp_path / "kill-switch"
    switch.touch()
    hands.deliveries.kill_switch = str(switch)
    target = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(target)
    held = target.tell("grow 100")
    hands.stand()

    assert hands.until("refused").detail["reason"] == "kill_switch"
    for _ in range(20):
        hands.turn()
    assert target.tell("grow 0") == held


def test_process_with_the_same_pid_but_another_start_is_not_taken(hands: Hands, spawn: Callable[..., Target]) -> None:
    """A recycled pid is another process: it is not watched and gets nothing."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    real = identify(target.pid)
    hands.watch(target, real._replace(start_time_ticks=real.start_time_ticks - 1))
    target.tell("grow 100")
    hands.stand()
    hands.deliver()

    assert hands.until("changed").target == "t"
    assert hands.until("spent")
    assert "delivered" not in hands.kinds()


def test_no_delivery_after_the_program_has_been_exchanged_by_exec(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """exec keeps the pid and the start time but not the program: what was meant is gone."""
    other = tmp_path / "python"
    other.write_bytes(Path(sys.executable).resolve().read_bytes())
    other.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", EXEC, str(other)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"})
    try:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        hands.watchlist.watch("t", list(identify(process.pid)), ANON)
        hands.stand()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"1\n"

        refused = hands.until("refused")

        assert refused.detail["reason"] == "changed"
        assert "delivered" not in hands.kinds()
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


EXEC = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
grow = "import signal, time; signal.signal(10, print); x = bytearray(100 << 20); print(1, flush=True); time.sleep(60)"
os.execv(sys.argv[1], [sys.argv[1], "-c", grow])
"""


def test_end_of_the_process_is_told_and_orders_end_with_it(hands: Hands, spawn: Callable[..., Target]) -> None:
    """A target that ends is let go of at once."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(target)
    hands.stand()
    target.process.kill()

    assert hands.until("gone").target == "t"
    assert hands.watchlist.watches == {}


def test_order_whose_line_is_no_longer_crossed_is_not_delivered(hands: Hands, spawn: Callable[..., Target]) -> None:
    """Used bytes are read again right before acting."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(target)
    hands.deliver()

    recovered = hands.until("recovered")

    assert recovered.detail["used_bytes"] < 60 * MIB
    assert hands.kinds() == ["recovered"]


def test_one_delivery_in_flight_for_a_target(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes]
) -> None:
    """While an answer is awaited, neither the standing order nor another one is carried out."""
    target = spawn("leaky", "--handle", "SIGUSR1", "--http", "0", "--answer", "hang")
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup", timeout_seconds=2.0),))
    hands.until("delivered")
    hands.stand()
    hands.deliver()
    for _ in range(20):
        hands.turn()

    assert hands.kinds().count("crossed") == 1
    assert "busy" in hands.kinds()
    hands.until("failed")  # the first one has run out of time
    wait_until(lambda: (hands.turn(), hands.kinds().count("crossed") == 2)[1], 5, "the standing order's turn")


def test_post_reaches_the_endpoint_with_level_and_id(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """POST /cleanup carries the level, the attempt's id and the configured headers."""
    requests = tmp_path / "requests"
    target = spawn("leaky", "--http", "0", "--requests", str(requests))
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup", headers=(("X-Key", "k"),)),))

    answered = hands.until("answered")

    request = json.loads(requests.read_text())
    assert json.loads(request["body"]) == {"level": "aggressive", "id": answered.order}
    assert request["headers"]["X-Key"] == "k"
    assert answered.detail["status"] == 200
    assert hands.kinds() == ["crossed", "delivered", "answered"]


@pytest.mark.parametrize(("answer", "reason"), [
    ("error", "http_500"), ("nothing", "RemoteDisconnected"), ("hang", "timeout")])
def test_endpoint_that_fails_is_followed_by_the_next_channel(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes], answer: str, reason: str
) -> None:
    """A refusing, silent or hanging endpoint is told, and the signal is sent instead, under the same id."""
    target = spawn("leaky", "--handle", "SIGUSR1", "--http", "0", "--answer", answer)
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup", timeout_seconds=1.0), USR1))

    failed, answered = hands.until("failed"), hands.until("answered")

    assert failed.detail["reason"] == reason
    assert answered.detail["channel"] == "signal"
    assert answered.order == failed.order
    wait_until(lambda: target.tell("grow 0") == 0, 10, "the handler to run: the signal was taken a moment before")


def test_next_channel_is_left_out_when_memory_has_fallen_meanwhile(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """An endpoint that cleans up and never answers is not followed by a signal: the line is not crossed any more."""
    handled = tmp_path / "handled"
    target = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled), "--http", "0", "--answer", "hang")
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup", timeout_seconds=1.0), USR1))
    hands.until("delivered")
    target.tell("drop")

    hands.until("spent")

    assert hands.kinds() == ["crossed", "delivered", "failed", "spent"]
    assert not handled.exists()


@pytest.mark.parametrize("answer", ["html", "huge"])
def test_odd_answers_do_no_harm(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes], answer: str
) -> None:
    """HTML with status 200 counts as accepted; of 100 MB only a bounded part is read; the courier lives on."""
    target = spawn("leaky", "--http", "0", "--answer", answer)
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup"),))

    answered = hands.until("answered")

    assert len(answered.detail["body"]) <= 2000
    assert courier.poll() is None
    peak = Path(f"/proc/{courier.pid}/status").read_text().split("VmHWM:")[1].split()[0]
    assert int(peak) < 60_000


def test_nobody_listens(hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes]) -> None:
    """A connection that is refused is a failure, and with no other channel the order is spent."""
    target = spawn("leaky")
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"http://127.0.0.1:{free_port()}/cleanup"),))

    assert hands.until("failed").detail["reason"] == "ConnectionRefusedError"
    assert hands.until("spent")


def test_slow_loris_is_cut_off_at_the_total_deadline(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes]
) -> None:
    """An answer that drips byte by byte does not outlive the one total deadline."""
    listener = socket.create_server(("127.0.0.1", 0))
    dripping = subprocess.Popen([sys.executable, "-c", DRIP, str(listener.fileno())], pass_fds=[listener.fileno()])
    try:
        target = spawn("leaky")
        hands.watch(target)
        target.tell("grow 100")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/cleanup"
        hands.deliver(channels=(Channel("http", url=url, timeout_seconds=1.0),))

        assert hands.until("failed").detail["reason"] == "timeout"
    finally:
        listener.close()
        dripping.kill()
        dripping.wait()


DRIP = """
import socket, sys, time
peer, _ = socket.socket(fileno=int(sys.argv[1])).accept()
peer.send(b"HTTP/1.1 200 OK\\r\\nX-Drip: ")
while True:
    peer.send(b"x")
    time.sleep(0.1)
"""


def test_courier_that_dies_costs_one_failed_delivery(
    hands: Hands, spawn: Callable[..., Target], courier: subprocess.Popen[bytes]
) -> None:
    """What a dead courier carried is told as undelivered, and the next channel is used."""
    target = spawn("leaky", "--handle", "SIGUSR1", "--http", "0", "--answer", "hang")
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup", timeout_seconds=30.0), USR1))
    hands.until("delivered")
    courier.kill()

    assert hands.until("failed").detail["reason"] == "no_courier"
    assert hands.until("answered").detail["channel"] == "signal"


def test_orders_from_before_the_last_delivery_do_not_lift_the_pause(
    hands: Hands, spawn: Callable[..., Target]
) -> None:
    """A desk that has not yet seen the last delivery cannot make the guard deliver twice."""
    target = spawn("stubborn")
    hands.watch(target)
    target.tell("grow 100")
    hands.stand()
    hands.until("answered")
    hands.watchlist.stand("t", json.loads(encode("orders", orders=[order()]))["orders"], seen=0)
    for _ in range(20):
        hands.turn()

    assert hands.kinds().count("crossed") == 1


def test_events_wait_for_a_desk_that_takes_none() -> None:
    """A full socket loses nothing; when the record is full the oldest is given up and counted."""
    record = FlightRecord()
    ours, theirs = pair()
    for number in range(6000):
        record.tell("unreadable", "t", reason="x" * 500)
        record.flush(ours)
        if number == 99:
            record.done(50)
    assert record.lost > 0
    got = []
    while not got or select.select([theirs], [], [], 0)[0]:
        record.flush(ours)
        got.append(event(decode(theirs.recv(65536))[1]["event"]).number)
        record.flush(ours)

    assert got[-1] == 6000
    assert got == sorted(got)
    ours.close()
    theirs.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_process_of_another_user_is_watched_but_not_signalled(hands: Hands, spawn: Callable[..., Target]) -> None:
    """What is not ours to signal is refused with that reason; its memory can be read all the same."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    target.tell("grow 100")

    def refused() -> str:
        hands.watch(target, identify(target.pid))
        hands.deliver()
        return str(hands.until("refused").detail["reason"])

    assert as_nobody(refused) == "permission"
    assert target.tell("grow 0") == 100 * MIB


def test_event_that_cannot_be_told_is_replaced_by_one_that_says_so() -> None:
    """Nothing that an event holds, however large or odd, ends the guard."""
    record = FlightRecord()
    ours, theirs = pair()
    record.tell("crossed", "t", "o", labels={"x": "y" * 100_000})
    record.tell("crossed", "t", "o", used_bytes=float("nan"))
    record.flush(ours)
    told = [event(decode(theirs.recv(65536))[1]["event"]) for _ in range(2)]

    assert [(each.number, each.kind) for each in told] == [(1, "misunderstood"), (2, "misunderstood")]
    ours.close()
    theirs.close()


# The agents in the target's processes

AGENT = Channel("agent", timeout_seconds=5.0)


def link(hands: Hands, target: Target, place: Path, process: str = "main") -> None:
    """Hand a socket to the agent of a program over, as the desk does."""
    connected = dial(target.pid, lambda: None, str(place))
    hands.watchlist.link([connected.detach()], "t", process, target.pid, identify(target.pid).start_time_ticks)


def test_agent_is_asked_and_its_acceptance_is_the_delivery(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """It is delivered when the agent has accepted it, and answered with what the agent tells of it."""
    target = spawn("odd_agent", "--place", str(tmp_path))
    hands.watch(target)
    link(hands, target, tmp_path)
    target.tell("grow 100")
    hands.deliver(channels=(AGENT,))

    answered = hands.until("answered")

    assert hands.kinds() == ["crossed", "delivered", "answered"]
    assert answered.detail["channel"] == "agent"
    assert answered.detail["told"] == {
        "freed_bytes": 100 * MIB, "predicted_bytes": 100 * MIB, "objects_collected": 7, "pause_seconds": 0.002,
        "duration_seconds": 0.01}
    assert answered.detail["processes"] == [{"process": "main", "outcome": "done", **answered.detail["told"]}]
    assert target.tell("grow 0") == 0
    target.tell("grow 100")
    hands.deliver(channels=(AGENT,), id="again")
    wait_until(lambda: (hands.turn(), hands.kinds().count("answered") == 2)[1], 5, "the same socket to serve twice")


def test_one_order_reaches_the_agents_of_all_processes(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Every process is asked at once; what they tell is added up, and one that fails does not spoil it."""
    targets = [spawn("odd_agent", "--place", str(tmp_path), *more) for more in ([], [], ["--cleanup", "busy"])]
    hands.watch(targets[0])
    for number, target in enumerate(targets):
        link(hands, target, tmp_path, f"worker-{number}")
        target.tell("grow 70")
    hands.deliver(channels=(AGENT,))

    answered = hands.until("answered")

    assert [target.tell("grow 0") for target in targets] == [0, 0, 70 * MIB]
    assert answered.detail["told"]["freed_bytes"] == 140 * MIB
    assert answered.detail["told"]["pause_seconds"] == 0.002
    assert {row["process"]: row.get("outcome", row.get("failed")) for row in answered.detail["processes"]} == {
        "worker-0": "done", "worker-1": "done", "worker-2": "busy"}


@pytest.mark.parametrize(("how", "reason"), [
    ("busy", "busy"), ("error", "http_500"), ("garbage", "protocol"), ("endless", "protocol"), ("interim", "protocol"),
    ("huge", "protocol"), ("deep", "protocol"), ("list", "protocol"), ("chunked", "protocol"), ("close", "closed"),
    ("die", "closed"), ("accept-close", "closed"), ("accept-garbage", "protocol"), ("accept-die", "closed")])
def test_agent_that_fails_is_told_and_the_next_channel_used(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path, how: str, reason: str
) -> None:
    """Whatever an agent does instead of its work: a failure with that reason, then the next channel."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--cleanup", how, "--handle", "SIGUSR1")
    hands.watch(target)
    link(hands, target, tmp_path)
    target.tell("grow 100")
    hands.deliver(channels=(AGENT, USR1), cleanup="standard")

    if "die" in how:
        wait_until(lambda: (hands.turn(), {"failed", "gone"} & set(hands.kinds()))[1], 5, "the failure")
        return
    failed, answered = hands.until("failed"), hands.until("answered")

    assert failed.detail["reason"] == reason
    assert (answered.detail["channel"], answered.order) == ("signal", failed.order)
    wait_until(lambda: target.tell("grow 0") == 0, 10, "the handler to run: the signal was taken a moment before")
    assert hands.lost or how in ("busy", "error")


@pytest.mark.parametrize("how", ["nothing", "drip", "accept-nothing", "accept-drip"])
def test_agent_that_keeps_silent_is_given_up_at_the_deadline(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path, how: str
) -> None:
    """No answer, or one byte now and then: the order is told as failed, its socket closed, the next channel used."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--cleanup", how, "--handle", "SIGUSR1")
    hands.watch(target)
    link(hands, target, tmp_path)
    target.tell("grow 100")
    hands.deliver(channels=(AGENT._replace(timeout_seconds=0.5), USR1), cleanup="standard")

    assert hands.until("failed").detail["reason"] == "timeout"
    assert hands.until("answered").detail["channel"] == "signal"
    assert hands.lost == [("t", target.pid)]
    assert hands.agents.count("t") == 0


@pytest.mark.parametrize("how", ["nothing", "late"])
def test_aggressive_cleanup_does_not_wait_for_an_agent(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path, how: str
) -> None:
    """Without an acceptance the signal is sent beside it, under the same id; it is delivered once."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--cleanup", how, "--handle", "SIGUSR1")
    hands.watch(target)
    link(hands, target, tmp_path)
    target.tell("grow 100")
    hands.stand(channels=(AGENT._replace(timeout_seconds=30.0), USR1))

    answered = hands.until("answered")

    assert hands.kinds() == ["crossed", "delivered", "answered"]
    assert [each.detail["channel"] for each in hands.events if each.kind != "crossed"] == ["signal", "signal"]
    assert answered.order == hands.events[0].order
    wait_until(lambda: target.tell("grow 0") == 0, 10, "the handler to run: the signal was taken a moment before")


def test_agent_that_accepts_in_time_needs_no_signal(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """The signal is for agents that are deaf."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--handle", "SIGUSR1")
    hands.watch(target)
    link(hands, target, tmp_path)
    target.tell("grow 100")
    hands.stand(channels=(AGENT, USR1))

    assert hands.until("answered").detail["channel"] == "agent"
    assert "signal" not in {each.detail.get("channel") for each in hands.events}


def test_no_agent_is_a_refusal_and_the_next_channel_is_used(hands: Hands, spawn: Callable[..., Target]) -> None:
    """Where no agent has been found the order goes on at once."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(target)
    target.tell("grow 100")
    hands.deliver(channels=(AGENT, USR1))

    assert hands.until("refused").detail["reason"] == "no_agent"
    assert hands.until("answered").detail["channel"] == "signal"


def test_dry_run_asks_no_agent(hands: Hands, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The events are those of a delivery, and the agent hears nothing."""
    target = spawn("odd_agent", "--place", str(tmp_path))
    hands.watch(target)
    link(hands, target, tmp_path)
    held = target.tell("grow 100")
    hands.deliver(channels=(AGENT,), dry_run=True)

    assert hands.until("answered").detail["dry_run"] is True
    assert target.tell("grow 0") == held


def test_end_of_a_process_lets_its_socket_go(hands: Hands, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A worker that ends is not asked any more; the end of the target lets go of all of them."""
    first, second, third = (spawn("odd_agent", "--place", str(tmp_path)) for _ in range(3))
    hands.watch(first)
    for number, target in enumerate((first, second, third)):
        link(hands, target, tmp_path, f"worker-{number}")
    second.process.kill()
    wait_until(lambda: (hands.turn(), hands.agents.count("t") == 2)[1], 5, "the worker's socket to be closed")
    assert hands.lost == [("t", second.pid)]
    first.process.kill()
    hands.until("gone")

    assert hands.agents.count("t") == 0


def test_new_desk_hands_its_own_sockets_over(hands: Hands, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A desk that starts anew counts the processes anew: of each one there is one socket, and it is asked once."""
    first, second = (spawn("odd_agent", "--place", str(tmp_path)) for _ in range(2))
    hands.watch(first)
    for names in ("ab", "ba", "ba"):
        for target, name in zip((first, second), names, strict=True):
            link(hands, target, tmp_path, name)
    first.tell("grow 100")
    hands.deliver(channels=(AGENT,))

    assert {row["process"]: row["freed_bytes"] for row in hands.until("answered").detail["processes"]} == {
        "b": 100 * MIB, "a": 0}


def test_socket_that_leads_elsewhere_is_not_kept(hands: Hands, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The guard sees for itself who is at the other end; nothing that it does not keep stays open."""
    target, other = (spawn("odd_agent", "--place", str(tmp_path)) for _ in range(2))
    hands.watch(target)
    start = identify(target.pid).start_time_ticks
    before = len(os.listdir("/proc/self/fd"))
    for make in (lambda: dial(other.pid, lambda: None, str(tmp_path)).detach(), lambda: os.open("/dev/null", 0),
                 lambda: socket.socket(socket.AF_INET).detach(),
                 lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()):
        with pytest.raises(ValueError, match="handed over"):
            hands.watchlist.link([make()], "t", "main", target.pid, start)

    assert hands.agents.count("t") == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_number_of_another_life_is_not_asked(hands: Hands, spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A socket whose process has another start than it should have is closed instead of written to."""
    target = spawn("odd_agent", "--place", str(tmp_path))
    hands.watch(target)
    connected = dial(target.pid, lambda: None, str(tmp_path))
    hands.watchlist.link([connected.detach()], "t", "main", target.pid, identify(target.pid).start_time_ticks - 1)
    target.tell("grow 100")
    hands.deliver(channels=(AGENT,))

    assert hands.until("failed").detail["reason"] == "gone"
    assert target.tell("grow 0") == 100 * MIB


def test_what_many_agents_tell_fits_into_a_message(
    hands: Hands, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Wordy answers are cut: the event is told, with the sums, whatever they say."""
    targets = [spawn("odd_agent", "--place", str(tmp_path), "--cleanup", "wordy") for _ in range(8)]
    hands.watch(targets[0])
    for number, target in enumerate(targets):
        link(hands, target, tmp_path, f"worker-{number}")
    targets[0].tell("grow 100")
    hands.deliver(channels=(AGENT,))

    answered = hands.until("answered")

    assert len(answered.detail["processes"]) == 8
    assert [len(step["error"]) for step in answered.detail["steps"]] == [60]
    assert len(encode("event", event=answered)) < 8192
