"""The weighted mean of FedAvg (McMahan et al. 2017, algorithm 1, last line)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from splitfed.errors import Defect
from splitfed.tensors import Tensors

SLICE = 1 << 20
"""Elements averaged at a time: working memory is about 24 bytes times this, whatever the
size of a tensor."""

_Float64 = npt.NDArray[np.float64]


def weighted_mean(updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> Tensors:
    """``Σ w_p x_p / Σ w_p`` over the parties p, element by element.

    Every product, sum and the one division is a separate float64 operation, parties in the
    order of their names, tensors in the order of theirs; the result is rounded once to the
    tensor's own dtype (floats to nearest, ties to even; integers and booleans to the nearest
    integer, halves to even, so a mean of 2 and 3 is 2). The result therefore does not depend
    on the order of any mapping, on threads or on the processor.

    Integers beyond 2**53 lose their last digits as float64 does.

    Args:
        updates: party -> tensors; the same names, shapes and dtypes for every party.
        weights: party -> weight, finite and positive; need not sum to one. Weights of
            parties that are not in ``updates`` are not looked at.

    Returns:
        New tensors on the CPU, names in order; none shares memory with an update.

    Raises:
        Defect: no update, unequal tensors, or a weight that is missing, not positive or
            not finite (configuration and admission have refused all of these before).
    """
    parties = sorted(updates)
    _check(updates, parties, weights)
    shares = [float(weights[party]) for party in parties]
    total = 0.0
    for share in shares:
        total += share
    return {
        name: _mean([updates[party][name] for party in parties], shares, total)
        for name in sorted(updates[parties[0]])
    }


def _mean(tensors: Sequence[torch.Tensor], shares: Sequence[float], total: float) -> torch.Tensor:
    first = tensors[0]
    result = torch.empty(first.shape, dtype=first.dtype)
    flat = result.view(-1)
    sources = [tensor.detach().reshape(-1) for tensor in tensors]
    for start in range(0, flat.numel(), SLICE):
        block = slice(start, start + SLICE)
        # numpy, one operation at a time: a fused multiply-add would round once where a
        # processor has it and twice where it has not.
        mean = np.multiply(_as_float64(sources[0][block]), shares[0])
        for source, share in zip(sources[1:], shares[1:], strict=True):
            part = _as_float64(source[block])
            np.add(mean, np.multiply(part, share), out=mean)
        np.divide(mean, total, out=mean)
        flat[block] = _rounded(mean, first.dtype)
    return result


def _as_float64(values: torch.Tensor) -> _Float64:
    return values.to("cpu", torch.float64).numpy()


def _rounded(values: _Float64, dtype: torch.dtype) -> torch.Tensor:
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


def _to_bfloat16(values: _Float64) -> torch.Tensor:
    """Round via float32 "to odd", after which the second rounding cannot go wrong
    (Boldo & Melquiond 2008): wherever float32 is not exact, truncate and set the last bit."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    bits = near.view(np.int32)
    inexact = near != values
    beyond = np.abs(near.astype(np.float64)) > np.abs(values)
    odd = np.where(inexact & np.isfinite(near), (bits - beyond) | 1, bits)
    return torch.from_numpy(odd.astype(np.int32).view(np.float32)).to(torch.bfloat16)


def _check(
    updates: Mapping[str, Tensors], parties: Sequence[str], weights: Mapping[str, float]
) -> None:
    if not parties:
        raise Defect("the mean of no updates was asked for")
    reference = updates[parties[0]]
    for party in parties:
        weight = weights.get(party)
        if weight is None or not math.isfinite(weight) or weight <= 0:
            raise Defect(f"party {party} has weight {weight}; a mean needs a positive number")
        tensors = updates[party]
        for name in sorted(reference.keys() ^ tensors.keys()):
            raise Defect(f"tensor {name} is not in the updates of both {parties[0]} and {party}")
        for name, tensor in tensors.items():
            other = reference[name]
            if tensor.shape != other.shape or tensor.dtype != other.dtype:
                raise Defect(
                    f"tensor {name} is {tuple(tensor.shape)} {tensor.dtype} at {party} but "
                    f"{tuple(other.shape)} {other.dtype} at {parties[0]}"
                )
