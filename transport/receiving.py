"""What one peer has for me: offers, the credit I give, and payloads on their way in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from splitfed.errors import IntegrityError, ProtocolViolation, ResourceLimit
from splitfed.transport.assembly import Assembly, malformed
from splitfed.transport.events import Arrived, Event, Noticed, Offer, OfferKey, OfferRefused
from splitfed.transport.frames import Header
from splitfed.transport.wire import Buffer

MAX_TRANSFERS = 2
"""Payloads of one peer on their way in at once: a round and the one before."""

REMEMBERED_ROUNDS = 4
"""How many rounds back offers are remembered, to know a second one for the same round."""

MAX_REFUSED = 64
"""Refused offers of one peer that are reported before more of them are a flood."""

OfferCheck = Callable[[Offer], str | None]
"""``accept(offer)``: why the agreement forbids this offer, or None. Pure; called in
the link's thread before any memory is set aside and any chunk is pulled."""

Verify = Callable[[str, bytes, bytes], bool]
"""``verify(party, message, signature)``: is this that party's Ed25519 signature?"""


@dataclass(slots=True)
class Replies:
    """What handling a frame led to, in order.

    ``pulls``: (transfer, round, ranges); ``stored``: (transfer, offer, counter-signature).
    """

    events: list[Event] = field(default_factory=list)
    pulls: list[tuple[int, int, tuple[tuple[int, int], ...]]] = field(default_factory=list)
    stored: list[tuple[int, Offer, bytes]] = field(default_factory=list)


