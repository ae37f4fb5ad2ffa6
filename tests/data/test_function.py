"""``package.module:function``: the party's own code, its result checked like any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitfed.data import ImageSet, Preprocessing, load
from splitfed.errors import DataError

MODULE = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

pixels = np.arange(4 * 1 * 3 * 5, dtype=np.uint8).reshape(4, 1, 3, 5)
labels = [0, 1, 2, 1]
calls = []


def record(part, **options):
    calls.append((part, options))
    return pixels[:, 0], labels


def typed(part: str, scale: int = 1):
    calls.append((part, {"scale": scale}))
    return pixels[:, 0], labels


def plain():
    return pixels[:, 0], labels


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Samples(Dataset):
    def __init__(self, make, groups=False):
        self.make, self.groups = make, groups

    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i > 3:
            raise IndexError(i)
        sample = (self.make(i), torch.tensor(labels[i]))
        return (*sample, f"p{i // 2}") if self.groups else sample


MAKE = {
    "picture": lambda i: Image.fromarray(pixels[i, 0]),
    "rows": lambda i: pixels[i, 0],
    "channels_last": lambda i: pixels[i].transpose(1, 2, 0),
    "tensor": lambda i: torch.from_numpy(pixels[i]),
    "float": lambda i: torch.from_numpy(pixels[i]).float() / 7,
    "text": lambda i: "a picture",
    "large": lambda i: Image.new("L", (9, 9)),
    "mixed": lambda i: pixels[i, 0] if i else pixels[i, 0].astype(np.float32),
    "nan": lambda i: np.full((3, 5), np.nan if i == 2 else 0, np.float32),
}


def samples(kind):
    return Samples(MAKE[kind])


def patients():
    return Samples(MAKE["rows"], groups=True)


RESULTS = {
    "tensor": lambda: (torch.from_numpy(pixels), torch.tensor(labels)),
    "grey": lambda: (pixels[:, 0], labels),
    "array": lambda: (pixels.transpose(0, 2, 3, 1), labels),
    "names": lambda: (pixels[:, 0], ["a", "b", "c", "b"]),
    "float": lambda: (pixels[:, 0].astype(np.float32) * 2, labels),
    "tensors": lambda: TensorDataset(torch.from_numpy(pixels), torch.tensor(labels)),
    "groups": lambda: (pixels[:, 0], labels, ["p", "p", "q", "r"]),
    "group_numbers": lambda: (pixels[:, 0], labels, torch.tensor([5, 5, 6, 7])),
    "first_in_array": lambda: (pixels, labels),
    "last_in_tensor": lambda: (torch.from_numpy(pixels.transpose(0, 2, 3, 1)), labels),
    "no_labels": lambda: (pixels[:, 0], None),
    "few_labels": lambda: (pixels[:, 0], labels[:3]),
    "few_groups": lambda: (pixels[:, 0], labels, ["p"]),
    "wrong_label": lambda: (pixels[:, 0], [0, 1, 3, 1]),
    "wrong_name": lambda: (pixels[:, 0], ["a", "b", "d", "b"]),
    "empty": lambda: (pixels[:0], []),
    "four": lambda: (pixels, labels, None, None),
    "nothing": lambda: None,
    "stream": Stream,
    "sizes": lambda: (pixels[:, 0, :, :4], labels),
    "double": lambda: (pixels[:, 0] / 2, labels),
    "not_samples": lambda: [1, 2, 3],
    "some_groups": lambda: [(pixels[0, 0], 0, "p"), (pixels[1, 0], 1)],
    "no_samples": lambda: [],
    "ragged_images": lambda: ([pixels[0, 0], pixels[0, 0, :2]], labels[:2]),
    "many_labels": lambda: [(pixels[0, 0], torch.tensor([0, 1]))],
    "ragged_labels": lambda: [(pixels[0, 0], 0), (pixels[0, 0], [0, 1])],
    "features": lambda: (np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2), [0.5, 1, 2, 3]),
    "bad_features": lambda: (np.full((4, 2), np.nan, np.float32), [0.5, 1, 2, 3]),
    "no_features": lambda: (np.zeros((0, 2), np.float32), []),
}


def result(kind):
    return RESULTS[kind]()


def fails():
    raise RuntimeError("the scanner is off")


constant = 3
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "ownimages.py").write_text(MODULE)
    return tmp_path


def read(home: Path, spec: str, **change: Any) -> ImageSet:
    wanted: dict[str, Any] = {
        "preprocessing": Preprocessing(channels=1, size=(3, 5)),
        "classes": ("a", "b", "c"),
        "part": "train",
        "root": home,
    }
    return load(f"ownimages:{spec}", **(wanted | change))


PIXELS = torch.arange(60, dtype=torch.uint8).reshape(4, 1, 3, 5)


@pytest.mark.parametrize(
    "kind", ["tensor", "grey", "array", "names", "groups", "tensors", "group_numbers"]
)
def test_arrays_tensors_and_datasets_give_the_same_set(home: Path, kind: str) -> None:
    data = read(home, f"result?kind={kind}")
    assert torch.equal(data.images, PIXELS)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 1]
    expected = {"groups": ("p", "p", "q", "r"), "group_numbers": ("5", "5", "6", "7")}
    assert data.groups == expected.get(kind)


@pytest.mark.parametrize("kind", ["picture", "rows", "channels_last", "tensor"])
def test_a_dataset_may_give_its_images_in_several_forms(home: Path, kind: str) -> None:
    data = read(home, f"samples?kind={kind}")
    assert torch.equal(data.images, PIXELS)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 1]


def test_a_dataset_may_name_patients(home: Path) -> None:
    assert read(home, "patients").groups == ("p0", "p0", "p1", "p1")


@pytest.mark.parametrize("spec", ["result?kind=float", "samples?kind=float"])
def test_floats_are_taken_as_they_are(home: Path, spec: str) -> None:
    data = read(home, spec)
    factor = 2.0 if spec.startswith("result") else 1 / 7
    x, _ = data.batch(torch.arange(4))
    assert torch.allclose(x, PIXELS.float() * factor)


def test_features_of_a_regression_need_no_images(home: Path) -> None:
    data = read(home, "result?kind=features", classes=())
    assert data.images.shape == (4, 2)
    assert data.labels is not None
    assert data.labels.tolist() == [0.5, 1, 2, 3]


def test_part_and_options_reach_the_function(home: Path) -> None:
    import sys

    read(home, "record?site=north", options={"scale": 2}, part="test")
    read(home, "record?scale=3&part=other", options={"scale": 2})
    read(home, "typed", part="validation", options={"scale": 4})
    read(home, "plain")
    assert sys.modules["ownimages"].calls == [
        ("test", {"scale": 2, "site": "north"}),
        ("other", {"scale": "3"}),
        ("validation", {"scale": 4}),
    ]


def test_a_reference_set_has_no_labels(home: Path) -> None:
    for kind in ("no_labels", "grey"):
        assert read(home, f"result?kind={kind}", part="reference").labels is None


def test_pixels_are_converted_only_as_declared(home: Path) -> None:
    with pytest.raises(DataError, match=r"result\(\), image 0: 3x4 pixels") as caught:
        read(home, "result?kind=sizes")
    assert caught.value.cure.endswith("ownimages:result?kind=sizes&convert=size")
    assert read(home, "result?kind=sizes&convert=size").images.shape == (4, 1, 3, 5)
    with pytest.raises(DataError, match=r"samples\(\), image 0: 9x9 pixels"):
        read(home, "samples?kind=large")
    assert read(home, "samples?kind=large&convert=size").images.shape == (4, 1, 3, 5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("result?kind=first_in_array", r"shape \[4, 1, 3, 5\]"),
        ("result?kind=last_in_tensor", r"shape \[4, 5, 1, 3\]|the agreement says"),
        ("result?kind=no_labels", "no labels"),
        ("result?kind=few_labels", r"shape \[3\] for 4 images"),
        ("result?kind=few_groups", r"groups of .* shape \[1\] for 4 images"),
        ("result?kind=wrong_label", "image 2: label 3"),
        ("result?kind=wrong_name", "image 2: class 'd'"),
        ("result?kind=empty", "no images at all"),
        ("result?kind=four", "returned a tuple of 4"),
        ("result?kind=nothing", "returned a NoneType"),
        ("result?kind=stream", "returned a Stream"),
        ("result?kind=double", "images of float64"),
        ("result?kind=not_samples", "image 0: not a sample"),
        ("result?kind=some_groups", "some samples have a group and some have none"),
        ("result?kind=no_samples", "no images at all"),
        ("result?kind=ragged_images", "images of different shapes"),
        ("result?kind=many_labels", "2 labels per image"),
        ("result?kind=ragged_labels", "more labels or groups than others"),
        ("samples?kind=text", "image 0: an image of type str"),
        ("samples?kind=mixed", "some images are uint8 and some float"),
        ("samples?kind=nan", "image 2: NaN or infinity"),
        ("result?kind=missing", "KeyError: 'missing'"),
        ("fails", "RuntimeError: the scanner is off"),
        ("constant", "ownimages:constant is no function"),
        ("nothing", "has no 'nothing'"),
        ("plain?depth=3", "unexpected keyword argument 'depth'"),
        ("result", "missing a required argument: 'kind'"),
    ],
)
def test_a_function_or_result_that_does_not_serve_is_named(
    home: Path, spec: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(home, spec)
    assert caught.value.cure


@pytest.mark.parametrize("kind", ["bad_features", "no_features"])
def test_features_that_are_missing_or_not_finite_are_refused(home: Path, kind: str) -> None:
    with pytest.raises(DataError, match="NaN or infinity among|no records at all"):
        read(home, f"result?kind={kind}", classes=())


def test_code_elsewhere_is_not_found(home: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="there is no module 'ownimages'"):
        read(tmp_path / "other", "plain")
