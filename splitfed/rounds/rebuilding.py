"""Ends the last exchange once more, where the checkpoint of its end is damaged.

The checkpoint before it is of the same exchange, after the own training; what everybody sent is
still stored, and the vote says what of it was admitted. So the end can be computed again, and
the digest that was voted for says whether it came out the same.
"""

from __future__ import annotations

from splitfed.rounds.outcome import aggregated
from splitfed.rounds.recovery import blobs_of, fused_digest
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.vote import decode_vote
from splitfed.store import RunFolder
from splitfed.tensors import Tensors, digest, unpack


def ended_again(
    folder: RunFolder, *, terms: Terms, kind: str, g: Tensors
) -> tuple[Tensors, dict[str, Tensors]] | None:
    """What the last closed exchange came to: the agreed shared tensors after it, and what was
    admitted, by party. None where the folder no longer holds what that follows from.

    Args:
        kind: what was exchanged.
        g: the agreed shared tensors before it.

    Raises:
        LedgerTampered: a stored payload is not what was stored.
    """
    closed = folder.closed()
    if closed is None:
        return None
    admitted = _admitted(folder, terms, closed.round, kind) if closed.outcome == "agreed" else {}
    if admitted is None:
        return None
    if kind == UPDATE:
        if admitted:
            caught = _caught(folder, closed.round)
            came = aggregated(admitted, terms, g, caught=caught)
            if came is None:
                return None
            g = came
        again = digest(g)
    else:
        again = fused_digest(_roots(folder, closed.round, admitted))
    return (g, admitted) if again == closed.digest else None


def _admitted(folder: RunFolder, terms: Terms, round: int, kind: str) -> dict[str, Tensors] | None:
    """The payloads that the own vote names and does not exclude; None if one is gone."""
    own = folder.own_vote(round)
    if own is None:
        return None
    vote = decode_vote(own.body)
    found: dict[str, Tensors] = {}
    for party, root in vote.inputs:
        if party in dict(vote.excluded):
            continue
        payload = blobs_of(folder, party).get(root)
        if payload is None:
            return None
        found[party] = unpack(payload, terms.specs(kind, party))
    return found


def _caught(folder: RunFolder, round: int) -> int:
    """How many updates the own vote excludes."""
    own = folder.own_vote(round)
    return 0 if own is None else len(decode_vote(own.body).excluded)


def _roots(folder: RunFolder, round: int, parties: dict[str, Tensors]) -> dict[str, bytes]:
    own = folder.own_vote(round)
    inputs = () if own is None else decode_vote(own.body).inputs
    return {party: root for party, root in inputs if party in parties}
