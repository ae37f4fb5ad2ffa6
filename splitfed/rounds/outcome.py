"""What an exchange comes to: a pure function of what was admitted, the same everywhere."""

from __future__ import annotations

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
    outcome: Outcome = "agreed" if enough else "void"
    if kind != UPDATE:
        roots = {party: book.inputs[party].root for party in admitted} if enough else {}
        return outcome, g, fused_digest(roots)
    if enough:
        g = RULES[terms.rule].apply(admitted, terms.weights)
    return outcome, g, digest(g)
