"""Images and arrays from others: no bomb unpacks, no header is believed, no link leads out."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitfed import data
from splitfed.data import ImageSet
from splitfed.data.npy import FREE, read_npy
from splitfed.errors import DataError
from tests.support.traps import (
    MIB,
    SHOWN,
    frugal,
    npy,
    npz,
    png,
    read_image,
    read_set,
    tiff_chain,
    zeros,
)

# --- arrays --------------------------------------------------------------------------------------

GREY = np.zeros((2, 28, 28), np.uint8)


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


LABELS = array(np.array([0, 1], np.uint8))
BOMB = FREE + MIB

ARRAYS = {
    "absurd shape": (npy((1 << 40, 28, 28), data=bytes(784)), "784 bytes for"),
    "absurd text": (npy((1,), "<U999999", bytes(64)), "which take 3999996"),
    "3 GB of nothing": (npy((4_000_000, 28, 28), data=bytes(784)), "which take 3136000000"),
    "negative shape": (npy((-1, 28, 28), data=bytes(784)), "a shape of"),
    "shape of a truth": (npy((True, 28, 28), data=bytes(784)), "a shape of"),
    "beyond 64 bits": (npy((2**70, 2**70), data=b""), "which take"),
    "objects": (npy((98,), "|O", bytes(784)), "never unpickled"),
    "records": (npy((98,), [("a", "<f8")], bytes(784)), "never unpickled"),
    "times": (npy((98,), "<M8[s]", bytes(784)), "never unpickled"),
    "a header of 4 GiB": (
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        r"format 2\.0",
    ),
    "a header of brackets": (npy("(" * 3_000), "header that cannot be read"),
    "a header of minus signs": (npy("-" * 9_000 + "1"), "header that cannot be read"),
    "a header of code": (npy("__import__('os').getpid()"), "header that cannot be read"),
    "cut short": (array(GREY)[:-1], "1567 bytes for"),
    "no array": (b"", "cannot be read"),
}


@pytest.mark.parametrize(("content", "told"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_whose_header_lies_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = npz(tmp_path / "set.npz", train_images=content, train_labels=LABELS)
    with frugal(), pytest.raises(DataError, match=told) as refused:
        read_set(path)
    assert "set.npz" in str(refused.value)


@pytest.mark.parametrize(("content", "told"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_for_a_prediction_is_refused_alike(
    tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    del told
    with frugal(), pytest.raises(ValueError, match="."):
        read_npy(tmp_path / "x.npy")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    content = npy((BOMB // 784, 28, 28), data=bytes(BOMB // 784 * 784))
    path = npz(tmp_path / "set.npz", train_images=content, train_labels=LABELS)
    assert path.stat().st_size < MIB
    del content
    with frugal(), pytest.raises(DataError, match="that would become"):
        read_set(path)


def test_what_compresses_well_is_read_all_the_same(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "set.npz", train_images=np.zeros((2000, 28, 28), np.uint8),
        train_labels=np.zeros(2000, np.uint8),
    )  # fmt: skip
    found = read_set(tmp_path / "set.npz")
    assert isinstance(found, ImageSet)
    assert len(found) == 2000


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_numpys_own_compression_is_unpacked(tmp_path: Path, how: int) -> None:
    path = npz(tmp_path / "set.npz", how=how, train_images=array(GREY), train_labels=LABELS)
    with pytest.raises(DataError, match="numpy never uses"):
        read_set(path)


@pytest.mark.parametrize("name", ["../train_images", "/etc/train_images", "a\\train_images"])
def test_an_archive_of_paths_is_refused(tmp_path: Path, name: str) -> None:
    members = {"train_images": array(GREY), "train_labels": LABELS, name: array(GREY)}
    path = npz(tmp_path / "set.npz", **members)
    with pytest.raises(DataError, match="not an npz file: an entry .* which is a path"):
        read_set(path)


def test_an_archive_of_a_hundred_thousand_entries_is_refused(tmp_path: Path) -> None:
    entry = array(GREY)
    path = npz(tmp_path / "set.npz", train_images=entry, train_labels=LABELS)
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x05\x06")
    # A table of contents that says it is 17 MiB long, in a file that is.
    table = content.index(b"PK\x01\x02")
    padded = content[:table] + bytes(17 * MIB) + content[table:]
    padded[-10:-6] = (17 * MIB + start - table).to_bytes(4, "little")
    path.write_bytes(padded)
    del padded
    with frugal(), pytest.raises(DataError, match="table of contents"):
        read_set(path)


# --- images --------------------------------------------------------------------------------------

SOUND = zeros(28 * 29)
PICTURES = {
    "60000 x 60000": (png(60_000, 60_000, SOUND), "more than 67108864 pixels"),
    "9000 x 9000": (png(9_000, 9_000, SOUND), "more than 67108864 pixels"),
    "no data": (png(28, 28, b""), "cannot be read"),
    "a bomb of text": (png(28, 28, SOUND, (b"zTXt", b"a\0\0" + zeros(64 * MIB))), "too large"),
    "a bomb of a profile": (
        png(28, 28, SOUND, (b"iCCP", b"a\0\0" + zeros(64 * MIB))),
        "too large",
    ),
    "two frames": (
        png(28, 28, SOUND, (b"acTL", b"\0\0\0\x02\0\0\0\0")),
        "several images|cannot be read",
    ),
    "PPM of 10^16 pixels": (b"P5\n99999999 99999999\n255\n", "more than 67108864 pixels"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n", "not an image"),
    "text": (b"I am no picture", "not an image"),
}


@pytest.mark.parametrize(("content", "told"), PICTURES.values(), ids=PICTURES)
def test_a_picture_that_would_hurt_is_refused_by_name(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(content)
    with frugal(), pytest.raises(DataError, match=told) as refused:
        read_image(path)
    assert refused.value.message.startswith(str(path))


def test_a_picture_with_more_data_than_pixels_gives_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(png(28, 28, zeros(32 * MIB)))
    with frugal():
        assert read_image(path).shape == (1, 28, 28)


def test_a_tiff_of_a_hundred_thousand_frames_is_refused_without_counting_them(
    tmp_path: Path,
) -> None:
    whole = io.BytesIO()
    Image.new("L", (28, 28)).save(whole, "TIFF")
    tiff_chain(tmp_path / "scan.tif", whole.getvalue(), 100_000)
    with frugal(), pytest.raises(DataError, match="holds several images"):
        read_image(tmp_path / "scan.tif")


def pictures(folder: Path) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (28, 28), 7).save(folder / name / "0.png")
    return folder


def load_folder(folder: Path, query: str = "", **more: Any) -> ImageSet:
    usual: dict[str, Any] = {"classes": ("cat", "dog"), "part": "train", "root": folder.parent}
    return data.load(f"folder:{folder}{query}", preprocessing=SHOWN, **{**usual, **more})


def test_a_link_out_of_a_folder_of_images_is_followed_only_if_the_party_says_so(
    tmp_path: Path,
) -> None:
    folder, other = pictures(tmp_path / "sent"), pictures(tmp_path / "private")
    (folder / "cat" / "1.png").symlink_to(folder / "dog" / "0.png")
    assert len(load_folder(folder)) == 3
    (folder / "cat" / "2.png").symlink_to(other / "cat" / "0.png")
    with pytest.raises(DataError, match=r"(?s)2\.png: a link that leads out of .*links=yes"):
        load_folder(folder)
    assert len(load_folder(folder, "?links=yes")) == 4


def test_a_class_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, other = pictures(tmp_path / "sent"), pictures(tmp_path / "private")
    (folder / "cat" / "0.png").unlink()
    (folder / "cat").rmdir()
    (folder / "cat").symlink_to(other / "cat")
    with pytest.raises(DataError, match=r"0\.png: a link that leads out"):
        load_folder(folder)
    (folder / "groups.csv").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="a link that leads out"):
        load_folder(folder)


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "sent")
    os.mkfifo(folder / "cat" / "1.png")
    with pytest.raises(DataError, match=r"1\.png: cannot be read as an image: is no plain file"):
        load_folder(folder)
