"""Checkpoints: one safetensors file each, with the JSON meta in its header.

The file is written tensor by tensor, so that a checkpoint never takes the model's size
again in memory; reading goes through the safetensors library, which checks the format. No
pickle and no ``torch.load``: a changed checkpoint can be wrong, but it cannot run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blake3

from splitfed.errors import Defect
from splitfed.reading import open_plain
from splitfed.store.durable import Bytes, Disk, publish, storage_errors
from splitfed.types import ITEM_BYTES, TensorSpec

if TYPE_CHECKING:
    import torch

_META = "splitfed"
_READ = 1 << 20
LARGEST = 256 << 30
"""Bytes of a file of tensors."""

LARGEST_HEADER = 16 << 20
"""Bytes of the header of a file that may come from elsewhere."""

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_KINDS = {code: kind for kind, code in _CODES.items()}
Specs = dict[str, TensorSpec]
"""Tensors by name, without their values."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that is needed to go on.

    Attributes:
        round: the round to which the state belongs.
        tensors: values by name; the caller's prefixes (``model/``, ``optimizer/``, …) keep
            what belongs together apart.
        meta: JSON values; what comes back has lists for tuples and text for dict keys.
    """

    round: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


NAME = re.compile(r"[0-9]{6,}\.safetensors")
"""What :func:`file_name` gives: never a path."""


def no_such_file() -> tuple[type[Exception], ...]:
    """What :func:`load` raises for a file of another form."""
    from safetensors import SafetensorError

    return (SafetensorError, ValueError, RecursionError)


def file_name(number: int) -> str:
    """The name of the ``number``-th checkpoint of a folder."""
    return f"{number:06d}.safetensors"


def save(disk: Disk, path: Path, tensors: Mapping[str, torch.Tensor], meta: Any) -> bytes:
    """Write tensors and meta durably to ``path`` and return the file's BLAKE3, 32 bytes.

    Raises:
        Defect: a dtype or a meta value that has no form in the file.
        FolderError: the disk is full; what was at ``path`` is still there.
    """
    hasher = blake3.blake3()

    def parts() -> Iterator[Bytes]:
        for part in _parts(tensors, meta):
            hasher.update(part)
            yield part

    publish(disk, path, parts())
    return hasher.digest()


def load(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """The tensors (copies of their own) and the meta of a file written by :func:`save`.

    Raises:
        safetensors.SafetensorError, ValueError: the file is not such a file.
        FolderError: it cannot be read.
    """
    from safetensors import safe_open

    with storage_errors(path), safe_open(str(path), framework="pt") as file:
        meta = json.loads((file.metadata() or {}).get(_META, "null"))
        names = file.keys()  # what safe_open gives cannot be iterated over itself
        return {name: file.get_tensor(name).clone() for name in names}, meta


def specs_of(path: Path) -> Specs:
    """Name, shape and dtype of every tensor of a file; their values are not read.

    Raises:
        safetensors.SafetensorError, ValueError: the file is no such file, or its header is
            larger than :data:`LARGEST_HEADER`.
        FolderError: it cannot be read.
    """
    from safetensors import safe_open

    found: Specs = {}
    with storage_errors(path):
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header takes {length} bytes, more than {LARGEST_HEADER}")
        with safe_open(str(path), framework="pt") as file:
            names = file.keys()
            for name in names:
                part = file.get_slice(name)
                kind, shape = part.get_dtype(), part.get_shape()
                if kind not in _KINDS:
                    raise ValueError(f"tensor {name} is of type {kind}")
                found[name] = TensorSpec(name, tuple(shape), _KINDS[kind])
    return found


def file_digest(path: Path) -> bytes | None:
    """BLAKE3 of a file, read piece by piece, or None if there is none."""
    hasher = blake3.blake3()
    with storage_errors(path):
        try:
            with open_plain(path, LARGEST) as file:
                while piece := file.read(_READ):
                    hasher.update(piece)
        except FileNotFoundError:
            return None
    return hasher.digest()


def _parts(tensors: Mapping[str, torch.Tensor], meta: Any) -> Iterator[Bytes]:
    """The file's bytes: header, then each tensor; widest elements first keeps them aligned."""
    try:
        header: dict[str, Any] = {"__metadata__": {_META: json.dumps(meta)}}
    except (TypeError, ValueError) as error:
        raise Defect(f"the checkpoint's meta is no JSON: {error}") from error
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    for name, kind in kinds.items():
        if kind not in _CODES:
            raise Defect(f"tensor {name} has dtype {kind}, which a checkpoint cannot hold")
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[kinds[name]], name))
    offset = 0
    for name in names:
        end = offset + tensors[name].numel() * ITEM_BYTES[kinds[name]]
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _CODES[kinds[name]], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].numel():
            yield _raw(tensors[name])


def _raw(tensor: torch.Tensor) -> memoryview:
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
