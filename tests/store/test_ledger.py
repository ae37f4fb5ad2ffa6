"""The egress ledger: append once, change never."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from splitfed.errors import Defect, LedgerTampered
from splitfed.store import RunFolder
from splitfed.store.ledger import chain, genesis
from tests.support.folders import new_folder, payload_of, row_of, sign

ROWS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with new_folder(tmp_path / "a") as opened:
        yield opened


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A closed folder whose ledger has five rows."""
    with new_folder(tmp_path / "a") as opened:
        for round in range(1, ROWS + 1):
            opened.ledger.append(row_of(payload_of(round)[0], round), sign)
    return tmp_path / "a"


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path / "ledger.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def complaint(path: Path) -> str:
    """What verifying says."""
    with RunFolder.read_only(path) as view, pytest.raises(LedgerTampered) as caught:
        view.ledger.verify()
    with pytest.raises(LedgerTampered):
        new_folder(path)  # and no run goes on with such a folder
    return caught.value.message


def test_each_head_is_made_of_the_head_before_and_the_row(folder: RunFolder) -> None:
    row = row_of(payload_of(1)[0], 1)
    assert folder.ledger.head() == genesis(folder.folder_id, "a")
    head = folder.ledger.append(row, sign).head
    assert head == chain(genesis(folder.folder_id, "a"), 1, 1.5e9, row) == folder.ledger.head()
    (entry,) = folder.ledger.rows()
    assert (entry.row, entry.head, entry.receipts) == (row, head, ())
    assert entry.signature == sign(1, head)


@pytest.mark.parametrize("epsilon", [None, 0.1, 3])
def test_what_is_read_is_what_was_written(folder: RunFolder, epsilon: float | None) -> None:
    row = msgspec.structs.replace(row_of(payload_of(1)[0], 1), epsilon=epsilon)
    folder.ledger.append(row, sign)
    assert folder.ledger.rows()[0].row == row
    assert folder.ledger.verify() == 1


def test_appending_a_release_again_changes_nothing(folder: RunFolder) -> None:
    row = row_of(payload_of(1)[0], 1)
    head = folder.ledger.append(row, sign).head
    folder.ledger.append(row_of(payload_of(2)[0], 2), sign)
    assert folder.ledger.append(row, sign).head == head
    assert len(folder.ledger.rows()) == 2


def test_other_bytes_under_a_recorded_release_are_refused(folder: RunFolder) -> None:
    """After a crash the stored bytes are sent again, never new ones."""
    head = folder.ledger.append(row_of(payload_of(1)[0], 1), sign).head
    with pytest.raises(Defect, match="round 1: the update with root"):
        folder.ledger.append(row_of(payload_of(2)[0], 1), sign)
    assert folder.ledger.head() == head


def test_kinds_of_one_round_are_releases_of_their_own(folder: RunFolder) -> None:
    folder.ledger.append(row_of(payload_of(1)[0], 1, "update"), sign)
    folder.ledger.append(row_of(payload_of(1)[0], 1, "outputs"), sign)
    assert [entry.row.kind for entry in folder.ledger.rows()] == ["update", "outputs"]


def test_acknowledgements_are_kept_by_peer_and_outside_the_chain(folder: RunFolder) -> None:
    row = row_of(payload_of(1)[0], 1)
    head = folder.ledger.append(row, sign).head
    for peer in ("c", "b", "c"):
        folder.ledger.acknowledge(row.release, peer, peer.encode() * 64)
    assert folder.ledger.rows()[0].acknowledged == ("b", "c")
    assert folder.ledger.rows()[0].receipts == (("b", b"b" * 64), ("c", b"c" * 64))
    assert folder.ledger.head() == head
    assert folder.ledger.verify() == 1
    with pytest.raises(Defect, match="not recorded"):
        folder.ledger.acknowledge(b"x" * 32, "b", bytes(64))


def test_ledgers_of_two_folders_share_no_head(tmp_path: Path) -> None:
    row = row_of(payload_of(1)[0], 1)
    with new_folder(tmp_path / "one") as one, new_folder(tmp_path / "two") as two:
        assert one.ledger.append(row, sign).head != two.ledger.append(row, sign).head


def test_untouched_ledger_verifies(written: Path) -> None:
    with RunFolder.read_only(written) as view:
        assert view.ledger.verify() == ROWS


@pytest.mark.parametrize(
    "change",
    [
        "time = time + 1",
        "release = zeroblob(32)",
        "round = 9",
        "kind = 'outputs'",
        "tensors = replace(tensors, 'conv1', 'conv3')",
        "tensors = replace(tensors, '[6]', '[7]')",
        "root = zeroblob(32)",
        "bytes = bytes - 1",
        "epsilon = 0.5",
        "head = zeroblob(32)",
    ],
)
def test_a_changed_column_is_found_and_its_row_named(written: Path, change: str) -> None:
    edit(written, f"UPDATE ledger SET {change} WHERE number = 3")
    message = complaint(written)
    assert "row 3 " in message
    assert "was changed" in message


