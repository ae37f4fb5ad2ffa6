"""Public initial tensors from a file: exactly the agreed ones or an error that names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splitfed.errors import ModelError
from splitfed.models import ThreeLayerCNN, file_digest, load_initial, save_initial
from splitfed.models.initial import check_digest
from splitfed.sharing import load_tensors, shared_tensors, split_model
from splitfed.tensors import Tensors, describe, digest

MODEL = ThreeLayerCNN(widths=(2, 3, 4))
SPLIT = split_model(MODEL)


@pytest.fixture
def tensors() -> Tensors:
    return shared_tensors(MODEL, SPLIT)


def test_what_was_saved_is_loaded_to_the_last_bit(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "initial.safetensors"
    agreed = save_initial(path, tensors)
    loaded = load_initial(path, SPLIT.shared, agreed)
    assert digest(loaded) == digest(tensors)
    assert list(loaded) == sorted(tensors)
    fresh = ThreeLayerCNN(widths=(2, 3, 4))
    load_tensors(fresh, loaded)
    assert torch.equal(fresh.conv2.weight, MODEL.conv2.weight)


def test_views_and_strides_do_not_reach_the_file(tmp_path: Path) -> None:
    whole = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.arange(9)[3:5]}
    save_initial(tmp_path / "views", whole)
    assert digest(load_initial(tmp_path / "views", describe(whole))) == digest(whole)


def test_another_file_than_agreed_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    save_initial(mine, tensors)
    tensors["conv1.bias"][0] += 1
    agreed = save_initial(theirs, tensors)
    with pytest.raises(ModelError, match="the agreement says") as caught:
        load_initial(mine, SPLIT.shared, agreed)
    assert agreed in caught.value.message
    assert file_digest(mine) in caught.value.message
    check_digest(theirs, agreed)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("conv1.weight", None, "shared tensor conv1.weight is missing"),
        ("conv3.bias", torch.zeros(4), "tensor conv3.bias is not shared by this model"),
        (
            "conv1.weight",
            torch.zeros(2, 1, 5, 5),
            r"float32 \[2, 1, 5, 5\].*float32 \[2, 1, 3, 3\]",
        ),
        ("conv1.bias", torch.zeros(2, dtype=torch.float64), r"float64 \[2\].*float32 \[2\]"),
        ("conv1.bias", torch.tensor([1.0, float("nan")]), "conv1.bias holds NaN"),
        ("conv2.bias", torch.full((3,), float("inf")), "conv2.bias holds NaN or infinity"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, tensors: Tensors, name: str, value: torch.Tensor | None, words: str
) -> None:
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    path = tmp_path / "initial.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelError, match=words) as caught:
        load_initial(path, SPLIT.shared)
    assert str(path) in caught.value.message


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, tensors: Tensors) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x80\x04 a pickle, perhaps")
    with pytest.raises(ModelError, match=f"{broken}: not a safetensors file"):
        load_initial(broken, SPLIT.shared)
    cut = tmp_path / "cut"
    save_initial(cut, tensors)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"{cut}: not a safetensors file"):
        load_initial(cut, SPLIT.shared)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match=f"{path}: cannot be read"):
            load_initial(path, SPLIT.shared)
        with pytest.raises(ModelError, match=f"{path}: cannot be read"):
            file_digest(path)


def test_saving_never_overwrites(tmp_path: Path, tensors: Tensors) -> None:
    path = tmp_path / "initial.safetensors"
    before = save_initial(path, tensors)
    tensors["conv1.bias"] += 1
    with pytest.raises(ModelError, match="exists already"):
        save_initial(path, tensors)
    assert file_digest(path) == before
