"""One incoming payload: checked chunk by chunk and written into one buffer."""

from __future__ import annotations

import itertools

from splitfed.errors import ProtocolViolation
from splitfed.tensors import chunk_digest, manifest_root
from splitfed.transport.events import Offer
from splitfed.transport.wire import Buffer
from splitfed.types import ITEM_BYTES, Manifest

MAX_DIMENSIONS = 16
BAD_CHUNKS_ALLOWED = 3


def malformed(manifest: Manifest, chunk_size: int) -> str | None:
    """Why no honest party could have made this manifest, or None.

    Says nothing about whether the agreement allows it: that is the ``accept`` check.
    After this, a payload whose chunks all match their digests matches the root as well.
    """
    names = [spec.name for spec in manifest.tensors]
    if any(left >= right for left, right in itertools.pairwise(names)):
        return "tensors that are not in the order of their names, each once"
    for spec in manifest.tensors:
        if spec.dtype not in ITEM_BYTES:
            return f"a tensor of dtype {spec.dtype[:32]!r}"
        if len(spec.shape) > MAX_DIMENSIONS or any(not 0 <= n < 1 << 40 for n in spec.shape):
            return "a tensor of an impossible shape"
    if manifest.total != sum(spec.nbytes for spec in manifest.tensors):
        return f"{manifest.total} bytes for tensors of another size"
    if manifest.chunk_size != chunk_size:
        return f"chunks of {manifest.chunk_size} bytes instead of {chunk_size}"
    if len(manifest.chunks) != -(-manifest.total // chunk_size):
        return f"{len(manifest.chunks)} chunks for {manifest.total} bytes"
    if any(len(digest) != 32 for digest in manifest.chunks):
        return "a chunk digest that is not 32 bytes"
    root = manifest_root(manifest.tensors, manifest.total, manifest.chunk_size, manifest.chunks)
    return None if root == manifest.root else "a root that is not that of the manifest"


class Assembly:
    """A payload on its way in. Memory: one buffer of the size the offer states.

    Attributes:
        offer: what was accepted.
        payload: the buffer; only verified chunks are ever written.
        wanted: chunks neither held nor asked for, in order of chunk.
        asked: chunks asked for in this session and not yet answered.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.payload = bytearray(offer.manifest.total)
        self.wanted = list(range(len(offer.manifest.chunks) - 1, -1, -1))
        self.asked: set[int] = set()
        self.held = bytearray(len(offer.manifest.chunks))
        self.missing = len(offer.manifest.chunks)
        self.bad = 0

    def size_of(self, chunk: int) -> int:
        """Bytes of one chunk; only the last may be shorter."""
        manifest = self.offer.manifest
        return min(manifest.chunk_size, manifest.total - chunk * manifest.chunk_size)

    def ask(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` wanted chunks as ranges (first, count), from now on asked for."""
        ranges: list[tuple[int, int]] = []
        while count and self.wanted:
            chunk = self.wanted.pop()
            self.asked.add(chunk)
            count -= 1
            if ranges and sum(ranges[-1]) == chunk:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
            else:
                ranges.append((chunk, 1))
        return ranges

    def forget_asked(self) -> None:
        """A connection broke: whatever was asked for and did not come is wanted again."""
        self.wanted = sorted([*self.wanted, *self.asked], reverse=True)
        self.asked.clear()

    def write(self, chunk: int, offset: int, body: Buffer) -> bool | None:
        """Verify and write one chunk.

        Returns:
            True if written, None if it was held already (nothing is changed), False if
            its digest is wrong: it is wanted again.

        Raises:
            ProtocolViolation: not a chunk of this manifest, never asked for, or one bad
                chunk too many.
        """
        manifest = self.offer.manifest
        if chunk >= len(manifest.chunks):
            raise ProtocolViolation(
                f"chunk {chunk} of a payload with {len(manifest.chunks)} chunks"
            )
        start, size = chunk * manifest.chunk_size, self.size_of(chunk)
        if offset != start or len(body) != size:
            raise ProtocolViolation(
                f"chunk {chunk} as {len(body)} bytes at {offset} instead of {size} at {start}"
            )
        if self.held[chunk]:
            return None
        if chunk not in self.asked:
            raise ProtocolViolation(f"chunk {chunk}, which was not asked for")
        self.asked.remove(chunk)
        if chunk_digest(body) != manifest.chunks[chunk]:
            self.bad += 1
            self.wanted.append(chunk)
            if self.bad > BAD_CHUNKS_ALLOWED:
                raise ProtocolViolation(
                    f"{self.bad} chunks that do not match their digests in one payload"
                )
            return False
        self.payload[start : start + size] = body
        self.held[chunk] = 1
        self.missing -= 1
        return True
