"""A party's images as batches: which records, in which order, on which device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitfed.random import generator

if TYPE_CHECKING:
    from splitfed.data import ImageSet

READY_BYTES = 256 << 20
"""Images are converted and normalised once, ahead of the first step, when that takes no
more memory than this; larger sets are converted batch by batch. Same values either way."""


class Batches:
    """Batches of one :class:`ImageSet`, in an order that only (seed, path, epoch) decides.

    An epoch is one permutation of all records, cut into ``batch_size`` at a time. The rest
    at its end is a smaller batch; a rest of a single record joins the batch before it,
    since batch normalisation cannot train on one record.
    """

    def __init__(self, data: ImageSet, batch_size: int, device: torch.device) -> None:
        self._data = data
        self._device = device
        self._ready: tuple[Tensor, Tensor] | None = None
        count = len(data)
        full, rest = divmod(count, batch_size)
        steps = full + (rest > 1 or full == 0)
        self._bounds = [i * batch_size for i in range(steps)] + [count]
        self._load()

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return len(self._bounds) - 1

    def sizes(self, steps: int) -> list[int]:
        """Records in each of the first ``steps`` batches."""
        epoch = [b - a for a, b in zip(self._bounds, self._bounds[1:], strict=False)]
        whole, rest = divmod(steps, len(epoch))
        return epoch * whole + epoch[:rest]

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at ``index`` (int64 [B]), on the device."""
        return self._take(index if self._ready is None else index.to(self._device))

    def epochs(self, seed: int, *path: str | int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (images, labels) on the device, epoch after epoch."""
        epoch = 0
        while True:
            draw = generator(seed, *path, "batches", epoch)
            order = torch.randperm(self._bounds[-1], generator=draw)
            if self._ready is not None:
                order = order.to(self._device)
            for start, end in zip(self._bounds, self._bounds[1:], strict=False):
                yield self._take(order[start:end])
            epoch += 1

    def _load(self) -> None:
        images = self._data.images
        if images.dtype == torch.float32 and self._device.type == "cpu":
            labels = self._data.labels
            assert labels is not None  # the trainer refuses unlabelled images
            self._ready = images, labels  # as they are: ready without a copy
        elif images.numel() * 4 <= READY_BYTES:
            self._ready = self._batch(torch.arange(len(self._data)))

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self._data.batch(index)
        assert labels is not None  # the trainer refuses unlabelled images
        return images.to(self._device), labels.to(self._device)

    def _take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        if self._ready is None:
            return self._batch(index)
        images, labels = self._ready
        return images.index_select(0, index), labels.index_select(0, index)
