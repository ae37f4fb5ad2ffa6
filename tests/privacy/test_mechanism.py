"""The promise: what it costs, the sentence that says so, and the promises that are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from splitfed.config import NO_PRIVACY, PrivacyConfig
from splitfed.errors import PrivacyError
from splitfed.privacy import (
    Mechanism,
    Spend,
    accountants,
    epsilon,
    epsilon_rdp,
    mechanism_of,
    noise_for,
    sentence_of,
)
from tests.support.privacy import mechanism

RECORDS = {"north": 600, "south": 1100}


def agreed(mode: str = "dp-frozen", **changes: Any) -> PrivacyConfig:
    """An agreement's section; a change to None leaves the key out."""
    terms: dict[str, Any] = {
        "mode": mode, "delta": 1e-5, "max_grad_norm": 1.0, "noise_multiplier": 2.0,
    }  # fmt: skip
    if mode != "party-update":
        terms |= {"sample_rate": 1.0, "steps_per_round": 2}
    terms |= changes
    return PrivacyConfig.model_validate({k: v for k, v in terms.items() if v is not None})


def made(privacy: PrivacyConfig, rounds: int = 3, **more: Any) -> Mechanism:
    found = mechanism_of(privacy, rounds=rounds, records=RECORDS, **more)
    assert found is not None
    return found


def refused(privacy: PrivacyConfig, rounds: int = 3, **more: Any) -> PrivacyError:
    with pytest.raises(PrivacyError) as caught:
        mechanism_of(privacy, rounds=rounds, **{"records": RECORDS, **more})
    assert caught.value.exit_code == 2
    assert caught.value.cure
    return caught.value


@pytest.fixture(scope="module")
def demo() -> Mechanism:
    """The demo's mechanism; its noise is searched for."""
    return made(
        agreed(epsilon=8.0, noise_multiplier=None, sample_rate=0.25, steps_per_round=8), rounds=10
    )


# --- the mechanism of an agreement ---------------------------------------------------------


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_noised_training_has_the_agreement_s_numbers(mode: str) -> None:
    section = agreed(mode, sample_rate=0.5, max_grad_norm=0.7, unit="patient")
    assert made(section, rounds=5) == Mechanism(
        mode=mode, unit="patient", delta=1e-5, noise_multiplier=2.0, max_grad_norm=0.7,
        sample_rate=0.5, steps_per_round=2, rounds=5,
    )  # fmt: skip
    assert made(section, rounds=5).steps == 10


def test_a_party_update_is_one_release_a_round_without_sampling() -> None:
    found = made(agreed("party-update"), rounds=5)
    assert (found.unit, found.sample_rate, found.steps_per_round) == ("party", 1.0, 1)
    assert found.steps == 5


def test_no_privacy_has_no_mechanism() -> None:
    section = PrivacyConfig.model_validate({"mode": "none"})
    assert mechanism_of(section, rounds=3, records=RECORDS) is None


def test_given_epsilon_the_noise_follows_and_keeps_it(demo: Mechanism) -> None:
    assert demo.noise_multiplier == noise_for(8.0, 1e-5, sample_rate=0.25, steps=80)
    assert 7.9 < demo.epsilon() <= 8.0


def test_given_the_noise_epsilon_follows() -> None:
    found = made(agreed(), rounds=3)
    spend = Spend(sample_rate=1.0, noise_multiplier=2.0, steps=6)
    assert found.spend(3) == spend
    assert found.epsilon() == epsilon([spend], 1e-5)


def test_every_machine_finds_the_same_noise(demo: Mechanism) -> None:
    """Four decimals, so that no difference in the last bits of a search is agreed upon."""
    assert demo.noise_multiplier == 1.573


@pytest.mark.parametrize("mode", ["dp-frozen", "party-update"])
def test_more_rounds_cost_more(mode: str) -> None:
    found = made(agreed(mode, noise_multiplier=6.0), rounds=5)
    costs = [found.epsilon(rounds) for rounds in range(6)]
    assert costs[0] == 0.0
    assert costs == sorted(set(costs))
    assert costs[-1] == found.epsilon()


def test_more_noise_and_less_sampling_cost_less() -> None:
    def cost(**changes: Any) -> float:
        return made(agreed(**changes)).epsilon()

    assert cost(noise_multiplier=3.0) < cost()
    assert cost(sample_rate=0.5) < cost()
    assert cost(delta=1e-4) < cost()


def test_the_row_of_the_report_holds_the_figures_and_the_sentence() -> None:
    found = made(agreed())
    row = found.row()
    assert row["epsilon"] == found.epsilon()
    assert row["epsilon_rdp"] == epsilon_rdp([found.spend(3)], 1e-5)
    assert (row["steps"], row["accountant"], row["sentence"]) == (6, "PRV", found.sentence)


# --- what spending adds up to ----------------------------------------------------------------

