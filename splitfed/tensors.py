"""Tensors as canonical bytes: packing, digests and the one norm that all parties agree on.

A *payload* is the values of a set of tensors, names in sorted order, each C-contiguous
and little-endian, without padding. Equal tensors give equal payloads on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import blake3
import msgspec
import numpy as np
import torch

from splitfed.errors import Defect
from splitfed.types import ITEM_BYTES, Manifest, TensorSpec

Tensors = dict[str, torch.Tensor]

CHUNK_SIZE = 1 << 20
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEM_BYTES}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_MANIFEST_DOMAIN = b"splitfed manifest v1\0"
_NORM_BLOCK = 1 << 20

if sys.byteorder != "little":  # pragma: no cover - no such machine runs torch today
    raise ImportError("splitfed needs a little-endian machine: payloads are little-endian")


def describe(tensors: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    """The specs of ``tensors`` in the order of their names.

    Raises:
        Defect: a dtype that cannot cross the wire (sharing refuses those earlier).
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise Defect(f"tensor {name} has dtype {tensor.dtype}, which has no wire form")
    return tuple(
        TensorSpec(name, tuple(tensors[name].shape), NAMES[tensors[name].dtype])
        for name in sorted(tensors)
    )


def pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The payload of ``tensors``: an immutable snapshot, safe to send without a copy."""
    parts: list[memoryview] = []
    for name in sorted(tensors):
        flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            parts.append(flat.view(torch.uint8).numpy().data)
    return b"".join(parts)


def unpack(
    payload: bytes | bytearray | memoryview, specs: Sequence[TensorSpec], *, copy: bool = True
) -> Tensors:
    """The tensors of a payload, each an aligned copy of its own.

    Args:
        copy: False lets tensors use the payload's memory where it is writable and their
            offset is aligned. For large payloads that nobody changes any more.

    Raises:
        Defect: the payload's length is not the sum of the specs' bytes.
    """
    total = sum(spec.nbytes for spec in specs)
    if len(payload) != total:
        raise Defect(f"payload of {len(payload)} bytes for specs of {total} bytes")
    raw = np.frombuffer(payload, dtype=np.uint8)
    view = not copy and raw.flags.writeable
    tensors: Tensors = {}
    offset = 0
    for spec in specs:
        part = raw[offset : offset + spec.nbytes]
        if view and part.ctypes.data % ITEM_BYTES[spec.dtype] == 0:
            values = torch.from_numpy(part)
        else:
            values = torch.empty(spec.nbytes, dtype=torch.uint8)
            values.numpy()[:] = part
        tensors[spec.name] = values.view(DTYPES[spec.dtype]).reshape(spec.shape)
        offset += spec.nbytes
    return tensors


def chunk_digest(chunk: bytes | memoryview) -> bytes:
    """BLAKE3 of one chunk, 32 bytes."""
    return blake3.blake3(chunk).digest()


def manifest_root(
    specs: Sequence[TensorSpec], total: int, chunk_size: int, chunks: Sequence[bytes]
) -> bytes:
    """The root that a manifest with these fields must carry, 32 bytes."""
    body = msgspec.msgpack.encode((tuple(specs), total, chunk_size, tuple(chunks)))
    return blake3.blake3(_MANIFEST_DOMAIN + body).digest()


def manifest_of(
    payload: bytes | bytearray | memoryview,
    specs: Sequence[TensorSpec],
    chunk_size: int = CHUNK_SIZE,
) -> Manifest:
    """Describe a payload: its tensors, one digest per chunk, and the root over all of it."""
    view = memoryview(payload)
    chunks = tuple(
        chunk_digest(view[start : start + chunk_size]) for start in range(0, len(view), chunk_size)
    )
    root = manifest_root(specs, len(view), chunk_size, chunks)
    return Manifest(tuple(specs), len(view), chunk_size, chunks, root)


def digest(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The manifest root of ``tensors``: names, shapes, dtypes and values, 32 bytes."""
    return manifest_of(pack(tensors), describe(tensors)).root


def all_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor (in order) with a NaN or an infinity, or None."""
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def distance(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean norm ‖left − right‖ in float64, equal to the last bit on every machine.

    Names in order, squares added one after the other: a vectorised or threaded sum adds
    in an order that depends on the processor, and then two honest parties could reach
    different verdicts on one update. ``numpy.add.accumulate`` is sequential by definition.
    """
    total = 0.0
    for name in sorted(left):
        a, b = left[name].detach().reshape(-1), right[name].detach().reshape(-1)
        for start in range(0, a.numel(), _NORM_BLOCK):
            block = slice(start, start + _NORM_BLOCK)
            difference = a[block].to("cpu", torch.float64) - b[block].to("cpu", torch.float64)
            squares = np.square(difference.numpy())
            squares[0] += total
            total = float(np.add.accumulate(squares, out=squares)[-1])
    return float(np.sqrt(total))
