"""What the agreement fixes about images: channels, size and constants for normalising.

Nothing is converted in silence. A picture of another size or colour mode than the agreement
names is converted only if the source's spec declares it (``convert=size``,
``convert=channels`` or ``convert=size,channels``); otherwise it is an error with its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splitfed.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]

CONVERSIONS = ("size", "channels")
"""What ``convert=`` may name."""

MODES = {1: "L", 3: "RGB"}
"""PIL's name for 8-bit grey and 8-bit colour, by number of channels."""


LONGEST_SIDE = 8192
"""Pixels: an agreement must not make a party scale its images up until memory is full."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Public constants under which every party reads its images.

    Attributes:
        channels: 1 (grey) or 3 (red, green, blue).
        size: height and width in pixels, each :data:`LONGEST_SIDE` at most.
        mean: per channel, in units of the full range (0 black, 1 white).
        std: per channel, same unit. Both are constants of the agreement, never statistics
            of a party's data: those would leave the house with the agreement.

    Raises:
        DataError: a value that cannot describe an image.
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise DataError(
                f"preprocessing: channels = {self.channels}", "write 1 for grey or 3 for colour"
            )
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or min(self.size) < 1 or max(self.size) > LONGEST_SIDE:
            raise DataError(
                f"preprocessing: size = {list(self.size)}",
                f"write height and width in pixels, {LONGEST_SIDE} at most, such as [28, 28]",
            )
        for key in ("mean", "std"):
            object.__setattr__(self, key, self._constants(key, getattr(self, key)))
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std = {list(self.std)}", "every value must be above 0")

    def _constants(self, key: str, values: Sequence[float]) -> tuple[float, ...]:
        """One value per channel; a single value stands for all of them."""
        constants = tuple(float(value) for value in values)
        if len(constants) == 1:
            constants *= self.channels
        if len(constants) != self.channels or not all(map(math.isfinite, constants)):
            raise DataError(
                f"preprocessing: {key} = {list(values)} for {self.channels} channel(s)",
                "give one finite number, or one per channel",
            )
        return constants


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Makes pictures fit the agreement, as far as the source's spec allows.

    Attributes:
        preprocessing: what the agreement says.
        convert: the declared conversions, of :data:`CONVERSIONS`.
        spec: the source's, for the cure in a message.
    """

    preprocessing: Preprocessing
    convert: frozenset[str]
    spec: str

    def picture(self, picture: Image, name: str) -> Pixels:
        """The pixels of a decoded picture, uint8 [C, H, W].

        Resizing is bilinear with antialiasing and does not keep the aspect ratio; grey from
        colour is ITU-R 601 luma. The orientation that a camera notes in EXIF is not applied.

        Raises:
            DataError: naming ``name``: another size or mode than agreed without the declared
                conversion, or a mode without a faithful 8-bit form (16 bit, transparency).
        """
        from PIL.Image import Resampling

        mode, size = MODES[self.preprocessing.channels], self.preprocessing.size
        if not _is_opaque_8_bit(picture):
            raise DataError(
                f"{name}: an image of mode {picture.mode!r} has no faithful 8-bit form",
                "save it as 8-bit grey or RGB without transparency",
            )
        if picture.mode != mode:
            if "channels" not in self.convert:
                raise DataError(
                    f"{name}: an image of mode {picture.mode!r}, the agreement says "
                    f"channels = {self.preprocessing.channels} ({mode!r})",
                    self._declare("channels"),
                )
            # A palette or an opaque alpha channel first becomes plain colour.
            picture = picture.convert("RGB").convert(mode)
        if (picture.height, picture.width) != size:
            if "size" not in self.convert:
                raise DataError(
                    f"{name}: {picture.height}x{picture.width} pixels (height x width), "
                    f"the agreement says {size[0]}x{size[1]}",
                    self._declare("size"),
                )
            picture = picture.resize((size[1], size[0]), Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)

    def pixels(self, pixels: Pixels, name: str) -> Pixels:
        """The same for a uint8 array [H, W], [H, W, 1] or [H, W, 3]."""
        from PIL.Image import fromarray

        flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
        return self.picture(fromarray(np.ascontiguousarray(flat)), name)

    def _declare(self, conversion: str) -> str:
        wanted = ",".join(c for c in CONVERSIONS if c in self.convert or c == conversion)
        mark = ":" if self.spec.startswith("digits") else "?"
        head, _, tail = self.spec.partition(mark)
        kept = [part for part in tail.split("&") if part and not part.startswith("convert=")]
        query = "&".join([*kept, f"convert={wanted}"])
        return f"prepare the images yourself, or declare the conversion: {head}{mark}{query}"


def _is_opaque_8_bit(picture: Image) -> bool:
    if picture.mode in ("RGBA", "LA"):
        return picture.getchannel("A").getextrema() == (255, 255)
    return picture.mode in ("1", "L", "RGB", "P") and "transparency" not in picture.info
