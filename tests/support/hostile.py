"""Strangers at the port, and a peer that holds a valid key and no intention of keeping to rules."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from splitfed.transport import zmtp
from splitfed.transport.events import Greeting, Status
from splitfed.transport.frames import (
    HEADER,
    Body,
    Goodbye,
    Header,
    Hello,
    NoteBody,
    OfferBody,
    Pull,
    Reset,
    StatusBody,
    StoredBody,
    Type,
    Vote,
    Welcome,
    decode_body,
    decode_header,
    encode_body,
)
from splitfed.transport.greetings import session_name
from splitfed.transport.keys import Secret
from tests.support.talk import outgoing

DEADLINE = 30.0
GONE = 1000
"""Milliseconds after which a socket that takes nothing has nobody left to send to."""
MIB = 1 << 20


class RawPeer:
    """A DEALER with a party's key: whatever its owner writes goes out.

    Its frames are numbered in the session that :meth:`greet` opened.
    """

    def __init__(self, address: str, mine: Secret, theirs: str, **options: Any) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.sndtimeo = GONE
        self.socket.curve_publickey = mine.curve_public.encode()
        self.socket.curve_secretkey = mine.curve_secret.encode()
        self.socket.curve_serverkey = theirs.encode()
        for option, value in options.items():
            setattr(self.socket, option, value)
        self.socket.connect(address)
        self.session, self.sent = bytes(16), 0
        self.cut_off = False
        self._mine, self._theirs = mine, theirs

    def greet(self, greeting: Greeting, *, round_trip: bool = True) -> None:
        """HELLO, and the session of the WELCOME that answers it."""
        nonce = os.urandom(16)
        self.say(Hello(nonce, greeting), transfer=1, sequence=0)
        if not round_trip:
            return
        while True:
            header, body = self.hear()
            if header.type is Type.WELCOME:
                break
        welcome = decode_body(header, body)
        assert isinstance(welcome, Welcome)
        self.session, self.sent = header.session, 0
        assert self.session == session_name(
            dialer=zmq.utils.z85.decode(self._mine.curve_public),
            listener=zmq.utils.z85.decode(self._theirs),
            nonces=(nonce, welcome.nonce),
            contract=greeting.contract,
        )

    def header(self, kind: Type, length: int, **fields: Any) -> Header:
        """The header that an honest peer would write now."""
        return Header(
            kind,
            **{"session": self.session, "sequence": self.sent + 1, "length": length, **fields},
        )

    def say(self, body: Body, **fields: Any) -> None:
        """A control frame, numbered unless told otherwise."""
        kind, data = encode_body(body)
        header = self.header(kind, len(data), **fields)
        self.sent += 1
        self.raw(header.encode(), data)

    def raw(self, *parts: bytes) -> None:
        """Any message. With queues without a limit only one thing keeps it from being taken: that
        the connection was ended and libzmq, as it does after some ends, dials no more."""
        if not self.cut_off:
            try:
                self.socket.send_multipart(parts)
            except zmq.Again:
                self.cut_off = True

    def hear(self) -> tuple[Header, bytes]:
        assert self.socket.poll(int(DEADLINE * 1000)), "no answer"
        header, body = self.socket.recv_multipart()
        return decode_header(header), body

    def endless(self, part: bytes, count: int) -> None:
        """A message of so many parts: to the other end, without an end for as long as it takes
        to come, and at no cost here."""
        try:
            for _ in range(count):
                self.socket.send(part, zmq.SNDMORE, copy=len(part) < MIB)
            self.socket.send(b"")
        except zmq.Again:
            self.cut_off = True

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()


_GREETING = Greeting(
    name="bob", contract=bytes(32), roster=bytes(32), initial=bytes(32), folder=bytes(16), boot=1
)


def bodies() -> list[Body]:
    """One of every kind of frame, as a peer could have written it."""
    out = outgoing("bob", 1, 7000)
    return [
        Hello(bytes(16), _GREETING),
        Welcome(bytes(16), _GREETING),
        Reset(),
        OfferBody(out.offer),
        Pull(((0, 1),)),
        StoredBody(bytes(8), bytes(64)),
        Vote(b"a vote", bytes(64)),
        NoteBody("carol", "view", b"a view", bytes(64)),
        StatusBody(Status("training", 1, 2, 3)),
        Goodbye("failed", detail="nothing"),
    ]


def mangled(rng: random.Random, peer: RawPeer, bodies: list[Body]) -> tuple[bytes, ...]:
    """A message that looks much like one of ``bodies`` in the peer's session, and is not."""
    kind, data = encode_body(rng.choice(bodies))
    header, body = bytearray(peer.header(kind, len(data)).encode()), bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        target = rng.choice((header, body)) if body else header
        place = rng.randrange(len(target))
        match rng.randrange(4):
            case 0:
                target[place] = rng.randrange(256)
            case 1 if target is body:
                del body[place:]
            case 2 if target is body:
                body[place:place] = rng.randbytes(rng.randrange(1, 64))
            case _:
                target[place] ^= 1 << rng.randrange(8)
    match rng.randrange(12):
        case 0:
            return (rng.randbytes(HEADER.size), bytes(body))
        case 1:
            return (bytes(header), rng.randbytes(rng.randrange(2000)))
        case 2:
            return (bytes(header), bytes(body), b"one part more")
        case 3:
            return (bytes(header),)
        case _:
            return (bytes(header), bytes(body))


