"""``folder:``: one folder per class, in the agreement's order, nothing skipped in silence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from splitfed.data import ImageSet, Preprocessing, load
from splitfed.data.folder import decode
from splitfed.data.preprocessing import CONVERSIONS, Fitting
from splitfed.errors import DataError

SMALL = Preprocessing(channels=1, size=(4, 6))
FITTING = Fitting(preprocessing=SMALL, convert=frozenset(CONVERSIONS), spec="folder:x")


def save(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (6, 4)) -> Path:
    """A picture of one grey value; ``size`` is width and height, as PIL has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two classes, five images; grey values tell the images apart."""
    for name, value in (
        ("ill/b.png", 20),
        ("ill/a.png", 10),
        ("well/Z.png", 30),
        ("well/c.png", 50),
        ("well/b.bmp", 40),
    ):
        save(tmp_path / "scans" / name, value)
    return tmp_path / "scans"


def read(folder: Path, query: str = "", **change: Any) -> ImageSet:
    wanted: dict[str, Any] = {
        "preprocessing": SMALL,
        "classes": ("well", "ill"),
        "part": "train",
        "root": folder.parent,
    }
    return load(f"folder:{folder.name}{query}", **(wanted | change))


def test_class_order_comes_from_the_agreement_and_file_order_from_the_names(scans: Path) -> None:
    data = read(scans)
    assert data.names == ("well/Z.png", "well/b.bmp", "well/c.png", "ill/a.png", "ill/b.png")
    assert data.images[:, 0, 0, 0].tolist() == [30, 40, 50, 10, 20]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    other = read(scans, classes=("ill", "well", "unseen"))
    assert other.labels is not None
    assert other.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.images.shape == (5, 1, 4, 6)
    assert data.images.dtype == torch.uint8


def test_a_path_may_be_absolute(scans: Path) -> None:
    data = load(
        f"folder:{scans}",
        preprocessing=SMALL,
        classes=("well", "ill"),
        part="test",
        root=Path("/nowhere"),
    )
    assert len(data) == 5


def test_litter_of_file_managers_is_no_image(scans: Path) -> None:
    for name in (".DS_Store", "ill/Thumbs.db", "well/.hidden.png", "desktop.ini"):
        (scans / name).write_bytes(b"litter")
    assert len(read(scans)) == 5


def test_an_unknown_class_folder_is_named(scans: Path) -> None:
    save(scans / "unsure" / "a.png", 1)
    with pytest.raises(DataError, match=r"scans/unsure: class 'unsure' is not in the agreement"):
        read(scans)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda scans: save(scans / "a.png", 1), "a.png: a file beside the classes' folders"),
        (lambda scans: save(scans / "ill/more/a.png", 1), "more: a folder in a class's folder"),
        (lambda scans: (scans / "ill/notes.txt").write_text("x"), "notes.txt: not an image"),
    ],
)
def test_whatever_is_no_image_of_a_class_is_named(scans: Path, make: Any, words: str) -> None:
    make(scans)
    with pytest.raises(DataError, match=words):
        read(scans)


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: there is no such folder"):
        read(tmp_path / "nothing")
    (tmp_path / "empty" / "ill").mkdir(parents=True)
    for part in ("train", "reference"):
        if part == "reference":
            (tmp_path / "empty" / "ill").rmdir()
        with pytest.raises(DataError, match="empty: no images at all"):
            read(tmp_path / "empty", part=part)
    with pytest.raises(DataError, match="names no path"):
        load("folder:", preprocessing=SMALL, classes=("a",), part="train", root=tmp_path)


def test_a_folder_needs_classes(scans: Path) -> None:
    with pytest.raises(DataError, match="the agreement has no classes"):
        read(scans, classes=())


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_an_image_that_is_cut_short_is_named(scans: Path, suffix: str) -> None:
    path = scans / "ill" / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)
    Image.fromarray(noise).save(path)
    read(scans)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"ill/cut\.{suffix}: (cannot be read|not an image)"):
        read(scans)


def test_one_flipped_byte_in_a_png_is_noticed(scans: Path) -> None:
    path = scans / "ill" / "a.png"
    body = bytearray(path.read_bytes())
    body[body.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(bytes(body))
    with pytest.raises(DataError, match=r"ill/a\.png: cannot be read as an image"):
        read(scans)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "ppm"])
def test_damaged_bytes_give_an_image_or_a_data_error_and_nothing_else(
    tmp_path: Path, suffix: str
) -> None:
    draw = np.random.default_rng(0)
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
    Image.fromarray(draw.integers(0, 256, (4, 6, 3), np.uint8)).save(buffer, kind)
    sound = buffer.getvalue()
    path = tmp_path / f"x.{suffix}"
    shapes, refusals = [], []
    for _ in range(150):
        body = bytearray(sound)
        for _ in range(draw.integers(1, 4)):
            body[draw.integers(len(body))] = draw.integers(256)
        path.write_bytes(body)
        try:
            shapes.append(decode(path, FITTING).shape)
        except DataError as error:
            refusals.append(error.message)
    assert set(shapes) <= {(1, 4, 6)}
    assert refusals
    assert all(message.startswith(f"{path}: ") for message in refusals)


def test_damage_that_pil_only_warns_of_is_an_error(scans: Path) -> None:
    path = scans / "ill" / "a.jpg"
    save(path, 9)
    body = path.read_bytes()
    segment = b"MPF\0garbage!"  # promises further pictures and holds none
    path.write_bytes(
        body[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + body[2:]
    )
    with pytest.raises(DataError, match=r"ill/a\.jpg: cannot be read as an image: .*malformed MPO"):
        read(scans)


def test_truncated_images_stay_errors_whatever_pil_was_told(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="accept images that are cut short"):
        read(scans)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a huge grey image in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9_000, 9_000), (10_000, 10_000), (60_000, 60_000)])
@pytest.mark.parametrize("limit", ["as it is", None])
def test_a_decompression_bomb_is_refused_before_it_unpacks(
    scans: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], limit: object
) -> None:
    """PIL itself warns between one and two times its limit and raises above; someone may
    have lifted its limit. All of these are errors here."""
    if limit is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (scans / "ill" / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(DataError, match=r"ill/bomb\.png: more than \d+ pixels"):
        read(scans, "?convert=size")


def test_several_frames_in_one_file_are_refused(scans: Path) -> None:
    frames = [Image.new("L", (6, 4), value) for value in (1, 2)]
    frames[0].save(scans / "ill" / "stack.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"stack\.tiff: holds several images"):
        read(scans)


@pytest.mark.parametrize("body", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", b""])
def test_only_known_formats_are_opened(scans: Path, body: bytes) -> None:
    (scans / "ill" / "x.png").write_bytes(body)
    with pytest.raises(DataError, match=r"x\.png: not an image of a known format"):
        read(scans)


def test_a_gif_is_not_opened_under_another_name(scans: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (6, 4)).save(buffer, "GIF")
    (scans / "ill" / "x.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="not an image of a known format"):
        read(scans)


def test_sizes_and_modes_are_converted_only_as_declared(scans: Path) -> None:
    save(scans / "ill" / "large.png", 77, "RGB", (12, 8))
    with pytest.raises(DataError, match=r"ill/large\.png: an image of mode 'RGB'"):
        read(scans, "?convert=size")
    with pytest.raises(DataError, match=r"ill/large\.png: 8x12 pixels"):
        read(scans, "?convert=channels")
    data = read(scans, "?convert=size,channels")
    assert data.images[-1].unique().tolist() == [77]
    assert read(scans, options={"convert": "size,channels"}).names == data.names


def test_a_reference_set_is_flat_and_unlabelled(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save(tmp_path / "reference" / name, 9)
    data = read(tmp_path / "reference", part="reference")
    assert data.labels is None
    assert data.names == ("a.png", "b.png")
    save(tmp_path / "reference" / "ill" / "c.png", 9)
    with pytest.raises(DataError, match="ill: a folder in a reference set"):
        read(tmp_path / "reference", part="reference")


GROUPS = "file,group\nill/a.png,p1\nill/b.png,p1\nwell/Z.png,p2\nwell/c.png, p3\nwell/b.bmp,p2\n"


def test_groups_are_matched_by_file(scans: Path) -> None:
    (scans / "groups.csv").write_text(GROUPS + "\n", encoding="utf-8-sig")
    assert read(scans).groups == ("p2", "p2", "p3", "p1", "p1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line is not 'file,group'"),
        ("name,patient\n", "first line is not 'file,group'"),
        (GROUPS.replace("p3", ""), "line 5: 'well/c.png, '"),
        (GROUPS + "ill/x.png,p9\n", "line 7: names a file that is not here: 'ill/x.png'"),
        (GROUPS + "ill/a.png,p9\n", "line 7: repeats a file: 'ill/a.png'"),
        (GROUPS.replace("ill/b.png,p1\n", ""), "no line for 'ill/b.png'"),
        (GROUPS + "ill/a.png\n", "line 7: 'ill/a.png'"),
        ('file,group\n"ill', "cannot be read"),
    ],
)
def test_a_fault_in_groups_csv_is_named_with_its_line(scans: Path, text: str, words: str) -> None:
    (scans / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=rf"groups\.csv.*{words}"):
        read(scans)


def test_too_few_records_are_refused(scans: Path) -> None:
    assert len(read(scans, minimum=5)) == 5
    with pytest.raises(DataError, match=r"'folder:scans': too few records: 5, 6 are needed"):
        read(scans, minimum=6)
