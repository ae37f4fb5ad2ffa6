"""Pictures are made to fit the agreement only as the spec declares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitfed.data import Preprocessing
from splitfed.data.preprocessing import Fitting
from splitfed.errors import DataError

GREY = Preprocessing(channels=1, size=(4, 6))
COLOUR = Preprocessing(channels=3, size=(4, 6))


def fitting(preprocessing: Preprocessing = GREY, *convert: str, spec: str = "folder:x") -> Fitting:
    return Fitting(preprocessing=preprocessing, convert=frozenset(convert), spec=spec)


def picture(mode: str = "L", size: tuple[int, int] = (6, 4)) -> Image.Image:
    """Width 6, height 4: a left half of 40 and a right half of 200, by colour (40, 90, 200)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = (40, 90, 200)
    pixels[:, size[0] // 2 :] = (200, 200, 200)
    return Image.fromarray(pixels).convert(mode)


def test_a_picture_that_fits_is_taken_pixel_by_pixel() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert np.array_equal(fitting().picture(Image.fromarray(grey), "a"), grey[None])
    colour = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    fitted = fitting(COLOUR).picture(Image.fromarray(colour), "a")
    assert fitted.shape == (3, 4, 6)
    assert np.array_equal(fitted[1], colour[..., 1])


@pytest.mark.parametrize("array", [(4, 6), (4, 6, 1), (4, 6, 3)])
def test_arrays_are_fitted_like_pictures(array: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, array, np.uint8)
    preprocessing = COLOUR if array[-1] == 3 else GREY
    fitted = fitting(preprocessing).pixels(pixels, "a")
    assert np.array_equal(np.moveaxis(fitted, 0, -1).reshape(array), pixels)


def test_another_size_is_an_error_that_names_the_picture_and_the_cure() -> None:
    with pytest.raises(DataError, match=r"^scan\.png: 6x4 pixels .* says 4x6") as caught:
        fitting().picture(picture(size=(4, 6)), "scan.png")
    assert caught.value.cure.endswith("folder:x?convert=size")


def test_declared_resizing_takes_height_and_width_in_order() -> None:
    fitted = fitting(GREY, "size").picture(picture(size=(60, 40)), "a")
    assert fitted.shape == (1, 4, 6)
    assert np.all(fitted[0, :, -1] == 200)
    assert np.all(np.ptp(fitted[0], axis=0) == 0)


@pytest.mark.parametrize(
    ("mode", "preprocessing"),
    [("RGB", GREY), ("L", COLOUR), ("P", COLOUR), ("1", GREY), ("RGBA", COLOUR), ("LA", GREY)],
)
def test_another_mode_is_an_error_unless_the_conversion_is_declared(
    mode: str, preprocessing: Preprocessing
) -> None:
    with pytest.raises(DataError, match=rf"^a: an image of mode '{mode}', the agreement") as caught:
        fitting(preprocessing).picture(picture(mode), "a")
    assert caught.value.cure.endswith("?convert=channels")
    fitted = fitting(preprocessing, "channels").picture(picture(mode), "a")
    assert fitted.shape == (preprocessing.channels, 4, 6)
    assert np.all(np.abs(fitted[:, :, -1].astype(int) - 200) <= 55)


def test_grey_from_colour_is_luma_and_colour_from_grey_is_three_times_the_same() -> None:
    grey = fitting(GREY, "channels").picture(picture("RGB"), "a")
    assert grey[0, 0, 0] == round(0.299 * 40 + 0.587 * 90 + 0.114 * 200)
    colour = fitting(COLOUR, "channels").picture(picture("L"), "a")
    assert np.array_equal(colour[0], colour[1])
    assert np.array_equal(colour[0], colour[2])


def transparent_palette() -> Image.Image:
    image = picture("P")
    image.info["transparency"] = 0
    return image


def half_transparent(mode: str) -> Image.Image:
    image = picture(mode)
    image.putalpha(128)
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((4, 6), 40_000, np.uint16)),
        Image.fromarray(np.full((4, 6), 0.5, np.float32)),
        Image.fromarray(np.full((4, 6), 7, np.int32)),
        picture("CMYK"),
        half_transparent("RGB"),
        half_transparent("L"),
        transparent_palette(),
    ],
    ids=lambda image: image.mode,
)
def test_what_has_no_faithful_8_bit_form_is_never_converted(image: Image.Image) -> None:
    with pytest.raises(DataError, match=r"^a: an image of mode .* no faithful 8-bit form"):
        fitting(GREY, "size", "channels").picture(image, "a")


@pytest.mark.parametrize(
    ("spec", "convert", "cure"),
    [
        ("npz:a.npz?part=train", (), "npz:a.npz?part=train&convert=size"),
        ("npz:a.npz?convert=channels", ("channels",), "npz:a.npz?convert=size,channels"),
        ("digits:party=0", (), "digits:party=0&convert=size"),
        ("digits", (), "digits:convert=size"),
    ],
)
def test_the_cure_is_a_spec_to_copy(spec: str, convert: tuple[str, ...], cure: str) -> None:
    with pytest.raises(DataError) as caught:
        fitting(GREY, *convert, spec=spec).picture(picture(size=(5, 5)), "a")
    assert caught.value.cure.endswith(f": {cure}")


def test_one_constant_stands_for_all_channels() -> None:
    wanted = Preprocessing(channels=3, size=(4, 4), mean=(0.5,), std=(0.1, 0.2, 0.3))
    assert wanted.mean == (0.5, 0.5, 0.5)
    assert wanted.std == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 2}, "channels = 2"),
        ({"size": (28,)}, r"size = \[28\]"),
        ({"size": (28, 0)}, r"size = \[28, 0\]"),
        ({"mean": (0.1, 0.2)}, r"mean = \[0.1, 0.2\] for 1 channel"),
        ({"mean": ()}, r"mean = \[\]"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"std": (0.0,)}, r"std = \[0.0\]"),
        ({"std": (-1.0,)}, r"std = \[-1.0\]"),
    ],
)
def test_constants_that_describe_no_image_are_refused(change: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"channels": 1, "size": (4, 4)}
    with pytest.raises(DataError, match=words):
        Preprocessing(**(good | change))
