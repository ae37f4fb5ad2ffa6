"""The newest checkpoint is damaged: its state is made again from what the folder still holds."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store import RunFolder
from tests.support.members import Town, outputs_fusion
from tests.support.trials import (
    PAIR,
    die_at,
    faults,
    pair,
    return_of,
    settle,
    undisturbed,
    unsure,
)

FUSED = {"rounds": 2, "fusion": outputs_fusion(list(PAIR), every=1)}


def checkpoints(folder: Path) -> list[Path]:
    """Those of a folder that was made whole, oldest first."""
    try:
        with RunFolder.read_only(folder) as opened:
            rows = opened._database.rows("SELECT name FROM checkpoints ORDER BY number")
    except FolderError:
        return []
    return [folder / "checkpoints" / name for (name,) in rows]


def damage(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def phase(folder: Path) -> tuple[str, int]:
    """Of the checkpoint that can still be read: what it is, and how far the folder has come."""
    with RunFolder.read_only(folder) as opened:
        found = opened.checkpoint()
        assert found is not None
        return found.meta["phase"], len(opened.history()) - found.round


@pytest.mark.parametrize("victim", PAIR)
def test_a_party_that_died_and_lost_its_newest_checkpoint_ends_the_same(
    tmp_path: Path, victim: str
) -> None:
    calm, wrong, seen = undisturbed(tmp_path / "calm", **FUSED), [], set()
    for stop in itertools.count(38, 3):
        town = pair(tmp_path / str(stop), **FUSED)
        where, _ = die_at(town, victim, stop, "lost")
        if not where:
            break
        damage(checkpoints(town.folders[victim])[-1])
        seen.add(phase(town.folders[victim]))
        return_of(town, victim)
        found = faults(town, calm, unconfirmed=unsure(town, victim))
        wrong += [f"{victim} before {where}: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)
    assert seen == {("trained", 0), ("closed", 0)}, "the end made again, and trained again"


def ended(path: Path, **changes) -> Town:
    """A town in which both parties have ended and party a's newest checkpoint is damaged."""
    town = pair(path, **changes)
    for name in PAIR:
        town.start(name)
    settle(town)
    damage(checkpoints(town.folders["a"])[-1])
    return town


def test_a_payload_that_is_gone_leaves_the_old_error(tmp_path: Path) -> None:
    town = ended(tmp_path, **FUSED)
    shutil.rmtree(town.folders["a"] / "inbox")
    town.start("a")
    town.wait("a")
    error = town.endings["a"]
    assert isinstance(error, FolderError)
    assert "newest whole checkpoint" in error.message
    assert "restore the checkpoints folder" in error.cure


def test_what_comes_out_otherwise_than_was_voted_for_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = ended(tmp_path, rounds=1)
    monkeypatch.setattr("splitfed.rounds.rebuilding.digest", lambda tensors: b"x" * 32)
    town.start("a")
    town.wait("a")
    error = town.endings["a"]
    assert isinstance(error, FolderError)
    assert "newest whole checkpoint" in error.message


def test_a_round_that_was_trained_alone_is_not_merged_when_it_is_made_again(
    tmp_path: Path,
) -> None:
    calm = pair(tmp_path / "calm", rounds=2)
    town = pair(tmp_path / "town", rounds=2)
    for it in (calm, town):
        it.start("a", patience=0.1, on_absent="finish-alone")
        it.wait("a")
        assert it.endings["a"].outcome == "alone"
    before = calm.learners["a"].state()[0]
    damage(checkpoints(town.folders["a"])[-1])
    town.learners["a"] = town.learner(1.0)
    town.start("a")
    town.wait("a")
    after = town.learners["a"].state()[0]
    assert {n: t.tolist() for n, t in after.items()} == {n: t.tolist() for n, t in before.items()}
