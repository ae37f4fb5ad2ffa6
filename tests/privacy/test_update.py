"""Whole updates: clipped to their bound, noised in float64, never anything that is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitfed.privacy.update import clipped_update, noised_update
from splitfed.tensors import Tensors
from tests.support.privacy import mechanism


def length(update: Tensors) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in update.values()))


def state(scale: float = 1.0, seed: int = 0) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=draw) * scale,
        "b": torch.randn(5, generator=draw) * scale,
    }


class Silent:
    """Noise that a test can compute: ones."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def gaussian(self, count: int) -> np.ndarray:
        self.asked.append(count)
        return np.ones(count)


@given(st.floats(1e-6, 1e6), st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3))
def test_an_update_is_never_longer_than_the_bound(bound: float, values: list[float]) -> None:
    base = {"a": torch.tensor([0.5, -2.0, 0.0])}
    assert length(clipped_update({"a": torch.tensor(values)}, base, bound)) <= bound


def test_a_long_update_keeps_its_direction_and_has_the_length_of_the_bound() -> None:
    base, now = state(seed=1), state(100.0, seed=2)
    moved = clipped_update(now, base, 0.5)
    assert length(moved) == pytest.approx(0.5, rel=1e-9)
    whole = {n: now[n].double() - base[n].double() for n in base}
    ratio = 0.5 / length(whole)
    for name, part in moved.items():
        torch.testing.assert_close(part, whole[name] * ratio)


def test_one_bound_holds_for_all_tensors_together() -> None:
    base = {name: torch.zeros(1) for name in "abcd"}
    moved = clipped_update({name: torch.ones(1) for name in "abcd"}, base, 1.0)
    assert [float(part) for part in moved.values()] == pytest.approx([0.5] * 4)


def test_a_short_update_is_left_as_it_is() -> None:
    base = state(seed=1)
    now = {name: value + 1e-4 for name, value in base.items()}
    moved = clipped_update(now, base, 1.0)
    assert all(torch.equal(moved[n], now[n].double() - base[n].double()) for n in base)


def test_no_movement_is_no_update() -> None:
    moved = clipped_update(state(), state(), 1.0)
    assert length(moved) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_zero_as_a_whole(value: float) -> None:
    base, now = state(seed=1), state(seed=2)
    now["b"][3] = value
    moved = clipped_update(now, base, 1.0)
    assert set(moved) == {"a", "b"}
    assert all(torch.equal(part, torch.zeros(part.shape).double()) for part in moved.values())


def test_an_update_whose_length_overflows_is_zero() -> None:
    base = {"a": torch.zeros(2, dtype=torch.float64)}
    now = {"a": torch.full((2,), 1e200, dtype=torch.float64)}
    assert length(clipped_update(now, base, 1.0)) == 0.0


def test_a_noised_update_is_base_and_clipped_update_and_twice_the_bound_times_sigma() -> None:
    terms = mechanism("party-update", unit="party", max_grad_norm=0.5, noise_multiplier=3.0)
    base, now = state(seed=1), state(9.0, seed=2)
    silent = Silent()
    noised = noised_update(now, base, terms, silent)
    moved = clipped_update(now, base, 0.5)
    for name in base:
        wanted = (base[name].double() + moved[name] + 2 * 0.5 * 3.0).float()
        assert torch.equal(noised[name], wanted)
    assert silent.asked == [12, 5]  # a draw for every value, tensors in the order of their names


def test_an_update_that_is_not_finite_is_noised_like_any_other() -> None:
    terms = mechanism("party-update", unit="party", max_grad_norm=0.5, noise_multiplier=1.0)
    base = state(seed=1)
    now = {name: torch.full_like(value, math.nan) for name, value in base.items()}
    noised = noised_update(now, base, terms, Silent())
    assert all(torch.equal(noised[n], (base[n].double() + 1.0).float()) for n in base)


def test_neither_base_nor_what_was_trained_is_touched() -> None:
    terms = mechanism("party-update", unit="party")
    base, now = state(seed=1), state(9.0, seed=2)
    noised_update(now, base, terms, Silent())
    clipped_update(now, base, 0.1)
    for name in base:
        assert torch.equal(base[name], state(seed=1)[name])
        assert torch.equal(now[name], state(9.0, seed=2)[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_leaves_has_the_shapes_and_dtypes_of_the_base(dtype: torch.dtype) -> None:
    terms = mechanism("party-update", unit="party")
    base = {name: value.to(dtype) for name, value in state(seed=1).items()}
    noised = noised_update(base, base, terms, Silent())
    assert {n: (t.shape, t.dtype) for n, t in noised.items()} == {
        n: (t.shape, dtype) for n, t in base.items()
    }
    assert not any(noised[name] is base[name] for name in base)
