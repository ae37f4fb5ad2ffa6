"""``splitfed check``: is my key accepted, is the peer there, are the agreements equal?

A check trains nothing and disturbs nothing: its connection never replaces that of a run.
Where this party's own run holds the port, the check asks that run instead.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from splitfed.config import PartyConfig
from splitfed.errors import SplitfedError, UserError
from splitfed.rounds import Entrance
from splitfed.run.agreed import Agreed
from splitfed.run.agreement import agree, with_reference
from splitfed.run.life import make_greeting, make_link
from splitfed.run.party import make_wire, own_identity, roster_of
from splitfed.transport.events import Failed, Greeted, Noticed, StatusChanged
from splitfed.transport.keys import Identity
from splitfed.transport.zeromq import ZmqWire

TIMEOUT = 10.0
"""Seconds after which a check gives up."""


@dataclass(frozen=True, kw_only=True)
class PeerCheck:
    """What a check found out about one peer.

    Attributes:
        peer: its name.
        reachable: whether it answered.
        ok: reachable, key accepted, agreements and initial tensors equal.
        text: the finding in words.
        cure: which side must mend what; empty when ``ok``.
        exit_code: 0, or the exit code of the error behind the finding.
    """

    peer: str
    reachable: bool
    ok: bool
    text: str
    cure: str = ""
    exit_code: int = 0


def check_peers(config: PartyConfig, *, timeout: float = TIMEOUT) -> list[PeerCheck]:
    """Look at every peer for at most ``timeout`` seconds in all.

    Raises:
        UserError: the own files, keys or model are not in order.
    """
    me = own_identity(config)
    config, _ = with_reference(config)
    agreed = agree(config)
    wire = make_wire(config, me)
    if not wire.expected:
        return _ask(wire, me, agreed, list(config.peers), timeout)
    try:
        return _ask(wire, me, agreed, list(config.peers), timeout)
    except UserError as busy:
        address = config.link.bind or config.me.address
        if address is None or not _held(busy):
            raise
        own = ZmqWire(me, roster_of(config), dial={me.name: _reachable(address)})
        return _ask_own_run(own, me, agreed, list(config.peers), timeout)


def _held(error: UserError) -> bool:
    return "in use" in error.message


def _reachable(address: str) -> str:
    """An address to dial for one to listen at: a wildcard is reached through loopback."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{'127.0.0.1' if host in ('*', '0.0.0.0', '[::]') else host}:{port}"


def _ask(
    wire: ZmqWire, me: Identity, agreed: Agreed, peers: list[str], timeout: float
) -> list[PeerCheck]:
    greeting = make_greeting(agreed, me.name, os.urandom(16), 0, "check")
    link = make_link(wire, me, agreed, greeting, Entrance(agreed.terms))
    found: dict[str, PeerCheck] = {}
    hints: dict[str, SplitfedError] = {}
    deadline = time.monotonic() + timeout
    link.start()
    try:
        while len(found) < len(peers) and (left := deadline - time.monotonic()) > 0:
            match link.next(timeout=left):
                case Greeted() as event:
                    doing = "is running" if event.greeting.purpose == "run" else "is checking too"
                    found[event.peer] = PeerCheck(
                        peer=event.peer,
                        reachable=True,
                        ok=True,
                        text=f"reachable, key accepted, agreements equal; it {doing}, "
                        f"{event.greeting.closed_round} rounds closed",
                    )
                case Failed() as event:
                    found[event.peer] = _failed(event.peer, event.error, reachable=True)
                case Noticed() as event:
                    hints[event.peer] = event.error
    finally:
        link.close()
    return [found.get(peer) or _silent(peer, wire, hints.get(peer), timeout) for peer in peers]


def _ask_own_run(
    wire: ZmqWire, me: Identity, agreed: Agreed, peers: list[str], timeout: float
) -> list[PeerCheck]:
    greeting = make_greeting(agreed, me.name, os.urandom(16), 0, "check")
    link = make_link(wire, me, agreed, greeting, Entrance(agreed.terms), peers=[me.name])
    deadline = time.monotonic() + timeout
    link.start()
    try:
        while (left := deadline - time.monotonic()) > 0:
            match link.next(timeout=left):
                case StatusChanged() as event if event.status.links is not None:
                    return [as_our_run_says(it, event.status.links.get(it)) for it in peers]
                case Failed() as event:
                    return [_failed(peer, event.error, reachable=False) for peer in peers]
    finally:
        link.close()
    cure = "look at the run with `splitfed status`, or find out who holds the port"
    text = "our own port is held by a process that does not answer"
    return [
        PeerCheck(peer=peer, reachable=False, ok=False, text=text, cure=cure, exit_code=3)
        for peer in peers
    ]


def as_our_run_says(peer: str, state: str | None) -> PeerCheck:
    if state == "connected":
        text = f"our own run is going on and connected to {peer}"
        return PeerCheck(peer=peer, reachable=True, ok=True, text=text)
    how = {"greeting": "there and not greeted yet", "left": "gone", "failed": "refused"}
    return PeerCheck(
        peer=peer,
        reachable=False,
        ok=False,
        text=f"our own run is going on, and for it {peer} is {how.get(state or '', 'not there')}",
        cure="`splitfed status` on our run folder tells since when and why; "
        f"`splitfed check` at {peer} asks from the other side",
        exit_code=3,
    )


def _failed(peer: str, error: SplitfedError, *, reachable: bool) -> PeerCheck:
    return PeerCheck(
        peer=peer,
        reachable=reachable,
        ok=False,
        text=error.message,
        cure=error.cure,
        exit_code=error.exit_code,
    )


def _silent(peer: str, wire: ZmqWire, hint: SplitfedError | None, timeout: float) -> PeerCheck:
    if hint is not None:
        return _failed(peer, hint, reachable=False)
    if peer in wire.dialed:
        return PeerCheck(
            peer=peer,
            reachable=False,
            ok=False,
            text=f"no answer from {wire.dialed[peer][0]} within {timeout:.0f} s",
            cure="ask whether splitfed runs there and whether the firewall lets us through",
            exit_code=3,
        )
    return PeerCheck(
        peer=peer,
        reachable=False,
        ok=False,
        text=f"{peer} did not dial us within {timeout:.0f} s",
        cure=f"let {peer} start `splitfed run` or `splitfed check` at the same time",
        exit_code=3,
    )
