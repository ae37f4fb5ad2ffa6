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
    done, fused = trained(kinds), bool(kinds) and kinds[-1] != UPDATE
    fusion = terms.fusion
    if done < terms.rounds:
        due = fusion is not None and fusion.every is not None and done % fusion.every == 0
        if fusion is not None and due and done and not fused:
            return fusion.kind
        return UPDATE
    return fusion.kind if fusion is not None and not fused else None


def plan(kinds: Sequence[str], terms: Terms) -> tuple[str, ...]:
    """The kinds of all exchanges: those of ``kinds``, which are closed, and all that follow."""
    found = list(kinds)
    while (kind := following(found, terms)) is not None:
        found.append(kind)
    return tuple(found)


def expected(kinds: Sequence[str], terms: Terms) -> dict[int, str]:
    """The two exchanges that may arrive now, by number: the open one, and the one after it,
    since a peer is at most one ahead."""
    closed = len(kinds)
    return dict(enumerate(plan(kinds, terms)[closed : closed + 2], start=closed + 1))
