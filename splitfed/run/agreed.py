"""An agreement made ready to run: its model, its initial shared tensors, its documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from splitfed.config import OwnFusionConfig
from splitfed.errors import ModelError
from splitfed.rounds import Terms
from splitfed.run.fusing import AgreedFusion, Recipe
from splitfed.sharing import Split, load_tensors, shared_tensors, split_model
from splitfed.sharing.algorithms import Patterns
from splitfed.tensors import Tensors

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.data import Preprocessing
    from splitfed.privacy import Mechanism


@dataclass(frozen=True, kw_only=True)
class AgreedModel:
    """The model that the agreement names.

    Attributes:
        module: with its initial values.
        split: what of it is shared.
        patterns: the patterns behind the split, for parties with another private part.
        initial: g₀, the shared tensors that every party starts from.
    """

    module: nn.Module
    split: Split
    patterns: Patterns
    initial: Tensors


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """Everything about a federation that all parties hold in common.

    Attributes:
        terms: what the round engine goes by.
        model: the agreed model.
        classes: class names in order; () for a regression.
        seed: the public seed.
        factory: how the model is named in the report.
        document: the agreement as canonical JSON; its digest is the contract.
        roster: digest of the public keys, 32 bytes.
        roster_document: the public keys as canonical JSON.
        records: each party's public number of units.
        size: shape of one image, for the public head; None where there is none.
        mechanism: what protects the releases; None under "none".
        public_head: whether the shared layers are trained against one public head.
        algorithm: how local training treats the shared and the private layers.
        fusion: what is exchanged besides updates; None: nothing.
        arguments: of the factory.
        preprocessing: what turns a picture into the model's input; None where the images
            were given as tensors.
    """

    terms: Terms
    model: AgreedModel
    classes: tuple[str, ...]
    seed: int
    factory: str
    document: str
    roster: bytes
    roster_document: str
    records: Mapping[str, int]
    size: tuple[int, ...] | None = None
    mechanism: Mechanism | None = None
    public_head: bool = False
    algorithm: str = "fedper"
    fusion: AgreedFusion | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None


def agree_on_model(
    module: nn.Module, shared: Patterns, private: Patterns, initial: Tensors | None = None
) -> AgreedModel:
    """Split the agreed model and fix g₀, from its own values or from ``initial``.

    Raises:
        SharingError: the declared split cannot be honoured.
    """
    split = split_model(module, shared, private)
    if initial is not None:
        load_tensors(module, initial)
    patterns = getattr(module, "shared", None) if shared is None else shared
    return AgreedModel(
        module=module, split=split, patterns=patterns, initial=shared_tensors(module, split)
    )


def own_model(module: nn.Module, agreed: AgreedModel, party: str) -> Split:
    """Fit a party's own private part to the agreed shared tensors, which are copied into it.

    Raises:
        ModelError: a shared tensor is missing, extra, or of another shape or dtype.
        SharingError: the agreed patterns cannot be applied to the party's model.
    """
    split = split_model(module, agreed.patterns)
    mine = {spec.name: spec for spec in split.shared}
    for spec in agreed.split.shared:
        found = mine.pop(spec.name, None)
        if found != spec:
            have = f"{found.dtype} {list(found.shape)}" if found else "missing"
            raise ModelError(
                f"[model] of {party}: shared tensor {spec.name} is {have}, "
                f"agreed is {spec.dtype} {list(spec.shape)}",
                "only the private layers may differ between parties",
            )
    for name in sorted(mine):
        raise ModelError(
            f"[model] of {party}: tensor {name} would be shared, but is not agreed",
            "only the private layers may differ between parties",
        )
    load_tensors(module, agreed.initial)
    return split


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One party's own choices for its run.

    Attributes:
        training: how it trains.
        acceptance: whether it trains the local_only branch too, and judges every merge by it.
        on_distrust: "warn" or "leave".
        fusion: how it learns from what is exchanged for fusion.
        recipe: how its own model is built; None: as agreed.
        code: folder of its own code, where factories are searched besides installed packages.
        convert: conversions that its training images declare, and a prediction makes as well.
        patience: seconds without a change of a peer's status before ``on_absent``; 0: never.
        on_absent: "wait" or "finish-alone".
    """

    training: TrainingConfig
    acceptance: bool = False
    on_distrust: str = "warn"
    fusion: OwnFusionConfig = field(default_factory=OwnFusionConfig)
    recipe: Recipe | None = None
    code: Path | None = None
    convert: tuple[str, ...] = ()
    patience: float = 0.0
    on_absent: str = "wait"
