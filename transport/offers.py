"""What is asked about an offer before anything of it is pulled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from splitfed.errors import ProtocolViolation
from splitfed.transport.events import STATE, STATE_HEAD, STATE_NUMBER, Offer


class Verify(Protocol):
    """Is a signature good?"""

    def __call__(
        self, party: str, message: bytes, signature: bytes, /, past: bool = False
    ) -> bool | None:
        """Whether it is that party's Ed25519 signature; False for a name that is not in the
        agreement: it may be any text of a peer.

        Args:
            past: whether a key that the party handed over counts too. It does for what others
                pass on; what a party sends itself bears its present key.

        Returns:
            None: with ``past`` only, the signature is good and its key was revoked. It proves
            nothing about anybody, its bearer included.
        """


OfferCheck = Callable[[Offer], str | None]
"""``accept(offer)``: why the agreement forbids this offer, or None, or :data:`LATER`. Pure; called
in the link's thread before any memory is set aside and any chunk is pulled."""

LATER = "later"
"""An answer of :data:`OfferCheck`: it cannot be said yet, and is asked again when the app has the
link look again, and in the next session."""

Wanted = Callable[[Offer], bool]
"""``wanted(offer)``: is this offer of another party, which a peer passes on, to be pulled from
it? Called in the link's thread; must be quick and not raise."""


def authenticate(offer: Offer, sender: str, verify: Verify) -> bool:
    """Check that the party which ``offer`` names signed it and its ledger entry. ``sender``
    sent it: that party itself, or one that passes it on.

    Returns:
        Whether to heed it; what is passed on under a key that was revoked is not.

    Raises:
        ProtocolViolation: a bad signature, or a state that has an entry or is passed on.
    """
    passed_on = offer.party != sender
    told = f"an OFFER for round {offer.round}"
    if passed_on:
        told += f" in the name of {offer.party[:32]!r}"
    signed = verify(offer.party, offer.message(), offer.signature, past=passed_on)
    if signed is False:
        raise ProtocolViolation(f"{told} with a bad signature")
    entry = offer.entry
    if offer.kind != STATE:
        entered = verify(offer.party, entry.message(), entry.signature, past=passed_on)
        if entered is False:
            raise ProtocolViolation(f"{told} whose ledger entry has a bad signature")
        return bool(signed and entered)
    if passed_on:
        raise ProtocolViolation(f"{told} of a state that is not the sender's word")
    if (entry.number, entry.head, entry.signature) != (STATE_NUMBER, STATE_HEAD, offer.signature):
        raise ProtocolViolation(f"{told} of a state with a ledger entry")
    return bool(signed)
