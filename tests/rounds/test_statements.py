"""What a statement must hold to be believed, what proves a lie, and what a party that was left out
believes of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from splitfed.errors import ProtocolViolation
from splitfed.rounds.book import Book
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import state_offer
from splitfed.rounds.returning import KEPT, Returning
from splitfed.rounds.statements import (
    Lie,
    check_statement,
    decode_lie,
    decode_statement,
    proven,
    signed_offer,
)
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.view import Statement, View
from splitfed.rounds.vote import Vote, encode_vote, make_vote
from splitfed.transport.events import (
    STATE_ROUNDS,
    offer_message,
    vote_message,
)
from splitfed.transport.keys import make_secret
from splitfed.transport.offers import LATER
from tests.support.members import INITIAL, make_terms

RUN = b"r" * 32
SECRETS = {name: make_secret() for name in "abcde"}
TERMS = make_terms(list("abcde"), SECRETS, rounds=4)


def root(face: int) -> bytes:
    return bytes([face]) * 32


def shown(party: str, face: int = 0, *, round: int = 1, kind: str = UPDATE, by: str = "") -> Any:
    """The digest of an update and the signature under its offer."""
    message = offer_message(run=RUN, round=round, party=party, kind=kind, root=root(face))
    return root(face), SECRETS[by or party].sign(message)


def vote_of(party: str, *, view: int = 0, **changes: Any) -> Vote:
    said = {"run": RUN, "round": 1, "inputs": {}, "excluded": {}, "aggregate": b"g" * 32}
    return make_vote(party=party, view=view, **{**said, **changes})


def voted(held: tuple[bytes, bytes]) -> Vote:
    """a's vote of all parties, with this update of c."""
    found = {name: shown(name) for name in "abde"} | {"c": held}
    return vote_of("a", **of(found))


def of(found: dict[str, tuple[bytes, bytes]]) -> dict[str, Any]:
    """What a vote says of these updates."""
    return {
        "inputs": {name: root for name, (root, _) in found.items()},
        "offers": {name: signature for name, (_, signature) in found.items()},
    }


def word(*, cast: Vote | None = None, by: str = "a", **changes: Any) -> Statement:
    """a's statement for view 3 of a, b and c."""
    body = b"" if cast is None else encode_vote(cast)
    signature = SECRETS[by].sign(vote_message(body)) if body else b""
    said = Statement(RUN, 3, 1, "a", ("a", "b", "c"), body, signature)
    return msgspec.structs.replace(said, **changes)


def check(said: Statement, terms: Any = TERMS) -> None:
    check_statement(said, origin="a", run=RUN, terms=terms, kinds=())


def test_an_honest_statement_is_believed() -> None:
    inputs = tuple((name, *shown(name)) for name in "acd")
    check(word(cast=vote_of("a", view=2), inputs=inputs))
    check(word(cast=voted(shown("c"))))
    assert decode_statement(msgspec.msgpack.encode(word())) == word()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (word(run=b"x" * 32), "of another run or party"),
        (word(party="b"), "of another run or party"),
        (word(members=("a", "b", "x")), "not parties in the order of names"),
        (word(members=("b", "a", "c")), "not parties in the order of names"),
        (word(members=("a", "b", "b")), "not parties in the order of names"),
        (word(members=("b", "c", "d")), "without its signer"),
        (word(members=("a", "b")), "of 2 members: at least 3"),
        (word(round=5), "for round 5 of 4"),
        (word(cast=vote_of("b"), by="b"), "with a vote of another run, round or party"),
        (word(cast=vote_of("a", round=2)), "with a vote of another run, round or party"),
        (word(cast=vote_of("a", run=b"x" * 32)), "with a vote of another run, round or party"),
        (word(cast=vote_of("a", view=3)), "after a vote in view 3"),
        (word(cast=vote_of("a")), "on the updates of a few"),
        (word(cast=vote_of("a", **of({n: shown(n) for n in "abcd"}))), "on the updates of a few"),
        (word(cast=voted(shown("c")), by="b"), "with a vote that its signer did not sign"),
        (word(cast=voted(shown("c", by="a"))), "on an update that its party did not sign"),
        (word(cast=voted(shown("c", round=2))), "on an update that its party did not sign"),
        (word(cast=voted((root(0), b""))), "on an update that its party did not sign"),
        (word(inputs=(("c", *shown("c", by="a")),)), "which its party did not sign"),
        (word(inputs=(("c", *shown("c", round=2)),)), "which its party did not sign"),
        (word(inputs=(("c", *shown("c", kind="outputs")),)), "which its party did not sign"),
        (word(inputs=(("x", *shown("c")),)), "which its party did not sign"),
        (word(inputs=tuple((n, *shown(n)) for n in "cb")), "updates are not in the order of names"),
        (word(inputs=(("b", *shown("b")),) * 2), "updates are not in the order of names"),
    ],
)
def test_what_no_honest_party_signs_is_refused(said: Statement, says: str) -> None:
    with pytest.raises(ProtocolViolation, match=says):
        check(said)


