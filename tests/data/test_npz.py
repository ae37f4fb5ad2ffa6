"""``npz:``: MedMNIST's arrays, read without unpickling, labels checked against the agreement."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitfed.data import ImageSet, Preprocessing, load
from splitfed.errors import DataError

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (6, 5, 4), np.uint8)
COLOUR = DRAW.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([[0], [1], [1], [0], [2], [2]], np.uint8)


def write(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder


def read(folder: Path, query: str = "", **change: Any) -> ImageSet:
    wanted: dict[str, Any] = {
        "preprocessing": Preprocessing(channels=1, size=(5, 4)),
        "classes": ("a", "b", "c"),
        "part": "train",
        "root": folder,
    }
    return load(f"npz:set.npz{query}", **(wanted | change))


def test_each_part_has_its_own_arrays(tmp_path: Path) -> None:
    arrays = {}
    for shift, prefix in enumerate(("train", "val", "test")):
        arrays |= {f"{prefix}_images": GREY + shift, f"{prefix}_labels": LABELS[shift:, 0]}
    for prefix in ("val", "test"):
        arrays[f"{prefix}_images"] = arrays[f"{prefix}_images"][: len(arrays[f"{prefix}_labels"])]
    write(tmp_path, **arrays)
    for part, prefix in (("train", "train"), ("validation", "val"), ("test", "test")):
        data = read(tmp_path, part=part)
        assert torch.equal(data.images[:, 0], torch.from_numpy(arrays[f"{prefix}_images"]))
        assert data.labels is not None
        assert data.labels.tolist() == arrays[f"{prefix}_labels"].tolist()
        assert data.labels.dtype == torch.int64
    assert torch.equal(read(tmp_path, "?part=val").images, read(tmp_path, part="validation").images)
    assert len(read(tmp_path, "?part=test", part="train")) == 4


def test_colour_comes_channels_first(tmp_path: Path) -> None:
    write(tmp_path, train_images=COLOUR, train_labels=LABELS)
    data = read(tmp_path, preprocessing=Preprocessing(channels=3, size=(5, 4)))
    assert torch.equal(data.images[:, 2], torch.from_numpy(COLOUR[..., 2].copy()))


def test_a_reference_set_names_its_part_and_has_no_labels(tmp_path: Path) -> None:
    write(tmp_path, test_images=GREY)
    with pytest.raises(DataError, match="part is missing"):
        read(tmp_path, part="reference")
    assert read(tmp_path, "?part=test", part="reference").labels is None
    with pytest.raises(DataError, match="there is no array 'test_labels'"):
        read(tmp_path, part="test")


@pytest.mark.parametrize("groups", [np.arange(6) // 2, np.array(list("ppqqrr"))])
def test_groups_are_read_as_texts(tmp_path: Path, groups: Any) -> None:
    write(tmp_path, train_images=GREY, train_labels=LABELS, train_groups=groups)
    assert read(tmp_path).groups == tuple(map(str, groups.tolist()))


def test_float_images_are_taken_as_they_are(tmp_path: Path) -> None:
    values = GREY.astype(np.float32) * 3 - 7
    write(tmp_path, train_images=values, train_labels=LABELS)
    data = read(tmp_path)
    assert torch.equal(data.batch(torch.arange(6))[0][:, 0], torch.from_numpy(values))


def test_a_regression_takes_numbers_as_labels(tmp_path: Path) -> None:
    write(tmp_path, train_images=GREY, train_labels=np.linspace(-1, 1, 6))
    data = read(tmp_path, classes=())
    assert data.labels is not None
    assert data.labels.dtype == torch.float32
    assert data.labels[0] == -1


def test_sizes_and_channels_are_converted_only_as_declared(tmp_path: Path) -> None:
    write(tmp_path, train_images=COLOUR, train_labels=LABELS)
    other = {"preprocessing": Preprocessing(channels=1, size=(10, 8))}
    with pytest.raises(DataError, match=r"set\.npz, train_images, image 0: an image of mode 'RGB'"):
        read(tmp_path, **other)
    with pytest.raises(DataError, match=r"set\.npz, train_images, image 0: 5x4 pixels"):
        read(tmp_path, "?convert=channels", **other)
    assert read(tmp_path, "?convert=channels,size", **other).images.shape == (6, 1, 10, 8)


class Trap:
    """Unpickling this would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("key", ["train_images", "train_labels", "train_groups"])
