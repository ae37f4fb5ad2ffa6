"""Payloads on disk, each in a file named by its root: ``outbox/`` and ``inbox/``.

A file is an 8-byte mark, the length of the manifest (4 bytes, little-endian), the manifest
as msgpack, and the payload. With its manifest beside it, whoever holds the name can check
every byte of the file: the manifest by the root, each chunk by the manifest.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import msgspec

from splitfed.errors import Defect, LedgerTampered
from splitfed.reading import open_plain
from splitfed.store.durable import Bytes, Disk, publish, storage_errors
from splitfed.types import Manifest

_MARK = b"SFBLOB1\n"
_LENGTH = struct.Struct("<I")
_NAME = re.compile(r"[0-9a-f]{64}")
LARGEST, LARGEST_MANIFEST, LARGEST_CHUNK = 256 << 30, 64 << 20, 64 << 20
"""Bytes of a file, of the manifest in it, and of one chunk, which is held in memory."""


class BlobReader:
    """The payloads in one folder, outbox or inbox, for reading.

    Args:
        folder: where the files lie.
        cure: what helps when a file was changed.
    """

    def __init__(self, folder: Path, cure: str) -> None:
        self.folder = folder
        self._cure = cure

    def get(self, root: bytes) -> bytes | None:
        """The payload with this root, every byte verified; None if there is no such file.

        Chunk by chunk: besides the payload itself only one chunk is held in memory.

        Raises:
            LedgerTampered: the file is not what was stored.
        """
        opened = self._open(root)
        if opened is None:
            return None
        payload = io.BytesIO()  # gives its buffer away as bytes without copying it
        with closing(opened[1]) as file:
            for chunk in self._chunks(root, opened[0], file):
                payload.write(chunk)
        return payload.getvalue()

    def check(self, root: bytes) -> bool:
        """Like :meth:`get` for files that are too large to be held: True if it is there.

        Raises:
            LedgerTampered: the file is not what was stored.
        """
        opened = self._open(root)
        if opened is None:
            return False
        with closing(opened[1]) as file:
            for _ in self._chunks(root, opened[0], file):
                pass
        return True

    def has(self, root: bytes) -> bool:
        """Whether there is a file of this name, unverified."""
        return self._path(root).is_file()

    def manifest(self, root: bytes) -> Manifest | None:
        """The manifest stored with this payload, verified against the root, or None.

        Raises:
            LedgerTampered: the file's beginning is not what was stored.
        """
        opened = self._open(root)
        if opened is None:
            return None
        opened[1].close()
        return opened[0]

    def roots(self) -> frozenset[bytes]:
        """The roots of all stored payloads, unverified."""
        with storage_errors(self.folder):
            names = [path.name for path in self.folder.iterdir()]
        return frozenset(bytes.fromhex(name) for name in names if _NAME.fullmatch(name))

    def _path(self, root: bytes) -> Path:
        if len(root) != 32:
            raise Defect(f"a root has 32 bytes, not {len(root)}")
        return self.folder / root.hex()

    def _open(self, root: bytes) -> tuple[Manifest, BinaryIO] | None:
        """The verified manifest and the file, which stands at the payload's first byte."""
        path = self._path(root)
        with storage_errors(path):
            try:
                file = open_plain(path, LARGEST)
            except FileNotFoundError:
                return None
            try:
                size = os.fstat(file.fileno()).st_size
                start = file.read(len(_MARK) + _LENGTH.size)
                if len(start) < len(_MARK) + _LENGTH.size or not start.startswith(_MARK):
                    raise self._tampered(root, "it does not begin as splitfed's files do")
                (length,) = _LENGTH.unpack(start[len(_MARK) :])
                if length > min(size, LARGEST_MANIFEST):
                    raise self._tampered(root, "its manifest is longer than the file or than any")
                manifest = self._decode(root, file.read(length))
                if size - len(start) - length != manifest.total:
                    raise self._tampered(
                        root,
                        f"it holds {size - len(start) - length} bytes of payload "
                        f"instead of {manifest.total}",
                    )
            except BaseException:
                file.close()
                raise
        return manifest, file

    def _decode(self, root: bytes, body: bytes) -> Manifest:
        try:
            manifest = msgspec.msgpack.decode(body, type=Manifest)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise self._tampered(root, f"its manifest cannot be read: {error}") from error
        if manifest.root != root or _root(manifest) != root:
            raise self._tampered(root, "its manifest has another root")
        if not 0 < manifest.chunk_size <= LARGEST_CHUNK:
            raise self._tampered(root, f"it has chunks of {manifest.chunk_size} bytes")
        return manifest

    def _chunks(self, root: bytes, manifest: Manifest, file: BinaryIO) -> Iterator[bytes]:
        from splitfed.tensors import chunk_digest  # imports torch, which `status` never needs

        left = manifest.total
        for number, digest in enumerate(manifest.chunks):
            with storage_errors(self._path(root)):
                chunk = file.read(min(manifest.chunk_size, left))
            if chunk_digest(chunk) != digest:
                raise self._tampered(root, f"chunk {number} is not what was stored")
            left -= len(chunk)
            yield chunk
        if left:
            raise self._tampered(root, f"{left} bytes at its end belong to no chunk")

    def _tampered(self, root: bytes, why: str) -> LedgerTampered:
        return LedgerTampered(
            f"{self._path(root)} was changed after it was written: {why}", self._cure
        )


class BlobStore(BlobReader):
    """The same folder for its one writer.

    Args:
        folder: where the files lie.
        cure: what helps when a file was changed.
        disk: where writing goes.
    """

    def __init__(self, folder: Path, cure: str, disk: Disk) -> None:
        super().__init__(folder, cure)
        self._disk = disk

    def put(self, manifest: Manifest, payload: Bytes) -> None:
        """Store a payload durably under ``manifest.root``; again: replaces it by the same.

        The payload is written as it stands in memory, without a copy. Its chunks are not
        hashed here: whoever made or received the manifest has just done so.

        Raises:
            Defect: the manifest does not carry its own root, or not this many bytes.
            FolderError: the disk is full; what was stored before is still there.
        """
        view = memoryview(payload).cast("B")
        if len(view) != manifest.total or _root(manifest) != manifest.root:
            raise Defect(
                f"payload of {len(view)} bytes under a manifest of {manifest.total} bytes "
                f"with root {manifest.root.hex()}"
            )
        body = msgspec.msgpack.encode(manifest)
        start = _MARK + _LENGTH.pack(len(body)) + body
        publish(self._disk, self._path(manifest.root), (start, view))

    def prune(self, keep: Collection[bytes]) -> int:
        """Remove every payload whose root is not in ``keep``; returns how many went."""
        return self.remove(self.roots() - frozenset(keep))

    def remove(self, roots: Collection[bytes]) -> int:
        """Remove these payloads, as far as they are there; returns how many went."""
        gone = self.roots() & frozenset(roots)
        with storage_errors(self.folder):
            for root in gone:
                self._disk.remove(self._path(root))
        return len(gone)


def _root(manifest: Manifest) -> bytes:
    from splitfed.tensors import manifest_root  # imports torch, which `status` never needs

    return manifest_root(manifest.tensors, manifest.total, manifest.chunk_size, manifest.chunks)
