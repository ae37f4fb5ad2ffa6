"""One face for every kind of wire, so that one suite of tests runs on all of them.

In every network ``alice`` listens, ``bob`` dials (and ``carol``, where there are three), and a
fault can be put between alice and bob. To hold another kind of wire to the same laws, write a
:class:`Network` and add it to :data:`NETWORKS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from splitfed.entries import entry_message
from splitfed.tensors import manifest_of
from splitfed.transport.events import (
    STATE,
    STATE_HEAD,
    STATE_NUMBER,
    Event,
    Greeting,
    NoteKind,
    Offer,
    Outgoing,
    note_message,
    offer_message,
    vote_message,
)
from splitfed.transport.keys import verify_signature
from splitfed.transport.link import Link
from splitfed.transport.memory import MemoryHub
from splitfed.transport.wire import Wire
from splitfed.transport.zeromq import ZmqWire
from splitfed.types import TensorSpec
from tests.support.proxy import Proxy
from tests.support.wires import QUICK, identity, keys_of, port_of, secret_of

CHUNK = 64 << 10
RUN = bytes(32)
DEADLINE = 30.0
PAIR = ("alice", "bob")

E = TypeVar("E")


class Network(Protocol):
    """Wires of one kind between alice, who must be opened first, and the others."""

    def wire(self, name: str) -> Wire:
        """A wire of a process of that party; alice's second one wants the same address."""

    def own(self) -> Wire:
        """A wire that dials alice with alice's own key and listens nowhere."""

    def cut(self) -> None:
        """Break all connections of alice and bob once; what is on its way may be lost."""

    def close(self) -> None:
        """Take the network down."""


class MemoryNetwork:
    """Wires within the process."""

    def __init__(self, names: Sequence[str] = PAIR) -> None:
        self._hub = MemoryHub(names)

    def wire(self, name: str) -> Wire:
        return self._hub.wire(name, dials=None if name == "alice" else ["alice"])

    def own(self) -> Wire:
        return self._hub.wire("alice", dials=["alice"])

    def cut(self) -> None:
        self._hub.cut("alice", "bob", lose=True)

    def close(self) -> None:
        pass


class ZmqNetwork:
    """ZeroMQ with CURVE over loopback; bob goes through a proxy."""

    def __init__(self, names: Sequence[str] = PAIR) -> None:
        self._names = names
        self._alice: ZmqWire | None = None
        self._port = 0
        self._proxy: Proxy | None = None

    def wire(self, name: str) -> Wire:
        if name == "alice":
            roster = {other: keys_of(other) for other in self._names if other != "alice"}
            roster["alice"] = keys_of("alice", "tcp://127.0.0.1:1")
            address = f"tcp://127.0.0.1:{self._listening}"
            wire = ZmqWire(identity(name), roster, address, options=QUICK)
            self._alice = self._alice or wire
            return wire
        if name != "bob":
            direct = keys_of("alice", f"tcp://127.0.0.1:{self._listening}")
            return ZmqWire(identity(name), {"alice": direct, name: keys_of(name)}, options=QUICK)
        if self._proxy is None:
            self._proxy = Proxy(("127.0.0.1", self._listening))
        roster = {"alice": keys_of("alice", self._proxy.address), "bob": keys_of("bob")}
        return ZmqWire(identity(name), roster, options=QUICK)

    @property
    def _listening(self) -> int:
        """The port the first alice got; 0 while she does not listen."""
        if not self._port and self._alice is not None and self._alice.endpoint is not None:
            self._port = port_of(self._alice)
        return self._port

    def own(self) -> Wire:
        address = f"tcp://127.0.0.1:{self._listening}"
        roster = {"alice": keys_of("alice", address), "bob": keys_of("bob")}
        return ZmqWire(identity("alice"), roster, dial={"alice": address}, options=QUICK)

    def cut(self) -> None:
        assert self._proxy is not None
        self._proxy.reset()

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.close()


NETWORKS: dict[str, Callable[..., Network]] = {"memory": MemoryNetwork, "zeromq": ZmqNetwork}


def outgoing_of(party: str, round: int, payload: bytes, *, kind: str = "update") -> Outgoing:
    """An offer of these bytes, signed by ``party``."""
    specs = (TensorSpec("w", (len(payload),), "uint8"),)
    manifest = manifest_of(payload, specs, CHUNK)
    fields = {"run": RUN, "round": round, "party": party, "kind": kind, "root": manifest.root}
    secret = secret_of(party)
    signature = secret.sign(offer_message(**fields))
    place = {"number": round, "head": round.to_bytes(32, "big")}
    entry_signature = secret.sign(entry_message(**fields, **place))
    if kind == STATE:
        place, entry_signature = {"number": STATE_NUMBER, "head": STATE_HEAD}, signature
    offer = Offer(
        kind=kind,
        run=RUN,
        round=round,
        party=party,
        manifest=manifest,
        signature=signature,
        entry_signature=entry_signature,
        **place,
    )
    return Outgoing(offer, payload)


class LinkParty:
    """A link in its own thread, and every event it gave so far."""

    def __init__(self, name: str, wire: Wire, *, peers: Sequence[str] = (), **options: Any) -> None:
        peers = peers or ["bob" if name == "alice" else "alice"]
        self.name = name
        self.peer = peers[0]
        self.wire = wire
        self.events: list[Event] = []
        self.link = Link(
            wire,
            name,
            peers,
            greeting=self.greeting(**options.pop("greeting", {})),
            accept=options.pop("accept", lambda offer: None),
            verify=lambda party, message, signature, past=False: verify_signature(
                secret_of(party).signing_public, message, signature
            ),
            chunk_size=CHUNK,
            **options,
        )

    def greeting(self, **fields: Any) -> Greeting:
        usual = {
            "name": self.name,
            "contract": bytes(32),
            "roster": bytes(32),
            "initial": bytes(32),
            "folder": self.name.encode().ljust(16, b"\0"),
            "boot": 1,
        }
        return Greeting(**(usual | fields))

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait(self, kind: type[E], count: int = 1) -> E:
        """The ``count``-th event of a kind; fails after a generous deadline."""
        end = time.monotonic() + DEADLINE
        while len(self.of(kind)) < count:
            event = self.link.next(max(0.0, end - time.monotonic()))
            assert event is not None, f"{self.name} waited for {kind.__name__}: {self.events}"
            self.events.append(event)
        return self.of(kind)[count - 1]

    def outgoing(self, round: int, payload: bytes) -> Outgoing:
        return outgoing_of(self.name, round, payload)

    def stored(self, offer: Offer, peer: str = "") -> None:
        """The app holds this payload durably that its party or ``peer`` sent."""
        receipt = secret_of(self.name).sign(offer.entry.receipt_message(self.name))
        self.link.stored(peer or offer.party, offer, receipt)

    def offer(self, round: int, payload: bytes) -> Outgoing:
        out = self.outgoing(round, payload)
        self.link.offer(out)
        return out

    def note(
        self,
        round: int,
        origin: str,
        kind: NoteKind,
        body: bytes,
        to: Sequence[str] | None = None,
    ) -> None:
        """Pass on what ``origin`` signed."""
        signature = secret_of(origin).sign(note_message(kind, body))
        self.link.note(round, origin, kind, body, signature, to)

    def vote(self, round: int, body: bytes) -> None:
        self.link.vote(round, body, secret_of(self.name).sign(vote_message(body)))
