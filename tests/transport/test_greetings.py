"""What two greetings say about each other."""

from __future__ import annotations

import json

import msgspec
import pytest

from splitfed.errors import Difference
from splitfed.transport.greetings import (
    addressed,
    mismatch,
    mismatch_error,
    negotiate,
    session_name,
)
from tests.support.talk import greeting, outgoing


def test_both_ends_find_the_same_session_name_and_no_field_is_ignored() -> None:
    fields = {
        "dialer": b"d" * 32,
        "listener": b"l" * 32,
        "nonces": (b"1" * 16, b"2" * 16),
        "contract": b"c" * 32,
    }
    name = session_name(**fields)
    assert len(name) == 16
    assert name == session_name(**fields)
    others = [
        {"dialer": b"x" * 32},
        {"listener": b"x" * 32},
        {"nonces": (b"x" * 16, b"2" * 16)},
        {"nonces": (b"1" * 16, b"x" * 16)},
        {"nonces": (b"2" * 16, b"1" * 16)},
        {"contract": b"x" * 32},
    ]
    assert len({name, *(session_name(**(fields | other)) for other in others)}) == 7


@pytest.mark.parametrize(
    ("mine", "theirs", "newest"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 4), 2), ((1, 2), (3, 4), None)],
)
def test_the_newest_version_that_both_speak_is_chosen(
    mine: tuple[int, int], theirs: tuple[int, int], newest: int | None
) -> None:
    assert negotiate(mine, theirs) == newest
    assert negotiate(theirs, mine) == newest


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({}, None),
        ({"versions": (4, 5)}, "version"),
        ({"contract": b"x" * 32}, "contract"),
        ({"roster": b"x" * 32}, "contract"),
        ({"initial": b"x" * 32}, "initial"),
        ({"contract": b"x" * 32, "initial": b"x" * 32}, "contract"),
        ({"software": {"torch": "1"}, "boot": 7, "closed_round": 3}, None),
    ],
)
def test_what_must_be_equal_is_and_nothing_else_must(
    field: dict[str, object], reason: str | None
) -> None:
    assert mismatch(greeting("alice"), greeting("bob", **field)) == reason
    assert mismatch(greeting("bob", **field), greeting("alice")) == reason


def test_a_greeting_travels_without_documents_and_with_what_is_the_readers_own() -> None:
    votes = {"bob": (b"vote of bob", bytes(64)), "carol": (b"vote of carol", bytes(64))}
    full = greeting("alice", contract_document="{}", roster_document="{}", votes_held=votes)
    held = {name: (outgoing(name).offer.entry, bytes(64)) for name in ("bob", "carol")}
    full = msgspec.structs.replace(full, entries_held=held)
    sent = addressed(full, "bob")
    assert (sent.contract_document, sent.roster_document) == ("", "")
    assert sent.votes_held == {"bob": votes["bob"]}
    assert sent.entries_held == {"bob": held["bob"]}
    assert addressed(full, "bob", documents=True).contract_document == "{}"


def test_differing_agreements_are_shown_field_by_field() -> None:
    mine = greeting("alice", contract_document=json.dumps({"rounds": 10, "seed": 1}))
    theirs = greeting(
        "bob", contract=b"x" * 32, contract_document=json.dumps({"rounds": 12, "seed": 1})
    )
    error = mismatch_error("bob", "contract", mine, theirs)
    assert error.differences == (Difference("rounds", "10", "12"),)
    assert "bob" in error.message
    assert error.exit_code == 2


def test_differing_rosters_are_shown_under_parties() -> None:
    mine = greeting("alice", roster_document='{"bob": {"public_key": "k1"}}')
    theirs = greeting("bob", roster=b"x" * 32, roster_document='{"bob": {"public_key": "k2"}}')
    error = mismatch_error("bob", "contract", mine, theirs)
    assert error.differences == (Difference("parties.bob.public_key", '"k1"', '"k2"'),)


@pytest.mark.parametrize("document", ["", "not json", "[]", "1", "[" * 100_000, "{}", '{"a": NaN}'])
def test_a_difference_without_a_readable_document_still_shows_the_digests(document: str) -> None:
    mine = greeting("alice", contract_document="{}")
    theirs = greeting("bob", contract=b"x" * 32, contract_document=document)
    rows = mismatch_error("bob", "contract", mine, theirs).differences
    assert rows
    if document != '{"a": NaN}':
        assert rows == (Difference("contract", (b"c" * 8).hex(), (b"x" * 8).hex()),)


def test_other_initial_tensors_are_told_with_the_software_of_both_sides() -> None:
    mine = greeting("alice", software={"torch": "2.15", "python": "3.11"})
    theirs = greeting("bob", initial=b"x" * 32, software={"torch": "2.9", "\x1b[2J": "9"})
    error = mismatch_error("bob", "initial", mine, theirs)
    rows = {row.key: (row.mine, row.theirs) for row in error.differences}
    assert rows["initial shared tensors"] == ((b"i" * 8).hex(), (b"x" * 8).hex())
    assert rows["torch"] == ("2.15", "2.9")
    assert rows["python"] == ("3.11", "?")
    assert rows["\\u001b[2J"] == ("?", "9")
    assert "torch" in error.cure


def test_versions_that_do_not_meet_are_told_as_ranges() -> None:
    error = mismatch_error("bob", "version", greeting("alice"), greeting("bob", versions=(4, 5)))
    assert error.differences[0] == Difference("splitfed protocol", "3", "4 to 5")
    assert "version" in error.cure
