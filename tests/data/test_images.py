"""ImageSet, its digest and the division into training and validation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from splitfed.data import ImageSet, data_digest, split_validation
from splitfed.errors import DataError
from tests.support.data import tiny_set


def test_batch_scales_and_normalises_pixels_by_the_constants() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    data = ImageSet(
        images=images,
        labels=torch.tensor([0, 1, 2]),
        mean=torch.tensor([0.2]),
        std=torch.tensor([0.5]),
    )
    x, y = data.batch(torch.tensor([2, 1, 0]))
    assert x.dtype == torch.float32
    assert torch.allclose(x.flatten(), torch.tensor([1.6, 0.0, -0.4]))
    assert y is not None
    assert y.tolist() == [2, 1, 0]


def test_each_channel_has_its_own_constants() -> None:
    data = ImageSet(
        images=torch.full((1, 3, 2, 2), 255, dtype=torch.uint8),
        mean=torch.tensor([0.0, 0.5, 1.0]),
        std=torch.tensor([1.0, 0.5, 0.1]),
    )
    x, y = data.batch(torch.tensor([0]))
    assert x[0, :, 1, 1].tolist() == [1.0, 1.0, 0.0]
    assert y is None


def test_batch_leaves_float_images_and_the_stored_ones_alone() -> None:
    values = torch.tensor([[1.5, -2.0], [300.0, 0.0]])
    data = ImageSet(images=values.clone(), labels=torch.tensor([0.5, 1.5]))
    x, y = data.batch(torch.tensor([1, 0]))
    assert torch.equal(x, values[[1, 0]])
    assert y is not None
    assert y.dtype == torch.float32
    x.zero_()
    assert torch.equal(data.images, values)
    pixels = tiny_set(3)
    before = pixels.images.clone()
    pixels.batch(torch.arange(3))
    assert torch.equal(pixels.images, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8)}, "without a single image"),
        ({"images": torch.zeros(60, 1, 4, 4, dtype=torch.float64)}, "float64"),
        ({"images": torch.zeros(60, 4, 4, dtype=torch.uint8)}, r"\[60, 4, 4\]"),
        ({"images": torch.zeros(60)}, r"\[60\]"),
        ({"mean": None}, "mean does not fit"),
        ({"std": torch.ones(3)}, "std does not fit"),
        ({"labels": torch.zeros(60, dtype=torch.int32)}, "int32"),
        ({"labels": torch.zeros(59, dtype=torch.int64)}, "for 60 images"),
        ({"names": ("a",)}, "1 names for 60"),
        ({"groups": ("a", "b")}, "2 groups for 60"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        replace(tiny_set(), **change)


def test_subset_takes_every_part_in_the_given_order() -> None:
    data = replace(tiny_set(4), names=("a", "b", "c", "d"), groups=("p", "p", "q", "r")).subset(
        [3, 0]
    )
    assert len(data) == 2
    assert torch.equal(data.images, tiny_set(4).images[[3, 0]])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0]
    assert data.names == ("d", "a")
    assert data.groups == ("r", "p")
    assert data.without_labels().labels is None
    with pytest.raises(DataError, match="without a single image"):
        data.subset([])


def test_digest_changes_with_everything_that_is_data_and_nothing_else() -> None:
    data = replace(tiny_set(6), groups=("ab", "c", "d", "e", "f", "g"))
    same = [
        replace(data, images=data.images.clone()),
        replace(data, names=tuple("uvwxyz")),
        replace(data, mean=torch.tensor([0.1])),
    ]
    assert data.labels is not None
    other_pixel = data.images.clone()
    other_pixel[5, 0, 27, 27] ^= 1
    other_label = data.labels.clone()
    other_label[0] = 2
    different = [
        replace(data, images=other_pixel),
        replace(data, images=data.images.reshape(6, 1, 14, 56)),
        replace(data, labels=other_label),
        replace(data, labels=None),
        replace(data, groups=None),
        replace(data, groups=("a", "bc", "d", "e", "f", "g")),
        data.subset([1, 0, 2, 3, 4, 5]),
    ]
    digest = data_digest(data)
    assert len(digest) == 32
    assert [data_digest(other) == digest for other in same] == [True] * 3
    assert len({digest, *map(data_digest, different)}) == 1 + len(different)


def test_validation_split_loses_no_image_and_keeps_class_shares() -> None:
    data = replace(tiny_set(90, classes=3), names=tuple(map(str, range(90))))
    training, validation = split_validation(data, 0.2, seed=5)
    assert training.names is not None
    assert validation.names is not None
    assert sorted(training.names + validation.names) == sorted(data.names or ())
    assert validation.labels is not None
    assert torch.bincount(validation.labels).tolist() == [6, 6, 6]


def test_validation_split_depends_on_the_seed_alone() -> None:
    data = tiny_set(60)
    first, again, other = (split_validation(data, 0.25, seed)[1] for seed in (1, 1, 2))
    assert data_digest(first) == data_digest(again)
    assert data_digest(first) != data_digest(other)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.95])
def test_validation_split_never_divides_a_patient(fraction: float) -> None:
    groups = tuple(f"patient-{n // 4}" for n in range(40))
    data = replace(tiny_set(40), groups=groups)
    training, validation = split_validation(data, fraction, seed=0)
    assert training.groups is not None
    assert validation.groups is not None
    assert not set(training.groups) & set(validation.groups)
    assert abs(len(validation) - fraction * 40) <= 4


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_validation_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        split_validation(tiny_set(), fraction, 0)


def test_too_few_records_for_a_split_are_refused() -> None:
    with pytest.raises(DataError, match=r"too few records: 1 image\(s\)"):
        split_validation(tiny_set(1), 0.5, 0)
    one_patient = replace(tiny_set(6), groups=("p",) * 6)
    with pytest.raises(DataError, match=r"too few records: 1 group\(s\)"):
        split_validation(one_patient, 0.5, 0)


def test_tiny_set_is_deterministic_and_separable() -> None:
    data = tiny_set(30, classes=5, channels=3)
    assert data_digest(data) == data_digest(tiny_set(30, classes=5, channels=3))
    assert data.labels is not None
    centres = torch.stack(
        [data.images[data.labels == k].float().mean(0).flatten() for k in range(5)]
    )
    nearest = torch.cdist(data.images.flatten(1).float(), centres).argmin(1)
    assert torch.equal(nearest, data.labels)