@pytest.mark.parametrize(
    ("rule", "members", "says"),
    [
        ({"rule": "median", "byzantine": 2}, "abcd", "of 4 members: rule median needs 5 updates"),
        ({"rule": "trimmed-mean", "byzantine": 1}, "abc", ""),
        ({"rule": "krum", "byzantine": 1}, "abcd", "rule krum needs 5 updates"),
        ({"rule": "fltrust", "root": "e"}, "abcd", "without e, the root party of rule fltrust"),
        ({"rule": "fltrust", "root": "a"}, "abc", ""),
        ({"minimum_parties": 4}, "abc", "of 3 members: at least 4 are agreed"),
    ],
)
def test_a_view_that_could_close_void_rounds_only_is_refused(
    rule: dict[str, Any], members: str, says: str
) -> None:
    terms = dataclasses.replace(TERMS, **rule)
    said = word(members=tuple(members))
    if not says:
        check(said, terms)
        return
    with pytest.raises(ProtocolViolation, match=says):
        check(said, terms)


def test_what_rests_on_a_key_that_was_replaced_or_revoked_is_held_against_nobody() -> None:
    """It was honest when it was signed. Evidence it is none."""
    new = make_secret().signing_public
    for owner in "ac":
        now = dataclasses.replace(TERMS, signing_keys={**TERMS.signing_keys, owner: new})
        gone = {owner: (SECRETS[owner].signing_public,)}
        for said in (
            word(cast=voted(shown("c"))),
            word(inputs=((owner, *shown(owner)),)),
        ):
            check(said, dataclasses.replace(now, retired_keys=gone))
            check(said, dataclasses.replace(now, revoked_keys=gone))
        with pytest.raises(ProtocolViolation, match="did not sign"):
            check(word(inputs=((owner, *shown(owner)),)), now)
        both = lie(shown("c"), shown("c", 1))
        assert proven(both, dataclasses.replace(now, retired_keys=gone))
        assert proven(both, dataclasses.replace(now, revoked_keys=gone)) == (owner == "a")


# --- lies ------------------------------------------------------------------------------


def lie(one: Any, other: Any, **changes: Any) -> Lie:
    return msgspec.structs.replace(Lie(RUN, 1, UPDATE, "c", one, other), **changes)


def test_two_signed_updates_of_one_round_prove_a_lie() -> None:
    said = lie(shown("c"), shown("c", 1))
    assert proven(said, TERMS)
    assert decode_lie(msgspec.msgpack.encode(said)) == said


@pytest.mark.parametrize(
    "said",
    [
        lie(shown("c"), shown("c")),
        lie(shown("c"), shown("c", 1, by="a")),
        lie(shown("c", by="a"), shown("c", 1)),
        lie(shown("c"), shown("c", 1, round=2)),
        lie(shown("c"), shown("c", 1, kind="outputs")),
        lie(shown("c"), (root(1), b"")),
        lie(shown("c"), shown("c", 1), run=b"x" * 32),
        lie(shown("c"), shown("c", 1), party="b"),
        lie(shown("c"), shown("c", 1), party="x"),
    ],
)
def test_anything_less_proves_none(said: Lie) -> None:
    assert not proven(said, TERMS)


