"""The rules an agreement may name in ``[aggregation] rule``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from splitfed.aggregation.mean import weighted_mean
from splitfed.errors import UserError
from splitfed.tensors import Tensors

Apply = Callable[[Mapping[str, Tensors], Mapping[str, float]], Tensors]
"""(party -> update, party -> weight) -> aggregate; pure and deterministic."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the admitted updates of one round become one set of shared tensors.

    Attributes:
        name: as written in the agreement.
        minimum_parties: fewer updates than this make the rule meaningless; it refuses.
        apply: the pure function itself.
    """

    name: str
    minimum_parties: int
    apply: Apply

    def check(self, parties: int) -> None:
        """Raises:
        UserError: ``parties`` is below what this rule needs.
        """
        if parties < self.minimum_parties:
            raise UserError(
                f"[aggregation] rule = {self.name!r} needs at least {self.minimum_parties} "
                f"parties, and the agreement has {parties}",
                "choose rule = 'mean', or bring in more parties",
            )

    def __call__(self, updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> Tensors:
        """Aggregate ``updates``.

        Raises:
            UserError: fewer updates than ``minimum_parties``.
        """
        self.check(len(updates))
        return self.apply(updates, weights)


RULES: Mapping[str, Rule] = MappingProxyType(
    {"mean": Rule(name="mean", minimum_parties=1, apply=weighted_mean)}
)


def find_rule(name: str, parties: int) -> Rule:
    """The rule called ``name``, known to work for ``parties`` parties.

    Raises:
        UserError: no such rule, or too few parties for it.
    """
    rule = RULES.get(name)
    if rule is None:
        raise UserError(
            f"[aggregation] rule = {name!r} is not built",
            f"choose one of: {', '.join(sorted(RULES))}",
        )
    rule.check(parties)
    return rule
