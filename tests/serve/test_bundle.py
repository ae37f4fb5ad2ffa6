"""A bundle comes back as it was written, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splitfed.errors import Defect, FolderError, ModelError
from splitfed.serve import check_files, read_bundle, write_bundle
from splitfed.serve.bundle import facts_digest
from splitfed.serve.facts import LARGEST
from tests.serve.making import ARGUMENTS, CALIBRATION, facts, make_bundle, model, tensors_of
from tests.support.folders import new_folder

FILES = ("model.safetensors", "members.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "a")


def with_peer(path: Path) -> Path:
    models = {"partial": ["kept"], "fused": ["kept", "peer:hospital-b"]}
    return make_bundle(path, members={"peer:hospital-b": model(2)}, models=models, kept="fused")


def edit(folder: Path, **changes: Any) -> None:
    """Other values, as if they had been written so: with their own digest."""
    file = folder / "model.json"
    body = json.loads(file.read_text()) | changes
    body.pop("digest", None)
    file.write_text(json.dumps(body | {"digest": facts_digest(body)}))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["owl", "dog", "cat"]},
        {"preprocessing": {"channels": 1, "size": [28, 28], "mean": [0.9], "std": [0.25]}},
        {"seed": 8},
        {"digest": "0" * 64},
    ],
)
def test_a_value_of_model_json_that_was_changed_gives_no_answer(
    folder: Path, change: dict[str, Any]
) -> None:
    """Classes in another order would answer confidently and wrongly."""
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FolderError, match="model.json is damaged or was changed"):
        read_bundle(folder)
    with pytest.raises(FolderError, match="model.json is damaged or was changed"):
        check_files(folder)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = tensors_of(one), tensors_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_models_come_back_bit_for_bit_and_in_evaluation_mode(folder: Path) -> None:
    bundle = read_bundle(folder)
    (module,) = bundle.models["partial"]
    assert same(module, model())
    assert not any(part.training for part in module.modules())
    assert bundle.facts.classes == ["cat", "dog", "owl"]
    assert bundle.preprocessing.std == (0.25,)
    assert bundle.facts.software.keys() == {"splitfed", "torch"}


def test_ensemble_and_differently_built_member_come_back(tmp_path: Path) -> None:
    other = ARGUMENTS | {"widths": [4, 4, 6]}
    with_recipes(tmp_path / "a", other)
    bundle = read_bundle(tmp_path / "a")
    own, peer = bundle.models["fused"]
    assert bundle.models["partial"] == (own,)
    assert same(own, model())
    assert same(peer, model(2, other))
    assert same(bundle.models["local_only"][0], model(3))


def with_recipes(path: Path, other: dict[str, Any]) -> Path:
    whole = facts(
        models={
            "partial": ["kept"],
            "fused": ["kept", "peer:hospital-b"],
            "local_only": ["local_only"],
        },
        kept="fused",
        members={
            "peer:hospital-b": {"factory": "splitfed.models:ThreeLayerCNN", "arguments": other}
        },
    )
    parts = {"peer:hospital-b": model(2, other), "local_only": model(3)}
    with new_folder(path, party="hospital-a") as opened:
        write_bundle(
            opened, whole, tensors_of(model()), {n: tensors_of(m) for n, m in parts.items()}
        )
    return path


def test_code_folder_is_searched_and_missed_by_name(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "serve_net.py").write_text(
        "import torch\n\nclass Net(torch.nn.Linear):\n    pass\n", encoding="utf-8"
    )
    with new_folder(tmp_path / "a", party="hospital-a") as opened:
        write_bundle(
            opened,
            facts(
                factory="serve_net:Net",
                arguments={"in_features": 2, "out_features": 3},
                code=str(code),
            ),
            {"weight": torch.zeros(3, 2), "bias": torch.ones(3)},
        )
    assert type(read_bundle(tmp_path / "a", code).models["partial"][0]).__name__ == "Net"
    edit(tmp_path / "a", code=None)
    with pytest.raises(ModelError, match=r"model\.json.*no module 'serve_net'"):
        read_bundle(tmp_path / "a")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", [9, -1])
def test_one_changed_byte_is_found_and_the_file_named(
    tmp_path: Path, file: str, place: int
) -> None:
    folder = with_peer(tmp_path / "a")
    content = bytearray((folder / file).read_bytes())
    content[place] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(FolderError, match=f"{file} is damaged or was changed"):
        read_bundle(folder)


@pytest.mark.parametrize("file", FILES)
def test_missing_tensors_are_named(tmp_path: Path, file: str) -> None:
    folder = with_peer(tmp_path / "a")
    (folder / file).unlink()
    with pytest.raises(FolderError, match=f"{file} is missing"):
        read_bundle(folder)


def test_half_written_bundle_is_noticed(folder: Path) -> None:
    """A second writing stopped after the tensors: the old model.json no longer fits."""
    with new_folder(folder, party="hospital-a") as opened:
        opened.write_tensors("model.safetensors", tensors_of(model(5)))
    with pytest.raises(FolderError, match="damaged or was changed"):
        read_bundle(folder)


def test_a_second_writing_replaces_the_first_whole(tmp_path: Path) -> None:
    folder = with_peer(tmp_path / "a")
    before = read_bundle(folder).digest
    make_bundle(folder, own=model(5))
    assert not (folder / "members.safetensors").exists()
    bundle = read_bundle(folder)
    assert same(bundle.models["partial"][0], model(5))
    assert bundle.digest != before


@pytest.mark.parametrize("keep", [0, 1, 40, -3])
def test_truncated_facts_are_damaged(folder: Path, keep: int) -> None:
    file = folder / "model.json"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(FolderError, match=r"model\.json is damaged"):
        read_bundle(folder)


@pytest.mark.parametrize("text", [b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"schema": "2"}'])
def test_facts_of_another_kind_are_damaged(folder: Path, text: bytes) -> None:
    (folder / "model.json").write_bytes(text)
    with pytest.raises(FolderError, match=r"model\.json is damaged"):
        read_bundle(folder)


def test_older_schema_asks_to_run_again(folder: Path) -> None:
    (folder / "model.json").write_text('{"schema": 1, "party": "a", "kept": "partial"}')
    with pytest.raises(FolderError, match=r"schema 1.*\n.*run `splitfed run` again"):
        read_bundle(folder)


def test_newer_schema_asks_for_its_splitfed(folder: Path) -> None:
    edit(folder, schema=3)
    with pytest.raises(FolderError, match="newer splitfed"):
        read_bundle(folder)


def test_oversized_facts_are_not_read(folder: Path) -> None:
    with (folder / "model.json").open("ab") as file:
        file.write(b" " * LARGEST)
    with pytest.raises(FolderError, match="larger than 16 MiB"):
        read_bundle(folder)


def test_no_bundle_is_told_with_the_folder_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"model\.json cannot be read.*\n.*run folder"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": "3"}, r"rounds"),
        ({"rounds": -1}, r"rounds"),
        ({"classes": [1]}, r"classes"),
        ({"kept": "fused"}, r"kept = 'fused' is none of models"),
        ({"kept": "best"}, r"kept"),
        ({"models": {"partial": ["peer:x"]}}, r"names member 'peer:x', which is in no file"),
        ({"models": {"partial": []}}, r"models"),
        ({"digests": {}}, r"digests"),
        ({"code": "../code"}, r"no absolute folder"),
        ({"calibration": CALIBRATION | {"temperature": 0.0}}, r"temperature = 0.0"),
        ({"calibration": CALIBRATION | {"abstain_below": None}}, r"reached = True"),
        ({"preprocessing": {"channels": 1, "size": [28], "mean": [0], "std": [1]}}, r"size"),
        ({"preprocessing": {"channels": 2, "size": [9, 9], "mean": [0], "std": [1]}}, r"channels"),
        ({"privacy": {"mode": "none"}}, r"sentence"),
    ],
)
def test_facts_of_the_wrong_form_name_the_key(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(FolderError, match=rf"model\.json.*{told}"):
        read_bundle(folder)


def misfitting(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    with new_folder(path, party="hospital-a") as opened:
        write_bundle(opened, facts(), tensors)
    return path


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    whole = tensors_of(model())
    cases: dict[str, dict[str, torch.Tensor]] = {
        "conv3.bias .* is missing": {n: t for n, t in whole.items() if n != "conv3.bias"},
        "tensor extra is not one of": whole | {"extra": torch.zeros(1)},
        r"conv3.bias is float32 \[9\]": whole | {"conv3.bias": torch.zeros(9)},
        "conv3.bias is float64": whole | {"conv3.bias": whole["conv3.bias"].double()},
    }
    for place, (told, tensors) in enumerate(cases.items()):
        with pytest.raises(ModelError, match=rf"model\.safetensors: .*{told}"):
            read_bundle(misfitting(tmp_path / str(place), tensors))


def test_a_tensor_with_nan_is_named(tmp_path: Path) -> None:
    whole = tensors_of(model())
    whole["conv2.bias"][1] = float("nan")
    with pytest.raises(FolderError, match=r"conv2\.bias holds NaN"):
        read_bundle(misfitting(tmp_path / "a", whole))


def test_writing_what_could_not_be_read_is_a_defect(tmp_path: Path) -> None:
    kept = tensors_of(model())
    with new_folder(tmp_path / "a", party="hospital-a") as opened:
        for changes, members in (
            ({"rounds": "3"}, {}),
            ({"models": {"partial": ["peer:b"]}}, {}),
            ({}, {"peer:b": kept}),  # a member that no model uses
            ({"calibration": CALIBRATION | {"temperature": float("nan")}}, {}),
        ):
            with pytest.raises(Defect):
                write_bundle(opened, facts(**changes), kept, members)
        assert not (opened.path / "model.safetensors").exists()


def test_further_keys_stay_in_the_file(tmp_path: Path) -> None:
    make_bundle(tmp_path / "a", note="kept for the archive")
    assert json.loads((tmp_path / "a" / "model.json").read_text())["note"]
    read_bundle(tmp_path / "a")
