"""Payloads by root: what comes out is what went in, or it is not there, or it is named."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import Defect, LedgerTampered
from splitfed.store.blobs import BlobReader, BlobStore
from splitfed.store.durable import Disk
from splitfed.tensors import manifest_of
from splitfed.types import Manifest, TensorSpec
from tests.support.folders import payload_of

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, "the cure", Disk())


def raw(payload: bytes, chunk_size: int = MIB) -> Manifest:
    return manifest_of(payload, (TensorSpec("w", (len(payload),), "uint8"),), chunk_size)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24])
def test_what_comes_out_is_what_went_in(store: BlobStore, size: int) -> None:
    payload = bytes(range(size))
    manifest = raw(payload, chunk_size=8)
    store.put(manifest, payload)
    found = store.get(manifest.root)
    assert (type(found), found) == (bytes, payload)
    assert store.manifest(manifest.root) == manifest
    assert store.check(manifest.root)
    assert store.has(manifest.root)
    assert [path.name for path in store.folder.iterdir()] == [manifest.root.hex()]


def test_a_payload_that_is_not_there_is_none_and_no_error(store: BlobStore) -> None:
    root = b"x" * 32
    assert store.get(root) is None
    assert store.manifest(root) is None
    assert not store.check(root)
    assert not store.has(root)


def test_any_writable_buffer_may_be_put(store: BlobStore) -> None:
    payload = bytearray(b"0123456789")
    manifest = raw(bytes(payload))
    store.put(manifest, memoryview(payload))
    payload[0] = 0
    assert store.get(manifest.root) == b"0123456789"


def test_every_altered_byte_of_a_file_is_found(store: BlobStore) -> None:
    """Mark, length, manifest and payload alike."""
    manifest, payload = payload_of(1.0)
    store.put(manifest, payload)
    file = store.folder / manifest.root.hex()
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        file.write_bytes(changed)
        with pytest.raises(LedgerTampered, match=manifest.root.hex()) as caught:
            store.get(manifest.root)
        assert caught.value.cure == "the cure"


def test_every_shortened_or_lengthened_file_is_found(store: BlobStore) -> None:
    manifest, payload = payload_of(1.0)
    store.put(manifest, payload)
    file = store.folder / manifest.root.hex()
    whole = file.read_bytes()
    for changed in [whole[:end] for end in range(len(whole))] + [whole + b"\0"]:
        file.write_bytes(changed)
        with pytest.raises(LedgerTampered):
            store.check(manifest.root)


def test_another_payloads_file_under_this_name_is_found(store: BlobStore) -> None:
    one, two = payload_of(1.0), payload_of(2.0)
    store.put(*one)
    store.put(*two)
    (store.folder / two[0].root.hex()).replace(store.folder / one[0].root.hex())
    with pytest.raises(LedgerTampered, match="another root"):
        store.get(one[0].root)


@given(junk=st.binary(max_size=200), length=st.integers(0, 2**32 - 1))
def test_no_file_content_is_more_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, length: int
) -> None:
    reader = BlobReader(tmp_path_factory.mktemp("inbox"), "")
    (reader.folder / ("00" * 32)).write_bytes(b"SFBLOB1\n" + length.to_bytes(4, "little") + junk)
    with pytest.raises(LedgerTampered):
        reader.get(bytes(32))


def test_a_manifest_that_lies_about_its_chunks_costs_no_memory(store: BlobStore) -> None:
    """Its root is right, so only what it says of sizes could hurt."""
    from splitfed.tensors import manifest_root

    specs = (TensorSpec("w", (4,), "uint8"),)
    root = manifest_root(specs, 4, 1 << 60, (bytes(32),) * 3)
    body = msgspec.msgpack.encode(Manifest(specs, 4, 1 << 60, (bytes(32),) * 3, root))
    (store.folder / root.hex()).write_bytes(
        b"SFBLOB1\n" + len(body).to_bytes(4, "little") + body + b"1234"
    )
    with pytest.raises(LedgerTampered, match="has chunks of"):
        store.get(root)


def test_a_manifest_without_chunks_hides_no_bytes(store: BlobStore) -> None:
    from splitfed.tensors import manifest_root

    specs = (TensorSpec("w", (4,), "uint8"),)
    root = manifest_root(specs, 4, MIB, ())
    body = msgspec.msgpack.encode(Manifest(specs, 4, MIB, (), root))
    (store.folder / root.hex()).write_bytes(
        b"SFBLOB1\n" + len(body).to_bytes(4, "little") + body + b"1234"
    )
    with pytest.raises(LedgerTampered, match="belong to no chunk"):
        store.get(root)


def test_a_payload_under_a_wrong_manifest_is_refused(store: BlobStore) -> None:
    manifest, payload = payload_of(1.0)
    with pytest.raises(Defect):
        store.put(manifest, payload[:-1])
    with pytest.raises(Defect):
        store.put(msgspec.structs.replace(manifest, root=b"x" * 32), payload)
    assert store.roots() == frozenset()


def test_pruning_keeps_what_is_named_and_files_that_are_no_payloads(store: BlobStore) -> None:
    manifests = []
    for value in (1.0, 2.0, 3.0):
        manifest, payload = payload_of(value)
        store.put(manifest, payload)
        manifests.append(manifest)
    (store.folder / "README").write_bytes(b"")
    assert store.prune({manifests[1].root, b"y" * 32}) == 2
    assert store.roots() == {manifests[1].root}
    assert store.prune({manifests[1].root}) == 0
    assert (store.folder / "README").exists()


def test_putting_copies_nothing_and_getting_holds_one_payload_and_a_chunk(
    store: BlobStore,
) -> None:
    payload = bytes(24 * MIB)
    manifest = raw(payload)
    tracemalloc.start()
    try:
        store.put(manifest, payload)
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.reset_peak()
        assert store.check(manifest.root)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        tracemalloc.reset_peak()
        found = store.get(manifest.root)
        assert tracemalloc.get_traced_memory()[1] < 24 * 1.125 * MIB + 4 * MIB
        assert tracemalloc.get_traced_memory()[0] < 25 * MIB
    finally:
        tracemalloc.stop()
    assert found == payload
