"""A party's folder: made whole or not at all, by founding or by joining."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from splitfed.config import load_federation, load_party
from splitfed.data import Preprocessing
from splitfed.errors import ConfigError, DataError, ModelError, SharingError, UserError
from splitfed.founding import (
    Newcomer,
    Proposal,
    Sources,
    classes_of,
    found,
    join,
    sources_of,
)
from splitfed.founding.sources import count_units
from splitfed.transport.keys import load_secret
from tests.support.pictures import write_pictures

CLASSES = ("cat", "dog")
SMALL = {"widths": [4, 4, 4]}


def newcomer(party: str, pictures: Path, address: str | None = None) -> Newcomer:
    return Newcomer(
        party=party,
        address=address,
        records=12,
        sources=sources_of(str(pictures), pictures.parent / party),
    )


def proposal(**other: object) -> Proposal:
    return Proposal(**{"name": "trial", "classes": CLASSES, "arguments": SMALL, **other})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def test_two_parties_come_to_one_agreement(tmp_path: Path, pictures: Path) -> None:
    first = found(tmp_path / "a", proposal(), newcomer("a", pictures, "tcp://127.0.0.1:7001"))
    with pytest.raises(ConfigError, match="only a so far"):
        load_party(first.party_file)
    second = join(tmp_path / "b", first.federation_file, newcomer("b", pictures))
    shutil.copyfile(second.federation_file, first.federation_file)
    mine, theirs = load_party(first.party_file), load_party(second.party_file)
    assert mine.federation.contract_digest == theirs.federation.contract_digest
    assert mine.federation.roster_digest == theirs.federation.roster_digest
    assert (mine.peers, theirs.peers) == (("b",), ("a",))
    for config in (mine, theirs):
        secret = load_secret(config.secret_key)
        assert secret.curve_public == config.me.public_key
        assert secret.signing_public == config.me.signing_key


def test_the_secret_is_the_owners_alone_and_in_no_other_file(
    tmp_path: Path, pictures: Path
) -> None:
    made = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    assert stat.S_IMODE(made.secret_file.stat().st_mode) == 0o600
    secret = load_secret(made.secret_file)
    for file in (made.party_file, made.federation_file):
        text = file.read_text()
        assert secret.curve_secret not in text
        assert secret.signing_secret not in text


def test_the_agreement_says_what_the_model_declares(tmp_path: Path, pictures: Path) -> None:
    made = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    agreed = made.federation
    assert agreed.model.shared == ("conv1", "conv2")
    assert agreed.model.arguments == {
        "channels": 1, "classes": 2, "size": [28, 28], "activation": "tanh", "widths": [4, 4, 4]
    }  # fmt: skip
    assert agreed.classes == CLASSES


def test_the_bound_is_the_norm_of_the_initial_layers_rounded_up(
    tmp_path: Path, pictures: Path
) -> None:
    import torch

    from splitfed.models import initialise

    made = found(
        tmp_path / "a",
        proposal(arguments={"widths": [32, 64, 64]}),
        newcomer("a", pictures),
    )
    agreed = made.federation
    model = initialise(agreed.model.factory, agreed.model.arguments, agreed.seed)
    squares = [
        parameter.detach().double().square().sum()
        for name, parameter in model.named_parameters()
        if name.startswith(("conv1.", "conv2."))
    ]
    norm = float(torch.stack(squares).sum().sqrt())
    assert norm > 1
    bound = agreed.aggregation.max_update_norm
    assert norm <= bound < norm + 1
    small = found(tmp_path / "b", proposal(shared=["conv1.bias"]), newcomer("b", pictures))
    assert small.federation.aggregation.max_update_norm == 1.0


@pytest.mark.parametrize(
    ("other", "error", "text"),
    [
        ({"factory": "splitfed.models:Nothing"}, ModelError, "Nothing"),
        ({"factory": "no.such:Model"}, ModelError, "no module"),
        ({"shared": ["conv9"]}, SharingError, "conv9"),
        ({"arguments": {"depth": 3}}, ModelError, "depth"),
        ({"rounds": 0}, ConfigError, "rounds"),
        ({"name": "a b"}, ConfigError, "name"),
        ({"classes": ("cat", "cat")}, ConfigError, "named twice"),
    ],
)
def test_nothing_is_written_for_a_proposal_that_cannot_work(
    tmp_path: Path, pictures: Path, other: dict[str, object], error: type[UserError], text: str
) -> None:
    with pytest.raises(error, match=text):
        found(tmp_path / "a", proposal(**other), newcomer("a", pictures))
    assert not (tmp_path / "a").exists()


def test_a_bad_newcomer_writes_nothing_either(tmp_path: Path, pictures: Path) -> None:
    first = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    with pytest.raises(ConfigError, match="tcp://"):
        join(tmp_path / "b", first.federation_file, newcomer("b", pictures, "somewhere"))
    with pytest.raises(ConfigError, match="already"):
        join(tmp_path / "b", first.federation_file, newcomer("a", pictures))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["party.toml", "secret.json", "federation.toml"])
def test_no_file_that_is_there_is_overwritten(tmp_path: Path, pictures: Path, name: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        found(folder, proposal(), newcomer("a", pictures))
    assert {file.name: file.read_text() for file in folder.iterdir()} == {name: "mine"}


def test_joining_in_place_completes_the_very_file(tmp_path: Path, pictures: Path) -> None:
    first = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    folder = tmp_path / "b"
    folder.mkdir()
    received = folder / "federation.toml"
    shutil.copyfile(first.federation_file, received)
    made = join(folder, received, newcomer("b", pictures))
    assert made.federation_file == received
    assert list(load_federation(received).parties) == ["a", "b"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "federation.toml", "party.toml", "secret.json"
    ]  # fmt: skip


def test_joining_from_elsewhere_leaves_the_received_file_alone(
    tmp_path: Path, pictures: Path
) -> None:
    first = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    before = first.federation_file.read_bytes()
    join(tmp_path / "b", first.federation_file, newcomer("b", pictures))
    assert first.federation_file.read_bytes() == before


def test_joining_brings_the_initial_tensors_along(tmp_path: Path, pictures: Path) -> None:
    first = found(tmp_path / "a", proposal(), newcomer("a", pictures))
    (tmp_path / "a" / "start.safetensors").write_bytes(b"values")
    text = first.federation_file.read_text()
    first.federation_file.write_text(
        text.replace("[preprocessing]", 'initial = "start.safetensors"\n[preprocessing]')
    )
    made = join(tmp_path / "b", first.federation_file, newcomer("b", pictures))
    initial = made.federation.model.initial
    assert initial is not None
    assert initial.file == str(tmp_path / "b" / "start.safetensors")


def test_a_folder_stands_for_its_three_parts(pictures: Path) -> None:
    expected = Sources(
        train="folder:pictures/train",
        validation="folder:pictures/validation",
        test="folder:pictures/test",
    )
    assert sources_of(str(pictures), pictures.parent) == expected
    assert sources_of(f"folder:{pictures}", pictures.parent) == expected
    assert classes_of(expected, pictures.parent) == CLASSES
    elsewhere = sources_of(str(pictures), pictures.parent / "party")
    assert elsewhere.train == f"folder:{pictures}/train"


def test_a_folder_without_its_parts_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="validation and none named test"):
        sources_of(str(tmp_path), tmp_path)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a file nor a folder"):
        sources_of("nowhere", tmp_path)
    with pytest.raises(ConfigError, match="did you mean"):
        sources_of("digit:party=0", tmp_path)


def test_other_sources_divide_themselves(tmp_path: Path) -> None:
    source = "digits:party=0&parties=2"
    sources = sources_of(source, tmp_path)
    assert sources == Sources(train=source, validation=source, test=source)
    assert classes_of(sources, tmp_path) == tuple("0123456789")


def test_records_are_counted_by_reading_the_images(tmp_path: Path, pictures: Path) -> None:
    sources = sources_of(str(pictures), tmp_path)

    def count(classes):
        agreed = Preprocessing(channels=1, size=(28, 28))
        return count_units(sources.train, agreed, classes, tmp_path, by_patient=False)

    assert count(CLASSES) == 12
    with pytest.raises(DataError, match="dog"):
        count(("cat", "cow"))
