"""Divide PneumoniaMNIST into what two hospitals would hold.

    python prepare.py pneumoniamnist.npz      a file in MedMNIST's format
    python prepare.py --download              fetched by the package medmnist (extra "medical")

Writes hospital-a.npz, hospital-b.npz, reference.npz and a few new patients as PNG files into
data/. The division follows from a public seed; no image stands in two of the files, except that
the test images are common to both hospitals, as the reference images are.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEED = 0
NORMAL, PNEUMONIA = 0, 1
CLASSES = ("normal", "pneumonia")


@dataclass(frozen=True)
class Hospital:
    """One hospital's images: how many, and how many of them show pneumonia."""

    name: str
    training: int
    validation: int
    prevalence: float  # share of pneumonia, in training and validation

    def counts(self, images: int) -> tuple[int, int]:
        """Of so many images: normal ones, and with pneumonia."""
        ill = round(images * self.prevalence)
        return images - ill, ill


HOSPITALS = (
    Hospital("hospital-a", training=800, validation=250, prevalence=0.6),
    Hospital("hospital-b", training=800, validation=250, prevalence=0.3),
)
REFERENCE = (180, 420)  # unlabelled, common to both: normal, pneumonia
NEW_PATIENTS = (NORMAL, NORMAL, PNEUMONIA, PNEUMONIA)


@dataclass
class Pool:
    """Images that nobody holds yet, by class."""

    images: Any  # [N, H, W] uint8
    labels: Any  # [N] uint8
    draw: np.random.Generator
    free: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for label in (NORMAL, PNEUMONIA):
            places = self.draw.permutation(np.flatnonzero(self.labels == label))
            self.free.append([int(place) for place in places])

    def take(self, counts: tuple[int, int], *spare: Pool) -> tuple[Any, Any]:
        """So many images of each class, mixed; what is missing comes out of ``spare``."""
        images, labels = [], []
        for label, wanted in enumerate(counts):
            for pool in (self, *spare):
                taken, pool.free[label] = pool.free[label][:wanted], pool.free[label][wanted:]
                images.append(pool.images[taken])
                labels.append(pool.labels[taken])
                wanted -= len(taken)
            if wanted:
                sys.exit(f"prepare.py: {wanted} images too few with the label {CLASSES[label]}")
        order = self.draw.permutation(sum(len(part) for part in labels))
        return np.concatenate(images)[order], np.concatenate(labels)[order]

    def take_one(self, label: int) -> Any:
        """One image of a class."""
        images, _ = self.take((1, 0) if label == NORMAL else (0, 1))
        return images[0]


def pools(source: dict[str, Any]) -> dict[str, Pool]:
    """The three official parts, every image once: the test set's copy of it stays, else the
    first."""
    draw = np.random.default_rng(SEED)
    seen: set[bytes] = set()
    found = {}
    for part in ("test", "val", "train"):
        images, labels = source[f"{part}_images"], source[f"{part}_labels"].ravel()
        kept = []
        for index, image in enumerate(images):
            pixels = image.tobytes()
            if pixels not in seen:
                kept.append(index)
                seen.add(pixels)
        found[part] = Pool(images[kept], labels[kept], draw)
        print(f"{part}: {len(kept)} images, {len(images) - len(kept)} repeated ones left out")
    return found


def prepare(source: dict[str, Any], out: Path, scale: float) -> None:
    """Write all files into ``out``; ``scale`` makes all sets but the test images smaller."""
    out.mkdir(parents=True, exist_ok=True)
    parts = pools(source)
    train, validation, test = parts["train"], parts["val"], parts["test"]
    for number, label in enumerate(NEW_PATIENTS, 1):
        image = test.take_one(label)
        file = out / f"new-patient-{number}.png"
        Image.fromarray(image).save(file)
        print(f"{file}: {CLASSES[label]} in truth; nobody has trained or measured on it")
    test_images, test_labels = test.take((len(test.free[NORMAL]), len(test.free[PNEUMONIA])))
    for hospital in HOSPITALS:
        arrays = {"test_images": test_images, "test_labels": test_labels}
        taken = train.take(hospital.counts(round(scale * hospital.training)))
        arrays["train_images"], arrays["train_labels"] = taken
        taken = validation.take(hospital.counts(round(scale * hospital.validation)), train)
        arrays["val_images"], arrays["val_labels"] = taken
        file = out / f"{hospital.name}.npz"
        np.savez_compressed(file, **arrays)
        print(f"{file}: {described(arrays)}")
    images, _ = train.take((round(scale * REFERENCE[0]), round(scale * REFERENCE[1])))
    np.savez_compressed(out / "reference.npz", train_images=images)
    print(f"{out / 'reference.npz'}: {len(images)} images without labels")


def described(arrays: dict[str, Any]) -> str:
    """How many images a hospital has, and how many of them show pneumonia."""
    texts = []
    for part, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        labels = arrays[f"{part}_labels"]
        texts.append(f"{len(labels)} {name} ({labels.mean():.0%} pneumonia)")
    return ", ".join(texts)


def downloaded() -> dict[str, Any]:
    """The three parts as the package medmnist fetches them."""
    try:
        from medmnist import PneumoniaMNIST
    except ImportError:
        sys.exit("prepare.py: --download needs the package medmnist: pip install medmnist")
    found = {}
    for part in ("train", "val", "test"):
        data = PneumoniaMNIST(split=part, download=True)
        found[f"{part}_images"], found[f"{part}_labels"] = data.imgs, data.labels
    return found


def main() -> None:
    """Read the arguments, then the images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", type=Path, help="pneumoniamnist.npz")
    source.add_argument("--download", action="store_true", help="fetch it with medmnist")
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder to write into")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth, for a quick try")
    chosen = parser.parse_args()
    if chosen.download:
        arrays = downloaded()
    else:
        with np.load(chosen.file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    prepare(arrays, chosen.out, chosen.scale)


if __name__ == "__main__":
    main()
