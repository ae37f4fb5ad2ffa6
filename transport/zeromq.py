"""The wire over ZeroMQ: who listens, who dials, one poll loop for all of it.

Everything here happens in the one thread that opened the wire: sockets, monitors and the
door-keeper (ZAP) are made, polled and closed there. libzmq aborts the process otherwise.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import zmq
from zmq.utils import z85

from splitfed.errors import Defect, UserError
from splitfed.transport.dialer import Dialer
from splitfed.transport.keys import Identity, PeerKeys
from splitfed.transport.listener import Listener
from splitfed.transport.sockets import Meter, Ready, Socket, WireOptions
from splitfed.transport.wire import Buffer, Message, Sent, Trouble, Up, Wire, WireEvent

MESSAGES_A_POLL = 48
TROUBLES_A_PEER = 8
"""Different troubles told of a peer until it connects; strangers can cause any number."""

_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


class ZmqWire(Wire):
    """Carries messages between ``me`` and the parties of ``roster``.

    For each pair the party with an address listens; where both have one, the party whose
    name sorts first.

    Args:
        me: our name and secret.
        roster: public keys and addresses of all parties by name, our own included.
        bind: where to listen, if it is not the address that the roster gives for us.
        dial: addresses by name: dial exactly these and listen nowhere. For `check`, which
            asks the own run that holds the port, with the own key.
        clock: monotonic seconds.

    Raises:
        UserError: no address on either side, a malformed address, or a secret that is not
            the one whose public key stands in the roster.

    Attributes:
        expected: the peers that dial us.
        dialed: address, host and port of the peers that we dial, by name.
    """

    def __init__(
        self,
        me: Identity,
        roster: Mapping[str, PeerKeys],
        bind: str | None = None,
        *,
        dial: Mapping[str, str] | None = None,
        options: WireOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_roster(me, roster)
        self._me, self._roster, self._clock = me, dict(roster), clock
        self._options = options or WireOptions()
        self._meter = Meter()
        self._keys = {name: z85.decode(keys.public_key) for name, keys in roster.items()}
        self._allowed = {key: name for name, key in self._keys.items()}
        self.expected: tuple[str, ...] = ()
        targets = dict(dial or {})
        if dial is None:
            self.expected, targets = _sides(me.name, roster)
        self.dialed = {name: (target, *parse_address(target)) for name, target in targets.items()}
        self._bind = bind or roster[me.name].address
        if self.expected and self._bind is not None:
            parse_address(self._bind, listening=True)
        self._context: zmq.Context[Socket] | None = None
        self._listener: Listener | None = None
        self._dialers: dict[str, Dialer] = {}
        self._pending: list[WireEvent] = []
        self._told: set[tuple[str, str]] = set()
        self._thread: int | None = None

    # --- properties -------------------------------------------------------------------

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Public keys (32 bytes) by roster name, our own included."""
        return MappingProxyType(self._keys)

    @property
    def bytes_sent(self) -> int:
        """Bytes written, with framing, encryption and handshakes; heartbeats apart.

        What was queued when a connection broke is counted though it never left: the figure
        is exact without breaks and never too low.
        """
        return self._meter.sent

    @property
    def bytes_received(self) -> int:
        """Bytes of all complete messages and handshakes read; heartbeats apart."""
        return self._meter.received

    @property
    def endpoint(self) -> str | None:
        """Where we listen, with the real port; None where we do not."""
        return None if self._listener is None else self._listener.endpoint

    @property
    def routes(self) -> dict[str, str]:
        """How each peer and we come together, in words for the operator."""
        dialed = {peer: f"we dial {address}" for peer, (address, *_) in self.dialed.items()}
        return dialed | dict.fromkeys(self.expected, f"it dials us at {self._bind}")

    # --- the wire ---------------------------------------------------------------------

    def open(self) -> None:
        """Bind and dial; see :meth:`splitfed.transport.wire.Wire.open`."""
        if self._thread is not None:
            raise Defect("a wire is opened once")
        self._thread = threading.get_ident()
        # A context of its own: the ZAP handler's address is one per context.
        self._context = zmq.Context()
        try:
            if self.expected:
                self._listen(self._context)
            for peer, endpoint in self.dialed.items():
                dialer = Dialer(
                    self._context,
                    peer,
                    self._roster[peer],
                    endpoint,
                    name=self._me.name,
                    secret=self._me.secret,
                    options=self._options,
                    meter=self._meter,
                    clock=self._clock,
                )
                self._dialers[peer] = dialer
                dialer.open()
        except BaseException:
            self.close()
            raise

    def _listen(self, context: zmq.Context[Socket]) -> None:
        assert self._bind is not None
        listener = Listener(
            context,
            self._bind,
            expected=self.expected,
            allowed=self._allowed,
            secret=self._me.secret,
            options=self._options,
            meter=self._meter,
            clock=self._clock,
        )
        listener.open()
        self._listener = listener

    def send(self, peer: str, connection: bytes, header: bytes, body: Buffer) -> Sent:
        """See :meth:`splitfed.transport.wire.Wire.send`."""
        self._own()
        dialer = self._dialers.get(peer)
        if dialer is not None and dialer.owns(connection):
            return dialer.send(header, body)
        if self._listener is not None and self._listener.owns(peer, connection):
            return self._listener.send(connection, header, body)
        return Sent.GONE

    def poll(self, wake_fd: int, timeout: float) -> list[WireEvent]:
        """See :meth:`splitfed.transport.wire.Wire.poll`."""
        self._own()
        until = self._clock() + timeout
        while True:
            pause = 0.0 if self._pending else min(until, *self._deadlines()) - self._clock()
            ready, turn = self._wait(wake_fd, pause)
            events = self._pump(ready)
            if events or turn or self._clock() >= until:
                return events

    def rebuild(self, peer: str) -> None:
        """See :meth:`splitfed.transport.wire.Wire.rebuild`."""
        self._own()
        if (dialer := self._dialers.get(peer)) is not None:
            self._pending += dialer.rebuild("we dial anew")

    def drop(self, peer: str, connection: bytes) -> None:
        """See :meth:`splitfed.transport.wire.Wire.drop`."""
        self._own()
        dialer = self._dialers.get(peer)
        if dialer is not None and dialer.owns(connection):
            self.rebuild(peer)
        elif self._listener is not None and self._listener.owns(peer, connection):
            self._listener.drop(connection)

    def close(self) -> None:
        """See :meth:`splitfed.transport.wire.Wire.close`. Closing twice does nothing."""
        if self._context is None:
            return
        self._own()
        context, self._context = self._context, None
        for dialer in self._dialers.values():
            dialer.close()
        if self._listener is not None:
            self._listener.close()
        context.term()

    # --- how --------------------------------------------------------------------------

    def _own(self) -> None:
        if self._thread != threading.get_ident():
            raise Defect("a wire is used by the thread that opened it and by no other")

    def _pump(self, ready: Ready) -> list[WireEvent]:
        events, self._pending = self._pending, []
        if self._listener is not None:
            events += self._listener.pump(ready, MESSAGES_A_POLL)
        for dialer in self._dialers.values():
            events += dialer.pump(ready, MESSAGES_A_POLL)
        return [event for event in events if self._is_news(event)]

    def _is_news(self, event: WireEvent) -> bool:
        """Whether ``event`` is no trouble that was told already and still is the same."""
        if isinstance(event, Trouble):
            trouble = (event.peer, event.error.message)
            told = [peer for peer, _ in self._told].count(event.peer)
            if trouble in self._told or told >= TROUBLES_A_PEER:
                return False
            self._told.add(trouble)
        elif isinstance(event, Up | Message) and self._told:
            self._told = {told for told in self._told if told[0] != event.peer}
        return True

    def _deadlines(self) -> Iterable[float]:
        yield float("inf") if self._listener is None else self._listener.deadline
        for dialer in self._dialers.values():
            if (deadline := dialer.deadline) is not None:
                yield deadline

    def _wait(self, wake_fd: int, seconds: float) -> tuple[Ready, bool]:
        """Waits for something to happen: what is ready, and whether it is the link's turn."""
        poller = zmq.Poller()
        poller.register(wake_fd, zmq.POLLIN)
        if self._listener is not None:
            self._listener.register(poller)
        for dialer in self._dialers.values():
            dialer.register(poller)
        # Rounded up: a deadline a fraction of a millisecond away must not become a busy loop.
        ready = dict(poller.poll(math.ceil(max(0.0, seconds) * 1000)))
        room = any(flags & zmq.POLLOUT for item, flags in ready.items() if item != wake_fd)
        if room:
            for side in (self._listener, *self._dialers.values()):
                if side is not None:
                    side.busy = False
        return ready, room or wake_fd in ready


