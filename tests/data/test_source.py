"""Specs: what they may say, and what is answered when they say something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitfed.data import Preprocessing, load
from splitfed.errors import DataError


def read(spec: str, **change: Any) -> object:
    wanted: dict[str, Any] = {
        "preprocessing": Preprocessing(channels=1, size=(28, 28)),
        "classes": ("a", "b"),
        "part": "train",
        "root": Path("/nowhere"),
    }
    return load(spec, **(wanted | change))


@pytest.mark.parametrize(
    ("spec", "words", "cure"),
    [
        ("scans", "data source 'scans' has no colon", "folder:PATH"),
        ("", "data source '' has no colon", "folder:PATH"),
        ("folders:x", "there is no module 'folders'", "folders.py"),
        ("folder:x?convert", "option 'convert'", "KEY=VALUE"),
        ("folder:x?convert=", "option 'convert='", "KEY=VALUE"),
        ("folder:x?=size", "option '=size'", "KEY=VALUE"),
        ("folder:x?convert=size&convert=size", "option 'convert' stands twice", "one of them"),
        ("folder:x?converts=size", "unknown option 'converts'", "did you mean convert?"),
        ("folder:x?part=train", "unknown option 'part'", "known are: convert"),
        ("npz:x?root=y", "unknown option 'root'", "known are: convert, part"),
        ("npz:x?part=all", "part = 'all'", "train, validation, val, test"),
        ("torchvision:MNIST?root=x&download=maybe", "download = 'maybe'", "yes or no"),
    ],
)
def test_a_spec_that_means_nothing_is_answered_with_what_would(
    spec: str, words: str, cure: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(spec)
    assert words in caught.value.message
    assert cure in caught.value.cure


def test_an_unknown_conversion_is_named(tmp_path: Path) -> None:
    (tmp_path / "x" / "a").mkdir(parents=True)
    (tmp_path / "x" / "a" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="convert = 'mode'") as caught:
        read("folder:x?convert=size,mode", root=tmp_path)
    assert caught.value.cure == "choose from: size, channels"


def test_options_for_all_specs_are_checked_too() -> None:
    with pytest.raises(DataError, match=r"\[data\] options: unknown option 'rot'") as caught:
        read("folder:x", options={"rot": "y"})
    assert "root" in caught.value.cure
    with pytest.raises(DataError, match="there is no such folder"):
        read("folder:x", options={"root": "y", "download": True, "labels": "index"})


def test_one_part_cannot_be_made_to_serve_as_all() -> None:
    with pytest.raises(DataError, match="would make one part serve as all of them"):
        read("npz:x", options={"part": "train"})


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="part = 'val'"):
        read("npz:x", part="val")
