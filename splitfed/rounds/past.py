"""What a peer's greeting proves about my own past.

A peer names the newest entry of my ledger that it counter-signed and the newest vote of mine
that it holds. If I signed them and my folder has neither, the folder was put back, perhaps
together with everything else on this machine: it must not release anything in their place.
"""

from __future__ import annotations

from splitfed.errors import FolderDiverged, ProtocolViolation
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import decode_vote, shown
from splitfed.signatures import by_revoked, verified_by
from splitfed.store import RunFolder
from splitfed.transport.events import Greeting, vote_message

_CURE = "put the newest copy of the folder back, or start over on both sides"


def check_own_past(
    peer: str, greeting: Greeting, *, run: bytes, terms: Terms, folder: RunFolder
) -> None:
    """Compare what ``peer`` holds of mine with my folder, before anything is released.

    The entry of my ledger is also its receipt, in case the one that was sent got lost.

    Raises:
        FolderDiverged: I signed what the peer shows, and my folder has nothing or something
            else in its place.
        ProtocolViolation: I did not sign it, or the peer did not counter-sign the entry.
    """
    _check_entry(peer, greeting, run, terms, folder)
    _check_vote(peer, greeting, run, terms, folder)


def _check_entry(
    peer: str, greeting: Greeting, run: bytes, terms: Terms, folder: RunFolder
) -> None:
    held = greeting.entries_held.get(folder.party)
    if held is None:
        return
    entry, counter_signature = held
    keys = terms.keys_of(folder.party)
    revoked = by_revoked(keys, entry.message(), entry.signature)
    signed = revoked or verified_by(keys, entry.message(), entry.signature, past=True)
    if not signed or entry.party != folder.party:
        raise ProtocolViolation("shows a ledger entry under our name that we did not sign")
    if entry.run != run:
        return
    found = folder.ledger.at(entry.number)
    if found is None or found.head != entry.head:
        if revoked:
            return  # whoever has that key may have signed it
        ends = f"ends at entry {len(folder.ledger)}"
        raise FolderDiverged(
            f"{peer} holds entry {entry.number} of this party's ledger (round {entry.round}, "
            f"{shown(entry.kind)}), signed by this party, and the ledger in {folder.path} "
            f"{ends if found is None else 'has another in its place'}: was this folder restored "
            "from a backup?",
            _CURE,
        )
    # It is in my own ledger, so it is mine whatever key it bears: the receipt counts.
    theirs = terms.keys_of(peer)
    if not verified_by(theirs, entry.receipt_message(peer), counter_signature, past=False):
        raise ProtocolViolation("shows a ledger entry of ours that it did not counter-sign")
    folder.ledger.acknowledge(found.row.release, peer, counter_signature)


def _check_vote(peer: str, greeting: Greeting, run: bytes, terms: Terms, folder: RunFolder) -> None:
    held = greeting.votes_held.get(folder.party)
    if held is None:
        return
    body, signature = held
    keys = terms.keys_of(folder.party)
    if by_revoked(keys, vote_message(body), signature):
        return  # whoever has that key may have signed it
    if not verified_by(keys, vote_message(body), signature, past=True):
        raise ProtocolViolation("shows a vote under our name that we did not sign")
    vote = decode_vote(body)
    if vote.run != run:
        return
    closed = folder.closed()
    mine = {row.view for row in folder.votes(vote.round) if row.party == folder.party}
    if vote.view not in mine and vote.round > (closed.round if closed else 0):
        raise FolderDiverged(
            f"{peer} holds a vote that this party signed for round {vote.round}, and this folder "
            f"ends before it: was {folder.path} restored from a backup?",
            _CURE,
        )
