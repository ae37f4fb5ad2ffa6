"""Wires for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.networks import NETWORKS
from tests.support.proxy import Proxy
from tests.support.stage import Stage
from tests.support.wires import Bench, Joined, bench, port_of


@pytest.fixture
def b() -> Iterator[Bench]:
    """A bench that closes all its wires at the end."""
    with bench() as one:
        yield one


@pytest.fixture
def joined(b: Bench) -> Iterator[Joined]:
    """Alice and Bob with a connection through a proxy."""
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address)
        at_alice, at_bob = b.connect(alice, bob)
        yield Joined(b, alice, bob, at_alice, at_bob, proxy)


@pytest.fixture(params=sorted(NETWORKS))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    one = Stage(NETWORKS[request.param]())
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(params=sorted(NETWORKS))
def trio(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """With room for Carol, who dials Alice as well."""
    one = Stage(NETWORKS[request.param](("alice", "bob", "carol")))
    try:
        yield one
    finally:
        one.close()
