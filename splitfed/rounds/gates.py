"""The one gate out and the one gate in.

:func:`release` is the only maker of outgoing payloads: it refuses what the contract does
not name, stores the bytes, writes the ledger and only then hands them over.
:func:`admit` is a pure function of the received bytes, the terms and the agreed state, so
that every honest party reaches the same verdict on every update, its own included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from splitfed.entries import entry_message
from splitfed.errors import Defect, UserError
from splitfed.rounds.checks import (
    floating,
    kind_fault,
    norm_fault,
    offer_fault,
    update_norm,
    value_fault,
)
from splitfed.rounds.spending import Spending
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.store import LedgerEntry, ReleaseRow, release_id
from splitfed.tensors import (
    Tensors,
    all_finite,
    describe,
    manifest_of,
    pack,
    unpack,
)
from splitfed.transport.events import (
    STATE,
    STATE_HEAD,
    STATE_NUMBER,
    Offer,
    Outgoing,
    offer_message,
)
from splitfed.types import Manifest, TensorSpec


class Signer(Protocol):
    """Signs with a party's Ed25519 key."""

    def sign(self, body: bytes) -> bytes:
        """The 64-byte signature of ``body``."""
        ...


class Outbox(Protocol):
    """The durable side of the gate: see :class:`splitfed.store.RunFolder`."""

    def release(
        self,
        row: ReleaseRow,
        payload: bytes,
        manifest: Manifest,
        *,
        debit: Callable[[], None],
        sign: Callable[[int, bytes], bytes],
    ) -> LedgerEntry:
        """Store the payload, debit it, then write the ledger row, signed; returns the row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Release:
    """What has left the house on paper: stored, in the ledger, ready to send.

    Attributes:
        outgoing: what the link sends.
        tensors: the values as they leave.
        scaled: the factor by which the update was shortened to fit the bound, or None.
    """

    outgoing: Outgoing
    tensors: Tensors
    scaled: float | None


def shorten(
    update: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], bound: float
) -> tuple[Tensors, float | None]:
    """``update`` itself, or moved towards ``base`` until it lies just inside ``bound``.

    Post-processing of what is released anyway, so it costs no privacy. Honest noise can
    exceed a public bound; without this the honest party's round would be void.

    Returns:
        The update and the factor applied to its difference from ``base`` (None: untouched).
    """
    length = update_norm(update, base)
    if length <= bound:
        return dict(update), None
    factor = bound / length
    for exponent in range(40, 4, -1):
        factor_now = factor * (1.0 - 2.0**-exponent)
        moved = dict(update)
        for name, tensor in floating(update).items():
            start = base[name].to(torch.float64)
            moved[name] = (start + (tensor.to(torch.float64) - start) * factor_now).to(tensor.dtype)
        if update_norm(moved, base) <= bound:
            return moved, factor_now
    return {name: base[name].clone() for name in update}, 0.0


def release(
    tensors: Mapping[str, torch.Tensor],
    *,
    terms: Terms,
    base: Mapping[str, torch.Tensor],
    run: bytes,
    round: int,
    party: str,
    signer: Signer,
    outbox: Outbox,
    spending: Spending,
    released: Sequence[str] = (),
    kind: str = UPDATE,
) -> Release:
    """Let one update, one set of outputs or one set of private layers out: check it against the
    contract, store it, pay for it, write the ledger, sign it.

    Args:
        tensors: the party's shared tensors after local training, or what fusion asks for.
        base: g of the last closed round.
        spending: the account that it is paid from.
        released: kinds of this party's earlier releases in this run.
        kind: what it is.

    Raises:
        Defect: a tensor the contract does not name, another shape or dtype, or outputs that
            are no probabilities. Nothing is stored or sent then.
        UserError: a value is not finite.
        SafetyStop: the budget does not allow it, or another release of this round was paid.
    """
    specs = terms.specs(kind, party)
    _only_what_is_named(tensors, specs)
    check_finite(tensors, round=round, party=party)
    moved, scaled = dict(tensors), None
    if kind == UPDATE:
        moved, scaled = shorten(tensors, base, terms.max_update_norm)
    elif (fault := kind_fault(kind, moved)) is not None:
        raise Defect(f"release refused: {fault}; nothing was sent")
    payload = pack(moved)
    manifest = manifest_of(payload, specs)
    row = ReleaseRow(
        release=release_id(run, party, round, kind),
        round=round,
        kind=kind,
        tensors=specs,
        root=manifest.root,
        size=manifest.total,
        epsilon=spending.epsilon([*released, kind]),
    )

    def sign(number: int, head: bytes) -> bytes:
        return signer.sign(
            entry_message(
                run=run, party=party, number=number, head=head, root=row.root, round=round,
                kind=kind,
            )
        )  # fmt: skip

    entry = outbox.release(
        row, payload, manifest, debit=lambda: spending.debit(run, row), sign=sign
    )
    out = outgoing(manifest, payload, entry, run=run, party=party, signer=signer)
    return Release(outgoing=out, tensors=moved, scaled=scaled)


def check_finite(tensors: Mapping[str, torch.Tensor], *, round: int, party: str) -> None:
    """Refuse an own update with a NaN or an infinity, before anything of it is stored.

    Raises:
        UserError: naming the tensor; the round is trained again by the next run.
    """
    broken = all_finite(tensors)
    if broken is not None:
        raise UserError(
            f"round {round}: shared tensor {broken} of {party} is not finite after training; "
            "nothing was sent",
            "lower [training] lr in party.toml, or check the images, and run again",
        )


def released_before(
    payload: bytes, entry: LedgerEntry, *, terms: Terms, run: bytes, party: str, signer: Signer
) -> Release:
    """The same release again after a restart, byte for byte, from the stored payload and its
    row in the ledger."""
    specs = terms.specs(entry.row.kind, party)
    manifest = manifest_of(payload, specs)
    out = outgoing(manifest, payload, entry, run=run, party=party, signer=signer)
    return Release(outgoing=out, tensors=unpack(payload, specs), scaled=None)


def outgoing(
    manifest: Manifest,
    payload: bytes,
    entry: LedgerEntry,
    *,
    run: bytes,
    party: str,
    signer: Signer,
) -> Outgoing:
    """Sign what the manifest names, and its row in the ledger. Ed25519 is deterministic: a
    restart signs the same; only after a rotation both bear the key that signs now."""
    round, kind, root = entry.row.round, entry.row.kind, manifest.root
    offer = Offer(
        kind=kind,
        run=run,
        round=round,
        party=party,
        manifest=manifest,
        signature=signer.sign(
            offer_message(run=run, round=round, party=party, kind=kind, root=root)
        ),
        number=entry.number,
        head=entry.head,
        entry_signature=signer.sign(entry.entry(run, party).message()),
    )
    return Outgoing(offer=offer, payload=payload)


def state_offer(
    g: Mapping[str, torch.Tensor], *, terms: Terms, run: bytes, round: int, party: str,
    signer: Signer,
) -> Outgoing:  # fmt: skip
    """The agreed shared tensors after ``round``, for a party that comes back. It is nobody's
    release: everybody has them, and so it stands in no ledger."""
    payload = pack(g)
    manifest = manifest_of(payload, terms.shared)
    signature = signer.sign(
        offer_message(run=run, round=round, party=party, kind=STATE, root=manifest.root)
    )
    offer = Offer(
        kind=STATE,
        run=run,
        round=round,
        party=party,
        manifest=manifest,
        signature=signature,
        number=STATE_NUMBER,
        head=STATE_HEAD,
        entry_signature=signature,
    )
    return Outgoing(offer=offer, payload=payload)


def _only_what_is_named(
    tensors: Mapping[str, torch.Tensor], shared: tuple[TensorSpec, ...]
) -> None:
    wanted = {spec.name: spec for spec in shared}
    for name in sorted(set(tensors) ^ set(wanted)):
        state = "is not in the contract" if name in tensors else "is missing"
        raise Defect(f"release refused: tensor {name} {state}; nothing was sent")
    for spec in describe(tensors):
        if spec != wanted[spec.name]:
            raise Defect(f"release refused: {spec} instead of {wanted[spec.name]}")


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The verdict on one update.

    Attributes:
        party: whose update.
        root: its digest, 32 bytes.
        tensors: its values; None when it is excluded, or when they are stored.
        reason: why it is excluded, or None.
        signature: the party's, under its offer.
        read: reads the values from where they are stored; None: they are in ``tensors``.
    """

    party: str
    root: bytes
    tensors: Tensors | None
    reason: str | None
    signature: bytes = b""
    read: Callable[[], Tensors] | None = None

    def stored(self, read: Callable[[], Tensors]) -> Admission:
        """The same without its values, which are stored: so a round does not hold those of all
        parties at once."""
        return self if self.reason is not None else replace(self, tensors=None, read=read)

    def values(self) -> Tensors:
        """The values of an update that is admitted.

        Raises:
            Defect: it is excluded.
            FolderError, LedgerTampered: what was stored is gone, or was changed.
        """
        found = self.tensors if self.read is None else self.read()
        if found is None:
            raise Defect(f"the values of {self.party}, which was excluded, were asked for")
        return found


