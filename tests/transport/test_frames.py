"""Headers and bodies: what goes in comes out, and nothing else is ever believed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import ProtocolViolation
from splitfed.transport.events import Status
from splitfed.transport.frames import (
    CONTROL_LIMIT,
    HEADER,
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
from tests.support.talk import greeting, outgoing

BODIES = [
    Hello(bytes(16), greeting("bob")),
    Welcome(bytes(16), greeting("alice", software={"torch": "2.15"})),
    Reset(),
    OfferBody(outgoing("alice").offer),
    Pull(((0, 32), (40, 1))),
    StoredBody(b"rootroot", b"s" * 64),
    Vote(b"a vote", bytes(64)),
    StatusBody(Status("waiting", 3, 10, 31, awaits=("carol",))),
    Goodbye("finished", 10),
    NoteBody("carol", "view", b"a view", bytes(64)),
]

headers = st.builds(
    Header,
    type=st.sampled_from(Type),
    session=st.binary(min_size=16, max_size=16),
    round=st.integers(0, 2**64 - 1),
    transfer=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**64 - 1),
    length=st.integers(0, 2**32 - 1),
    chunk=st.integers(0, 2**32 - 1),
    version=st.integers(0, 255),
)


def header_of(body: bytes, kind: Type) -> Header:
    return Header(kind, length=len(body))


@given(headers)
def test_a_header_survives_its_64_bytes(header: Header) -> None:
    data = header.encode()
    assert len(data) == HEADER.size == 64
    assert decode_header(data) == header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(63),
        bytes(65),
        bytes(64),
        b"HTTP" + bytes(60),
        Header(Type.HELLO).encode()[:5] + b"\x00" + bytes(58),
        Header(Type.HELLO).encode()[:5] + b"\x0c" + bytes(58),
        Header(Type.HELLO).encode()[:6] + b"\x00\x01" + bytes(56),
    ],
)
def test_anything_but_a_header_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="header"):
        decode_header(data)


@given(st.binary(min_size=64, max_size=64))
def test_no_64_bytes_do_more_than_violate(data: bytes) -> None:
    try:
        header = decode_header(data)
    except ProtocolViolation:
        return
    assert header.encode() == data


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_body_survives_its_encoding(body: object) -> None:
    kind, data = encode_body(body)
    assert decode_body(header_of(data, kind), data) == body
    assert decode_body(header_of(data, kind), memoryview(data)) == body


def test_every_control_type_has_a_body() -> None:
    assert {encode_body(body)[0] for body in BODIES} == set(Type) - {Type.DATA}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_body_under_another_type_is_a_violation(body: object) -> None:
    kind, data = encode_body(body)
    for other in set(Type) - {kind}:
        with pytest.raises(ProtocolViolation):
            decode_body(header_of(data, other), data)


def test_a_body_of_another_length_than_the_header_says_is_a_violation() -> None:
    kind, data = encode_body(Goodbye("finished", 1))
    with pytest.raises(ProtocolViolation, match="header says"):
        decode_body(Header(kind, length=len(data) + 1), data)


def test_a_body_over_the_limit_is_not_even_parsed() -> None:
    data = bytes(CONTROL_LIMIT + 1)
    with pytest.raises(ProtocolViolation, match="allowed"):
        decode_body(header_of(data, Type.OFFER), data)


def test_a_field_too_many_is_a_violation_except_in_greetings() -> None:
    for body in BODIES:
        kind, data = encode_body(body)
        longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(data), "later"])
        if kind in (Type.HELLO, Type.WELCOME):
            assert decode_body(header_of(longer, kind), longer) == body
        else:
            with pytest.raises(ProtocolViolation):
                decode_body(header_of(longer, kind), longer)


@pytest.mark.parametrize(
    "field",
    [
        {"folder": bytes(15)},
        {"contract": bytes(33)},
        {"boot": -1},
        {"software": {"torch": "2" * 300}},
    ],
)
def test_a_greeting_with_a_field_of_the_wrong_size_is_a_violation(field: dict[str, object]) -> None:
    kind, data = encode_body(Hello(bytes(16), greeting("bob", **field)))
    with pytest.raises(ProtocolViolation):
        decode_body(header_of(data, kind), data)


@given(st.sampled_from(sorted(Type)), st.binary(max_size=300))
def test_no_bytes_do_more_than_violate(kind: Type, data: bytes) -> None:
    try:
        body = decode_body(header_of(data, kind), data)
    except ProtocolViolation:
        return
    assert encode_body(body)[0] is kind


@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_no_damage_to_a_body_does_more_than_violate(
    body: object, damage: list[tuple[int, int]]
) -> None:
    kind, data = encode_body(body)
    damaged = bytearray(data)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    try:
        read = decode_body(header_of(damaged, kind), bytes(damaged))
    except ProtocolViolation:
        return
    assert type(read) is type(body)


def test_bodies_nested_beyond_reason_are_a_violation() -> None:
    data = b"\x91" * 200_000 + b"\xc0"
    with pytest.raises(ProtocolViolation):
        decode_body(header_of(data, Type.HELLO), data)
