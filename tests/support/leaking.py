"""A party whose leakage is quickly measured: few images, a narrow network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from splitfed.config import load_party
from splitfed.data import ImageSet
from splitfed.leakage import Subject, subject_of
from tests.support.files import write_files
from tests.support.pictures import CLASSES

NOISED = """\
mode = "dp-frozen"
noise_multiplier = 4.0
delta = 1e-5
max_grad_norm = 1.0
sample_rate = 0.5
steps_per_round = 2
"""
UPDATES = 'mode = "party-update"\nnoise_multiplier = 4.0\ndelta = 1e-5\nmax_grad_norm = 1.0\n'


def write_party(folder: Path, *, privacy: str = "", **lines: dict[str, str]) -> Path:
    """party.toml, federation.toml and 28x28 pictures of noise, no two of them equal."""
    federation = {
        "widths = [4, 4, 4], classes = 2": 'widths = [4, 4, 4], classes = 2, activation = "tanh"'
    }
    if privacy:
        federation['mode = "none"\n'] = privacy
    party = write_files(folder, federation=federation | lines.get("federation", {}))
    draw = torch.Generator().manual_seed(5)
    for part in ("train", "validation", "test"):
        for shade, name in enumerate(CLASSES):
            place = folder / "scans" / part / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(8):
                dots = torch.randint(0, 200, (7, 7), generator=draw) + 50 * shade
                pixels = dots.repeat_interleave(4, 0).repeat_interleave(4, 1)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{number}.png")
    return party


def subject(folder: Path, *, privacy: str = "") -> Subject:
    """The party of :func:`write_party`."""
    return subject_of(load_party(write_party(folder, privacy=privacy)))


def with_noise(one: Subject, *, count: int, seed: int = 2) -> Subject:
    """The same party with ``count`` training and as many held-out images of pure noise, labelled
    at random: whatever is known about a member was learnt by heart."""
    draw = torch.Generator().manual_seed(seed)

    def images() -> ImageSet:
        return ImageSet(
            images=torch.randn(count, 1, 28, 28, generator=draw),
            labels=torch.randint(0, 2, (count,), generator=draw),
        )

    return replace(one, train=images(), held_out=images())
