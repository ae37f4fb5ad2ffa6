"""What each TCP connection made us hold: the bytes that libzmq read and never handed over.

A message of endless parts stays inside libzmq until its last part came: it passes the high
water mark, which counts whole messages, and MAXMSGSIZE, which looks at each part. Measured
with libzmq 4.3.5: 1,295 MiB held after two seconds, and not a byte of it to be seen from
outside. But the kernel counts what came over a connection (Linux, ``tcpi_bytes_received``).
What came, less what the kernel still holds, less the whole messages that were taken, is what
libzmq holds. Where no whole message waits to be taken, an honest peer leaves there no more than
the message that is being read; where some wait, no more than the high water mark. Whoever goes
beyond is cut off by a shutdown of the connection, and libzmq gives the memory back.

Elsewhere than on Linux nothing is watched in this way; the number of connections is.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import resource
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from splitfed.transport import zmtp
from splitfed.transport.frames import HEADER
from splitfed.transport.sockets import MAX_MESSAGE_BYTES, WireOptions

LOOK_EVERY = 0.1
"""Seconds between two looks. A gigabyte a second brings 100 MiB in between."""

MOST_SILENT = 256
"""Accepted connections that sent no message yet, at most; fewer where the system allows only
few descriptors. An honest dialler speaks as soon as its handshake is done."""

SLACK = 64 << 10
"""Bytes that are no messages: greetings and handshakes."""

NONE_LEFT = (errno.EMFILE, errno.ENFILE)
"""What the system says when there is no descriptor left."""

_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128  # tcpi_bytes_received in struct tcp_info, Linux 4.1
_BEAT_BYTES = 42 + 40  # a PING of the peer's and its PONG to ours
_LARGEST = zmtp.part_bytes(HEADER.size) + zmtp.part_bytes(MAX_MESSAGE_BYTES)

UNFINISHED = 3 * _LARGEST + SLACK
"""Bytes of messages that are not whole: one that is read, one that waits for room before it,
and a third for what a reader finds done in between. Also what a connection may send before its
first message was taken: a greeting that is sent again."""

Where = Callable[[socket.socket], bool]
"""Whether a socket is one of ours: descriptors are used again, so that is looked up."""


@dataclass(frozen=True, kw_only=True)
class Excess:
    """A connection that was cut off: who it is, if a message ever said so, and bytes held."""

    peer: str | None
    descriptor: int
    address: str
    held: int


@dataclass(eq=False)
class _Entry:
    descriptor: int
    since: float
    peer: str | None
    inode: int = -1  # of the socket; below zero: it cannot be reached (any more)
    taken: int = 0
    seen: int = 0  # bytes that libzmq had read at the last look


class Watch:
    """The TCP connections of one ZeroMQ socket, by the descriptor that its monitor names.

    Args:
        ours: whether a TCP socket belongs to the watched ZeroMQ socket.
        peer: who is at the other end of all of them, where that is known beforehand.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ours: Where,
        options: WireOptions,
        clock: Callable[[], float],
        peer: str | None = None,
    ) -> None:
        self._ours, self._options, self._clock, self._peer = ours, options, clock, peer
        self._entries: dict[int, _Entry] = {}
        self._silent: dict[_Entry, None] = {}  # the oldest first
        self._due = float("inf")
        self._blind = False
        self._emptied = False
        self.most_silent = silent_connections()
        self.crowded = 0
        """Connections cut off because too many others came after them without a word."""

    def __contains__(self, descriptor: object) -> bool:
        return descriptor in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def deadline(self) -> float:
        """When :meth:`look` is to be called again."""
        return self._due

    @property
    def ceiling(self) -> int:
        """Bytes that libzmq may hold of one connection: what the high water mark lets in, the
        message that waits before it and the one that is being read."""
        return (self._options.high_water_mark + 2) * _LARGEST + SLACK

    def observe(self, event: int, descriptor: int) -> None:
        """What the monitor tells of connections."""
        if event in (zmq.EVENT_ACCEPTED, zmq.EVENT_CONNECTED):
            self._add(descriptor)
        elif event == zmq.EVENT_DISCONNECTED:
            self._remove(descriptor)

    def _add(self, descriptor: int) -> None:
        self._remove(descriptor)
        entry = _Entry(descriptor, self._clock(), self._peer)
        # It may have ended already: then it has no other end to ask for.
        with _borrowed(descriptor) as connection, contextlib.suppress(OSError):
            if connection is not None and self._ours(connection):
                entry.inode = os.fstat(connection.fileno()).st_ino
        self._entries[descriptor] = entry
        if entry.peer is None and entry.inode >= 0:
            self._silent[entry] = None
        if len(self._entries) == 1:
            self._due = entry.since + LOOK_EVERY
        self._crop(self.most_silent)

    def _remove(self, descriptor: int) -> None:
        entry = self._entries.pop(descriptor, None)
        if entry is not None:
            self._silent.pop(entry, None)
        if not self._entries:
            self._due = float("inf")

    def _crop(self, most: int) -> None:
        """Cuts the oldest connections that never said anything, down to ``most``."""
        while len(self._silent) > most:
            self.crowded += 1
            self._cut(next(iter(self._silent)))

    def _cut(self, entry: _Entry) -> str:
        """Ends a connection; returns the address of its other end."""
        address, inode, entry.inode = "?", entry.inode, -1
        self._silent.pop(entry, None)
        with _borrowed(entry.descriptor) as connection, contextlib.suppress(OSError):
            # Not another one that has its descriptor by now.
            if connection is not None and os.fstat(connection.fileno()).st_ino == inode:
                address = plain(str(connection.getpeername()[0]))
                connection.shutdown(socket.SHUT_RDWR)
        return address

    def took(self, descriptor: int | None, peer: str, size: int) -> None:
        """A whole message of ``size`` bytes on the wire, sent by ``peer``, was taken."""
        if descriptor is None:
            self._blind = True  # messages cannot be told apart here: nothing can be said
        elif (entry := self._entries.get(descriptor)) is not None:
            if entry.peer is None:
                entry.peer = peer
                self._silent.pop(entry, None)
            entry.taken += size

    def emptied(self) -> None:
        """No whole message waits to be taken."""
        self._emptied = True

    def cut(self, descriptor: int | None) -> None:
        """Ends a connection; the monitor will tell that it ended."""
        entry = None if descriptor is None else self._entries.get(descriptor)
        if entry is not None:
            self._cut(entry)

    def look(self) -> list[Excess]:
        """Cuts and returns the connections that hold too much, if it is time to look.

        A connection is cut beyond :attr:`ceiling`, and beyond :data:`UNFINISHED` if it never
        said a word or if all that was whole was taken since the last look; of the connections of
        one peer together the largest, beyond two ceilings (one may be left over from before a
        break); of those that never said a word together, beyond one.
        """
        now = self._clock()
        if now < self._due:
            return []
        self._due = now + LOOK_EVERY
        if not _has_descriptors():
            self._crop(self.most_silent // 2)
        emptied, self._emptied = self._emptied, False
        if self._blind:
            return []
        over: list[tuple[_Entry, int]] = []
        held: dict[_Entry, int] = {}
        for entry in self._entries.values():
            if entry.inode < 0 or (came := came_over(entry.descriptor)) is None:
                continue
            if came <= UNFINISHED:  # the many that say nothing: no more has to be asked
                entry.seen, held[entry] = came, max(0, came - entry.taken)
                continue
            received = came - unread_of(entry.descriptor)
            if not _is_still(entry):
                continue  # what was looked at may have been another one
            beats = 2 + (now - entry.since) / self._options.heartbeat_interval
            received -= int(2 * beats * _BEAT_BYTES)
            held[entry] = max(0, received - entry.taken)
            unfinished = entry.seen - entry.taken if emptied else 0
            entry.seen = received
            most = UNFINISHED if entry.peer is None else self.ceiling
            if held[entry] > most or unfinished > UNFINISHED:
                over.append((entry, held.pop(entry)))
        for peer in {entry.peer for entry in held}:
            together = self.ceiling if peer is None else 2 * self.ceiling
            mine = sorted((e for e in held if e.peer == peer), key=held.__getitem__)
            while sum(held[entry] for entry in mine) > together:
                entry = mine.pop()
                over.append((entry, held[entry]))
        return [
            Excess(
                peer=entry.peer,
                descriptor=entry.descriptor,
                address=self._cut(entry),
                held=size,
            )
            for entry, size in over
        ]

    def clear(self) -> None:
        """The watched socket is closed, and all its connections with it."""
        self._entries.clear()
        self._silent.clear()
        self._due = float("inf")


def came_over(descriptor: int) -> int | None:
    """Bytes that came over a TCP connection so far; None where the system does not tell. Less
    :func:`unread_of`, asked for after it, they are those that were read, and never too many."""
    if sys.platform != "linux":
        return None
    try:
        # Family and type are named so that the system is not asked for them each time.
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None  # libzmq closed it a moment ago
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return None
    finally:
        connection.detach()
    if len(told) < _RECEIVED_AT + _RECEIVED.size:
        return None
    came: int = _RECEIVED.unpack_from(told, _RECEIVED_AT)[0]
    return came


def unread_of(descriptor: int) -> int:
    """Bytes of a TCP connection that wait in the kernel."""
    unread = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.FIONREAD, unread)
    return unread[0]