def test_nobody_else_signs_an_offer() -> None:
    assert signed_offer(TERMS, RUN, 1, UPDATE, "c", *shown("c"))
    assert not signed_offer(TERMS, RUN, 1, UPDATE, "c", *shown("c", by="b"))
    assert not signed_offer(TERMS, RUN, 1, UPDATE, "x", *shown("c"))


@pytest.mark.parametrize("decode", [decode_lie, decode_statement])
def test_what_cannot_be_read_is_refused(decode: Callable[[bytes], Any]) -> None:
    lists = msgspec.msgpack.encode([b"r" * 32, 1])
    for body in (b"", b"\xc1", lists, b"\x91" * 5000):
        with pytest.raises(ProtocolViolation, match="cannot be read"):
            decode(body)
    long = b"\xdc\x00\x06" + msgspec.msgpack.encode(lie(shown("c"), shown("c", 1)))[1:]
    with pytest.raises(ProtocolViolation, match="canonical"):
        decode_lie(long)


# --- what closes a round ---------------------------------------------------------------


def test_a_round_is_closed_by_equal_votes_of_all_members_of_a_view_that_this_party_voted_in() -> (
    None
):
    first, second = View(0, ("a", "b", "c")), View(1, ("a", "c"))
    book = Book(round=1)

    def closes(*votes: Vote, party: str = "a") -> Vote | None:
        for vote in votes:
            book.add_vote(vote)
        return book.closing([first, second], party)

    assert closes(vote_of("a"), vote_of("b")) is None
    assert closes(vote_of("c", aggregate=b"x" * 32)) is None
    assert closes(vote_of("a", view=1)) is None
    assert closes(vote_of("c", view=1), party="b") is None
    assert closes(party="a") == vote_of("a", view=1)


# --- what a party that was left out believes ------------------------------------------


G = {name: tensor + 1 for name, tensor in INITIAL.items()}
OFFERED = state_offer(G, terms=TERMS, run=RUN, round=2, party="b", signer=SECRETS["b"])
OTHERS = View(1, ("b", "c", "d"))


def missed(party: str, **changes: Any) -> Vote:
    said = {"view": 1, "round": 2, "shared": OFFERED.offer.manifest.root, **changes}
    return vote_of(party, **said)


def learned(*votes: Vote, first: int = 1) -> Returning:
    found = Returning(TERMS)
    for vote in votes:
        found.note(vote, [])
    found.certify(OTHERS, first)
    return found


@pytest.mark.parametrize(
    "last",
    [
        [],
        [missed("d", shared=b"x" * 32)],
        [missed("d", voids=1)],
        [missed("d", view=0)],
        [missed("d", round=1)],
        [missed("e")],
    ],
)
def test_only_equal_votes_of_all_members_say_what_was_closed(last: list[Vote]) -> None:
    assert learned(missed("b"), missed("c"), *last).vote is None
    assert learned(missed("b"), missed("c"), missed("d")).vote == missed("b")


def test_of_two_votes_of_one_party_the_one_that_another_says_too_counts() -> None:
    """A liar sends its lie ahead, and never the truth: that comes from the others."""
    lies = [missed("c", round=round, shared=b"x" * 32) for round in (2, 3)]
    found = learned(*lies, missed("b"), missed("c"), missed("d"))
    assert found.vote == missed("b")
    found = learned(missed("b"), missed("c"), *lies, missed("d"))
    assert found.vote == missed("b")


def test_votes_that_closed_nothing_crowd_out_none_that_did() -> None:
    found = Returning(TERMS)
    found.note(missed("b"), [OTHERS.number])
    for number in range(3 * KEPT):
        found.note(missed("b", view=7, round=3 + number), [OTHERS.number])
    for name in "cd":
        found.note(missed(name), [OTHERS.number])
    found.certify(OTHERS, 1)
    assert found.vote == missed("b")


