"""Which tensors travel under each algorithm of the agreement."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from splitfed.config.algorithm import ALGORITHMS, DECIDING
from splitfed.errors import SharingError
from splitfed.sharing.names import canonical_name, named_tensors, unwrapped
from splitfed.sharing.split import split_model

Patterns = str | Sequence[str] | None

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""torch's layers that normalise and may hold tensors. The first is the base of all batch and
instance norms, SyncBatchNorm among them; LocalResponseNorm holds nothing."""


def algorithm_split(
    algorithm: str, model: nn.Module, shared: Patterns = None, private: Patterns = None
) -> tuple[Patterns, Patterns]:
    """The patterns that ``algorithm`` hands to :func:`~splitfed.sharing.split_model`.

    * "fedper" (Arivazhagan et al. 2019), "fedrep" (Collins et al. 2021) and "fedbabu" (Oh et
      al. 2022) share what the agreement names, or else what the model class declares.
    * "fedavg" (McMahan et al. 2017) shares everything.
    * "fedbn" (Li et al. 2021) shares every tensor outside normalisation layers; their
      parameters and running statistics stay.
    * "lg-fedavg" (Liang et al. 2020) turns the class's own declaration round: the early
      layers, declared as shared, stay; the rest travels.

    The last three decide by themselves, so layers named beside them contradict. Who wants
    LG-FedAvg with other layers names the late ones under "fedper": the training is the same.

    Args:
        model: any module; wrappers of opacus and DDP are looked through.
        shared: ``[model] shared`` of the agreement, None where it has none.
        private: ``[model] private`` likewise.

    Returns:
        (shared, private) patterns. Where the algorithm decides, the shared ones are exact
        tensor names or ``("*",)`` and the private ones None: whatever is not shared stays.

    Raises:
        SharingError: an unknown algorithm, layers named beside one that decides by itself, a
            "fedbn" model without any normalisation layer or with nothing else, an "lg-fedavg"
            model whose class keeps nothing, or "fedrep" or "fedbabu" with nothing private.
    """
    if algorithm not in ALGORITHMS:
        raise SharingError(
            f"algorithm = {algorithm!r}: no such algorithm",
            f"choose one of: {', '.join(ALGORITHMS)}",
        )
    if algorithm in DECIDING:
        everything = algorithm == "fedavg" and private is None and shared in ("*", ("*",), ["*"])
        if not everything and (shared is not None or private is not None):
            raise SharingError(
                f'[model] shared = {shared!r}, private = {private!r} with algorithm = "{algorithm}"'
                f", which {DECIDING[algorithm]}",
                'drop both keys, or name the layers under algorithm = "fedper"',
            )
    if algorithm == "fedavg":
        return ("*",), None
    if algorithm == "fedbn":
        return _without_norms(model), None
    if algorithm == "lg-fedavg":
        return _turned_round(model), None
    if algorithm != "fedper" and not split_model(model, shared, private).private:
        raise SharingError(
            f'algorithm = "{algorithm}" trains private layers apart, and this model shares all',
            'share fewer layers, or agree on algorithm = "fedavg"',
        )
    return shared, private


def norm_tensors(model: nn.Module) -> frozenset[str]:
    """Canonical names of all parameters and buffers in or below normalisation layers."""
    return frozenset(
        canonical_name(f"{prefix}.{name}" if prefix else name)
        for prefix, module in unwrapped(model).named_modules(remove_duplicate=False)
        if isinstance(module, NORMS)
        for name, _ in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        )
    )


def _without_norms(model: nn.Module) -> tuple[str, ...]:
    kept = norm_tensors(model)
    kind = type(unwrapped(model)).__name__
    if not kept:
        raise SharingError(
            f'algorithm = "fedbn": {kind} has no normalisation layer with tensors of its own',
            'use a model with one, or agree on algorithm = "fedavg", which would be the same',
        )
    shared = sorted(named_tensors(unwrapped(model)).keys() - kept)
    if not shared:
        raise SharingError(
            f'algorithm = "fedbn": {kind} has nothing but normalisation layers to share',
            'use a model with other layers, or agree on algorithm = "fedavg"',
        )
    return tuple(map(escape, shared))


def _turned_round(model: nn.Module) -> tuple[str, ...]:
    split = split_model(model)
    kept = split.private_names
    if not kept:
        raise SharingError(
            f'algorithm = "lg-fedavg": {type(unwrapped(model)).__name__} declares every layer as '
            "shared, so that nothing would travel",
            "declare only the early layers as shared in the class, or agree on another algorithm",
        )
    aliases = {alias for alias, name in split.aliases.items() if name in kept}
    return tuple(map(escape, sorted(kept | aliases)))
