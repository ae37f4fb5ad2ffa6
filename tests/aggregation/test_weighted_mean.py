from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitfed.aggregation import arithmetic, weighted_mean
from splitfed.aggregation import mean as mean_module
from splitfed.errors import Defect
from splitfed.tensors import digest
from tests.support.updates import OneByOne

EQUAL = {"a": 1.0, "b": 1.0}


def of(party_values: dict[str, object], dtype: torch.dtype = torch.float32) -> dict[str, dict]:
    return {
        party: {"w": torch.tensor(values, dtype=dtype)} for party, values in party_values.items()
    }


def test_three_clients_are_averaged_as_by_hand() -> None:
    updates = of({"a": [1.0, -2.0], "b": [2.0, 0.0], "c": [6.0, 4.0]})
    mean = weighted_mean(updates, {"a": 1, "b": 1, "c": 2})
    assert mean["w"].tolist() == [(1 + 2 + 12) / 4, (-2 + 0 + 8) / 4]


floats32 = st.floats(-1e6, 1e6, width=32)


@given(
    values=st.lists(floats32, min_size=2, max_size=5),
    weights=st.lists(st.integers(1, 10_000), min_size=5, max_size=5),
)
def test_float32_mean_is_the_exact_mean_rounded_once(
    values: list[float], weights: list[int]
) -> None:
    parties = [f"p{i}" for i in range(len(values))]
    shares = dict(zip(parties, weights, strict=False))
    updates = {p: {"w": torch.tensor([v])} for p, v in zip(parties, values, strict=True)}
    exact = sum(Fraction(v) * shares[p] for p, v in zip(parties, values, strict=True))
    exact /= sum(shares.values())
    result = float(weighted_mean(updates, shares)["w"][0])
    ulp = Fraction(float(np.spacing(np.float32(abs(result)))))
    slack = Fraction(max(abs(v) for v in values)) / 2**48  # float64 sums, far below float32
    assert abs(Fraction(result) - exact) <= ulp / 2 + slack


@given(value=floats32, weights=st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=6))
def test_equal_updates_average_to_themselves(value: float, weights: list[float]) -> None:
    shares = {f"p{i}": w for i, w in enumerate(weights)}
    updates = {party: {"w": torch.tensor([value])} for party in shares}
    assert weighted_mean(updates, shares)["w"].item() == torch.tensor(value).item()


def test_order_of_parties_and_names_in_the_mappings_changes_no_bit() -> None:
    gen = torch.Generator().manual_seed(5)
    scale = {"a": 1e-8, "b": 1.0, "c": 1e8}
    updates = {
        p: {n: torch.randn(1000, generator=gen, dtype=torch.float64) * s for n in ("x", "y")}
        for p, s in scale.items()
    }
    weights = {"a": 0.1, "b": 0.7, "c": 0.3}
    forward = weighted_mean(updates, weights)
    turned = {p: dict(reversed(updates[p].items())) for p in reversed(updates)}
    backward = weighted_mean(turned, dict(reversed(weights.items())))
    assert list(forward) == list(backward) == ["x", "y"]
    assert all(torch.equal(forward[n], backward[n]) for n in forward)


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

SIGNS = list(product((1.0, -1.0), repeat=3))
"""Those of the zeros that three parties have in one place, for eight places."""


