"""The arithmetic that all rules share: equal bytes on every machine.

Everything is computed in float64 by numpy, one operation at a time: a fused multiply-add would
round once where a processor has it and twice where it has not. Parties come in the order of their
names, tensors in the order of theirs, and a result is rounded once to the tensor's own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from splitfed.errors import Defect
from splitfed.tensors import Tensors

SLICE = 1 << 20
"""Numbers that are worked on at a time: working memory is about 24 bytes times this, whatever
the size of a tensor."""

Float64 = npt.NDArray[np.float64]


def as_float64(values: torch.Tensor) -> Float64:
    """``values`` as float64 on the CPU."""
    return values.detach().to("cpu", torch.float64).numpy()


def floating(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors in which distances are measured. Integers (BatchNorm's counter) are no length
    in weight space."""
    return {name: tensors[name] for name in sorted(tensors) if tensors[name].is_floating_point()}


def counted(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the others: integers and booleans."""
    return [name for name in sorted(tensors) if not tensors[name].is_floating_point()]


def coordinatewise(
    updates: Mapping[str, Tensors],
    parties: Sequence[str],
    names: Sequence[str],
    reduce: Callable[[Float64], Float64],
) -> Tensors:
    """Tensors of which each value comes of the parties' values at its place alone.

    Args:
        reduce: float64 [parties, block] to float64 [block], parties in the given order. It sees no
            -0.0: which of two zeros comes first in a sorted row depends on the processor.
    """
    length = max(1, SLICE // len(parties))
    result: Tensors = {}
    for name in names:
        first = updates[parties[0]][name]
        flat = torch.empty(first.numel(), dtype=first.dtype)
        sources = [updates[party][name].reshape(-1) for party in parties]
        for start in range(0, flat.numel(), length):
            block = slice(start, start + length)
            values = np.stack([as_float64(source[block]) for source in sources])
            values += 0.0
            flat[block] = rounded(reduce(values), first.dtype)
        result[name] = flat.reshape(first.shape)
    return result


def added(rows: Float64) -> Float64:
    """The sum of the rows, one after the other; the first row's memory is used for it."""
    total: Float64 = rows[0]
    for row in rows[1:]:
        np.add(total, row, out=total)
    return total


def inner(
    left: Mapping[str, torch.Tensor],
    right: Mapping[str, torch.Tensor],
    centre: Mapping[str, torch.Tensor],
) -> float:
    """The inner product of ``left − centre`` and ``right − centre``, products added one after the
    other, names in order: see :func:`splitfed.tensors.distance`."""
    total = 0.0
    for name in sorted(left):
        a, b, c = (tensors[name].reshape(-1) for tensors in (left, right, centre))
        for start in range(0, a.numel(), SLICE):
            block = slice(start, start + SLICE)
            middle = as_float64(c[block])
            one = np.subtract(as_float64(a[block]), middle)
            np.multiply(one, np.subtract(as_float64(b[block]), middle), out=one)
            one[0] += total
            total = float(np.add.accumulate(one, out=one)[-1])
    return total


def rounded(values: Float64, dtype: torch.dtype) -> torch.Tensor:
    """``values`` in ``dtype`` after exactly one rounding to nearest, ties to even."""
    if dtype in (torch.float64, torch.float32):
        return torch.from_numpy(values).to(dtype)
    if dtype == torch.float16:  # torch would round twice: to float32 and from there
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float16))
    if dtype == torch.bfloat16:
        return _to_bfloat16(values)
    whole = np.rint(values)
    if dtype == torch.bool:
        return torch.from_numpy(whole != 0)
    info = torch.iinfo(dtype)
    # the largest float64 that fits: float(2**63 - 1) is 2**63, which does not
    high = float(info.max) if info.bits < 64 else math.nextafter(2.0**63, 0.0)
    return torch.from_numpy(np.clip(whole, float(info.min), high)).to(dtype)


def _to_bfloat16(values: Float64) -> torch.Tensor:
    """Round via float32 "to odd", after which the second rounding cannot go wrong
    (Boldo & Melquiond 2008): wherever float32 is not exact, truncate and set the last bit."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    bits = near.view(np.int32)
    inexact = near != values
    beyond = np.abs(near.astype(np.float64)) > np.abs(values)
    odd = np.where(inexact & np.isfinite(near), (bits - beyond) | 1, bits)
    return torch.from_numpy(odd.astype(np.int32).view(np.float32)).to(torch.bfloat16)


def check_alike(tensors: Tensors, party: str, reference: Tensors, first: str) -> None:
    """Raises:
    Defect: the updates of two parties differ in a name, shape or dtype (admission has refused
        that before).
    """
    for name in sorted(reference.keys() ^ tensors.keys()):
        raise Defect(f"tensor {name} is not in the updates of both {first} and {party}")
    for name, tensor in tensors.items():
        other = reference[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise Defect(
                f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype} at {party} but "
                f"{tuple(other.shape)} {other.dtype} at {first}"
            )