class Crowd:
    """Connections that never get past the door."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections: list[socket.socket] = []

    def come(self, count: int, first: bytes = b"") -> None:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", self._port), timeout=DEADLINE)
            if first:
                one.sendall(first)
            self.connections.append(one)

    def standing(self) -> int:
        """How many the other side did not end."""
        return sum(not has_ended(one) for one in self.connections)

    def drip(self) -> None:
        """One byte of a greeting on each, as slow as can be."""
        for one in self.connections:
            with contextlib.suppress(OSError):
                one.send(zmtp.greeting()[:1])

    def close(self) -> None:
        for one in self.connections:
            one.close()
        self.connections.clear()


def has_ended(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        while one.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Waits for a condition that another thread or process brings about."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited for {what} in vain"
        threading.Event().wait(0.005)


class Victim:
    """A party with its port open, alone in a process: what is asked of it, it answers.

    Args:
        descriptors: the most that its process may have open.
    """

    def __init__(self, role: str, descriptors: int = 0, **task: Any) -> None:
        code = f"import {__name__} as it; it.live()"
        task = {"role": role, "descriptors": descriptors, **task}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.port: int = self._answer().get("port", 0)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the party died with code {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> dict[str, Any]:
        """What it saw so far, and the growth of its resident memory at its highest, bytes."""
        assert self._process.stdin is not None
        self._process.stdin.write("tell\n")
        self._process.stdin.flush()
        return self._answer()

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def holds() -> bool:
            seen.update(self.ask())
            return condition(seen)

        until(holds, f"the party to see it; it saw {seen}")
        return seen

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)
        self._process.stdout.close()


@contextlib.contextmanager
def victim(role: str, descriptors: int = 0, **task: Any) -> Iterator[Victim]:
    one = Victim(role, descriptors, **task)
    try:
        yield one
    finally:
        one.close()


def live() -> None:
    """The process of a :class:`Victim`: alice, who listens, or bob, who dials."""
    import resource
    import select

    from splitfed.transport.keys import Identity, PeerKeys
    from splitfed.transport.wire import Message, Trouble, Up
    from splitfed.transport.zeromq import ZmqWire
    from tests.support.wires import QUICK, port_of

    task = json.loads(sys.argv[1])
    if task["descriptors"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (task["descriptors"],) * 2)
    roster = {name: PeerKeys(**keys) for name, keys in task["roster"].items()}
    me = Identity(name=task["role"], secret=Secret(**task["secret"]))
    wire = ZmqWire(me, roster, options=QUICK)
    wire.open()
    listens = wire.endpoint is not None
    status = os.open("/proc/self/status", os.O_RDONLY)  # now: later there may be no descriptor
    print(json.dumps({"port": port_of(wire) if listens else 0}), flush=True)
    before, messages, ups = _highest(status), 0, 0
    troubles: list[list[Any]] = []
    while True:
        for event in wire.poll(sys.stdin.fileno(), 60.0):
            messages += isinstance(event, Message)
            ups += isinstance(event, Up)
            if isinstance(event, Trouble):
                troubles.append([event.peer, type(event.error).__name__, str(event.error)])
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                break
            answer = {"messages": messages, "ups": ups, "troubles": troubles, "file": _file()}
            print(json.dumps({**answer, "growth": _highest(status) - before}), flush=True)
    wire.close()


def _file() -> bool:
    """Whether a descriptor is left for a file."""
    try:
        with open(os.devnull):
            return True
    except OSError:
        return False


def _highest(status: int) -> int:
    """The highest resident memory of this process so far, bytes."""
    lines = os.pread(status, 1 << 16, 0).decode().splitlines()
    (line,) = [one for one in lines if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10
