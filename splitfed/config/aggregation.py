"""[aggregation] of federation.toml: by which rule updates are brought together, and what it needs.

The rules themselves stand in ``splitfed.aggregation``; here stands what an agreement must fulfil
before one of them means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator

from splitfed.config.faults import Finding, Section, across, did_you_mean, shown
from splitfed.config.fusion import Digest
from splitfed.config.privacy import Count, Positive
from splitfed.config.values import Name

RuleName = Literal[
    "mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median",
    "centred-clipping", "fltrust",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a rule needs of an agreement.

    Attributes:
        parties: byzantine -> the parties that it takes to stand that many lying ones.
        formula: the same in words.
        told: whether the rule itself reads ``byzantine``, which must then be 1 or more.
        weighs: whether the parties' weights have a meaning for it.
        reads: the one further key that it reads, and must be given.
        stands: what it stands, in a sentence for `plan`.
    """

    parties: Callable[[int], int]
    formula: str
    told: bool = False
    weighs: bool = False
    reads: Literal["clip", "root"] | None = None
    stands: str


def _majority(byzantine: int) -> int:
    return max(3, 2 * byzantine + 1)


NEEDS: Mapping[str, Need] = MappingProxyType(
    {
        "mean": Need(
            parties=lambda byzantine: 1,
            formula="1",
            weighs=True,
            stands="no lying party: one can move the result by its share of max_update_norm",
        ),
        "median": Need(
            parties=_majority,
            formula="2 byzantine + 1, and no fewer than 3",
            stands="fewer than half: each value stays between those of honest parties",
        ),
        "trimmed-mean": Need(
            parties=lambda byzantine: 2 * byzantine + 1,
            formula="2 byzantine + 1",
            told=True,
            stands="as many as byzantine says: each value stays between those of honest parties",
        ),
        "krum": Need(
            parties=lambda byzantine: 2 * byzantine + 3,
            formula="2 byzantine + 3",
            told=True,
            stands="as many as byzantine says: the result is one party's update, near the others",
        ),
        "multi-krum": Need(
            parties=lambda byzantine: 2 * byzantine + 3,
            formula="2 byzantine + 3",
            told=True,
            stands="as many as byzantine says, if their updates lie far from the others; a "
            "near one is averaged in",
        ),
        "bulyan": Need(
            parties=lambda byzantine: 4 * byzantine + 3,
            formula="4 byzantine + 3",
            told=True,
            stands="as many as byzantine says, also where they lie in few of the values",
        ),
        "geometric-median": Need(
            parties=_majority,
            formula="2 byzantine + 1, and no fewer than 3",
            weighs=True,
            stands="fewer than half of the weight: the result stays near the honest updates",
        ),
        "centred-clipping": Need(
            parties=_majority,
            formula="2 byzantine + 1, and no fewer than 3",
            reads="clip",
            stands="fewer than half: no party, lying or not, moves the result by more than "
            "clip / N",
        ),
        "fltrust": Need(
            parties=lambda byzantine: byzantine + 2,
            formula="byzantine + 2",
            reads="root",
            stands="any number, but not the root party, which all must trust: only what points its "
            "way counts, and no step is longer than its own",
        ),
    }
)


def _weights(value: Any) -> str | dict[str, float]:
    if isinstance(value, dict):
        for weight in value.values():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise ValueError("has a weight that is no number")
            if not 0 < weight < float("inf"):
                raise ValueError("has a weight that is not above 0")
        return {str(name): float(weight) for name, weight in value.items()}
    if value not in ("equal", "records"):
        raise ValueError("is no weighting")
    return str(value)


Weights = Annotated[str | dict[str, float], PlainValidator(_weights)]


class RootConfig(Section):
    """Whose updates FLTrust measures the others by."""

    party: Name = Field(
        description="the party that trains on the agreed root set, a small public labelled set; "
        "its own [data] train is that set"
    )
    digest: Digest | None = Field(
        default=None,
        description="BLAKE3 of the preprocessed root set, 64 hexadecimal digits (left out: "
        "whatever that party trains on)",
    )


