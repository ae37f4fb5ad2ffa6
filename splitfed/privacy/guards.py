"""Models that cannot be trained privately, refused by name before anything is sent."""

from __future__ import annotations

from torch import nn

from splitfed.config import DP_SGD
from splitfed.errors import PrivacyError
from splitfed.sharing import Split, canonical_name

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm
_INSTANCE_NORMS = nn.modules.instancenorm._InstanceNorm


def check_model(model: nn.Module, split: Split, mode: str) -> None:
    """Refuse what would make the promise of ``mode`` untrue.

    Args:
        model: the agreed model.
        split: which of its tensors are shared.
        mode: any mode but "none".

    Raises:
        PrivacyError: a BatchNorm anywhere in the federated track (with or without affine
            parameters: it lets one record change the gradients of all others in its batch),
            statistics that are taken from the data, a shared buffer, or shared parameters that
            are all frozen. The layer or tensor is named.
    """
    if mode in DP_SGD:  # "party-update" covers whatever happens inside
        _no_mixing(model, split, mode)
    _no_shared_buffers(model, split)


def _no_mixing(model: nn.Module, split: Split, mode: str) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise PrivacyError(
                f'[privacy] mode = "{mode}": layer {name or "(the model)"} is a '
                f"{type(module).__name__}, which mixes the records of a batch: one record would "
                "change the gradient of every other",
                'use GroupNorm: [model] arguments = { norm = "group" } for the models of '
                "splitfed.models, or splitfed.models.batch_to_group_norm(model) in your factory",
            )
        if isinstance(module, _INSTANCE_NORMS) and module.track_running_stats:
            raise PrivacyError(
                f'[privacy] mode = "{mode}": layer {name} keeps running statistics of the data',
                "set track_running_stats=False",
            )
    names = {canonical_name(name) for name, p in model.named_parameters() if p.requires_grad}
    if not {split.aliases.get(name, name) for name in names} & split.shared_names:
        raise PrivacyError(
            f'[privacy] mode = "{mode}": no shared parameter is left to train',
            "leave requires_grad set on at least one shared parameter",
        )


def _no_shared_buffers(model: nn.Module, split: Split) -> None:
    buffers = {canonical_name(name) for name, _ in model.named_buffers(remove_duplicate=False)}
    for name in sorted(buffers & split.shared_names):
        raise PrivacyError(
            f"[privacy]: shared tensor {name} is a buffer: no gradient trains it, so no noise "
            "would cover what it holds of the data",
            "make it private, or use layers without running statistics (GroupNorm)",
        )
