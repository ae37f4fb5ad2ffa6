"""Each rule on cases small enough for paper, and against an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize

from splitfed.aggregation import RULES, Parameters
from splitfed.tensors import Tensors

ZERO = {"w": torch.zeros(2, dtype=torch.float64)}


def points(*rows: tuple[float, ...]) -> dict[str, Tensors]:
    return {f"p{i}": {"w": torch.tensor(row, dtype=torch.float64)} for i, row in enumerate(rows)}


def scattered(parties: int, size: int, seed: int) -> tuple[dict[str, Tensors], np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(parties, size))
    return points(*map(tuple, values)), values


def result(rule: str, updates: dict[str, Tensors], **said) -> list[float]:
    size = updates["p0"]["w"].numel()
    base = {"w": torch.zeros(size, dtype=torch.float64)}
    said.setdefault("weights", dict.fromkeys(updates, 1.0))
    return RULES[rule](updates, base, Parameters(**said))["w"].tolist()


# --- by hand ---------------------------------------------------------------------------


def test_median_of_three_and_of_four() -> None:
    three = points((1, 9), (2, -5), (40, 0))
    assert result("median", three) == [2, 0]
    assert result("median", {**three, "p3": {"w": torch.tensor([4.0, 1.0]).double()}}) == [3, 0.5]


def test_median_of_integers_is_one_of_them_or_half_way_to_even() -> None:
    updates = {
        p: {"n": torch.tensor(v), "f": torch.tensor([v[0] > 3])}
        for p, v in zip("abcd", ([1, 2], [3, 5], [4, 2], [900, 2]), strict=True)
    }
    base = {"n": torch.zeros(2, dtype=torch.int64), "f": torch.tensor([False])}
    found = RULES["median"](updates, base, Parameters())
    assert found["n"].tolist() == [4, 2]  # 3.5, to even
    assert found["f"].tolist() == [False]  # two of four: a tie
    odd = {p: updates[p] for p in "bcd"}
    assert RULES["median"](odd, base, Parameters())["n"].tolist() == [4, 2]
    assert RULES["median"](odd, base, Parameters())["f"].tolist() == [True]


def test_trimmed_mean_leaves_out_the_ends_of_each_value() -> None:
    updates = points((1, 5), (2, 100), (6, 7), (-90, 6), (4, -3))
    assert result("trimmed-mean", updates, byzantine=1) == [(1 + 2 + 4) / 3, 6]
    assert result("trimmed-mean", updates, byzantine=2) == [2, 6]


def test_krum_is_the_update_with_the_nearest_neighbours() -> None:
    """N = 5, f = 1: two nearest others. Scores: 1+4, 1+1, 1+4, 36+49, far."""
    updates = points((0, 0), (1, 0), (2, 0), (8, 0), (90, 0))
    assert result("krum", updates, byzantine=1) == [1, 0]


def test_krum_takes_the_first_name_of_equal_scores() -> None:
    updates = points((5, 0), (3, 0), (3, 0), (3, 0), (5, 0))
    updates["p1"]["n"] = torch.tensor(1)
    for party in ("p0", "p2", "p3", "p4"):
        updates[party]["n"] = torch.tensor(int(party[1]))
    base = {**ZERO, "n": torch.tensor(0)}
    assert int(RULES["krum"](updates, base, Parameters(byzantine=1))["n"]) == 1


def test_multi_krum_is_the_mean_without_the_f_worst() -> None:
    updates = points((0, 0), (1, 0), (2, 0), (8, 0), (90, 0))
    assert result("multi-krum", updates, byzantine=1) == [(0 + 1 + 2 + 8) / 4, 0]


def test_bulyan_picks_by_krum_and_averages_round_the_median() -> None:
    """N = 7, f = 1: five are picked. Among 0 to 5 and 90, 2 and 3 tie at 1 + 1 + 4 + 4: 2 by name;
    then 3 (1 + 4 + 4), 1 and 4 tie at 1 + 9: 1 by name; then 4 (1 + 16), then 5 (25 + 85²). Of 1
    to 5 the three nearest to 3 count."""
    updates = points((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (90, 0))
    assert result("bulyan", updates, byzantine=1) == [3, 0]


def test_geometric_median_of_a_triangle_with_a_wide_angle_is_its_corner() -> None:
    """Fermat's point: a corner with an angle of 120 degrees or more is the minimum itself."""
    found = result("geometric-median", points((0, 0), (10, 1), (-10, 1)))
    assert found == pytest.approx([0, 0], abs=1e-3)


