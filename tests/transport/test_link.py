"""The link's thread: it wakes, it reports, it ends, and it never leaves its caller waiting."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import splitfed.transport
from splitfed.errors import Defect, PeerUnreachable, ResourceLimit, UserError
from splitfed.transport.events import (
    Arrived,
    Delivered,
    Failed,
    Greeted,
    Greeting,
    Noticed,
    Offer,
    Outgoing,
    StatusChanged,
    Voted,
)
from splitfed.transport.mailbox import MOST_ALIKE
from splitfed.transport.memory import MemoryHub, Recorded
from splitfed.transport.wire import Buffer, Sent, Trouble, Wire, WireEvent
from tests.support.networks import CHUNK, DEADLINE, LinkParty


class FakeWire(Wire):
    """A wire that does what a test tells it to."""

    bytes_sent = 0
    bytes_received = 0

    def __init__(self, on_poll: Callable[[], list[WireEvent]] = list) -> None:
        self._on_poll = on_poll
        self.opened_in: threading.Thread | None = None
        self.closed_in: threading.Thread | None = None

    @property
    def keys(self) -> Mapping[str, bytes]:
        return {"alice": b"a" * 32, "bob": b"b" * 32}

    def open(self) -> None:
        self.opened_in = threading.current_thread()

    def send(self, peer: str, connection: bytes, header: bytes, body: Buffer) -> Sent:
        return Sent.SENT

    def poll(self, wake_fd: int, timeout: float) -> list[WireEvent]:
        return self._on_poll()

    def rebuild(self, peer: str) -> None:
        pass

    def drop(self, peer: str, connection: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed_in = threading.current_thread()


@pytest.fixture
def links() -> Iterator[list[LinkParty]]:
    """Links that are closed at the end."""
    parties: list[LinkParty] = []
    yield parties
    for party in parties:
        party.link.close(0.0)


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub(["alice", "bob"])


def begin(links: list[LinkParty], name: str, wire: Wire, **options: Any) -> LinkParty:
    party = LinkParty(name, wire, **options)
    links.append(party)
    party.link.start()
    return party


def begin_pair(
    links: list[LinkParty], hub: MemoryHub, **options: Any
) -> tuple[LinkParty, LinkParty]:
    alice = begin(links, "alice", hub.wire("alice"), **options)
    bob = begin(links, "bob", hub.wire("bob"), **options)
    alice.wait(Greeted)
    bob.wait(Greeted)
    return alice, bob


def broken() -> list[WireEvent]:
    raise ZeroDivisionError("a bug of ours")


# --- an error in the thread ----------------------------------------------------------------------


def test_an_error_in_the_thread_reaches_whoever_waits_for_an_event(links: list[LinkParty]) -> None:
    party = begin(links, "alice", FakeWire(broken))
    with pytest.raises(Defect, match="a bug of ours") as caught:
        party.link.next()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(Defect):  # and again, however often
        party.link.next()


def test_an_error_in_the_thread_reaches_whoever_says_something(links: list[LinkParty]) -> None:
    party = begin(links, "alice", FakeWire(broken))
    with pytest.raises(Defect):
        party.link.next()
    with pytest.raises(Defect):
        party.vote(1, b"vote")
    party.link.close()  # closing always works


def test_an_accept_check_that_raises_is_a_defect_and_no_hang(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    def accept(offer: Offer) -> str | None:
        raise KeyError("a bug in the app")

    alice, bob = begin_pair(links, hub, accept=accept)
    bob.offer(1, b"payload")
    with pytest.raises(Defect, match="a bug in the app"):
        alice.wait(Arrived)


def test_a_wire_that_cannot_open_is_told_by_start_as_it_is(links: list[LinkParty]) -> None:
    class Taken(FakeWire):
        def open(self) -> None:
            raise UserError("the port is in use")

    party = LinkParty("alice", Taken())
    with pytest.raises(UserError, match="in use"):
        party.link.start()
    party.link.close()


def test_the_wire_is_opened_and_closed_in_the_links_own_thread(links: list[LinkParty]) -> None:
    wire = FakeWire(lambda: time.sleep(0.001) or [])
    party = begin(links, "alice", wire)
    party.link.close()
    assert wire.opened_in is wire.closed_in is not threading.current_thread()
    assert not wire.opened_in.is_alive()


def test_the_wire_is_closed_after_an_error_too(links: list[LinkParty]) -> None:
    wire = FakeWire(broken)
    party = begin(links, "alice", wire)
    party.link.close()
    assert wire.closed_in is wire.opened_in


# --- starting and closing ------------------------------------------------------------------------


def test_a_link_is_started_once(links: list[LinkParty], hub: MemoryHub) -> None:
    party = begin(links, "alice", hub.wire("alice"))
    with pytest.raises(Defect, match="once"):
        party.link.start()


def test_a_link_may_be_closed_before_it_started_and_twice() -> None:
    party = LinkParty("alice", FakeWire())
    party.link.close()
    party.link.close()
    assert party.link.next() is None


def test_whoever_waits_for_an_event_is_let_go_when_the_link_closes(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    party = begin(links, "alice", hub.wire("alice"))
    taken: list[object] = ["nothing yet"]
    waiter = threading.Thread(target=lambda: taken.append(party.link.next()))
    waiter.start()
    party.link.close()
    waiter.join(DEADLINE)
    assert not waiter.is_alive()
    assert taken[-1] is None


def test_closing_does_not_wait_for_a_peer_that_does_not_answer(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    alice, _ = begin_pair(links, hub)
    hub.hold("alice", "bob")
    alice.link.goodbye("interrupted", 0)
    closer = threading.Thread(target=lambda: alice.link.close(0.05))
    closer.start()
    closer.join(DEADLINE)
    assert not closer.is_alive()


def test_closing_waits_until_a_goodbye_was_read(links: list[LinkParty], hub: MemoryHub) -> None:
    alice, bob = begin_pair(links, hub)
    alice.link.goodbye("finished", 3)
    alice.link.close(DEADLINE)
    # No waiting here: the acknowledgement means that it was read.
    kinds = []
    while (event := bob.link.next(0.0)) is not None:
        kinds.append(type(event).__name__)
    assert "Left" in kinds


def test_what_is_said_before_the_start_is_sent_after_it(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    alice = LinkParty("alice", hub.wire("alice"))
    links.append(alice)
    alice.vote(1, b"early")
    alice.link.greet(alice.greeting(closed_round=7))
    alice.link.start()
    bob = begin(links, "bob", hub.wire("bob"))
    assert bob.wait(Voted).body == b"early"
    assert bob.wait(Greeted).greeting.closed_round == 7


# --- waking --------------------------------------------------------------------------------------


def test_a_word_of_the_app_wakes_the_thread_at_once(links: list[LinkParty], hub: MemoryHub) -> None:
    alice, bob = begin_pair(links, hub, status_interval=1e6)
    for round in range(1, 200):  # each would take a minute if it waited for the poll to end
        alice.vote(round, b"%d" % round)
        assert bob.wait(Voted, round).round == round


def test_status_of_every_step_costs_no_wire_bytes_but_a_new_phase_is_told(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    alice, bob = begin_pair(links, hub, status_interval=1e6)
    bob.wait(StatusChanged)
    sent = alice.link.traffic().wire_sent
    for step in range(5000):
        alice.link.status("starting", 0, step, 5000)
    assert alice.link.traffic().wire_sent == sent
    alice.link.status("training", 1, 0, 5000)
    assert bob.wait(StatusChanged, 2).status.phase == "training"


def test_a_phase_that_no_peer_would_accept_is_our_defect(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    party = begin(links, "alice", hub.wire("alice"))
    for phase in ("", "Training", "round 3", "x" * 33, "a\nb"):
        with pytest.raises(Defect, match="phase"):
            party.link.status(phase, 1)


def test_a_greeting_that_no_peer_could_read_is_our_defect(hub: MemoryHub) -> None:
    party = LinkParty("alice", hub.wire("alice"))
    fields = {"contract": b"short", "roster": bytes(32), "initial": bytes(32)}
    with pytest.raises(Defect, match="greeting"):
        party.link.greet(Greeting(name="alice", folder=bytes(16), boot=1, **fields))
    party.link.close()


def test_an_offer_that_is_not_its_payload_is_our_defect(hub: MemoryHub) -> None:
    party = LinkParty("alice", hub.wire("alice"))
    out = party.outgoing(1, b"payload")
    with pytest.raises(Defect, match="manifest"):
        party.link.offer(Outgoing(out.offer, b"another payload"))
    party.link.close()


def test_leaving_for_no_reason_of_the_protocol_is_our_defect(hub: MemoryHub) -> None:
    party = LinkParty("alice", hub.wire("alice"))
    with pytest.raises(Defect, match="reason"):
        party.link.goodbye("violation", 1)
    party.link.close()


# --- reports -------------------------------------------------------------------------------------


def test_traffic_counts_payload_and_wire_both_ways(links: list[LinkParty], hub: MemoryHub) -> None:
    alice, bob = begin_pair(links, hub)
    out = bob.offer(1, bytes(3 * CHUNK))
    alice.stored(alice.wait(Arrived).offer)
    bob.wait(Delivered)
    assert bob.link.traffic().payload_sent == len(out.payload)
    assert alice.link.traffic().payload_received == len(out.payload)
    assert bob.link.traffic().wire_sent > len(out.payload)
    assert bob.link.traffic().resumes == bob.link.traffic().reconnects == 0


def test_peers_status_tells_how_things_stand(links: list[LinkParty], hub: MemoryHub) -> None:
    alice = begin(links, "alice", hub.wire("alice"))
    assert alice.link.peers_status()["bob"].state == "absent"
    bob = begin(links, "bob", hub.wire("bob"))
    bob.link.status("training", 2, 3, 4)
    while alice.wait(StatusChanged).status.phase != "training":
        alice.events.clear()
    view = alice.link.peers_status()["bob"]
    assert view.state == "connected"
    assert view.status is not None
    assert (view.status.round, view.status.step) == (2, 3)
    assert view.last_sign_of_life is not None


def test_troubles_of_the_wire_are_noticed_and_fatal_ones_fail(links: list[LinkParty]) -> None:
    troubles: list[WireEvent] = [
        Trouble("bob", PeerUnreachable("nobody there"), fatal=False),
        Trouble("bob", PeerUnreachable("never will be"), fatal=True),
        Trouble("stranger", PeerUnreachable("not asked for"), fatal=True),
    ]
    wire = FakeWire(lambda: [troubles.pop(0)] if troubles else time.sleep(0.001) or [])
    party = begin(links, "alice", wire)
    assert party.wait(Noticed).error.message == "nobody there"
    assert party.wait(Failed).error.message == "never will be"


def test_a_flood_of_events_ends_the_peer_and_takes_no_memory(
    links: list[LinkParty], hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = MOST_ALIKE // 2
    monkeypatch.setattr("splitfed.transport.link.MAX_BACKLOG", most)
    alice, bob = begin_pair(links, hub)
    for number in range(MOST_ALIKE):
        bob.vote(1, b"vote %d" % number)
    bob.wait(Failed)  # bob is told; only now does the engine look
    while (event := alice.link.next(0.0)) is not None:
        alice.events.append(event)
    assert isinstance(alice.of(Failed)[0].error, ResourceLimit)
    assert len(alice.events) <= most + 50


def test_a_lost_chunk_is_pulled_again_in_a_new_session(
    links: list[LinkParty], hub: MemoryHub
) -> None:
    lost: list[Recorded] = []

    def lose(message: Recorded) -> bool:
        if message.header[5] == 6 and not lost:  # the first DATA
            lost.append(message)
        return lost[-1:] == [message]

    hub.lose = lose
    alice, bob = begin_pair(links, hub)
    out = bob.offer(1, bytes(range(256)) * 1024)
    assert bytes(alice.wait(Arrived).payload) == out.payload
    assert lost
    assert alice.link.traffic().reconnects == 1


def test_importing_the_words_of_the_link_imports_neither_torch_nor_zmq() -> None:
    code = (
        "import sys, splitfed.transport.events, splitfed.transport.wire, "
        "splitfed.transport.frames, splitfed.differences; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'zmq')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_has_one_name() -> None:
    path = Path(str(splitfed.transport.__file__))
    spec = importlib.util.spec_from_file_location("transport", path)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"splitfed\.transport"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
