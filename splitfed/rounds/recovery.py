"""What a restarted party finds in its folder, and what it says about itself from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import blake3
import msgspec
import torch

from splitfed.errors import FolderError, LedgerTampered
from splitfed.rounds.gates import Admission, Release, Signer, admit, refused, released_before
from splitfed.rounds.receipts import receipted
from splitfed.rounds.terms import Terms
from splitfed.signatures import by_revoked
from splitfed.store import BlobReader, Checkpoint, RunFolder, release_id
from splitfed.tensors import Tensors, unpack
from splitfed.transport.events import Greeting, Offer, vote_message

_NEVER_OTHERS = "restore the file from a backup: other bytes must never be sent in its place"
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


def voted_earlier(folder: RunFolder, signer: Signer, round: int) -> tuple[bytes, bytes] | None:
    """My stored vote of ``round``, byte for byte, and my signature over it, or None.

    It is signed anew: with the key that signed it first the same bytes come out, and after a
    rotation what I send bears the key that signs now.
    """
    row = folder.own_vote(round)
    return None if row is None else (row.body, signer.sign(vote_message(row.body)))


def drop_revoked(folder: RunFolder, terms: Terms, round: int) -> None:
    """Forget what the open round holds of a peer under a key that it revoked: it may be a
    thief's. The peer sends its own again. Once I have voted on an update it stays: a vote is
    never changed."""
    for party in sorted(party for party, keys in terms.revoked_keys.items() if keys):
        if party == folder.party:
            continue
        keys = terms.keys_of(party)
        for row in folder.inputs(round):
            offer = msgspec.msgpack.decode(row.offer, type=Offer)
            stolen = by_revoked(keys, offer.message(), offer.signature)
            if row.party == party and stolen and folder.own_vote(round) is None:
                folder.drop_input(round, party)
                folder.log("dropped", what="update", peer=party, round=round, root=row.root.hex())
        for vote in folder.votes(round):
            if vote.party == party and by_revoked(keys, vote_message(vote.body), vote.signature):
                folder.drop_votes(round, party)
                folder.log("dropped", what="vote", peer=party, round=round)


def greeting_now(greeting: Greeting, folder: RunFolder, signer: Signer) -> Greeting:
    """``greeting`` with where this party stands: its last closed round, its open vote, and
    of each peer the newest vote and the newest ledger entry that it holds."""
    held = {}
    ended = folder.closed()
    closed = ended.round if ended is not None else 0
    for round in (closed, closed + 1):
        for row in folder.votes(round) if round else ():
            if row.party != folder.party:
                held[row.party] = (row.body, row.signature)
    body, signature = voted_earlier(folder, signer, closed + 1) or (None, None)
    return msgspec.structs.replace(
        greeting,
        closed_round=closed,
        closed_outcome=ended.outcome if ended is not None else "",
        closed_digest=ended.digest if ended is not None else b"",
        open_vote=body,
        open_vote_signature=signature,
        votes_held=held,
        entries_held=receipted(folder, signer),
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
            _NEVER_OTHERS,
        )
    return released_before(payload, entry, terms=terms, run=folder.run, party=party, signer=signer)


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
        offer = msgspec.msgpack.decode(row.offer, type=Offer)
        if payload is not None:
            yield admit(offer, payload, terms=terms, base=base, run=run, round=round, kind=kind)
        elif row.reason:
            yield refused(offer, row.reason)


def blobs_of(folder: RunFolder, party: str) -> BlobReader:
    """Where the payloads of ``party`` lie."""
    return folder.outbox if party == folder.party else folder.inbox


def stored_update(folder: RunFolder, terms: Terms, kind: str, party: str, root: bytes) -> Tensors:
    """The values of an update of the open exchange, from the bytes that left or came.

    Raises:
        FolderError: the file is gone.
        LedgerTampered: it was changed.
    """
    blobs = blobs_of(folder, party)
    payload = blobs.get(root)
    if payload is None:
        own = party == folder.party
        raise FolderError(
            f"{blobs.folder / root.hex()} is gone",
            _NEVER_OTHERS if own else "run again: its party sends it once more",
        )
    return unpack(payload, terms.specs(kind, party))


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


def standing_of(folder: RunFolder, closed: int) -> dict[str, object]:
    """What the log says when a run begins or goes on: how often the folder was opened, the last
    closed exchange, and what of the next one is there already."""
    following = closed + 1
    return {
        "boot": folder.boot,
        "closed": closed,
        "confirmed": folder.confirmed,
        "released": [
            entry.row.kind for entry in folder.ledger.rows() if entry.row.round == following
        ],
        "updates_of": [row.party for row in folder.inputs(following)],
        "votes_of": [row.party for row in folder.votes(following)],
    }
