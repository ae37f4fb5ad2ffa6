"""A checkpoint comes back bit for bit, or the one before it does and is said to."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitfed.errors import Defect, FolderError
from splitfed.store import Checkpoint, RunFolder
from splitfed.store.checkpoints import load, save
from splitfed.store.durable import Disk
from splitfed.types import ITEM_BYTES
from tests.support.folders import close, new_folder, state_after


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with new_folder(tmp_path / "a") as opened:
        yield opened


def files(folder: RunFolder) -> list[Path]:
    return sorted((folder.path / "checkpoints").iterdir())


def every_kind() -> dict[str, torch.Tensor]:
    kinds = {
        name: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name)) for name in ITEM_BYTES
    }
    return {
        **kinds,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def test_every_dtype_and_layout_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = every_kind()
    save(Disk(), tmp_path / "x", tensors, None)
    found, _ = load(tmp_path / "x")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        same = torch.equal(
            found[name].contiguous().reshape(-1).view(torch.uint8),
            tensor.detach().contiguous().reshape(-1).view(torch.uint8),
        )
        assert same, name


def test_the_file_is_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    tensors = every_kind()
    save(Disk(), tmp_path / "x", tensors, {"round": 3})
    found = load_file(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert torch.equal(found["transposed"], tensors["transposed"])


def test_meta_comes_back_exactly(tmp_path: Path) -> None:
    meta = {"lr": 0.1 + 0.2, "seed": 2**80, "names": ["ä", "b"], "none": None, "inf": float("inf")}
    save(Disk(), tmp_path / "x", {}, meta)
    assert load(tmp_path / "x") == ({}, meta)


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    save(Disk(), tmp_path / "x", {"w": torch.ones(4)}, None)
    found, _ = load(tmp_path / "x")
    with (tmp_path / "x").open("r+b") as file:
        file.write(bytes((tmp_path / "x").stat().st_size))
    assert torch.equal(found["w"], torch.ones(4))


def test_what_a_checkpoint_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Defect, match="tensor w has dtype complex64"):
        save(Disk(), tmp_path / "x", {"w": torch.zeros(1, dtype=torch.complex64)}, None)
    with pytest.raises(Defect, match="no JSON"):
        save(Disk(), tmp_path / "x", {}, {"model": object()})
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_the_last_closed_round_comes_back(folder: RunFolder) -> None:
    assert folder.checkpoint() is None
    for round in (1, 2):
        close(folder, round)
    found = folder.checkpoint()
    assert found is not None
    assert (found.round, found.meta) == (2, {"round": 2})
    assert torch.equal(found.tensors["global/w"], state_after(2).tensors["global/w"])


def test_last_two_checkpoints_are_kept(folder: RunFolder) -> None:
    for round in (1, 2, 3, 4):
        close(folder, round)
        assert len(files(folder)) == min(round, 2)
    assert [load(path)[1]["round"] for path in files(folder)] == [3, 4]


def test_a_checkpoint_within_a_round_is_the_newest_and_closes_nothing(folder: RunFolder) -> None:
    close(folder, 1)
    folder.save_checkpoint(Checkpoint(round=2, tensors={}, meta={"phase": "trained"}))
    found, last = folder.checkpoint(), folder.closed()
    assert found is not None
    assert last is not None
    assert (found.round, found.meta["phase"], last.round) == (2, "trained", 1)
    close(folder, 2)
    found = folder.checkpoint()
    assert found is not None
    assert found.meta == {"round": 2}


@pytest.mark.parametrize("damage", ["altered", "shortened", "emptied", "missing", "replaced"])
def test_damaged_newest_falls_back_to_the_one_before_and_names_the_file(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    close(folder, 1)
    close(folder, 2)
    before, newest = files(folder)
    whole = newest.read_bytes()
    match damage:
        case "altered":
            newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "shortened":
            newest.write_bytes(whole[: len(whole) // 2])
        case "emptied":
            newest.write_bytes(b"")
        case "missing":
            newest.unlink()
        case _:
            newest.write_bytes(before.read_bytes())  # whole, but not the newest
    with caplog.at_level(logging.WARNING, "splitfed.store"):
        found = folder.checkpoint()
    assert found is not None
    assert found.round == 1
    assert newest.name in caplog.text
    lines = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["file"]) for line in lines] == [
        ("checkpoint-damaged", newest.name)
    ]


def test_two_damaged_checkpoints_are_an_error_that_names_both(folder: RunFolder) -> None:
    close(folder, 1)
    close(folder, 2)
    for path in files(folder):
        path.write_bytes(b"")
    with pytest.raises(FolderError, match="missing or damaged") as caught:
        folder.checkpoint()
    assert all(path.name in caught.value.message for path in files(folder))


def test_a_checkpoint_file_without_a_row_is_ignored_and_replaced(folder: RunFolder) -> None:
    """What a crash between file and row leaves."""
    close(folder, 1)
    orphan = folder.path / "checkpoints" / "000002.safetensors"
    orphan.write_bytes(b"left by a crash")
    found = folder.checkpoint()
    assert found is not None
    assert found.round == 1
    close(folder, 2)
    assert load(orphan)[1] == {"round": 2}
