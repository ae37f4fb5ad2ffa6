"""One process per folder; a killed one leaves nothing that blocks the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store import RunFolder
from splitfed.store.lock import FolderLock, holder
from tests.support.folders import new_folder

HOLD = """
import sys
from pathlib import Path
from splitfed.store import RunFolder
folder = RunFolder.open(Path(sys.argv[1]), party="a", contract=b"c" * 32)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_second_process_is_refused_and_told_who_holds_the_folder(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(FolderError, match=f"in use by process {other.pid}") as caught:
        new_folder(tmp_path / "a")
    assert "another --out folder" in caught.value.cure
    assert RunFolder.holder(tmp_path / "a") == other.pid


def test_a_killed_process_leaves_no_lock(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert RunFolder.holder(tmp_path / "a") is None
    with new_folder(tmp_path / "a") as folder:
        assert folder.boot == 2


def test_a_folder_can_be_read_while_another_process_runs_in_it(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with RunFolder.read_only(tmp_path / "a") as view:
        assert (view.party, view.boot) == ("a", 1)
    assert other.poll() is None


def test_second_opening_in_one_process_is_refused_too(tmp_path: Path) -> None:
    with (
        new_folder(tmp_path / "a"),
        pytest.raises(FolderError, match=f"in use by process {os.getpid()}"),
    ):
        new_folder(tmp_path / "a")
    new_folder(tmp_path / "a").close()


def test_a_failed_opening_gives_the_lock_back(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    with pytest.raises(FolderError, match="belongs to party a"):
        new_folder(tmp_path / "a", party="b")
    assert holder(tmp_path / "a") is None


def test_asking_who_holds_a_folder_never_takes_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert holder(tmp_path) == os.getpid()
    lock.release()
    lock.release()
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None