SPENT = (
    Spend(sample_rate=0.1, noise_multiplier=1.0, steps=50),
    Spend(sample_rate=1.0, noise_multiplier=9.0, steps=3),
    Spend(sample_rate=0.1, noise_multiplier=1.5, steps=20),
)


def test_different_mechanisms_compose_in_any_order() -> None:
    together = epsilon(SPENT, 1e-5)
    assert max(epsilon([spend], 1e-5) for spend in SPENT) < together
    for order in ((2, 1, 0), (1, 0, 2), (1, 2, 0)):
        assert epsilon([SPENT[i] for i in order], 1e-5) == together
        assert epsilon_rdp([SPENT[i] for i in order], 1e-5) == epsilon_rdp(SPENT, 1e-5)


def test_figures_are_opacus_own_to_the_last_bit() -> None:
    """What is computed once and remembered is what Opacus computes each time."""
    history = [(x.noise_multiplier, x.sample_rate, x.steps) for x in SPENT]
    for parts in (history[:1], history):
        prv, rdp = PRVAccountant(), RDPAccountant()
        prv.history = rdp.history = list(parts)
        with np.errstate(divide="ignore"):  # Opacus' own, where the sample rate is 1
            assert accountants.epsilon_prv(parts, 1e-5) == prv.get_epsilon(1e-5)
            assert accountants.epsilon_rdp(parts, 1e-5) == rdp.get_epsilon(1e-5)


def test_steps_of_one_mechanism_cost_the_same_however_they_are_told() -> None:
    spend = SPENT[1]
    parts = [Spend(sample_rate=1.0, noise_multiplier=9.0, steps=n) for n in (1, 0, 2)]
    assert epsilon(parts, 1e-5) == epsilon([spend], 1e-5)


def test_nothing_spent_costs_nothing() -> None:
    assert epsilon([], 1e-5) == epsilon_rdp([], 1e-5) == 0.0
    assert epsilon([Spend(sample_rate=1.0, noise_multiplier=1.0, steps=0)], 1e-5) == 0.0


def test_a_cost_that_no_figure_is_given_for_is_infinite() -> None:
    assert epsilon([Spend(sample_rate=1.0, noise_multiplier=0.01, steps=9)], 1e-5) == math.inf


@pytest.mark.parametrize("count", [epsilon, epsilon_rdp])
def test_a_cost_is_never_below_zero(count) -> None:
    tiny = Spend(sample_rate=1e-6, noise_multiplier=50.0, steps=1)
    assert 0.0 <= count([tiny], 0.1) < 0.02


# --- the sentence --------------------------------------------------------------------------------

NOT_COVERED = (
    "Not covered: the personal model, its outputs and metrics on this machine; n, q and the "
    "number of steps; the decision to leave and timing; properties of the whole group; "
    "hyperparameter tuning; patients present in several institutions; earlier runs on these data "
    "unless listed."
)


def test_the_sentence_about_records_word_for_word(demo: Mechanism) -> None:
    assert sentence_of(demo) == demo.sentence
    assert demo.sentence == (
        "Everything this party sends in rounds 1-10 is (8.00, 1e-05)-DP for each record of this "
        "party (zero-out adjacency; Poisson q = 0.25, sigma = 1.573, C = 1, 80 planned steps; PRV, "
        "RDP cross-check 8.74), against the other parties seeing every message. " + NOT_COVERED
    )


def test_the_sentence_about_patients_word_for_word() -> None:
    terms = mechanism("dp-all", unit="patient", noise_multiplier=8.0, max_grad_norm=0.5)
    assert terms.sentence == (
        "Everything this party sends in rounds 1-4 is (0.94, 1e-05)-DP for each patient of this "
        "party (zero-out adjacency; Poisson q = 1, sigma = 8, C = 0.5, 4 planned steps; PRV, RDP "
        "cross-check 1.01), against the other parties seeing every message. " + NOT_COVERED
    )


def test_the_sentence_about_a_party_s_updates_word_for_word() -> None:
    terms = mechanism("party-update", unit="party", noise_multiplier=8.0, max_grad_norm=2.0)
    assert terms.sentence == (
        "Everything this party sends in rounds 1-4 is (0.94, 1e-05)-DP for the whole data set of "
        "this party (replace-one-party adjacency; the update of every round is clipped to S = 2 "
        "and noised, sensitivity 2S, sigma = 8, 4 releases without sampling; PRV, RDP cross-check "
        "1.01), against the other parties seeing every message. Not covered: the personal model, "
        "its outputs and metrics on this machine; the agreement's public figures; the decision to "
        "leave and timing; hyperparameter tuning; earlier runs on these data unless listed."
    )


def test_the_sentence_about_no_privacy_word_for_word() -> None:
    assert sentence_of(None) == NO_PRIVACY
    assert NO_PRIVACY == (
        "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained. Whoever sees them "
        "can learn about single training images. Images, labels and private layers stay."
    )


