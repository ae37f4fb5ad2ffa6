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
    Noted,
    NoteKind,
    Noticed,
    Status,
    StatusChanged,
    Voted,
)
from splitfed.transport.mailbox import MOST_ALIKE, Mailbox
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


def noted(number: int, origin: str = "carol", kind: NoteKind = "view") -> Noted:
    return Noted("bob", 1, origin, kind, b"%d" % number, bytes(64))


def test_of_votes_and_words_a_peers_newest_few_of_a_kind_are_kept() -> None:
    """The others may go on for a thousand rounds while this party trains one."""
    box = Mailbox()
    votes = [Voted("bob", number, b"v", bytes(64)) for number in range(3 * MOST_ALIKE)]
    words = [noted(number) for number in range(3 * MOST_ALIKE)]
    others = [noted(0, "alice"), noted(0, kind="vote"), Voted("carol", 1, b"v", bytes(64))]
    box.put(others)
    for vote, word in zip(votes, words, strict=True):
        box.put([vote, word])
    kept = drain(box)
    assert kept[:3] == others
    assert [event for event in kept[3:] if isinstance(event, Voted)] == votes[-MOST_ALIKE:]
    assert [event for event in kept[3:] if isinstance(event, Noted)] == words[-MOST_ALIKE:]


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
