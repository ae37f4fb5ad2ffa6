"""party.toml: read together with the agreement, and every fault of both at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.config import TrainingConfig, load_party, parse
from splitfed.config.keys import load_keys
from splitfed.errors import ConfigError, Fault
from tests.support.files import write_files


def faults_of(path: Path) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_party(path)
    return {fault.key: fault for fault in caught.value.faults}


def test_a_right_pair_of_files_is_read_with_absolute_paths(tmp_path: Path) -> None:
    config = load_party(write_files(tmp_path))
    assert config.party == "hospital-a"
    assert config.peers == ("hospital-b",)
    assert config.me.records == 100
    assert config.secret_key == tmp_path / "secret.json"
    assert config.federation_path == tmp_path / "federation.toml"
    assert config.folder == tmp_path
    assert config.training == TrainingConfig()
    assert (config.training.epochs, config.training.steps) == (1, None)
    assert (config.link.patience, config.link.on_absent) == (0.0, "wait")
    assert config.defence.acceptance is False
    assert config.bind == "tcp://127.0.0.1:7001"


def test_bind_replaces_the_address_of_who_listens_and_who_dials_has_none(tmp_path: Path) -> None:
    own = "\n[link]\nbind = 'tcp://0.0.0.0:9'\n"
    assert load_party(write_files(tmp_path, more=own)).bind == "tcp://0.0.0.0:9"
    dialer = write_files(tmp_path, party={'"hospital-a"': '"hospital-b"'})
    assert load_party(dialer).bind is None


ONE_FAULT = {
    "unknown key": ("\n[training]\noptimiser = 'sgd'\n", "training.optimiser", '"optimizer"'),
    "key of another table": ("\n[link]\nlr = 0.1\n", "link.lr", "it belongs in [training]"),
    "both epochs and steps": (
        "\n[training]\nepochs = 1\nsteps = 9\n", "training.steps", "contradicts epochs = 1",
    ),
    "wrong type": ("\n[training]\nlr = 'fast'\n", "training.lr", "above 0"),
    "no batch": ("\n[training]\nbatch_size = 0\n", "training.batch_size", ">= 1"),
    "momentum of adam": (
        "\n[training]\noptimizer = 'adam'\nmomentum = 0.9\n", "training.momentum", "has none",
    ),
    "steps without length": (
        "\n[training]\nschedule = 'step'\n", "training.step_rounds", "missing",
    ),
    "gamma without steps": ("\n[training]\ngamma = 0.5\n", "training.gamma", "no steps"),
    "device": ("\n[training]\ndevice = 'tpu'\n", "training.device", '"cpu" or "cuda"'),
    "loss without classes": ("\n[training]\nloss = 'mse'\n", "training.loss", "cross_entropy"),
    "patience that never ends": (
        "\n[link]\non_absent = 'finish-alone'\n", "link.on_absent", "patience = 0",
    ),
    "negative patience": ("\n[link]\npatience = -1\n", "link.patience", "0 for ever"),
    "bind": ("\n[link]\nbind = 'here'\n", "link.bind", "tcp://"),
    "leave": (
        "\n[defence]\non_distrust = 'leave'\n", "defence.on_distrust", "acceptance = true",
    ),
    "distrust": ("\n[defence]\non_distrust = 'fight'\n", "defence.on_distrust", '"leave"'),
    "consent": (
        "\n[fusion]\nrelease_private = true\n", "fusion.release_private", "nothing private leaves",
    ),
    "own model": ("\n[model]\nfactory = 'x'\n", "model.factory", "package.module:Class"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_FAULT, ids=lambda case: case.replace(" ", "-"))
def test_each_fault_is_named_with_its_cure(tmp_path: Path, case: str) -> None:
    more, key, cure = ONE_FAULT[case]
    faults = faults_of(write_files(tmp_path, more=more))
    assert set(faults) == {key}
    assert cure in faults[key].cure


def test_the_agreement_in_place_of_the_party_file_is_one_fault(tmp_path: Path) -> None:
    path = write_files(tmp_path).parent / "federation.toml"
    for load in (load_party, load_keys):
        with pytest.raises(ConfigError, match=r"is the agreement; name the party.toml") as caught:
            load(path)
        assert len(caught.value.faults) == 1


def test_an_unread_agreement_contradicts_nothing(tmp_path: Path) -> None:
    reference = {'test = "folder:': 'reference = "folder:scans/test"\ntest = "folder:'}
    path = write_files(tmp_path, party=reference)
    assert "is not read under the agreed" in faults_of(path)["data.reference"].cure
    (path.parent / "federation.toml").write_text("rounds = \n")
    assert set(faults_of(path)) == {"(TOML)"}


SPOILT = {
    "a stranger": ('party = "hospital-a"', 'party = "hospital-c"', "party", "that file is older"),
    "no secret": ('"secret.json"', '"lost.json"', "secret_key", "no such file"),
    "no agreement": ('"federation.toml"', '"lost.toml"', "(file)", "not found"),
    "no data": ("scans/train", "lost/train", "data.train", "no such file or folder"),
    "unknown source": (
        "folder:scans/test", "foldr:scans/test", "data.test", 'did you mean "folder"',
    ),
    "no source": ("folder:scans/test", "scans", "data.test", "folder:PATH"),
    "a folder as npz": ("folder:scans/test", "npz:scans/test", "data.test", "needs a file"),
    "a file as folder": (
        "folder:scans/test", "folder:secret.json", "data.test", "needs a folder",
    ),
    "reference": (
        'id = "scans"', 'id = "scans"\nreference = "digits:"', "data.reference", "is not read",
    ),
    "budget": (
        'id = "scans"', 'id = "scans"\nbudget_epsilon = 3.0\nbudget_delta = 1e-5',
        "data.budget_epsilon", 'contradicts the agreed [privacy] mode = "none"',
    ),
    "half a budget": (
        'id = "scans"', 'id = "scans"\nbudget_epsilon = 3.0', "data.budget_delta", "missing",
    ),
    "no id": ('id = "scans"\n', "", "data.id", "missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT, ids=lambda case: case.replace(" ", "-"))
def test_each_fault_between_the_files_and_the_disk_is_named(tmp_path: Path, case: str) -> None:
    old, new, key, cure = SPOILT[case]
    faults = faults_of(write_files(tmp_path, party={old: new}))
    assert key in faults
    assert cure in faults[key].cure


def test_faults_of_both_files_come_at_once(tmp_path: Path) -> None:
    path = write_files(
        tmp_path,
        federation={
            "rounds = 3": "rounds = 0",
            '["cat", "dog"]': "[]",
            "tcp://127.0.0.1:7001": "nowhere",
        },
        party={"hospital-a": "hospital-q", "scans/train": "lost", '"secret.json"': "3"},
        more="\n[training]\nepochs = 1\nsteps = 2\nlr = 'x'\n",
    )
    assert set(faults_of(path)) == {
        "rounds", "parties.hospital-a.address", "party", "data.train", "secret_key",
        "training.steps", "training.lr", "training.loss",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_party(path)
    files = {fault.file for fault in caught.value.faults}
    assert files == {str(path), str(tmp_path / "federation.toml")}


def test_regression_wants_mse(tmp_path: Path) -> None:
    path = write_files(tmp_path, federation={'["cat", "dog"]': "[]"})
    assert 'loss = "mse"' in faults_of(path)["training.loss"].cure
    more = "\n[training]\nloss = 'mse'\n"
    path = write_files(tmp_path, federation={'["cat", "dog"]': "[]"}, more=more)
    assert load_party(path).training.loss == "mse"


def test_a_network_run_needs_the_second_party(tmp_path: Path) -> None:
    path = write_files(tmp_path)
    agreement = tmp_path / "federation.toml"
    text = agreement.read_text()
    agreement.write_text(text[: text.index("[parties.hospital-b]")])
    assert "splitfed init --join" in faults_of(path)["parties"].cure


def add_party(folder: Path, letter: str, address: str = "") -> None:
    """One more [parties.hospital-LETTER] block."""
    with (folder / "federation.toml").open("a") as file:
        file.write(
            f'[parties.hospital-{letter}]\npublic_key = "{letter * 40}"\n{address}'
            f'signing_key = "{letter * 64}"\nrecords = 1\n'
        )


def test_a_network_run_has_any_number_of_parties_as_long_as_every_pair_can_meet(
    tmp_path: Path,
) -> None:
    path = write_files(tmp_path)
    for number, letter in enumerate("cdef"):
        add_party(tmp_path, letter, f'address = "tcp://10.0.0.{number}:7001"\n')
    assert load_party(path).peers == ("hospital-b", *(f"hospital-{it}" for it in "cdef"))


@pytest.mark.parametrize(
    ("further", "told"),
    [
        ("", "so it is of hospital-b: neither can dial the other; give one of the two"),
        ("c", "so it is of hospital-b, hospital-c: none of them can dial the others; give all"),
    ],
)
def test_a_pair_without_any_address_is_refused_with_both_names(
    tmp_path: Path, further: str, told: str
) -> None:
    path = write_files(tmp_path, federation={'address = "tcp://127.0.0.1:7001"\n': ""})
    for letter in further:
        add_party(tmp_path, letter)
    assert told in faults_of(path)["parties.hospital-a.address"].cure


def test_a_third_without_address_cannot_meet_a_second_without_one(tmp_path: Path) -> None:
    """hospital-a's address is of no use to the two others between themselves."""
    path = write_files(tmp_path)
    add_party(tmp_path, "c")
    assert "of hospital-c: neither" in faults_of(path)["parties.hospital-b.address"].cure


def test_bind_without_an_address_is_refused(tmp_path: Path) -> None:
    path = write_files(
        tmp_path,
        party={'"hospital-a"': '"hospital-b"'},
        more="\n[link]\nbind = 'tcp://0.0.0.0:9'\n",
    )
    assert "nobody dials it" in faults_of(path)["link.bind"].cure


@pytest.mark.parametrize(
    "source", ["digits:party=0", "torchvision:MNIST", "my.package:images", "npz:x?part=train"]
)
def test_every_form_of_source_is_known(tmp_path: Path, source: str) -> None:
    (tmp_path / "x").write_bytes(b"")
    path = write_files(tmp_path, party={"folder:scans/train": source})
    assert load_party(path).data.train == source


def test_exactly_one_of_epochs_and_steps_is_set() -> None:
    assert TrainingConfig().epochs == 1
    by_steps = parse(TrainingConfig, {"steps": 5}, "test")
    assert (by_steps.epochs, by_steps.steps) == (None, 5)


def test_a_configuration_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    config = load_party(write_files(tmp_path))
    with pytest.raises(AttributeError):
        config.party = "hospital-b"
    with pytest.raises(ValueError, match="frozen"):
        config.federation.rounds = 9
