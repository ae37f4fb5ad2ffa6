"""Who broke the rules among three or more: what proves it, who is told, and who is put out of
the run for it."""

from __future__ import annotations

import msgspec

from splitfed.errors import ProtocolViolation
from splitfed.rounds.gates import Signer
from splitfed.rounds.statements import Exchange, Lie, proven
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import Vote
from splitfed.store import RunFolder
from splitfed.transport.events import note_message
from splitfed.transport.link import Link


class Liars:
    """Used by the engine's thread only.

    Attributes:
        quarantined: peers that broke the rules and are gone for good, with the reason.
    """

    def __init__(
        self, *, terms: Terms, party: str, folder: RunFolder, link: Link, signer: Signer
    ) -> None:
        self._terms, self._party, self._folder = terms, party, folder
        self._link, self._signer = link, signer
        self.quarantined = dict(folder.quarantined)

    def show(
        self,
        exchange: Exchange,
        party: str,
        one: tuple[bytes, bytes],
        other: tuple[bytes, bytes],
    ) -> bool:
        """Tell everybody that ``party`` signed two updates of ``exchange``, and put it out, if it
        did; returns whether it did.

        Args:
            one, other: digest and signature of each.
        """
        run, round, kind = exchange
        lie = Lie(run, round, kind, party, *sorted((one, other)))
        if not proven(lie, self._terms):
            return False
        body = msgspec.msgpack.encode(lie)
        signature = self._signer.sign(note_message("evidence", body))
        self._link.note(round, self._party, "evidence", body, signature)
        self._convict(lie)
        return True

    def behind(self, exchange: Exchange, own: Vote, theirs: Vote) -> str | None:
        """Who signed two updates where ``theirs`` names another than ``own``; None: nobody did."""
        mine, signed = dict(own.inputs), dict(theirs.offers)
        for party, root in theirs.inputs:
            if party in mine and mine[party] != root and party != self._party:
                one = mine[party], dict(own.offers)[party]
                if self.show(exchange, party, one, (root, signed.get(party, b""))):
                    return party
        return None

    def shown(self, lie: Lie, run: bytes | None) -> None:
        """Take in what a peer shows.

        Raises:
            ProtocolViolation: it proves nothing.
        """
        if lie.run != run:
            return
        if not proven(lie, self._terms):
            raise ProtocolViolation(f"shows evidence against {lie.party} that proves nothing")
        if lie.party != self._party:
            self._convict(lie)

    def _convict(self, lie: Lie) -> None:
        self._folder.save_evidence(lie.round, lie.party, msgspec.msgpack.encode(lie))
        self.quarantine(lie.party, f"signed two different updates for round {lie.round}", lie.round)

    def quarantine(self, party: str, reason: str, round: int) -> None:
        """``party`` broke the rules: it takes no part in this run any more."""
        if party not in self.quarantined:
            self.quarantined[party] = reason
            self._folder.quarantine(party, reason)
            self._folder.log("quarantined", peer=party, reason=reason, round=round)
