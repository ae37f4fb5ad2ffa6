"""federation.toml: what the institutions agree on.

A :class:`FederationConfig` is right in itself: every key has its type and range and no two
keys contradict each other. Whether it is enough to run over a network (two parties or more, an
address to dial for every pair) is checked when a party.toml that names it is loaded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from splitfed.config.aggregation import AggregationConfig, members_needed
from splitfed.config.algorithm import Algorithm, algorithm_findings
from splitfed.config.contract import canonical_json, digest_of
from splitfed.config.faults import Finding, Section, across, did_you_mean
from splitfed.config.fusion import Digest, FusionConfig
from splitfed.config.parties import (
    RosterEntry,
    differing,
    wrong_statements,
)
from splitfed.config.privacy import DP_SGD, Positive, PrivacyConfig, fusion_and_privacy
from splitfed.config.values import NAME_RULE, Arguments, Factory, Name, Patterns, Pixels

Text = Annotated[str, StringConstraints(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MOST_ROUNDS = 1_000_000
"""Beyond any training; a plan of more would fill the memory of whoever looks at it."""


def _initial(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class InitialConfig(Section):
    """Public pretrained shared tensors that every party starts from."""

    file: Text = Field(
        description='a safetensors file beside federation.toml, such as "initial.safetensors"'
    )
    digest: Digest | None = Field(
        default=None,
        description="the file's BLAKE3 digest, 64 hexadecimal digits (leave it out to have it "
        "computed; both sides' digests are compared before any training)",
    )


class ModelConfig(Section):
    """Which model the parties train and which of its layers they share."""

    factory: Factory = Field(
        description='"package.module:Class", such as "splitfed.models:ThreeLayerCNN"'
    )
    arguments: Arguments = Field(
        default_factory=dict,
        description="a table of the factory's keyword arguments, holding only numbers, text, "
        "true/false, lists and tables",
    )
    shared: Patterns | None = Field(
        default=None,
        description='the modules or patterns to share, such as ["conv1", "conv2"], or "*" for '
        "all; without it the model class's own declaration holds",
    )
    private: Patterns | None = Field(
        default=None,
        description='the modules or patterns to keep, such as ["classifier"]',
    )
    initial: Annotated[InitialConfig | None, BeforeValidator(_initial)] = Field(
        default=None,
        description='a safetensors file, such as "initial.safetensors" or '
        '{ file = "initial.safetensors", digest = "..." }',
    )
    public_head: Literal["pool-linear"] | None = Field(
        default=None,
        description='"pool-linear": a public frozen head at the cut, for parties whose private '
        'parts differ under mode = "dp-frozen"; or left out',
    )

    @across("shared", "private")
    def one_side_each(self) -> Iterator[Finding]:
        both = sorted(set(self.shared or ()) & set(self.private or ()))
        if both:
            yield Finding("private", both, "also stands in shared; a tensor has one side only")


class PreprocessingConfig(Section):
    """How an image becomes numbers; public constants, never statistics of anyone's data."""

    channels: Literal[1, 3] = Field(description="1 (grey) or 3 (red, green, blue)")
    size: Annotated[tuple[Pixels, Pixels], Field(strict=False)] = Field(
        description="height and width in pixels, 8192 at most, such as [28, 28]"
    )
    mean: Annotated[tuple[float, ...], Field(strict=False)] = Field(
        description="one number a channel on the scale 0 to 1, such as [0.5]"
    )
    std: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        description="one number above 0 a channel on the scale 0 to 1, such as [0.5]"
    )

    @across("channels", "mean")
    def mean_fits(self) -> Iterator[Finding]:
        yield from self._one_a_channel("mean", self.mean)

    @across("channels", "std")
    def std_fits(self) -> Iterator[Finding]:
        yield from self._one_a_channel("std", self.std)

    def _one_a_channel(self, key: str, values: tuple[float, ...]) -> Iterator[Finding]:
        if len(values) != self.channels:
            cure = f"should hold {self.channels} number(s), one a channel"
            yield Finding(key, list(values), cure)