def test_geometric_median_goes_where_more_than_half_of_the_weight_is() -> None:
    updates = points((0, 0), (10, 1), (-10, 7))
    weights = {"p0": 1.0, "p1": 2.5, "p2": 1.0}
    found = result("geometric-median", updates, weights=weights)
    assert found == pytest.approx([10, 1], abs=1e-3)


def test_centred_clipping_shortens_what_is_far_from_the_shared_tensors() -> None:
    updates = points((3, 4), (0.6, 0.8), (0, -50))
    found = result("centred-clipping", updates, clip=2.0)
    assert found == pytest.approx([(1.2 + 0.6 + 0) / 3, (1.6 + 0.8 - 2) / 3])


def test_fltrust_weighs_by_the_angle_and_takes_the_root_partys_length() -> None:
    updates = points((2, 0), (5, 0), (3, 3), (-1, 0), (0, 7))
    found = result("fltrust", updates, root="p0")
    cos = 1 / np.sqrt(2)
    first, second = np.array([2, 0]), 2 * np.array([cos, cos])
    assert found == pytest.approx(list((1 * first + cos * second) / (1 + cos)))


def test_fltrust_stays_where_it_is_if_nobody_is_trusted() -> None:
    assert result("fltrust", points((2, 0), (-5, 0), (0, 3)), root="p0") == [0, 0]
    assert result("fltrust", points((0, 0), (-5, 0), (0, 3)), root="p0") == [0, 0]


# --- against another implementation ------------------------------------------------------


@pytest.mark.parametrize("parties", [3, 4, 7, 10])
def test_median_is_numpys(parties: int) -> None:
    updates, values = scattered(parties, 40, seed=parties)
    assert result("median", updates) == pytest.approx(list(np.median(values, axis=0)))


@pytest.mark.parametrize(("parties", "byzantine"), [(3, 1), (7, 1), (7, 3), (10, 2)])
def test_trimmed_mean_is_scipys(parties: int, byzantine: int) -> None:
    updates, values = scattered(parties, 40, seed=parties)
    share = (byzantine + 0.5) / parties
    expected = stats.trim_mean(values, share, axis=0)
    assert result("trimmed-mean", updates, byzantine=byzantine) == pytest.approx(list(expected))


def scores(values: np.ndarray, byzantine: int) -> np.ndarray:
    squares = ((values[:, None] - values[None]) ** 2).sum(-1)
    near = max(2, len(values) - byzantine - 2)
    return np.sort(squares, axis=1)[:, 1 : near + 1].sum(1)


@pytest.mark.parametrize(("parties", "byzantine"), [(5, 1), (7, 1), (7, 2), (11, 3)])
def test_krum_and_multi_krum_are_those_of_a_distance_matrix(parties: int, byzantine: int) -> None:
    for seed in range(5):
        updates, values = scattered(parties, 30, seed=seed)
        order = np.argsort(scores(values, byzantine))
        assert result("krum", updates, byzantine=byzantine) == list(values[order[0]])
        best = values[order[: parties - byzantine]].mean(0)
        assert result("multi-krum", updates, byzantine=byzantine) == pytest.approx(list(best))


