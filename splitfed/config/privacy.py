"""[privacy] of federation.toml: which mechanism protects the updates, and how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from splitfed.config.faults import ContradictionError, Finding, Section, across

if TYPE_CHECKING:
    from splitfed.config.fusion import FusionConfig

NO_PRIVACY = (
    "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained. Whoever sees them "
    "can learn about single training images. Images, labels and private layers stay."
)
"""What is printed, word for word, wherever privacy mode "none" is used."""

NO_PRIVACY_OUTPUTS = (
    "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained, and for fusion so does "
    "what the model says about the reference images. Whoever sees them can learn about single "
    "training images. Images, labels and private layers stay."
)
"""The same where [fusion] exchanges outputs."""

NO_PRIVACY_FUSED = (
    "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained, and after the last round "
    "the private layers do too, by consent. Whoever sees them can learn about single training "
    "images. Images and labels stay."
)
"""The same where [fusion] releases the private layers."""

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
    fusion_epsilon: Positive | None = Field(
        default=None,
        description='epsilon of the head whose outputs are shared under mode = "dp-frozen" with '
        '[fusion] method = "distill", a number above 0; it is part of epsilon',
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_unit(cls, data: Any) -> Any:
        usual = {"dp-frozen": "record", "dp-all": "record", "party-update": "party"}
        mode = data.get("mode") if isinstance(data, dict) else None
        if isinstance(mode, str) and data.get("unit") is None and mode in usual:
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

    @across("epsilon", "fusion_epsilon")
    def fusion_is_a_part(self) -> Iterator[Finding]:
        if self.fusion_epsilon is None or self.epsilon is None:
            return
        if self.fusion_epsilon >= self.epsilon:
            cure = (
                f"should be below epsilon = {self.epsilon:g}, which covers the rounds and the "
                "fusion together"
            )
            yield Finding("fusion_epsilon", self.fusion_epsilon, cure)

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


def fusion_and_privacy(fusion: FusionConfig, privacy: PrivacyConfig) -> Iterator[Finding]:
    """What of [fusion] would break the promise of [privacy], and what of it is not read."""
    method, mode = fusion.method, privacy.mode
    paid = mode == "dp-frozen" and method == "distill"
    if method != "none" and mode == "party-update":
        cure = (
            f'contradicts [privacy] mode = "{mode}": outputs and private layers of a model that '
            'was trained without noise would not be covered; use method = "none"'
        )
        yield Finding("fusion.method", method, cure)
    elif mode == "dp-frozen" and method in ("average", "ensemble"):
        cure = (
            'contradicts [privacy] mode = "dp-frozen": its private layers are fitted without '
            'noise and must stay; use method = "distill", or mode = "dp-all"'
        )
        yield Finding("fusion.method", method, cure)
    if paid and privacy.fusion_epsilon is None:
        cure = (
            'missing; under mode = "dp-frozen" outputs come from a head that is fitted with noise '
            "for it: give the part of epsilon that it may spend, such as "
            f"{(privacy.epsilon or 8) / 4:g}"
        )
        yield Finding("privacy.fusion_epsilon", None, cure)
    if not paid and privacy.fusion_epsilon is not None and mode != "none":
        cure = 'is read under mode = "dp-frozen" with [fusion] method = "distill" alone; drop it'
        yield Finding("privacy.fusion_epsilon", privacy.fusion_epsilon, cure)
    if fusion.every is not None and mode != "none":
        cure = (
            f'contradicts [privacy] mode = "{mode}": what is noised never learns from the personal '
            "model, which begins after the last round; drop it"
        )
        yield Finding("fusion.every", fusion.every, cure)
