"""Why something cannot be admitted: from its manifest alone, and from its values. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.vote import shown
from splitfed.tensors import CHUNK_SIZE, Tensors, all_finite, distance, manifest_root
from splitfed.transport.events import Offer
from splitfed.types import TensorSpec

_MAX_INTEGER = 1 << 52
ROW_SUM_ERROR = 1e-3
"""A row of class probabilities, rounded to float32, may miss one by this much at most."""


def floating(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def update_norm(update: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]) -> float:
    """‖update − base‖ over the floating-point tensors, float64, the same on all machines.

    Integer tensors (BatchNorm's batch counter) have a range check instead: a counter's
    step is not a length in weight space.
    """
    floats = floating(update)
    return distance(floats, {name: base[name] for name in floats})


def offer_fault(offer: Offer, *, terms: Terms, run: bytes | None, kind: str = UPDATE) -> str | None:
    """Why what is announced cannot be admitted whatever its values are, or None.

    Looks at the manifest alone, so it is asked before a single byte is pulled. ``run`` is
    None as long as not every peer has been met; :func:`admit` asks again. ``kind`` is what
    this exchange is about.
    """
    manifest = offer.manifest
    if offer.kind != kind:
        return f"kind '{shown(offer.kind)}' instead of '{kind}'"
    if run is not None and offer.run != run:
        return "another run"
    if offer.party not in terms.parties:
        return f"party '{shown(offer.party)}' is not in the agreement"
    if offer.round < 1:
        return f"round {offer.round}, the first is 1"
    specs = terms.specs(kind, offer.party)
    fault = _manifest_fault(manifest.tensors, specs)
    if fault is not None:
        return fault
    if manifest.chunk_size != CHUNK_SIZE or manifest.total != sum(spec.nbytes for spec in specs):
        return f"{manifest.total} bytes in chunks of {manifest.chunk_size}"
    if len(manifest.chunks) != -(-manifest.total // CHUNK_SIZE):
        return f"{len(manifest.chunks)} chunk digests for {manifest.total} bytes"
    expected = manifest_root(manifest.tensors, manifest.total, manifest.chunk_size, manifest.chunks)
    return None if manifest.root == expected else "a root that does not match its manifest"


def _manifest_fault(tensors: tuple[TensorSpec, ...], shared: tuple[TensorSpec, ...]) -> str | None:
    if tensors == shared:
        return None
    theirs = {spec.name: spec for spec in tensors}
    for spec in shared:
        found = theirs.pop(spec.name, None)
        if found is None:
            return f"tensor {spec.name} is missing"
        if found != spec:
            return (
                f"tensor {spec.name} is {shown(found.dtype)} {shown(str(list(found.shape)))}, "
                f"agreed is {spec.dtype} {list(spec.shape)}"
            )
    if theirs:
        return f"tensor {shown(min(theirs))} is not in the contract"
    return "tensors out of order or named twice"


def value_fault(tensors: Tensors) -> str | None:
    broken = all_finite(tensors)
    if broken is not None:
        return f"tensor {broken} is not finite"
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.dtype == torch.int64 and tensor.numel():
            low, high = int(tensor.min()), int(tensor.max())
            if low < -_MAX_INTEGER or high > _MAX_INTEGER:
                return f"tensor {name} holds integers beyond ±2^52"
    return None


def norm_fault(tensors: Tensors, base: Mapping[str, torch.Tensor], bound: float) -> str | None:
    length = update_norm(tensors, base)
    if not length <= bound:
        return f"norm of the update {length:.6g} is above max_update_norm {bound:.6g}"
    return None


def kind_fault(kind: str, tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Outputs must be probabilities: between 0 and 1, and each row's sum one."""
    if kind != "outputs":
        return None
    for name in sorted(tensors):
        values = tensors[name].to(torch.float64)
        outside = (values < 0) | (values > 1)
        if bool(outside.any()):
            row = int(outside.any(dim=1).nonzero()[0])
            return f"tensor {name}, row {row}: a value outside 0 to 1 is no probability"
        sums = values.sum(dim=1)
        off = (sums - 1).abs() > ROW_SUM_ERROR
        if bool(off.any()):
            row = int(off.nonzero()[0])
            return f"tensor {name}, row {row}: the probabilities add up to {float(sums[row]):.6g}"
    return None
