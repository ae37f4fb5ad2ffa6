"""Frames: a fixed header of 64 bytes and a body, as they stand on the wire.

A control body is one msgspec struct of a tagged union; the body of DATA is the raw bytes
of one chunk. Decoding is strict: whatever no honest splitfed writes is a
:class:`~splitfed.errors.ProtocolViolation`, and nothing else is ever raised.

======== ====== ==========================================================
bytes    type   field
======== ====== ==========================================================
0-3      4s     magic, ``SFED``
4        B      version of the protocol
5        B      type of the frame
6-7      H      flags, zero in this version
8-23     16s    session; zeros where there is none yet
24-31    Q      round
32-39    Q      transfer, numbered by the sender of the payload per session
40-47    Q      sequence, counting the frames of one sender in one session
48-55    Q      offset of the chunk in the payload
56-59    I      length of the body
60-63    I      chunk
======== ====== ==========================================================

All numbers are big-endian. Fields that a type does not use are zero.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from splitfed.entries import Name, Signature
from splitfed.errors import ProtocolViolation
from splitfed.transport.events import (
    Document,
    Greeting,
    Line,
    NoteKind,
    Offer,
    Signed,
    Status,
)
from splitfed.transport.wire import Buffer

MAGIC = b"SFED"
VERSION = 1
HEADER = struct.Struct(">4sBBH16sQQQQII")
NO_SESSION = bytes(16)
CONTROL_LIMIT = (1 << 20) + (48 << 10)
"""Longest control body, bytes: an OFFER names every chunk in 34 bytes."""


class Type(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    RESET = 3
    OFFER = 4
    PULL = 5
    DATA = 6
    STORED = 7
    VOTE = 8
    STATUS = 9
    GOODBYE = 10
    NOTE = 11


_TYPES = {int(member): member for member in Type}


class Header(NamedTuple):
    """The 64 bytes before every body; see the module's table."""

    type: Type
    session: bytes = NO_SESSION
    round: int = 0
    transfer: int = 0
    sequence: int = 0
    offset: int = 0
    length: int = 0
    chunk: int = 0
    version: int = VERSION

    def encode(self) -> bytes:
        """The 64 bytes."""
        return HEADER.pack(
            MAGIC,
            self.version,
            self.type,
            0,
            self.session,
            self.round,
            self.transfer,
            self.sequence,
            self.offset,
            self.length,
            self.chunk,
        )


def decode_header(data: Buffer) -> Header:
    """Read a header.

    Raises:
        ProtocolViolation: wrong size, magic or flags, or an unknown type.
    """
    if len(data) != HEADER.size:
        raise ProtocolViolation(f"a header of {len(data)} bytes instead of {HEADER.size}")
    (
        magic,
        version,
        kind,
        flags,
        session,
        round_,
        transfer,
        sequence,
        offset,
        length,
        chunk,
    ) = HEADER.unpack(data)
    if magic != MAGIC:
        raise ProtocolViolation(f"a header that starts with {magic!r} instead of {MAGIC!r}")
    known = _TYPES.get(kind)
    if known is None or flags:
        raise ProtocolViolation(f"a header of type {kind} with flags {flags:#06x}")
    return Header(known, session, round_, transfer, sequence, offset, length, chunk, version)


Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Index = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Reason = Literal[
    "finished",
    "interrupted",
    "alone",
    "failed",
    "contract",
    "initial",
    "version",
    "key-in-use",
    "violation",
]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=int(Type.HELLO)):
    """The dialer's first word on a connection, after every handshake and every RESET."""

    nonce: Nonce
    greeting: Greeting


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=int(Type.WELCOME)):
    """The listener's answer; its documents come along only where digests differ."""

    nonce: Nonce
    greeting: Greeting


class Reset(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.RESET),
    forbid_unknown_fields=True,
):
    """The session in the header is unknown here: greet again."""


class OfferBody(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.OFFER),
    forbid_unknown_fields=True,
):
    """A payload is ready under the header's transfer number: the sender's own, or (the offer
    names another party) one that the sender passes on."""

    offer: Offer


class Pull(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.PULL),
    forbid_unknown_fields=True,
):
    """Credit: send these chunks of the header's transfer; ``ranges`` of (first, count)."""

    ranges: Annotated[tuple[tuple[Index, Index], ...], Meta(min_length=1, max_length=1024)]


class StoredBody(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.STORED),
    forbid_unknown_fields=True,
):
    """The payload of the header's transfer is stored durably; ``root`` starts its root, and
    ``counter_signature`` is the receiver's over the offer's ledger entry."""

    root: Annotated[bytes, Meta(min_length=8, max_length=8)]
    counter_signature: Signature


class Vote(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.VOTE),
    forbid_unknown_fields=True,
):
    """A signed vote of the header's round; the link does not look inside."""

    body: Signed
    signature: Signature


class StatusBody(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.STATUS),
    forbid_unknown_fields=True,
):
    """What the sender is doing."""

    status: Status


class Goodbye(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.GOODBYE),
    forbid_unknown_fields=True,
):
    """The sender leaves, refuses, or (``acknowledges``) has read the peer's goodbye.

    ``contract`` and ``roster`` are documents, present only for the reason "contract".
    """

    reason: Reason
    closed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    acknowledges: bool = False
    detail: Line = ""
    contract: Document = ""
    roster: Document = ""


class NoteBody(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    tag=int(Type.NOTE),
    forbid_unknown_fields=True,
):
    """Something that ``origin`` signed, passed on for the header's round."""

    origin: Name
    kind: NoteKind
    body: Signed
    signature: Signature


Body = (
    Hello | Welcome | Reset | OfferBody | Pull | StoredBody | Vote | StatusBody | Goodbye | NoteBody
)
"""Every control body."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(Body)
_TYPE_OF: dict[type, Type] = {
    Hello: Type.HELLO,
    Welcome: Type.WELCOME,
    Reset: Type.RESET,
    OfferBody: Type.OFFER,
    Pull: Type.PULL,
    StoredBody: Type.STORED,
    Vote: Type.VOTE,
    StatusBody: Type.STATUS,
    Goodbye: Type.GOODBYE,
    NoteBody: Type.NOTE,
}


def encode_body(body: Body) -> tuple[Type, bytes]:
    """A control body's frame type and bytes."""
    return _TYPE_OF[type(body)], _encoder.encode(body)


def decode_body(header: Header, data: Buffer) -> Body:
    """The control body that belongs to ``header``.

    Raises:
        ProtocolViolation: too long, not msgpack, not a body we know, another type than
            the header says, or a length that is not the header's.
    """
    if len(data) != header.length:
        raise ProtocolViolation(
            f"a {header.type.name} of {len(data)} bytes whose header says {header.length}"
        )
    if len(data) > CONTROL_LIMIT:
        raise ProtocolViolation(
            f"a {header.type.name} of {len(data)} bytes, more than the {CONTROL_LIMIT} allowed"
        )
    try:
        body = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a {header.type.name} that cannot be read: {error}") from error
    if _TYPE_OF[type(body)] is not header.type:
        raise ProtocolViolation(
            f"a {_TYPE_OF[type(body)].name} body under a {header.type.name} header"
        )
    return body
