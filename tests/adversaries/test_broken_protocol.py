"""A valid key that breaks the protocol of a running party, and strangers beside a running pair:
over the real link, with the culprit in ``rejected`` or nobody accused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from splitfed.rounds.vote import encode_vote, make_vote
from splitfed.tensors import digest
from splitfed.transport import zmtp
from splitfed.transport.allowance import BURST
from splitfed.transport.events import Arrived, Status, Voted, vote_message
from splitfed.transport.frames import StatusBody
from splitfed.transport.keys import make_secret
from tests.support.adversary import Adversary, RealTown, real_town
from tests.support.hostile import Crowd, RawPeer, until
from tests.support.members import INITIAL


def blamed(town: RealTown) -> str:
    """Why a refused b, once it has ended alone with all rounds trained."""
    town.wait("a")
    assert not isinstance(town.endings["a"], BaseException), town.endings["a"]
    assert town.endings["a"].outcome == "alone"
    assert {fault["peer"] for fault in town.rejected["a"]} == {"b"}
    assert town.learners["a"].trained == list(range(1, town.terms.rounds + 1))
    reason = town.rejected["a"][-1]["reason"]
    assert isinstance(reason, str)
    return reason


# --- rounds that are not open ---------------------------------------------------------------


def test_an_update_of_a_far_round_is_refused_by_name(tmp_path) -> None:
    town = real_town(tmp_path)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 9, number=1)
        assert "round 9 while round 1 is open" in blamed(town)


def test_a_stale_update_under_the_open_round_s_number_is_an_equivocation_by_name(tmp_path) -> None:
    """Round 1's bytes again in round 2: they may be equal, their entry in the ledger may not."""
    town = real_town(tmp_path)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1)
        b.vote(b.expect(Voted))
        b.expect(Arrived)
        b.offer(INITIAL, 2, number=1, head=bytes([1]) * 32)
        assert "two different entries number 1" in blamed(town)


def test_a_replayed_update_of_a_closed_round_changes_nothing(tmp_path) -> None:
    town = real_town(tmp_path, rounds=2)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1)
        b.vote(b.expect(Voted))
        b.expect(Arrived)
        b.link.discard(1)
        b.offer(INITIAL, 1)  # once more, as it was
        b.offer(INITIAL, 2)
        b.vote(b.expect(Voted))
        b.link.goodbye("finished", 2)
        town.wait("a")
    assert town.endings["a"].outcome == "done"
    assert [row["outcome"] for row in town.history("a")] == ["agreed", "agreed"]
    assert town.rejected["a"] == []


def test_an_update_signed_for_another_run_is_left_out_by_name(tmp_path) -> None:
    town = real_town(tmp_path, max_void_rounds=0)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1, run=b"q" * 32)
        b.vote(b.expect(Voted))
        assert "another run" in blamed(town)


# --- two tongues ----------------------------------------------------------------------------


def test_two_updates_for_one_round_are_kept_as_evidence_against_their_signer(tmp_path) -> None:
    town = real_town(tmp_path)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1)
        b.expect(Voted)
        b.link.discard(1)
        b.offer({name: tensor + 0.5 for name, tensor in INITIAL.items()}, 1)
        assert "two different signed payloads" in blamed(town)


def two_votes(b: Adversary, seen: Voted) -> None:
    for aggregate in (b"x" * 32, b"y" * 32):
        body = encode_vote(
            make_vote(run=b.run, round=2, party="b", inputs={}, excluded={}, aggregate=aggregate)
        )
        b.link.vote(2, body, b.town.secrets["b"].sign(vote_message(body)))
    b.vote(seen)


VOTES: dict[str, tuple[Callable[[Adversary, Voted], None], str]] = {
    "another aggregate": (
        lambda b, seen: b.vote(seen, aggregate=b"x" * 32),
        "equal inputs, different aggregate",
    ),
    "an exclusion nobody else saw": (
        lambda b, seen: b.vote(seen, excluded={"a": "I do not like it"}),
        "different exclusions",
    ),
    "inputs that were never sent": (
        lambda b, seen: b.vote(seen, inputs={"a": b"y" * 32, "b": b"z" * 32}),
        "different updates of a",
    ),
    "two for one round": (two_votes, "two different votes for round 2"),
    "of a far round": (lambda b, seen: b.vote(seen, round=9), "a vote of view 0 for round 9"),
}


@pytest.mark.parametrize("kind", VOTES)
def test_a_vote_that_contradicts_ends_its_voter_by_name(tmp_path, kind: str) -> None:
    cast, says = VOTES[kind]
    town = real_town(tmp_path)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1)
        cast(b, b.expect(Voted))
        assert says in blamed(town)
    assert digest(INITIAL) not in town.closed("a")[1:]


# --- frames ---------------------------------------------------------------------------------


def flood(peer: RawPeer) -> None:
    for step in range(5 * BURST):  # more than an allowance grows by while a slow party reads
        peer.say(StatusBody(Status("training", 1, step, 10_000)))


FRAMES: dict[str, tuple[Callable[[RawPeer], None], str]] = {
    "a flood": (flood, "frames"),
    # Cut while it comes; on a slow machine it is whole before the look, and refused for its parts.
    "an endless message": (lambda peer: peer.endless(b"", 400_000), "message"),
    "garbage in session": (lambda peer: peer.raw(b"\xff" * 64, b"garbage"), ""),
    "one part too few": (lambda peer: peer.raw(b"alone"), ""),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_that_no_party_sends_end_their_sender_by_name(tmp_path, kind: str) -> None:
    act, says = FRAMES[kind]
    town = real_town(tmp_path, rounds=2)
    town.start("a")
    with town.raw() as peer:
        peer.greet(town.hello())
        act(peer)
        assert says in blamed(town)


# --- strangers: nobody is accused for them ----------------------------------------------------

STRANGERS = {
    "slow loris": zmtp.greeting()[:1],
    "garbage": b"GET / HTTP/1.1\r\n\r\n" * 20,
    "plaintext client": b"\xff" + bytes(8) + b"\x7f\x03\x01NULL".ljust(54, b"\0"),
}


@pytest.mark.parametrize("kind", [*STRANGERS, "unknown key"])
def test_strangers_beside_a_running_pair_change_nothing_and_accuse_nobody(
    tmp_path, kind: str
) -> None:
    town = real_town(tmp_path, rounds=2)
    town.start("a")
    until(lambda: "a" in town.open_wires and bool(town.open_wires["a"].endpoint), "a's port")
    crowd = Crowd(int(town.addresses["a"].rpartition(":")[2]))
    unknown = []
    try:
        if kind == "unknown key":
            for _ in range(5):
                secret = make_secret()
                one = RawPeer(town.addresses["a"], secret, town.secrets["a"].curve_public)
                one.raw(b"x" * 64, b"let me in")
                unknown.append(one)
        else:
            crowd.come(20, STRANGERS[kind])
        town.start("b")
        if kind == "slow loris":
            crowd.drip()
        town.wait("a", "b")
    finally:
        crowd.close()
        for one in unknown:
            one.close()
    for name in "ab":
        assert town.endings[name].outcome == "done"
        assert town.rejected[name] == []
    assert torch.equal(town.endings["a"].shared["w"], town.endings["b"].shared["w"])
