"""A set of images in memory, its digest, and its division into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import blake3
import torch

from splitfed.data.preprocessing import Preprocessing
from splitfed.errors import DataError
from splitfed.random import generator

_DOMAIN = b"splitfed image set v1\0"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images with what is known about each.

    Attributes:
        images: uint8 [N, C, H, W] as read from the files, or float32 [N, ...] ready for
            the model (then neither scaled nor normalised; [N, F] serves regression).
        labels: int64 [N] of positions in the agreement's ``classes``, float32 [N] for a
            regression, or None for unlabelled images.
        names: where each image came from, such as its file; None if nobody could tell.
        groups: the patient (or other unit) that each image belongs to, or None.
        mean: float32 [C], subtracted from uint8 images after scaling them to 0..1.
        std: float32 [C], the divisor after that.

    Raises:
        DataError: no image at all, or parts that do not fit each other.
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None
    names: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    mean: torch.Tensor | None = None
    std: torch.Tensor | None = None

    def __post_init__(self) -> None:
        images, count = self.images, len(self.images)
        if count == 0:
            raise DataError("a set of images without a single image", "point at data")
        if images.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"images of {images.dtype}", "give uint8 pixels or float32 values")
        if images.dtype == torch.uint8:
            if images.ndim != 4:
                raise DataError(f"uint8 images of shape {list(images.shape)}", "give [N, C, H, W]")
            for key, constants in (("mean", self.mean), ("std", self.std)):
                if constants is None or constants.shape != images.shape[1:2]:
                    raise DataError(
                        f"{key} does not fit images of {images.shape[1]} channel(s)",
                        "give one value per channel; uint8 images are always normalised",
                    )
        elif images.ndim < 2:
            raise DataError(f"images of shape {list(images.shape)}", "give [N, ...]")
        if self.labels is not None and (
            self.labels.shape != (count,) or self.labels.dtype not in (torch.int64, torch.float32)
        ):
            raise DataError(
                f"labels of {self.labels.dtype} and shape {list(self.labels.shape)} "
                f"for {count} images",
                "give one int64 (class) or float32 (regression) per image",
            )
        for key, texts in (("names", self.names), ("groups", self.groups)):
            if texts is not None and len(texts) != count:
                raise DataError(f"{len(texts)} {key} for {count} images", "give one per image")

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The images and labels at ``index`` (int64 [B]) as a model takes them.

        uint8 pixels p become float32 (p / 255 - mean) / std; float32 images stay as they are.
        """
        chosen = self.images[index]
        if chosen.dtype == torch.uint8:
            assert self.mean is not None  # __post_init__ saw to it
            assert self.std is not None
            chosen = chosen.to(torch.float32).div_(255.0)
            chosen = chosen.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        return chosen, None if self.labels is None else self.labels[index]

    def subset(self, index: torch.Tensor | Sequence[int]) -> ImageSet:
        """The images at ``index``, in that order.

        Raises:
            DataError: ``index`` is empty.
        """
        index = torch.as_tensor(index, dtype=torch.int64)
        places = index.tolist()
        return replace(
            self,
            images=self.images[index],
            labels=None if self.labels is None else self.labels[index],
            names=None if self.names is None else tuple(self.names[i] for i in places),
            groups=None if self.groups is None else tuple(self.groups[i] for i in places),
        )

    def without_labels(self) -> ImageSet:
        """The same images, unlabelled."""
        return replace(self, labels=None)


def image_set(
    images: torch.Tensor,
    labels: torch.Tensor | None,
    preprocessing: Preprocessing,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> ImageSet:
    """An :class:`ImageSet` under the agreement's constants."""
    return ImageSet(
        images=images,
        labels=labels,
        names=None if names is None else tuple(names),
        groups=None if groups is None else tuple(groups),
        mean=torch.tensor(preprocessing.mean, dtype=torch.float32),
        std=torch.tensor(preprocessing.std, dtype=torch.float32),
    )


def data_digest(data: ImageSet) -> bytes:
    """BLAKE3 (32 bytes) of images, labels and groups, in their order.

    Names are left out, so a moved folder keeps its digest, and so are the constants of
    normalisation, which the contract holds.
    """
    hasher = blake3.blake3(_DOMAIN)
    for tensor in (data.images, data.labels):
        if tensor is None:
            hasher.update(b"none\0")
            continue
        hasher.update(f"{tensor.dtype} {list(tensor.shape)}\0".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for group in data.groups or ():
        encoded = group.encode()
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return hasher.digest()


def split_validation(data: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Divide ``data`` into training and validation, deterministically for a seed.

    With groups, a whole group goes to one side: images of one patient on both would make
    the validation flatter the model. Otherwise classes keep their shares.

    Args:
        data: at least two images (or groups).
        fraction: of the images, for validation; 0 < fraction < 1. With groups it is met
            as closely as whole groups allow.
        seed: the party's own; the division is private.

    Raises:
        DataError: a fraction outside (0, 1), or too few images to give each side one.
    """
    if not 0 < fraction < 1:
        raise DataError(f"validation fraction {fraction}", "choose one between 0 and 1")
    wanted = max(1, round(fraction * len(data)))
    shuffled = torch.randperm(len(data), generator=generator(seed, "validation split")).tolist()
    if data.groups is not None:
        chosen = _whole_groups(shuffled, data.groups, wanted)
    else:
        chosen = _even_shares(shuffled, data.labels, wanted)
    rest = sorted(set(range(len(data))) - chosen)
    if not rest:
        units = "group(s)" if data.groups is not None else "image(s)"
        count = len(set(data.groups)) if data.groups is not None else len(data)
        raise DataError(
            f"too few records: {count} {units} cannot be divided into training and validation",
            "add data, or name a validation set of its own",
        )
    return data.subset(rest), data.subset(sorted(chosen))


def _whole_groups(shuffled: list[int], groups: tuple[str, ...], wanted: int) -> set[int]:
    members: dict[str, list[int]] = {}
    for place in shuffled:
        members.setdefault(groups[place], []).append(place)
    chosen: set[int] = set()
    for places in members.values():
        # A group joins when that brings the count closer to what was asked for.
        if not chosen or abs(len(chosen) + len(places) - wanted) < abs(len(chosen) - wanted):
            chosen.update(places)
    return chosen


def _even_shares(shuffled: list[int], labels: torch.Tensor | None, wanted: int) -> set[int]:
    if labels is not None:
        values = labels.tolist()
        shuffled = sorted(shuffled, key=lambda place: float(values[place]))
    return {shuffled[(2 * k + 1) * len(shuffled) // (2 * wanted)] for k in range(wanted)}
