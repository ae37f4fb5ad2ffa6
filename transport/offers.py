"""What is asked about an offer before anything of it is pulled."""

from __future__ import annotations

from collections.abc import Callable

from splitfed.errors import ProtocolViolation
from splitfed.transport.events import STATE, STATE_HEAD, STATE_NUMBER, Offer

OfferCheck = Callable[[Offer], str | None]
"""``accept(offer)``: why the agreement forbids this offer, or None, or :data:`LATER`. Pure; called
in the link's thread before any memory is set aside and any chunk is pulled."""

LATER = "later"
"""An answer of :data:`OfferCheck`: it cannot be said yet, and is asked again when the app has the
link look again, and in the next session."""

Verify = Callable[[str, bytes, bytes], bool]
"""``verify(party, message, signature)``: is this that party's Ed25519 signature? False for a
name that is not in the agreement: it may be any text of a peer."""

Wanted = Callable[[Offer], bool]
"""``wanted(offer)``: is this offer of another party, which a peer passes on, to be pulled from
it? Called in the link's thread; must be quick and not raise."""


def authenticate(offer: Offer, sender: str, verify: Verify) -> None:
    """Check that the party which ``offer`` names signed it and its ledger entry. ``sender``
    sent it: that party itself, or one that passes it on.

    Raises:
        ProtocolViolation: a bad signature, or a state that has an entry or is passed on.
    """
    told = f"an OFFER for round {offer.round}"
    if offer.party != sender:
        told += f" in the name of {offer.party[:32]!r}"
    if not verify(offer.party, offer.message(), offer.signature):
        raise ProtocolViolation(f"{told} with a bad signature")
    entry = offer.entry
    if offer.kind != STATE:
        if not verify(offer.party, entry.message(), entry.signature):
            raise ProtocolViolation(f"{told} whose ledger entry has a bad signature")
    elif offer.party != sender:
        raise ProtocolViolation(f"{told} of a state that is not the sender's word")
    elif (entry.number, entry.head, entry.signature) != (STATE_NUMBER, STATE_HEAD, offer.signature):
        raise ProtocolViolation(f"{told} of a state with a ledger entry")
