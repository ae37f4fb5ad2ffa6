"""Spoilt bytes: seeded mutations of what is valid, and a live conversation to throw them at."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from splitfed.entries import entry_message
from splitfed.errors import ProtocolViolation
from splitfed.transport.events import Arrived, Delivered, Event, Noted, Outgoing, Voted
from splitfed.transport.frames import HEADER, Header, Type, decode_body, decode_header
from tests.support.talk import (
    Joined,
    Passed,
    channel_of,
    joined,
    outgoing,
    replace,
    sign,
    signed_note,
    signed_vote,
)

# What parsers of lengths and nesting trip over: msgpack's longest array, map, binary and text,
# its largest numbers, deep nesting, and texts that are no UTF-8.
TRAPS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xcb\x7f\xf0" + bytes(6),
    b"\x91" * 3000,
    b"\x81\xa1a" * 1500,
    b"\xa4\xff\xfe\xed\xa0",
    b"\xc0",
    b"\x90",
    b"\x80",
)
_NUMBERS = (0, 1, 2, 31, 255, 2**16, 2**31, 2**32 - 1)
_LONG = (*_NUMBERS, 2**53, 2**63 - 1, 2**63, 2**64 - 1)


CAROLS = outgoing("carol")
CAROLS_NOTES = tuple(
    signed_note("carol", kind, b"carol's " + kind.encode()) for kind in ("vote", "view", "evidence")
)
"""What Carol signed and others pass on: it is genuine whoever brings it."""


def spoilt(draw: random.Random, sample: bytes, others: Sequence[bytes] = ()) -> bytes:
    """``sample`` with one to three faults; now and then nothing but random bytes."""
    if draw.random() < 0.05:
        return draw.randbytes(draw.randrange(0, 200))
    data = bytearray(sample)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _spoil(draw, data, others)
    return bytes(data)


def _spoil(draw: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    place = draw.randrange(len(data) + 1)
    match draw.randrange(8):
        case 0 | 1 if data:  # one bit
            data[place % len(data)] ^= 1 << draw.randrange(8)
        case 2 if data:  # one byte
            data[place % len(data)] = draw.randrange(256)
        case 3:  # cut short
            del data[place:]
        case 4:  # a hole
            del data[place : place + draw.randrange(1, 40)]
        case 5:  # something twice
            data[place:place] = data[place : place + draw.randrange(1, 40)]
        case 6:
            trap = draw.choice(TRAPS)
            data[place : place + draw.choice((0, 1, len(trap)))] = trap
        case _ if others:  # the end of another one
            other = draw.choice(others)
            data[place:] = other[draw.randrange(len(other) + 1) :]
        case _:
            data += draw.randbytes(draw.randrange(1, 40))


def corpus() -> tuple[Passed, ...]:
    """Valid frames of every type, as two parties send them from greeting to goodbye."""
    net, alice, bob, _ = joined(wanted=lambda offer: True)
    alice.talk.offer(outgoing("alice"))
    bob.talk.offer(outgoing("bob"))
    alice.talk.vote(1, *signed_vote("alice", b"a vote"))
    alice.talk.pass_on(CAROLS.offer, CAROLS.payload)
    for note in CAROLS_NOTES:
        alice.talk.note(1, note)
    net.pump()
    for party in (alice, bob):
        for event in party.of(Arrived):
            party.holds(event.offer)
    net.tick(20.0)
    bob.talk.goodbye("finished", 1)
    net.pump()
    reset = Passed("alice", Header(Type.RESET, length=1), b"\x91\x03")
    frames = (*net.passed, reset)
    missing = set(Type) - {frame.type for frame in frames}
    assert not missing, missing
    return frames


@dataclass(frozen=True)
class Shot:
    """A spoilt frame. ``placed``: header and numbers are made to fit the session it meets."""

    header: bytes
    body: bytes
    placed: bool


def shots(seed: int, count: int, frames: Sequence[Passed]) -> Iterable[Shot]:
    """``count`` spoilt frames, always the same for one seed."""
    draw = random.Random(seed)
    bodies = [frame.body for frame in frames]
    for _ in range(count):
        frame = draw.choice(frames)
        body = spoilt(draw, frame.body, bodies) if draw.random() < 0.8 else frame.body
        header = frame.header._replace(length=len(body))
        if body == frame.body or draw.random() < 0.4:
            field = draw.choice(("round", "transfer", "sequence", "offset", "length", "chunk"))
            numbers = _LONG if field in ("round", "transfer", "sequence", "offset") else _NUMBERS
            header = Header(**{**header._asdict(), field: draw.choice(numbers)})
        if draw.random() < 0.1:
            header = header._replace(type=draw.choice(list(Type)))
        encoded = header.encode()
        if draw.random() < 0.1:
            encoded = spoilt(draw, encoded)
        yield Shot(encoded, body, placed=draw.random() < 0.8)


def decoded(shot: Shot) -> bool:
    """Whether the decoder takes it for a frame; anything but a ProtocolViolation gets out."""
    try:
        decode_body(decode_header(shot.header), shot.body)
    except ProtocolViolation:
        return False
    return True


class Live:
    """Alice, in session with Bob, half of a payload of his here and half of hers there.

    Attributes:
        sessions: how many were needed: a violation ends one.
        forged: what reached Alice's app although nobody signed it.
    """

    def __init__(self) -> None:
        self.sessions = 0
        self.forged: list[str] = []
        self._anew()

    def _anew(self) -> None:
        self.sessions += 1
        self._joined = _halfway()
        self._alice = self._joined.alice
        self._known = self._stored()
        self._seen = len(self._alice.events)

    def throw(self, shot: Shot) -> None:
        """Give Alice the frame as if Bob had sent it."""
        net, alice, bob, line = self._joined
        header = shot.header
        if shot.placed and len(header) == HEADER.size:
            # The right session and the next number: the frame is looked at, not just dropped.
            channel = channel_of(bob, line)
            theirs = channel_of(alice, line)
            number = struct.pack(">Q", theirs.seen + 1)
            header = header[:8] + channel.session + header[24:40] + number + header[48:]
        net.inject(line, alice, header, shot.body)
        self._look(shot)
        current, channels = alice.talk.current, alice.talk.channels
        if (
            alice.talk.error is not None
            or line.name not in channels
            or current is None
            or current.session != channel_of(bob, line).session
        ):
            self._anew()

    def _look(self, shot: Shot) -> None:
        events = self._alice.events[self._seen :]
        self._seen = len(self._alice.events)
        for event in events:
            if isinstance(event, Arrived | Voted | Delivered | Noted) and not _genuine(event):
                self.forged.append(f"{event} after {shot}")
        if self._alice.talk.error is None and self._stored() != self._known:
            self.forged.append(f"other payloads on their way after {shot}")
            self._known = self._stored()

    def _stored(self) -> list[bytes]:
        return [
            assembly.offer.manifest.root
            for assembly in self._alice.talk.receiving.incomplete
            if assembly.offer != CAROLS.offer
        ]


def _genuine(event: Event) -> bool:
    match event:
        case Noted(origin=origin, kind=kind, body=body, signature=signature):
            return (origin, kind, body, signature) in [
                (note.origin, note.kind, note.body, note.signature) for note in CAROLS_NOTES
            ]
        case Arrived(offer=offer, payload=payload):
            return (offer, bytes(payload)) == (CAROLS.offer, CAROLS.payload)
    return False


def _halfway() -> Joined:
    """A session in which Alice's app has got nothing yet: of Bob's ten chunks two came. Bob's
    payload and the place of Alice's in her ledger are others than the corpus': no signature in it
    is good for them. Alice wants what Carol made."""
    net, alice, bob, line = joined(wanted=lambda offer: offer.party == "carol")
    net.lose = lambda frame: frame.type is Type.DATA and frame.header.chunk > 1
    alice.talk.offer(_elsewhere(outgoing("alice")))
    bob.talk.offer(outgoing("bob", seed="live"))
    net.pump()
    return Joined(net, alice, bob, line)


def _elsewhere(out: Outgoing) -> Outgoing:
    """The same payload as another entry of its party's ledger."""
    offer, head = out.offer, b"live" * 8
    message = entry_message(
        run=offer.run, party=offer.party, number=offer.number, head=head,
        root=offer.manifest.root, round=offer.round, kind=offer.kind,
    )  # fmt: skip
    signature = sign(offer.party, message)
    return Outgoing(replace(offer, head=head, entry_signature=signature), out.payload)
