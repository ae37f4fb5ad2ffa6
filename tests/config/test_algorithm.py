"""`algorithm` of the agreement, and the training keys of party.toml that belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.config import TrainingConfig, load_federation, load_party
from splitfed.config.algorithm import ALGORITHMS, DECIDING, UNACCOUNTED
from splitfed.errors import ConfigError, Fault
from tests.support.files import FEDERATION, spoilt, write_files

SHARED = 'shared = ["conv1", "conv2"]\n'
DP = (
    '"\nepsilon = 8.0\ndelta = 1e-5\nmax_grad_norm = 1.0\nsample_rate = 0.25\nsteps_per_round = 8\n'
)


def agreement(algorithm: str, *, shared: str = SHARED, mode: str = "none") -> dict[str, str]:
    """Changes to the lines of a right federation.toml."""
    changes = {"seed = 7": f'seed = 7\nalgorithm = "{algorithm}"', SHARED: shared}
    if mode != "none":
        changes['mode = "none"\n'] = f'mode = "{mode}{DP}'
    return changes


def read(tmp_path: Path, changes: dict[str, str]) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(spoilt(FEDERATION, changes))
    return path


def faults_of(tmp_path: Path, changes: dict[str, str]) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_federation(read(tmp_path, changes))
    assert all(fault.cure for fault in caught.value.faults)
    return {fault.key: fault for fault in caught.value.faults}


def shared_for(algorithm: str) -> str:
    return "" if algorithm in DECIDING else SHARED


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_accepted_without_privacy(tmp_path: Path, algorithm: str) -> None:
    changes = agreement(algorithm, shared=shared_for(algorithm))
    assert load_federation(read(tmp_path, changes)).algorithm == algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_goes_with_noised_updates(tmp_path: Path, algorithm: str) -> None:
    changes = agreement(algorithm, shared=shared_for(algorithm))
    changes['mode = "none"\n'] = (
        'mode = "party-update"\nepsilon = 8.0\ndelta = 1e-5\nmax_grad_norm = 1.0\n'
    )
    assert load_federation(read(tmp_path, changes)).algorithm == algorithm


def test_without_the_key_it_is_fedper_and_written_out_it_is_the_same(tmp_path: Path) -> None:
    plain = load_federation(read(tmp_path, {}))
    written = load_federation(read(tmp_path, agreement("fedper")))
    assert plain.algorithm == "fedper"
    assert plain.contract_digest == written.contract_digest


def test_the_algorithm_is_agreed_on(tmp_path: Path) -> None:
    digests = {
        load_federation(read(tmp_path, agreement(name))).contract_digest
        for name in ("fedper", "fedrep", "fedbabu")
    }
    assert len(digests) == 3


def test_an_unknown_algorithm_is_told_the_known_ones(tmp_path: Path) -> None:
    cure = faults_of(tmp_path, agreement("fedprox"))["algorithm"].cure
    assert all(name in cure for name in ALGORITHMS)


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
@pytest.mark.parametrize("algorithm", sorted(UNACCOUNTED))
def test_noised_steps_go_with_fedper_and_fedavg_alone(
    tmp_path: Path, algorithm: str, mode: str
) -> None:
    changes = agreement(algorithm, shared=shared_for(algorithm), mode=mode)
    fault = faults_of(tmp_path, changes)["algorithm"]
    assert f'does not go with mode = "{mode}"' in fault.cure
    for allowed in ("fedper", "fedavg"):
        right = agreement(allowed, shared=shared_for(allowed), mode=mode)
        assert load_federation(read(tmp_path, right)).algorithm == allowed


def test_who_wants_fedbabu_under_noise_is_told_that_dp_frozen_is_it(tmp_path: Path) -> None:
    cure = faults_of(tmp_path, agreement("fedbabu", mode="dp-frozen"))["algorithm"].cure
    assert '"dp-frozen" does by itself' in cure


@pytest.mark.parametrize("algorithm", sorted(DECIDING))
@pytest.mark.parametrize("key", ["shared", "private"])
def test_layers_named_beside_an_algorithm_that_decides_are_refused(
    tmp_path: Path, algorithm: str, key: str
) -> None:
    changes = agreement(algorithm, shared=f'{key} = ["conv1"]\n')
    fault = faults_of(tmp_path, changes)[f"model.{key}"]
    assert f'contradicts algorithm = "{algorithm}"' in fault.cure


def test_fedavg_may_say_that_everything_is_shared(tmp_path: Path) -> None:
    changes = agreement("fedavg", shared='shared = "*"\n')
    assert load_federation(read(tmp_path, changes)).model.shared == ("*",)
    for other in ("fedbn", "lg-fedavg", "fedrep", "fedbabu"):
        assert "model.shared" in faults_of(tmp_path, agreement(other, shared='shared = "*"\n'))


def test_a_fault_elsewhere_does_not_hide_the_contradiction(tmp_path: Path) -> None:
    changes = {**agreement("fedavg"), "rounds = 3": "rounds = 0"}
    assert set(faults_of(tmp_path, changes)) == {"rounds", "model.shared"}


# --- party.toml ------------------------------------------------------------------------------


def own_faults(
    tmp_path: Path, more: str, changes: dict[str, str] | None = None
) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_party(write_files(tmp_path, federation=changes, more=more))
    return {fault.key: fault for fault in caught.value.faults}


def test_a_head_is_trained_for_one_epoch_and_nothing_pulls_unless_told() -> None:
    assert (TrainingConfig().head_epochs, TrainingConfig().proximal) == (1, 0.0)


def test_head_epochs_are_read_under_fedrep(tmp_path: Path) -> None:
    path = write_files(
        tmp_path, federation=agreement("fedrep"), more="\n[training]\nhead_epochs = 3\n"
    )
    assert load_party(path).training.head_epochs == 3


@pytest.mark.parametrize("algorithm", [None, "fedper", "fedbabu"])
def test_head_epochs_without_fedrep_are_refused(tmp_path: Path, algorithm: str | None) -> None:
    changes = None if algorithm is None else agreement(algorithm)
    fault = own_faults(tmp_path, "\n[training]\nhead_epochs = 1\n", changes)
    assert f'algorithm = "{algorithm or "fedper"}"' in fault["training.head_epochs"].cure


def test_an_unknown_algorithm_is_the_only_fault_beside_head_epochs(tmp_path: Path) -> None:
    faults = own_faults(tmp_path, "\n[training]\nhead_epochs = 1\n", agreement("fedprox"))
    assert set(faults) == {"algorithm"}


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("head_epochs = 0", "head_epochs"), ("head_epochs = 1.5", "head_epochs"),
        ("proximal = -1.0", "proximal"), ("proximal = inf", "proximal"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(tmp_path: Path, line: str, key: str) -> None:
    faults = own_faults(tmp_path, f"\n[training]\n{line}\n", agreement("fedrep"))
    assert set(faults) == {f"training.{key}"}


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_noised_steps_know_no_pull(tmp_path: Path, mode: str) -> None:
    changes = agreement("fedper", mode=mode)
    assert "training.proximal" in own_faults(tmp_path, "\n[training]\nproximal = 0.1\n", changes)
    path = write_files(tmp_path, federation=changes, more="\n[training]\nproximal = 0.0\n")
    assert load_party(path).training.proximal == 0.0


def test_a_private_part_of_ones_own_cannot_stay_as_it_is_under_fedbabu(tmp_path: Path) -> None:
    own = '\n[model]\nfactory = "splitfed.models:ThreeLayerCNN"\n'
    assert "model.factory" in own_faults(tmp_path, own, agreement("fedbabu"))
    for algorithm in ("fedper", "fedrep"):
        path = write_files(tmp_path, federation=agreement(algorithm), more=own)
        assert load_party(path).model is not None
