"""How many lying parties each rule stands, and what happens with more."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from splitfed.aggregation import RULES, Parameters
from splitfed.tensors import Tensors

SIZE = 12
HUGE = 1e30
RNG = np.random.default_rng(11)
COMMON = RNG.normal(size=SIZE)
HONEST = COMMON + RNG.normal(size=(11, SIZE))


def lies(how: str, count: int) -> np.ndarray:
    """What the liars send: one place for all, a place each, both sides, or one value alone."""
    if how == "together":
        return np.full((count, SIZE), HUGE)
    if how == "apart":
        return HUGE * np.random.default_rng(1).normal(size=(count, SIZE))
    if how == "both sides":
        return np.array([np.full(SIZE, HUGE * (-1) ** i) for i in range(count)])
    one = HONEST[:count].copy()
    one[:, 3] = HUGE
    return one


HOW = ("together", "apart", "both sides", "one value")


def apply(name: str, parties: int, liars: int, how: str, **said) -> tuple[np.ndarray, np.ndarray]:
    """The result and the honest updates. Liars come first, last and between by name."""
    honest, lying = HONEST[: parties - liars], lies(how, liars)
    rows = [*lying[: liars // 2], *honest, *lying[liars // 2 :]]
    updates: dict[str, Tensors] = {
        f"p{i:02}": {"w": torch.tensor(row)} for i, row in enumerate(rows)
    }
    said.setdefault("weights", dict.fromkeys(updates, 1.0))
    base = {"w": torch.zeros(SIZE, dtype=torch.float64)}
    return RULES[name](updates, base, Parameters(**said))["w"].numpy(), honest


WITHIN_THE_HULL = [("median", 7, 3, 0), ("median", 4, 1, 0), ("median", 3, 1, 0)] + [
    ("trimmed-mean", 2 * f + 1 + more, f, f) for f, more in product((1, 2, 3), (0, 2))
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("name", "parties", "liars", "byzantine"), WITHIN_THE_HULL)
def test_each_value_stays_between_honest_ones(
    name: str, parties: int, liars: int, byzantine: int, how: str
) -> None:
    found, honest = apply(name, parties, liars, how, byzantine=byzantine)
    assert np.all(found >= honest.min(0))
    assert np.all(found <= honest.max(0))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("parties", "byzantine"), [(5, 1), (7, 2), (9, 2)])
def test_krum_is_an_honest_update_while_no_more_lie_than_agreed(
    parties: int, byzantine: int, how: str
) -> None:
    found, honest = apply("krum", parties, byzantine, how, byzantine=byzantine)
    assert any(np.array_equal(found, row) for row in honest)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("parties", "byzantine"), [(5, 1), (7, 2), (9, 2)])
def test_multi_krum_averages_honest_updates_alone_while_the_lies_are_far(
    parties: int, byzantine: int, how: str
) -> None:
    found, honest = apply("multi-krum", parties, byzantine, how, byzantine=byzantine)
    assert found == pytest.approx(honest.mean(0))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("parties", "byzantine"), [(7, 1), (11, 2)])
def test_bulyan_stays_as_near_to_the_median_as_honest_values_lie(
    parties: int, byzantine: int, how: str
) -> None:
    found, honest = apply("bulyan", parties, byzantine, how, byzantine=byzantine)
    spread = honest.max(0) - honest.min(0)
    assert np.all(found >= honest.min(0) - spread)
    assert np.all(found <= honest.max(0) + spread)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("parties", "liars"), [(3, 1), (7, 2), (7, 3), (11, 5)])
def test_geometric_median_stays_within_its_bound(parties: int, liars: int, how: str) -> None:
    """2 (N − f) / (N − 2f) times the radius of the honest updates (Pillutla 2022, after Lopuhaä
    and Rousseeuw 1991)."""
    found, honest = apply("geometric-median", parties, liars, how)
    middle = honest.mean(0)
    radius = np.linalg.norm(honest - middle, axis=1).max()
    bound = 2 * (parties - liars) / (parties - 2 * liars) * radius
    assert np.linalg.norm(found - middle) <= bound


def test_geometric_median_counts_weight_not_heads() -> None:
    weights = {f"p{i:02}": 1.0 for i in range(5)} | {"p00": 10.0}  # p00 is honest here
    honest, lying = HONEST[:2], lies("together", 3)
    rows = [*honest, *lying]
    updates = {f"p{i:02}": {"w": torch.tensor(row)} for i, row in enumerate(rows)}
    base = {"w": torch.zeros(SIZE, dtype=torch.float64)}
    found = RULES["geometric-median"](updates, base, Parameters(weights=weights))["w"].numpy()
    assert np.linalg.norm(found - honest[0]) < 1


MOVED = [
    ("median", 7, 4, 0),
    ("trimmed-mean", 7, 3, 2),
    ("multi-krum", 7, 3, 2),
    ("krum", 7, 4, 2),  # N − f − 1 at one place are as near to each other as Krum asks for
    ("bulyan", 7, 4, 1),
    ("geometric-median", 7, 4, 0),
]


@pytest.mark.parametrize(("name", "parties", "liars", "byzantine"), MOVED)
def test_more_than_that_move_the_result_anywhere(
    name: str, parties: int, liars: int, byzantine: int
) -> None:
    found, _ = apply(name, parties, liars, "together", byzantine=byzantine)
    assert np.abs(found).max() > HUGE / 100


def test_a_single_liar_moves_the_mean_anywhere() -> None:
    found, _ = apply("mean", 7, 1, "together")
    assert found == pytest.approx(HUGE / 7)


@pytest.mark.parametrize("liars", [1, 3, 4, 6])
def test_each_liar_moves_centred_clipping_by_its_share_of_the_radius_and_no_more(
    liars: int,
) -> None:
    """Whatever their number: what they gain by being more is a longer share, never a longer one
    each."""
    found, honest = apply("centred-clipping", 7, liars, "together", clip=2.0)
    shortened = honest * np.minimum(1, 2.0 / np.linalg.norm(honest, axis=1))[:, None]
    moved = found - shortened.sum(0) / 7
    assert np.linalg.norm(moved) == pytest.approx(liars * 2.0 / 7)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("liars", [1, 4, 5])
def test_fltrust_goes_no_farther_than_the_root_party_and_never_against_it(
    liars: int, how: str
) -> None:
    root = "p02" if liars > 3 else "p03"
    found, _ = apply("fltrust", 7, liars, how, root=root, byzantine=liars)
    step = HONEST[(2 if liars > 3 else 3) - liars // 2]
    assert np.linalg.norm(found) <= np.linalg.norm(step) * (1 + 1e-12)
    assert found @ step >= 0


def test_fltrust_gives_nothing_to_who_points_the_other_way() -> None:
    updates = {f"p{i}": {"w": torch.tensor(HONEST[i])} for i in range(3)}
    against = {"q": {"w": torch.tensor(-HUGE * HONEST[0])}}
    base = {"w": torch.zeros(SIZE, dtype=torch.float64)}
    without = RULES["fltrust"](updates, base, Parameters(root="p0"))["w"]
    assert torch.equal(
        RULES["fltrust"](updates | against, base, Parameters(root="p0"))["w"], without
    )


def test_a_lying_root_party_moves_fltrust_anywhere() -> None:
    found, _ = apply("fltrust", 7, 1, "together", root="p06", byzantine=1)
    assert np.linalg.norm(found) > HUGE
