"""Honest parties over real ZeroMQ, and one with a valid key that writes what it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitfed.transport.events import Arrived, Greeting
from splitfed.transport.link import Link
from splitfed.transport.zeromq import ZmqWire
from tests.rounds.test_engine import Liar
from tests.support.hostile import RawPeer, until
from tests.support.members import Town
from tests.support.ports import free_port
from tests.support.wires import QUICK, keys_of

HOSTILE = "b"


class RealTown(Town):
    """A town whose parties reach each other through ZeroMQ with CURVE on loopback. All but the
    last by name listen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        listening = sorted(self.names)[:-1]
        self.addresses = {name: f"tcp://127.0.0.1:{free_port()}" for name in listening}
        self.open_wires: dict[str, ZmqWire] = {}

    def link(
        self, name: str, greeting: Greeting, accept: Any, wanted: Any = lambda offer: False
    ) -> Link:
        roster = {
            other: keys_of(other, self.addresses.get(other), secret)
            for other, secret in self.secrets.items()
        }
        wire = ZmqWire(self.identity(name), roster, self.addresses.get(name), options=QUICK)
        self.open_wires[name] = wire
        self.links[name] = Link(
            wire,
            name,
            [other for other in self.terms.parties if other != name],
            greeting=greeting,
            accept=accept,
            wanted=wanted,
            verify=self.verify,
        )
        return self.links[name]

    def start_all_but(self, *others: str) -> None:
        for name in self.names:
            if name not in others:
                self.start(name)

    @contextmanager
    def raw(self, secret_of: str = HOSTILE) -> Iterator[RawPeer]:
        """A connection to a with that party's key, on which nothing is said yet."""
        until(lambda: "a" in self.open_wires and bool(self.open_wires["a"].endpoint), "a's port")
        peer = RawPeer(
            self.addresses["a"],
            self.secrets[secret_of],
            self.secrets["a"].curve_public,
            reconnect_ivl=-1,
        )
        try:
            yield peer
        finally:
            peer.close()

    def hello(self) -> Greeting:
        return self.greeting(HOSTILE, b"L" * 16, 1)


class Adversary(Liar):
    """Party b by hand among any number of parties: receipts for everybody's update."""

    def expect(self, kind: Any, peer: str = "a") -> Any:
        """The next event of this kind from ``peer``."""
        while True:
            event = self.link.next(timeout=30)
            assert event is not None, f"no {kind.__name__} of {peer} came"
            if isinstance(event, Arrived):
                self.run = event.offer.run
                message = event.offer.entry.receipt_message(HOSTILE)
                signature = self.town.secrets[HOSTILE].sign(message)
                self.link.stored(event.peer, event.offer, signature)
            if isinstance(event, kind) and event.peer == peer:
                return event


def real_town(path: Path, names: str = "ab", **changes: Any) -> RealTown:
    return RealTown(path, list(names), changes)
