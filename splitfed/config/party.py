"""party.toml: one institution's own business; nothing in it ever leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from splitfed.config.faults import (
    ContradictionError,
    Finding,
    Section,
    across,
    did_you_mean,
)
from splitfed.config.federation import FederationConfig, Seed, Text
from splitfed.config.fusion import OwnFusionConfig
from splitfed.config.parties import PartyModelConfig, RosterEntry
from splitfed.config.privacy import Count, Positive
from splitfed.config.values import NAME_RULE, Arguments, Bind, Name, is_factory

SCHEMES = ("digits", "folder", "npz", "torchvision")
"""Sources of images that splitfed reads itself; ``package.module:function`` is the other way."""

SOURCE_RULE = (
    '"folder:PATH", "npz:PATH", "digits:KEY=VALUE&...", "torchvision:NAME" or '
    '"package.module:function"'
)


def _source(text: str) -> str:
    if cure := source_fault(text):
        raise ContradictionError([Finding("", text, cure)])
    return text


Source = Annotated[Text, AfterValidator(_source)]


class LinkConfig(Section):
    """How this party listens and how long it waits."""

    bind: Bind | None = Field(
        default=None,
        description="where to listen if it differs from the advertised address, such as "
        '"tcp://0.0.0.0:7001"',
    )
    patience: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="seconds to wait for an absent peer, 0 for ever"
    )
    on_absent: Literal["wait", "finish-alone"] = Field(
        default="wait", description='"wait" or "finish-alone"'
    )

    @across("on_absent", "patience")
    def patience_ends(self) -> Iterator[Finding]:
        if self.on_absent == "finish-alone" and self.patience == 0:
            yield Finding(
                "on_absent",
                self.on_absent,
                "never happens while patience = 0 (wait for ever); set patience in seconds",
            )


class DataConfig(Section):
    """Where this party's images are; paths are relative to party.toml's folder."""

    id: Name = Field(description=f"a name for this data set, of {NAME_RULE}")
    train: Source = Field(description=SOURCE_RULE)
    validation: Source = Field(description=SOURCE_RULE)
    test: Source = Field(description=SOURCE_RULE)
    reference: Source | None = Field(
        default=None, description=f"unlabelled images that every party holds: {SOURCE_RULE}"
    )
    budget_epsilon: Positive | None = Field(
        default=None,
        description="the most that all runs on these data may spend together, a number above 0",
    )
    budget_delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="a number between 0 and 1, such as 1e-5"
    )
    options: Arguments = Field(
        default_factory=dict, description="a table of options for the data source"
    )

    @across("budget_epsilon", "budget_delta")
    def budget_is_whole(self) -> Iterator[Finding]:
        if (self.budget_epsilon is None) != (self.budget_delta is None):
            missing = "budget_epsilon" if self.budget_epsilon is None else "budget_delta"
            yield Finding(missing, None, "missing; a budget is budget_epsilon and budget_delta")


class OptimizerConfig(Section):
    """An optimizer and its learning rate over the rounds."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        default="sgd", description='"sgd", "adam" or "adamw"'
    )
    lr: Positive = Field(default=0.05, description="the learning rate, a number above 0")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="a number from 0 to below 1"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="a number of 0 or more"
    )
    schedule: Literal["constant", "cosine", "step"] = Field(
        default="constant", description='"constant", "cosine" or "step"'
    )
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="the factor of each step of the learning rate, above 0, at most 1"
    )
    step_rounds: Count | None = Field(
        default=None, description="rounds between two steps of the learning rate, >= 1"
    )

    @across("optimizer", "momentum")
    def momentum_is_used(self) -> Iterator[Finding]:
        if self.optimizer != "sgd" and "momentum" in self.model_fields_set:
            cure = f'optimizer = "{self.optimizer}" has none; drop it'
            yield Finding("momentum", self.momentum, cure)

    @across("schedule", "step_rounds")
    def steps_have_a_length(self) -> Iterator[Finding]:
        if self.schedule == "step" and self.step_rounds is None:
            yield Finding("step_rounds", None, 'missing; schedule = "step" needs it, such as 10')

    @across("schedule")
    def steps_are_used(self) -> Iterator[Finding]:
        if self.schedule != "step":
            cure = f'schedule = "{self.schedule}" has no steps; drop it'
            for key in sorted({"gamma", "step_rounds"} & self.model_fields_set):
                yield Finding(key, getattr(self, key), cure)


class FederatedTrainingConfig(OptimizerConfig):
    """How the noised steps of "dp-frozen" and "dp-all" are taken. How many there are, and of
    how many images, is the agreement's: [privacy] sample_rate and steps_per_round."""

    lr: Positive = Field(default=1.0, description="the learning rate, a number above 0")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="a number from 0 to below 1"
    )


