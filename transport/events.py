"""The words the link and the round engine use with each other.

What a party says about itself (:class:`Greeting`, :class:`Status`), what it hands to the
link (:class:`Outgoing`) and what the link reports back (:data:`Event`). Importing this
module imports neither torch nor zmq.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from splitfed.entries import Count, Digest, Entry, Name, Number, Receipted, Signature
from splitfed.errors import SplitfedError
from splitfed.types import Manifest

PROTOCOL_VERSIONS = (3, 3)
"""The oldest and the newest version of the protocol that this code speaks."""

FolderId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Line = Annotated[str, Meta(max_length=256)]
Document = Annotated[str, Meta(max_length=256 * 1024)]
Purpose = Literal["run", "check"]
Outcome = Literal["", "agreed", "void", "alone", "missed"]
Vote = tuple[Annotated[bytes, Meta(max_length=64 * 1024)], Signature]
"""Body and signature of a vote."""
NoteKind = Literal["vote", "view", "evidence"]
Signed = Annotated[bytes, Meta(min_length=1, max_length=64 * 1024)]
"""What a vote's or a note's signature covers; the link does not look inside."""

STATE = "state"
"""The kind of an offer of the agreed shared tensors, for a party that comes back: what everybody
voted for, nothing of the sender's own. It stands in no ledger, so :attr:`Offer.number` is 1,
:attr:`Offer.head` 32 zero bytes and :attr:`Offer.entry_signature` the offer's own signature."""
STATE_ROUNDS = 4
"""So many rounds long what came of one can still be fetched, and is: whoever turned to every newer
one would never hold any where fetching takes longer than a round."""
STATE_NUMBER, STATE_HEAD = 1, bytes(32)

_OFFER_DOMAIN = b"splitfed offer v1\0"
_VOTE_DOMAIN = b"splitfed vote v1\0"
_NOTE_DOMAINS = {
    "vote": _VOTE_DOMAIN,
    "view": b"splitfed view v1\0",
    "evidence": b"splitfed evidence v1\0",
}


def offer_message(*, run: bytes, round: int, party: str, kind: str, root: bytes) -> bytes:
    """The bytes that an OFFER's Ed25519 signature covers."""
    return _OFFER_DOMAIN + msgspec.msgpack.encode((run, round, party, kind, root))


def vote_message(body: bytes) -> bytes:
    """The bytes that a VOTE's Ed25519 signature covers: a domain of its own before the
    body, so that no vote can pass for an offer."""
    return _VOTE_DOMAIN + body


def note_message(kind: NoteKind, body: bytes) -> bytes:
    """The bytes that a NOTE's Ed25519 signature covers: a domain of its own for each kind. That
    of ``"vote"`` is :func:`vote_message`, so a vote that is passed on keeps its signature."""
    return _NOTE_DOMAINS[kind] + body


class OfferKey(NamedTuple):
    """What tells an offer from every other. Two rounds may well bring equal payloads, so the
    root alone does not."""

    round: int
    kind: str
    root: bytes
    head: bytes
    party: str


class Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One payload that ``party`` puts up for its peers, signed by that party.

    ``run`` is the run's 32-byte name, ``kind`` what the payload is (``"update"``);
    ``number``, ``head`` and ``entry_signature`` are those of the payload's :attr:`entry` in
    the party's ledger.
    """

    kind: Name
    run: Digest
    round: Count
    party: Name
    manifest: Manifest
    signature: Signature
    number: Number
    head: Digest
    entry_signature: Signature

    @property
    def key(self) -> OfferKey:
        """What tells this offer from every other."""
        return OfferKey(self.round, self.kind, self.manifest.root, self.head, self.party)

    @property
    def entry(self) -> Entry:
        """The payload's entry in the party's ledger."""
        return Entry(
            self.run,
            self.party,
            self.number,
            self.head,
            self.manifest.root,
            self.round,
            self.kind,
            self.entry_signature,
        )

    def message(self) -> bytes:
        """The bytes that :attr:`signature` covers."""
        return offer_message(
            run=self.run,
            round=self.round,
            party=self.party,
            kind=self.kind,
            root=self.manifest.root,
        )


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An offer and its payload: an immutable snapshot, sent without a copy."""

    offer: Offer
    payload: bytes


