"""What a restarted party finds in its folder, and what it says about itself from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import torch

from splitfed.errors import FolderError, LedgerTampered
from splitfed.rounds.gates import UPDATE, Admission, Release, Signer, admit, released_before
from splitfed.rounds.terms import Terms
from splitfed.store import Checkpoint, RunFolder, release_id
from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Greeting, Offer, Outcome


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


def greeting_now(
    greeting: Greeting, folder: RunFolder, closed: int, outcome: Outcome, g: Tensors
) -> Greeting:
    """``greeting`` with where this party stands: its last closed round, its open vote, and
    the newest vote that it holds of each peer."""
    held = {}
    for round in (closed, closed + 1):
        for row in folder.votes(round) if round else ():
            if row.party != folder.party:
                held[row.party] = (row.body, row.signature)
    own = folder.own_vote(closed + 1)
    return msgspec.structs.replace(
        greeting,
        closed_round=closed,
        closed_outcome=outcome,
        closed_digest=digest(g) if closed else b"",
        open_vote=own.body if own else None,
        open_vote_signature=own.signature if own else None,
        votes_held=held,
    )


def released_earlier(
    folder: RunFolder, *, terms: Terms, party: str, signer: Signer, round: int
) -> Release | None:
    """What this party released in ``round`` before a restart, byte for byte, or None.

    Raises:
        LedgerTampered: the ledger says so and the stored bytes are gone or changed.
    """
    if folder.run is None:
        return None
    entry = folder.ledger.find(release_id(folder.run, party, round, UPDATE))
    if entry is None:
        return None
    payload = folder.outbox.get(entry.row.root)
    if payload is None:
        raise LedgerTampered(
            f"round {round} was released, and {folder.path}/outbox/{entry.row.root.hex()} is gone",
            "restore the file from a backup: other bytes must never be sent in its place",
        )
    return released_before(
        payload, terms=terms, run=folder.run, round=round, party=party, signer=signer
    )


def recalled(
    folder: RunFolder,
    *,
    terms: Terms,
    base: Mapping[str, torch.Tensor],
    run: bytes,
    round: int,
) -> Iterator[Admission]:
    """The verdicts on the peers' updates of ``round`` that were stored before a restart,
    reached again from the stored bytes. One whose bytes are gone is left out: its peer
    still holds it and offers it again."""
    for row in folder.inputs(round):
        payload = folder.inbox.get(row.root)
        if payload is not None:
            offer = msgspec.msgpack.decode(row.offer, type=Offer)
            yield admit(offer, payload, terms=terms, base=base, run=run, round=round)
        elif row.reason:
            yield Admission(party=row.party, root=row.root, tensors=None, reason=row.reason)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names start with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
