"""Whose model and images are attacked, and which of them cannot be."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from splitfed.config import PartyConfig
from splitfed.data import ImageSet
from splitfed.errors import DataError, ModelError, UserError
from splitfed.models import initialise
from splitfed.run.agreed import Agreed, own_model
from splitfed.run.agreement import Begun, agree, load_data, with_reference
from splitfed.sharing import Split
from splitfed.training.losses import check_labels

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One party as the attacks see it.

    Attributes:
        party: its name.
        agreed: the agreement.
        module: its own model with the agreed initial values: what round 1 begins with. Never
            trained: copies are.
        split: the agreed one, of ``module``.
        settings: how it trains.
        train: its labelled training images.
        held_out: its validation and test images together: labelled, not trained on.
    """

    party: str
    agreed: Agreed
    module: nn.Module
    split: Split
    settings: TrainingConfig
    train: ImageSet
    held_out: ImageSet

    def __post_init__(self) -> None:
        check(self.module, self.train, self.settings.loss, self.agreed.classes)

    @property
    def mode(self) -> str:
        """The agreed privacy mode."""
        return "none" if self.agreed.mechanism is None else self.agreed.mechanism.mode

    def copy(self) -> nn.Module:
        """A model of its own for whoever changes it."""
        return deepcopy(self.module)


def subject_of(config: PartyConfig, begun: Begun | None = None) -> Subject:
    """The party of party.toml. Reads its images and its agreement; needs no key and no network.

    Args:
        begun: what its run folder says of a federation that is under way.

    Raises:
        UserError: a regression, a model without a convolution, images without labels, or files
            that cannot be used.
    """
    config, _ = with_reference(config)
    agreed = agree(config, begun=begun)
    module, split = agreed.model.module, agreed.model.split
    if config.model is not None:
        module = initialise(
            config.model.factory,
            config.model.arguments,
            config.federation.seed,
            folder=config.folder,
        )
        split = own_model(module, agreed.model, config.party)
    data = load_data(config)
    held = [part for part in (data.validation, data.test) if part is not None]
    return Subject(
        party=config.party,
        agreed=agreed,
        module=module,
        split=split,
        settings=config.training,
        train=data.train,
        held_out=joined(held),
    )


def check(module: nn.Module, train: ImageSet, loss: str, classes: tuple[str, ...]) -> None:
    """Refuse what the attacks have no meaning for.

    Raises:
        UserError: a regression.
        ModelError: no convolution in the model, or an output that no gradient leads to.
        DataError: no labels, or images that are no pictures [C, H, W].
    """
    if loss != "cross_entropy" or not classes:
        raise UserError(
            f"loss = {loss!r} with {len(classes)} classes: the attacks know and compare classes",
            "audit needs a classification; a regression is not measured",
        )
    check_labels(train.labels, loss, len(classes))
    if not any(isinstance(part, _ConvNd) for part in module.modules()):
        raise ModelError(
            f"{type(module).__name__} has no convolution: its splits are not measured by pictures",
            "audit a model with nn.Conv2d layers; a shared linear layer on raw pixels gives a "
            "single image away exactly, no attack is needed to show it",
        )
    if train.images.dim() != 4:
        raise DataError(
            f"training images of shape {list(train.images.shape)}", "audit needs [N, C, H, W]"
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(
            f"{type(module).__name__} has no parameter to train", "nothing of it would travel"
        )


def joined(parts: list[ImageSet]) -> ImageSet:
    """Labelled sets of one form as one set.

    Raises:
        DataError: none at all, or one without labels or of another form.
    """
    if not parts:
        raise DataError(
            "there are no validation and no test images", "name them in [data] of party.toml"
        )
    first = parts[0]
    for part in parts:
        if part.labels is None:
            raise DataError("validation or test images without labels", "name labelled images")
        if part.images.shape[1:] != first.images.shape[1:]:
            raise DataError(
                f"images of shape {list(part.images.shape[1:])} beside "
                f"{list(first.images.shape[1:])}",
                "give validation and test images of one size",
            )
        if part.images.dtype != first.images.dtype:
            raise DataError(
                f"images of {part.images.dtype} beside {first.images.dtype}", "give one kind"
            )
    return ImageSet(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts if part.labels is not None]),
        mean=first.mean,
        std=first.std,
    )
