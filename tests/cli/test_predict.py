"""predict and export on the command line: what they print, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitfed.serve import load
from tests.serve.making import CALIBRATION, make_bundle, model, pixels, write_png
from tests.support.commands import Shell
from tests.support.files import write_files
from tests.support.pictures import write_pictures

KEYS = ["image", "class", "probability", "abstained", "agreement", "provenance"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "runs" / "hospital-a")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [write_png(tmp_path / f"scan-{place}.png", pixels(place)) for place in range(4)]


def test_json_is_one_object_an_image(shell: Shell, folder: Path, images: list[Path]) -> None:
    answer = shell("predict", folder, *images, "--json")
    assert answer.code == 0, answer.error
    assert answer.error == ""
    found: Any = json.loads(answer.out)
    assert [one["image"] for one in found] == [str(path) for path in images]
    expected = load(folder).predict(images)
    assert [one["class"] for one in found] == [one.label for one in expected]
    for one in found:
        assert list(one)[:6] == KEYS
        assert set(one) - set(KEYS) == {"probabilities", "value", "reason", "converted", "promise"}
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["provenance"]["party"] == "hospital-a"


def test_a_line_an_image_then_where_they_come_from(
    shell: Shell, folder: Path, images: list[Path]
) -> None:
    answer = shell("predict", folder, *images)
    assert answer.code == 0, answer.error
    lines = answer.out.splitlines()
    expected = load(folder).predict(images)
    assert lines[0].split() == ["image", "class", "probability"]
    assert len(lines) == 1 + len(images) + 2
    for line, one in zip(lines[1:], expected, strict=False):
        assert line.startswith(str(one.image))
        assert one.label in line
        assert f"{one.probability:.3f}" in line
    assert "at most 5% are wrong" in lines[-2]
    assert "hospital-a with hospital-b" in lines[-1]
    assert "privacy: none" in lines[-1]
    assert "federating: helped" in lines[-1]


def test_an_abstention_says_no_answer_and_why(
    shell: Shell, tmp_path: Path, images: list[Path]
) -> None:
    folder = make_bundle(tmp_path / "strict", calibration=CALIBRATION | {"abstain_below": 0.9999})
    out = shell("predict", folder, images[0]).out
    assert "no answer (abstained): probability" in out
    assert "below 1.000" in out
    nothing = CALIBRATION | {"abstain_below": None, "reached": False}
    folder = make_bundle(tmp_path / "none", calibration=nothing)
    assert "no answer (abstained): no probability is high" in shell("predict", folder, *images).out


def test_missing_calibration_is_said_once(shell: Shell, tmp_path: Path, images: list[Path]) -> None:
    folder = make_bundle(tmp_path / "plain", calibration=None)
    out = shell("predict", folder, *images).out
    assert out.count("no error rate is promised") == 1


def test_disagreement_is_shown_with_both_classes(shell: Shell, tmp_path: Path) -> None:
    models = {"partial": ["kept"], "fused": ["kept", "peer:hospital-b"]}
    folder = make_bundle(
        tmp_path / "a", members={"peer:hospital-b": model(2)}, models=models, kept="fused"
    )
    np.save(tmp_path / "many.npy", np.stack([pixels(place)[..., None] for place in range(40)]))
    lines = shell("predict", folder, tmp_path / "many.npy").out.splitlines()
    assert any("own model says" in line for line in lines)
    assert not all("own model says" in line for line in lines[:-1])


def test_unusable_images_stop_the_command_before_any_answer(
    shell: Shell, folder: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for flags in ([], ["--json"]):
        answer = shell(
            "predict", folder, *images, tmp_path / "text.png", tmp_path / "no.png", *flags
        )
        assert (answer.code, answer.out) == (2, "")
        assert "text.png" in answer.error
        assert "no.png" in answer.error
        assert "nothing was predicted" in answer.error
        assert "Traceback" not in answer.error


def test_a_damaged_bundle_is_named(shell: Shell, folder: Path, images: list[Path]) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for words in (["predict", folder, images[0]], ["export", folder, "--format", "onnx"]):
        answer = shell(*words)
        assert (answer.code, answer.out) == (2, "")
        assert "model.safetensors is damaged" in answer.error
        assert "cure:" in answer.error


def test_control_characters_do_not_reach_the_terminal(shell: Shell, tmp_path: Path) -> None:
    folder = make_bundle(
        tmp_path / "a", classes=["\x1b[2Jcat", "\x1b[2Jdog", "\x1b[2Jowl"], peers=["\x1b[2Jb"]
    )
    image = write_png(tmp_path / "x\x1b.png", pixels())
    answer = shell("predict", folder, image)
    assert answer.code == 0
    assert "\x1b" not in answer.out


# --- export ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "name"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")]
)
def test_export_writes_beside_the_bundle_and_tells_the_comparison(
    shell: Shell, folder: Path, images: list[Path], format: str, name: str
) -> None:
    answer = shell("export", folder, "--format", format, "--images", *images)
    assert answer.code == 0, answer.error
    lines = answer.out.splitlines()
    assert lines[0] == f"written: {folder / name}"
    assert lines[1].startswith("compared with PyTorch on 4 images: the same classes")
    assert len(lines) == 2
    assert (folder / name).stat().st_size > 1000


def test_export_as_json_and_to_a_file_of_choice(
    shell: Shell, folder: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.pt2"
    words = ["export", folder, "--format", "torch-export", "--out", out, "--json"]
    found: Any = json.loads(shell(*words, "--images", images[0], "--images", images[1]).out)
    assert found["difference"] <= 1e-5
    assert (found["file"], found["images"], found["same_class"]) == (str(out), 2, True)
    assert out.is_file()


def test_export_without_images_asks_for_them(
    shell: Shell, folder: Path, images: list[Path]
) -> None:
    words = ["export", folder, "--format", "torch-export"]
    for started in (None, "{}", json.dumps({"party_file": str(folder / "gone" / "party.toml")})):
        if started is not None:
            (folder / "started.json").write_text(started)
        answer = shell(*words)
        assert (answer.code, answer.out) == (2, "")
        assert "no images to compare on" in answer.error
        assert "--images" in answer.error
    assert not (folder / "model.pt2").exists()
    answer = shell(*words[:2], images[0], *words[2:])
    assert answer.code == 0, answer.error
    assert "compared with PyTorch on 1 images" in answer.out


def test_export_compares_on_the_own_images_of_the_run(
    shell: Shell, folder: Path, tmp_path: Path
) -> None:
    party = write_files(tmp_path / "home")
    write_pictures(tmp_path / "home" / "scans")
    (folder / "started.json").write_text(json.dumps({"party_file": str(party)}))
    answer = shell("export", folder, "--format", "torch-export")
    assert answer.code == 0, answer.error
    assert "on 12 images" in answer.out


def test_export_does_not_compare_on_another_partys_images(shell: Shell, tmp_path: Path) -> None:
    party = write_files(tmp_path / "home")
    write_pictures(tmp_path / "home" / "scans")
    folder = make_bundle(tmp_path / "a", party="hospital-b")
    (folder / "started.json").write_text(json.dumps({"party_file": str(party)}))
    answer = shell("export", folder, "--format", "torch-export")
    assert answer.code == 2
    assert "is now of hospital-a" in answer.error
