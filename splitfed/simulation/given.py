"""Images as they are handed to a simulation: sets, or plain tensors."""

from __future__ import annotations

import torch

from splitfed.config import DP_SGD, parse
from splitfed.config.party import DefenceConfig
from splitfed.data import ImageSet
from splitfed.errors import DataError, UserError

Images = ImageSet | tuple[torch.Tensor, torch.Tensor]


def images_of(data: Images) -> ImageSet:
    """Labelled images as a set.

    Raises:
        DataError: neither a set nor a pair of tensors.
    """
    if isinstance(data, ImageSet):
        return data
    try:
        images, labels = data
    except (TypeError, ValueError):
        raise DataError(
            f"images given as {type(data).__name__}",
            "give an ImageSet or a pair of tensors (images, labels)",
        ) from None
    return ImageSet(images=images, labels=labels)


def optional(data: Images | None) -> ImageSet | None:
    """The same where there may be none."""
    return None if data is None else images_of(data)


def unlabelled(data: Images | torch.Tensor) -> ImageSet:
    """Images without labels, whether or not some were given."""
    if isinstance(data, torch.Tensor):
        return ImageSet(images=data, labels=None)
    return images_of(data).without_labels()


def check_leaving(acceptance: bool, on_distrust: str, mode: str) -> None:
    """Refuse what party.toml refuses of its [defence].

    Raises:
        ConfigError: no such choice, or leaving without anything that judges.
        UserError: leaving under a mode whose merges are judged after the last round.
    """
    judging = {"acceptance": acceptance, "on_distrust": on_distrust}
    parse(DefenceConfig, judging, "Federation(...)")
    if on_distrust == "leave" and mode in DP_SGD:
        raise UserError(
            f"on_distrust = 'leave' with privacy mode {mode!r}",
            "use 'warn': merges are judged once, after the last round",
        )
