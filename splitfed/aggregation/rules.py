"""The rules an agreement may name in ``[aggregation] rule``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from splitfed.aggregation.arithmetic import check_alike
from splitfed.aggregation.bulyan import bulyan
from splitfed.aggregation.clipping import centred_clipping
from splitfed.aggregation.fltrust import fltrust
from splitfed.aggregation.geometric import geometric_median
from splitfed.aggregation.krum import krum, multi_krum
from splitfed.aggregation.mean import weighted_mean
from splitfed.aggregation.median import median
from splitfed.aggregation.trimmed import trimmed_mean
from splitfed.config import NEEDS, too_few
from splitfed.errors import Defect, UserError
from splitfed.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the agreement says to a rule.

    Attributes:
        weights: public weight of each party; read by rules that weigh.
        byzantine: how many lying parties the rule must stand.
        clip: the radius c of centred clipping.
        root: the party by whose updates FLTrust measures the others.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    byzantine: int = 0
    clip: float | None = None
    root: str | None = None


Apply = Callable[[Mapping[str, Tensors], Mapping[str, torch.Tensor], Parameters], Tensors]
"""(party -> update, the shared tensors agreed on last, parameters) -> aggregate; pure and
deterministic. Tensors come and go with equal names, shapes and dtypes."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the admitted updates of one round become one set of shared tensors.

    Attributes:
        name: as written in the agreement; ``config.NEEDS`` says what it needs.
        apply: the pure function itself. Call the rule, which checks, rather than this.
    """

    name: str
    apply: Apply

    def minimum(self, byzantine: int) -> int:
        """Parties that it takes to stand ``byzantine`` lying ones."""
        return NEEDS[self.name].parties(byzantine)

    def check(self, parties: int, byzantine: int = 0) -> None:
        """Raises:
        UserError: ``parties`` is below what this rule needs.
        """
        if shortage := too_few(self.name, byzantine, parties):
            raise UserError(f"[aggregation] rule = {self.name!r} {shortage}")

    def __call__(
        self,
        updates: Mapping[str, Tensors],
        base: Mapping[str, torch.Tensor],
        parameters: Parameters,
    ) -> Tensors:
        """Aggregate ``updates``.

        Raises:
            UserError: fewer updates than the rule needs.
            Defect: updates that differ in a name, shape or dtype, or a key that was not given.
        """
        self.check(len(updates), parameters.byzantine)
        reads = NEEDS[self.name].reads
        if reads is not None and getattr(parameters, reads) is None:
            raise Defect(f"rule {self.name} without {reads}")
        if parameters.root is not None and parameters.root not in updates:
            raise Defect(f"rule {self.name} without an update of {parameters.root}")
        result = self.apply(updates, base, parameters)
        return {name: result[name] for name in sorted(result)}

    def round(
        self,
        updates: Mapping[str, Tensors],
        base: Mapping[str, torch.Tensor],
        parameters: Parameters,
        *,
        caught: int = 0,
    ) -> Tensors | None:
        """What a round comes to; None where too few updates are there: then it is void.

        A party whose update was refused at the gate is one of the ``byzantine`` ones, for an
        honest party's never is. So where the rule could not stand as many any more among those
        that are left, it need stand only those that are not ``caught`` yet: otherwise one liar who
        sends rubbish would make every round of a federation without a party to spare void.
        """
        if parameters.root is not None and parameters.root not in updates:
            return None
        most = parameters.byzantine
        for byzantine in range(most, max(most - caught, 0) - 1, -1):
            if len(updates) >= self.minimum(byzantine):
                return self(updates, base, replace(parameters, byzantine=byzantine))
        return None


def _checked(apply: Apply) -> Apply:
    """The same with Defects for updates that are not alike, for rules that hold all at once."""

    def checked(
        updates: Mapping[str, Tensors], base: Mapping[str, torch.Tensor], parameters: Parameters
    ) -> Tensors:
        held = {party: updates[party] for party in sorted(updates)}
        first = min(held)
        for party, tensors in held.items():
            check_alike(tensors, party, held[first], first)
        return apply(held, base, parameters)

    return checked


def _clipped(
    updates: Mapping[str, Tensors], base: Mapping[str, torch.Tensor], parameters: Parameters
) -> Tensors:
    assert parameters.clip is not None  # asked before
    return centred_clipping(updates, base, parameters.clip)


def _trusted(
    updates: Mapping[str, Tensors], base: Mapping[str, torch.Tensor], parameters: Parameters
) -> Tensors:
    assert parameters.root is not None  # asked before
    return fltrust(updates, base, parameters.root)


_APPLY: Mapping[str, Apply] = {
    "median": lambda updates, base, parameters: median(updates),
    "trimmed-mean": lambda updates, base, parameters: trimmed_mean(updates, parameters.byzantine),
    "krum": lambda updates, base, parameters: krum(updates, parameters.byzantine),
    "multi-krum": lambda updates, base, parameters: multi_krum(updates, parameters.byzantine),
    "bulyan": lambda updates, base, parameters: bulyan(updates, parameters.byzantine),
    "geometric-median": lambda updates, base, parameters: geometric_median(
        updates, parameters.weights
    ),
    "centred-clipping": _clipped,
    "fltrust": _trusted,
}

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "mean": Rule(
            name="mean",
            apply=lambda updates, base, parameters: weighted_mean(updates, parameters.weights),
        ),
        **{name: Rule(name=name, apply=_checked(apply)) for name, apply in _APPLY.items()},
    }
)
