"""What docs/operations.md promises under "Recovery by hand", done as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.errors import FolderDiverged, LedgerTampered
from splitfed.store import RunFolder
from tests.rounds.test_engine import PowerCut
from tests.support.members import AddingLearner, Town
from tests.support.waits import logged


@pytest.fixture
def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A town whose party b died in round 2, when it had stored a's update and not yet voted."""
    town = Town(tmp_path, ["a", "b"])
    real = RunFolder.save_vote

    def dying(self: RunFolder, **fields: object) -> None:
        if self.party == "b" and (fields["round"], fields["party"]) == (2, "b"):
            raise PowerCut
        real(self, **fields)

    monkeypatch.setattr(RunFolder, "save_vote", dying)
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], PowerCut)
    monkeypatch.setattr(RunFolder, "save_vote", real)
    return town


def again(town: Town) -> None:
    """Run b once more, as after a restart of its machine."""
    town.learners["b"] = AddingLearner(2.0)
    town.start("b")


def payload_of(town: Town, where: str, round: int, party: str) -> Path:
    """The stored bytes of one party's update in b's folder."""
    with RunFolder.read_only(town.folders["b"]) as folder:
        (row,) = [row for row in folder.inputs(round) if row.party == party] or [None]
        entry = [entry for entry in folder.ledger.rows() if entry.row.round == round]
    root = entry[0].row.root if row is None else row.root
    return town.folders["b"] / where / root.hex()


def test_a_lost_file_in_inbox_is_sent_again(broken_off: Town) -> None:
    lost = payload_of(broken_off, "inbox", 2, "a")
    lost.unlink()
    again(broken_off)
    broken_off.wait()
    assert [broken_off.endings[name].outcome for name in "ab"] == ["done", "done"]
    assert broken_off.closed("a")[-1] == broken_off.closed("b")[-1]


def test_a_lost_file_in_outbox_stops_the_run_by_name_until_it_is_put_back(
    broken_off: Town,
) -> None:
    lost = payload_of(broken_off, "outbox", 2, "b")
    kept = lost.read_bytes()
    lost.unlink()
    again(broken_off)
    broken_off.wait("b")
    error = broken_off.endings["b"]
    assert isinstance(error, LedgerTampered)
    assert str(lost) in error.message
    lost.write_bytes(kept)
    again(broken_off)
    broken_off.wait()
    assert [broken_off.endings[name].outcome for name in "ab"] == ["done", "done"]
    released = logged(broken_off.folders["b"], "released")
    assert [(e["round"], e["again"]) for e in released] == [
        (1, False), (2, False), (2, True), (3, False), (4, False),
    ]  # fmt: skip


def test_a_peer_that_started_over_is_told_apart_from_one_that_comes_back(
    broken_off: Town, tmp_path: Path
) -> None:
    broken_off.folders["b"] = tmp_path / "b-anew"
    again(broken_off)
    broken_off.wait("a")
    error = broken_off.endings["a"]
    assert isinstance(error, FolderDiverged)
    assert "comes back with another run folder" in error.message
    assert "start over on both sides" in error.cure
