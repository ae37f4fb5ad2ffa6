"""Conversations joined by queues and driven by hand: no thread, no socket, no clock."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import blake3
import msgspec

from splitfed.entries import entry_message
from splitfed.tensors import manifest_of
from splitfed.transport.channel import Channel
from splitfed.transport.conversation import Conversation
from splitfed.transport.events import (
    STATE,
    STATE_HEAD,
    STATE_NUMBER,
    Arrived,
    Event,
    Greeting,
    NoteKind,
    Offer,
    Outgoing,
    note_message,
    offer_message,
    vote_message,
)
from splitfed.transport.exchange import Settings
from splitfed.transport.frames import (
    Body,
    Header,
    NoteBody,
    StoredBody,
    Type,
    decode_body,
    decode_header,
    encode_body,
)
from splitfed.transport.offers import Verify
from splitfed.transport.wire import Message
from splitfed.types import TensorSpec

CHUNK = 64
WINDOW = 4 * CHUNK
SETTINGS = Settings(window=WINDOW, chunk_size=CHUNK, status_interval=10.0, stall=60.0)
RUN = b"r" * 32
KEYS = {name: blake3.blake3(name.encode()).digest() for name in ("alice", "bob", "carol")}

E = TypeVar("E")
_NONCES = itertools.count(1)  # of the whole process: no two lives ever share one


def sign(party: str, message: bytes) -> bytes:
    """A signature of 64 bytes that only looks like one."""
    return blake3.blake3(KEYS[party] + message).digest(length=64)


def verify(party: str, message: bytes, signature: bytes, past: bool = False) -> bool | None:
    return party in KEYS and sign(party, message) == signature


def with_past(truth: bool | None) -> Verify:
    """``truth`` of every signature that a present key did not make, where past ones count."""

    def verified(party: str, message: bytes, signature: bytes, past: bool = False) -> bool | None:
        return verify(party, message, signature) or (truth if past else False)

    return verified


def greeting(name: str, **fields: Any) -> Greeting:
    """What ``name`` says about itself; all agree unless ``fields`` says otherwise."""
    usual: dict[str, Any] = {
        "name": name,
        "contract": b"c" * 32,
        "roster": b"r" * 32,
        "initial": b"i" * 32,
        "folder": name.encode().ljust(16, b"\0"),
        "boot": 1,
    }
    return Greeting(**(usual | fields))


def outgoing(
    party: str, round: int = 1, size: int = 10 * CHUNK, *, seed: str = "", chunk: int = CHUNK
) -> Outgoing:
    """A signed payload of ``size`` random bytes, different for every party, round and seed."""
    payload = random.Random(f"{party} {round} {seed}").randbytes(size)
    return signed(party, round, payload, chunk=chunk)


def signed(party: str, round: int, payload: bytes, *, chunk: int = CHUNK) -> Outgoing:
    """An offer of exactly these bytes."""
    specs = (TensorSpec("w", (len(payload),), "uint8"),)
    manifest = manifest_of(payload, specs, chunk)
    return Outgoing(offer_of(party, round, manifest), payload)


def offer_of(party: str, round: int, manifest: Any, *, kind: str = "update") -> Offer:
    fields = {"run": RUN, "round": round, "party": party, "kind": kind, "root": manifest.root}
    head = blake3.blake3(f"{party} {round} {kind}".encode()).digest()
    entry = entry_message(number=round, head=head, **fields)
    signature = sign(party, offer_message(**fields))
    return Offer(kind, RUN, round, party, manifest, signature, round, head, sign(party, entry))


def receipt(receiver: str, offer: Offer) -> bytes:
    """``receiver``'s counter-signature of the offer's ledger entry."""
    return sign(receiver, offer.entry.receipt_message(receiver))


def stored_body(receiver: str, offer: Offer) -> StoredBody:
    """What ``receiver`` answers once it holds the payload."""
    return StoredBody(offer.manifest.root[:8], receipt(receiver, offer))


def signed_vote(party: str, body: bytes) -> tuple[bytes, bytes]:
    """A vote's body and signature."""
    return body, sign(party, vote_message(body))


