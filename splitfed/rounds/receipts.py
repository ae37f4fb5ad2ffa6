"""Ledger entries between parties: what a peer's ledger may show, and who holds what of whom.

A party counter-signs an entry of a peer's ledger once the payload is durable, keeps the entry,
and names the newest one whenever it meets that peer: see :mod:`splitfed.rounds.past`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from splitfed.entries import Receipted
from splitfed.errors import ProtocolViolation
from splitfed.rounds.gates import Signer
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import decode_vote
from splitfed.store import RunFolder, release_id
from splitfed.transport.events import Delivered, Offer


class Receipts:
    """What this party counter-signs, and what it is owed. Used by the engine's thread only."""

    def __init__(self, *, terms: Terms, party: str, folder: RunFolder, signer: Signer) -> None:
        self._terms = terms
        self._party = party
        self._folder = folder
        self._signer = signer
        self._dynamic = len(terms.parties) > 2

    # --- entries of peers --------------------------------------------------------------

    def check(self, offer: Offer) -> None:
        """Make sure that the offer's entry is the next one of its party's ledger, or one that
        is kept already. Every release goes to every peer, so none is ever left out; what was
        refused unseen is kept too.

        Among three or more, entries may be missing here, or come late: those of rounds that were
        closed without one of the two.

        Raises:
            ProtocolViolation: it goes back, jumps, or contradicts one that the party signed.
        """
        entry = offer.entry
        kept = self._folder.witnessed_at(entry.party, entry.number)
        if kept is not None:
            if not kept.entry.same_as(entry):
                raise ProtocolViolation(
                    f"signed two different entries number {entry.number} of its ledger: round "
                    f"{kept.entry.round} with head {kept.entry.head.hex()[:16]}, then round "
                    f"{entry.round} with head {entry.head.hex()[:16]}"
                )
            return
        last = self._folder.last_witnessed(entry.party)
        due = 1 if last is None else last.entry.number + 1
        if self._dynamic and entry.number < due and last and entry.round < last.entry.round:
            return  # of a round that was closed without this party, and comes after a newer one
        if entry.number < due or (entry.number > due and not self._dynamic):
            raise ProtocolViolation(
                f"shows entry {entry.number} of its ledger for round {entry.round} where entry "
                f"{due} is the next"
            )
        if last is not None and entry.round <= last.entry.round:
            raise ProtocolViolation(
                f"shows round {entry.round} as entry {entry.number} of its ledger, after round "
                f"{last.entry.round}"
            )

    def keep(self, offer: Offer, *, stored: bool) -> None:
        """Keep the offer's entry durably, counter-signed if the payload is ``stored``."""
        self._folder.save_entry(offer.entry, self.sign(offer) if stored else None)

    def sign(self, offer: Offer) -> bytes:
        """My counter-signature of the offer's entry, 64 bytes; the same bytes every time."""
        return self._signer.sign(offer.entry.receipt_message(self._party))

    def signed(self, offer: Offer) -> bool:
        """Whether this party counter-signed the offer's entry before: this very one, for the
        same number may stand in a ledger of another run."""
        kept = self._folder.witnessed_at(offer.party, offer.number)
        if kept is None or kept.counter_signature is None:
            return False
        return kept.entry.same_as(offer.entry)

    def here(self, offer: Offer) -> bool:
        """Whether the folder holds the offer's update, whoever brought it."""
        kept = [(row.party, row.root) for row in self._folder.inputs(offer.round)]
        root = offer.manifest.root
        return (offer.party, root) in kept and self._folder.inbox.has(root)

    def held(self, round: int) -> Iterator[Offer]:
        """What peers offered in ``round`` that this folder holds, counter-signed."""
        for row in self._folder.inputs(round):
            offer = msgspec.msgpack.decode(row.offer, type=Offer)
            if self.signed(offer) and self._folder.inbox.has(row.root):
                yield offer

    # --- my entries --------------------------------------------------------------------

    def delivered(self, event: Delivered) -> None:
        """Note the receipt of a peer, which the link verified."""
        offer = event.offer
        release = release_id(offer.run, self._party, offer.round, offer.kind)
        self._folder.ledger.acknowledge(release, event.peer, event.counter_signature)

    def owed(self, round: int, members: Collection[str]) -> list[str]:
        """Peers of ``members`` whose receipt of my last entry before ``round`` is not here yet.
        Whoever voted to exclude that release may have refused it unseen and owes none.

        Among three or more nobody owes one once another round was closed without a release of
        mine: one receipt that never comes would keep this party from taking part for ever.
        """
        last = self._folder.ledger.last()
        if last is None or last.row.round >= round:
            return []
        of = last.row.round
        if self._dynamic and (of < round - 1 or of in self._folder.missed()):
            return []  # what others closed without this release they need not have taken
        vote = self._folder.own_vote(last.row.round)
        if vote is not None and self._party in dict(decode_vote(vote.body).excluded):
            return []
        parties = set(self._terms.parties)
        if self._dynamic:  # whoever was left out of that round never had to take it
            voted = {row.party for row in self._folder.votes(last.row.round)}
            parties = voted & set(members) if vote is not None else set()
        return sorted(parties - {self._party} - set(last.acknowledged))


def receipted(folder: RunFolder, signer: Signer) -> dict[str, Receipted]:
    """Of each peer, the newest entry that this party counter-signed, with that signature. It is
    made anew: after a rotation it bears the key that signs now."""
    found = {}
    for peer in folder.peer_folders:
        kept = folder.last_witnessed(peer, signed=True)
        if kept is not None:
            entry = kept.entry
            found[peer] = (entry, signer.sign(entry.receipt_message(folder.party)))
    return found