class AggregationConfig(Section):
    """How the parties' updates become the next shared tensors."""

    rule: RuleName = Field(
        default="mean",
        description=" or ".join(
            (", ".join(map(shown, get_args(RuleName)[:-1])), shown(get_args(RuleName)[-1]))
        ),
    )
    byzantine: Annotated[int, Field(ge=0)] = Field(
        default=0, description="how many lying parties the rule must stand, a whole number >= 0"
    )
    clip: Positive | None = Field(
        default=None,
        description='under rule = "centred-clipping", how far one update may lie from the shared '
        "tensors before it is shortened, a number above 0",
    )
    root: RootConfig | None = Field(
        default=None,
        description='under rule = "fltrust", a table { party = "registry", digest = "..." }: who '
        "trains on the agreed root set",
    )
    max_update_norm: Positive = Field(
        description="the public bound on the norm of one update, a number above 0; "
        "`splitfed init` writes max(1, norm of the initial shared tensors)"
    )
    weights: Weights = Field(
        default="equal",
        description='"equal", "records", or a table that gives every party a number above 0',
    )
    minimum_parties: Count | None = Field(
        default=None,
        description="how many parties a round needs at least: more than half, at most all",
    )
    max_void_rounds: Annotated[int, Field(ge=0)] = Field(
        default=3, description="how many void rounds are tolerated in all, a whole number >= 0"
    )

    @across("rule", "byzantine")
    def liars_are_counted(self) -> Iterator[Finding]:
        if self.rule == "mean" and self.byzantine:
            cure = (
                'rule = "mean" stands no lying party; choose another rule ("median" needs no more '
                "than an honest majority), or drop it"
            )
            yield Finding("byzantine", self.byzantine, cure)
        if NEEDS[self.rule].told and not self.byzantine:
            cure = (
                f"rule = {shown(self.rule)} must be told how many lying parties it has to stand: "
                f"byzantine = 1 needs {NEEDS[self.rule].parties(1)} parties"
            )
            yield Finding("byzantine", self.byzantine, cure)

    @across("rule", "clip")
    def clip_is_read(self) -> Iterator[Finding]:
        yield from self._read_where("clip", self.clip, "such as clip = 1.0")

    @across("rule", "root")
    def root_is_read(self) -> Iterator[Finding]:
        value = None if self.root is None else self.root.model_dump()
        yield from self._read_where("root", value, 'such as root = { party = "registry" }')

    @property
    def sentence(self) -> str:
        """The rule, what it was told and what it stands, for `plan`."""
        told = [
            *([f"byzantine = {self.byzantine}"] if self.byzantine else ()),
            *([f"clip = {self.clip:g}"] if self.clip is not None else ()),
            *([f"root party {self.root.party}"] if self.root is not None else ()),
        ]
        known = f" ({', '.join(told)})" if told else ""
        return f"{self.rule}{known} stands {NEEDS[self.rule].stands}"

    def _read_where(self, key: str, value: Any, example: str) -> Iterator[Finding]:
        reads = NEEDS[self.rule].reads == key
        if reads and value is None:
            yield Finding(key, None, f"missing; rule = {shown(self.rule)} needs it, {example}")
        if value is not None and not reads:
            yield Finding(key, value, f"is not read under rule = {shown(self.rule)}; drop it")

    @across("rule", "weights")
    def weights_have_a_meaning(self) -> Iterator[Finding]:
        if self.weights != "equal" and not NEEDS[self.rule].weighs:
            cure = (
                f'rule = {shown(self.rule)} counts every party once; use "equal", or a rule that '
                "weighs: " + ", ".join(shown(name) for name, need in NEEDS.items() if need.weighs)
            )
            yield Finding("weights", self.weights, cure)


def rule_findings(aggregation: AggregationConfig, parties: Mapping[str, Any]) -> Iterator[Finding]:
    """What the agreed rule lacks among all ``parties``.

    Apart from the checks of :class:`AggregationConfig`, because a federation grows by one party
    after the other: what it needs must be there when it runs.
    """
    rule, number = aggregation.rule, len(parties)
    shortage = too_few(rule, aggregation.byzantine, number)
    if shortage:
        yield Finding("aggregation.rule", rule, shortage)
    root = aggregation.root
    if root is not None and root.party not in parties:
        cure = f"names no party{did_you_mean(root.party, parties)}"
        yield Finding("aggregation.root.party", root.party, cure)


def members_needed(rule: str, byzantine: int, minimum: int) -> int:
    """Parties without which every round would be void: the agreed ``minimum``, and as many as the
    rule needs updates."""
    return max(minimum, NEEDS[rule].parties(byzantine))


def too_few(rule: str, byzantine: int, number: int) -> str:
    """Why ``number`` parties are too few for a rule, with the cure; empty if they are not."""
    needed = NEEDS[rule].parties(byzantine)
    if number >= needed:
        return ""
    why = (
        f"needs at least {needed} parties ({NEEDS[rule].formula}; byzantine = {byzantine}), and "
        f"there are {number}"
    )
    if number <= 2:
        return (
            f"{why}: of two parties nobody can tell which one lies, and such a rule is the mean "
            'or an arbitrary pick; use "mean", whose max_update_norm bounds both'
        )
    least = 1 if NEEDS[rule].told else 0
    lower = [b for b in range(least, byzantine) if number >= NEEDS[rule].parties(b)]
    cures = [
        *([f"lower byzantine to {lower[-1]}"] if lower else ()),
        "bring in more parties",
        *(['use "median"'] if number >= NEEDS["median"].parties(byzantine) else ()),
    ]
    return f"{why}; {', or '.join(cures)}"