def signed_note(origin: str, kind: NoteKind, body: bytes) -> NoteBody:
    """What ``origin`` signed, to be passed on."""
    return NoteBody(origin, kind, body, sign(origin, note_message(kind, body)))


def state_of(party: str, round: int, payload: bytes) -> Outgoing:
    """The agreed shared tensors as ``party`` offers them to one that comes back."""
    manifest = manifest_of(payload, (TensorSpec("w", (len(payload),), "uint8"),), CHUNK)
    fields: dict[str, Any] = {"run": RUN, "round": round, "party": party, "kind": STATE}
    fields["root"] = manifest.root
    signature = sign(party, offer_message(**fields))
    place = (STATE_NUMBER, STATE_HEAD, signature)
    return Outgoing(Offer(STATE, RUN, round, party, manifest, signature, *place), payload)


class Passed(NamedTuple):
    """One frame that somebody sent."""

    sender: str
    header: Header
    body: bytes

    @property
    def type(self) -> Type:
        return self.header.type

    @property
    def content(self) -> Any:
        return decode_body(self.header, self.body)


class Party:
    """A conversation and everything it reported."""

    def __init__(
        self,
        name: str,
        peer: str,
        *,
        accept: Callable[[Offer], str | None] = lambda offer: None,
        wanted: Callable[[Offer], bool] = lambda offer: False,
        settings: Settings = SETTINGS,
        verify: Verify = verify,
        links: Callable[[], dict[str, str]] = dict,
        **fields: Any,
    ) -> None:
        self.name = name
        self.talk = Conversation(
            me=name,
            peer=peer,
            keys=KEYS,
            greeting=greeting(name, **fields),
            accept=accept,
            wanted=wanted,
            verify=verify,
            settings=settings,
            nonce=lambda: next(_NONCES).to_bytes(16, "big"),
            links=links,
        )
        self.events: list[Event] = []

    def holds(self, offer: Offer) -> None:
        """Its app stored this payload durably."""
        self.talk.stored(offer, receipt(self.name, offer))

    def of(self, kind: type[E]) -> list[E]:
        """Its events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        """Its one event of that kind."""
        found = self.of(kind)
        assert len(found) == 1, self.events
        return found[0]


class Line:
    """One connection: messages on their way to either end."""

    def __init__(self, name: bytes, dialer: Party, listener: Party) -> None:
        self.name, self.dialer, self.listener = name, dialer, listener
        self.queues: dict[int, deque[tuple[bytes, bytes]]] = {
            id(dialer): deque(),
            id(listener): deque(),
        }
        self.alive = True
        self.full = False

    def other(self, party: Party) -> Party:
        return self.listener if party is self.dialer else self.dialer


class Net:
    """Lines between parties, and a clock that only moves when told to.

    Attributes:
        passed: every frame that was taken from a party, in order.
        lose: says which of them never arrive.
        alter: may replace header and body of a frame on its way.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: dict[bytes, Line] = {}
        self.passed: list[Passed] = []
        self.lose: Callable[[Passed], bool] = lambda frame: False
        self.alter: Callable[[Passed], tuple[Header, bytes]] = lambda frame: frame[1:]
        self._names = itertools.count(1)

    def connect(self, dialer: Party, listener: Party) -> Line:
        """A new connection; an earlier one of ``dialer`` is left as it is, half open."""
        line = Line(next(self._names).to_bytes(5, "big"), dialer, listener)
        self.lines[line.name] = line
        dialer.talk.up(line.name, self.now)
        return line

    def cut(self, line: Line, *, unnoticed_by: Party | None = None) -> None:
        """End a connection; what is on its way is lost."""
        line.alive = False
        for party in (line.dialer, line.listener):
            line.queues[id(party)].clear()
            if party is not unnoticed_by:
                party.talk.down(line.name, "cut")
            self.collect(party)

    def take(self, party: Party) -> bool:
        """Take one frame from a party and put it on its line; False if it has none that
        its line has room for."""
        while (frame := party.talk.peek()) is not None:
            _, connection, header, body = frame
            line = self.lines.get(connection)
            if line is not None and line.alive and line.full:
                party.talk.no_room()
                continue
            if line is None or not line.alive:
                party.talk.refused_by_wire()
            else:
                party.talk.took()
                self._carry(line, Passed(party.name, decode_header(header), bytes(body)), party)
            self.collect(party)
            return True
        return False

    def _carry(self, line: Line, passed: Passed, sender: Party) -> None:
        self.passed.append(passed)
        if not self.lose(passed):
            altered, content = self.alter(passed)
            line.queues[id(line.other(sender))].append((altered.encode(), content))

    def deliver(self, line: Line, party: Party, index: int = 0) -> bool:
        """Give ``party`` a message waiting on ``line``; False if there is none."""
        queue = line.queues[id(party)]
        if index >= len(queue):
            return False
        header, body = queue[index]
        del queue[index]
        self.inject(line, party, header, body)
        return True

    def inject(self, line: Line, party: Party, header: bytes, body: bytes) -> None:
        """Give ``party`` a message that seems to come from the other end of ``line``."""
        sender = line.other(party).name
        party.talk.received(Message(sender, line.name, header, body), self.now)
        self.collect(party)

    def say(self, line: Line, sender: Party, body: Body, **header: Any) -> None:
        """Send a frame as ``sender`` would, correctly numbered, whatever its state."""
        kind, data = encode_body(body)
        self.say_raw(line, sender, kind, data, **header)

    def say_raw(self, line: Line, sender: Party, kind: Type, data: bytes, **header: Any) -> None:
        channel = channel_of(sender, line)
        fields: dict[str, Any] = {
            "session": channel.session,
            "sequence": channel.sent + 1,
            "length": len(data),
        }
        channel.sent += 1
        self.inject(line, line.other(sender), Header(kind, **(fields | header)).encode(), data)

    def collect(self, party: Party) -> None:
        """Move a party's new events to its list."""
        party.events += party.talk.events
        party.talk.events = []

    def pump(self, limit: int = 10_000) -> None:
        """Let everything happen that can happen without the clock."""
        for _ in range(limit):
            parties = {
                id(p): p for line in self.lines.values() for p in (line.dialer, line.listener)
            }
            moved = False
            for party in parties.values():
                party.talk.try_again()
                moved |= self.take(party)
                self.collect(party)
            for line in list(self.lines.values()):
                if line.alive:
                    moved |= self.deliver(line, line.dialer)
                    moved |= self.deliver(line, line.listener)
            if not moved:
                return
        raise AssertionError("the conversation never comes to rest")

    def tick(self, seconds: float) -> None:
        """Let time pass for everybody, then :meth:`pump`."""
        self.now += seconds
        for line in list(self.lines.values()):
            for party in (line.dialer, line.listener):
                party.talk.tick(self.now)
                self.collect(party)
        self.pump()

    def types(self, sender: str | None = None) -> list[Type]:
        """The types of all frames that passed."""
        return [f.type for f in self.passed if sender in (None, f.sender)]

    def of(self, kind: Type, sender: str | None = None) -> list[Passed]:
        return [f for f in self.passed if f.type is kind and sender in (None, f.sender)]


def channel_of(party: Party, line: Line) -> Channel:
    """What ``party`` knows of ``line``."""
    return party.talk.channels[line.name]


class Joined(NamedTuple):
    """Alice, who listens, and Bob, who dialed her; their session is open."""

    net: Net
    alice: Party
    bob: Party
    line: Line


def joined(**fields: Any) -> Joined:
    """Alice and Bob in session. ``fields`` go to both conversations."""
    net = Net()
    alice, bob = Party("alice", "bob", **fields), Party("bob", "alice", **fields)
    line = net.connect(bob, alice)
    net.pump()
    return Joined(net, alice, bob, line)


def arrived(party: Party) -> list[bytes]:
    """The payloads that arrived at ``party``."""
    return [bytes(event.payload) for event in party.of(Arrived)]


def replace(struct: Any, **fields: Any) -> Any:
    """A changed copy of a msgspec struct."""
    return msgspec.structs.replace(struct, **fields)
