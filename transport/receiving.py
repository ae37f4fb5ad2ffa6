"""What one peer has for me: offers, the credit I give, and payloads on their way in.

Most offers are the peer's own. It may also pass on what another party signed; of that only
what the app wants is pulled, and the peer is not blamed for what stands in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from splitfed.errors import IntegrityError, ProtocolViolation, ResourceLimit
from splitfed.transport.assembly import Assembly, malformed
from splitfed.transport.events import (
    STATE,
    Arrived,
    Event,
    Noticed,
    Offer,
    OfferKey,
    OfferRefused,
)
from splitfed.transport.frames import Header
from splitfed.transport.offers import LATER, OfferCheck, Verify, Wanted, authenticate
from splitfed.transport.wire import Buffer

MAX_TRANSFERS = 2
"""Payloads of one peer on their way in at once, and as many states: a round and the one before."""

MAX_PASSED_ON = 16
"""Payloads of other parties on their way in from one peer at once; more of them wait."""

MAX_UNWANTED = 64
"""Offers of one peer that nobody wants yet, before more of them are a flood."""

REMEMBERED_ROUNDS = 4
"""How many rounds back offers are remembered, to know a second one for the same round."""

MAX_REFUSED = 64
"""Refused offers of one peer that are reported before more of them are a flood."""


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
        self,
        peer: str,
        *,
        accept: OfferCheck,
        verify: Verify,
        window: int,
        chunk_size: int,
        wanted: Wanted = lambda offer: False,
        max_unwanted: int = MAX_UNWANTED,
    ) -> None:
        self._peer = peer
        self._accept = accept
        self._verify = verify
        self._wanted = wanted
        self._max_unwanted = max_unwanted
        self._window = max(window, chunk_size)
        self._chunk_size = chunk_size
        self._assemblies: dict[OfferKey, Assembly] = {}
        self._arrived: set[OfferKey] = set()
        self._stored: dict[OfferKey, bytes] = {}
        self._refused: dict[OfferKey, int | None] = {}  # with their number in this session
        self._offered: dict[tuple[int, str], OfferKey] = {}
        self._transfers: dict[int, Offer] = {}
        self._unwanted: dict[int, Offer] = {}
        self._over: set[int] = set()
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
        self._unwanted.clear()
        self._refused = dict.fromkeys(self._refused)
        self._over.clear()
        for assembly in self._assemblies.values():
            assembly.forget_asked()

    def stored(self, offer: Offer, counter_signature: bytes, replies: Replies) -> None:
        """The app holds what ``offer`` announced durably, perhaps since an earlier life: it is
        answered with the counter-signature and not pulled, in this and in later sessions."""
        self._arrived.discard(offer.key)
        self._assemblies.pop(offer.key, None)
        self._stored[offer.key] = counter_signature
        if offer.party == self._peer:
            self._offered.setdefault((offer.round, offer.kind), offer.key)
        for transfer in [t for t, o in self._unwanted.items() if o.key == offer.key]:
            self._transfers[transfer] = self._unwanted.pop(transfer)
        if (late := self._refused.get(offer.key)) is not None:
            self._transfers[late] = offer  # not pulled any more, and here by another way
        replies.stored.extend(
            (transfer, offered, counter_signature)
            for transfer, offered in self._transfers.items()
            if offered.key == offer.key
        )

    def discard(self, round: int) -> None:
        """Forget payloads of rounds up to ``round``."""
        self._unwanted = {t: o for t, o in self._unwanted.items() if o.round > round}
        # Of these, chunks may still be on their way: the peer need not know that we are through.
        for transfer, offer in list(self._transfers.items()):
            if offer.round <= round - REMEMBERED_ROUNDS and self._passed(offer.key):
                del self._transfers[transfer]
                self._over.add(transfer)
        self._forget(round, lambda key: True)

    def _forget(self, round: int, which: Callable[[OfferKey], bool]) -> None:
        oldest = round - REMEMBERED_ROUNDS
        for key in [key for key in self._assemblies if key.round <= round and which(key)]:
            del self._assemblies[key]
        old = {
            key
            for known in (self._arrived, self._stored, self._refused)
            for key in known
            if key.round <= oldest and which(key)
        }
        self._arrived -= old
        self._stored = {key: sign for key, sign in self._stored.items() if key not in old}
        self._refused = {key: t for key, t in self._refused.items() if key not in old}

    def clear(self) -> None:
        """Give all memory back: nothing of this peer is wanted any more."""
        self._assemblies.clear()
        self._transfers.clear()
        self._unwanted.clear()

    def offered(self, header: Header, offer: Offer, now: float, replies: Replies) -> None:
        """Check an offer; pull it, resume it, answer STORED, refuse it, or remember one that
        cannot be judged yet, or that another party made and that is not wanted, until
        :meth:`look_again`. One that is passed on under a revoked key is dropped.

        Raises:
            ProtocolViolation: a manifest nobody could have made, a bad signature of the offer or
                of its ledger entry, a second payload or entry of the peer for one round, a used
                transfer number, a state that is passed on or has an entry.
            ResourceLimit: too many payloads at once, or too many that nobody wants.
        """
        transfer, key = header.transfer, offer.key
        fault = malformed(offer.manifest, self._chunk_size)
        if fault:
            raise ProtocolViolation(f"an OFFER with {fault}")
        if header.round != offer.round:
            raise ProtocolViolation("an OFFER of two rounds")
        if not authenticate(offer, self._peer, self._verify):
            return
        seen = {**self._transfers, **self._unwanted}
        if (
            transfer in seen
            or transfer in self._over
            or any(other.key == key for other in seen.values())
        ):
            raise ProtocolViolation(f"an OFFER repeated in one session (transfer {transfer})")
        if key in self._stored or key in self._arrived:
            self._take(transfer, offer, now, replies)
        elif not self._considered(transfer, offer, now, replies):
            self._drop_early(offer)
            if len(self._unwanted) >= self._max_unwanted:
                raise ResourceLimit(f"more than {self._max_unwanted} offers that nobody wants yet")
            self._unwanted[transfer] = offer

    def look_again(self, now: float, replies: Replies) -> None:
        """What the app wants or can judge may have changed: take what was remembered.

        Raises:
            ProtocolViolation: a second payload or entry of the peer for one round.
            ResourceLimit: too many payloads at once, or that had to be refused.
        """
        for transfer, offer in list(self._unwanted.items()):
            if self._considered(transfer, offer, now, replies):
                del self._unwanted[transfer]

    def _drop_early(self, newer: Offer) -> None:
        """Of the peer's own that cannot be judged yet, the last few rounds are remembered."""
        oldest = newer.round - REMEMBERED_ROUNDS
        self._unwanted = {
            transfer: offer
            for transfer, offer in self._unwanted.items()
            if self._passed(newer.key) or self._passed(offer.key) or offer.round > oldest
        }

    def _passed(self, key: OfferKey) -> bool:
        """Is it another party's, passed on?"""
        return key.party != self._peer

    def _considered(self, transfer: int, offer: Offer, now: float, replies: Replies) -> bool:
        """Take it, if it can be judged by now; what another party signed, if it is also wanted
        and there is room."""
        if self._passed(offer.key) and not (self._wanted(offer) and self._room(offer.key)):
            return False
        return self._take(transfer, offer, now, replies)

    def _room(self, key: OfferKey) -> bool:
        """Is there room for another party's payload? One that this session does not offer any
        more makes room."""
        others = [other for other in self._assemblies if self._passed(other)]
        if key in others or len(others) < MAX_PASSED_ON:
            return True
        offered = {offer.key for offer in self._transfers.values()}
        for other in others:
            if other not in offered:
                del self._assemblies[other]
                return True
        return False

    def _take(self, transfer: int, offer: Offer, now: float, replies: Replies) -> bool:
        """Pull it, resume it, answer STORED, or refuse it; False if that cannot be said yet."""
        key = offer.key
        if not (key in self._stored or key in self._arrived or key in self._assemblies):
            reason = self._accept(offer)
            if reason == LATER:
                return False
            if reason is not None:
                self._refuse(transfer, offer, reason, replies)
                return True
            if not self._passed(key):
                self._remember(offer)
        self._transfers[transfer] = offer
        if key in self._stored:
            replies.stored.append((transfer, offer, self._stored[key]))
        elif key not in self._arrived:
            self._go_on(offer, now, replies)
        return True

    def _refuse(self, transfer: int, offer: Offer, reason: str, replies: Replies) -> None:
        if offer.key not in self._refused:
            if len(self._refused) >= MAX_REFUSED:
                raise ResourceLimit(f"more than {MAX_REFUSED} offers that had to be refused")
            replies.events.append(OfferRefused(self._peer, offer, reason))
        self._refused[offer.key] = transfer

    def _remember(self, offer: Offer) -> None:
        """Know a second payload or entry of the peer's own for the same round; forget what is
        rounds ago."""
        known = self._offered.setdefault((offer.round, offer.kind), offer.key)
        if known != offer.key:
            what = "payloads" if known.root != offer.manifest.root else "ledger entries"
            error = ProtocolViolation(
                f"two different signed {what} ({offer.kind}) for round {offer.round}"
            )
            error.evidence = msgspec.msgpack.encode(offer)
            raise error
        oldest = offer.round - REMEMBERED_ROUNDS
        self._offered = {k: r for k, r in self._offered.items() if k[0] > oldest}
        self._transfers = {
            t: o for t, o in self._transfers.items() if o.round > oldest or self._passed(o.key)
        }

    def _go_on(self, offer: Offer, now: float, replies: Replies) -> None:
        key = offer.key
        if key in self._assemblies:
            self.resumes += self._assemblies[key].missing < len(offer.manifest.chunks)
        else:
            if not self._passed(key):
                self._make_room(offer)
            self._assemblies[key] = Assembly(offer)
        self.progress = now
        self._finish(key, replies)
        self._top_up(replies)

    def _make_room(self, offer: Offer) -> None:
        """
        Raises:
            ResourceLimit: too many payloads of the peer's own at once.
        """
        # Whoever offers round r has closed r - 2: nothing older of its own is still wanted.
        self._forget(offer.round - 2, lambda key: not self._passed(key))
        state = offer.kind == STATE
        alike = [k for k in self._assemblies if not self._passed(k) and (k.kind == STATE) is state]
        if len(alike) >= MAX_TRANSFERS:
            raise ResourceLimit(f"more than {MAX_TRANSFERS} payloads at once")

    def data(self, header: Header, body: Buffer, now: float, replies: Replies) -> None:
        """One chunk came: verify, write, pull more.

        Raises:
            ProtocolViolation: see :meth:`Assembly.write`; or of no known transfer.
        """
        offer = self._transfers.get(header.transfer)
        if header.transfer in self._over:
            self.duplicates += 1
            return
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
                f"chunk {header.chunk} of {offer.party}'s payload for round {offer.round} from "
                f"{self._peer} does not match its digest; it is pulled again",
                "if this recurs, have the peer's memory and disk checked",
            )
            replies.events.append(Noticed(self._peer, error))
        if self._finish(offer.key, replies) and self._passed(offer.key):
            self.look_again(now, replies)  # one may have waited for room
        self._top_up(replies)

    def _finish(self, key: OfferKey, replies: Replies) -> bool:
        assembly = self._assemblies[key]
        if assembly.missing:
            return False
        del self._assemblies[key]
        self._arrived.add(key)
        replies.events.append(Arrived(self._peer, assembly.offer, assembly.payload))
        return True

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