def zeros(dtype: torch.dtype) -> dict[str, dict]:
    columns = zip("abc", zip(*SIGNS, strict=True), strict=True)
    return of({party: [0.0 * sign for sign in signs] for party, signs in columns}, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("length", [arithmetic.SLICE, 3])
def test_a_mean_of_zeros_is_negative_where_all_are_and_nowhere_else(
    dtype: torch.dtype, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So equal updates come out bit for bit: the digest that is voted on covers the sign too."""
    monkeypatch.setattr(arithmetic, "SLICE", length)
    mean = weighted_mean(zeros(dtype), {"a": 0.3, "b": 5.0, "c": 1.0})["w"]
    assert mean.tolist() == [0.0] * 8
    assert torch.signbit(mean).tolist() == [signs == (-1.0,) * 3 for signs in SIGNS]


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_have_the_same_sign_whoever_has_which_and_in_whatever_order(
    dtype: torch.dtype,
) -> None:
    updates, weights = zeros(dtype), {"a": 0.3, "b": 5.0, "c": 1.0}
    whole = weighted_mean(updates, weights)
    for order in permutations("abc"):
        turned = {party: updates[party] for party in order}
        assert digest(weighted_mean(turned, weights)) == digest(whole)
        named = {name: updates[party] for name, party in zip("abc", order, strict=True)}
        assert digest(weighted_mean(named, weights)) == digest(whole)


def test_what_cancels_out_is_a_positive_zero_and_what_is_rounded_away_keeps_its_sign() -> None:
    cancelled = weighted_mean(of({"a": [2.0, -2.0], "b": [-2.0, 2.0]}), EQUAL)["w"]
    assert torch.signbit(cancelled).tolist() == [False, False]
    least = float(torch.finfo(torch.float32).smallest_normal) * 2.0**-23
    gone = weighted_mean(of({"a": [least, -least], "b": [0.0, 0.0]}), {"a": 1.0, "b": 2.0})["w"]
    assert gone.tolist() == [0.0, 0.0]
    assert torch.signbit(gone).tolist() == [False, True]


def test_integer_buffers_are_rounded_half_to_even() -> None:
    updates = of({"a": [2, 3, -2, 7, 0], "b": [3, 4, -3, 8, 1]}, torch.int64)
    mean = weighted_mean(updates, EQUAL)["w"]
    assert mean.dtype == torch.int64
    assert mean.tolist() == [2, 4, -2, 8, 0]


def test_integer_mean_at_the_edge_of_int64_stays_inside_the_dtype() -> None:
    largest, smallest = 2**63 - 1, -(2**63)
    updates = of({"a": [largest, smallest], "b": [largest, smallest]}, torch.int64)
    high, low = weighted_mean(updates, EQUAL)["w"].tolist()
    assert high > 2**62
    assert low == smallest


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_small_integers_keep_their_dtype(dtype: torch.dtype) -> None:
    mean = weighted_mean(of({"a": [100, 1], "b": [127, 2]}, dtype), EQUAL)["w"]
    assert mean.dtype == dtype
    assert mean.tolist() == [114, 2]


def test_boolean_buffers_take_the_majority_and_false_on_a_tie() -> None:
    updates = of({"a": [True, True, False], "b": [True, False, False]}, torch.bool)
    assert weighted_mean(updates, EQUAL)["w"].tolist() == [True, False, False]
    assert weighted_mean(updates, {"a": 2.0, "b": 1.0})["w"].tolist() == [True, True, False]


def neighbours(dtype: torch.dtype, low: float) -> tuple[float, float]:
    """``low`` and the next larger number that ``dtype`` holds."""
    bits = torch.tensor([low], dtype=dtype).view(torch.int16) + 1
    return low, float(bits.view(dtype)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_half_precision_is_rounded_once_not_twice(dtype: torch.dtype, sign: float) -> None:
    """A mean a hair off the midpoint must go to the near side; via float32 it would first
    become the midpoint itself and then go to the even side."""
    low, high = neighbours(dtype, 1.0)  # 1.0 is even: a tie goes down
    heavy = 2.0**30 + 1  # pulls the mean just above the midpoint
    updates = of({"a": [sign * low], "b": [sign * high]}, dtype)
    tie = weighted_mean(updates, {"a": 2.0**30, "b": 2.0**30})["w"]
    above = weighted_mean(updates, {"a": 2.0**30, "b": heavy})["w"]
    assert tie.item() == sign * low
    assert above.item() == sign * high


@given(st.lists(st.floats(-(2.0**100), 2.0**100), min_size=1, max_size=8))
def test_bfloat16_rounding_picks_the_nearest_number(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    result = arithmetic.rounded(array, torch.bfloat16)
    for exact, rounded in zip(values, result, strict=True):
        bits = rounded.view(torch.int16)
        others = [(bits + step).view(torch.bfloat16).item() for step in (-1, 1)]
        error = abs(Fraction(rounded.item()) - Fraction(exact))
        assert all(error <= abs(Fraction(o) - Fraction(exact)) for o in others if np.isfinite(o))


def test_slices_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = torch.Generator().manual_seed(1)
    updates = {p: {"w": torch.randn(7, 11, generator=gen)} for p in ("a", "b", "c")}
    weights = {"a": 0.2, "b": 0.5, "c": 0.3}
    whole = weighted_mean(updates, weights)["w"]
    monkeypatch.setattr(arithmetic, "SLICE", 5)
    assert torch.equal(weighted_mean(updates, weights)["w"], whole)


def test_work_is_done_in_bounded_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    convert = mean_module.as_float64
    monkeypatch.setattr(arithmetic, "SLICE", 100)
    monkeypatch.setattr(
        mean_module, "as_float64", lambda v: (sizes.append(v.numel()), convert(v))[1]
    )
    weighted_mean({p: {"w": torch.ones(250)} for p in EQUAL}, EQUAL)
    assert sizes == [100, 100, 50, 100, 100, 50]


def test_scalars_empty_and_strided_tensors_keep_their_shape() -> None:
    base = torch.arange(6.0).reshape(2, 3)
    one = {"s": torch.tensor(1.0), "e": torch.empty(0, 4), "t": base.t()}
    two = {"s": torch.tensor(2.0), "e": torch.empty(0, 4), "t": base.t() * 3}
    mean = weighted_mean({"a": one, "b": two}, EQUAL)
    assert mean["s"].shape == ()
    assert mean["s"].item() == 1.5
    assert mean["e"].shape == (0, 4)
    assert torch.equal(mean["t"], base.t() * 2)


def test_result_shares_no_memory_with_an_update() -> None:
    updates = of({"a": [1.0, 2.0]})
    mean = weighted_mean(updates, {"a": 1.0})
    mean["w"].zero_()
    assert updates["a"]["w"].tolist() == [1.0, 2.0]


def test_gradients_do_not_ride_along() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    mean = weighted_mean({"a": {"w": parameter}}, {"a": 1.0})
    assert not mean["w"].requires_grad


@pytest.mark.parametrize(
    ("updates", "weights", "match"),
    [
        ({}, {}, "no updates"),
        (of({"a": [1.0], "b": [1.0]}), {"a": 1.0}, "party b has weight None"),
        (of({"a": [1.0]}), {"a": 0.0}, "party a has weight 0.0"),
        (of({"a": [1.0]}), {"a": float("nan")}, "party a has weight nan"),
        (of({"a": [1.0], "b": [1.0, 2.0]}), EQUAL, r"tensor w is \(2,\) .* at b"),
        (
            {**of({"a": [1.0]}), "b": {"w": torch.ones(1), "v": torch.ones(1)}},
            EQUAL,
            "tensor v is not in the updates of both a and b",
        ),
    ],
)
def test_unequal_input_is_a_defect_that_names_it(updates: dict, weights: dict, match: str) -> None:
    with pytest.raises(Defect, match=match):
        weighted_mean(updates, weights)


def test_updates_are_asked_for_one_after_the_other_and_none_is_kept() -> None:
    """A mapping that reads an update from disk when asked keeps memory from growing with N."""
    updates = OneByOne()
    result = weighted_mean(updates, {f"p{i}": 1.0 for i in range(8)})
    assert result["w"].tolist() == [3.5] * 10
    assert len(updates.made) == 8
