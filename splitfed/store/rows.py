"""What the run folder hands out: frozen records, one per row of its tables."""

from __future__ import annotations

from typing import Literal

import blake3
import msgspec

from splitfed.entries import Entry
from splitfed.types import TensorSpec

Outcome = Literal["agreed", "void", "alone", "missed"]
"""How a round ends."""

_RELEASE_DOMAIN = b"splitfed release v1\0"


class ReleaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that leaves this party, as the ledger records it before it is sent.

    Attributes:
        release: 32 bytes that name this release for ever, see :func:`release_id`.
        round: number of the round, from 1.
        kind: what leaves: ``"update"``, ``"outputs"``, …
        tensors: name, shape and dtype of everything in the payload.
        root: manifest root of the payload, 32 bytes; the outbox file's name in hex.
        size: bytes of the payload.
        epsilon: privacy spent by all releases up to and including this one, or None.
    """

    release: bytes
    round: int
    kind: str
    tensors: tuple[TensorSpec, ...]
    root: bytes
    size: int
    epsilon: float | None = None


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A :class:`ReleaseRow` in its place in the chain.

    Attributes:
        number: place in the ledger, from 1 without gaps.
        time: seconds since 1970 when the row was written, by this machine's clock.
        row: what was released.
        previous: head of the chain before this row, 32 bytes.
        head: head of the chain with this row, 32 bytes.
        signature: this party's, over :func:`splitfed.entries.entry_message`, 64 bytes.
        receipts: peers that hold the payload durably, in order of name, each with its
            counter-signature of this entry.
    """

    number: int
    time: float
    row: ReleaseRow
    previous: bytes
    head: bytes
    signature: bytes
    receipts: tuple[tuple[str, bytes], ...] = ()

    @property
    def acknowledged(self) -> tuple[str, ...]:
        """Names of the peers that hold the payload durably."""
        return tuple(peer for peer, _ in self.receipts)

    def entry(self, run: bytes, party: str) -> Entry:
        """The row as peers see it: in ``run``, of the ledger of ``party``."""
        row = self.row
        return Entry(
            run, party, self.number, self.head, row.root, row.round, row.kind, self.signature
        )

    def __str__(self) -> str:
        return f"row {self.number} (round {self.row.round}, {self.row.kind})"


class Witnessed(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a peer's ledger, as its offer showed it.

    Attributes:
        entry: with the peer's signature, which was verified.
        counter_signature: mine, made once the payload was durable; None where the offer was
            refused before a byte of it was pulled.
    """

    entry: Entry
    counter_signature: bytes | None


class Debit(msgspec.Struct, frozen=True, kw_only=True):
    """What one release costs the data set it was made from, in the terms of its mechanism.

    No ε is stored: an accountant computes it from all debits of an account together, and a
    better accountant may come later.

    Attributes:
        release: 32 bytes that name the release, see :func:`release_id`.
        run: the federation run it belongs to, 32 bytes.
        round: number of the round, from 1.
        kind: what leaves: ``"update"``, ``"outputs"``, …
        root: manifest root of the payload, 32 bytes: the only bytes that may leave for this.
        mode: the ``[privacy] mode`` that made it.
        unit: whom it protects: ``"record"``, ``"patient"`` or ``"party"``.
        sample_rate: probability that a unit takes part in a step, in (0, 1]; 1 where nothing
            is sampled.
        noise_multiplier: standard deviation of the noise ÷ ``max_grad_norm``, above 0.
        max_grad_norm: L2 bound to which what is noised is clipped, above 0, in its own unit.
        steps: how often the mechanism ran for this release: planned steps, also where training
            stopped early; 0 for what follows from earlier releases alone and costs nothing.
    """

    release: bytes
    run: bytes
    round: int
    kind: str
    root: bytes
    mode: str
    unit: str
    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    steps: int


class InputRow(msgspec.Struct, frozen=True, kw_only=True):
    """One party's update in one round, my own included, and the verdict of ``admit``.

    Attributes:
        round: number of the round.
        party: who made the update.
        offer: the signed offer as it came, byte for byte.
        root: manifest root of the payload, 32 bytes.
        reason: why it was excluded; empty when it was admitted.
    """

    round: int
    party: str
    offer: bytes
    root: bytes
    reason: str = ""

    @property
    def admitted(self) -> bool:
        """Whether the update is part of the aggregate."""
        return not self.reason


class VoteRow(msgspec.Struct, frozen=True, kw_only=True):
    """One party's signed vote in one view of one round, byte for byte as signed."""

    round: int
    view: int
    party: str
    body: bytes
    signature: bytes


class ViewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A view that was made: who votes from then on.

    Attributes:
        view: its number, from 1.
        round: the exchange that was open.
        members: by name.
    """

    view: int
    round: int
    members: list[str]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Something signed by a party that contradicts what it had signed before; never deleted.

    Attributes:
        round: the round that it was signed for.
        party: who contradicts itself.
        body: the later statement; the earlier one is among the votes or inputs. Of statements for
            a view both are here.
        signature: the later statement's signature; empty when ``body`` contains it.
    """

    round: int
    party: str
    body: bytes
    signature: bytes = b""


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """A round that is over for this party: its outcome can no longer change.

    Attributes:
        round: number of the round, from 1.
        outcome: ``"agreed"``, ``"void"``, ``"alone"``, or ``"missed"`` where the others closed it
            without this party.
        digest: manifest root of the shared tensors after the round, 32 bytes; of rounds that were
            missed together: after the last of them.
    """

    round: int
    outcome: Outcome
    digest: bytes


def release_id(run: bytes, party: str, round: int, kind: str) -> bytes:
    """The name of the one release of this ``kind`` in this round of this run, 32 bytes.

    It does not depend on the payload: a second payload for the same round gets the same
    name, and the ledger refuses it.
    """
    return blake3.blake3(
        _RELEASE_DOMAIN + msgspec.msgpack.encode((run, party, round, kind))
    ).digest()


def cut_off(first: int, last: int) -> str:
    """What to say of rows that were removed from the end.

    >>> cut_off(4, 4), cut_off(4, 6)
    ('row 4 at the end is missing', 'row 4 to row 6 at the end are missing')
    """
    rows = f"row {first}" if first == last else f"row {first} to row {last}"
    return f"{rows} at the end {'is' if first == last else 'are'} missing"