def test_nothing_is_unpickled(tmp_path: Path, key: str) -> None:
    mark = tmp_path / "mark"
    trap = np.empty(6, dtype=object)
    trap[:] = [Trap(mark)] * 6
    arrays: dict[str, Any] = {"train_images": GREY, "train_labels": LABELS}
    write(tmp_path, **(arrays | {key: trap}))
    with pytest.raises(DataError, match=rf"set\.npz: array '{key}' cannot be read"):
        read(tmp_path)
    assert not mark.exists()


def test_a_pickle_under_an_npz_name_is_not_unpickled(tmp_path: Path) -> None:
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(tmp_path / "mark")
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, trap, allow_pickle=True)
    with pytest.raises(DataError, match=r"set\.npz: .*not an npz file"):
        read(tmp_path)
    (tmp_path / "set.npz").write_bytes(trap.dumps())
    with pytest.raises(DataError, match=r"set\.npz: not an npz file"):
        read(tmp_path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": GREY[:0]}, "train_images: no images at all"),
        ({"train_images": GREY[0]}, r"shape \[5, 4\]"),
        ({"train_images": GREY[:, None]}, r"shape \[6, 1, 5, 4\]"),
        ({"train_images": GREY.astype(np.int64)}, "images of int64"),
        ({"train_images": GREY.astype(np.float64)}, "images of float64"),
        ({"train_images": GREY[:, :4].astype(np.float32)}, r"float images of \[4, 4, 1\]"),
        (
            {"train_images": np.where(GREY[3, 0, 0] == GREY, np.nan, 1).astype(np.float32)},
            r"train_images, image \d: NaN or infinity",
        ),
        ({"train_images": np.uint8(3)}, "'train_images' is a single value"),
        ({"train_labels": LABELS[:5]}, r"shape \[5\] for 6 images"),
        ({"train_labels": np.eye(6, 14, dtype=np.uint8)}, "14 labels per image"),
        ({"train_labels": LABELS + 1}, "train_labels, image 4: label 3, the agreement has 3"),
        ({"train_labels": LABELS.astype(np.int64) - 1}, "train_labels, image 0: label -1"),
        ({"train_labels": LABELS.astype(np.float32)}, "labels of float32"),
        ({"train_labels": np.array(list("abcabd"))}, "image 5: class 'd' is not in the agreement"),
        ({"train_groups": np.arange(5)}, r"groups of int64 and shape \[5\]"),
        ({"train_groups": np.linspace(0, 1, 6)}, "groups of float64"),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    arrays: dict[str, Any] = {"train_images": GREY, "train_labels": LABELS}
    write(tmp_path, **(arrays | change))
    with pytest.raises(DataError, match=rf"set\.npz.*{words}"):
        read(tmp_path)


def test_damaged_bytes_give_a_set_or_a_data_error_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, train_images=GREY, train_labels=LABELS)
    sound = (tmp_path / "set.npz").read_bytes()
    draw = np.random.default_rng(1)
    refusals = []
    for _ in range(200):
        body = bytearray(sound)
        body[draw.integers(len(body))] = draw.integers(256)
        (tmp_path / "set.npz").write_bytes(body)
        try:
            read(tmp_path)
        except DataError as error:
            refusals.append(error.message)
    assert refusals
    assert all("set.npz" in message for message in refusals)


def test_a_regression_refuses_labels_that_are_no_numbers(tmp_path: Path) -> None:
    for labels in (np.array(list("abcabc")), np.array([0, 1, np.inf, 0, 0, 0])):
        write(tmp_path, train_images=GREY, train_labels=labels)
        with pytest.raises(DataError, match="a regression needs numbers|image 2: NaN or infinity"):
            read(tmp_path, classes=())


def test_a_missing_broken_or_other_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.npz: cannot be read: No such file"):
        read(tmp_path)
    write(tmp_path, train_labels=LABELS)
    with pytest.raises(DataError, match="there is no array 'train_images'") as caught:
        read(tmp_path)
    assert caught.value.cure == "it holds: train_labels"
    write(tmp_path, train_images=GREY, train_labels=LABELS)
    body = bytearray((tmp_path / "set.npz").read_bytes())
    (tmp_path / "set.npz").write_bytes(body[:-40])
    with pytest.raises(DataError, match=r"set\.npz: not an npz file"):
        read(tmp_path)
    place = body.index(GREY.tobytes()[:16])
    body[place] ^= 0xFF
    (tmp_path / "set.npz").write_bytes(body)
    with pytest.raises(DataError, match=r"'train_images' cannot be read: Bad CRC"):
        read(tmp_path)
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, GREY)
    with pytest.raises(DataError, match="a single array, not an npz file"):
        read(tmp_path)
