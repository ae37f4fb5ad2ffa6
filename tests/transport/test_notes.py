"""Notes: what other parties signed comes once, again in a new session, and not for ever."""

from __future__ import annotations

import msgspec
import pytest

from splitfed.errors import Defect, ProtocolViolation
from splitfed.transport.events import (
    Failed,
    Noted,
    Offer,
    note_message,
    offer_message,
    vote_message,
)
from splitfed.transport.frames import Header, NoteBody, Type, decode_body, encode_body
from splitfed.transport.notes import MAX_NOTES, REMEMBERED, Notes, sound
from tests.support.talk import (
    joined,
    outgoing,
    replace,
    sign,
    signed_note,
    signed_vote,
    with_past,
)

WORD = signed_note("carol", "view", b"carol's word")


def test_a_vote_that_is_passed_on_keeps_its_signature() -> None:
    assert note_message("vote", b"body") == vote_message(b"body")
    body, signature = signed_vote("carol", b"yes")
    net, alice, bob, _ = joined()
    bob.talk.note(1, NoteBody("carol", "vote", body, signature))
    net.pump()
    noted = alice.only(Noted)
    assert (noted.peer, noted.origin, noted.round, noted.kind) == ("bob", "carol", 1, "vote")
    assert (noted.body, noted.signature) == (body, signature)


def test_each_kind_has_a_domain_of_its_own() -> None:
    body = b"body"
    messages = {note_message(kind, body) for kind in ("vote", "view", "evidence")}
    messages.add(offer_message(run=b"", round=1, party="a", kind="update", root=body))
    assert len(messages) == 4
    assert note_message("view", body) == b"splitfed view v1\0body"
    assert note_message("evidence", body) == b"splitfed evidence v1\0body"


def test_a_note_is_sent_again_in_a_new_session_and_handed_up_once() -> None:
    net, alice, bob, line = joined()
    bob.talk.note(3, WORD)
    net.pump()
    for _ in range(3):
        net.cut(line)
        line = net.connect(bob, alice)
        net.pump()
    assert len(net.of(Type.NOTE, "bob")) == 4
    assert alice.only(Noted).round == 3


def test_noting_the_same_again_sends_nothing_in_the_same_session() -> None:
    net, _, bob, line = joined()
    for round in (1, 2, 1):
        bob.talk.note(round, WORD)
        net.pump()
    assert [frame.header.round for frame in net.of(Type.NOTE)] == [1]
    bob.talk.discard(1)
    net.cut(line)
    net.connect(bob, net.lines[line.name].listener)
    net.pump()
    assert [frame.header.round for frame in net.of(Type.NOTE)] == [1, 2]


def test_a_note_that_waited_for_a_session_is_sent_once() -> None:
    net, alice, bob, line = joined()
    net.cut(line)
    bob.talk.note(1, WORD)
    net.connect(bob, alice)
    net.pump()
    bob.talk.note(2, WORD)
    net.pump()
    assert len(net.of(Type.NOTE)) == 1


def test_a_discarded_note_is_not_sent_again() -> None:
    net, alice, bob, line = joined()
    bob.talk.note(1, WORD)
    bob.talk.note(2, signed_note("carol", "view", b"newer"))
    net.pump()
    bob.talk.discard(1)
    net.cut(line)
    before = len(net.of(Type.NOTE))
    net.connect(bob, alice)
    net.pump()
    assert [frame.content.body for frame in net.of(Type.NOTE)[before:]] == [b"newer"]


def test_a_peer_that_closed_the_round_is_not_told_in_a_new_session() -> None:
    net, alice, bob, line = joined()
    alice.talk.greeting = replace(alice.talk.greeting, closed_round=1)
    net.cut(line)
    bob.talk.note(1, WORD)
    bob.talk.note(2, signed_note("carol", "view", b"newer"))
    net.connect(bob, alice)
    net.pump()
    assert [frame.content.body for frame in net.of(Type.NOTE)] == [b"newer"]
    bob.talk.note(2, WORD)  # the later round makes it worth telling
    net.pump()
    assert len(net.of(Type.NOTE)) == 2


