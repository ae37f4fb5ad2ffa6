"""Who listens and who dials, and rosters that cannot work."""

from __future__ import annotations

import socket

import pytest

from splitfed.errors import UserError
from splitfed.transport.keys import Identity, PeerKeys, make_secret
from splitfed.transport.zeromq import ZmqWire, parse_address
from tests.support.wires import Bench, descriptors, identity, keys_of, port_of, secret_of


def roles(name: str, **addresses: str | None) -> tuple[set[str], set[str]]:
    """Whom ``name`` expects to dial it, and whom it dials."""
    roster = {other: keys_of(other, address) for other, address in addresses.items()}
    wire = ZmqWire(identity(name), roster)
    return set(wire.expected), set(wire.dialed)


HERE = "tcp://127.0.0.1:5555"


def test_the_party_with_an_address_listens() -> None:
    assert roles("bob", alice=None, bob=HERE) == ({"alice"}, set())
    assert roles("alice", alice=None, bob=HERE) == (set(), {"bob"})


def test_where_both_have_an_address_the_name_that_sorts_first_listens() -> None:
    assert roles("alice", alice=HERE, bob=HERE) == ({"bob"}, set())
    assert roles("bob", alice=HERE, bob=HERE) == (set(), {"alice"})


def test_each_pair_decides_for_itself() -> None:
    assert roles("bob", alice=HERE, bob=HERE, carol=HERE, dave=None) == (
        {"carol", "dave"},
        {"alice"},
    )


def test_two_parties_without_an_address_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="neither alice nor bob has an address") as error:
        roles("alice", alice=None, bob=None)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:5", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://a b:5", "ipc://x",
     "tcp://host:5/path", "tcp://host:port", "tcp://::1:5", "inproc://x:5", "tcp://h:5;x:6"],
)  # fmt: skip
def test_what_is_no_tcp_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="tcp://HOST:PORT"):
        parse_address(address)


def test_host_and_port_of_an_address() -> None:
    assert parse_address("tcp://fl.example.org:5555") == ("fl.example.org", 5555)
    assert parse_address("tcp://[2001:db8::1]:80") == ("2001:db8::1", 80)
    assert parse_address("tcp://*:0", listening=True) == ("*", 0)


def test_a_party_outside_the_roster_is_refused() -> None:
    with pytest.raises(UserError, match="carol is not in the agreement"):
        ZmqWire(identity("carol"), {"alice": keys_of("alice", HERE), "bob": keys_of("bob")})


def test_a_secret_that_is_not_the_listed_one_is_refused() -> None:
    other = Identity(name="bob", secret=make_secret())
    with pytest.raises(UserError, match="secret_key"):
        ZmqWire(other, {"alice": keys_of("alice", HERE), "bob": keys_of("bob")})


def test_two_parties_with_one_key_are_refused() -> None:
    twin = PeerKeys(
        public_key=secret_of("alice").curve_public, signing_key=secret_of("bob").signing_public
    )
    with pytest.raises(UserError, match="alice and bob have the same public_key"):
        ZmqWire(identity("alice"), {"alice": keys_of("alice", HERE), "bob": twin})


def test_a_port_in_use_is_the_users_to_change(b: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="port is in use"):
            b.alice(bind=address)


def test_a_failed_open_leaves_nothing_open(b: Bench) -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(3):
            with pytest.raises(UserError):
                b.alice(bind=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert descriptors() == before


def test_both_ends_know_the_same_key_bytes(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(f"tcp://127.0.0.1:{port_of(alice)}")
    assert dict(alice.keys) == dict(bob.keys)
    assert {len(key) for key in alice.keys.values()} == {32}
