"""Votes say what came in, what was left out and what came out; nothing else counts."""

from __future__ import annotations

import msgspec
import pytest

from splitfed.errors import Defect, ProtocolViolation
from splitfed.rounds.book import Book
from splitfed.rounds.gates import Admission
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import decode_vote, encode_vote, make_vote

RUN, G = b"r" * 32, b"g" * 32
TERMS = Terms(
    contract=b"c" * 32,
    parties=("a", "b"),
    signing_keys={},
    shared=(),
    rounds=1,
    max_update_norm=1.0,
    weights={},
    minimum_parties=2,
)


def vote(**changes):
    fields = {
        "run": RUN, "round": 1, "party": "a", "inputs": {"b": b"2" * 32, "a": b"1" * 32},
        "excluded": {}, "aggregate": G,
    }  # fmt: skip
    return make_vote(**{**fields, **changes})


def admission(party, root=b"1" * 32, reason=None):
    return Admission(party=party, root=root, tensors={} if reason is None else None, reason=reason)


def test_a_vote_survives_the_wire():
    assert decode_vote(encode_vote(vote(excluded={"b": "norm"}))) == vote(excluded={"b": "norm"})


def test_equal_views_are_equal_whoever_votes_and_whatever_the_reason():
    one = vote(excluded={"b": "norm 3 above 2"})
    assert one.says_the_same_as(vote(party="b", excluded={"b": "too long"}))


@pytest.mark.parametrize("field", ["inputs", "excluded", "offers"])
def test_a_vote_that_names_a_party_twice_is_none(field: str) -> None:
    """Each time would be verified."""
    said = vote(excluded={"a": "x", "b": "y"}, offers={"a": b"1", "b": b"2"})
    rows = getattr(said, field)
    for wrong in (rows * 2, rows[::-1]):
        body = encode_vote(msgspec.structs.replace(said, **{field: wrong}))
        with pytest.raises(ProtocolViolation, match="parties are not in the order of names"):
            decode_vote(body)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inputs": {"a": b"1" * 32, "b": b"3" * 32}}, "different updates of b"),
        ({"inputs": {"a": b"1" * 32}}, "different updates of b"),
        ({"excluded": {"a": "x"}}, "different exclusions"),
        ({"aggregate": b"h" * 32}, "equal inputs, different aggregate"),
        ({"round": 2}, "different run, view or round"),
        ({"run": b"q" * 32}, "different run, view or round"),
        ({"view": 1}, "different run, view or round"),
    ],
)
def test_votes_that_differ_say_where(changes, says):
    other = vote(**changes)
    assert not vote().says_the_same_as(other)
    assert vote().difference(other) == says


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        encode_vote(vote())[:-1],
        encode_vote(vote()) + b"\x00",
        msgspec.msgpack.encode([1, 2, 3]),
        msgspec.msgpack.encode([RUN, 0, 1, "a", [], [], G, "more"]),
        b"\x97" + b"\xc4\x20" + RUN + b"\xcd\x00\x00" + msgspec.msgpack.encode(1)
        + msgspec.msgpack.encode("a") + b"\x90\x90" + b"\xc4\x20" + G,
        bytes(70_000),
    ],
)  # fmt: skip
def test_a_vote_that_is_not_canonical_is_a_violation(body):
    with pytest.raises(ProtocolViolation):
        decode_vote(body)


def test_two_updates_of_one_party_in_one_round_are_a_violation():
    book = Book(round=1)
    book.add_input(admission("b"))
    book.add_input(admission("b"))
    with pytest.raises(ProtocolViolation, match="b signed two different updates for round 1"):
        book.add_input(admission("b", root=b"2" * 32))


def test_two_votes_of_one_party_in_one_round_are_a_violation():
    book = Book(round=1)
    book.add_vote(vote())
    book.add_vote(vote())
    with pytest.raises(ProtocolViolation, match="a cast two different votes for round 1"):
        book.add_vote(vote(aggregate=b"h" * 32))


def test_a_recomputation_against_the_own_vote_is_a_defect():
    book = Book(round=1)
    book.add_input(admission("a"))
    book.add_input(admission("b"))
    own = book.own_vote(terms=TERMS, run=RUN, party="a", aggregate=G)
    book.add_vote(own)
    assert book.own_vote(terms=TERMS, run=RUN, party="a", aggregate=G) == own
    with pytest.raises(Defect, match="contradicts my own vote"):
        book.own_vote(terms=TERMS, run=RUN, party="a", aggregate=b"h" * 32)


def test_no_vote_before_every_input_is_in():
    book = Book(round=1)
    book.add_input(admission("a"))
    with pytest.raises(Defect, match=r"without \['b'\]"):
        book.own_vote(terms=TERMS, run=RUN, party="a", aggregate=G)


def test_a_contradicting_vote_names_its_party():
    book = Book(round=1)
    book.add_vote(vote())
    book.add_vote(vote(party="b", aggregate=b"h" * 32))
    assert book.contradiction(vote()) == ("b", "equal inputs, different aggregate")