def test_votes_for_later_rounds_in_the_same_view_crowd_out_none_that_did() -> None:
    """A liar that has left the others votes on, in the view that it was a member of."""
    found = Returning(TERMS)
    found.note(missed("b"), [OTHERS.number])
    for round in range(3, 3 + 3 * KEPT):
        found.note(missed("c", round=round), [OTHERS.number])
    found.note(missed("c"), [OTHERS.number])
    for round in range(3 + 3 * KEPT, 3 + 5 * KEPT):
        found.note(missed("c", round=round), [OTHERS.number])
    found.note(missed("d"), [OTHERS.number])
    found.certify(OTHERS, 1)
    assert found.vote == missed("b")


def test_what_is_looked_for_is_fetched_before_the_next_is_looked_for() -> None:
    """Unless it is so old that nobody has it any more."""
    found = Returning(TERMS)

    def close(round: int) -> Vote | None:
        for name in "bcd":
            found.note(missed(name, round=round), [OTHERS.number])
        found.certify(OTHERS, 1)
        return found.vote

    assert close(2) == missed("b")
    for round in range(3, 2 + STATE_ROUNDS):
        assert close(round) == missed("b")
    last = 2 + STATE_ROUNDS
    assert close(last) == missed("b", round=last)
    found.forget(last)
    assert close(last + 1) == missed("b", round=last + 1)


def test_newer_votes_take_the_place_of_older_ones_whoever_sends_first() -> None:
    """All votes of b came before any of c."""
    found = Returning(TERMS)
    rounds = range(2, 2 + 5 * KEPT)
    for name in "bcd":
        for round in rounds:
            found.note(missed(name, round=round), [OTHERS.number])
    found.certify(OTHERS, 1)
    assert found.vote == missed("b", round=rounds[-1])


def test_what_is_closed_here_already_is_not_looked_for() -> None:
    assert learned(*(missed(name) for name in "bcd"), first=3).vote is None
    found = learned(*(missed(name) for name in "bcd"))
    found.forget(2)
    assert found.vote is None


def test_only_the_tensors_that_were_voted_for_are_taken() -> None:
    found = learned(*(missed(name) for name in "bcd"))
    other = state_offer(INITIAL, terms=TERMS, run=RUN, round=2, party="b", signer=SECRETS["b"])
    later = msgspec.structs.replace(OFFERED.offer, round=3)
    update = msgspec.structs.replace(OFFERED.offer, kind=UPDATE)
    for offer in (other.offer, later, update):
        assert not found.wants(offer)
        found.take(offer, OFFERED.payload)
        assert found.shared is None
    found.take(OFFERED.offer, OFFERED.payload)
    assert found.shared is not None
    assert all(torch.equal(found.shared[name], G[name]) for name in G)
    assert not found.wants(OFFERED.offer)


def test_a_state_that_nobody_asked_for_is_not_pulled() -> None:
    entrance, offer = Entrance(TERMS), OFFERED.offer
    entrance.run = RUN
    assert entrance.accept(offer) == LATER
    entrance.state = 2, b"x" * 32
    assert entrance.accept(offer) == LATER
    entrance.state = 2, offer.manifest.root
    assert entrance.accept(offer) is None


def test_an_update_is_taken_from_others_in_its_run_and_round_only() -> None:
    entrance = Entrance(TERMS)
    entrance.run = RUN
    offer = msgspec.structs.replace(OFFERED.offer, kind=UPDATE, round=1, party="c")
    assert not entrance.wanted(offer)
    entrance.asked = frozenset({("c", offer.manifest.root)})
    assert entrance.wanted(offer)
    for changes in ({"round": 2}, {"run": b"x" * 32}, {"party": "d"}):
        assert not entrance.wanted(msgspec.structs.replace(offer, **changes))