@pytest.mark.parametrize("mode", ["dp-frozen", "party-update"])
@pytest.mark.parametrize("sigma", [1.9, 2.0, 3.3, 7.7, 8.0, 11.0, 40.0])
def test_the_epsilon_of_the_sentence_is_never_below_the_true_one(mode: str, sigma: float) -> None:
    terms = mechanism(mode, noise_multiplier=sigma)
    found = re.search(r"is \((\d+\.\d\d), 1e-05\)-DP", terms.sentence)
    assert found
    assert terms.epsilon() <= float(found[1]) < terms.epsilon() + 0.01


# --- promises that are refused --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_a_delta_of_one_in_n_is_refused_with_the_party_s_name(mode: str, unit: str) -> None:
    error = refused(agreed(mode, delta=1 / 1100, unit=unit))
    assert "not below 1/n for south with n = 1100" in error.message
    assert f"{unit}s" in error.message
    assert "choose at most 1e-05:" in error.cure
    made(agreed(mode, delta=1e-5, unit=unit))


def test_a_delta_just_below_one_in_n_of_the_largest_party_is_accepted() -> None:
    assert made(agreed(delta=1 / 1101)).delta == 1 / 1101


def test_a_party_update_has_one_unit_whatever_the_number_of_records() -> None:
    assert made(agreed("party-update", delta=0.05)).delta == 0.05


@pytest.mark.parametrize("target", [0.049, 50.1, 1000.0])
def test_an_epsilon_outside_the_range_of_the_accountant_is_refused(target: float) -> None:
    error = refused(agreed(epsilon=target, noise_multiplier=None))
    assert f"epsilon = {target:g}" in error.message
    assert "choose 0.05 to 50" in error.cure


@pytest.mark.parametrize("target", [0.05, 50.0])
def test_an_epsilon_at_the_end_of_the_range_is_kept(target: float) -> None:
    found = made(agreed(epsilon=target, noise_multiplier=None), rounds=1)
    assert 0.9 * target < found.epsilon() <= target


@pytest.mark.parametrize("delta", [1e-30, 9e-10])
def test_a_delta_too_small_for_the_accountant_is_refused(delta: float) -> None:
    """Its rounding errors would be larger than delta, and the figure no upper bound."""
    for key in ({"noise_multiplier": 2.0}, {"epsilon": 8.0, "noise_multiplier": None}):
        error = refused(agreed(delta=delta, **key))
        assert f"delta = {delta:g}" in error.message
        assert "choose 1e-09 to 0.1" in error.cure


@pytest.mark.parametrize("delta", [0.11, 0.99])
def test_a_delta_too_large_to_mean_anything_is_refused(delta: float) -> None:
    error = refused(agreed("party-update", delta=delta))
    assert f"delta = {delta:g}" in error.message


@pytest.mark.parametrize("delta", [1e-9, 0.1])
def test_a_delta_at_the_end_of_the_range_is_accounted_for(delta: float) -> None:
    spend = Spend(sample_rate=1.0, noise_multiplier=8.0, steps=4)
    assert 0.0 < epsilon([spend], delta) <= epsilon_rdp([spend], delta)


@pytest.mark.parametrize("mode", ["dp-frozen", "party-update"])
def test_noise_too_small_for_a_figure_is_refused(mode: str) -> None:
    error = refused(agreed(mode, noise_multiplier=0.1))
    assert "noise_multiplier = 0.1" in error.message
    assert "above 50" in error.message
    assert "raise the noise" in error.cure


# --- a federation that is prolonged ----------------------------------------------------------


def test_a_prolonged_federation_keeps_its_noise_and_needs_an_epsilon_that_is_enough() -> None:
    enough = agreed("party-update", epsilon=1.0, noise_multiplier=None)
    assert made(enough, rounds=4, noise_multiplier=8.0).noise_multiplier == 8.0
    error = refused(enough, rounds=8, noise_multiplier=8.0)
    assert "epsilon = 1: 8 rounds" in error.message
    assert "sigma = 8" in error.message
    assert "cannot be changed" in error.cure
    figure = re.search(r"agree on epsilon = ([\d.]+) or more", error.cure)
    assert figure
    more = agreed("party-update", epsilon=float(figure[1]), noise_multiplier=None)
    prolonged = made(more, rounds=8, noise_multiplier=8.0)
    assert prolonged.noise_multiplier == 8.0
    assert 1.0 < prolonged.epsilon() <= float(figure[1]) < prolonged.epsilon() + 0.01
    less = agreed("party-update", epsilon=float(figure[1]) - 0.01, noise_multiplier=None)
    refused(less, rounds=8, noise_multiplier=8.0)


def test_a_federation_of_given_noise_may_be_prolonged_as_far_as_a_figure_can_be_given() -> None:
    section = agreed("party-update", noise_multiplier=8.0)
    assert made(section, rounds=16, noise_multiplier=8.0).epsilon() > made(section).epsilon()
    assert "above 50" in refused(section, rounds=100_000, noise_multiplier=8.0).message
