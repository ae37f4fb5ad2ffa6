"""What I have for one peer: payloads, of my own and passed on, and votes, kept until every
peer closed the round.

A session numbers the payloads it offers; the numbers die with it, the payloads do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from splitfed.errors import Defect, ProtocolViolation, ResourceLimit
from splitfed.transport.events import STATE, STATE_ROUNDS, Offer, OfferKey, Outgoing
from splitfed.transport.frames import Vote

KEPT_ROUNDS = 2
"""Rounds a peer may still need after a crash: the newest offered one and the one before."""

QUEUE_FACTOR = 4
"""A peer may have asked for so many windows at once before it is a flood."""

MOST_PASSED_ON = 64
"""Offers of other parties kept at once; a peer remembers as many that it does not want."""

TIMES_ASKED = 4
"""How often a payload may be asked for in one session: once, and three times for damage."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An offer and its payload (None: only the signed offer is known); ``passed_on``: another
    party's."""

    offer: Offer
    payload: bytes | None
    passed_on: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One requested chunk, ready to send; ``body`` is a view of the payload, no copy."""

    transfer: int
    round: int
    chunk: int
    offset: int
    body: memoryview


class Sending:
    """Outgoing payloads and votes for one peer.

    Attributes:
        delivered: offers that the peer says it holds durably.
        most_passed_on: offers of other parties kept at once.
    """

    def __init__(
        self, *, window: int, chunk_size: int, most_passed_on: int = MOST_PASSED_ON
    ) -> None:
        self.most_passed_on = most_passed_on
        self._chunk_size = chunk_size
        self._queue_limit = max(1, window // chunk_size) * QUEUE_FACTOR
        self._kept: dict[OfferKey, Kept] = {}
        self._votes: dict[int, Vote] = {}
        self._transfers: dict[int, OfferKey] = {}
        self._requests: deque[tuple[int, int]] = deque()
        self._asked: dict[OfferKey, int] = {}
        self.delivered: set[OfferKey] = set()

    # --- the app's side ---

    def keep(self, outgoing: Outgoing) -> None:
        """Keep a payload for this and later sessions; drop what is two rounds older.

        Raises:
            Defect: payload and manifest are not of one length.
        """
        if len(outgoing.payload) != outgoing.offer.manifest.total:
            raise Defect(
                f"a payload of {len(outgoing.payload)} bytes under a manifest of "
                f"{outgoing.offer.manifest.total} bytes"
            )
        self._drop(outgoing.offer.round - KEPT_ROUNDS, passed_on=False)
        self._kept[outgoing.offer.key] = Kept(outgoing.offer, outgoing.payload)

    def pass_on(self, offer: Offer, payload: bytes | None) -> None:
        """Keep another party's payload likewise, until :meth:`discard`. A payload that was known
        stays known.

        Raises:
            Defect: more than :attr:`most_passed_on` are kept.
        """
        kept = self._kept.get(offer.key)
        if kept is None and sum(k.passed_on for k in self._kept.values()) >= self.most_passed_on:
            raise Defect(f"more than {self.most_passed_on} offers passed on at once")
        if payload is None and kept is not None:
            payload = kept.payload
        self._kept[offer.key] = Kept(offer, payload, passed_on=True)

    def keep_vote(self, round: int, vote: Vote) -> None:
        """Keep the newest vote of a round for later sessions."""
        self._drop(round - KEPT_ROUNDS, passed_on=False)
        self._votes[round] = vote

    def discard(self, round: int) -> None:
        """Drop payloads and votes of rounds up to ``round``."""
        self._drop(round, passed_on=True)

    def _drop(self, round: int, *, passed_on: bool) -> None:
        gone = [
            key
            for key, kept in self._kept.items()
            if key.round <= round - (STATE_ROUNDS if key.kind == STATE else 0)
            and (passed_on or not kept.passed_on)
        ]
        for key in gone:
            del self._kept[key]
            self._asked.pop(key, None)
            self.delivered.discard(key)
        for old in [r for r in self._votes if r <= round]:
            del self._votes[old]
        self._requests = deque(
            (transfer, chunk)
            for transfer, chunk in self._requests
            if self._transfers[transfer] in self._kept
        )

    def forget_delivered(self) -> None:
        """The peer came back as another life of itself: it says again what it holds."""
        self.delivered.clear()

    # --- the session's side ---

    def open(self) -> None:
        """A session begins: numbers start anew and the peer has asked for nothing."""
        self._transfers.clear()
        self._requests.clear()
        self._asked.clear()

    def offered(self, offer: Offer) -> bool:
        """Was this offered in this session already?"""
        return offer.key in self._transfers.values()

    def due(self, closed: int) -> Iterator[Offer]:
        """What to offer in a new session with a peer that closed round ``closed``."""
        for key, kept in self._kept.items():
            if kept.offer.round > closed and key not in self.delivered:
                yield kept.offer

    def due_votes(self, closed: int) -> Iterator[tuple[int, Vote]]:
        """Votes to send in a new session with a peer that closed round ``closed``."""
        return ((round, vote) for round, vote in self._votes.items() if round > closed)

    def number(self, offer: Offer) -> int:
        """The next transfer number of this session, for ``offer``."""
        transfer = len(self._transfers) + 1
        self._transfers[transfer] = offer.key
        return transfer

    def _find(self, transfer: int) -> Kept | None:
        if transfer not in self._transfers:
            raise ProtocolViolation(f"an answer to transfer {transfer}, which was never offered")
        return self._kept.get(self._transfers[transfer])

    def pulled(self, transfer: int, ranges: tuple[tuple[int, int], ...]) -> bool:
        """Queue the chunks asked for; False if the payload was discarded meanwhile, or is none
        of ours and not known.

        Raises:
            ProtocolViolation: no such transfer or chunk.
            ResourceLimit: more chunks queued than four windows hold, or all of them asked for
                more often in one session than damage on the way can explain.
        """
        kept = self._find(transfer)
        if kept is None or kept.payload is None:
            return False
        key, chunks = kept.offer.key, len(kept.offer.manifest.chunks)
        for first, count in ranges:
            if count < 1 or first + count > chunks:
                raise ProtocolViolation(
                    f"a PULL of chunks {first} to {first + count - 1} of {chunks}"
                )
            if len(self._requests) + count > self._queue_limit:
                raise ResourceLimit(f"a PULL of more than {self._queue_limit} chunks at once")
            asked = self._asked[key] = self._asked.get(key, 0) + count
            if asked > TIMES_ASKED * chunks:
                raise ResourceLimit(f"PULLs of {asked} chunks where there are {chunks}")
            self._requests.extend((transfer, chunk) for chunk in range(first, first + count))
        return True

    def stored(self, transfer: int, root: bytes) -> Offer | None:
        """The peer stored a payload; returns its offer the first time, None afterwards.

        Raises:
            ProtocolViolation: no such transfer, another root than was offered, or a state.
        """
        kept = self._find(transfer)
        key = self._transfers[transfer]
        if not key.root.startswith(root):
            raise ProtocolViolation(f"STORED of transfer {transfer} under another root")
        if key.kind == STATE:
            raise ProtocolViolation(f"STORED of transfer {transfer}, which is in no ledger")
        if kept is None or key in self.delivered:
            return None
        self.delivered.add(key)
        return kept.offer

    def peek(self) -> Chunk | None:
        """The chunk to send next, without taking it off the queue."""
        if not self._requests:
            return None
        transfer, chunk = self._requests[0]
        kept = self._kept[self._transfers[transfer]]
        if kept.payload is None:
            raise AssertionError("a chunk of a payload that is not known was queued")
        start = chunk * self._chunk_size
        body = memoryview(kept.payload)[start : start + self._chunk_size]
        return Chunk(transfer, kept.offer.round, chunk, start, body)

    def pop(self) -> None:
        """The chunk shown by :meth:`peek` was taken by the wire."""
        self._requests.popleft()
