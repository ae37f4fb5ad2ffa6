"""A party that closed the last round dies, and its peer, one round behind, lacks what it sent.

Nobody makes these bytes a second time: what comes after the restart must be what was said before.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from splitfed.errors import LinkDown
from splitfed.rounds.vote import decode_vote
from splitfed.store import RunFolder
from splitfed.transport.frames import Type, decode_header
from splitfed.transport.link import Link
from splitfed.transport.memory import Recorded
from tests.support.hostile import until
from tests.support.members import Town
from tests.support.trials import (
    PAIR,
    End,
    after_the_last_round,
    die_at,
    faults,
    pair,
    renew,
    return_of,
    standing,
    undisturbed,
)

ROUNDS = 2
WITHIN = 20.0


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    return undisturbed(tmp_path_factory.mktemp("calm"), rounds=ROUNDS)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return after_the_last_round(tmp_path_factory.mktemp("recorded"), rounds=ROUNDS)


def one_ahead(path: Path, victim: str, last: str) -> Town:
    """A town in which ``victim`` closed the last round and died. However often it sent its vote
    of that round, none has reached its peer; from now on nothing is lost."""
    town = pair(path, rounds=ROUNDS)

    def lose(message: Recorded) -> bool:
        header = decode_header(message.header)
        return (message.sender, header.type, header.round) == (victim, Type.VOTE, ROUNDS)

    peer, real = next(name for name in PAIR if name != victim), Link.vote

    def voted() -> bool:
        with RunFolder.read_only(town.folders[peer]) as folder:
            return any(row.party == peer for row in folder.votes(ROUNDS))

    def vote(link: Link, round: int, body: bytes, signature: bytes) -> None:
        """Each loss ends the session: before the peer has the update it might never get it."""
        if (decode_vote(body).party, round) == (victim, ROUNDS):
            until(voted, "the peer's vote")
        real(link, round, body, signature)

    town.hub.lose = lose
    with mock.patch.object(Link, "vote", vote):
        where, _ = die_at(town, victim, last, "lost")
    assert where == last
    town.hub.lose = None
    assert standing(town.folders[victim], ROUNDS)[1], "the victim closed all rounds"
    assert peer not in town.endings
    with RunFolder.read_only(town.folders[peer]) as folder:
        assert [vote.party for vote in folder.votes(ROUNDS)] == [peer]
        assert len(folder.history()) == ROUNDS - 1
    return town


@pytest.mark.parametrize("victim", PAIR)
def test_a_peer_gets_the_vote_that_it_lacks_from_a_party_that_closed_the_round_and_died(
    tmp_path: Path, calm: dict[str, End], last: dict[str, str], victim: str
) -> None:
    town = one_ahead(tmp_path, victim, last[victim])
    return_of(town, victim, WITHIN)
    assert faults(town, calm) == []


@pytest.mark.parametrize("victim", PAIR)
def test_a_peer_that_lost_the_stored_update_as_well_gets_both_again(
    tmp_path: Path, calm: dict[str, End], last: dict[str, str], victim: str
) -> None:
    """docs/operations.md promises it of a file that is gone from ``inbox/``."""
    town = one_ahead(tmp_path, victim, last[victim])
    peer = next(name for name in PAIR if name != victim)
    town.kill(peer)
    town.links[peer].close(0.0)
    town.wait(peer)
    assert isinstance(town.endings.pop(peer), LinkDown)
    with RunFolder.read_only(town.folders[peer]) as folder:
        (root,) = [row.root for row in folder.inputs(ROUNDS) if row.party == victim]
    (town.folders[peer] / "inbox" / root.hex()).unlink()
    renew(town, peer)
    town.start(peer)
    return_of(town, victim, WITHIN)
    assert faults(town, calm) == []
    assert town.links[peer].traffic().payload_received > 0
