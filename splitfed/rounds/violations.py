"""What a peer did against the rules of the round, and who it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from splitfed.errors import ProtocolViolation


class Violation(Exception):
    """A peer broke the rules of the round; carries who and what for the record."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason


@contextmanager
def blaming(peer: str) -> Iterator[None]:
    """What breaks a rule inside was done by ``peer``."""
    try:
        yield
    except ProtocolViolation as error:
        raise Violation(peer, error.message) from error
