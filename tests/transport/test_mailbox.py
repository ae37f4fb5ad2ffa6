"""The queue between the link's thread and the round engine's."""

from __future__ import annotations

import threading

import pytest

from splitfed.errors import Defect, LinkDown
from splitfed.transport.events import (
    Delivered,
    Event,
    Left,
    LinkBroken,
    Noticed,
    Status,
    StatusChanged,
    Voted,
)
from splitfed.transport.mailbox import Mailbox
from tests.support.talk import outgoing


def drain(box: Mailbox) -> list[Event]:
    events = []
    while (event := box.get(0.0)) is not None:
        events.append(event)
    return events


def delivered(round: int) -> Delivered:
    return Delivered("bob", outgoing("alice", round).offer, bytes(64))


def status(peer: str, step: int) -> StatusChanged:
    return StatusChanged(peer, Status("training", 1, step, 10))


def test_events_come_out_in_the_order_they_went_in() -> None:
    box = Mailbox()
    events = [delivered(n) for n in range(1, 6)]
    box.put(events[:2])
    box.put(events[2:])
    assert drain(box) == events


def test_of_status_and_troubles_a_peers_newest_alone_is_kept() -> None:
    box = Mailbox()
    noticed = Noticed("bob", LinkDown("second"))
    box.put([status("bob", 1), status("carol", 1), Noticed("bob", LinkDown("first"))])
    box.put([LinkBroken("bob", "cut"), status("bob", 2), noticed])
    assert drain(box) == [status("carol", 1), LinkBroken("bob", "cut"), status("bob", 2), noticed]


def test_what_counts_is_never_replaced() -> None:
    box = Mailbox()
    events: list[Event] = [
        Voted("bob", 1, b"a", bytes(64)),
        Voted("bob", 1, b"b", bytes(64)),
        Left("bob", "interrupted", 1),
        Left("bob", "finished", 2),
    ]
    box.put(events)
    assert drain(box) == events


def test_a_network_that_flaps_for_hours_leaves_a_handful_of_events() -> None:
    box = Mailbox()
    for number in range(10_000):
        box.put([LinkBroken("bob", str(number)), status("bob", number), Left("bob", "finished", 9)])
    assert box.backlog("bob") == 3
    assert box.backlog("carol") == 0


def test_a_reader_waits_for_what_another_thread_puts_in() -> None:
    box = Mailbox()
    event = delivered(1)
    writer = threading.Thread(target=box.put, args=([event],))
    writer.start()
    assert box.get(None) == event
    writer.join()


def test_a_failure_comes_before_everything_that_still_waits() -> None:
    box = Mailbox()
    box.put([delivered(1)])
    box.fail(RuntimeError("broken"))
    with pytest.raises(Defect, match="RuntimeError: broken"):
        box.get(None)


def test_a_closed_mailbox_gives_what_is_left_and_then_none() -> None:
    box = Mailbox()
    box.put([delivered(1)])
    box.close()
    assert box.get(None) is not None
    assert box.get(None) is None
