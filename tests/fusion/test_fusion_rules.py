from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import Defect, UserError
from splitfed.fusion import (
    OUTPUTS,
    RULES,
    Group,
    find_rule,
    matched_average,
    mean_probabilities,
    soften,
)


def drawn(seed: int, rows: int = 50, classes: int = 7) -> torch.Tensor:
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 3
    return logits.softmax(dim=1)


# --- temperature ---------------------------------------------------------------------------


def test_temperature_one_changes_nothing() -> None:
    probabilities = drawn(1)
    assert torch.allclose(soften(probabilities, 1.0), probabilities.double(), atol=1e-7)


def test_high_temperature_is_uniform() -> None:
    assert torch.allclose(soften(drawn(1), 1e9), torch.full((50, 7), 1 / 7, dtype=torch.float64))


def test_high_temperature_is_uniform_even_where_float32_left_a_zero() -> None:
    softened = soften(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 1e9)
    assert torch.allclose(softened, torch.full((1, 4), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_softening_is_the_softmax_of_the_scaled_logits(temperature: float) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = (logits / temperature).softmax(dim=1)
    assert torch.allclose(soften(logits.softmax(dim=1), temperature), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_zeros_are_safe(temperature: float) -> None:
    softened = soften(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]), temperature)
    assert softened.dtype == torch.float64
    assert bool(torch.isfinite(softened).all())
    assert torch.allclose(softened.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert softened[0].argmax() == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperature_that_is_none_is_a_defect(temperature: float) -> None:
    with pytest.raises(Defect, match="temperature"):
        soften(drawn(1), temperature)


# --- means ---------------------------------------------------------------------------------


def test_mean_of_two_is_as_by_hand() -> None:
    mean = mean_probabilities([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]])])
    assert mean.tolist() == [[0.625, 0.375]]


@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=5))
def test_rows_of_a_mean_sum_to_one(seeds: list[int]) -> None:
    mean = mean_probabilities([drawn(seed) for seed in seeds])
    assert mean.dtype == torch.float64
    assert float((mean.sum(dim=1) - 1).abs().max()) < 1e-14
    assert float(mean.min()) >= 0.0


def test_mean_does_not_touch_its_members() -> None:
    member = drawn(1).double()
    kept = member.clone()
    mean_probabilities([member]).zero_()
    assert torch.equal(member, kept)


@pytest.mark.parametrize(
    "members",
    [[], [torch.ones(2, 3), torch.ones(3, 3)], [torch.ones(3)]],
    ids=["none", "unequal", "flat"],
)
def test_members_that_do_not_fit_are_a_defect(members: list[torch.Tensor]) -> None:
    with pytest.raises(Defect, match="probabilities"):
        mean_probabilities(members)


# --- rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["distill", "ensemble"])
def test_rule_on_outputs_is_their_mean_in_the_order_of_names(name: str) -> None:
    tiny = torch.tensor([[2.0**-53, 1.0]])  # lost when added to one, unless to its like first
    large = torch.tensor([[1.0, 2.0**-53]])
    released = {party: {OUTPUTS: t} for party, t in (("c", large), ("a", tiny), ("b", tiny))}
    combine = find_rule(name).combine
    expected = mean_probabilities([tiny, tiny, large])
    assert not torch.equal(expected, mean_probabilities([large, tiny, tiny]))
    for parties in (released, dict(reversed(released.items()))):
        joint = combine(parties, {}, ())
        assert list(joint) == [OUTPUTS]
        assert torch.equal(joint[OUTPUTS], expected)


def test_average_rule_matches_channels() -> None:
    groups = (Group(2, (("w", 0, 1),)),)
    parties = {"a": {"w": torch.tensor([1.0, 9.0])}, "b": {"w": torch.tensor([9.0, 1.0])}}
    rule = find_rule("average")
    assert rule.combine is matched_average
    assert rule.combine(parties, {"a": 1.0, "b": 3.0}, groups)["w"].tolist() == [1.0, 9.0]


def test_rules_say_what_leaves_the_house() -> None:
    assert {name: (rule.name, rule.releases, rule.combines) for name, rule in RULES.items()} == {
        "distill": ("distill", "outputs", "outputs"),
        "average": ("average", "private", "private"),
        "ensemble": ("ensemble", "private", "outputs"),
    }


def test_unknown_rule_names_those_that_are() -> None:
    with pytest.raises(UserError, match="average, distill, ensemble"):
        find_rule("none")
