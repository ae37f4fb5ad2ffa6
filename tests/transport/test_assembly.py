"""One payload on its way in: nothing unverified is ever written."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import ProtocolViolation
from splitfed.tensors import manifest_root
from splitfed.transport.assembly import BAD_CHUNKS_ALLOWED, Assembly, malformed
from splitfed.types import Manifest, TensorSpec
from tests.support.talk import CHUNK, outgoing, replace

LAST = 17


def whole(size: int = 3 * CHUNK + LAST) -> tuple[Assembly, bytes]:
    out = outgoing("bob", size=size)
    return Assembly(out.offer), out.payload


def chunk(payload: bytes, index: int) -> bytes:
    return payload[index * CHUNK : (index + 1) * CHUNK]


def rooted(**fields: object) -> Manifest:
    """A manifest with other fields under a root that fits them."""
    changed = replace(outgoing("bob").offer.manifest, **fields)
    root = manifest_root(changed.tensors, changed.total, changed.chunk_size, changed.chunks)
    return replace(changed, root=root)


def spec(size: int, name: str = "w", dtype: str = "uint8") -> TensorSpec:
    return TensorSpec(name, (size,), dtype)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_an_honest_manifest_of_any_size_is_sound(size: int) -> None:
    assert malformed(outgoing("bob", size=size).offer.manifest, CHUNK) is None


TOTAL = 10 * CHUNK
FORGED = {
    "another root": replace(outgoing("bob").offer.manifest, root=bytes(32)),
    "another total": rooted(total=TOTAL - 1),
    "a total beyond its tensors": rooted(total=1 << 50),
    "another chunk size": rooted(chunk_size=2 * CHUNK, chunks=(bytes(32),) * 5),
    "no chunk size": rooted(chunk_size=0),
    "a chunk too few": rooted(chunks=(bytes(32),) * 9),
    "a chunk too many": rooted(chunks=(bytes(32),) * 11),
    "a short digest": rooted(chunks=(bytes(31),) * 10),
    "an unknown dtype": rooted(tensors=(spec(TOTAL, dtype="object"),)),
    "a negative side": rooted(tensors=(TensorSpec("w", (-TOTAL, -1), "uint8"),)),
    "a huge side": rooted(tensors=(TensorSpec("w", (1 << 62, 0), "uint8"),), total=0, chunks=()),
    "too many sides": rooted(tensors=(TensorSpec("w", (1,) * 99 + (TOTAL,), "uint8"),)),
    "tensors out of order": rooted(tensors=(spec(CHUNK, "b"), spec(TOTAL - CHUNK, "a"))),
    "one name twice": rooted(tensors=(spec(CHUNK, "a"), spec(TOTAL - CHUNK, "a"))),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_manifest_nobody_could_have_made_is_malformed(forged: Manifest) -> None:
    assert malformed(forged, CHUNK)


def test_chunks_in_any_order_make_the_payload() -> None:
    assembly, payload = whole()
    assert assembly.ask(9) == [(0, 4)]
    for index in random.Random(0).sample(range(4), 4):
        assert assembly.write(index, index * CHUNK, chunk(payload, index)) is True
    assert assembly.missing == 0
    assert assembly.payload == payload


def test_a_chunk_held_already_changes_nothing() -> None:
    assembly, payload = whole()
    assembly.ask(4)
    assembly.write(1, CHUNK, chunk(payload, 1))
    assert assembly.write(1, CHUNK, bytes(CHUNK)) is None
    assert chunk(bytes(assembly.payload), 1) == chunk(payload, 1)
    assert assembly.missing == 3


@pytest.mark.parametrize(
    ("index", "offset", "size"),
    [
        (4, 4 * CHUNK, CHUNK),
        (2**32 - 1, 0, CHUNK),
        (1, 0, CHUNK),
        (1, CHUNK + 1, CHUNK),
        (1, 2**63, CHUNK),
        (1, CHUNK, CHUNK - 1),
        (1, CHUNK, CHUNK + 1),
        (1, CHUNK, 0),
        (3, 3 * CHUNK, CHUNK),
    ],
)
def test_nothing_is_written_beside_the_manifest(index: int, offset: int, size: int) -> None:
    assembly, _ = whole()
    assembly.ask(4)
    with pytest.raises(ProtocolViolation):
        assembly.write(index, offset, b"x" * size)
    assert assembly.payload == bytes(3 * CHUNK + LAST)


def test_a_chunk_nobody_asked_for_is_a_violation() -> None:
    assembly, payload = whole()
    assembly.ask(1)
    with pytest.raises(ProtocolViolation, match="not asked for"):
        assembly.write(2, 2 * CHUNK, chunk(payload, 2))


def test_a_chunk_with_a_wrong_digest_is_not_written_and_wanted_again() -> None:
    assembly, payload = whole()
    assembly.ask(4)
    assert assembly.write(2, 2 * CHUNK, b"x" * CHUNK) is False
    assert assembly.payload == bytes(3 * CHUNK + LAST)
    assert assembly.ask(4) == [(2, 1)]
    assert assembly.write(2, 2 * CHUNK, chunk(payload, 2)) is True


def test_three_bad_chunks_are_pulled_again_and_the_fourth_is_a_violation() -> None:
    assembly, _ = whole()
    for _ in range(BAD_CHUNKS_ALLOWED):
        assembly.ask(4)
        assert assembly.write(0, 0, b"x" * CHUNK) is False
    assembly.ask(4)
    with pytest.raises(ProtocolViolation, match="4 chunks"):
        assembly.write(0, 0, b"x" * CHUNK)


def test_after_a_break_what_did_not_come_is_wanted_again_and_nothing_else() -> None:
    assembly, payload = whole()
    assembly.ask(3)
    assembly.write(1, CHUNK, chunk(payload, 1))
    assembly.forget_asked()
    assert assembly.ask(9) == [(0, 1), (2, 2)]


@given(st.integers(0, 40), st.lists(st.integers(0, 9), max_size=20), st.randoms())
def test_every_chunk_is_asked_for_exactly_once(
    chunks: int, steps: list[int], chance: random.Random
) -> None:
    assembly, payload = whole(chunks * CHUNK)
    asked: list[int] = []
    for count in [*steps, 40]:
        ranges = assembly.ask(count)
        assert sum(length for _, length in ranges) <= count
        asked += [first + i for first, length in ranges for i in range(length)]
    assert sorted(asked) == list(range(chunks))
    chance.shuffle(asked)
    for index in asked:
        assembly.write(index, index * CHUNK, chunk(payload, index))
    assert assembly.payload == payload
