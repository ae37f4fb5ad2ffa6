"""Round engines over ZeroMQ through a network that breaks: no round lost, little sent twice.

Faults in a transfer are placed at an exact byte; every other fault happens at a moment that
the parties' learners tell: before a release, or between the vote and the close of a round.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splitfed.store import RunFolder
from splitfed.transport.sockets import WireOptions
from tests.support.crossing import Crossing
from tests.support.proxy import Proxy, Way
from tests.support.wires import NO_BEATS, QUICK

MIB = 1 << 20
SIZE, WINDOW = 12 * MIB, MIB
BEATS = replace(QUICK, heartbeat_interval=0.25, heartbeat_timeout=1.5)


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Callable[..., Crossing]]:
    """Makes crossings, and takes them down at the end."""
    made: list[Crossing] = []

    def make(
        rounds: int, options: WireOptions = BEATS, size: int = SIZE, path: Path = tmp_path
    ) -> Crossing:
        made.append(Crossing(path, size, rounds, options, link={"window": WINDOW}))
        return made[-1]

    yield make
    for crossing in made:
        crossing.close()


def both_trained(crossing: Crossing, act: Callable[[int], None]) -> None:
    """Call ``act(round)`` in every round while both parties are in training."""
    both = threading.Barrier(2)

    def hook(moment: str, round: int) -> None:
        if moment == "train":
            if both.wait(60) == 0:
                act(round)
            both.wait(60)

    crossing.hooks = {"a": hook, "b": hook}


def anew(crossing: Crossing, fault: Callable[[], object]) -> None:
    """Carry out a fault, and wait until both sides are in a new session."""
    crossing.until(crossing.connected)
    before = crossing.sessions()
    fault()
    crossing.until(lambda: all(x > y for x, y in zip(crossing.sessions(), before, strict=True)))


def test_cuts_of_every_kind_at_every_moment_lose_no_round_and_repeat_little(found) -> None:
    crossing = found(4)
    chance = random.Random(7)
    proxy: list[Proxy] = []
    idle: list[Callable[[Proxy], object]] = [
        Proxy.cut,
        Proxy.reset,
        Proxy.half_open,
        lambda p: (p.black_hole(), crossing.until(lambda: not crossing.connected()), p.heal()),
    ]

    def faults(round: int) -> None:
        anew(crossing, lambda: idle[round - 1](proxy[0]))
        ways: tuple[Way, Way] = ("up", "down")
        for way in ways:
            place = chance.randrange(SIZE)
            if round == 3:
                proxy[0].corrupt(place, way)
            else:
                proxy[0].cut_after(place, way, reset=round % 2 == 0)

    both_trained(crossing, faults)
    barred = crossing.hooks["a"]

    def at_a(moment: str, round: int) -> None:
        barred(moment, round)
        if moment == "validate":  # votes and acknowledgements are on their way
            anew(crossing, proxy[0].reset)

    crossing.hooks["a"] = at_a
    proxy.append(crossing.meet())
    crossing.finish()
    assert proxy[0].pending == 0
    # Three in each round: both cuts of a transfer may fall into one session.
    assert min(crossing.sessions()) >= 12
    assert 0 <= crossing.repeated() <= 16 * 2 * WINDOW


@pytest.mark.parametrize("fault", ["black hole", "half-open"])
def test_silence_in_a_transfer_costs_no_more_than_what_was_on_its_way(found, fault: str) -> None:
    crossing = found(2)
    place = SIZE // 2 + random.Random(fault).randrange(SIZE // 2 - MIB)
    both_trained(
        crossing,
        lambda round: round == 1 and crossing.proxy.black_hole_after(place, "down"),
    )
    proxy = crossing.meet()
    crossing.until(lambda: proxy.passed["down"] >= place and proxy.pending == 0)
    if fault == "black hole":
        crossing.until(lambda: not any(view == "connected" for view in states(crossing)))
    else:
        assert proxy.half_open() == 1
    proxy.heal()
    crossing.finish()
    assert 0 <= crossing.repeated() <= 2 * WINDOW


def states(crossing: Crossing) -> list[str]:
    """What each link says of its peer."""
    return [v.state for link in crossing.links.values() for v in link.peers_status().values()]


@pytest.mark.parametrize("dies", ["a", "b"])
def test_a_party_that_dies_in_a_transfer_comes_back_at_its_old_address(found, dies: str) -> None:
    crossing = found(3, NO_BEATS, size=4 * MIB)
    proxy = frozen_in_a_transfer(crossing)
    crossing.stop(dies)
    if dies == "a":
        crossing.listen(f"tcp://127.0.0.1:{proxy.target[1]}")
    else:
        crossing.start("b", proxy.address)
    proxy.heal()
    crossing.finish()
    assert boots(crossing) == {dies: 2, "b" if dies == "a" else "a": 1}


def boots(crossing: Crossing) -> dict[str, int]:
    """How often each party began."""
    found = {}
    for name in ("a", "b"):
        with RunFolder.read_only(crossing.path / name) as folder:
            found[name] = folder.boot
    return found


def frozen_in_a_transfer(crossing: Crossing) -> Proxy:
    """Both parties in the transfers of round 2, and a network that passes nothing."""
    place = crossing.size // 2 + 12_345
    both_trained(
        crossing,
        lambda round: round == 2 and crossing.proxy.black_hole_after(place, "down"),
    )
    proxy = crossing.meet()
    crossing.until(lambda: crossing.links["b"].traffic().payload_received > crossing.size)
    crossing.until(lambda: proxy.pending == 0)
    return proxy


def test_a_listening_side_that_moves_is_found_when_the_dialler_learns_its_address(found) -> None:
    """Addresses are no part of the contract: the same folders go on."""
    crossing = found(3, NO_BEATS, size=4 * MIB)
    old = frozen_in_a_transfer(crossing)
    crossing.stop("a")
    port = crossing.listen()
    assert port != old.target[1]
    crossing.stop("b")
    crossing.start("b", f"tcp://127.0.0.1:{port}")
    crossing.finish()
    assert boots(crossing) == {"a": 2, "b": 2}


def test_a_cut_at_any_byte_of_the_farewell_leaves_both_confirmed(found, tmp_path) -> None:
    """The last words may be swallowed: whoever said them waits for a new connection."""
    connections = []
    for count in range(1, 1400, 140):
        crossing = found(1, NO_BEATS, size=4096, path=tmp_path / str(count))

        def at_a(moment: str, round: int, crossing: Crossing = crossing, count: int = count):
            if moment == "validate":  # what follows is the end: status and goodbyes
                crossing.proxy.cut_after(count, "down")
                crossing.proxy.cut_after(count, "up")

        crossing.hooks["a"] = at_a
        crossing.meet()
        crossing.finish()  # which demands that both are confirmed
        connections.append(crossing.proxy.accepted)
        crossing.close()
    assert max(connections) > 1  # there were cuts that had to be mended


def test_a_dialler_whose_first_handshakes_are_cut_does_not_take_that_for_a_wrong_key(
    found,
) -> None:
    """Three handshakes broken off in a row make it look who answers; that alone proves
    nothing, since the peer does answer there."""
    crossing = found(1, NO_BEATS)
    crossing.proxy = proxy = Proxy(("127.0.0.1", crossing.listen()))
    for count in (100, 200, 300):  # greeting and HELLO of CURVE are longer than that
        proxy.cut_after(count, "up")
    crossing.start("b", proxy.address)
    crossing.until(lambda: proxy.pending == 0)
    crossing.finish()
    assert proxy.accepted >= 4