@pytest.mark.parametrize(("parties", "byzantine"), [(7, 1), (9, 1), (11, 2)])
def test_bulyan_is_that_of_a_distance_matrix(parties: int, byzantine: int) -> None:
    for seed in range(5):
        updates, values = scattered(parties, 30, seed=seed)
        left, picked = values, []
        for _ in range(parties - 2 * byzantine):
            best = int(np.argmin(scores(left, byzantine)))
            picked.append(left[best])
            left = np.delete(left, best, axis=0)
        chosen = np.array(picked)
        away = np.abs(chosen - np.median(chosen, axis=0))
        nearest = np.argsort(away, axis=0)[: parties - 4 * byzantine]
        expected = np.take_along_axis(chosen, nearest, axis=0).mean(0)
        assert result("bulyan", updates, byzantine=byzantine) == pytest.approx(list(expected))


@pytest.mark.parametrize(("parties", "size"), [(4, 3), (7, 2), (7, 40), (10, 10)])
def test_geometric_median_is_as_short_a_way_as_a_minimiser_finds(parties: int, size: int) -> None:
    for seed in range(3):
        updates, values = scattered(parties, size, seed=seed)

        def way(point: np.ndarray, values: np.ndarray = values) -> float:
            return float(np.linalg.norm(values - point, axis=1).sum())

        best = minimize(way, values.mean(0), method="BFGS")
        found = np.array(result("geometric-median", updates))
        assert way(found) <= best.fun * (1 + 1e-3)
        assert way(found) >= best.fun * (1 - 1e-6)


def test_geometric_median_weighs() -> None:
    updates, values = scattered(6, 5, seed=1)
    weights = {f"p{i}": 0.5 + i for i in range(6)}

    def way(point: np.ndarray) -> float:
        return float(np.linalg.norm(values - point, axis=1) @ list(weights.values()))

    best = minimize(way, values.mean(0), method="BFGS")
    found = np.array(result("geometric-median", updates, weights=weights))
    assert way(found) <= best.fun * (1 + 1e-3)


def test_centred_clipping_and_fltrust_are_their_equations() -> None:
    updates, values = scattered(7, 40, seed=3)
    lengths = np.linalg.norm(values, axis=1)
    expected = (values * np.minimum(1, 3.0 / lengths)[:, None]).mean(0)
    assert result("centred-clipping", updates, clip=3.0) == pytest.approx(list(expected))
    root, others = values[2], np.delete(values, 2, axis=0)
    cosine = others @ root / np.linalg.norm(root) / np.linalg.norm(others, axis=1)
    trust = np.maximum(0, cosine)
    scaled = others / np.linalg.norm(others, axis=1)[:, None] * np.linalg.norm(root)
    expected = trust @ scaled / trust.sum()
    assert result("fltrust", updates, root="p2") == pytest.approx(list(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["median", "trimmed-mean", "centred-clipping", "fltrust"])
def test_a_result_is_the_float64_result_rounded_once(name: str, dtype: torch.dtype) -> None:
    from splitfed.aggregation.arithmetic import rounded

    gen = torch.Generator().manual_seed(8)
    updates = {f"p{i}": {"w": torch.randn(500, generator=gen).to(dtype)} for i in range(6)}
    exact = {party: {"w": tensors["w"].double()} for party, tensors in updates.items()}
    said = Parameters(
        byzantine=int(name == "trimmed-mean"),
        clip=5.0 if name == "centred-clipping" else None,
        root="p0" if name == "fltrust" else None,
    )
    base = {"w": torch.zeros(500, dtype=dtype)}
    found = RULES[name](updates, base, said)["w"]
    wide = RULES[name](exact, {"w": base["w"].double()}, said)["w"]
    assert torch.equal(found, rounded(wide.numpy(), dtype))


def test_zeros_that_are_sorted_have_no_sign() -> None:
    """Which of 0.0 and -0.0 a sort puts first depends on the processor."""
    zeros = points((-0.0, 0.0), (0.0, -0.0), (-0.0, -0.0))
    found = RULES["median"](zeros, ZERO, Parameters())["w"]
    assert not torch.signbit(found).any()
