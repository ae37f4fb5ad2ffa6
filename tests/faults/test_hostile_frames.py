"""Fuzzed frames of a valid key: a violation by name or nothing, and no change in any folder."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from splitfed.errors import ProtocolViolation
from splitfed.store import RunFolder
from splitfed.transport.events import Arrived, Failed, Greeted, Greeting, Status, StatusChanged
from splitfed.transport.frames import Goodbye, Hello, StatusBody, Type
from splitfed.transport.link import Link
from splitfed.transport.zeromq import ZmqWire
from tests.support.hostile import RawPeer, bodies, mangled, until
from tests.support.members import Town
from tests.support.networks import LinkParty
from tests.support.street import Street, greeting, swap
from tests.support.wires import QUICK, keys_of


@pytest.fixture
def street() -> Iterator[Street]:
    one = Street()
    try:
        yield one
    finally:
        one.close()


def test_fuzzed_frames_on_other_connections_of_the_same_key_end_only_those(
    street: Street,
) -> None:
    bob = street.honest("bob")
    rng = random.Random(3)
    kinds = [kind for kind in bodies() if not isinstance(kind, Hello)]
    for round in range(1, 4):
        for _ in range(10):
            one = street.hostile()
            one.session = rng.choice((bytes(16), b"s" * 16))
            for _ in range(10):
                one.raw(*mangled(rng, one, kinds))
        swap(street.alice, bob, round)
    assert not street.alice.of(Failed)
    assert len(bob.of(Greeted)) == 1


def test_every_fuzzed_frame_in_session_is_a_violation_by_name_or_nothing() -> None:
    rng = random.Random(4)
    ended = 0
    for _ in range(40):
        street = Street()
        try:
            bob = street.hostile()
            bob.greet(greeting())
            street.alice.wait(Greeted)
            for _ in range(5):
                bob.raw(*mangled(rng, bob, bodies()))
                bob.sent += 1
            bob.say(StatusBody(Status("a mark", 9, 9, 9)), sequence=bob.sent + 1)
            until(partial(settled, street.alice), "the frames to be read")
            for failed in street.alice.of(Failed):
                ended += " parts of " not in failed.error.message
                assert isinstance(failed.error, ProtocolViolation)
                assert failed.error.message.startswith("bob ")
            assert not street.alice.of(Arrived)
        finally:
            street.close()
    assert ended >= 20


def settled(alice: LinkParty) -> bool:
    """Whether the frames sent before the mark had their effect: the end of the peer, of the
    session, or none."""
    while (event := alice.link.next(0.0)) is not None:
        alice.events.append(event)
    view = alice.link.peers_status()["bob"]
    marked = any(event.status.phase == "a mark" for event in alice.of(StatusChanged))
    return view.state in ("failed", "left", "greeting") or marked or alice.link.traffic().stale > 0


class OpenTown(Town):
    """A town whose parties are reached through ZeroMQ."""

    def link(
        self, name: str, greeting: Greeting, accept: Any, wanted: Any = lambda offer: False
    ) -> Link:
        roster = {
            other: keys_of(other, "tcp://127.0.0.1:1" if other == "a" else None, secret)
            for other, secret in self.secrets.items()
        }
        self.open_wire = ZmqWire(self.identity(name), roster, "tcp://127.0.0.1:0", options=QUICK)
        return Link(
            self.open_wire,
            name,
            ["b"],
            greeting=greeting,
            accept=accept,
            wanted=wanted,
            verify=self.verify,
        )


def durable(path: Path) -> tuple[Any, ...]:
    """What a peer could have changed in a run folder."""
    with RunFolder.read_only(path) as folder:
        return (
            [row.row for row in folder.ledger.rows()],
            folder.inputs(1),
            [vote.party for vote in folder.votes(1) if vote.party != "a"],
            folder.peer_folders,
            folder.run,
        )


def test_a_thousand_fuzzed_frames_change_nothing_in_the_folder_of_a_running_party(
    tmp_path: Path,
) -> None:
    town = OpenTown(tmp_path, ["a", "b"])
    read = threading.Event()

    def wait_in_round_two(round: int) -> None:
        if round == 2:
            assert read.wait(60), "the frames were not read"

    town.learners["a"].crash = wait_in_round_two
    town.start("a")
    until(lambda: getattr(town, "open_wire", None) is not None and bool(town.open_wire.endpoint))
    a = town.secrets["a"].curve_public
    peers = [RawPeer(str(town.open_wire.endpoint), town.secrets["b"], a) for _ in range(5)]
    try:
        hello = town.greeting("b", b"folder of b.....", 1)
        peers[0].greet(hello)
        while peers[0].hear()[0].type is not Type.OFFER:
            pass  # then its update is released and it waits for ours
        before = durable(tmp_path / "a")
        rng = random.Random(5)
        kinds = [kind for kind in bodies() if not isinstance(kind, Goodbye)]
        received = town.open_wire.bytes_received
        total = 0
        for peer in peers:
            peer.session = peers[0].session
            for _ in range(200):
                message = mangled(rng, peer, kinds)
                total += sum(len(part) for part in message)
                peer.raw(*message)
        until(lambda: town.open_wire.bytes_received - received >= total)
        assert durable(tmp_path / "a") == before
        read.set()
        town.wait("a")
    finally:
        read.set()
        for peer in peers:
            peer.close()
    assert not isinstance(town.endings["a"], BaseException), town.endings["a"]
    assert town.endings["a"].outcome == "alone"
    assert town.rejected["a"][-1]["peer"] == "b"
    assert town.rejected["a"][-1]["reason"]
    assert town.learners["a"].trained == [1, 2, 3, 4]
