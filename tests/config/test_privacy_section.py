"""[privacy]: chosen on purpose, complete, free of contradictions, and equal where it means
the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitfed.config import (
    MODES,
    REFUSED,
    FederationConfig,
    PrivacyConfig,
    load_federation,
    load_party,
    parse,
)
from splitfed.errors import ConfigError, Fault
from tests.support.files import FEDERATION, spoilt, write_files

DP: dict[str, Any] = {
    "epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 1.0, "sample_rate": 0.25, "steps_per_round": 8,
}  # fmt: skip
UPDATE: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 1.0}
WHOLE: dict[str, dict[str, Any]] = {
    "none": {}, "dp-frozen": DP, "dp-all": DP, "party-update": UPDATE,
}  # fmt: skip
UNITS = {"none": None, "dp-frozen": "record", "dp-all": "record", "party-update": "party"}


def read(mode: str, **changes: Any) -> PrivacyConfig:
    """The section of ``mode`` with all it needs; a change to None leaves the key out."""
    terms = {"mode": mode, **WHOLE[mode], **changes}
    return parse(PrivacyConfig, {k: v for k, v in terms.items() if v is not None}, "f.toml")


def faults_of(mode: str, **changes: Any) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        read(mode, **changes)
    faults = {fault.key: fault for fault in caught.value.faults}
    assert len(faults) == len(caught.value.faults)  # each once
    assert all(fault.cure for fault in faults.values())
    return faults


# --- the section by itself -----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_with_all_it_needs_is_accepted(mode: str) -> None:
    assert read(mode).mode == mode


def test_there_is_no_default_mode() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(PrivacyConfig, {}, "f.toml")
    (fault,) = caught.value.faults
    assert fault.key == "mode"
    assert "no default on purpose" in fault.cure


@pytest.mark.parametrize("mode", MODES)
def test_the_usual_unit_follows_from_the_mode(mode: str) -> None:
    assert read(mode).unit == UNITS[mode]


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_patients_can_be_the_unit_of_noised_training(mode: str) -> None:
    assert read(mode, unit="patient").unit == "patient"


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all", "party-update"])
def test_the_noise_can_be_given_instead_of_epsilon(mode: str) -> None:
    section = read(mode, epsilon=None, noise_multiplier=1.1)
    assert (section.epsilon, section.noise_multiplier) == (None, 1.1)


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all", "party-update"])
def test_epsilon_and_noise_together_contradict_each_other(mode: str) -> None:
    (fault,) = faults_of(mode, noise_multiplier=1.1, unit=UNITS[mode]).values()
    assert fault.key == "noise_multiplier"
    assert "one follows from the other" in fault.cure


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_everything_that_noised_training_needs_is_asked_for_at_once(mode: str) -> None:
    faults = faults_of(mode, **dict.fromkeys(DP))
    assert faults.keys() == DP.keys()
    for fault in faults.values():
        assert fault.cure.startswith(f'missing; mode = "{mode}" needs it')


def test_everything_that_a_party_update_needs_is_asked_for_at_once() -> None:
    faults = faults_of("party-update", **dict.fromkeys(UPDATE), unit="party")
    assert faults.keys() == UPDATE.keys()


def test_a_unit_that_was_left_out_is_no_fault_beside_another() -> None:
    assert faults_of("party-update", delta=None).keys() == {"delta"}


def test_everything_under_no_privacy_contradicts_it_at_once() -> None:
    more = {**DP, "noise_multiplier": 1.0, "unit": "record"}
    faults = faults_of("none", **more)
    assert faults.keys() == more.keys()
    assert all("which adds no noise; drop it" in fault.cure for fault in faults.values())


def test_sampling_contradicts_a_party_update_key_by_key() -> None:
    faults = faults_of("party-update", sample_rate=0.5, steps_per_round=3, unit="party")
    assert faults.keys() == {"sample_rate", "steps_per_round"}
    assert all("without sampling; drop it" in fault.cure for fault in faults.values())


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_a_party_update_protects_the_party_and_no_smaller_unit(unit: str) -> None:
    (fault,) = faults_of("party-update", unit=unit).values()
    assert (fault.key, fault.value) == ("unit", f'"{unit}"')


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_noised_training_does_not_protect_the_whole_party(mode: str) -> None:
    (fault,) = faults_of(mode, unit="party").values()
    assert fault.key == "unit"
    assert '"party-update"' in fault.cure


def test_contradictions_of_several_kinds_come_together() -> None:
    faults = faults_of(
        "dp-all", noise_multiplier=1.0, delta=None, steps_per_round=None, unit="party"
    )
    assert faults.keys() == {"noise_multiplier", "delta", "steps_per_round", "unit"}


OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    "epsilon": (0.0, -1.0, "8", True, float("inf"), float("nan")),
    "delta": (0.0, 1.0, -1e-5, "1e-5", float("nan")),
    "max_grad_norm": (0.0, -1.0, float("inf")),
    "sample_rate": (0.0, 1.001, -0.1, float("nan")),
    "steps_per_round": (0, -1, 2.5, True, "3"),
    "unit": ("image", "", 3),
}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_what_would_be_right(key: str) -> None:
    description = PrivacyConfig.model_fields[key].description
    assert description
    for value in OUT_OF_RANGE[key]:
        (fault,) = faults_of("dp-frozen", **{key: value}).values()
        assert fault.key == key
        assert fault.cure == f"should be {description}"


def test_a_noise_of_zero_is_refused() -> None:
    assert "noise_multiplier" in faults_of("dp-frozen", epsilon=None, noise_multiplier=0.0)


def test_wrong_values_and_contradictions_come_together() -> None:
    faults = faults_of("party-update", epsilon=-1.0, delta=None, sample_rate=0.5, unit="record")
    assert faults.keys() == {"epsilon", "delta", "sample_rate", "unit"}


@pytest.mark.parametrize("mode", REFUSED)
def test_what_others_offer_and_is_not_private_is_refused_with_its_reason(mode: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(PrivacyConfig, {"mode": mode, **DP}, "f.toml")
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == ("mode", f'"{mode}"')
    assert "is not differentially private at the accountant's epsilon" in fault.cure
    assert '"dp-frozen"' in fault.cure
    assert '"dp-all"' in fault.cure


def test_dp_shared_is_one_of_them() -> None:
    assert "dp-shared" in REFUSED
    assert not set(REFUSED) & set(MODES)


def test_what_fusion_may_spend_is_a_part_of_epsilon() -> None:
    fault = faults_of("dp-frozen", fusion_epsilon=8.0, epsilon=8.0)["fusion_epsilon"]
    assert "should be below epsilon = 8" in fault.cure


def section_of(mode: str, **changes: Any) -> str:
    terms = {**WHOLE[mode], **changes}
    lines = [f'mode = "{mode}"']
    lines += [
        f"{key} = {value!r}".replace("'", '"') for key, value in terms.items() if value is not None
    ]
    return "\n".join(lines)


def federation(tmp_path: Path, section: str, **lines: str) -> FederationConfig:
    path = tmp_path / "federation.toml"
    path.write_text(spoilt(FEDERATION, {'mode = "none"': section, **lines}))
    return load_federation(path)


def file_faults(tmp_path: Path, section: str, **lines: str) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        federation(tmp_path, section, **lines)
    return {fault.key: fault for fault in caught.value.faults}


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_a_delta_of_one_in_n_is_refused_with_the_party_s_name(tmp_path: Path, mode: str) -> None:
    faults = file_faults(
        tmp_path,
        section_of(mode, delta=0.01),
        **{'7001"\nrecords = 100': '7001"\nrecords = 99'},
    )
    assert faults.keys() == {"privacy.delta"}
    assert "1/n = 1/100 of hospital-b" in faults["privacy.delta"].cure


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_a_delta_below_one_in_n_of_every_party_is_accepted(tmp_path: Path, mode: str) -> None:
    assert federation(tmp_path, section_of(mode, delta=0.0099)).privacy.delta == 0.0099


def test_a_party_update_has_one_unit_whatever_the_number_of_records(tmp_path: Path) -> None:
    assert federation(tmp_path, section_of("party-update", delta=0.05)).privacy.delta == 0.05


HEAD = {'shared = ["conv1", "conv2"]': 'shared = ["conv1", "conv2"]\npublic_head = "pool-linear"'}


@pytest.mark.parametrize("mode", ["none", "dp-all", "party-update"])
def test_a_public_head_is_refused_where_nothing_is_frozen(tmp_path: Path, mode: str) -> None:
    faults = file_faults(tmp_path, section_of(mode, unit=UNITS[mode]), **HEAD)
    assert faults.keys() == {"model.public_head"}
    assert f'not "{mode}"' in faults["model.public_head"].cure


def test_a_public_head_goes_with_frozen_private_layers(tmp_path: Path) -> None:
    agreed = federation(tmp_path, section_of("dp-frozen"), **HEAD)
    assert agreed.model.public_head == "pool-linear"


SAME = {
    "unit written out": {"unit": "record"},
    "whole numbers": {"epsilon": 8, "max_grad_norm": 1},
    "another way to write it": {"delta": 0.00001},
}


@pytest.mark.parametrize("what", SAME)
def test_sections_of_equal_meaning_are_one_agreement(tmp_path: Path, what: str) -> None:
    usual = federation(tmp_path, section_of("dp-frozen"))
    other = federation(tmp_path, section_of("dp-frozen", **SAME[what]))
    assert other.contract_digest == usual.contract_digest


def test_a_party_update_with_its_unit_written_out_is_the_same_agreement(tmp_path: Path) -> None:
    usual = federation(tmp_path, section_of("party-update"))
    other = federation(tmp_path, section_of("party-update", unit="party"))
    assert other.contract_digest == usual.contract_digest


OTHER: dict[str, dict[str, Any]] = {
    "epsilon": {"epsilon": 7.0},
    "noise instead": {"epsilon": None, "noise_multiplier": 1.0},
    "delta": {"delta": 1e-6},
    "clipping": {"max_grad_norm": 2.0},
    "rate": {"sample_rate": 0.5},
    "steps": {"steps_per_round": 9},
    "unit": {"unit": "patient"},
}


@pytest.mark.parametrize("what", OTHER)
def test_every_number_of_the_section_is_agreed_on(tmp_path: Path, what: str) -> None:
    usual = federation(tmp_path, section_of("dp-frozen"))
    other = federation(tmp_path, section_of("dp-frozen", **OTHER[what]))
    assert other.contract_digest != usual.contract_digest


def test_every_mode_is_an_agreement_of_its_own(tmp_path: Path) -> None:
    digests = {federation(tmp_path, section_of(mode)).contract_digest for mode in MODES}
    assert len(digests) == len(MODES)


# --- between federation.toml and party.toml ------------------------------------------------------

OWN_MODEL = '\n[model]\nfactory = "mine:Model"\n'
BUDGET = {'id = "scans"': 'id = "scans"\nbudget_epsilon = 3.0\nbudget_delta = 1e-5'}


def party_faults(path: Path) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_party(path)
    return {fault.key: fault for fault in caught.value.faults}


def test_an_own_model_under_frozen_layers_needs_a_public_head(tmp_path: Path) -> None:
    path = write_files(
        tmp_path, federation={'mode = "none"': section_of("dp-frozen")}, more=OWN_MODEL
    )
    faults = party_faults(path)
    assert faults.keys() == {"model.factory"}
    assert 'public_head = "pool-linear"' in faults["model.factory"].cure


def test_an_own_model_with_a_public_head_is_accepted(tmp_path: Path) -> None:
    path = write_files(
        tmp_path, federation={'mode = "none"': section_of("dp-frozen"), **HEAD}, more=OWN_MODEL
    )
    assert load_party(path).model.factory == "mine:Model"


@pytest.mark.parametrize("mode", ["none", "dp-all", "party-update"])
def test_an_own_model_is_accepted_where_nothing_is_frozen(tmp_path: Path, mode: str) -> None:
    path = write_files(tmp_path, federation={'mode = "none"': section_of(mode)}, more=OWN_MODEL)
    assert load_party(path).model.factory == "mine:Model"


def test_a_budget_contradicts_no_privacy(tmp_path: Path) -> None:
    faults = party_faults(write_files(tmp_path, party=BUDGET))
    assert faults.keys() == {"data.budget_epsilon"}
    assert "beyond any budget" in faults["data.budget_epsilon"].cure


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all", "party-update"])
def test_a_budget_goes_with_every_mode_that_adds_noise(tmp_path: Path, mode: str) -> None:
    path = write_files(tmp_path, federation={'mode = "none"': section_of(mode)}, party=BUDGET)
    data = load_party(path).data
    assert (data.budget_epsilon, data.budget_delta) == (3.0, 1e-5)


LEAVE = '\n[defence]\nacceptance = true\non_distrust = "leave"\n'


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_who_is_judged_after_the_last_round_cannot_be_left_before(
    tmp_path: Path, mode: str
) -> None:
    faults = party_faults(
        write_files(tmp_path, federation={'mode = "none"': section_of(mode)}, more=LEAVE)
    )
    assert faults.keys() == {"defence.on_distrust"}
    assert 'use "warn"' in faults["defence.on_distrust"].cure


@pytest.mark.parametrize("mode", ["none", "party-update"])
def test_leaving_on_distrust_is_accepted_where_every_merge_is_judged(
    tmp_path: Path, mode: str
) -> None:
    path = write_files(tmp_path, federation={'mode = "none"': section_of(mode)}, more=LEAVE)
    assert load_party(path).defence.on_distrust == "leave"
