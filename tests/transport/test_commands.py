"""What we ask of the link and must not: a defect of ours, told in the thread that asked."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from splitfed.errors import Defect
from splitfed.transport.commands import MAX_AWAITED
from splitfed.transport.events import STATE
from splitfed.transport.memory import MemoryHub
from splitfed.transport.sending import MOST_PASSED_ON
from tests.support.networks import LinkParty, outgoing_of

CAROLS = outgoing_of("carol", 1, b"payload")


@pytest.fixture
def alice() -> Iterator[LinkParty]:
    party = LinkParty("alice", MemoryHub(["alice", "bob", "carol"]).wire("alice"))
    yield party
    party.link.close(0.0)


def test_nothing_is_said_to_whom_the_link_does_not_know(alice: LinkParty) -> None:
    own = alice.outgoing(1, b"payload")
    for to in (["dora"], ["bob", "alice"]):
        with pytest.raises(Defect, match="no peer of this link"):
            alice.link.offer(own, to=to)
        with pytest.raises(Defect, match="no peer of this link"):
            alice.link.pass_on(CAROLS.offer, CAROLS.payload, to)
        with pytest.raises(Defect, match="no peer of this link"):
            alice.link.note(1, "carol", "view", b"word", bytes(64), to=to)


def test_only_what_others_release_is_passed_on(alice: LinkParty) -> None:
    states = outgoing_of("carol", 1, b"payload", kind=STATE)
    for out in (alice.outgoing(1, b"payload"), states):
        with pytest.raises(Defect, match="nothing to pass on"):
            alice.link.pass_on(out.offer, out.payload, ["bob"])


def test_what_is_passed_on_is_what_its_manifest_describes(alice: LinkParty) -> None:
    with pytest.raises(Defect, match="manifest"):
        alice.link.pass_on(CAROLS.offer, b"another payload", ["bob"])
    long = msgspec.structs.replace(CAROLS.offer.manifest, chunks=(bytes(32),) * 40_000)
    with pytest.raises(Defect, match="does not fit a frame"):
        alice.link.pass_on(msgspec.structs.replace(CAROLS.offer, manifest=long), None, ["bob"])


def test_nobody_is_told_that_a_state_is_stored(alice: LinkParty) -> None:
    state = outgoing_of("bob", 1, b"payload", kind=STATE)
    with pytest.raises(Defect, match="in no ledger"):
        alice.link.stored("bob", state.offer, bytes(64))


@pytest.mark.parametrize(
    ("origin", "kind", "body", "signature"),
    [
        ("", "view", b"word", bytes(64)),
        ("c" * 65, "view", b"word", bytes(64)),
        ("carol", "gossip", b"word", bytes(64)),
        ("carol", "view", b"", bytes(64)),
        ("carol", "view", bytes(64 * 1024 + 1), bytes(64)),
        ("carol", "view", b"word", bytes(63)),
    ],
    ids=lambda value: str(value)[:8],
)
def test_a_note_that_no_peer_could_read_is_not_sent(
    alice: LinkParty, origin: str, kind: str, body: bytes, signature: bytes
) -> None:
    with pytest.raises(Defect, match="no peer could read"):
        alice.link.note(1, origin, kind, body, signature)


def test_more_than_the_bound_passed_on_stops_the_link_and_is_told_to_its_reader(
    alice: LinkParty,
) -> None:
    for round in range(1, MOST_PASSED_ON + 2):
        out = outgoing_of("carol", round, b"payload")
        alice.link.pass_on(out.offer, out.payload, ["bob"])
    alice.link.start()
    with pytest.raises(Defect, match=f"more than {MOST_PASSED_ON} offers passed on"):
        alice.link.next(30.0)


def test_a_party_waits_for_no_more_names_than_can_be_sent(alice: LinkParty) -> None:
    names = [f"party{number}" for number in range(MAX_AWAITED + 1)]
    alice.link.status("waiting", 1, awaits=names[1:])
    with pytest.raises(Defect, match="257 parties awaited"):
        alice.link.status("waiting", 1, awaits=names)


@pytest.mark.parametrize(("parties", "bound"), [(2, 64), (16, 64), (30, 120)])
def test_each_party_has_room_for_four_offers_that_are_passed_on(parties: int, bound: int) -> None:
    names = ["alice", "bob", *(f"party{number}" for number in range(parties - 2))]
    party = LinkParty("alice", MemoryHub(names).wire("alice"))
    conversations = vars(party.link)["_conversations"]
    assert {c.settings.passed_on for c in conversations.values()} == {bound}
    party.link.close(0.0)
