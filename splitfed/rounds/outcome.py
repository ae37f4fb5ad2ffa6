"""What an exchange comes to: a pure function of what was admitted, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping

from splitfed.aggregation import RULES
from splitfed.rounds.book import Book
from splitfed.rounds.recovery import fused_digest
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Outcome


def outcome_of(book: Book, kind: str, terms: Terms, g: Tensors) -> tuple[Outcome, Tensors, bytes]:
    """The outcome, the new g and what is voted on, 32 bytes.

    Args:
        book: of the open exchange, with everybody's input judged.
        kind: what was exchanged; only updates change g.
        terms: the agreement.
        g: the shared tensors of the last closed exchange.
    """
    admitted = book.admitted()
    enough = len(admitted) >= terms.minimum_parties
    if kind != UPDATE:
        roots = {party: book.inputs[party].root for party in admitted} if enough else {}
        return "agreed" if enough else "void", g, fused_digest(roots)
    came = aggregated(admitted, terms, g, caught=len(book.excluded())) if enough else None
    if came is None:
        return "void", g, digest(g)
    return "agreed", came, digest(came)


def aggregated(
    admitted: Mapping[str, Tensors], terms: Terms, g: Tensors, *, caught: int
) -> Tensors | None:
    """The new g by the agreed rule; None where it has fewer updates than it needs.

    Args:
        admitted: party -> update.
        g: the shared tensors of the last closed exchange.
        caught: parties whose update was refused at the gate.
    """
    return RULES[terms.rule].round(admitted, g, terms.parameters, caught=caught)
