from __future__ import annotations

import pytest
import torch

from splitfed.aggregation import RULES, Rule, find_rule, weighted_mean
from splitfed.errors import UserError


def test_mean_is_the_only_rule_and_averages() -> None:
    assert list(RULES) == ["mean"]
    updates = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([4.0])}}
    weights = {"a": 2.0, "b": 1.0}
    assert find_rule("mean", 2)(updates, weights)["w"].tolist() == [2.0]


@pytest.mark.parametrize("name", ["median", "krum", ""])
def test_a_rule_that_is_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"rule = '{name}' is not built") as caught:
        find_rule(name, 5)
    assert "mean" in caught.value.cure


def test_a_rule_below_its_minimum_is_refused_by_name_and_number() -> None:
    rule = Rule(name="three-or-more", minimum_parties=3, apply=weighted_mean)
    rule.check(3)
    with pytest.raises(UserError, match="'three-or-more' needs at least 3 parties.* has 2"):
        rule.check(2)


def test_a_rule_also_refuses_when_too_few_updates_were_admitted() -> None:
    rule = Rule(name="three-or-more", minimum_parties=3, apply=weighted_mean)
    updates = {party: {"w": torch.ones(1)} for party in "ab"}
    with pytest.raises(UserError, match="three-or-more"):
        rule(updates, {"a": 1.0, "b": 1.0})


def test_rules_cannot_be_changed_while_running() -> None:
    with pytest.raises(TypeError):
        RULES["mean"] = RULES["mean"]