@pytest.mark.parametrize("column", ["time", "round", "kind", "tensors", "root", "bytes", "head"])
def test_a_column_that_cannot_be_read_is_tampering_and_no_crash(written: Path, column: str) -> None:
    value = "x'00ff'" if column in ("kind", "tensors") else "'three'"
    edit(written, f"UPDATE ledger SET {column} = {value} WHERE number = 3")
    assert "row 3 " in complaint(written)


def test_a_row_removed_from_the_middle_is_named(written: Path) -> None:
    edit(written, "DELETE FROM ledger WHERE number = 3")
    assert "row 3 is missing" in complaint(written)


def test_a_row_removed_and_the_others_renumbered_is_named(written: Path) -> None:
    edit(
        written,
        "DELETE FROM ledger WHERE number = 3",
        "UPDATE ledger SET number = 3 WHERE number = 4",
        "UPDATE ledger SET number = 4 WHERE number = 5",
    )
    assert "row 3 (round 4, update) does not follow row 2" in complaint(written)


def test_two_rows_in_each_others_place_are_named(written: Path) -> None:
    edit(
        written,
        "UPDATE ledger SET number = 99 WHERE number = 2",
        "UPDATE ledger SET number = 2 WHERE number = 3",
        "UPDATE ledger SET number = 3 WHERE number = 99",
    )
    assert "row 2 (round 3, update) does not follow row 1" in complaint(written)


def test_rows_cut_off_at_the_end_are_named(written: Path) -> None:
    edit(written, "DELETE FROM ledger WHERE number > 3")
    assert "row 4 to row 5 at the end are missing" in complaint(written)


def test_an_emptied_ledger_is_named(written: Path) -> None:
    edit(written, "DELETE FROM ledger")
    assert "row 1 to row 5 at the end are missing" in complaint(written)


def test_a_row_added_behind_the_last_is_named(written: Path) -> None:
    with RunFolder.read_only(written) as view:
        last = view.ledger.rows()[-1]
    row = row_of(payload_of(7)[0], 7)
    head = chain(last.head, 6, 1.0, row)
    edit(
        written,
        "INSERT INTO ledger SELECT 6, 1.0, "
        f"x'{row.release.hex()}', 7, 'update', tensors, x'{row.root.hex()}', {row.size}, NULL, "
        f"x'{last.head.hex()}', x'{head.hex()}', zeroblob(64) FROM ledger WHERE number = 5",
    )
    assert "row 6 was added" in complaint(written)


def test_a_stored_head_that_is_not_the_last_rows_is_found(written: Path) -> None:
    with closing(sqlite3.connect(written / "ledger.sqlite", isolation_level=None)) as connection:
        value = msgspec.msgpack.encode((ROWS, b"x" * 32))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'ledger'", (value,))
    assert "stored head is not that of row 5" in complaint(written)


def test_a_ledger_of_another_folder_is_found(written: Path, tmp_path: Path) -> None:
    new_folder(tmp_path / "b", party="b").close()
    source = tmp_path / "b" / "ledger.sqlite"
    edit(
        written,
        f"ATTACH '{source}' AS b",
        "UPDATE meta SET value = (SELECT value FROM b.meta WHERE key = 'folder') "
        "WHERE key = 'folder'",
    )
    with RunFolder.read_only(written) as view, pytest.raises(LedgerTampered, match="row 1 "):
        view.ledger.verify()


def test_a_changed_outbox_file_is_found_by_verify_and_a_pruned_one_is_none(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        for round in (1, 2):
            manifest, payload = payload_of(round)
            folder.release(row_of(manifest, round), payload, sign=sign)
        folder.outbox.prune({manifest.root})
        assert folder.verify() == 2
        file = folder.outbox.folder / manifest.root.hex()
        file.write_bytes(file.read_bytes()[:-1] + b"\x00")
        with pytest.raises(LedgerTampered, match=manifest.root.hex()):
            folder.verify()


def test_a_release_is_refused_when_its_row_names_another_payload(folder: RunFolder) -> None:
    with pytest.raises(Defect, match="its ledger row says"):
        folder.release(row_of(payload_of(1)[0], 1), payload_of(2)[1], sign=sign)
    assert folder.ledger.rows() == ()
    assert folder.outbox.roots() == frozenset()


def test_a_refused_second_release_leaves_no_file(folder: RunFolder) -> None:
    first, second = payload_of(1), payload_of(2)
    folder.release(row_of(first[0], 1), first[1], sign=sign)
    with pytest.raises(Defect):
        folder.release(row_of(second[0], 1), second[1], second[0], sign=sign)
    assert folder.outbox.roots() == {first[0].root}


def test_the_ledger_belongs_to_the_thread_that_opened_it(folder: RunFolder) -> None:
    caught: list[BaseException] = []

    def elsewhere() -> None:
        for use in (
            lambda: folder.ledger.append(row_of(payload_of(1)[0], 1), sign),
            folder.closed,
            folder.close,
        ):
            try:
                use()
            except Defect as error:
                caught.append(error)

    thread = threading.Thread(target=elsewhere, name="link")
    thread.start()
    thread.join()
    assert [("thread link" in str(error)) for error in caught] == [True] * 3
    assert folder.ledger.rows() == ()
