"""Files appear whole or not at all, and a full disk is said to be one."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store import write_atomic
from splitfed.store.durable import Bytes, Disk, publish, storage_errors, sweep
from tests.support.folders import FullDisk


class Recorder(Disk):
    """The real disk, with its calls written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        self.calls.append("write")
        super().write_file(path, parts)

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "a rename is atomic within one folder only"
        self.calls.append("rename")
        super().rename(source, target)

    def fsync_dir(self, folder: Path) -> None:
        self.calls.append("fsync folder")
        super().fsync_dir(folder)


def test_publishing_writes_then_renames_then_syncs_the_folder(tmp_path: Path) -> None:
    disk = Recorder()
    publish(disk, tmp_path / "x", (b"one", bytearray(b"two"), memoryview(b"three")))
    assert (tmp_path / "x").read_bytes() == b"onetwothree"
    assert disk.calls == ["write", "rename", "fsync folder"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_file_and_folder_are_synced_before_publishing_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "x", b"data")
    assert synced == [".x.tmp", tmp_path.name]


def test_a_write_that_takes_only_part_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    write_atomic(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_only_the_owner_may_read_what_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", b"weights")
    assert (tmp_path / "x").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_cure_and_leaves_the_old_file(tmp_path: Path, number: int) -> None:
    (tmp_path / "x").write_bytes(b"old")
    disk = FullDisk(0, number)
    with pytest.raises(FolderError, match="no space is left") as caught:
        publish(disk, tmp_path / "x", (b"new",))
    assert "free space" in caught.value.cure
    assert str(tmp_path) in caught.value.cure
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"], "a temporary file was left"


def test_another_disk_error_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="Input/output error") as caught:
        publish(FullDisk(0, errno.EIO), tmp_path / "x", (b"",))
    assert "free space" not in str(caught.value)


def test_a_full_sqlite_file_is_a_full_disk(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 3")
    with pytest.raises(FolderError, match="no space is left"), storage_errors(tmp_path / "db"):
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"garbage " * 200)
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    with pytest.raises(FolderError, match="is damaged"), storage_errors(tmp_path / "db"):
        connection.execute("SELECT * FROM sqlite_master")
    connection.close()


def test_a_temporary_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".x.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FolderError):
        write_atomic(tmp_path / "x", b"data")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_sweeping_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    for name in (".x.tmp", "x", ".hidden", "y.tmp"):
        (tmp_path / name).write_bytes(b"")
    sweep(Disk(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "x", "y.tmp"]


def test_made_folders_are_durable_and_for_the_owner_only(tmp_path: Path) -> None:
    disk = Recorder()
    disk.make_dir(tmp_path / "runs" / "a")
    assert disk.calls == ["fsync folder"] * 2
    assert (tmp_path / "runs" / "a").stat().st_mode & 0o077 == 0
    disk.make_dir(tmp_path / "runs" / "a")
    assert disk.calls == ["fsync folder"] * 2
