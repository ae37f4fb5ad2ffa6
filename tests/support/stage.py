"""A network with links on it, for the suites that every kind of wire must pass."""

from __future__ import annotations

import random
from typing import Any

from splitfed.transport.events import Arrived, Greeted
from splitfed.transport.wire import Wire
from tests.support.networks import CHUNK, LinkParty, Network


class Stage:
    """A network and the links on it, taken down at the end."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.parties: list[LinkParty] = []

    def party(self, name: str, wire: Wire | None = None, **options: Any) -> LinkParty:
        """A running link."""
        party = LinkParty(name, wire or self.network.wire(name), **options)
        self.parties.append(party)
        party.link.start()
        return party

    def pair(self, **options: Any) -> tuple[LinkParty, LinkParty]:
        alice, bob = self.party("alice", **options), self.party("bob", **options)
        alice.wait(Greeted)
        bob.wait(Greeted)
        return alice, bob

    def close(self) -> None:
        for party in self.parties:
            party.link.close(0.0)
        self.network.close()


def payload(party: LinkParty, round: int = 1, size: int = 5 * CHUNK + 7) -> bytes:
    return random.Random(f"{party.name} {round}").randbytes(size)


def take(party: LinkParty, count: int = 1) -> bytes:
    """Wait for a payload and store it."""
    arrived = party.wait(Arrived, count)
    party.stored(arrived.offer)
    return bytes(arrived.payload)
