"""Run folders for tests: small payloads, a clock that stands still, and shorthand."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from splitfed.store import Checkpoint, Disk, ReleaseRow, RunFolder, release_id
from splitfed.store.durable import Bytes
from splitfed.tensors import describe, manifest_of, pack
from splitfed.types import Manifest

RUN = b"r" * 32
CONTRACT = b"c" * 32


def new_folder(path: Path, *, party: str = "a", **more: Any) -> RunFolder:
    """Open (and make) a run folder of party ``a`` with a clock that stands still."""
    settings: dict[str, Any] = {"contract": CONTRACT, "clock": lambda: 1.5e9, **more}
    return RunFolder.open(path, party=party, **settings)


def payload_of(value: float, size: int = 6) -> tuple[Manifest, bytes]:
    """A payload of one small tensor, all ``value``, and its manifest."""
    tensors = {"conv1.weight": torch.full((size,), float(value))}
    payload = pack(tensors)
    return manifest_of(payload, describe(tensors)), payload


def sign(number: int, head: bytes) -> bytes:
    """What stands in a ledger row for the party's signature: the folder does not verify it."""
    return head + number.to_bytes(32, "big")


def row_of(manifest: Manifest, round: int, kind: str = "update") -> ReleaseRow:
    """The ledger row for releasing this payload in ``round``."""
    return ReleaseRow(
        release=release_id(RUN, "a", round, kind),
        round=round,
        kind=kind,
        tensors=manifest.tensors,
        root=manifest.root,
        size=manifest.total,
    )


def state_after(round: int) -> Checkpoint:
    """A small state that differs from round to round."""
    values = torch.arange(8, dtype=torch.float32) + round
    return Checkpoint(round=round, tensors={"global/w": values}, meta={"round": round})


def close(folder: RunFolder, round: int, outcome: str = "agreed") -> None:
    """Close a round with :func:`state_after` and a digest that names it."""
    folder.close_round(round, outcome, bytes([round]) * 32, state_after(round), {"round": round})


class FullDisk(Disk):
    """A disk that takes some more durable calls and is full from then on.

    Attributes:
        left: calls that still succeed; None: there is space.
        error: what the operating system says then.
    """

    def __init__(self, left: int | None, number: int = errno.ENOSPC) -> None:
        self.left = left
        self.error = OSError(number, os.strerror(number))

    def _spend(self) -> None:
        if self.left is not None:
            if self.left <= 0:
                raise self.error
            self.left -= 1

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        path.write_bytes(b"half")  # a full disk takes some of it
        self._spend()
        super().write_file(path, parts)

    def rename(self, source: Path, target: Path) -> None:
        self._spend()
        super().rename(source, target)

    def fsync_dir(self, folder: Path) -> None:
        self._spend()
        super().fsync_dir(folder)

    def commit(self, connection: sqlite3.Connection) -> None:
        self._spend()
        super().commit(connection)
