"""A prediction sees what training saw, says how sure it is, and where it comes from."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import splitfed
from splitfed.data import ImageSet
from splitfed.errors import DataError, ModelError
from splitfed.serve import Predictor, load
from tests.serve.making import CALIBRATION, CLASSES, make_bundle, model, pixels, write_png
from tests.support.folders import CONTRACT


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(make_bundle(tmp_path / "a"))


def by_hand(modules: list[nn.Module], image: Any, temperature: float) -> torch.Tensor:
    """Steps as the documentation has them: [K] float64."""
    x = torch.from_numpy(image)[None, None].to(torch.float32)
    x = (x / 255 - 0.5) / 0.25
    with torch.no_grad():
        each = [torch.softmax(module(x).to(torch.float64), 1) for module in modules]
    return torch.softmax(torch.stack(each).mean(0).log() / temperature, 1)[0]


def test_it_is_the_model_run_by_hand(predictor: Predictor) -> None:
    for seed in range(6):
        (found,) = predictor.predict(pixels(seed))
        expected = by_hand([model()], pixels(seed), 1.7)
        assert found.probabilities is not None
        assert list(found.probabilities) == CLASSES
        assert list(found.probabilities.values()) == pytest.approx(expected.tolist())
        assert found.label == CLASSES[int(expected.argmax())]
        assert found.probability == max(found.probabilities.values())


def test_images_differ_in_their_answers(predictor: Predictor) -> None:
    found = predictor.predict(np.stack([pixels(seed)[..., None] for seed in range(20)]))
    assert len({one.label for one in found}) > 1


def test_file_array_and_tensor_of_one_image_are_answered_alike(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = pixels()
    np.save(tmp_path / "x.npy", image)
    given = [
        write_png(tmp_path / "x.png", image),
        str(tmp_path / "x.png"),
        tmp_path / "x.npy",
        image,
        image[..., None],
        image[None, ..., None],
        torch.from_numpy(image),
        torch.from_numpy(image)[None],
        torch.from_numpy(image)[None, None],
    ]
    answers = [predictor.predict(form)[0].probabilities for form in given]
    assert all(answer == answers[0] for answer in answers)


def test_a_batch_answers_in_its_order_and_names_each_image(
    predictor: Predictor, tmp_path: Path
) -> None:
    stack = np.stack([pixels(seed)[..., None] for seed in range(5)])
    np.save(tmp_path / "five.npy", stack)
    path = write_png(tmp_path / "one.png", pixels(9))
    found = predictor.predict([path, tmp_path / "five.npy"])
    assert [one.image for one in found] == [
        str(path),
        *(f"{tmp_path / 'five.npy'}#{i}" for i in range(5)),
    ]
    assert [one.image for one in predictor.predict(stack)] == [0, 1, 2, 3, 4]
    for one, again in zip(found[1:], predictor.predict(stack), strict=True):
        # A batch of another size may round differently in the last digit of a float32.
        assert one.probabilities == pytest.approx(again.probabilities, abs=1e-5)


def test_a_jpeg_is_read_as_its_decoded_pixels(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "x.jpg")
    decoded = np.asarray(Image.open(tmp_path / "x.jpg"))
    (one,), (other,) = predictor.predict(tmp_path / "x.jpg"), predictor.predict(decoded)
    assert one.probabilities == other.probabilities


def test_it_predicts_without_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    folder = make_bundle(tmp_path / "a")
    monkeypatch.setattr(socket, "socket", refuse)
    assert splitfed.load(folder).predict(pixels())[0].label in CLASSES


def test_provenance_names_run_and_bundle(predictor: Predictor) -> None:
    (found,) = predictor.predict(pixels())
    text = (predictor.bundle.path / "model.json").read_bytes()
    assert found.provenance == {
        "party": "hospital-a",
        "peers": ["hospital-b"],
        "contract": CONTRACT.hex(),
        "rounds": 3,
        "kept": "partial",
        "verdict": {"answer": "helped", "compared": "partial", "low": 0.1, "high": 0.2},
        "privacy": "none",
        "bundle": blake3.blake3(text).hexdigest(),
    }
    assert json.loads(json.dumps(found.row()))["class"] == found.label


# --- what is refused -------------------------------------------------------------------------


def bad_files(where: Path) -> dict[str, Path]:
    """File by what its refusal says."""
    Image.fromarray(pixels().astype(np.uint16) * 256).save(where / "deep.png")
    write_png(where / "colour.png", pixels(0, (28, 28, 3)))
    write_png(where / "large.png", pixels(0, (32, 28)))
    Image.new("LA", (28, 28), (9, 9)).save(where / "glass.png")
    (where / "text.png").write_text("I am no picture")
    whole = write_png(where / "whole.png", pixels()).read_bytes()
    (where / "cut.png").write_bytes(whole[: len(whole) // 2])
    (where / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    np.save(where / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (where / "folder.png").mkdir()
    return {
        "no faithful 8-bit form": where / "deep.png",
        "mode 'RGB', the agreement says channels = 1": where / "colour.png",
        "32x28 pixels": where / "large.png",
        "mode 'LA' has no faithful": where / "glass.png",
        "not an image of a known format": where / "text.png",
        "cannot be read as an image": where / "cut.png",
        "no such file": where / "missing.png",
        "is a folder": where / "folder.png",
        "not a npy file": where / "cut.npy",
        "objects": where / "objects.npy",
        "no such file\n": where / "missing.npy",
    }


def test_each_unusable_file_is_refused_by_name(predictor: Predictor, tmp_path: Path) -> None:
    for told, path in bad_files(tmp_path).items():
        with pytest.raises(DataError) as refused:
            predictor.predict(path)
        assert refused.value.message.startswith(str(path))
        assert told in str(refused.value), path
        assert refused.value.cure


def test_all_unusable_files_are_told_at_once(predictor: Predictor, tmp_path: Path) -> None:
    good = write_png(tmp_path / "good.png", pixels())
    bad = bad_files(tmp_path).values()
    with pytest.raises(DataError) as refused:
        predictor.predict([good, *bad, good])
    assert f"{len(bad)} of {len(bad) + 2} images" in refused.value.message
    assert all(str(path) in refused.value.message for path in bad)
    assert str(good) not in refused.value.message


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((28, 28), np.float32), "float32"),
        (np.zeros((28, 28), np.float64), "float64"),
        (np.zeros((28, 28), np.uint16), "uint16"),
        (np.zeros((28,), np.uint8), r"\[28\]"),
        (np.zeros((5, 28, 28), np.uint8), r"\[5, 28, 28\]"),
        (np.zeros((28, 28, 3), np.uint8), "'RGB'"),
        (np.zeros((2, 28, 28, 2), np.uint8), r"28, 28, 2"),
        (np.zeros((30, 30), np.uint8), "30x30 pixels"),
        (np.zeros((0, 28, 28, 1), np.uint8), "no images"),
        (torch.zeros(28, 28, 1, dtype=torch.uint8), r"\[28, 1, 28\]"),
        (torch.zeros(1, 28, 28), "float32"),
        ([], "no images"),
        ([np.zeros((28, 28), np.uint8)], "in a list"),
    ],
)
def test_arrays_that_training_would_refuse_are_refused(
    predictor: Predictor, array: Any, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        predictor.predict(array)


def test_conversions_of_the_training_images_are_made_and_told(tmp_path: Path) -> None:
    how = {"channels": 1, "size": [28, 28], "mean": [0.5], "std": [0.25]}
    converts = how | {"convert": ["size", "channels"]}
    predictor = load(make_bundle(tmp_path / "a", preprocessing=converts))
    colour = Image.fromarray(pixels(0, (56, 40, 3)))
    colour.save(tmp_path / "c.png")
    (found,) = predictor.predict(tmp_path / "c.png")
    assert found.converted == "56x40 RGB to 28x28 L"
    by_pil = np.asarray(colour.convert("L").resize((28, 28), Image.Resampling.BILINEAR))
    (plain,) = predictor.predict(by_pil)
    assert plain.converted == ""
    assert found.probabilities == plain.probabilities
    (array,) = predictor.predict(np.asarray(colour))
    assert (array.converted, array.probabilities) == (found.converted, found.probabilities)
    only_size = load(make_bundle(tmp_path / "b", preprocessing=how | {"convert": ["size"]}))
    with pytest.raises(DataError, match="'RGB'"):
        only_size.predict(tmp_path / "c.png")


# --- abstention, agreement, ensembles, regression --------------------------------------------


def calibrated(path: Path, **changes: Any) -> Predictor:
    return load(make_bundle(path, calibration=CALIBRATION | changes))


def test_it_abstains_below_the_threshold_and_only_there(tmp_path: Path) -> None:
    (probe,) = calibrated(tmp_path / "a").predict(pixels())
    assert probe.probability is not None
    at = calibrated(tmp_path / "b", abstain_below=probe.probability)
    assert [(p.abstained, p.reason) for p in at.predict(pixels())] == [(False, "")]
    above = calibrated(tmp_path / "c", abstain_below=probe.probability + 1e-9)
    (found,) = above.predict(pixels())
    assert found.abstained
    assert "is below" in found.reason
    assert found.label == probe.label  # told all the same


def test_without_a_reached_promise_everything_abstains(tmp_path: Path) -> None:
    predictor = calibrated(tmp_path / "a", abstain_below=None, reached=False)
    found = predictor.predict(np.stack([pixels(seed)[..., None] for seed in range(5)]))
    assert all(one.abstained and "cannot promise 5.0%" in one.reason for one in found)


def test_without_calibration_nothing_is_promised_and_it_says_so(tmp_path: Path) -> None:
    (found,) = load(make_bundle(tmp_path / "a", calibration=None)).predict(pixels())
    assert (found.abstained, found.reason[:14]) == (False, "not calibrated")
    expected = by_hand([model()], pixels(), 1.0)
    assert found.probability == pytest.approx(float(expected.max()))


def fused(path: Path, **changes: Any) -> Predictor:
    models = {"partial": ["kept"], "fused": ["kept", "peer:hospital-b"]}
    members = {"peer:hospital-b": model(2)}
    return load(make_bundle(path, members=members, models=models, kept="fused", **changes))


def test_an_ensemble_averages_probabilities_before_it_calibrates(tmp_path: Path) -> None:
    predictor = fused(tmp_path / "a")
    for seed in range(4):
        (found,) = predictor.predict(pixels(seed))
        expected = by_hand([model(), model(2)], pixels(seed), 1.7)
        assert found.probabilities is not None
        assert list(found.probabilities.values()) == pytest.approx(expected.tolist())


def test_a_fused_model_that_overflows_does_not_take_the_answer_away(tmp_path: Path) -> None:
    """A peer made it so, perhaps; what was kept answers all the same."""
    broken = model(2)
    with torch.no_grad():
        broken.classifier.weight.fill_(3e38)
    path = make_bundle(
        tmp_path / "run",
        members={"fused": broken},
        models={"partial": ["kept"], "fused": ["fused"]},
    )
    (one,) = load(path).predict(np.full((28, 28), 90, np.uint8))
    assert one.label in CLASSES
    assert one.agreement is None


def test_agreement_compares_the_own_model_with_the_fused_one(tmp_path: Path) -> None:
    found = fused(tmp_path / "a").predict(np.stack([pixels(seed)[..., None] for seed in range(40)]))
    answers = set()
    for place, one in enumerate(found):
        assert one.agreement is not None
        own = CLASSES[int(by_hand([model()], pixels(place), 1.0).argmax())]
        both = CLASSES[int(by_hand([model(), model(2)], pixels(place), 1.0).argmax())]
        answer = "agree" if own == both else "differ"
        assert one.agreement == {"answer": answer, "own": own, "fused": both}
        assert one.label == both
        answers.add(answer)
    assert answers == {"agree", "differ"}


def test_agreement_is_unknown_without_a_fused_model(predictor: Predictor) -> None:
    assert predictor.predict(pixels())[0].agreement is None


def regression(path: Path, dtype: str) -> Predictor:
    linear = nn.Linear(4, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        linear.bias.fill_(0.5)
    how = {"channels": 1, "size": [1, 4], "mean": [0.5], "std": [0.5], "dtype": dtype}
    return load(
        make_bundle(
            path,
            own=linear,
            factory="torch.nn:Linear",
            arguments={"in_features": 4, "out_features": 1},
            classes=[],
            calibration=None,
            preprocessing=how,
        )
    )


def test_a_regression_tells_values(tmp_path: Path) -> None:
    records = np.array([[1, 0, 0, 0], [0, 0, 0, 2]], dtype=np.float32)
    predictor = regression(tmp_path / "a", "float32")
    found = predictor.predict(records)
    assert [one.value for one in found] == [1.5, 8.5]
    assert {(one.label, one.probability, one.abstained, one.agreement) for one in found} == {
        (None, None, False, None)
    }
    with pytest.raises(DataError, match="trained on float32 values"):
        predictor.predict(np.zeros((1, 4), np.uint8))
    with pytest.raises(DataError, match="trained on float32 values"):
        predictor.predict(write_png(tmp_path / "x.png", pixels(0, (1, 4))))


def test_an_answer_that_is_not_finite_is_no_answer(tmp_path: Path) -> None:
    huge = model()
    with torch.no_grad():
        for parameter in huge.parameters():
            parameter.fill_(3e38)
    with pytest.raises(ModelError, match="answer to image 0 is not finite"):
        load(make_bundle(tmp_path / "a", own=huge)).predict(pixels())


def test_outputs_of_a_named_model_are_not_calibrated(tmp_path: Path) -> None:
    predictor = fused(tmp_path / "a")
    images = ImageSet(
        images=torch.from_numpy(pixels())[None, None],
        mean=torch.tensor([0.5]),
        std=torch.tensor([0.25]),
    )
    expected = by_hand([model()], pixels(), 1.0)
    assert predictor.outputs(images, "partial")[0].tolist() == pytest.approx(expected.tolist())
