"""What a simulated federation says of its aggregation, held to the laws of federation.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitfed.config import AggregationConfig, parse, rule_findings
from splitfed.errors import ConfigError, Fault, UserError

WHERE = "Federation(...)"


def aggregation_of(names: Sequence[str], **keys: Any) -> AggregationConfig:
    """The keys of [aggregation], for parties of these ``names``.

    Raises:
        ConfigError: a key is wrong, or the rule needs more than there is.
    """
    if isinstance(keys["weights"], Mapping):
        keys["weights"] = dict(keys["weights"])
    aggregation = parse(AggregationConfig, keys, WHERE)
    lacking = rule_findings(aggregation, dict.fromkeys(names))
    if faults := [Fault(WHERE, one.key, str(one.value), one.cure) for one in lacking]:
        raise ConfigError(faults)
    return aggregation


def weights_of(weights: str | Mapping[str, float], records: Mapping[str, int]) -> dict[str, float]:
    """Each party's weight: "equal", "records", or as given for every one.

    Raises:
        UserError: they are given for other parties.
    """
    if weights == "equal":
        return dict.fromkeys(records, 1.0)
    if weights == "records":
        return {name: float(count) for name, count in records.items()}
    if isinstance(weights, str) or set(weights) != set(records):
        raise UserError(
            f"weights = {weights!r}",
            'choose "equal", "records", or a positive number for every party',
        )
    return {name: float(weight) for name, weight in weights.items()}
