"""One view: the statements that make it, and what it settles.

Functions of the statements alone: whoever holds the same comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

from splitfed.entries import Digest, Name, Signature
from splitfed.rounds.vote import Vote, decode_vote

HIGHEST = 1 << 62

Number = Annotated[int, Meta(ge=1, le=HIGHEST)]
Input = tuple[Name, Digest, Signature]
"""Whose update, its digest, and the party's signature under its offer."""


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One party's word that it votes in this view from now on and in no lower one.

    Attributes:
        run: the federation run, 32 bytes.
        view: number of the view, from 1.
        round: the exchange that is open for the signer.
        party: who signs.
        members: of the view, by name, the signer among them.
        vote: the signer's vote of the highest view for this round, as it was sent; empty: none.
        vote_signature: under that vote; empty: none.
        inputs: the updates of this round that the signer knows, by name.
    """

    run: Digest
    view: Number
    round: Number
    party: Name
    members: Annotated[tuple[Name, ...], Meta(max_length=256)]
    vote: Annotated[bytes, Meta(max_length=60 << 10)] = b""
    vote_signature: Annotated[bytes, Meta(max_length=64)] = b""
    inputs: Annotated[tuple[Input, ...], Meta(max_length=256)] = ()

    @property
    def cast(self) -> Vote | None:
        """The vote inside."""
        return decode_vote(self.vote) if self.vote else None


def shows(word: Statement, party: str) -> bool:
    """Whether the signer says that it holds an update of ``party``."""
    vote = word.cast
    voted = () if vote is None else vote.inputs
    return any(name == party for name, *_ in (*word.inputs, *voted))


def shown_for(view: View, party: str, root: bytes) -> tuple[bytes, bytes]:
    """``root`` and the signature of ``party`` under it that some member showed; empty: none did."""
    for word in view.statements.values():
        vote = word.cast
        offers = () if vote is None else zip(vote.inputs, vote.offers, strict=False)
        voted = [(name, found, sign) for (name, found), (_, sign) in offers]
        for name, found, sign in (*word.inputs, *voted):
            if (name, found) == (party, root):
                return root, sign
    return root, b""


@dataclass(frozen=True)
class View:
    """One list of members, and the statements that made it; those of view 0 are none.

    Attributes:
        number: 0 for all parties.
        members: by name.
        statements: by party.
    """

    number: int
    members: tuple[str, ...]
    statements: Mapping[str, Statement] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The exchange that was open when it was made; 0 for view 0."""
        return next((word.round for word in self.statements.values()), 0)


@dataclass(frozen=True)
class Demand:
    """Which updates a round's outcome in a view is made of.

    Attributes:
        parties: whose, by name.
        roots: the digests that are settled already, by party; a member's own may come yet.
        settled: an earlier vote may have closed the round on just these, so no other counts.
        liars: parties that signed two different updates, with both: (root, signature) each.
    """

    parties: tuple[str, ...]
    roots: Mapping[str, bytes] = field(default_factory=dict)
    settled: bool = False
    liars: Mapping[str, tuple[tuple[bytes, bytes], tuple[bytes, bytes]]] = field(
        default_factory=dict
    )


def demand_of(view: View, round: int) -> Demand:
    """What must be voted on in ``view`` for ``round``: the inputs of the highest vote that a
    member has cast, since the round may be closed on them; without any, what every member
    releases, and what any of them holds of others. A function of the statements alone."""
    if view.round != round:
        return Demand(parties=view.members)
    votes = [vote for word in view.statements.values() if (vote := word.cast) is not None]
    top = max((vote.view for vote in votes), default=-1)
    lists = {vote.inputs for vote in votes if vote.view == top}
    if len(lists) == 1:
        roots = dict(lists.pop())
        return Demand(parties=tuple(sorted(roots)), roots=roots, settled=True)
    # No vote, or different ones in one view: nobody has closed on either, unless somebody voted
    # twice, and then the two votes show who it was.
    shown: dict[str, dict[bytes, bytes]] = {}
    for word in view.statements.values():
        for party, root, signature in word.inputs:
            shown.setdefault(party, {})[root] = signature
    liars = {}
    for party, signed in shown.items():
        if len(signed) > 1:
            first, second, *_ = sorted(signed.items())
            liars[party] = (first, second)
    roots = {party: next(iter(signed)) for party, signed in shown.items() if party not in liars}
    wanted = (set(view.members) | set(roots)) - set(liars)
    return Demand(parties=tuple(sorted(wanted)), roots=roots, liars=liars)


def follows(vote: Vote, view: View) -> bool:
    """Whether an honest member of ``view`` may have cast ``vote`` in it: on just what the view
    settles."""
    demand, inputs = demand_of(view, vote.round), dict(vote.inputs)
    return (
        vote.party in view.members
        and set(inputs) == set(demand.parties)
        and all(inputs[party] == root for party, root in demand.roots.items())
    )
