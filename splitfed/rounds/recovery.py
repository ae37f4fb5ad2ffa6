"""What a restarted party finds in its folder, and what it says about itself from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import blake3
import msgspec
import torch

from splitfed.errors import FolderError, LedgerTampered
from splitfed.rounds.gates import Admission, Release, Signer, admit, released_before
from splitfed.rounds.terms import Terms
from splitfed.store import Checkpoint, RunFolder, release_id
from splitfed.tensors import Tensors
from splitfed.transport.events import Greeting, Offer

_FUSION_DOMAIN = b"splitfed fusion v1\0"


def check_checkpoint(folder: RunFolder, checkpoint: Checkpoint, closed: int) -> None:
    """Make sure that the newest whole checkpoint is the one to go on from.

    Raises:
        FolderError: it is older than the last closed round.
    """
    expected = closed + (checkpoint.meta["phase"] == "trained")
    if checkpoint.round != expected:
        raise FolderError(
            f"the newest whole checkpoint in {folder.path} is of round "
            f"{checkpoint.round}, and round {closed} is closed",
            "restore the checkpoints folder from a backup, or begin anew with another --out",
        )


def greeting_now(greeting: Greeting, folder: RunFolder) -> Greeting:
    """``greeting`` with where this party stands: its last closed round, its open vote, and
    the newest vote that it holds of each peer."""
    held = {}
    ended = folder.closed()
    closed = ended.round if ended is not None else 0
    for round in (closed, closed + 1):
        for row in folder.votes(round) if round else ():
            if row.party != folder.party:
                held[row.party] = (row.body, row.signature)
    own = folder.own_vote(closed + 1)
    return msgspec.structs.replace(
        greeting,
        closed_round=closed,
        closed_outcome=ended.outcome if ended is not None else "",
        closed_digest=ended.digest if ended is not None else b"",
        open_vote=own.body if own else None,
        open_vote_signature=own.signature if own else None,
        votes_held=held,
    )


def released_earlier(
    folder: RunFolder, *, terms: Terms, party: str, signer: Signer, round: int, kind: str
) -> Release | None:
    """What this party released in ``round`` before a restart, byte for byte, or None.

    Raises:
        LedgerTampered: the ledger says so and the stored bytes are gone or changed.
    """
    if folder.run is None:
        return None
    entry = folder.ledger.find(release_id(folder.run, party, round, kind))
    if entry is None:
        return None
    payload = folder.outbox.get(entry.row.root)
    if payload is None:
        raise LedgerTampered(
            f"round {round} was released, and {folder.path}/outbox/{entry.row.root.hex()} is gone",
            "restore the file from a backup: other bytes must never be sent in its place",
        )
    return released_before(
        payload,
        terms=terms,
        run=folder.run,
        round=round,
        party=party,
        signer=signer,
        kind=kind,
    )


def recalled(
    folder: RunFolder,
    *,
    terms: Terms,
    base: Mapping[str, torch.Tensor],
    run: bytes,
    round: int,
    kind: str,
) -> Iterator[Admission]:
    """The verdicts on what peers sent in ``round`` that were stored before a restart,
    reached again from the stored bytes. One whose bytes are gone is left out: its peer
    still holds it and offers it again."""
    for row in folder.inputs(round):
        payload = folder.inbox.get(row.root)
        if payload is not None:
            offer = msgspec.msgpack.decode(row.offer, type=Offer)
            yield admit(offer, payload, terms=terms, base=base, run=run, round=round, kind=kind)
        elif row.reason:
            yield Admission(party=row.party, root=row.root, tensors=None, reason=row.reason)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names start with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def fused_digest(roots: Mapping[str, bytes]) -> bytes:
    """What parties vote on after an exchange for fusion, 32 bytes: whose outputs or layers were
    admitted, and which. What each makes of them may differ, and concerns nobody else."""
    hasher = blake3.blake3(_FUSION_DOMAIN)
    hasher.update(msgspec.msgpack.encode(sorted(roots.items())))
    return hasher.digest()


def packed(received: Mapping[str, Tensors]) -> Tensors:
    """What came of each party, as one set of tensors ``<party>/<name>``; see :func:`sorted_out`."""
    return {
        f"{party}/{name}": tensor
        for party, tensors in received.items()
        for name, tensor in tensors.items()
    }


def sorted_out(tensors: Tensors) -> dict[str, Tensors]:
    """The inverse of :func:`packed`."""
    found: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        party, _, inner = name.partition("/")
        found.setdefault(party, {})[inner] = tensor
    return found