class Receiving:
    """Incoming payloads of one peer, across its sessions.

    Attributes:
        resumes: transfers that went on where a broken connection left them.
        duplicates: chunks that came although they were held already.
        payload_bytes: bytes of all chunk bodies that came.
        progress: clock at the last new byte, or at the last opening of a transfer.
    """

    def __init__(
        self, peer: str, *, accept: OfferCheck, verify: Verify, window: int, chunk_size: int
    ) -> None:
        self._peer = peer
        self._accept = accept
        self._verify = verify
        self._window = max(window, chunk_size)
        self._chunk_size = chunk_size
        self._assemblies: dict[OfferKey, Assembly] = {}
        self._arrived: set[OfferKey] = set()
        self._stored: dict[OfferKey, bytes] = {}
        self._refused: set[OfferKey] = set()
        self._offered: dict[tuple[int, str], OfferKey] = {}
        self._transfers: dict[int, Offer] = {}
        self.resumes = 0
        self.duplicates = 0
        self.payload_bytes = 0
        self.progress = 0.0

    @property
    def in_flight(self) -> int:
        """Bytes asked for and not yet here; never more than the window."""
        return sum(
            sum(assembly.size_of(chunk) for chunk in assembly.asked)
            for assembly in self._assemblies.values()
        )

    @property
    def incomplete(self) -> tuple[Assembly, ...]:
        """The payloads on their way in."""
        return tuple(self._assemblies.values())

    @property
    def active(self) -> bool:
        """Does this session owe us a byte?"""
        return any(assembly.asked for assembly in self._assemblies.values())

    def open(self) -> None:
        """A session begins or ended: nothing is asked for, no transfer has a number."""
        self._transfers.clear()
        for assembly in self._assemblies.values():
            assembly.forget_asked()

    def stored(self, offer: Offer, counter_signature: bytes, replies: Replies) -> None:
        """The app holds what ``offer`` announced durably, perhaps since an earlier life: it is
        answered with the counter-signature and not pulled, in this and in later sessions."""
        self._arrived.discard(offer.key)
        self._assemblies.pop(offer.key, None)
        self._stored[offer.key] = counter_signature
        self._offered.setdefault((offer.round, offer.kind), offer.key)
        replies.stored.extend(
            (transfer, offered, counter_signature)
            for transfer, offered in self._transfers.items()
            if offered.key == offer.key
        )

    def discard(self, round: int) -> None:
        """Forget payloads of rounds up to ``round``."""
        for key in [key for key in self._assemblies if key[0] <= round]:
            del self._assemblies[key]
        oldest = round - REMEMBERED_ROUNDS
        self._arrived = {key for key in self._arrived if key[0] > oldest}
        self._stored = {key: sign for key, sign in self._stored.items() if key[0] > oldest}
        self._refused = {key for key in self._refused if key[0] > oldest}

    def clear(self) -> None:
        """Give all memory back: nothing of this peer is wanted any more."""
        self._assemblies.clear()
        self._transfers.clear()

    def offered(self, header: Header, offer: Offer, now: float, replies: Replies) -> None:
        """Check an offer; pull it, resume it, answer STORED, or refuse it.

        Raises:
            ProtocolViolation: a manifest nobody could have made, another party's name, a
                bad signature of the offer or of its ledger entry, a second payload or entry
                for one round, a used transfer number.
            ResourceLimit: too many payloads at once.
        """
        transfer, key = header.transfer, offer.key
        fault = malformed(offer.manifest, self._chunk_size)
        if fault:
            raise ProtocolViolation(f"an OFFER with {fault}")
        if offer.party != self._peer or header.round != offer.round:
            raise ProtocolViolation("an OFFER that is not the sender's own or of two rounds")
        if not self._verify(self._peer, offer.message(), offer.signature):
            raise ProtocolViolation(f"an OFFER for round {offer.round} with a bad signature")
        entry = offer.entry
        if not self._verify(self._peer, entry.message(), entry.signature):
            raise ProtocolViolation(
                f"an OFFER for round {offer.round} whose ledger entry has a bad signature"
            )
        if transfer in self._transfers or any(o.key == key for o in self._transfers.values()):
            raise ProtocolViolation(f"an OFFER repeated in one session (transfer {transfer})")
        known = key in self._stored or key in self._arrived or key in self._assemblies
        if not known and not self._accepted(offer, replies):
            return
        self._transfers[transfer] = offer
        if key in self._stored:
            replies.stored.append((transfer, offer, self._stored[key]))
        elif key not in self._arrived:
            self._go_on(offer, now, replies)

    def _accepted(self, offer: Offer, replies: Replies) -> bool:
        reason = self._accept(offer)
        if reason is None:
            self._remember(offer)
            return True
        if offer.key not in self._refused:
            if len(self._refused) >= MAX_REFUSED:
                raise ResourceLimit(f"more than {MAX_REFUSED} offers that had to be refused")
            self._refused.add(offer.key)
            replies.events.append(OfferRefused(self._peer, offer, reason))
        return False

    def _remember(self, offer: Offer) -> None:
        """Know a second payload or entry for the same round; forget what is rounds ago."""
        known = self._offered.setdefault((offer.round, offer.kind), offer.key)
        if known != offer.key:
            what = "payloads" if known[2] != offer.manifest.root else "ledger entries"
            error = ProtocolViolation(
                f"two different signed {what} ({offer.kind}) for round {offer.round}"
            )
            error.evidence = msgspec.msgpack.encode(offer)
            raise error
        oldest = offer.round - REMEMBERED_ROUNDS
        self._offered = {k: r for k, r in self._offered.items() if k[0] > oldest}
        self._transfers = {t: o for t, o in self._transfers.items() if o.round > oldest}

    def _go_on(self, offer: Offer, now: float, replies: Replies) -> None:
        key = offer.key
        if key in self._assemblies:
            self.resumes += self._assemblies[key].missing < len(offer.manifest.chunks)
        else:
            # Whoever offers round r has closed r - 2: nothing older is still wanted.
            self.discard(offer.round - 2)
            if len(self._assemblies) >= MAX_TRANSFERS:
                raise ResourceLimit(f"more than {MAX_TRANSFERS} payloads at once")
            self._assemblies[key] = Assembly(offer)
        self.progress = now
        self._finish(key, replies)
        self._top_up(replies)

    def data(self, header: Header, body: Buffer, now: float, replies: Replies) -> None:
        """One chunk came: verify, write, pull more.

        Raises:
            ProtocolViolation: see :meth:`Assembly.write`; or of no known transfer.
        """
        offer = self._transfers.get(header.transfer)
        if offer is None:
            raise ProtocolViolation(f"DATA of transfer {header.transfer}, which was not accepted")
        if header.length != len(body) or header.round != offer.round:
            raise ProtocolViolation("DATA whose header does not fit its body or offer")
        self.payload_bytes += len(body)
        assembly = self._assemblies.get(offer.key)
        if assembly is None:
            self.duplicates += 1
            return
        written = assembly.write(header.chunk, header.offset, body)
        if written:
            self.progress = now
        elif written is None:
            self.duplicates += 1
        else:
            error = IntegrityError(
                f"chunk {header.chunk} of {self._peer}'s payload for round {offer.round} "
                "does not match its digest; it is pulled again",
                "if this recurs, have the peer's memory and disk checked",
            )
            replies.events.append(Noticed(self._peer, error))
        self._finish(offer.key, replies)
        self._top_up(replies)

    def _finish(self, key: OfferKey, replies: Replies) -> None:
        assembly = self._assemblies[key]
        if not assembly.missing:
            del self._assemblies[key]
            self._arrived.add(key)
            replies.events.append(Arrived(self._peer, assembly.offer, assembly.payload))

    def _top_up(self, replies: Replies) -> None:
        """Give credit once half the window is used up, so that one PULL asks for many."""
        free = self._window - self._chunk_size * sum(
            len(assembly.asked) for assembly in self._assemblies.values()
        )
        if free < self._window // 2:
            return
        for transfer, offer in self._transfers.items():
            assembly = self._assemblies.get(offer.key)
            if assembly is None or not assembly.wanted:
                continue
            ranges = assembly.ask(free // self._chunk_size)
            free -= self._chunk_size * sum(count for _, count in ranges)
            if ranges:
                replies.pulls.append((transfer, offer.round, tuple(ranges)))
