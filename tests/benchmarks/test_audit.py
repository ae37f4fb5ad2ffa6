"""The audit's arithmetic against known values, and its games where noise cannot hide anything."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, norm

from splitfed.privacy import Mechanism, Spend, epsilon

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # they are scripts

import audit
import games

NAMES = [game.name for game in games.GAMES]
GAMES = dict(zip(NAMES, games.GAMES, strict=True))
SIGMA = 1.3948  # one release at this noise costs ε = 3 at δ = 1e-5


def mechanism(game: games.Game, noise: float) -> Mechanism:
    """The game's mechanism with any noise, without searching for the claimed one."""
    whole = game.worlds == "whole"
    return Mechanism(
        mode="dp-frozen" if game.mode == "naive" else game.mode,
        unit="party" if whole else "record",
        delta=games.DELTA,
        noise_multiplier=noise,
        max_grad_norm=games.STEP if whole else 1.0,
        sample_rate=game.sample_rate,
        steps_per_round=1,
        rounds=game.rounds,
    )


def gaussian(noise: float, trials: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores of an attacker who sees one Gaussian release of sensitivity 1."""
    draw = np.random.default_rng(5)
    return draw.normal(0.0, noise, trials), draw.normal(1.0, noise, trials)


def exact_delta(noise: float, of_epsilon: float) -> float:
    """δ(ε) of the Gaussian mechanism (Balle & Wang 2018, theorem 8), sensitivity 1."""
    half, shift = 0.5 / noise, of_epsilon * noise
    return norm.cdf(half - shift) - math.exp(of_epsilon) * norm.cdf(-half - shift)


def claimed_at(delta: float) -> float:
    return epsilon([Spend(sample_rate=1.0, noise_multiplier=SIGMA, steps=1)], delta)


@pytest.mark.parametrize("counted", [0, 1, 17, 99, 100])
def test_bounds_on_rates_are_clopper_and_pearsons(counted: int) -> None:
    found = audit.at_most(np.array([counted]), 100, 0.975)[0]
    expected = 1.0 if counted == 100 else beta.ppf(0.975, counted + 1, 100 - counted)
    assert found == pytest.approx(expected)
    if counted == 0:
        assert found == pytest.approx(1 - 0.025 ** (1 / 100))


def test_what_is_proven_follows_the_formula_in_both_directions() -> None:
    fpr, fnr = (beta.ppf(0.975, k + 1, 1000 - k) for k in (3, 700))
    by_hand = math.log((1 - 1e-5 - fnr) / fpr)
    assert audit.proven(3, 700, 1000, delta=1e-5) == pytest.approx(by_hand)
    assert audit.proven(700, 3, 1000, delta=1e-5) == pytest.approx(by_hand)


def test_guessing_proves_nothing() -> None:
    assert audit.proven(500, 500, 1000, delta=1e-5) == 0.0


def test_claims_are_the_gaussian_mechanisms_exact_figures() -> None:
    for delta in audit.DELTAS:
        assert exact_delta(SIGMA, claimed_at(delta)) <= delta
        assert exact_delta(SIGMA, claimed_at(delta) - 0.03) > delta


def test_an_exact_claim_is_nearly_reached_and_not_exceeded() -> None:
    found = [audit.examine(*gaussian(SIGMA), delta=d, claimed=claimed_at(d)) for d in audit.DELTAS]
    assert all(x.certain <= x.proven <= x.claimed for x in found)
    assert found[0].proven > 0.35 * found[0].claimed
    assert found[-1].proven > 0.75 * found[-1].claimed
    assert audit.holds(GAMES["dp-frozen"], found)


@pytest.mark.parametrize("part", [0.5, 0.75])
def test_too_little_noise_is_seen(part: float) -> None:
    scores = gaussian(part * SIGMA)
    found = [audit.examine(*scores, delta=d, claimed=claimed_at(d)) for d in audit.DELTAS]
    assert not audit.holds(GAMES["dp-frozen"], found)


def test_the_agreed_claim_alone_is_enough_to_fail() -> None:
    scores = gaussian(0.3 * SIGMA)
    found = audit.examine(*scores, delta=games.DELTA, claimed=claimed_at(games.DELTA))
    assert not audit.holds(GAMES["dp-frozen"], [found])


def test_the_naive_split_must_exceed_twice_the_claim() -> None:
    won = audit.examine(np.zeros(4000), np.ones(4000), delta=1e-5, claimed=3.0)
    assert (won.false_alarms, won.misses, won.threshold) == (0, 0, 0.5)
    assert audit.holds(GAMES["naive"], [won])
    assert not audit.holds(GAMES["dp-all"], [won])
    lost = audit.examine(*gaussian(SIGMA), delta=1e-5, claimed=3.0)
    assert not audit.holds(GAMES["naive"], [lost])


def test_the_threshold_is_chosen_on_trials_that_are_not_counted() -> None:
    without, canary = np.zeros(2000), np.ones(2000)
    without[1::2], canary[1::2] = 1.0, 0.0  # the other half says the opposite
    found = audit.examine(without, canary, delta=1e-5, claimed=3.0)
    assert (found.false_alarms, found.misses, found.trials) == (1000, 1000, 1000)


@pytest.mark.parametrize("name", NAMES)
def test_without_noise_every_game_is_won(name: str) -> None:
    """The attacker looks where the canary is: nothing but noise and sampling protects it."""
    game, trials = GAMES[name], 40
    quiet = mechanism(game, 1e-3)
    without, canary = (
        [trial() for _ in range(trials)]
        for trial in (games.player(game, quiet, canary=there) for there in (False, True))
    )
    if game.sample_rate < 1:  # in some trials the canary is not drawn at all
        assert max(canary) > max(without) + 1
    else:
        assert min(canary) > max(without) + 1


@pytest.mark.parametrize("name", ["dp-frozen", "dp-all"])
def test_the_canary_adds_all_of_the_clipping_norm_in_every_round(name: str) -> None:
    game = GAMES[name]
    quiet = mechanism(game, 1e-4)
    score = games.player(game, quiet, canary=True)()
    assert score * quiet.noise_multiplier**2 == pytest.approx(0.5 * game.rounds, rel=0.01)


def test_a_head_trained_without_noise_turns_all_other_gradients() -> None:
    game = GAMES["naive"]
    without, canary = (
        games.player(game, mechanism(game, 1e-3), canary=there)() for there in (False, True)
    )
    assert canary - without == pytest.approx(63.0, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_trials_start_anew(name: str) -> None:
    """What one trial leaves behind does not add to the next: with the claimed noise, scores
    stay where they began."""
    game = GAMES[name]
    trial = games.player(game, mechanism(game, 1e-6), canary=False)
    first = trial()
    assert [trial() for _ in range(5)] == pytest.approx([first] * 5, rel=0.01, abs=0.01)


def test_workers_play_what_is_asked_for() -> None:
    noise = mechanism(GAMES["party-update"], 2.0)
    scores = audit.gather({"party-update": noise}, trials=3, workers=1, noise=1.0)
    assert {key: found.shape for key, found in scores.items()} == {
        ("party-update", False): (3,),
        ("party-update", True): (3,),
    }
    assert len(np.unique(np.concatenate(list(scores.values())))) == 6


@pytest.mark.parametrize(("part", "code"), [(1.0, 0), (0.5, 1)])
def test_exit_code_says_whether_all_is_as_wanted(
    part: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = dict(
        zip([("dp-frozen", False), ("dp-frozen", True)], gaussian(part * SIGMA), strict=True)
    )
    monkeypatch.setattr(audit, "gather", lambda *_, **__: scores)
    monkeypatch.setattr(sys, "argv", ["audit.py", "--games", "dp-frozen", "--out", str(tmp_path)])
    assert audit.main() == code
    written = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert written["met"] == {"dp-frozen": code == 0}
    assert (tmp_path / "audit.svg").is_file()
