"""An in-process TCP proxy that breaks connections on purpose, in toxiproxy's vocabulary.

One thread with ``selectors``. ``up`` is the way from the dialler to the listener, ``down``
the way back. Every control returns after the proxy's thread has carried it out, and faults
can be placed at an exact byte, so no test has to sleep and hope.
"""

from __future__ import annotations

import queue
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, Self, TypeVar

Way = Literal["up", "down"]
WAYS: tuple[Way, Way] = ("up", "down")
BUFFER = 1 << 18
DEADLINE = 30.0

T = TypeVar("T")


class Stream:
    """One way of one connection: what was read and not yet written."""

    def __init__(self, way: Way, source: socket.socket, sink: socket.socket) -> None:
        self.way, self.source, self.sink = way, source, sink
        self.held: deque[tuple[float, bytes]] = deque()  # (not before, bytes)
        self.size = 0
        self.ended = False  # the source sent its FIN
        self.finished = False  # and the sink got ours

    def take(self, budget: int) -> bytes:
        """Removes up to ``budget`` bytes of the first block."""
        due, block = self.held.popleft()
        piece, rest = block[:budget], block[budget:]
        if rest:
            self.held.appendleft((due, rest))
        self.size -= len(piece)
        return piece


class Pair:
    """A dialler's connection and ours to the listener."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.streams = (Stream("up", client, server), Stream("down", server, client))
        self.half_open = False


class Proxy:
    """Forwards ``address`` to ``target`` until told otherwise.

    Args:
        target: ``(host, port)`` of the listener.

    Attributes:
        passed: bytes written on to the other side since the start, each way.
        accepted: connections accepted so far.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.accepted = 0
        self._latency: dict[Way, float] = {"up": 0.0, "down": 0.0}
        self._rate: dict[Way, float | None] = {"up": None, "down": None}
        self._tokens: dict[Way, tuple[float, float]] = {"up": (0.0, 0.0), "down": (0.0, 0.0)}
        self._black: set[Way] = set()
        self._refusing = False
        self._faults: dict[Way, list[tuple[int, Callable[[Pair], None] | None]]]
        self._faults = {"up": [], "down": []}
        self._pairs: list[Pair] = []
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._ours, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a dialler reaches the target through this proxy."""
        return f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and every connection."""
        self._commands.put(None)
        self._ours.send(b"\0")
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the proxy's thread did not end"
        self._ours.close()
        self._theirs.close()

    # --- controls ---------------------------------------------------------------------

    def latency(self, seconds: float, ways: tuple[Way, ...] = WAYS) -> None:
        """Delays every byte read from now on."""
        self._call(lambda: self._latency.update(dict.fromkeys(ways, seconds)))

    def bandwidth(self, rate: float | None, ways: tuple[Way, ...] = WAYS) -> None:
        """At most ``rate`` bytes a second each way; None lifts the limit."""
        self._call(lambda: self._rate.update(dict.fromkeys(ways, rate)))

    def black_hole(self, ways: tuple[Way, ...] = WAYS) -> None:
        """Nothing passes any more, and nobody is told; new connections are accepted."""
        self._call(lambda: self._black.update(ways))

    def heal(self) -> None:
        """Ends black hole and refusal; what was held back flows again."""

        def apply() -> None:
            self._black.clear()
            self._refusing = False

        self._call(apply)

    def refuse(self) -> None:
        """Closes every new connection at once, like a forwarder with nobody behind it."""

        def apply() -> None:
            self._refusing = True

        self._call(apply)

    def cut(self) -> int:
        """Closes every connection on both sides (FIN); returns how many there were."""
        return self._end_all(reset=False)

    def reset(self) -> int:
        """Resets every connection on both sides (RST); returns how many there were."""
        return self._end_all(reset=True)

    def half_open(self) -> int:
        """Resets the listener's side only; the dialler is told nothing. Returns how many."""

        def apply() -> int:
            for pair in self._pairs:
                _close(pair.server, reset=True)
                pair.half_open = True
            return len(self._pairs)

        return self._call(apply)

    def cut_after(self, count: int, way: Way = "up", *, reset: bool = True) -> None:
        """Ends the connection on which the ``count``-th byte from now passes, after it."""

        def end(pair: Pair) -> None:
            self._end(pair, reset=reset)

        self._call(lambda: self._faults[way].append((self.passed[way] + count, end)))

    def black_hole_after(self, count: int, way: Way = "up") -> None:
        """A black hole both ways once ``count`` more bytes have passed."""

        def fall(_: Pair) -> None:
            self._black.update(WAYS)

        self._call(lambda: self._faults[way].append((self.passed[way] + count, fall)))

    def corrupt(self, after: int = 0, way: Way = "up") -> None:
        """Flips one bit of the byte that follows the next ``after`` bytes, once."""
        self._call(lambda: self._faults[way].append((self.passed[way] + after, None)))

    @property
    def pending(self) -> int:
        """Faults that still wait for their byte."""
        return sum(map(len, self._faults.values()))

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._pairs)

    def wait(self, condition: Callable[[Proxy], bool], deadline: float = DEADLINE) -> None:
        """Waits until ``condition(self)`` holds.

        It is asked after every change here, and now and then besides: it may also look at
        what other threads count, which can be an instant behind the bytes.
        """
        end = time.monotonic() + deadline
        with self._changed:
            while not (held := condition(self)) and time.monotonic() < end:
                self._changed.wait(0.01)
        assert held, f"waited {deadline} s in vain; passed {self.passed}, {self.accepted} accepted"

    # --- the thread -------------------------------------------------------------------

    def _call(self, action: Callable[[], T]) -> T:
        done = threading.Event()
        result: list[T] = []

        def command() -> None:
            result.append(action())
            done.set()

        self._commands.put(command)
        self._ours.send(b"\0")
        assert done.wait(DEADLINE), "the proxy's thread does not answer"
        return result[0]

    def _end_all(self, *, reset: bool) -> int:
        def apply() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                self._end(pair, reset=reset)
            return len(pairs)

        return self._call(apply)

    def _end(self, pair: Pair, *, reset: bool) -> None:
        self._pairs.remove(pair)
        for side in (pair.client, pair.server):
            _close(side, reset=reset)

    def _run(self) -> None:
        while True:
            timeout = self._forward()
            with self._changed:
                self._changed.notify_all()
            # Poll and not epoll: it has no descriptor that a leak test would count.
            with selectors.PollSelector() as selector:
                selector.register(self._theirs, selectors.EVENT_READ)
                selector.register(self._listener, selectors.EVENT_READ)
                for side, events in self._interest().items():
                    selector.register(side, events)
                ready = selector.select(timeout)
            readable = {key.fileobj for key, events in ready if events & selectors.EVENT_READ}
            if self._theirs in readable:
                self._theirs.recv(4096)
                if not self._obey():
                    break
            if self._listener in readable:
                self._accept()
            for pair in list(self._pairs):
                for stream in pair.streams:
                    if stream.source in readable and pair in self._pairs:
                        self._read(pair, stream)
        for pair in list(self._pairs):
            self._end(pair, reset=False)
        self._listener.close()

    def _obey(self) -> bool:
        while not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command()
        return True

    def _interest(self) -> dict[socket.socket, int]:
        interest: dict[socket.socket, int] = {}
        for pair in self._pairs:
            for stream in pair.streams:
                if stream.way in self._black:
                    continue
                dead = pair.half_open and stream.source is pair.server
                if not stream.ended and stream.size < BUFFER and not dead:
                    interest[stream.source] = interest.get(stream.source, 0) | selectors.EVENT_READ
                if self._due(stream) and not pair.half_open:
                    interest[stream.sink] = interest.get(stream.sink, 0) | selectors.EVENT_WRITE
        return interest

    def _due(self, stream: Stream) -> bool:
        return (
            bool(stream.held)
            and stream.held[0][0] <= time.monotonic()
            and self._budget(stream.way) >= 1
        )

    def _budget(self, way: Way) -> float:
        rate = self._rate[way]
        if rate is None:
            return BUFFER
        tokens, since = self._tokens[way]
        now = time.monotonic()
        # A tenth of a second's worth at most, so that a pause earns no burst.
        tokens = min(tokens + (now - since) * rate, max(rate / 10, 1.0))
        self._tokens[way] = (tokens, now)
        return tokens

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if self._refusing:
            client.close()
            return
        try:
            server = socket.create_connection(self.target, timeout=DEADLINE)
        except OSError:
            client.close()
            return
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(Pair(client, server))

    def _read(self, pair: Pair, stream: Stream) -> None:
        try:
            block = stream.source.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._end(pair, reset=True)
            return
        if not block:
            stream.ended = True
        elif pair.half_open:
            return  # the listener is gone: what the dialler sends is lost
        else:
            stream.held.append((time.monotonic() + self._latency[stream.way], block))
            stream.size += len(block)

    def _forward(self) -> float | None:
        """Writes what may pass now; returns the seconds until more may, None for no limit."""
        waits: list[float] = []
        for pair in list(self._pairs):
            for stream in pair.streams:
                while pair in self._pairs and self._due(stream) and not pair.half_open:
                    if stream.way in self._black or not self._write(pair, stream):
                        break
                if pair in self._pairs and stream.ended and not stream.held:
                    self._finish(pair, stream)
                elif stream.held and stream.way not in self._black:
                    waits.append(max(stream.held[0][0] - time.monotonic(), 0.0))
                    if (rate := self._rate[stream.way]) is not None:
                        waits[-1] = max(waits[-1], 1.0 / rate, 0.005)
                    elif waits[-1] == 0.0:
                        waits.pop()  # the sink is full: the selector wakes us
        return min(waits, default=None)

    def _write(self, pair: Pair, stream: Stream) -> bool:
        way = stream.way
        budget = int(self._budget(way))
        faults = sorted(self._faults[way], key=lambda fault: fault[0])
        place, fault = faults[0] if faults else (self.passed[way] + BUFFER, None)
        left = place - self.passed[way]
        # Up to the fault's place and no further; a byte to corrupt goes alone.
        here = bool(faults) and fault is None and left <= 0
        piece = stream.take(1 if here else min(budget, max(left, 1)))
        try:
            count = stream.sink.send(bytes([piece[0] ^ 1]) if here else piece)
        except BlockingIOError:
            count = 0
        except OSError:
            self._end(pair, reset=True)
            return False
        if count < len(piece):
            stream.held.appendleft((0.0, piece[count:]))
            stream.size += len(piece) - count
        self.passed[way] += count
        tokens, since = self._tokens[way]
        self._tokens[way] = (tokens - count, since)
        if here and count:
            self._faults[way].remove(faults[0])
        elif fault is not None and count >= left:
            self._faults[way].remove(faults[0])
            fault(pair)
            return False
        return count == len(piece)

    def _finish(self, pair: Pair, stream: Stream) -> None:
        if not stream.finished and not pair.half_open:
            stream.finished = True
            try:
                stream.sink.shutdown(socket.SHUT_WR)
            except OSError:
                self._end(pair, reset=True)
                return
        if all(one.finished for one in pair.streams) or (pair.half_open and stream.ended):
            self._end(pair, reset=False)


def _close(side: socket.socket, *, reset: bool) -> None:
    if side.fileno() == -1:
        return
    if reset:  # a linger time of zero makes close() send RST
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()
