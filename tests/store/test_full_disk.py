"""A disk that fills up at any point: an error with a cure, and the last state intact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store import RunFolder
from tests.support.folders import FullDisk, close, new_folder, payload_of, row_of, sign


def release(folder: RunFolder) -> None:
    manifest, payload = payload_of(2.0)
    folder.release(row_of(manifest, 2), payload, sign=sign)


def receive(folder: RunFolder) -> None:
    folder.inbox.put(*payload_of(20.0))


def vote(folder: RunFolder) -> None:
    with folder.batch():
        folder.save_input(2, "b", b"offer", b"1" * 32)
        folder.save_vote(2, 0, "a", b"vote", b"signed")


def end(folder: RunFolder) -> None:
    close(folder, 2)


def report(folder: RunFolder) -> None:
    folder.write_json("report.json", {"rounds": 2})


@pytest.mark.parametrize(
    ("step", "calls"), [(release, 4), (receive, 3), (vote, 1), (end, 4), (report, 3)]
)
def test_a_full_disk_stops_with_a_cure_and_the_same_step_works_later(
    tmp_path: Path, step: Callable[[RunFolder], None], calls: int
) -> None:
    with new_folder(tmp_path / "begun") as folder:
        close(folder, 1)
    for left in range(calls):
        path = tmp_path / f"{left}"
        shutil.copytree(tmp_path / "begun", path)
        disk = FullDisk(None)
        with new_folder(path, disk=disk) as folder:
            disk.left = left
            with pytest.raises(FolderError, match="no space is left") as caught:
                step(folder)
            assert "free space" in caught.value.cure
            last, checkpoint = folder.closed(), folder.checkpoint()
            assert last is not None
            assert checkpoint is not None
            assert (last.round, checkpoint.round) == (1, 1)
            assert folder.ledger.rows() == ()
            assert folder.votes(2) == folder.inputs(2) == ()
            disk.left = None  # space was made, and this process or the next tries again
            step(folder)
            folder.verify()
        with new_folder(path) as folder:
            step(folder)
            folder.verify()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_disk_that_is_full_from_the_start_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no space is left"):
        new_folder(tmp_path / "a", disk=FullDisk(0))
    new_folder(tmp_path / "a").close()


def test_a_full_ledger_file_leaves_the_rows_as_they_were(tmp_path: Path) -> None:
    """SQLite's own word for it, not ours."""
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
        folder._database.row("PRAGMA max_page_count = 1")  # no page beyond those it has
        with pytest.raises(FolderError, match="no space is left"):
            folder.save_vote(2, 0, "a", bytes(100_000), b"signed")
        assert folder.votes(2) == ()
        folder._database.row("PRAGMA max_page_count = 1000000")
        folder.save_vote(2, 0, "a", b"vote", b"signed")
        assert len(folder.votes(2)) == 1
