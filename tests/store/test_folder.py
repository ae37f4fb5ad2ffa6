"""The run folder: who it belongs to, which run it follows, what readers see of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from splitfed.errors import Defect, FolderDiverged, FolderError, LedgerTampered
from splitfed.store import RunFolder
from tests.support.folders import CONTRACT, RUN, close, new_folder, payload_of, row_of, sign

OTHER = b"d" * 32


def test_folder_id_is_made_once_and_every_opening_counts(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with new_folder(tmp_path / "runs" / "a") as folder:
            seen.append((folder.folder_id, folder.boot))
    assert [boot for _, boot in seen] == [1, 2, 3]
    assert len({folder_id for folder_id, _ in seen}) == 1
    assert len(seen[0][0]) == 16
    with new_folder(tmp_path / "b") as another:
        assert another.folder_id != seen[0][0]


def test_folder_is_closed_to_other_users(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    new_folder(tmp_path / "a").close()
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0


def test_commits_are_synced_through_the_write_ahead_log(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        assert folder._database.row("PRAGMA journal_mode") == ("wal",)
        assert folder._database.row("PRAGMA synchronous") == (2,)


def test_a_missing_folder_is_made_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no run folder"):
        new_folder(tmp_path / "a", create=False)
    assert not (tmp_path / "a").exists()
    new_folder(tmp_path / "a").close()
    new_folder(tmp_path / "a", create=False).close()


def test_a_folder_of_another_party_is_refused(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    with pytest.raises(FolderError, match="belongs to party a, not to b"):
        new_folder(tmp_path / "a", party="b")


def test_agreement_may_change_until_the_folder_met_its_peers(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    with new_folder(tmp_path / "a", contract=OTHER, document="text") as folder:
        assert folder.contracts == ((OTHER, "text"),)
        folder.fix_run(RUN, {"b": b"B" * 16})
    with pytest.raises(FolderError, match="follows agreement"):
        new_folder(tmp_path / "a", contract=CONTRACT)
    new_folder(tmp_path / "a", contract=OTHER).close()


def test_a_closed_round_binds_the_agreement_too(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
    with pytest.raises(FolderError, match="follows agreement"):
        new_folder(tmp_path / "a", contract=OTHER)


def test_a_bound_agreement_is_followed_by_another_only_once_adopted(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        folder.fix_run(RUN, {})
    with new_folder(tmp_path / "a", contract=OTHER, replaces=CONTRACT) as folder:
        assert folder.contract == CONTRACT
    new_folder(tmp_path / "a").close()  # the peers did not agree: nothing has changed
    with new_folder(tmp_path / "a", contract=OTHER, replaces=CONTRACT) as folder:
        folder.adopt_contract(OTHER, "more rounds")
        folder.adopt_contract(OTHER, "more rounds")
        assert folder.contracts == ((CONTRACT, ""), (OTHER, "more rounds"))
    with pytest.raises(FolderError):
        new_folder(tmp_path / "a")


def test_run_is_fixed_once_and_for_ever(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        assert (folder.run, folder.peer_folders) == (None, {})
        folder.fix_run(RUN, {"b": b"B" * 16})
    with new_folder(tmp_path / "a") as folder:
        folder.fix_run(RUN, {"b": b"B" * 16})
        assert (folder.run, folder.peer_folders) == (RUN, {"b": b"B" * 16})
        with pytest.raises(FolderDiverged, match="the folder of b is another one"):
            folder.fix_run(b"s" * 32, {"b": b"C" * 16})
        with pytest.raises(FolderDiverged):
            folder.fix_run(b"s" * 32, {"b": b"B" * 16})
        assert folder.run == RUN


@pytest.mark.parametrize("loss", ["removed", "emptied"])
def test_a_lost_ledger_beside_its_files_is_not_replaced_by_a_new_one(
    tmp_path: Path, loss: str
) -> None:
    with new_folder(tmp_path / "a") as folder:
        manifest, payload = payload_of(1.0)
        folder.release(row_of(manifest, 1), payload, sign=sign)
    if loss == "removed":
        (tmp_path / "a" / "ledger.sqlite").unlink()
    else:
        (tmp_path / "a" / "ledger.sqlite").write_bytes(b"")
    for _ in range(2):  # the refusal itself must not make the ledger that it misses
        with pytest.raises(LedgerTampered, match="gone or empty"):
            new_folder(tmp_path / "a")


def test_a_damaged_ledger_file_is_an_error_with_a_cure(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    (tmp_path / "a" / "ledger.sqlite").write_bytes(b"garbage " * 1000)
    with pytest.raises(FolderError, match="is damaged") as caught:
        new_folder(tmp_path / "a")
    assert "backup" in caught.value.cure


def test_a_folder_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    with closing(sqlite3.connect(tmp_path / "a" / "ledger.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 4")
    with pytest.raises(FolderError, match="newer splitfed"):
        new_folder(tmp_path / "a")


def test_a_folder_of_an_older_format_is_refused_with_a_cure(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    with closing(sqlite3.connect(tmp_path / "a" / "ledger.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 2")
    for use in (new_folder, RunFolder.read_only):
        with pytest.raises(FolderError, match="older splitfed .format 2, this one writes 3") as it:
            use(tmp_path / "a")
        assert "begin anew with another --out" in it.value.cure


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    with pytest.raises(FolderError):
        new_folder(tmp_path / "a")


# --- reading beside a run -----------------------------------------------------------------


def test_a_reader_sees_each_closed_round_at_once(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder, RunFolder.read_only(tmp_path / "a") as view:
        for round in (1, 2):
            close(folder, round)
            last = view.closed()
            assert last is not None
            assert last.round == round
            assert len(view.history()) == round
            assert view.history(last=1) == view.history()[-1:]
        found = view.checkpoint()
        assert found is not None
        assert found.round == 2


def test_a_reader_sees_nothing_of_an_open_batch(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder, RunFolder.read_only(tmp_path / "a") as view:
        with folder.batch():
            folder.save_vote(1, 0, "a", b"body", b"signature")
            assert view.votes(1) == ()
        assert len(view.votes(1)) == 1


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with RunFolder.read_only(tmp_path / "a") as view:
        view.verify()
        with pytest.raises(Defect, match="for reading only"):
            view.ledger.append(row_of(payload_of(1.0)[0], 1), sign)
    after = {
        path: path.read_bytes()
        for path in (tmp_path / "a").rglob("*")
        if path.is_file() and path.suffix not in (".sqlite-shm", ".sqlite-wal")
    }
    assert after == before


def test_a_reader_sees_what_a_killed_process_had_committed(tmp_path: Path) -> None:
    """Everything is still in the write-ahead log then."""
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
        ignore = shutil.ignore_patterns("*-shm", "lock")
        shutil.copytree(tmp_path / "a", tmp_path / "copy", ignore=ignore)
    assert (tmp_path / "copy" / "ledger.sqlite-wal").stat().st_size > 0
    with RunFolder.read_only(tmp_path / "copy") as view:
        last = view.closed()
    assert last is not None
    assert last.round == 1


@pytest.fixture
def read_only_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite as it is where it cannot place its shared memory: only "immutable" opens."""
    real = sqlite3.connect

    def connect(name: str, **more: object) -> sqlite3.Connection:
        if "immutable=1" not in name:
            raise sqlite3.OperationalError("unable to open database file")
        return real(name, **more)

    monkeypatch.setattr("splitfed.store.database.sqlite3.connect", connect)


