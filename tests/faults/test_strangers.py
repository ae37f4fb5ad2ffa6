"""Nobody without a key gets past the door, and nobody at the door keeps an honest peer out."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace

import pytest

from splitfed.run.descriptors import ENOUGH, WANTED, raise_descriptor_limit, shortage
from splitfed.transport import watching, zmtp
from splitfed.transport.keys import make_secret
from splitfed.transport.watching import Watch
from splitfed.transport.zeromq import ZmqWire
from tests.support.hostile import Crowd, RawPeer, has_ended, victim
from tests.support.wires import QUICK, Bench, bench, keys_of, port_of, secret_of


@pytest.fixture
def b() -> Iterator[Bench]:
    with bench() as one:
        yield one


@pytest.fixture
def alice(b: Bench) -> ZmqWire:
    return b.alice(options=replace(QUICK, handshake_interval=0.5))


@pytest.fixture
def crowd(alice: ZmqWire) -> Iterator[Crowd]:
    one = Crowd(port_of(alice))
    yield one
    one.close()


def talk(b: Bench, alice: ZmqWire, bob: ZmqWire, count: int = 5) -> None:
    """So many messages go each way, on one and the same connection."""
    at_alice, at_bob = b.greet(alice, bob)
    before = len(b.messages(alice)), len(b.messages(bob))
    for _ in range(count):
        b.send(alice, "bob", at_alice, b"there")
        b.send(bob, "alice", at_bob, b"here")
    b.run(lambda: len(b.messages(alice)) >= before[0] + count)
    b.run(lambda: len(b.messages(bob)) >= before[1] + count)


STRANGERS = {
    "silence": b"",
    "garbage": b"GET / HTTP/1.1\r\n\r\n" * 20,
    "plaintext ZMTP": b"\xff" + bytes(8) + b"\x7f\x03\x01NULL".ljust(54, b"\0"),
    "half a greeting": zmtp.greeting()[:20],
    "a greeting and a giant command": zmtp.greeting() + b"\x06" + b"\x7f" + b"\xff" * 7,
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_beside_a_session_get_nothing_and_disturb_nothing(
    b: Bench, alice: ZmqWire, crowd: Crowd, kind: str
) -> None:
    bob = b.bob(str(alice.endpoint))
    b.connect(alice, bob)
    crowd.come(40, STRANGERS[kind])
    talk(b, alice, bob)
    crowd.come(40, STRANGERS[kind])
    talk(b, alice, bob)
    b.run(lambda: not crowd.standing())  # the handshake's time ends the silent ones too
    assert {message.peer for message in b.messages(alice)} == {"bob"}
    assert not b.downs(bob)
    assert not b.downs(alice)
    assert len(b.ups(bob)) == 1


def test_unknown_keys_and_wrong_pins_in_a_loop_never_come_in_and_never_disturb(
    b: Bench, alice: ZmqWire
) -> None:
    bob = b.bob(str(alice.endpoint))
    b.connect(alice, bob)
    keys = secret_of("alice").curve_public
    strangers = [RawPeer(str(alice.endpoint), make_secret(), keys) for _ in range(10)]
    pins = make_secret().curve_public
    strangers += [RawPeer(str(alice.endpoint), secret_of("bob"), pins) for _ in range(10)]
    try:
        for one in strangers:
            one.raw(b"x" * 64, b"let me in")
        for _ in range(4):
            talk(b, alice, bob)
        assert {bytes(m.body) for m in b.messages(alice)} == {b"hello", b"here"}
        assert len(b.ups(bob)) == 1
        assert not b.downs(alice)
    finally:
        for one in strangers:
            one.close()


def test_a_crowd_that_drips_bytes_is_sent_away_by_the_clock_of_the_handshake(b: Bench) -> None:
    alice = b.alice(options=replace(QUICK, handshake_interval=0.3))
    crowd = Crowd(port_of(alice))
    try:
        crowd.come(30)

        def gone() -> bool:
            crowd.drip()
            return not crowd.standing()

        b.run(gone)
        assert not b.messages(alice)
    finally:
        crowd.close()
    b.connect(alice, b.bob(str(alice.endpoint)))
    assert len(b.messages(alice)) == 1


def test_of_a_thousand_connections_without_a_word_the_newest_stand_and_a_peer_gets_in(
    b: Bench, alice: ZmqWire, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "silent_connections", lambda: 20)
    alice = b.alice()
    crowd = Crowd(port_of(alice))
    try:
        for _ in range(10):
            crowd.come(30)
            b.run(lambda: crowd.standing() <= 20)
        assert crowd.connections[0].fileno() >= 0
        assert has_ended(crowd.connections[0])
        bob = b.bob(str(alice.endpoint))
        b.connect(alice, bob)
        crowd.come(30)
        talk(b, alice, bob)
        b.run(lambda: crowd.standing() <= 20)
        assert not b.downs(alice)
        crowded = [t for t in b.troubles(alice) if "said nothing" in str(t.error)]
        assert [(t.peer, t.fatal) for t in crowded] == [("bob", False)]
    finally:
        crowd.close()


def test_strangers_at_the_address_of_a_peer_that_is_away_are_not_taken_for_it(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one router or tunnel all come from one address. What many of them make us hold
    together, each before its handshake, proves nothing about anybody's key."""
    monkeypatch.setattr(Watch, "ceiling", 20 << 20)
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    b.connect(alice, bob)
    b.close(bob)
    b.run(lambda: bool(b.downs(alice)))
    half = zmtp.greeting() + b"\x06" + (1 << 20).to_bytes(8, "big") + bytes(1 << 19)
    crowd = Crowd(port_of(alice))
    try:
        crowd.come(60, half)
        b.run(lambda: bool(b.troubles(alice)))
        assert crowd.standing() < 60
        assert [(t.peer, t.fatal) for t in b.troubles(alice)] == [("bob", False)]
        assert "before they said who they are" in str(b.troubles(alice)[0].error)
    finally:
        crowd.close()
    b.connect(alice, b.bob(str(alice.endpoint)))


