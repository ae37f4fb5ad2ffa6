"""The signed statement of what a party makes of a round.

A round is closed for a party when it holds an equal vote of every member of one view. Votes are
compared without their reasons: two parties may word a refusal differently, they may not
differ on what was refused or on what came out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from splitfed.errors import ProtocolViolation

_MAX_BODY = 64 << 10


MOST_REASON = 1000
Reason = Annotated[str, Meta(max_length=MOST_REASON)]


def shown(text: str, most: int = 80) -> str:
    """A peer's words made safe to store, sign and print: short, no control characters."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[:most])
    return clean if len(text) <= most else f"{clean}… ({len(text)} characters)"


class Vote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One party's view of one round.

    Attributes:
        run: the federation run, 32 bytes.
        view: number of the member list that votes; 0: all parties. See
            :mod:`splitfed.rounds.views`.
        round: the round voted on.
        party: who votes.
        inputs: (party, digest of its update), by name, excluded ones included.
        excluded: (party, reason) of each update that is not in the aggregate.
        aggregate: digest of what came of it, 32 bytes: of g where updates were exchanged.
        offers: (party, its signature under the offer of that update), by name. So every vote
            says again what its voter was shown: two signed offers of one party show who lied.
        shared: digest of g after this round, 32 bytes.
        voids: void rounds so far, this one included.
    """

    run: bytes
    view: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    round: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    party: str
    inputs: tuple[tuple[str, bytes], ...]
    excluded: tuple[tuple[str, Reason], ...]
    aggregate: bytes
    offers: tuple[tuple[str, bytes], ...] = ()
    shared: bytes = b""
    voids: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0

    def says_the_same_as(self, other: Vote) -> bool:
        """Whether both votes name the same inputs, exclusions and outcome."""
        return self._said == other._said

    def comes_to_the_same_as(self, other: Vote) -> bool:
        """The same, whatever views they were cast in."""
        return self._outcome == other._outcome

    @property
    def _said(self) -> tuple[object, ...]:
        return self.view, *self._outcome

    @property
    def _outcome(self) -> tuple[object, ...]:
        excluded = tuple(party for party, _ in self.excluded)
        where = self.run, self.round
        return *where, self.inputs, excluded, self.aggregate, self.shared, self.voids

    def difference(self, other: Vote) -> str:
        """In words, the first field on which two votes disagree."""
        if self.inputs != other.inputs:
            mine, theirs = dict(self.inputs), dict(other.inputs)
            for party in sorted(mine.keys() | theirs.keys()):
                if mine.get(party) != theirs.get(party):
                    return f"different updates of {shown(party)}"
        if [p for p, _ in self.excluded] != [p for p, _ in other.excluded]:
            return "different exclusions"
        if (self.aggregate, self.shared) != (other.aggregate, other.shared):
            return "equal inputs, different aggregate"
        if self.voids != other.voids:
            return "another number of void rounds"
        return "different run, view or round"


def make_vote(
    *,
    run: bytes,
    round: int,
    party: str,
    inputs: Mapping[str, bytes],
    excluded: Mapping[str, str],
    aggregate: bytes,
    view: int = 0,
    offers: Mapping[str, bytes] | None = None,
    shared: bytes = b"",
    voids: int = 0,
) -> Vote:
    """A vote with its lists in the order of names."""
    return Vote(
        run=run,
        view=view,
        round=round,
        party=party,
        inputs=tuple(sorted(inputs.items())),
        excluded=tuple(
            (name, shown(why, MOST_REASON // 2)) for name, why in sorted(excluded.items())
        ),
        aggregate=aggregate,
        offers=tuple(sorted((offers or {}).items())),
        shared=shared,
        voids=voids,
    )


def encode_vote(vote: Vote) -> bytes:
    """The vote as it is stored and sent."""
    return msgspec.msgpack.encode(vote)


def decode_vote(body: bytes) -> Vote:
    """The vote in ``body``.

    Raises:
        ProtocolViolation: not an encoded vote, or too long to be one.
    """
    if len(body) > _MAX_BODY:
        raise ProtocolViolation(f"a vote of {len(body)} bytes")
    try:
        vote = msgspec.msgpack.decode(body, type=Vote)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolViolation(f"a vote that cannot be read: {error}") from error
    if encode_vote(vote) != body:
        raise ProtocolViolation("a vote that is not in canonical form")
    for rows in (vote.inputs, vote.excluded, vote.offers):
        names = [row[0] for row in rows]
        if names != sorted(set(names)):
            raise ProtocolViolation("a vote whose parties are not in the order of names")
    return vote
