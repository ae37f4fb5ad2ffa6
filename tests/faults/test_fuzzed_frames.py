"""Spoilt frames: whatever bytes come, they are refused as the peer's fault and change nothing."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgspec
import pytest
import torch

from splitfed.errors import ContractMismatch, ProtocolViolation
from splitfed.rounds.checks import offer_fault
from splitfed.rounds.gates import admit
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import decode_vote, encode_vote, make_vote
from splitfed.tensors import describe, manifest_of, pack
from splitfed.transport.events import Arrived, Offer
from splitfed.transport.frames import (
    CONTROL_LIMIT,
    Header,
    Type,
    decode_body,
    decode_header,
)
from splitfed.transport.greetings import mismatch_error
from tests.support.fuzz import TRAPS, Live, Shot, corpus, decoded, shots, spoilt
from tests.support.talk import RUN, arrived, channel_of, greeting, joined, offer_of, outgoing

FRAMES = corpus()
HARMFUL = TRAPS[:-3]  # nothing, no list and no table are harmless
TENSORS = {"conv1.bias": torch.zeros(3), "conv1.weight": torch.zeros(3, 2)}
TERMS = Terms(
    contract=b"c" * 32,
    parties=("alice", "bob"),
    signing_keys={"alice": "0" * 64, "bob": "1" * 64},
    shared=describe(TENSORS),
    rounds=4,
    max_update_norm=1.0,
    weights={"alice": 1.0, "bob": 1.0},
    minimum_parties=2,
)


def test_spoilt_frames_are_refused_by_the_decoder_as_the_peers_fault() -> None:
    taken = sum(decoded(shot) for shot in shots(1, 20_000, FRAMES))
    assert 500 < taken < 10_000  # enough of them get as deep as a decoded body


def test_spoilt_frames_bring_nothing_into_a_live_session() -> None:
    live = Live()
    for shot in shots(2, 3_000, FRAMES):
        live.throw(shot)
    assert live.forged == []
    assert 100 < live.sessions < 3_000


def test_the_live_session_would_notice_what_was_forged() -> None:
    """The same payload that half of which is here already, given in full."""
    live = Live()
    offer = outgoing("bob", seed="live")
    for chunk in range(2, 10):
        body = offer.payload[chunk * 64 : chunk * 64 + 64]
        header = Header(Type.DATA, round=1, transfer=1, offset=chunk * 64, length=64, chunk=chunk)
        live.throw(Shot(header.encode(), body, placed=True))
    assert any("Arrived" in told for told in live.forged), live.forged


def test_a_session_survives_spoilt_frames_of_no_session_and_ends_as_if_none_had_come() -> None:
    """Frames of another session are dropped: a spoilt one must not end or hold up a good one."""
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.type is Type.DATA
    bob.talk.offer(outgoing("bob"))
    net.pump()
    greetings = (Type.HELLO, Type.WELCOME, Type.RESET)
    draw = random.Random(3)
    quiet = [frame for frame in FRAMES if frame.type not in greetings]
    for shot in shots(3, 2_000, quiet):
        session = draw.randbytes(16)
        header = shot.header[:8] + session + shot.header[24:]
        try:
            if decode_header(header).type in greetings or header[4] != 1:
                continue
        except ProtocolViolation:
            continue
        net.inject(line, alice, header, shot.body)
    assert alice.talk.error is None
    net.lose = lambda frame: False
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [outgoing("bob").payload]


@pytest.mark.parametrize("trap", HARMFUL, ids=lambda trap: trap[:6].hex())
def test_no_claimed_length_and_no_nesting_costs_more_than_a_refusal(trap: bytes) -> None:
    """Bare, and at each place in a body of each type."""
    for kind in Type:
        bodies = [frame.body for frame in FRAMES if frame.type is kind and kind is not Type.DATA]
        found = [trap, b"\x92" + bytes([kind]) + trap, b"\xdc\xff\xff" + bytes([kind]) + trap]
        found += [body[:place] + trap for body in bodies[:2] for place in range(min(len(body), 40))]
        for body in found:
            with pytest.raises(ProtocolViolation):
                decode_body(Header(kind, length=len(body)), body)


def test_a_body_beyond_the_limit_is_refused_unread() -> None:
    body = bytes(CONTROL_LIMIT + 1)
    with pytest.raises(ProtocolViolation, match="more than the"):
        decode_body(Header(Type.OFFER, length=len(body)), body)


# --- what a frame may carry ----------------------------------------------------------------------


def signed_offer() -> tuple[Offer, bytes]:
    payload = pack(TENSORS)
    return offer_of("bob", 2, manifest_of(payload, describe(TENSORS))), payload


def judged(offer: Offer, payload: bytes) -> str | None:
    fault = offer_fault(offer, terms=TERMS, run=RUN)
    verdict = admit(offer, payload, terms=TERMS, base=TENSORS, run=RUN, round=2)
    assert (verdict.tensors is None) == (verdict.reason is not None)
    assert fault is None or verdict.reason == fault
    return verdict.reason


def test_a_spoilt_manifest_gets_a_verdict_and_never_an_exception() -> None:
    offer, payload = signed_offer()
    assert judged(offer, payload) is None
    whole = msgspec.msgpack.encode(offer)
    draw, excluded = random.Random(4), 0
    for _ in range(6_000):
        try:
            found = msgspec.msgpack.decode(spoilt(draw, whole), type=Offer)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # as the decoder of frames refuses it
        reason = judged(found, payload)
        if reason is None:  # only what the manifest does not cover differs
            assert found.manifest == offer.manifest
            assert (found.run, found.round, found.kind) == (offer.run, offer.round, offer.kind)
        excluded += reason is not None
    assert excluded > 300


@pytest.mark.parametrize(
    "change",
    [
        {"total": -1},
        {"total": 2**64 - 1},
        {"chunk_size": 0},
        {"chunk_size": -5},
        {"chunk_size": 2**63},
        {"chunks": ()},
        {"chunks": (b"",) * 5},
        {"root": b""},
        {"tensors": ()},
        {"tensors": (("w", (-1, 2**62), "float32"),)},
        {"tensors": (("w", (2**63, 2**63, 2**63), "float64"),)},
        {"tensors": (("../../w", (3,), "float32"),)},
        {"tensors": (("w\x1b[31m", (3,), "object"),)},
    ],
    ids=str,
)
def test_a_manifest_that_nobody_could_have_made_is_refused(change: dict[str, Any]) -> None:
    offer, payload = signed_offer()
    fields = msgspec.to_builtins(offer.manifest, builtin_types=(bytes,))
    names = offer.manifest.__struct_fields__
    made = [change.get(name, value) for name, value in zip(names, fields, strict=True)]
    manifest = msgspec.convert(made, type(offer.manifest))
    reason = judged(msgspec.structs.replace(offer, manifest=manifest), payload)
    assert reason is not None
    assert "\x1b" not in reason

    net, alice, bob, line = joined()
    del bob, line
    replies = pytest.raises(ProtocolViolation)
    with replies:
        alice.talk.receiving.offered(
            Header(Type.OFFER, round=2, transfer=1),
            msgspec.structs.replace(offer, manifest=manifest),
            net.now,
            _no_replies(),
        )
    assert alice.talk.receiving.incomplete == ()


def _no_replies() -> Any:
    from splitfed.transport.receiving import Replies

    return Replies()


def test_a_spoilt_vote_is_a_violation_or_another_vote() -> None:
    vote = make_vote(
        run=RUN,
        round=3,
        party="bob",
        inputs={"alice": b"a" * 32, "bob": b"b" * 32},
        excluded={},
        aggregate=b"g" * 32,
    )
    whole = encode_vote(vote)
    assert decode_vote(whole) == vote
    draw, others = random.Random(5), 0
    for _ in range(4_000):
        body = spoilt(draw, whole)
        try:
            found = decode_vote(body)
        except ProtocolViolation:
            continue
        assert encode_vote(found) == body
        others += found != vote
    assert others > 50


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap[:6].hex())
def test_no_trap_in_a_vote_is_more_than_a_violation(trap: bytes) -> None:
    for head in (b"", b"\x97", b"\x98" + b"\xc4\x20" + RUN):
        with pytest.raises(ProtocolViolation):
            decode_vote(head + trap)


DOCUMENTS = (
    "",
    "null",
    "[]",
    "{",
    '{"rounds": 3, "model": {"factory": "a:B", "arguments": {}}}',
    "[" * 100_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a": ' + "9" * 5000 + "}",
    '{"a": 1e999, "b": NaN, "c": -Infinity}',
    '{"\\u001b[31m": "\\ud800"}',
    '{"a": "' + "x" * 60_000 + '"}',
)


@pytest.mark.parametrize("theirs", DOCUMENTS, ids=lambda text: text[:12] or "empty")
@pytest.mark.parametrize("field", ["contract", "roster"])
def test_no_document_of_a_peer_is_more_than_a_difference(field: str, theirs: str) -> None:
    mine = greeting("alice", **{f"{field}_document": '{"rounds": 3, "seed": 1}'})
    other = greeting("bob", **{field: b"x" * 32, f"{field}_document": theirs})
    error = mismatch_error("bob", "contract", mine, other)
    assert isinstance(error, ContractMismatch)
    assert error.differences
    assert len(str(error)) < 10_000
    assert "\x1b" not in str(error)


def test_spoilt_documents_are_shown_as_differences() -> None:
    mine = '{"model":{"arguments":{"widths":[4,4,4]},"factory":"a.b:C"},"rounds":3,"seed":1}'
    draw = random.Random(6)
    for _ in range(2_000):
        document = spoilt(draw, mine.encode()).decode("utf-8", "replace")
        error = mismatch_error(
            "bob",
            "contract",
            greeting("alice", contract_document=mine),
            greeting("bob", contract=b"x" * 32, contract_document=document),
        )
        assert error.differences


def test_a_chunk_with_another_byte_is_never_part_of_a_payload() -> None:
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.type is Type.DATA
    whole = outgoing("bob")
    bob.talk.offer(whole)
    net.pump()
    body = bytearray(whole.payload[:64])
    body[5] ^= 1
    channel = channel_of(bob, line)
    number = struct.pack(">Q", channel_of(alice, line).seen + 1)
    header = Header(Type.DATA, channel.session, round=1, transfer=1, length=64).encode()
    net.inject(line, alice, header[:40] + number + header[48:], bytes(body))
    assert alice.talk.receiving.incomplete[0].missing == 10
    assert alice.of(Arrived) == []


@pytest.mark.parametrize("name", ["mallory", "", "alice\0", "x" * 64])
def test_who_is_not_in_the_agreement_signed_nothing(name: str) -> None:
    """A peer may write any name over what it passes on."""
    assert TERMS.signed_by(name, b"message", bytes(64)) is False