def test_a_process_with_few_descriptors_keeps_some_for_its_files_and_lets_its_peer_in() -> None:
    with victim("alice", descriptors=64, **alice_alone()) as alice:
        crowd = Crowd(alice.port)
        try:
            for _ in range(5):
                crowd.come(100)
                alice.until(lambda seen: seen["file"])
            bob = RawPeer(
                f"tcp://127.0.0.1:{alice.port}", secret_of("bob"), secret_of("alice").curve_public
            )
            bob.raw(bytes(64), b"hello")
            assert alice.until(lambda seen: seen["messages"] > 0)["messages"] == 1
            bob.close()
        finally:
            crowd.close()


def alice_alone() -> dict[str, object]:
    """The task of a process that is alice and expects bob."""
    roster = {"alice": keys_of("alice", "tcp://127.0.0.1:0"), "bob": keys_of("bob")}
    return {
        "roster": {name: keys.__dict__ for name, keys in roster.items()},
        "secret": secret_of("alice").__dict__,
    }


# --- the limit itself -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 30, WANTED),
        (1024, resource.RLIM_INFINITY, WANTED),
        (256, 256, 256),
        (1 << 20, 1 << 20, 1 << 20),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, WANTED),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be_and_never_lowered(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    assert raise_descriptor_limit() == after
    assert all(one[0] == resource.RLIM_INFINITY or one[0] >= soft for one in limits)


def test_a_system_that_refuses_leaves_the_limit_and_the_operator_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuses)
    limit = raise_descriptor_limit()
    assert limit == 200
    assert "200" in shortage(limit)
    assert "LimitNOFILE" in shortage(limit)
    assert shortage(ENOUGH) == ""