def _is_still(entry: _Entry) -> bool:
    try:
        return os.fstat(entry.descriptor).st_ino == entry.inode
    except OSError:
        return False


def silent_connections() -> int:
    """How many connections may stand without a word: most of the descriptors that the system
    allows stay free for files."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return MOST_SILENT
    return max(4, min(MOST_SILENT, allowed // 4))


def _has_descriptors() -> bool:
    try:
        os.close(os.dup(2))
    except OSError as error:
        return error.errno not in NONE_LEFT
    return True


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket | None]:
    """A TCP socket that libzmq may close meanwhile, under a descriptor of our own; under the same
    one where there is no other left. None if it is none."""
    own = True
    try:
        reached = os.dup(descriptor)
    except OSError as error:
        own, reached = False, descriptor
        if error.errno not in NONE_LEFT:
            yield None
            return
    try:
        connection = socket.socket(fileno=reached)
    except OSError:
        if own:
            os.close(reached)
        yield None
        return
    try:
        internet = connection.family in (socket.AF_INET, socket.AF_INET6)
        yield connection if internet and connection.type == socket.SOCK_STREAM else None
    finally:
        if own:
            connection.close()
        else:
            connection.detach()


def plain(address: str) -> str:
    """An IPv4 address in its usual form, also where the socket speaks IPv6."""
    return address.removeprefix("::ffff:")
