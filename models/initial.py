"""Public pretrained values for the shared tensors, from a safetensors file.

The file's digest is part of the contract: both sides start from the same bytes or not at
all. A file holds exactly the shared tensors, under their names on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import blake3
import torch

from splitfed.errors import ModelError
from splitfed.reading import open_plain, read_plain
from splitfed.tensors import NAMES, Tensors, all_finite
from splitfed.types import TensorSpec

LARGEST = 64 << 30
"""Bytes of a file of initial tensors."""

HEADER, NAMED = 1 << 20, 1 << 10
"""Bytes it may have beside the shared tensors themselves: in all, and for each of them."""

_PIECE = 1 << 20


def file_digest(path: Path) -> str:
    """BLAKE3 of the file's bytes, 64 hexadecimal digits.

    Raises:
        ModelError: the file cannot be read.
    """
    hasher = blake3.blake3()
    try:
        with open_plain(path, LARGEST) as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
    except OSError as problem:
        raise _unreadable(path, problem) from None
    return hasher.hexdigest()


def check_digest(path: Path, expected: str) -> None:
    """Make sure that the file is the one in the agreement.

    Raises:
        ModelError: it cannot be read or has another digest.
    """
    found = file_digest(path)
    if found != expected:
        raise ModelError(
            f"{path}: digest {found}, the agreement says {expected}",
            "ask the other parties for the file they mean, or agree on this one",
        )


def load_initial(path: Path, specs: Iterable[TensorSpec], digest: str | None = None) -> Tensors:
    """The initial values of the shared tensors.

    Args:
        path: a safetensors file.
        specs: the shared tensors, exactly those that the file must hold.
        digest: as in the agreement (see :func:`file_digest`); None skips the comparison.

    Raises:
        ModelError: the file is unreadable or another than agreed, or a tensor is missing,
            unexpected, of another shape or dtype, or not finite. The tensor is named. A file
            that is larger than the shared tensors and :data:`HEADER` is not read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if digest is not None:
        check_digest(path, digest)
    wanted = {spec.name: spec for spec in specs}
    try:
        most = sum(spec.nbytes + NAMED for spec in wanted.values()) + HEADER
        content = read_plain(path, most)
    except OSError as problem:
        raise _unreadable(path, problem) from None
    try:
        found = load(content)
    # KeyError: a type of which torch has none.
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as problem:
        raise ModelError(
            f"{path}: not a safetensors file: {problem}",
            "write it with splitfed.models.save_initial",
        ) from None
    for name in sorted(wanted):
        if name not in found:
            raise ModelError(
                f"{path}: shared tensor {name} is missing", _names("the file holds", found)
            )
        spec, tensor = wanted[name], found[name]
        have = (tuple(tensor.shape), NAMES.get(tensor.dtype, str(tensor.dtype)))
        if have != (spec.shape, spec.dtype):
            raise ModelError(
                f"{path}: tensor {name} is {have[1]} {list(have[0])}, "
                f"the model has {spec.dtype} {list(spec.shape)}",
                "use values of the same model; nothing is cast or reshaped",
            )
    for name in sorted(set(found) - set(wanted)):
        raise ModelError(
            f"{path}: tensor {name} is not shared by this model",
            f"leave it out; {_names('shared are', wanted)}",
        )
    unfit = all_finite(found)
    if unfit is not None:
        raise ModelError(f"{path}: tensor {unfit} holds NaN or infinity", "use a sound file")
    return {name: found[name] for name in sorted(found)}


def save_initial(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write shared tensors to a new safetensors file and return its digest.

    Raises:
        ModelError: the file exists already or cannot be written.
    """
    from safetensors.torch import save

    body = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    try:
        with path.open("xb") as file:
            file.write(body)
    except FileExistsError:
        raise ModelError(f"{path}: exists already", "choose another name") from None
    except OSError as problem:
        raise ModelError(f"{path}: cannot be written: {problem.strerror}", "") from None
    return file_digest(path)


def _unreadable(path: Path, problem: OSError) -> ModelError:
    return ModelError(
        f"{path}: cannot be read: {problem.strerror}", "check [model] initial in federation.toml"
    )


def _names(lead: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:5]) or "nothing"
    return f"{lead}: {shown}" + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")
