"""Small value types that every layer speaks. Importing this module does not import torch."""

from __future__ import annotations

import math

import msgspec

ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes per element of every dtype that may cross the wire; nothing else does."""


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Name, shape and dtype of one tensor, as it stands in the contract and on the wire."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's values."""
        return self.size * ITEM_BYTES[self.dtype]


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """What one payload holds: tensors in the order of their names, then chunk digests.

    ``root`` is a BLAKE3 digest (32 bytes) over all other fields. It names the payload
    everywhere: in the ledger, the outbox, the OFFER's signature and the votes.
    """

    tensors: tuple[TensorSpec, ...]
    total: int
    chunk_size: int
    chunks: tuple[bytes, ...]
    root: bytes