class TrainingConfig(OptimizerConfig):
    """How this party trains in each round. Exactly one of epochs and steps is set."""

    batch_size: Count = Field(default=32, description="images a step, a whole number >= 1")
    epochs: Count | None = Field(
        default=None, description="local epochs a round, a whole number >= 1 (or steps instead)"
    )
    steps: Count | None = Field(
        default=None, description="local steps a round, a whole number >= 1 (or epochs instead)"
    )
    head_epochs: Count = Field(
        default=1,
        description='under algorithm = "fedrep", the epochs of the private layers at the beginning '
        "of a round, a whole number >= 1",
    )
    proximal: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="FedProx: how strongly the shared layers are held near the agreed ones while "
        "they train, a number of 0 or more, best well below 1 / lr",
    )
    fit_epochs: Annotated[int, Field(ge=0)] = Field(
        default=1,
        description="epochs that fit the private layers to the final shared tensors, >= 0",
    )
    loss: Literal["cross_entropy", "mse"] = Field(
        default="cross_entropy", description='"cross_entropy" or "mse"'
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description='"cpu" or "cuda"')
    threads: Count = Field(default=1, description="torch threads, a whole number >= 1")
    seed: Seed | None = Field(
        default=None, description="a whole number >= 0; without it the agreement's seed holds"
    )
    federated: FederatedTrainingConfig = Field(
        default_factory=FederatedTrainingConfig,
        description="a [training.federated] table: optimizer, lr, ... of the noised steps",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_unless_told(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("epochs") is None and data.get("steps") is None:
            return {**data, "epochs": 1}
        return data

    @across("epochs", "steps")
    def epochs_or_steps(self) -> Iterator[Finding]:
        if self.epochs is not None and self.steps is not None:
            yield Finding("steps", self.steps, f"contradicts epochs = {self.epochs}; give one")


class OwnModelConfig(PartyModelConfig):
    """A different private part of my own; the shared tensors must still match."""


class DefenceConfig(Section):
    """How I judge whether taking part helps me."""

    acceptance: bool = Field(
        default=False,
        description="true (also train the local_only baseline, twice the work) or false",
    )
    on_distrust: Literal["warn", "leave"] = Field(
        default="warn",
        description='"warn" or "leave": what to do when taking part costs accuracy, two rounds '
        "running",
    )

    @across("acceptance", "on_distrust")
    def distrust_is_found(self) -> Iterator[Finding]:
        if self.on_distrust == "leave" and not self.acceptance:
            cure = "nothing is judged without acceptance = true, the model trained alone; set it"
            yield Finding("on_distrust", self.on_distrust, cure)


class PartyFile(Section):
    """party.toml as written; :class:`PartyConfig` is what is made of it."""

    federation: Text = Field(description='the agreement\'s file, such as "federation.toml"')
    party: Name = Field(description="my name, one of the [parties.NAME] of federation.toml")
    secret_key: Text = Field(
        description='the file with my secret keys that `splitfed init` made, such as "secret.json"'
    )
    link: LinkConfig = Field(default_factory=LinkConfig, description="a [link] table")
    data: DataConfig = Field(description="a [data] table with id, train, validation and test")
    training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="a [training] table"
    )
    model: OwnModelConfig | None = Field(
        default=None, description="a [model] table with factory and arguments"
    )
    fusion: OwnFusionConfig = Field(default_factory=OwnFusionConfig, description="a [fusion] table")
    defence: DefenceConfig = Field(default_factory=DefenceConfig, description="a [defence] table")


@dataclass(frozen=True, kw_only=True)
class PartyConfig:
    """All that one party needs to know to take part: its own file and the agreement.

    All paths are absolute. ``folder`` is where party.toml lies; the data sources are
    relative to it.
    """

    path: Path
    federation_path: Path
    federation: FederationConfig
    party: str
    secret_key: Path
    link: LinkConfig
    data: DataConfig
    training: TrainingConfig
    model: OwnModelConfig | None
    fusion: OwnFusionConfig
    defence: DefenceConfig

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def me(self) -> RosterEntry:
        """My own block of the agreement."""
        return self.federation.parties[self.party]

    @property
    def peers(self) -> tuple[str, ...]:
        """The other parties, sorted by name."""
        return tuple(sorted(name for name in self.federation.parties if name != self.party))

    @property
    def bind(self) -> str | None:
        """Where I listen, or None where I only dial."""
        listens = any(
            self.federation.listener(self.party, peer) == self.party for peer in self.peers
        )
        return (self.link.bind or self.me.address) if listens else None


def source_fault(source: str) -> str:
    """What is wrong with the form of a data source, or an empty text."""
    scheme, colon, rest = source.partition(":")
    if not colon:
        return f"should be {SOURCE_RULE}"
    if scheme in SCHEMES:
        return "" if rest or scheme == "digits" else f"nothing after the colon; {SOURCE_RULE}"
    if is_factory(source) and ("." in scheme or not did_you_mean(scheme, SCHEMES)):
        return ""
    return f"unknown source{did_you_mean(scheme, SCHEMES)}; should be {SOURCE_RULE}"


def local_path(source: str) -> str | None:
    """The path that a ``folder:`` or ``npz:`` source names, without its options."""
    scheme, _, rest = source.partition(":")
    return rest.partition("?")[0] if scheme in ("folder", "npz") else None
