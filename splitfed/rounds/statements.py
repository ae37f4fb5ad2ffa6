"""Statements on the wire and in the folder: how they are read, and what an honest one holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from splitfed.entries import Digest, Name, Signature
from splitfed.errors import ProtocolViolation
from splitfed.rounds.schedule import plan
from splitfed.rounds.terms import Terms
from splitfed.rounds.view import Number, Statement
from splitfed.rounds.vote import decode_vote
from splitfed.transport.events import offer_message, vote_message

Exchange = tuple[bytes, int, str]
"""Run, number and kind of an exchange."""

_Word = TypeVar("_Word", bound=msgspec.Struct)


class Lie(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two updates of one round that one party signed: whoever sees it knows that it lied.

    Attributes:
        run: the federation run, 32 bytes.
        round: number of the exchange.
        kind: what was exchanged.
        party: who signed both.
        one, other: digest and signature of each, two different digests.
    """

    run: Digest
    round: Number
    kind: Name
    party: Name
    one: tuple[Digest, Signature]
    other: tuple[Digest, Signature]


def own_statement(
    view: int,
    members: tuple[str, ...],
    *,
    exchange: Exchange,
    terms: Terms,
    party: str,
    vote: bytes,
    vote_signature: bytes,
    held: Mapping[str, tuple[bytes, bytes]],
) -> Statement:
    """What ``party`` says: its newest vote for the exchange, and the updates that it holds.

    Args:
        held: digest and signature of each, by party; what only a revoked key signed is left out.
    """
    run, round, kind = exchange
    inputs = tuple(
        (name, root, signature)
        for name, (root, signature) in sorted(held.items())
        if signed_offer(terms, run, round, kind, name, root, signature)
    )
    return Statement(run, view, round, party, members, vote, vote_signature, inputs)


def proven(lie: Lie, terms: Terms) -> bool:
    """Whether its party signed both, with keys that count."""
    different = lie.one[0] != lie.other[0] and lie.party in terms.parties
    return different and all(
        signed_offer(terms, lie.run, lie.round, lie.kind, lie.party, *said)
        for said in (lie.one, lie.other)
    )


def signed_offer(
    terms: Terms, run: bytes, round: int, kind: str, party: str, root: bytes, signature: bytes
) -> bool | None:
    """Whether ``party`` signed an offer of ``root`` with a key that it has or handed over; None:
    with one that it revoked."""
    message = offer_message(run=run, round=round, party=party, kind=kind, root=root)
    return terms.signed_by(party, message, signature, past=True)


def decode_lie(body: bytes) -> Lie:
    """The lie in ``body``.

    Raises:
        ProtocolViolation: it cannot be read.
    """
    return _decode(body, Lie, "evidence")


def decode_statement(body: bytes) -> Statement:
    """The statement in ``body``.

    Raises:
        ProtocolViolation: it cannot be read.
    """
    return _decode(body, Statement, "a statement")


def _decode(body: bytes, of: type[_Word], what: str) -> _Word:
    try:
        word = msgspec.msgpack.decode(body, type=of)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolViolation(f"{what} that cannot be read: {error}") from error
    if msgspec.msgpack.encode(word) != body:
        raise ProtocolViolation(f"{what} that is not in canonical form")
    return word


def check_statement(
    word: Statement, *, origin: str, run: bytes, terms: Terms, kinds: Sequence[str]
) -> None:
    """Make sure that an honest party may have signed ``word``, whatever else it signed.

    A vote or an update inside may bear a key that was revoked since: the word was honest then, and
    its party sends the same again under its new key. A thief's brings nobody anything: what is
    passed on under a revoked key is not taken.

    Args:
        origin: whose signature it bears.
        kinds: of the exchanges that are closed here.

    Raises:
        ProtocolViolation: naming what is wrong.
    """
    where = f"a statement for view {word.view}"
    if word.run != run or word.party != origin:
        raise ProtocolViolation(f"{where} of another run or party than it says")
    members = word.members
    if tuple(sorted(set(members))) != members or not set(members) <= set(terms.parties):
        raise ProtocolViolation(f"{where} whose members are not parties in the order of names")
    if origin not in members:
        raise ProtocolViolation(f"{where} without its signer")
    if why := terms.without_the_needed(members):
        raise ProtocolViolation(f"{where} of {len(members)} members: {why}")
    planned = plan(kinds, terms)
    if not 1 <= word.round <= len(planned):
        raise ProtocolViolation(f"{where} for round {word.round} of {len(planned)}")
    kind = planned[word.round - 1]
    _check_vote(word, terms, where, kind)
    names = [party for party, _, _ in word.inputs]
    if names != sorted(set(names)):
        raise ProtocolViolation(f"{where} whose updates are not in the order of names")
    for party, root, signature in word.inputs:
        if signed_offer(terms, run, word.round, kind, party, root, signature) is False:
            raise ProtocolViolation(f"{where} that shows an update which its party did not sign")


def _check_vote(word: Statement, terms: Terms, where: str, kind: str) -> None:
    if not word.vote:
        return
    vote = decode_vote(word.vote)
    if (vote.run, vote.round, vote.party) != (word.run, word.round, word.party):
        raise ProtocolViolation(f"{where} with a vote of another run, round or party")
    if not vote.view and {party for party, _ in vote.inputs} != set(terms.parties):
        raise ProtocolViolation(f"{where} with a vote of all parties on the updates of a few")
    if vote.view >= word.view:
        raise ProtocolViolation(f"{where} after a vote in view {vote.view}")
    message = vote_message(word.vote)
    if terms.signed_by(word.party, message, word.vote_signature, past=True) is False:
        raise ProtocolViolation(f"{where} with a vote that its signer did not sign")
    signed = dict(vote.offers)
    for party, root in vote.inputs:
        signature = signed.get(party, b"")
        if signed_offer(terms, word.run, word.round, kind, party, root, signature) is False:
            raise ProtocolViolation(f"{where} with a vote on an update that its party did not sign")