def test_a_folder_on_a_read_only_medium_can_be_read(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
    request.getfixturevalue("read_only_medium")
    with RunFolder.read_only(tmp_path / "a") as view:
        last = view.closed()
    assert last is not None
    assert last.round == 1


def test_rows_that_a_read_only_medium_hides_are_not_passed_over(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
        shutil.copytree(tmp_path / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
    request.getfixturevalue("read_only_medium")
    with pytest.raises(FolderError, match="unable to open"):
        RunFolder.read_only(tmp_path / "copy")


def test_reading_what_is_no_run_folder_is_an_error_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no run folder"):
        RunFolder.read_only(tmp_path)
    (tmp_path / "ledger.sqlite").write_bytes(b"")
    with pytest.raises(FolderError, match="no run folder"):
        RunFolder.read_only(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]


def test_reading_a_folder_imports_no_torch(tmp_path: Path) -> None:
    """`splitfed status` must answer at once."""
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
        folder.ledger.append(row_of(payload_of(1.0)[0], 1), sign)
    code = (
        "import sys; from pathlib import Path; from splitfed.store import RunFolder\n"
        "with RunFolder.read_only(Path(sys.argv[1])) as view:\n"
        "    view.closed(), view.history(), view.inputs(1), view.votes(1), view.ledger.verify()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")]).returncode == 0


# --- files for people ---------------------------------------------------------------------


def test_log_is_one_json_object_a_line_in_order(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        folder.log("started", round=1, loss=float("nan"), root=b"\xff", path=tmp_path)
        folder.log("odd", time="mine", lines=("a", {"b": b"\x01"}))
    with new_folder(tmp_path / "a") as folder:
        folder.log("again")
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "odd", "again"]
    assert {line["time"] for line in lines} == {"2017-07-14T02:40:00.000+00:00"}
    assert lines[0]["loss"] is None
    assert (lines[0]["root"], lines[0]["path"]) == ("ff", str(tmp_path))
    assert lines[1]["lines"] == ["a", {"b": "01"}]


def test_log_lines_of_many_threads_never_mix(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        threads = [
            threading.Thread(
                target=lambda n=n: [folder.log("e", n=n, text="x" * 500) for _ in range(50)]
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert sorted(line["n"] for line in lines) == sorted([*range(4)] * 50)


def test_half_a_line_left_by_a_power_loss_spoils_no_other(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    (tmp_path / "a" / "log.jsonl").write_bytes(b'{"event": "ha')
    with new_folder(tmp_path / "a") as folder:
        folder.log("whole")
    lines = (tmp_path / "a" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["event"] == "whole"


def test_a_full_disk_loses_log_lines_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_folder(tmp_path / "a") as folder, monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr("splitfed.store.journal.os.write", full)
        folder.log("one")
        folder.log("two")
        patch.undo()
        folder.log("three")
        folder.log("four")
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("lines_lost")) for line in lines] == [
        ("three", 2),
        ("four", None),
    ]


def test_status_is_readable_without_the_lock_and_absent_when_unreadable(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        assert RunFolder.read_status(tmp_path / "a") is None
        folder.set_status({"phase": "training", "loss": float("inf")})
        status = RunFolder.read_status(tmp_path / "a")
        assert status is not None
        assert (status["phase"], status["loss"]) == ("training", None)
        assert status["pid"] == RunFolder.holder(tmp_path / "a")
    for broken in ("", "[1]", "{"):
        (tmp_path / "a" / "status.json").write_text(broken)
        assert RunFolder.read_status(tmp_path / "a") is None


def test_json_files_are_whole_and_their_names_stay_in_the_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        folder.write_json("report.json", {"accuracy": float("nan"), "rounds": [1]})
        assert json.loads((folder.path / "report.json").read_text()) == {
            "accuracy": None,
            "rounds": [1],
        }
        for name in ("../x", "a/b", "", "..", "/etc/x"):
            with pytest.raises(Defect, match="no plain file name"):
                folder.write_json(name, {})


def test_temporary_files_of_a_killed_process_are_swept_at_the_next_opening(tmp_path: Path) -> None:
    new_folder(tmp_path / "a").close()
    left = [tmp_path / "a" / name / ".x.tmp" for name in ("", "outbox", "inbox", "checkpoints")]
    for path in left:
        path.write_bytes(b"half")
    new_folder(tmp_path / "a").close()
    assert [path for path in left if path.exists()] == []