@pytest.mark.parametrize(
    "note",
    [
        replace(WORD, signature=bytes(64)),
        replace(WORD, body=b"another word"),
        replace(WORD, kind="evidence"),
        replace(WORD, kind="vote"),
        replace(WORD, origin="alice"),
        replace(WORD, origin="mallory"),
        NoteBody("mallory", "view", b"word", sign("carol", note_message("view", b"word"))),
    ],
    ids=str,
)
def test_what_its_origin_did_not_sign_is_a_violation_of_the_sender(note: NoteBody) -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, note, round=1)
    failed = alice.only(Failed)
    assert failed.peer == "bob"
    assert isinstance(failed.error, ProtocolViolation)
    assert "with a bad signature" in failed.error.message
    assert not alice.of(Noted)


def test_a_key_that_was_handed_over_counts_for_what_others_pass_on_alone() -> None:
    old = replace(WORD, signature=bytes(64))
    net, alice, bob, line = joined(verify=with_past(True))
    net.say(line, bob, old, round=1)
    assert alice.only(Noted).body == WORD.body
    net.say(line, bob, replace(old, origin="bob"), round=1)
    assert "with a bad signature" in alice.only(Failed).error.message


def test_what_a_revoked_key_signed_is_dropped_and_its_bearer_not_to_blame() -> None:
    old = replace(WORD, signature=bytes(64))
    net, alice, bob, line = joined(verify=with_past(None))
    net.say(line, bob, old, round=1)
    assert not alice.of(Noted)
    net.say(line, bob, WORD, round=1)  # its party said it again meanwhile
    assert alice.only(Noted).signature == WORD.signature
    net.say(line, bob, replace(old, origin="bob"), round=1)
    assert alice.only(Failed)


def test_an_offer_passes_for_no_note() -> None:
    offer: Offer = outgoing("carol").offer
    for kind in ("vote", "view", "evidence"):
        net, alice, bob, line = joined()
        net.say(line, bob, NoteBody("carol", kind, offer.message(), offer.signature), round=1)
        assert alice.of(Failed)


@pytest.mark.parametrize("body", [b"", bytes(64 * 1024 + 1)], ids=len)
def test_a_note_of_no_or_too_many_bytes_is_refused_on_both_sides(body: bytes) -> None:
    note = NoteBody("carol", "view", body, bytes(64))
    with pytest.raises(Defect, match="no peer could read"):
        sound(note)
    data = msgspec.msgpack.encode(note)
    with pytest.raises(ProtocolViolation):
        decode_body(Header(Type.NOTE, length=len(data)), data)


def test_the_longest_note_fits_a_frame() -> None:
    note = signed_note("carol", "evidence", bytes(64 * 1024))
    kind, data = encode_body(sound(note))
    assert decode_body(Header(kind, length=len(data)), data) == note


def test_no_more_notes_are_kept_than_the_bound() -> None:
    notes = Notes()
    for number in range(MAX_NOTES):
        notes.keep(1 + number, NoteBody("carol", "view", b"%d" % number, bytes(64)))
    notes.keep(9, NoteBody("carol", "view", b"0", bytes(64)))
    more = NoteBody("carol", "view", b"one more", bytes(64))
    assert notes.keep(9, more)
    kept = [note.body for _, note in notes.due(0)]
    # What was said first is forgotten; what was said again is not.
    assert kept == [b"%d" % number for number in range(2, MAX_NOTES)] + [b"0", b"one more"]


def test_what_came_is_remembered_in_bounded_memory_and_by_all_of_its_parts() -> None:
    notes = Notes()
    assert notes.first(WORD)
    assert not notes.first(replace(WORD, signature=bytes(64)))
    for change in ({"origin": "bob"}, {"kind": "vote"}, {"body": b"x"}):
        assert notes.first(replace(WORD, **change))
    for number in range(REMEMBERED):
        notes.first(replace(WORD, body=b"%d" % number))
    assert len(vars(notes)["_heard"]) == REMEMBERED
    assert not notes.first(replace(WORD, body=b"%d" % (REMEMBERED - MAX_NOTES)))
