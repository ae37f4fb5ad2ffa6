"""The usual terms: whoever takes them gets an agreement that holds."""

from __future__ import annotations

import pytest

from splitfed.config import MODES, PrivacyConfig
from splitfed.privacy import mechanism_of
from splitfed.privacy.mechanism import below_one_in
from splitfed.privacy.proposal import usual_arguments, usual_terms

NOISED = [mode for mode in MODES if mode != "none"]


@pytest.mark.parametrize("records", [1, 100, 12_345])
@pytest.mark.parametrize("mode", MODES)
def test_usual_terms_pass_the_checks_of_their_section(mode: str, records: int) -> None:
    section = PrivacyConfig.model_validate(usual_terms(mode, records=records))
    assert section.mode == mode


@pytest.mark.parametrize("mode", NOISED)
def test_usual_terms_give_a_mechanism(mode: str) -> None:
    section = PrivacyConfig.model_validate(usual_terms(mode, records=500))
    found = mechanism_of(section, rounds=10, records={"a": 500, "b": 500})
    assert found is not None
    assert found.epsilon() <= 8.0


def test_usual_terms_of_no_privacy_are_the_mode_alone() -> None:
    assert usual_terms("none", records=10) == {"mode": "none"}


@pytest.mark.parametrize("mode", NOISED)
def test_terms_that_were_chosen_stand_as_they_were_chosen(mode: str) -> None:
    terms = usual_terms(mode, records=10, epsilon=2.5, delta=0.01)
    assert (terms["epsilon"], terms["delta"]) == (2.5, 0.01)


def test_a_usual_delta_is_well_below_one_in_n_however_many_there_are() -> None:
    for records in (1, 9, 10, 99, 10_000, 10_001, 1_000_000, 123_456_789):
        delta = usual_terms("dp-frozen", records=records)["delta"]
        assert delta <= 1e-5
        assert delta * records <= 0.1 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("records", "wanted"),
    [(1, 0.1), (9, 0.01), (10, 0.01), (11, 1e-3), (100, 1e-3), (10_000, 1e-5), (10_001, 1e-6)],
)
def test_the_largest_power_of_ten_that_is_at_most_one_in_ten_n(records, wanted) -> None:
    assert below_one_in(records) == pytest.approx(wanted, rel=1e-12)


def test_noised_training_is_offered_tanh_and_group_norm_as_far_as_the_factory_takes_them() -> None:
    assert usual_arguments("dp-frozen", {"activation", "norm", "classes"}) == {
        "activation": "tanh",
        "norm": "group",
    }
    assert usual_arguments("dp-all", {"norm"}) == {"norm": "group"}
    assert usual_arguments("dp-all", ()) == {}
    for mode in ("none", "party-update"):
        assert usual_arguments(mode, {"activation", "norm"}) == {}
