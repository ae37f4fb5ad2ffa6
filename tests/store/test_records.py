"""Inputs, votes and closed rounds: the first word counts, and a batch is all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from splitfed.errors import Defect
from splitfed.store import Checkpoint, Evidence, InputRow, RunFolder, VoteRow
from tests.support.folders import close, new_folder, payload_of, row_of, sign, state_after

ROOT, OTHER = b"1" * 32, b"2" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with new_folder(tmp_path / "a") as opened:
        yield opened


# --- inputs -------------------------------------------------------------------------------


def test_inputs_come_back_by_round_in_order_of_party(folder: RunFolder) -> None:
    assert folder.save_input(1, "b", b"offer b", ROOT) is None
    assert folder.save_input(1, "a", b"offer a", OTHER, "not finite") is None
    assert folder.inputs(1) == (
        InputRow(round=1, party="a", offer=b"offer a", root=OTHER, reason="not finite"),
        InputRow(round=1, party="b", offer=b"offer b", root=ROOT),
    )
    assert [row.admitted for row in folder.inputs(1)] == [False, True]
    assert folder.inputs(2) == ()


def test_saving_the_same_input_again_changes_nothing(folder: RunFolder) -> None:
    for _ in range(2):
        assert folder.save_input(1, "b", b"offer", ROOT, "too long") is None
    assert len(folder.inputs(1)) == 1
    assert folder.evidence() == ()


def test_a_second_update_of_a_peer_is_evidence_and_the_first_counts(folder: RunFolder) -> None:
    folder.save_input(1, "b", b"first", ROOT)
    for _ in range(2):
        earlier = folder.save_input(1, "b", b"second", OTHER)
        assert earlier == InputRow(round=1, party="b", offer=b"first", root=ROOT)
    assert folder.inputs(1) == (earlier,)
    assert folder.evidence() == (Evidence(round=1, party="b", body=b"second"),)


def test_a_second_update_of_mine_is_a_defect(folder: RunFolder) -> None:
    folder.save_input(1, "a", b"first", ROOT)
    with pytest.raises(Defect, match="round 1: the update of a"):
        folder.save_input(1, "a", b"second", OTHER)
    assert [row.root for row in folder.inputs(1)] == [ROOT]


def test_another_verdict_on_the_same_bytes_is_a_defect(folder: RunFolder) -> None:
    """``admit`` is a pure function."""
    folder.save_input(1, "b", b"offer", ROOT)
    with pytest.raises(Defect, match="too long"):
        folder.save_input(1, "b", b"offer", ROOT, "too long")


# --- votes --------------------------------------------------------------------------------


def test_votes_come_back_byte_for_byte_in_order_of_view_and_party(folder: RunFolder) -> None:
    for view, party in ((1, "a"), (0, "b"), (0, "a")):
        assert folder.save_vote(1, view, party, b"body\0\xff", b"signed") is None
    assert [(vote.view, vote.party) for vote in folder.votes(1)] == [(0, "a"), (0, "b"), (1, "a")]
    expected = VoteRow(round=1, view=1, party="a", body=b"body\0\xff", signature=b"signed")
    assert folder.own_vote(1) == expected
    assert folder.own_vote(2) is None


def test_my_vote_never_changes_within_its_view(folder: RunFolder) -> None:
    folder.save_vote(1, 0, "a", b"first", b"s")
    with pytest.raises(Defect, match="a second, different vote of my own"):
        folder.save_vote(1, 0, "a", b"second", b"s")
    assert folder.save_vote(1, 0, "a", b"first", b"s") is None
    assert folder.save_vote(1, 1, "a", b"second", b"s") is None
    assert [vote.body for vote in folder.votes(1)] == [b"first", b"second"]


def test_a_peers_second_vote_is_evidence_and_the_first_counts(folder: RunFolder) -> None:
    folder.save_vote(1, 0, "b", b"first", b"s1")
    for _ in range(2):
        earlier = folder.save_vote(1, 0, "b", b"second", b"s2")
    assert earlier == VoteRow(round=1, view=0, party="b", body=b"first", signature=b"s1")
    assert folder.votes(1) == (earlier,)
    assert folder.evidence() == (Evidence(round=1, party="b", body=b"second", signature=b"s2"),)


def test_evidence_outlives_the_process(folder: RunFolder) -> None:
    folder.save_evidence(3, "b", b"body", b"s")
    folder.save_evidence(3, "b", b"body", b"s")
    folder.close()
    with new_folder(folder.path) as again:
        assert again.evidence() == (Evidence(round=3, party="b", body=b"body", signature=b"s"),)


# --- closed rounds ------------------------------------------------------------------------


def test_a_closed_round_comes_back_with_its_history(folder: RunFolder) -> None:
    assert folder.closed() is None
    history = {"round": 1, "train_loss": float("nan"), "rejected": [{"peer": "b"}]}
    folder.close_round(1, "void", ROOT, state_after(1), history)
    last = folder.closed()
    assert last is not None
    assert (last.round, last.outcome, last.digest) == (1, "void", ROOT)
    assert folder.history() == [{"round": 1, "train_loss": None, "rejected": [{"peer": "b"}]}]


def test_closing_a_round_again_changes_nothing(folder: RunFolder) -> None:
    close(folder, 1)
    close(folder, 1)
    assert len(folder.history()) == 1
    assert len(list((folder.path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("round", "outcome", "digest", "checkpoint"),
    [
        (1, "void", b"\x01" * 32, 1),  # another outcome
        (1, "agreed", OTHER, 1),  # another g
        (3, "agreed", OTHER, 3),  # a round left out
        (2, "agreed", OTHER, 1),  # the state of another round
        (2, "maybe", OTHER, 2),  # no such outcome
    ],
)
def test_rounds_close_once_in_order_with_their_own_state(
    folder: RunFolder, round: int, outcome: str, digest: bytes, checkpoint: int
) -> None:
    close(folder, 1)
    before = folder.closed()
    with pytest.raises(Defect, match="cannot be closed after"):
        folder.close_round(round, outcome, digest, state_after(checkpoint), {})
    assert folder.closed() == before


def test_a_run_is_confirmed_for_the_round_it_had_closed(folder: RunFolder) -> None:
    with pytest.raises(Defect, match="without a closed round"):
        folder.confirm()
    close(folder, 1)
    assert not folder.confirmed
    folder.confirm()
    folder.confirm()
    assert folder.confirmed
    close(folder, 2)  # the agreement was extended
    assert not folder.confirmed


def test_pruning_keeps_what_the_last_closed_round_and_the_open_one_need(folder: RunFolder) -> None:
    payloads = {}
    for round in (1, 2, 3):
        mine, theirs = payload_of(round), payload_of(10 + round)
        folder.release(row_of(mine[0], round), mine[1], sign=sign)
        folder.inbox.put(*theirs)
        folder.save_input(round, "a", b"offer", mine[0].root)
        folder.save_input(round, "b", b"offer", theirs[0].root)
        payloads[round] = (mine[0].root, theirs[0].root)
    early = payload_of(99.0)  # arrived ahead of its round: no row names it yet
    folder.inbox.put(*early)
    assert folder.prune() == 0
    close(folder, 1)
    assert folder.prune() == 0
    close(folder, 2)
    assert folder.prune() == 2
    assert folder.outbox.roots() == {payloads[2][0], payloads[3][0]}
    assert folder.inbox.roots() == {payloads[2][1], payloads[3][1], early[0].root}
    assert folder.prune() == 0


def test_pruning_keeps_old_bytes_that_came_again(folder: RunFolder) -> None:
    """A party that did not move sends the same payload twice."""
    same = payload_of(1.0)
    folder.inbox.put(*same)
    for round in (1, 2):
        folder.save_input(round, "b", b"offer", same[0].root)
        close(folder, round)
    assert folder.prune() == 0
    assert folder.inbox.has(same[0].root)


# --- batches ------------------------------------------------------------------------------


def test_a_batch_that_fails_leaves_nothing_of_it(folder: RunFolder) -> None:
    close(folder, 1)

    def batch() -> None:
        with folder.batch():
            folder.save_input(2, "b", b"offer", ROOT)
            folder.save_vote(2, 0, "a", b"body", b"s")
            close(folder, 2)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        batch()
    last, found = folder.closed(), folder.checkpoint()
    assert last is not None
    assert found is not None
    assert (last.round, found.round, folder.inputs(2), folder.votes(2)) == (1, 1, (), ())


def test_a_batch_with_a_failed_step_cannot_be_completed(folder: RunFolder) -> None:
    def batch() -> None:
        with folder.batch():
            folder.save_vote(1, 0, "a", b"first", b"s")
            with suppress(Defect):
                folder.save_vote(1, 0, "a", b"second", b"s")

    with pytest.raises(Defect, match="a step inside a batch failed"):
        batch()
    assert folder.votes(1) == ()
    folder.save_vote(1, 0, "a", b"first", b"s")  # and the folder goes on


def test_a_checkpoint_file_survives_until_the_batch_that_replaces_it_is_durable(
    folder: RunFolder,
) -> None:
    close(folder, 1)
    close(folder, 2)

    def batch() -> None:
        with folder.batch():
            close(folder, 3)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        batch()
    assert (folder.path / "checkpoints" / "000001.safetensors").exists()
    folder.save_checkpoint(Checkpoint(round=3, tensors={}, meta={}))
    assert not (folder.path / "checkpoints" / "000001.safetensors").exists()
