"""One listening link, alice's, and everybody who dials her: honest parties and hostile ones."""

from __future__ import annotations

import random
from typing import Any

from splitfed.transport.events import Arrived, Delivered, Greeted, Greeting
from splitfed.transport.zeromq import ZmqWire
from tests.support.hostile import RawPeer
from tests.support.networks import LinkParty
from tests.support.wires import QUICK, identity, keys_of, secret_of


def raw(wire: ZmqWire | str, name: str = "bob") -> RawPeer:
    """A hostile ``name`` that dials alice once."""
    address = wire if isinstance(wire, str) else str(wire.endpoint)
    alice = secret_of("alice").curve_public
    return RawPeer(address, secret_of(name), alice, reconnect_ivl=-1)


def greeting(name: str = "bob", **fields: Any) -> Greeting:
    usual = {
        "contract": bytes(32),
        "roster": bytes(32),
        "initial": bytes(32),
        "folder": name.encode().ljust(16, b"\0"),
        "boot": 1,
    }
    return Greeting(name=name, **(usual | fields))


class Street:
    """Alice's running link, and who dials her."""

    def __init__(self, expected: tuple[str, ...] = ("bob",)) -> None:
        self.expected = expected
        self.raws: list[RawPeer] = []
        self.parties: list[LinkParty] = []
        roster = {"alice": keys_of("alice", "tcp://127.0.0.1:1")}
        roster |= {name: keys_of(name) for name in expected}
        self.wire = ZmqWire(identity("alice"), roster, "tcp://127.0.0.1:0", options=QUICK)
        self.alice = self._start(LinkParty("alice", self.wire, peers=expected))

    def _start(self, party: LinkParty) -> LinkParty:
        party.link.start()
        self.parties.append(party)
        return party

    def honest(self, name: str, address: str | None = None) -> LinkParty:
        """A party that keeps to the rules, in session."""
        roster = {"alice": keys_of("alice", address or str(self.wire.endpoint))}
        roster |= {name: keys_of(name)}
        wire = ZmqWire(identity(name), roster, options=QUICK)
        party = self._start(LinkParty(name, wire, peers=["alice"]))
        party.wait(Greeted)
        return party

    def hostile(self, name: str = "bob", address: str | None = None) -> RawPeer:
        self.raws.append(raw(address or self.wire, name))
        return self.raws[-1]

    def close(self) -> None:
        for one in self.raws:
            one.close()
        for party in self.parties:
            party.link.close(0.0)


def swap(one: LinkParty, other: LinkParty, round: int, size: int = 600_000) -> None:
    """Both give each other a payload, to the last receipt."""
    payloads = [random.Random(f"{p.name} {round}").randbytes(size) for p in (one, other)]
    for party, payload in zip((one, other), payloads, strict=True):
        party.offer(round, payload)
    for party, payload in zip((one, other), reversed(payloads), strict=True):
        arrived = party.wait(Arrived, round)
        assert bytes(arrived.payload) == payload
        party.stored(arrived.offer)
    for party in (one, other):
        party.wait(Delivered, round)
