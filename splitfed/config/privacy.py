"""[privacy] of federation.toml: which mechanism protects the updates, and how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from splitfed.config.faults import ContradictionError, Finding, Section, across, only

NO_PRIVACY = (
    "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained. Whoever sees them "
    "can learn about single training images. Images, labels and private layers stay."
)
"""What is printed, word for word, wherever privacy mode "none" is used."""

MODES = ("dp-frozen", "dp-all", "party-update", "none")
DP_SGD = ("dp-frozen", "dp-all")
"""The modes that train by Poisson-sampled DP-SGD."""

REFUSED = {
    "dp-shared": "is refused: noise on the shared layers alone, beside private layers that are "
    "trained on the same records without noise, is not differentially private at the accountant's "
    "epsilon, since one record changes the private layers and through them the gradients of all "
    'other records (docs/privacy.md has the proof and the attack); use "dp-frozen" (private '
    'layers frozen while sharing, fitted afterwards) or "dp-all" (noise on both)',
}
"""Names under which others offer what is not private, and why it is refused here."""

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

NEEDED = ("delta", "max_grad_norm", "sample_rate", "steps_per_round")
UNSAMPLED = ("sample_rate", "steps_per_round")


def _mode(value: Any) -> Any:
    if isinstance(value, str) and value in REFUSED:
        raise ContradictionError([Finding("", value, REFUSED[value])])
    return value


class PrivacyConfig(Section):
    """What protects the updates; required, so that nobody shares without having chosen."""

    mode: Annotated[
        Literal["none", "dp-frozen", "dp-all", "party-update"], BeforeValidator(_mode)
    ] = Field(
        description='"dp-frozen", "dp-all", "party-update" or "none" (NO PRIVACY GUARANTEE); there '
        "is no default on purpose"
    )
    epsilon: Positive | None = Field(
        default=None, description="epsilon of all planned rounds together, a number above 0"
    )
    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="a number between 0 and 1, below 1/records, such as 1e-5"
    )
    max_grad_norm: Positive | None = Field(
        default=None, description="the clipping norm, a number above 0"
    )
    noise_multiplier: Positive | None = Field(
        default=None, description="a number above 0 (instead of epsilon, which then follows)"
    )
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="the probability of each record to be in a step, above 0, at most 1",
    )
    steps_per_round: Count | None = Field(
        default=None, description="noised steps of each round, a whole number >= 1"
    )
    unit: Literal["record", "patient", "party"] | None = Field(
        default=None, description='"record" or "patient" ("party" goes with "party-update" alone)'
    )
    fusion_epsilon: Annotated[
        Positive | None,
        BeforeValidator(
            only(None, because="fusion, which reads it, is not built yet in this version")
        ),
    ] = Field(default=None, description="a number above 0")

    @model_validator(mode="before")
    @classmethod
    def _usual_unit(cls, data: Any) -> Any:
        usual = {"dp-frozen": "record", "dp-all": "record", "party-update": "party"}
        if isinstance(data, dict) and data.get("unit") is None and data.get("mode") in usual:
            return {**data, "unit": usual[data["mode"]]}
        return data

    @across("mode")
    def none_adds_nothing(self) -> Iterator[Finding]:
        if self.mode == "none":
            for key in sorted(self.model_fields_set - {"mode"}):
                cure = 'contradicts mode = "none", which adds no noise; drop it'
                yield Finding(key, getattr(self, key, None), cure)

    @across("mode", "epsilon", "noise_multiplier")
    def epsilon_or_noise(self) -> Iterator[Finding]:
        if self.mode == "none":
            return
        if self.epsilon is None and self.noise_multiplier is None:
            cure = (
                f'missing; mode = "{self.mode}" needs it (or noise_multiplier instead), such as 8'
            )
            yield Finding("epsilon", None, cure)
        elif self.epsilon is not None and self.noise_multiplier is not None:
            cure = f"contradicts epsilon = {self.epsilon:g}: one follows from the other; give one"
            yield Finding("noise_multiplier", self.noise_multiplier, cure)

    @across("mode", *NEEDED)
    def all_is_given(self) -> Iterator[Finding]:
        usual = {
            "delta": "1e-5",
            "max_grad_norm": "1",
            "sample_rate": "0.1",
            "steps_per_round": "10",
        }
        wanted = NEEDED if self.mode in DP_SGD else NEEDED[:2] if self.mode != "none" else ()
        for key in wanted:
            if getattr(self, key) is None:
                cure = f'missing; mode = "{self.mode}" needs it, such as {usual[key]}'
                yield Finding(key, None, cure)
        if self.mode == "party-update":
            for key in UNSAMPLED:
                if getattr(self, key) is not None:
                    cure = (
                        'contradicts mode = "party-update": the update of every round is released '
                        "whole, without sampling; drop it"
                    )
                    yield Finding(key, getattr(self, key), cure)

    @across("mode", "unit")
    def unit_fits(self) -> Iterator[Finding]:
        if self.mode in DP_SGD and self.unit == "party":
            cure = (
                f'contradicts mode = "{self.mode}"; choose "record", "patient", or "party-update"'
            )
            yield Finding("unit", self.unit, cure)
        if self.mode == "party-update" and self.unit not in (None, "party"):
            cure = 'contradicts mode = "party-update", which protects the whole party; drop it'
            yield Finding("unit", self.unit, cure)
