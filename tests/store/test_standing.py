"""Statements, views, quarantine and missed rounds: the first word counts, whatever comes later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splitfed.errors import Defect, FolderError
from splitfed.store import Evidence, RunFolder, ViewRow, VoteRow
from tests.support.folders import close, new_folder, state_after
from tests.support.tampering import edit


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with new_folder(tmp_path / "a") as opened:
        yield opened


def say(folder: RunFolder, view: int, party: str, body: bytes = b"word", round: int = 3) -> Any:
    return folder.save_statement(
        view=view, round=round, party=party, body=body, signature=b"signed " + body
    )


# --- statements ---------------------------------------------------------------------------


def test_statements_come_back_byte_for_byte_in_order_of_view_and_party(folder: RunFolder) -> None:
    for view, party in ((2, "a"), (1, "b"), (1, "a")):
        assert say(folder, view, party, b"body\0\xff") is None
    found = folder.statements()
    assert [(row.view, row.party) for row in found] == [(1, "a"), (1, "b"), (2, "a")]
    expected = VoteRow(
        round=3, view=2, party="a", body=b"body\0\xff", signature=b"signed body\0\xff"
    )
    assert folder.statements(2) == (expected,)
    assert folder.statements(3) == ()


def test_my_statement_never_changes_for_its_view(folder: RunFolder) -> None:
    say(folder, 1, "a", b"first")
    with pytest.raises(Defect, match="view 1: a second, different statement of my own"):
        say(folder, 1, "a", b"second")
    assert say(folder, 1, "a", b"first") is None
    assert [row.body for row in folder.statements()] == [b"first"]


def test_a_peers_second_statement_is_evidence_with_the_first_which_counts(
    folder: RunFolder,
) -> None:
    say(folder, 1, "b", b"first")
    for _ in range(2):
        earlier = say(folder, 1, "b", b"second", round=4)
        assert earlier.body == b"first"
    assert folder.statements() == (earlier,)
    folder.drop_statements(below=9)  # both words stay together all the same
    assert folder.evidence() == (
        Evidence(round=3, party="b", body=b"first", signature=b"signed first"),
        Evidence(round=4, party="b", body=b"second", signature=b"signed second"),
    )


def test_statements_of_lower_views_alone_are_dropped(folder: RunFolder) -> None:
    for view in (1, 2, 3):
        say(folder, view, "a")
    folder.drop_statements(below=2)
    folder.drop_statements(below=2)
    assert [row.view for row in folder.statements()] == [2, 3]


# --- who votes, and who does not any more --------------------------------------------------


def test_a_view_is_noted_once_and_outlives_the_process(folder: RunFolder) -> None:
    assert folder.views == []
    folder.note_view(2, 6, ["a", "b", "c"])
    folder.note_view(1, 3, ["a", "b"])
    folder.note_view(1, 3, ["a", "c"])
    folder.close()
    with new_folder(folder.path) as again, RunFolder.read_only(folder.path) as reader:
        for known in (again, reader):
            assert known.views == [
                ViewRow(view=1, round=3, members=["a", "b"]),
                ViewRow(view=2, round=6, members=["a", "b", "c"]),
            ]


def test_the_first_reason_for_a_quarantine_counts_for_ever(folder: RunFolder) -> None:
    assert folder.quarantined == {}
    folder.quarantine("c", "signed two updates")
    folder.quarantine("c", "broke the protocol")
    folder.quarantine("b", "lied")
    folder.close()
    with new_folder(folder.path) as again:
        assert again.quarantined == {"b": "lied", "c": "signed two updates"}


@pytest.mark.parametrize("key", ["views", "quarantined"])
def test_a_damaged_list_is_an_error_and_no_empty_one(folder: RunFolder, key: str) -> None:
    folder.note_view(1, 3, ["a", "b"])
    folder.quarantine("c", "lied")
    edit(folder.path, "UPDATE meta SET value = x'07' WHERE key = ?", key)
    with pytest.raises(FolderError, match=f"meta '{key}'"):
        getattr(folder, key)


def test_nothing_of_a_batch_that_fails_is_kept(folder: RunFolder) -> None:
    def batch() -> None:
        with folder.batch():
            say(folder, 1, "a")
            folder.note_view(1, 3, ["a", "b"])
            folder.quarantine("c", "lied")
            folder.close_missed([(1, b"1" * 32, {})], state_after(1))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        batch()
    assert (folder.statements(), folder.views, folder.quarantined) == ((), [], {})
    assert (folder.closed(), folder.checkpoint()) == (None, None)


# --- missed rounds ------------------------------------------------------------------------


def missed(*numbers: int) -> list[tuple[int, bytes, dict[str, Any]]]:
    return [(number, bytes([numbers[-1]]) * 32, {"round": number}) for number in numbers]


def test_missed_rounds_close_together_with_the_state_after_the_last(folder: RunFolder) -> None:
    close(folder, 1)
    for _ in range(2):  # again is harmless
        folder.close_missed(missed(2, 3, 4), state_after(4))
    assert [(row.round, row.outcome) for row in folder.all_closed()] == [
        (1, "agreed"), (2, "missed"), (3, "missed"), (4, "missed"),
    ]  # fmt: skip
    assert {row.digest for row in folder.all_closed()[1:]} == {b"\4" * 32}
    assert [row["round"] for row in folder.history()] == [1, 2, 3, 4]
    found = folder.checkpoint()
    assert found is not None
    assert found.round == 4
    close(folder, 5)
    assert not folder.confirmed


@pytest.mark.parametrize(
    ("numbers", "state"),
    [
        ((), 1),  # nothing at all
        ((1, 2), 2),  # closed already
        ((3, 4), 4),  # one left out before
        ((2, 4), 4),  # and between
        ((3, 2), 2),  # in another order
        ((2, 3), 2),  # the state of another round
    ],
)
def test_missed_rounds_follow_the_last_closed_one_or_none_is_closed(
    folder: RunFolder, numbers: tuple[int, ...], state: int
) -> None:
    close(folder, 1)
    with pytest.raises(Defect, match="cannot be closed after"):
        folder.close_missed(missed(*numbers), state_after(state))
    assert [row.round for row in folder.all_closed()] == [1]
    found = folder.checkpoint()
    assert found is not None
    assert found.round == 1


def test_one_missed_round_may_be_closed_like_any_other(folder: RunFolder) -> None:
    close(folder, 1, "missed")
    last = folder.closed()
    assert last is not None
    assert last.outcome == "missed"