class FederationConfig(Section):
    """The whole agreement; see :meth:`contract` for what is hashed and compared."""

    name: Name = Field(description=f"a name of {NAME_RULE}")
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = Field(
        description=f"the number of rounds, a whole number from 1 to {MOST_ROUNDS}"
    )
    classes: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        description='the class names in their agreed order, such as ["benign", "malignant"]; '
        "[] for regression"
    )
    seed: Seed = Field(description="a public whole number >= 0")
    algorithm: Algorithm = Field(
        default="fedper",
        description='"fedper" (the shared layers are averaged), "fedavg" (all layers), "fedrep", '
        '"fedbabu", "fedbn" or "lg-fedavg"',
    )
    model: ModelConfig = Field(description="a [model] table with at least factory")
    preprocessing: PreprocessingConfig = Field(
        description="a [preprocessing] table with channels, size, mean and std"
    )
    aggregation: AggregationConfig = Field(
        description="an [aggregation] table with at least max_update_norm"
    )
    privacy: PrivacyConfig = Field(
        description='a [privacy] table with mode, such as mode = "dp-frozen"'
    )
    fusion: FusionConfig = Field(
        default_factory=FusionConfig,
        description='a [fusion] table with method = "none", "distill", "average" or "ensemble"',
    )
    parties: Annotated[dict[Name, RosterEntry], Field(min_length=1)] = Field(
        description=f"one [parties.NAME] table for each party; NAME of {NAME_RULE}"
    )

    CONTRACT_SCHEMA: ClassVar[int] = 4

    @across("classes")
    def classes_differ(self) -> Iterator[Finding]:
        twice = sorted(name for name, times in Counter(self.classes).items() if times > 1)
        if twice:
            yield Finding("classes", twice, "named twice; every class needs a name of its own")
        if len(self.classes) == 1:
            cure = "should be two classes or more, or [] for regression"
            yield Finding("classes", list(self.classes), cure)

    @across("aggregation.weights", "parties")
    def weights_name_every_party(self) -> Iterator[Finding]:
        weights = self.aggregation.weights
        if not isinstance(weights, dict):
            return
        for name in sorted(set(self.parties) - set(weights)):
            yield Finding("aggregation.weights", weights, f"gives {name} no weight; add one")
        for name in sorted(set(weights) - set(self.parties)):
            cure = f"names no party{did_you_mean(name, self.parties) or '; drop it'}"
            yield Finding(f"aggregation.weights.{name}", weights[name], cure)

    @across("aggregation.minimum_parties", "parties")
    def minimum_is_a_majority(self) -> Iterator[Finding]:
        minimum, number = self.aggregation.minimum_parties, len(self.parties)
        if minimum is not None and not number / 2 < minimum <= number:
            cure = (
                f"should be {number // 2 + 1} to {number}: more than half of the {number} "
                "parties, at most all"
            )
            yield Finding("aggregation.minimum_parties", minimum, cure)

    @across("privacy.mode", "privacy.delta", "parties")
    def delta_is_small(self) -> Iterator[Finding]:
        delta = self.privacy.delta
        if self.privacy.mode not in DP_SGD or delta is None:
            return
        for name, entry in sorted(self.parties.items()):
            records = getattr(entry, "records", None)
            if records and delta * records >= 1:
                cure = (
                    f"should be below 1/n = 1/{records} of {name}, better below 1/(10 n): with "
                    "1/n, publishing one record whole would satisfy the guarantee"
                )
                yield Finding("privacy.delta", delta, cure)

    @across("algorithm", "privacy.mode", "model.shared", "model.private")
    def algorithm_fits(self) -> Iterator[Finding]:
        model = self.model
        mode = self.privacy.mode
        yield from algorithm_findings(self.algorithm, mode, model.shared, model.private)

    @across("privacy.mode", "model.public_head")
    def public_head_is_used(self) -> Iterator[Finding]:
        head = self.model.public_head
        if head is not None and self.privacy.mode != "dp-frozen":
            cure = f'is frozen under mode = "dp-frozen" alone, not "{self.privacy.mode}"; drop it'
            yield Finding("model.public_head", head, cure)

    @across("fusion.method", "privacy.mode", "privacy.fusion_epsilon")
    def fusion_keeps_the_promise(self) -> Iterator[Finding]:
        yield from fusion_and_privacy(self.fusion, self.privacy)

    @across("fusion.every", "algorithm")
    def frozen_layers_say_nothing(self) -> Iterator[Finding]:
        if self.fusion.every is not None and self.algorithm == "fedbabu":
            cure = (
                'contradicts algorithm = "fedbabu", whose private layers keep their initial values '
                "until the last round: their outputs mean nothing before; drop it"
            )
            yield Finding("fusion.every", self.fusion.every, cure)

    @across("fusion.method", "classes")
    def outputs_are_of_classes(self) -> Iterator[Finding]:
        if self.fusion.method == "distill" and not self.classes:
            cure = "exchanges class probabilities, and the agreement has no classes (regression)"
            yield Finding("fusion.method", "distill", cure)

    @across("fusion.method", "parties")
    def models_are_built_by_others(self) -> Iterator[Finding]:
        for name, entry in sorted(self.parties.items()):
            model = getattr(entry, "model", None)
            if model is not None and self.fusion.method != "ensemble":
                cure = (
                    'is read under [fusion] method = "ensemble" alone, not '
                    f'"{self.fusion.method}"; '
                    f"a different private part stands in {name}'s party.toml"
                )
                yield Finding(f"parties.{name}.model", model.factory, cure)

    @across("parties")
    def parties_differ(self) -> Iterator[Finding]:
        yield from differing(self.parties)

    @across("parties")
    def old_keys_handed_over(self) -> Iterator[Finding]:
        yield from wrong_statements(self.parties)

    @property
    def minimum_parties(self) -> int:
        """Parties that a round needs: as agreed, else both of two, a strict majority of more."""
        if self.aggregation.minimum_parties is not None:
            return self.aggregation.minimum_parties
        return default_minimum(len(self.parties))

    @property
    def members_needed(self) -> int:
        """Parties without which every round would be void."""
        agreed = self.aggregation
        return members_needed(agreed.rule, agreed.byzantine, self.minimum_parties)

    def weights(self) -> dict[str, float]:
        """The public weight of each party in the mean, not normalised."""
        agreed = self.aggregation.weights
        if isinstance(agreed, dict):
            return {name: agreed[name] for name in sorted(agreed)}
        return {
            name: float(entry.records) if agreed == "records" else 1.0
            for name, entry in sorted(self.parties.items())
        }

    def contract(self) -> dict[str, Any]:
        """What all parties must agree on: parsed, defaulted, sorted and JSON-able.

        Without addresses, keys and file paths: those may differ or change without the
        parties training anything else than agreed.
        """
        document: dict[str, Any] = self.model_dump(mode="json", exclude={"parties"})
        document["schema"] = self.CONTRACT_SCHEMA
        initial = self.model.initial
        document["model"]["initial"] = None if initial is None else initial.digest
        document["aggregation"]["minimum_parties"] = self.minimum_parties
        document["parties"] = {
            name: {
                "records": entry.records,
                "model": None if entry.model is None else entry.model.model_dump(mode="json"),
            }
            for name, entry in self.parties.items()
        }
        ordered: dict[str, Any] = json.loads(canonical_json(document))
        return ordered

    @property
    def contract_digest(self) -> bytes:
        """BLAKE3 over the canonical JSON of :meth:`contract`, 32 bytes."""
        return digest_of("contract", self.contract())

    def roster(self) -> dict[str, Any]:
        """Who is who: each party's public keys, present and retired, sorted by name."""
        return {name: entry.roster() for name, entry in sorted(self.parties.items())}

    @property
    def roster_digest(self) -> bytes:
        """BLAKE3 over the canonical JSON of :meth:`roster`, 32 bytes."""
        return digest_of("roster", self.roster())

    def fingerprint(self, party: str) -> str:
        """What stands for a party's name and keys, present and retired, where people compare
        them by telephone: 128 bits as eight groups of four hexadecimal digits."""
        digits = digest_of("party keys", [party, self.parties[party].roster()]).hex()[:32]
        return " ".join(digits[start : start + 4] for start in range(0, 32, 4))

    def listener(self, one: str, other: str) -> str | None:
        """Which of two parties listens: the one with an address; of two, the first by name."""
        reachable = [name for name in sorted((one, other)) if self.parties[name].address]
        return reachable[0] if reachable else None


def default_minimum(parties: int) -> int:
    """All of one or two parties, a strict majority of more."""
    return parties if parties <= 2 else parties // 2 + 1
