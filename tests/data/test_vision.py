"""``torchvision:``: real loaders on tiny files in their published formats; nothing downloaded."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splitfed.data import ImageSet, Preprocessing, load
from splitfed.errors import DataError

MNIST_NAMES = ("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
               "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine")  # fmt: skip
LABELS = [7, 0, 9, 3]


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """FashionMNIST's and MNIST's four files, with 4 training and 3 test images of 28x28."""
    for name in ("MNIST", "FashionMNIST"):
        raw = tmp_path / "files" / name / "raw"
        raw.mkdir(parents=True)
        for prefix, count in (("train", 4), ("t10k", 3)):
            images = bytes(range(count)) * 0 + b"".join(bytes([i * 10]) * 784 for i in range(count))
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
                struct.pack(">IIII", 0x803, count, 28, 28) + images
            )
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
                struct.pack(">II", 0x801, count) + bytes(LABELS[:count])
            )
    return tmp_path


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    """RenderedSST2's folders: it has the three parts train, val and test."""
    for place, part in enumerate(("train", "valid", "test")):
        for label in ("negative", "positive"):
            folder = tmp_path / "files" / "rendered-sst2" / part / label
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (place, place, place)).save(folder / "a.png")
    return tmp_path


def read(root: Path, spec: str, **change: Any) -> ImageSet:
    wanted: dict[str, Any] = {
        "preprocessing": Preprocessing(channels=1, size=(28, 28)),
        "classes": MNIST_NAMES,
        "part": "train",
        "root": root,
        "options": {"root": "files"},
    }
    return load(f"torchvision:{spec}", **(wanted | change))


def test_the_training_flag_follows_the_part(mnist: Path) -> None:
    train, test = (read(mnist, "MNIST", part=part) for part in ("train", "test"))
    assert train.images[:, 0, 5, 5].tolist() == [0, 10, 20, 30]
    assert (len(train), len(test)) == (4, 3)
    assert len(read(mnist, "MNIST?part=test", part="validation")) == 3
    with pytest.raises(DataError, match="MNIST has no validation part") as caught:
        read(mnist, "MNIST", part="validation")
    assert "leave validation out" in caught.value.cure


def test_the_split_follows_the_part(sst2: Path) -> None:
    wanted = {
        "preprocessing": Preprocessing(channels=3, size=(8, 8)),
        "classes": ("positive", "negative"),
    }
    parts = ("train", "validation", "test")
    found = [read(sst2, "RenderedSST2", part=part, **wanted) for part in parts]
    assert [data.images.unique().tolist() for data in found] == [[0], [1], [2]]
    chosen = read(sst2, "RenderedSST2?split=test", **wanted)
    assert chosen.images.unique().tolist() == [2]
    with pytest.raises(DataError, match="Unknown value 'dev'"):
        read(sst2, "RenderedSST2?split=dev", **wanted)


def test_class_order_comes_from_the_agreement_by_name(mnist: Path) -> None:
    data = read(mnist, "MNIST", classes=tuple(reversed(MNIST_NAMES)))
    assert data.labels is not None
    assert data.labels.tolist() == [9 - label for label in LABELS]


def test_other_names_need_a_declaration(mnist: Path) -> None:
    digits = tuple("0123456789")
    with pytest.raises(DataError, match="image 0: class '7 - seven' is not in") as caught:
        read(mnist, "MNIST", classes=digits)
    assert "0 - zero, 1 - one" in caught.value.cure
    assert "labels=index" in caught.value.cure
    data = read(mnist, "MNIST?labels=index", classes=digits)
    assert data.labels is not None
    assert data.labels.tolist() == LABELS
    with pytest.raises(DataError, match="image 0: label 7, the agreement has 5 classes"):
        read(mnist, "MNIST?labels=index", classes=digits[:5])


def test_a_reference_set_names_its_part_and_has_no_labels(mnist: Path) -> None:
    assert read(mnist, "FashionMNIST?part=test", part="reference").labels is None
    with pytest.raises(DataError, match="part is missing"):
        read(mnist, "FashionMNIST", part="reference")


def test_sizes_and_channels_are_converted_only_as_declared(mnist: Path) -> None:
    other = {"preprocessing": Preprocessing(channels=3, size=(32, 32))}
    with pytest.raises(DataError, match=r"'torchvision:MNIST', image 0: an image of mode 'L'"):
        read(mnist, "MNIST", **other)
    data = read(mnist, "MNIST?convert=channels,size", **other)
    assert data.images.shape == (4, 3, 32, 32)
    assert data.images.dtype == torch.uint8


def test_nothing_is_downloaded_unless_asked_for(
    mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    calls: list[dict[str, Any]] = []

    class Recorder(torchvision.datasets.MNIST):
        def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
            calls.append({"root": root, "train": train, "download": download})
            super().__init__(root, train=train)

    monkeypatch.setattr(torchvision.datasets, "MNIST", Recorder)
    # torchvision finds its files by the class's name.
    (mnist / "files" / "MNIST").rename(mnist / "files" / "Recorder")
    for query in ("", "?download=no", "?download=yes"):
        read(mnist, f"MNIST{query}")
    read(mnist, "MNIST", options={"root": str(mnist / "files"), "download": True})
    assert [call["download"] for call in calls] == [False, False, True, True]
    assert {call["root"] for call in calls} == {mnist / "files"}


def test_missing_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Dataset not found") as caught:
        read(tmp_path, "MNIST")
    assert str(tmp_path / "files") in caught.value.cure
    assert "download=yes" in caught.value.cure
    with pytest.raises(DataError, match="nothing says where the files lie"):
        read(tmp_path, "MNIST", options={})


@pytest.mark.parametrize(
    ("spec", "words", "cure"),
    [
        ("Mnist", "has no dataset 'Mnist'", "MNIST"),
        ("FakeData", "has no dataset 'FakeData' with files", ""),
        ("folder", "has no dataset 'folder'", ""),
        ("", "has no dataset ''", ""),
        ("MNIST?split=letters", "MNIST takes no split", "drop split="),
        ("RenderedSST2?part=all", "Unknown value 'all'", ""),
        ("ImageFolder?download=yes", "torchvision cannot download ImageFolder", ""),
        ("ImageFolder", "ImageFolder has no parts", "part=all"),
    ],
)
def test_what_torchvision_does_not_offer_is_named(
    tmp_path: Path, spec: str, words: str, cure: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, spec)
    assert words in caught.value.message
    assert cure in caught.value.cure


def test_a_dataset_without_parts_is_taken_whole_only_when_asked(sst2: Path) -> None:
    data = read(
        sst2 / "files" / "rendered-sst2",
        "ImageFolder?part=all&root=train",
        preprocessing=Preprocessing(channels=3, size=(8, 8)),
        classes=("positive", "negative"),
    )
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_a_sample_that_cannot_be_read_is_named(sst2: Path) -> None:
    path = sst2 / "files" / "rendered-sst2" / "train" / "positive" / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="'torchvision:RenderedSST2', image 1: OSError"):
        read(
            sst2,
            "RenderedSST2",
            preprocessing=Preprocessing(channels=3, size=(8, 8)),
            classes=("positive", "negative"),
        )