def parse_address(address: str, *, listening: bool = False) -> tuple[str, int]:
    """Host and port of ``tcp://HOST:PORT``.

    Args:
        listening: whether port 0 (any free one) is allowed.

    Raises:
        UserError: not of that form, or no such port.
    """
    match = _ADDRESS.fullmatch(address)
    port = int(match["port"]) if match else -1
    if match is None or not (0 if listening else 1) <= port <= 65535:
        raise UserError(
            f"address = {address!r} is not an address",
            "write tcp://HOST:PORT, for example tcp://fl.hospital-a.org:5555",
        )
    return match["host"].strip("[]"), port


def _sides(me: str, roster: Mapping[str, PeerKeys]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Who dials us, and whom we dial at which address."""
    mine = roster[me].address
    expected: list[str] = []
    targets: dict[str, str] = {}
    for peer in sorted(set(roster) - {me}):
        theirs = roster[peer].address
        if mine is not None and (theirs is None or me < peer):
            expected.append(peer)
        elif theirs is not None:
            targets[peer] = theirs
        else:
            raise UserError(
                f"neither {me} nor {peer} has an address, so neither can reach the other",
                f"give one of them an address: [parties.{me}] address = 'tcp://HOST:PORT'",
            )
    return tuple(expected), targets


def _check_roster(me: Identity, roster: Mapping[str, PeerKeys]) -> None:
    if me.name not in roster:
        raise UserError(
            f"{me.name} is not in the agreement, which names {', '.join(sorted(roster))}",
            "add it with `splitfed init --join`, or correct `party` in party.toml",
        )
    owners: dict[str, str] = {}
    for name, keys in sorted(roster.items()):
        other = owners.setdefault(keys.public_key, name)
        if other != name:
            raise UserError(
                f"{other} and {name} have the same public_key {keys.public_key}",
                "each party makes its own keys with `splitfed init`",
            )
    listed = roster[me.name].public_key
    if me.secret.curve_public != listed:
        raise UserError(
            f"our secret file holds the key {me.secret.curve_public}, but the agreement lists "
            f"{listed} for {me.name}",
            "point secret_key in party.toml at the file that `init` made for this agreement",
        )