class Greeting(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a party says about itself whenever a connection is made.

    A snapshot: hand the link a new one (:meth:`Link.greet`) after every closed round. The
    two documents (JSON text) travel only where the peer's digests differ, and of
    ``votes_held`` (the newest vote we hold, by party) and ``entries_held`` (the newest entry
    of a party's ledger that we counter-signed, with that signature) only the reader's own.
    Fields that a later version appends are ignored by this one.
    """

    versions: tuple[int, int] = PROTOCOL_VERSIONS
    name: Name
    contract: Digest
    roster: Digest
    initial: Digest
    folder: FolderId
    boot: Count
    purpose: Purpose = "run"
    closed_round: Count = 0
    closed_outcome: Outcome = ""
    closed_digest: Annotated[bytes, Meta(max_length=32)] = b""
    open_vote: Annotated[bytes, Meta(max_length=64 * 1024)] | None = None
    open_vote_signature: Signature | None = None
    votes_held: Annotated[dict[Name, Vote], Meta(max_length=256)] = {}
    entries_held: Annotated[dict[Name, Receipted], Meta(max_length=256)] = {}
    software: Annotated[dict[Line, Line], Meta(max_length=16)] = {}
    contract_document: Document = ""
    roster_document: Document = ""


class Status(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a party is doing: public figures only. ``links`` (peer: state) is told to
    nobody but a ``check`` under the party's own key. ``awaits``: for whose word it waits."""

    phase: Annotated[str, Meta(max_length=32, pattern="^[a-z -]*$")]
    round: Count
    step: Count
    steps: Count
    links: Annotated[dict[Name, Line], Meta(max_length=256)] | None = None
    awaits: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()

    def progressed(self, before: Status | None) -> bool:
        """Whether it tells of progress since ``before``; to wait for others is none."""
        return before is None or msgspec.structs.replace(self, awaits=before.awaits) != before


# --- what the link reports -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greeted:
    """A session with ``peer`` is open (or its ``check`` was answered): agreements equal."""

    peer: str
    greeting: Greeting


@dataclass(frozen=True, slots=True)
class LinkBroken:
    """The session ended; the link reconnects by itself and resumes what was open."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A payload is complete: both signatures, every chunk and the root are verified. Store
    it durably, then call :meth:`Link.stored` (not for a :data:`STATE`). ``peer`` sent it;
    ``offer.party`` made it. The link keeps no reference to ``payload``."""

    peer: str
    offer: Offer
    payload: bytearray


@dataclass(frozen=True, slots=True)
class OfferRefused:
    """A correctly signed offer that the ``accept`` check refused: nothing was pulled. ``peer``
    sent it; ``offer.party`` made it."""

    peer: str
    offer: Offer
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer holds this payload durably, ours or one that we passed on (``offer.party``): its
    counter-signature, which is verified, covers the
    :meth:`~splitfed.entries.Entry.receipt_message` of the offer's entry."""

    peer: str
    offer: Offer
    counter_signature: bytes

    @property
    def round(self) -> int:
        """Number of the exchange."""
        return self.offer.round


@dataclass(frozen=True, slots=True)
class Voted:
    """A vote whose signature is the peer's. The same vote is reported once."""

    peer: str
    round: int
    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Noted:
    """What ``origin`` signed and ``peer`` passed on; the signature is verified. The same note of
    the same peer is reported once. ``round`` is the peer's claim: ``origin`` did not sign it."""

    peer: str
    round: int
    origin: str
    kind: NoteKind
    body: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The peer said what it is doing now."""

    peer: str
    status: Status


@dataclass(frozen=True, slots=True)
class Left:
    """The peer said goodbye: ``closed`` is the last round it closed. It may come back."""

    peer: str
    reason: str
    closed: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something the operator may want to know; the link goes on by itself."""

    peer: str
    error: SplitfedError


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of this peer for this link: nothing it sends is looked at any more."""

    peer: str
    error: SplitfedError


Event = (
    Greeted
    | LinkBroken
    | Arrived
    | OfferRefused
    | Delivered
    | Voted
    | Noted
    | StatusChanged
    | Left
    | Noticed
    | Failed
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of one link since it was made, all peers together. Bytes.

    Payload is the bodies of DATA frames. Wire is everything on the socket.
    """

    payload_sent: int
    wire_sent: int
    payload_received: int
    wire_received: int
    reconnects: int
    resumes: int
    stale: int


@dataclass(frozen=True, slots=True)
class PeerView:
    """How things stand with one peer. Times are seconds of the link's clock, or None.

    ``state``: ``"absent"``, ``"greeting"``, ``"connected"``, ``"left"`` or ``"failed"``.
    ``awaiting``: what is still missing from this peer, in words; empty if nothing.
    ``moved``: bytes of tensors that went to this peer and came from it.
    """

    state: str
    status: Status | None
    since_change: float | None
    last_sign_of_life: float | None
    awaiting: str
    moved: int = 0
