"""What goes wrong with libzmq unless one knows, each held by tests of the wire.

1. ZAP lets everybody in unless handler, domain and enforcement are all there, and a handler
   that dies in its own thread is not missed.
2. A DEALER never dials again after a refusal, an oversized part or a corrupted byte.
3. While HANDSHAKE_FAILED_PROTOCOL is monitored, a corrupted byte leaves a connection stuck.
4. Only complete messages count as signs of life: large ones on a slow link look dead.
5. What is sent without a copy is read later, by another thread.
6. Received memory is not aligned; reading into a short buffer cuts silently.
7. To the dialler, a wrong pinned key looks like an absent peer.
9. A socket closed by another thread than its own aborts the process.

(8, the message of endless parts, is cut in tests/faults/test_hostile_peer.py.)
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import zmq

from splitfed.errors import Defect, LinkDown, PeerKeyMismatch, PeerRefusedUs
from splitfed.tensors import describe, pack, unpack
from splitfed.transport import zap
from splitfed.transport.keys import make_secret
from splitfed.transport.sockets import ZAP_DOMAIN
from splitfed.transport.wire import Sent
from tests.support.proxy import Proxy, Way
from tests.support.wires import HEADER, QUICK, Bench, bench, port_of, secret_of

MIB = 1 << 20


# --- 1: ZAP fails open --------------------------------------------------------------------


def test_1_an_unknown_key_never_gets_in(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    bob = b.bob(str(alice.endpoint))
    b.run(lambda: bool(b.troubles(bob)))
    assert isinstance(b.troubles(bob)[0].error, PeerRefusedUs)
    assert not b.ups(bob)


def test_1_without_a_handler_nobody_gets_in(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zap, "ENDPOINT", "inproc://not-where-libzmq-asks")
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    b.run(lambda: bool(b.ups(bob) or b.troubles(bob)))
    assert not b.ups(bob)


def test_1_a_failing_handler_refuses_is_reported_and_goes_on(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = zap.Authenticator.judge
    failures = [RuntimeError("the disk is full")]

    def fails_once(self: zap.Authenticator, request: Any) -> str | None:
        if failures:
            raise failures.pop()
        return judge(self, request)

    monkeypatch.setattr(zap.Authenticator, "judge", fails_once)
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    b.run(lambda: bool(b.troubles(bob)) and bool(b.troubles(alice)))
    assert not b.ups(bob)
    assert isinstance(b.troubles(alice)[0].error, Defect)
    assert "the disk is full" in str(b.troubles(alice)[0].error)
    assert (type(b.troubles(bob)[0].error), b.troubles(bob)[0].fatal) == (LinkDown, False)
    b.connect(alice, bob)


class Door:
    """A ZAP handler and the asking side of it, without any TCP."""

    def __init__(self, allowed: Mapping[bytes, str]) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.door = zap.Authenticator(self.context, allowed)
        self.asking = self.context.socket(zmq.REQ)
        self.asking.linger = 0
        self.asking.connect(zap.ENDPOINT)

    def ask(self, *frames: bytes) -> tuple[bytes, bytes]:
        """Status code and user id."""
        self.asking.send_multipart(frames)
        assert self.door.socket.poll(10_000)
        self.verdicts = self.door.answer()
        assert self.asking.poll(10_000)
        reply = self.asking.recv_multipart()
        assert (reply[0], reply[1], len(reply)) == (b"1.0", b"7", 6)
        return reply[2], reply[4]

    def request(self, key: bytes) -> tuple[bytes, ...]:
        return (b"1.0", b"7", ZAP_DOMAIN, b"192.0.2.1", b"", b"CURVE", key)

    def close(self) -> None:
        self.asking.close(0)
        self.door.close()
        self.context.term()


def test_1_the_handler_answers_the_roster_name_of_a_key_and_refuses_others() -> None:
    door = Door({b"A" * 32: "alice"})
    assert door.ask(*door.request(b"A" * 32)) == (b"200", b"alice")
    assert door.ask(*door.request(b"B" * 32)) == (b"400", b"")
    assert door.verdicts[0].key is not None
    door.close()


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, b"2.0"), (2, b""), (2, b"global"), (5, b"PLAIN"), (5, b"NULL"), (6, b""), (6, b"A" * 31)],
)
def test_1_a_question_about_anything_but_a_curve_key_is_refused(place: int, value: bytes) -> None:
    door = Door({b"A" * 32: "alice"})
    frames = list(door.request(b"A" * 32))
    frames[place] = value
    assert door.ask(*frames) == (b"500", b"")
    assert isinstance(door.verdicts[0].defect, ValueError)
    assert door.ask(*door.request(b"A" * 32)) == (b"200", b"alice")
    door.close()


def test_1_any_exception_while_looking_up_a_key_is_a_refusal() -> None:
    class Broken(dict[bytes, str]):
        def get(self, *_: Any) -> Any:
            raise KeyError("broken")

    door = Door(Broken())
    for _ in range(3):
        assert door.ask(*door.request(b"A" * 32)) == (b"500", b"")
    door.close()


# --- 2: a DEALER that never dials again -----------------------------------------------------


def test_2_a_refused_dialler_gets_in_once_its_key_is_on_the_list(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    address = str(alice.endpoint)
    bob = b.bob(address)
    b.run(lambda: bool(b.troubles(bob)))
    b.close(alice)
    assert not b.ups(bob)
    b.connect(b.alice(bind=address), bob)
    assert len(b.ups(bob)) == 1


@pytest.mark.parametrize("way", ["up", "down"])
def test_2_an_oversized_part_ends_the_connection_and_a_new_one_comes(b: Bench, way: Way) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    at_alice, at_bob = b.connect(alice, bob)
    huge = bytes(2 * MIB)
    if way == "up":
        assert bob.send("alice", at_bob, HEADER, huge) is Sent.SENT
    else:
        assert alice.send("bob", at_alice, HEADER, huge) is Sent.SENT
    b.connect(alice, bob)
    b.run(lambda: bool(b.downs(alice)) and bool(b.downs(bob)))
    assert all(len(message.body) < MIB for wire in (alice, bob) for message in b.messages(wire))


# --- 3: one corrupted byte ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("place", [1, 12, 40, 60, 500])
def test_3_a_corrupted_byte_ends_the_connection_at_once_and_a_new_one_comes(
    b: Bench, way: Way, place: int
) -> None:
    # With the usual heartbeats, 60 s: nothing here waits for them.
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address)
        at_alice, at_bob = b.connect(alice, bob)
        proxy.corrupt(place, way)
        # The header's part is 99 bytes long on the wire; what follows is the body.
        if way == "up":
            b.send(bob, "alice", at_bob, b"damaged" * 300)
        else:
            b.send(alice, "bob", at_alice, b"damaged" * 300)
        # A damaged length makes the reader wait for more: let it come.
        for _ in range(2):
            if way == "up":
                bob.send("alice", at_bob, HEADER, bytes(MIB))
            else:
                alice.send("bob", at_alice, HEADER, bytes(MIB))
        b.connect(alice, bob)
        bodies = [bytes(m.body) for wire in (alice, bob) for m in b.messages(wire)]
        assert bodies == [b"hello"] * 2


# --- 4: heartbeats and large messages -------------------------------------------------------

SHORT_BEATS = replace(QUICK, heartbeat_interval=0.1, heartbeat_timeout=0.6)


def test_4_a_transfer_much_longer_than_the_heartbeat_survives_in_small_messages(b: Bench) -> None:
    alice = b.alice(options=SHORT_BEATS)
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=SHORT_BEATS)
        _, at_bob = b.connect(alice, bob)
        proxy.bandwidth(400_000, ("up",))
        for _ in range(40):  # 640 KiB, about 1.6 s
            b.send(bob, "alice", at_bob, bytes(16 << 10))
        b.run(lambda: len(b.messages(alice)) == 41 or bool(b.downs(alice)))
        assert not b.downs(alice)
        assert not b.downs(bob)


def test_4_a_dead_link_is_noticed_by_both_sides_without_any_traffic(b: Bench) -> None:
    alice = b.alice(options=SHORT_BEATS)
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=SHORT_BEATS)
        b.connect(alice, bob)
        proxy.black_hole()
        b.run(lambda: bool(b.downs(alice)) and bool(b.downs(bob)))
        proxy.heal()
        b.connect(alice, bob)
        assert len(b.ups(bob)) > 1


def test_4_a_half_open_connection_is_noticed_and_dialled_anew(b: Bench) -> None:
    alice = b.alice(options=SHORT_BEATS)
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=SHORT_BEATS)
        b.connect(alice, bob)
        assert proxy.half_open() == 1
        at_alice, _ = b.connect(alice, bob)
        b.send(alice, "bob", at_alice, b"through")
        b.run(lambda: bool(b.messages(bob)))
        assert bytes(b.messages(bob)[-1].body) == b"through"


# --- 5: sending what still changes ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytearray", "view", "read-only view"])
def test_5_what_is_changed_after_sending_never_leaves(b: Bench, kind: str) -> None:
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address)
        _, at_bob = b.connect(alice, bob)
        proxy.black_hole()  # so that the last message is surely still in the queue
        released = [bytearray(b"n" * MIB) for _ in range(20)]
        for memory in released:
            body: Any = {
                "bytearray": memory,
                "view": memoryview(memory),
                "read-only view": memoryview(memory).toreadonly(),
            }[kind]
            assert bob.send("alice", at_bob, HEADER, body) is Sent.SENT
        for memory in released:
            memory[:] = b"S" * MIB  # the next step's values, without noise
        proxy.heal()
        b.run(lambda: len(b.messages(alice)) == 21)
        assert all(bytes(m.body) == b"n" * MIB for m in b.messages(alice)[1:])


def test_5_an_immutable_snapshot_is_sent_without_a_copy(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    _, at_bob = b.connect(alice, bob)
    copies: list[bool] = []
    original = zmq.Socket.send_multipart

    def watched(self: Any, parts: Any, flags: int = 0, *, copy: bool = True) -> Any:
        copies.append(copy)
        return original(self, parts, flags, copy=copy)

    monkeypatch.setattr(zmq.Socket, "send_multipart", watched)
    snapshot = bytes(2 * MIB)
    bob.send("alice", at_bob, HEADER, snapshot[:MIB])
    bob.send("alice", at_bob, HEADER, memoryview(snapshot)[MIB:])
    bob.send("alice", at_bob, HEADER, memoryview(bytearray(9)).toreadonly())
    assert copies == [False, False, True]


# --- 6: misaligned and truncated ------------------------------------------------------------


def test_6_tensors_from_a_received_body_are_aligned_whatever_the_body_is(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    _, at_bob = b.connect(alice, bob)
    tensors = {"w": torch.arange(5000, dtype=torch.float64)}
    payload = pack(tensors)
    for shift in range(8):
        b.send(bob, "alice", at_bob, bytes(shift) + payload)
    b.run(lambda: len(b.messages(alice)) == 9)
    for shift, message in enumerate(b.messages(alice)[1:]):
        assert len(message.body) == shift + len(payload)  # never cut to fit
        (w,) = unpack(memoryview(message.body)[shift:], describe(tensors)).values()
        assert w.data_ptr() % 8 == 0
        assert torch.equal(w, tensors["w"])


def test_6_a_header_is_the_receivers_own_copy(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    b.connect(alice, bob)
    (message,) = b.messages(alice)
    assert type(message.header) is bytes
    assert message.header == HEADER


# --- 7: a wrong pinned key looks like an absent peer ------------------------------------------


def test_7_both_sides_of_a_wrong_pinned_key_are_told_what_it_is(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint), alice=make_secret())
    b.run(lambda: any(t.fatal for t in b.troubles(bob)) and bool(b.troubles(alice)))
    first, last = b.troubles(bob)
    assert not first.fatal  # a bad line looks like that too
    assert "another public_key" in first.error.cure
    assert isinstance(last.error, PeerKeyMismatch)
    assert isinstance(b.troubles(alice)[0].error, PeerKeyMismatch)
    assert "public_key" in b.troubles(alice)[0].error.cure


def test_7_a_wrong_pin_is_told_even_after_somebody_garbled_at_the_door(b: Bench) -> None:
    alice = b.alice()
    with socket.create_connection(("127.0.0.1", port_of(alice))) as stranger:
        stranger.sendall(b"\xff" * 100)
        b.run(lambda: bool(b.troubles(alice)))
    bob = b.bob(str(alice.endpoint), alice=make_secret())
    b.run(lambda: any("pins another key" in str(t.error) for t in b.troubles(alice)))
    assert not b.ups(bob)


# --- 9: closed in the thread that owns them ---------------------------------------------------


def test_9_a_wire_lives_and_ends_in_one_thread_beside_others(b: Bench) -> None:
    alice = b.alice()
    address = str(alice.endpoint)
    done = threading.Event()
    seen: list[int] = []

    def life() -> None:
        with bench() as own:
            for _ in range(5):
                bob = own.bob(address)
                own.run(lambda bob=bob: bool(own.ups(bob)))
                bob.send("alice", own.ups(bob)[-1].connection, HEADER, b"x")
                own.close(bob)
                seen.append(1)
        done.set()

    thread = threading.Thread(target=life)
    thread.start()
    b.run(done.is_set)
    thread.join(10)
    assert len(seen) == 5
    assert alice.keys["bob"] == zmq.utils.z85.decode(secret_of("bob").curve_public)
