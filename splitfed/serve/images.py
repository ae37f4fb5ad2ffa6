"""Images for a prediction, read as the training images were.

The same code reads them: files by :mod:`splitfed.data.folder`, arrays by
:mod:`splitfed.data.arrays`. Only the conversions that the training images were declared to
need are made, and each one that is made is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from splitfed.data import ImageSet
from splitfed.data.arrays import fit_images
from splitfed.data.folder import decode
from splitfed.data.images import image_set
from splitfed.data.npy import read_npy
from splitfed.data.preprocessing import MODES, Fitting, Pixels
from splitfed.data.samples import channels_last
from splitfed.errors import DataError
from splitfed.serve.bundle import Bundle

Array = NDArray[Any]
Images = str | Path | Sequence[str | Path] | Array | torch.Tensor
"""What a prediction is made for; see :func:`read_images`."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Images that are ready, with what is told about each.

    Attributes:
        images: N of them, unlabelled.
        names: file (with ``#i`` for the i-th of an array of several), or place in the array.
        converted: the conversion that was made, such as "40x40 RGB to 28x28 L", or "".
    """

    images: ImageSet
    names: tuple[str | int, ...]
    converted: tuple[str, ...]


def read_images(images: Images, bundle: Bundle) -> Reading:
    """Read images for the bundle's models; all faults are found before anything is predicted.

    =========================  ================================================================
    given                      read as
    =========================  ================================================================
    path, sequence of paths    PNG, JPEG, BMP, TIFF, WEBP or PPM; ``.npy`` holds an array
    array [H, W]               one grey image
    array [H, W, 1 or 3]       one image, channels last
    array [N, H, W, 1 or 3]    N images
    tensor                     the same with channels first: [H, W], [C, H, W], [N, C, H, W]
    =========================  ================================================================

    Arrays are uint8 pixels of 0 to 255. Only a model that was trained on float32 values takes
    float32 instead, and nothing else: they go to the model as they are. Where such a model is
    a regression, [N, F] are N records of F values.

    Raises:
        DataError: no image; another type, size or mode than the training images had; a file
            that is missing, damaged, too large or no image. All faulty files are named.
    """
    reader = _Reader(bundle)
    if isinstance(images, np.ndarray | torch.Tensor):
        rows = reader.array(images, "the array")
        names: list[str | int] = list(range(len(rows)))
    else:
        try:
            paths = [images] if isinstance(images, str | Path) else list(images)
        except TypeError:
            raise DataError(
                f"images given as {type(images).__name__}",
                "give a path, a list of paths, or an array of uint8 pixels",
            ) from None
        rows, names = _files(paths, reader)
    if not rows:
        raise DataError("there are no images to predict", "give at least one")
    stack = torch.stack([row for row, _ in rows])
    return Reading(
        images=image_set(stack, None, bundle.preprocessing),
        names=tuple(names),
        converted=tuple(how for _, how in rows),
    )


def _files(
    paths: Sequence[str | Path], reader: _Reader
) -> tuple[list[tuple[torch.Tensor, str]], list[str | int]]:
    rows: list[tuple[torch.Tensor, str]] = []
    names: list[str | int] = []
    faults: list[DataError] = []
    for path in paths:
        if not isinstance(path, str | Path):
            raise DataError(
                f"an image of type {type(path).__name__} in a list",
                "give paths, or one array or tensor [N, ...] of all images",
            )
        try:
            found = reader.file(Path(path))
        except DataError as fault:
            faults.append(fault)
            continue
        rows += found
        several = len(found) > 1
        names += [f"{path}#{i}" if several else str(path) for i in range(len(found))]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = [f"  {fault.message}: {fault.cure}" for fault in faults]
        raise DataError(
            "\n".join([f"{len(faults)} of {len(paths)} images cannot be read:", *lines]),
            "mend them or leave them out; nothing was predicted",
        )
    return rows, names


class _Reader:
    """Reads one file or array after the other into rows (image, conversion)."""

    def __init__(self, bundle: Bundle) -> None:
        facts = bundle.facts
        self._dtype = facts.preprocessing.dtype
        self._features = self._dtype == "float32" and not facts.classes
        self._preprocessing = bundle.preprocessing
        self._convert = frozenset(facts.preprocessing.convert)

    def _fitting(self) -> _Telling:
        return _Telling(preprocessing=self._preprocessing, convert=self._convert, spec="")

    def file(self, path: Path) -> list[tuple[torch.Tensor, str]]:
        if path.is_dir():
            raise DataError(f"{path} is a folder", f"give its files, such as {path}/*.png")
        if not path.exists():
            raise DataError(f"{path}: no such file", "check the path")
        if path.suffix.lower() == ".npy":
            return self.array(_npy(path), str(path))
        self._refuse_other_kind("uint8", f"{path}: an image file")
        fitting = self._fitting()
        pixels = torch.from_numpy(decode(path, fitting))
        return [(pixels, fitting.told())]

    def array(self, values: Array | torch.Tensor, where: str) -> list[tuple[torch.Tensor, str]]:
        if isinstance(values, torch.Tensor):
            values = (
                channels_last(values) if values.ndim in (3, 4) else values.detach().cpu().numpy()
            )
        self._refuse_other_kind(str(values.dtype), f"{where}: values of {values.dtype}")
        if self._features and values.ndim == 2:
            return [(row, "") for row in torch.from_numpy(np.array(values))]
        if values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (1, 3)):
            values = values[None]
        elif values.ndim != 4:
            raise DataError(
                f"{where}: shape {list(values.shape)}",
                "give [H, W], [H, W, C] or [N, H, W, C] with C = 1 or 3; in a tensor, "
                "channels come first",
            )
        rows = []
        for place in range(len(values)):  # one by one: each may need another conversion
            fitting = self._fitting()
            own = np.array(values[place : place + 1])  # torch wants memory that may be written
            image = fit_images(own, fitting, where, place)[0]
            rows.append((image, fitting.told()))
        return rows

    def _refuse_other_kind(self, dtype: str, what: str) -> None:
        if dtype != self._dtype:
            wanted = {
                "uint8": "8-bit pixels: give uint8 values of 0 to 255",
                "float32": "float32 values: give these in an array or a .npy file",
            }
            raise DataError(what, f"the model was trained on {wanted[self._dtype]}")


@dataclass(frozen=True, kw_only=True)
class _Telling(Fitting):
    """A Fitting that notes what it converted, and whose cure is for a single image."""

    notes: list[str] = field(default_factory=list)

    def picture(self, picture: Image, name: str) -> Pixels:
        try:
            pixels = super().picture(picture, name)
        except DataError as error:
            height, width = self.preprocessing.size
            raise DataError(
                error.message,
                f"prepare it as the training images were: 8-bit "
                f"{'grey' if self.preprocessing.channels == 1 else 'RGB'} without transparency, "
                f"{height}x{width} pixels",
            ) from None
        height, width = self.preprocessing.size
        wanted = f"{height}x{width} {MODES[self.preprocessing.channels]}"
        given = f"{picture.height}x{picture.width} {picture.mode}"
        if given != wanted:
            self.notes.append(f"{given} to {wanted}")
        return pixels

    def told(self) -> str:
        return "".join(self.notes)


def _npy(path: Path) -> Array:
    try:
        return read_npy(path)
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read: {problem.strerror or problem}", "check the path"
        ) from None
    except ValueError as problem:
        raise DataError(
            f"{path}: not a npy file of plain numbers: {problem}",
            "write it with numpy.save, without objects",
        ) from None