def admit(
    offer: Offer,
    payload: bytes | bytearray | memoryview,
    *,
    terms: Terms,
    base: Mapping[str, torch.Tensor],
    run: bytes,
    round: int,
    kind: str = UPDATE,
) -> Admission:
    """Judge what was received. Pure: the same arguments give the same verdict anywhere.

    Args:
        offer: the signed manifest; its signature was checked by the link.
        payload: the received bytes, whose root the link has verified.
        base: g of the last closed round.
        run: the federation run.
        round: the round that is open.
        kind: what is exchanged in it.
    """
    reason = offer_fault(offer, terms=terms, run=run, kind=kind)
    if reason is None and offer.round != round:
        reason = f"round {offer.round} instead of {round}"
    if reason is not None:
        return refused(offer, reason)
    tensors = unpack(payload, terms.specs(kind, offer.party), copy=False)
    reason = value_fault(tensors) or kind_fault(kind, tensors)
    if reason is None and kind == UPDATE:
        reason = norm_fault(tensors, base, terms.max_update_norm)
    return Admission(
        party=offer.party,
        root=offer.manifest.root,
        tensors=tensors if reason is None else None,
        reason=reason,
        signature=offer.signature,
    )


def refused(offer: Offer, reason: str) -> Admission:
    """The verdict on what is excluded for its manifest alone."""
    return Admission(
        party=offer.party,
        root=offer.manifest.root,
        tensors=None,
        reason=reason,
        signature=offer.signature,
    )
