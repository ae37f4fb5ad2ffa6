"""An exported model answers as PyTorch does, for any number of images, or it is not written."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from splitfed.errors import FolderError, ModelError, UserError
from splitfed.serve import Predictor, load, read_images, write_bundle
from splitfed.serve import export as package
from splitfed.serve.export import METADATA, SUFFIX, TOLERANCE, Format, export
from splitfed.tensors import Tensors
from tests.serve.making import CLASSES, facts, make_bundle, model, pixels, tensors_of
from tests.support.folders import new_folder

FORMATS: tuple[Format, ...] = ("onnx", "torch-export")


def stack(count: int, first: int = 0, shape: tuple[int, ...] = (28, 28, 1)) -> Any:
    return np.stack([pixels(first + place, shape) for place in range(count)])


def answers(file: Path, inputs: torch.Tensor) -> torch.Tensor:
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": inputs.numpy()})[0])
    found: torch.Tensor = torch.export.load(io.BytesIO(file.read_bytes())).module()(inputs)
    return found


def told(file: Path) -> dict[str, Any]:
    if file.suffix == ".onnx":
        import onnx

        text = {entry.key: entry.value for entry in onnx.load(file).metadata_props}[METADATA]
    else:
        extra = {METADATA: ""}
        torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra)
        text = extra[METADATA]
    found: dict[str, Any] = json.loads(text)
    return found


def ensemble(path: Path) -> Predictor:
    models = {"partial": ["kept"], "fused": ["kept", "peer:hospital-b"]}
    members = {"peer:hospital-b": model(2)}
    return load(make_bundle(path, members=members, models=models, kept="fused"))


def written(predictor: Predictor, format: Format, out: Path, count: int = 4) -> Path:
    images = read_images(stack(count), predictor.bundle).images
    found = export(predictor, format, out, images)
    assert (found.file, found.images, found.same_class) == (out, count, True)
    assert found.difference <= TOLERANCE
    return out


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("many", [False, True])
def test_any_number_of_images_is_answered_as_by_the_predictor(
    tmp_path: Path, format: Format, many: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = ensemble(tmp_path / "a") if many else load(make_bundle(tmp_path / "a"))
    file = written(predictor, format, tmp_path / f"m{SUFFIX[format]}")
    assert capsys.readouterr().out == ""
    for count in (1, 5):
        images = read_images(stack(count, first=10), predictor.bundle).images
        inputs, _ = images.batch(torch.arange(count))
        found = answers(file, inputs)
        assert found.dtype == torch.float32
        assert found.shape == (count, 3)
        expected = predictor.outputs(images)
        assert float((found - expected).abs().max()) <= TOLERANCE
        assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_tells_how_to_use_it_and_nothing_of_this_machine(
    tmp_path: Path, format: Format
) -> None:
    predictor = load(make_bundle(tmp_path / "a"))
    file = written(predictor, format, tmp_path / f"m{SUFFIX[format]}")
    about = told(file)
    assert about["classes"] == CLASSES
    assert about["preprocessing"] == {
        "channels": 1,
        "size": [28, 28],
        "mean": [0.5],
        "std": [0.25],
        "convert": [],
        "formula": "(pixel / 255 - mean) / std",
    }
    assert about["calibration"]["abstain_below"] == 0.4
    assert about["provenance"] == predictor.provenance
    content = file.read_bytes()
    assert os.fsencode(tmp_path) not in content
    assert os.fsencode(Path(package.__file__).parent) not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", file.name]


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_that_asks_for_len_of_its_batch_is_exported(tmp_path: Path, format: Format) -> None:
    scatter = {"classes": 3, "size": [28, 28]}
    with new_folder(tmp_path / "a", party="hospital-a") as opened:
        net = model(4, scatter, "splitfed.models:ScatterNet")
        write_bundle(
            opened, facts(factory="splitfed.models:ScatterNet", arguments=scatter), tensors_of(net)
        )
    file = written(load(tmp_path / "a"), format, tmp_path / f"m{SUFFIX[format]}")
    assert answers(file, torch.zeros(3, 1, 28, 28)).shape == (3, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_a_regression_exports_its_values(tmp_path: Path, format: Format) -> None:
    how = {"channels": 1, "size": [28, 28], "mean": [0.5], "std": [0.25]}
    predictor = load(
        make_bundle(
            tmp_path / "a",
            own=model(1, {"widths": [4, 4, 4], "classes": 1}),
            arguments={"widths": [4, 4, 4], "classes": 1},
            classes=[],
            calibration=None,
            preprocessing=how,
        )
    )
    file = written(predictor, format, tmp_path / f"m{SUFFIX[format]}")
    images = read_images(stack(3), predictor.bundle).images
    found = answers(file, images.batch(torch.arange(3))[0])
    assert found.tolist() == pytest.approx(predictor.outputs(images).tolist(), rel=1e-4)


class Stubborn(nn.Module):
    """Looks at the values of its input in Python: no graph can hold that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.flatten(1).sum(1).tolist()
        return torch.tensor([[value, 0.0, 0.0] for value in total]) * self.weight


def test_a_model_without_a_graph_is_refused_with_the_way_out(tmp_path: Path) -> None:
    tensors: Tensors = {"weight": torch.ones(3)}
    with new_folder(tmp_path / "a", party="hospital-a") as opened:
        code = Path(__file__).read_text(encoding="utf-8")
        start, end = code.index("class Stubborn"), code.index("\n\n\ndef test_a_model_without")
        (tmp_path / "stubborn_net.py").write_text(
            f"import torch\nfrom torch import nn\n\n\n{code[start:end]}\n", encoding="utf-8"
        )
        write_bundle(
            opened,
            facts(factory="stubborn_net:Stubborn", arguments={}, code=str(tmp_path)),
            tensors,
        )
    predictor = load(tmp_path / "a")
    images = read_images(stack(2), predictor.bundle).images
    with pytest.raises(ModelError, match=r"cannot be exported for any number.*\n.*x\.shape\[0\]"):
        export(predictor, "torch-export", tmp_path / "m.pt2", images)
    assert not (tmp_path / "m.pt2").exists()


def test_answers_that_differ_leave_no_file_and_keep_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load(make_bundle(tmp_path / "a"))
    images = read_images(stack(4), predictor.bundle).images
    right = predictor.outputs(images)
    monkeypatch.setattr(predictor, "outputs", lambda images: right + 2e-5)
    (tmp_path / "old.pt2").write_bytes(b"old")
    for name in ("new.pt2", "old.pt2"):
        with pytest.raises(ModelError, match=r"not written: on 4 images .* by up to 2(\.\d+)?e-05"):
            export(predictor, "torch-export", tmp_path / name, images)
    assert (tmp_path / "old.pt2").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "old.pt2"]


def test_missing_packages_are_named_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load(make_bundle(tmp_path / "a"))
    images = read_images(stack(1), predictor.bundle).images
    monkeypatch.setattr(
        "splitfed.serve.export.find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(UserError, match=r"needs onnxscript\n.*pip install 'splitfed\[export\]'"):
        export(predictor, "onnx", tmp_path / "m.onnx", images)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    predictor = load(make_bundle(tmp_path / "a"))
    images = read_images(stack(1), predictor.bundle).images
    with pytest.raises(FolderError, match=r"m\.pt2: cannot be written"):
        export(predictor, "torch-export", tmp_path / "no" / "m.pt2", images)
    with pytest.raises(FolderError, match="is a folder"):
        export(predictor, "torch-export", tmp_path, images)
