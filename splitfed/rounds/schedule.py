"""Which exchange comes next: rounds of updates, and what fuses the models between or after.

Everything that is exchanged is numbered through, from 1: that number is the ``round`` of
offers, votes and files. Without fusion it is the round of training. With it, each fusion
takes a number of its own, after every ``every`` rounds and after the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitfed.rounds.terms import UPDATE, Terms


def trained(kinds: Sequence[str]) -> int:
    """Rounds of training among what was exchanged so far."""
    return sum(kind == UPDATE for kind in kinds)


def following(kinds: Sequence[str], terms: Terms) -> str | None:
    """What is exchanged after ``kinds``, or None when all is done.

    A function of the agreement and of what is closed, so that all parties go the same way;
    rounds that were added to a finished federation come after its fusion.
    """
    return _next(trained(kinds), bool(kinds) and kinds[-1] != UPDATE, terms)


def plan(kinds: Sequence[str], terms: Terms) -> tuple[str, ...]:
    """The kinds of all exchanges: those of ``kinds``, which are closed, and all that follow."""
    found, done = list(kinds), trained(kinds)
    while kind := _next(done, bool(found) and found[-1] != UPDATE, terms):
        found.append(kind)
        done += kind == UPDATE
    return tuple(found)


def expected(kinds: Sequence[str], terms: Terms) -> dict[int, str]:
    """The two exchanges that may arrive now, by number: the open one, and the one after it,
    since a peer is at most one ahead."""
    found: dict[int, str] = {}
    kind = following(kinds, terms)
    while kind and len(found) < 2:
        found[len(kinds) + len(found) + 1] = kind
        kind = following((*kinds, *found.values()), terms)
    return found


def _next(done: int, fused: bool, terms: Terms) -> str | None:
    """After ``done`` rounds, the last of which was ``fused`` already or not."""
    fusion = terms.fusion
    if done >= terms.rounds:
        return None if fusion is None or fused else fusion.kind
    if fusion is None or fusion.every is None or fused or not done:
        return UPDATE
    return fusion.kind if done % fusion.every == 0 else UPDATE
