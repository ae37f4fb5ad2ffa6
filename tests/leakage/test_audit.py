"""`splitfed audit` on a tiny party: its JSON, its table, its page, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitfed.config import load_party
from splitfed.errors import UserError
from splitfed.leakage import Effort, measure
from splitfed.leakage.advice import CAVEAT, advice
from tests.support.commands import Answer, answer_to
from tests.support.files import spoilt
from tests.support.leaking import NOISED, UPDATES, subject, write_party
from tests.support.pictures import write_pictures

QUICK = ("--images", "1", "--iterations", "2", "--restarts", "1", "--rounds", "1")
ROW = {
    "split", "tensors", "agreed", "mode", "parameters", "bytes", "steps", "inversion",
    "membership", "refused",
}  # fmt: skip
LIKENESS = {"psnr", "ssim", "psnr_median", "ssim_median"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], Answer]:
    """A party's folder, what stood in it before, and what the command told."""
    party = write_party(tmp_path_factory.mktemp("party"), privacy=NOISED)
    before = files(party.parent)
    return party.parent, before, answer_to("audit", party, *QUICK, "--json")


def test_json_has_a_row_for_every_split_and_mode(
    audited: tuple[Path, dict[str, bytes], Answer],
) -> None:
    folder, _, answer = audited
    assert answer.code == 0, answer.told
    found: Any = json.loads(answer.out)
    assert set(found) == {
        "schema", "party", "contract", "mode", "effort", "rounds", "members", "guess", "rows",
        "advice", "page",
    }  # fmt: skip
    assert (found["schema"], found["mode"], found["members"]) == (1, "dp-frozen", 16)
    assert found["page"] == str(folder / "audit.html")
    splits = ["conv1", "conv1 to conv2", "conv1 to conv3", "everything"]
    assert [(row["mode"], row["split"]) for row in found["rows"]] == [
        (mode, split) for mode in ("none", "dp-frozen") for split in splits
    ]
    for row in found["rows"]:
        assert set(row) == ROW
        assert row["refused"] is None
        assert set(row["inversion"]) == LIKENESS | {"images"}
        (image,) = row["inversion"]["images"]
        assert set(image) == {"psnr", "ssim", "correlation", "identified"}
        assert 0 <= row["membership"]["low"] <= row["membership"]["auc"]
        assert row["membership"]["auc"] <= row["membership"]["high"] <= 1
    told = {image["identified"] for row in found["rows"] for image in row["inversion"]["images"]}
    assert False in told  # after two iterations hardly any is nearest to its own
    agreed = [row for row in found["rows"] if row["agreed"]]
    assert [row["split"] for row in agreed] == ["conv1 to conv2"] * 2
    assert agreed[0]["parameters"] == 4 * 9 + 4 + 4 * 4 * 9 + 4
    assert agreed[0]["bytes"] == 4 * agreed[0]["parameters"]
    assert set(found["guess"]) == LIKENESS
    assert found["advice"][-1] == CAVEAT


def test_nothing_but_the_page_is_written_and_its_owner_alone_may_read_it(
    audited: tuple[Path, dict[str, bytes], Answer],
) -> None:
    folder, before, _ = audited
    after = files(folder)
    assert after.keys() - before.keys() == {"audit.html"}
    assert {name: after[name] for name in before} == before
    assert (folder / "audit.html").stat().st_mode & 0o777 == 0o600


def test_the_page_holds_its_pictures_loads_nothing_and_says_that_it_must_stay(
    audited: tuple[Path, dict[str, bytes], Answer],
) -> None:
    text = (audited[0] / "audit.html").read_text()
    # the true image, the guess, and one reconstruction a row
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == 2 + 8
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http:" not in text
    assert "https:" not in text
    assert "must not leave this machine" in text
    assert "hospital-a" in text


def test_equal_seeds_give_equal_figures_noise_included(tmp_path: Path) -> None:
    one = subject(tmp_path, privacy=UPDATES)
    effort = Effort(images=1, restarts=2, iterations=2, rounds=1)
    first = measure(one, effort).found
    assert first == measure(one, effort).found
    other = measure(one, replace(effort, seed=1)).found
    assert [row["inversion"] for row in other["rows"]] != [
        row["inversion"] for row in first["rows"]
    ]


def test_a_person_gets_a_table_advice_and_a_warning(tmp_path: Path) -> None:
    party = write_party(tmp_path)
    page = tmp_path / "elsewhere.html"
    page.write_text("old")
    page.chmod(0o644)
    answer = answer_to("audit", party, *QUICK, "--behind", "2", "--as-trained", "--out", page)
    assert answer.code == 0, answer.error
    lines = answer.out.splitlines()
    assert lines[0].split()[:5] == ["shared", "noise", "parameters", "bytes", "recognised"]
    assert lines[2].startswith("conv1 to conv2 (agreed)  none ")
    assert lines[5].startswith("no update (a guess)")
    assert "noise, so what noise would do was not measured" in answer.out
    assert "it must not leave the house" in answer.out
    assert page.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "audit.html").exists()


# --- refused ---------------------------------------------------------------------------------

ROUNDED = """\
import torch
from torch import nn

class Net(nn.Module):
    shared = ("conv",)
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2 * 26 * 26, 2)
    def forward(self, x):
        return self.head(self.conv(torch.round(x)).flatten(1))
"""


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("splitfed.models:Linear", "{ features = 784, outputs = 2 }", "Linear has no convolution"),
        ("net:Net", "{}", "Net cannot be attacked by its gradient: its gradient is the same"),
    ],
)
def test_a_model_without_pictures_or_gradients_is_refused(
    tmp_path: Path, factory: str, arguments: str, words: str
) -> None:
    (tmp_path / "net.py").write_text(ROUNDED)
    party = write_party(tmp_path)
    agreement = tmp_path / "federation.toml"
    text = re.sub(
        r"^arguments = .*$", f"arguments = {arguments}", agreement.read_text(), flags=re.M
    )
    shared = '["*"]' if "Linear" in factory else '["conv"]'
    lines = {"splitfed.models:ThreeLayerCNN": factory, '["conv1", "conv2"]': shared}
    agreement.write_text(spoilt(text, lines))
    answer = answer_to("audit", party, *QUICK)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.error
    assert "cure:" in answer.error
    assert not (tmp_path / "audit.html").exists()


def test_a_regression_is_refused(tmp_path: Path) -> None:
    party = write_party(tmp_path)
    party.write_text(party.read_text() + '\n[training]\nloss = "mse"\n')
    answer = answer_to("audit", party, *QUICK)
    assert (answer.code, answer.out) == (2, "")
    assert "mse" in answer.error


def test_held_out_images_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    party = write_party(tmp_path)
    for part in ("train", "validation", "test"):
        for picture in (tmp_path / "scans" / part).rglob("*.png"):
            picture.unlink()
        for folder in (tmp_path / "scans" / part).iterdir():
            folder.rmdir()
    write_pictures(tmp_path / "scans")  # the same pictures in all three parts
    answer = answer_to("audit", party, *QUICK)
    assert answer.code == 2
    assert "0 held-out images have a training image of their class" in answer.error


def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    answer = answer_to("audit", write_party(tmp_path), "--out", tmp_path / "no" / "page.html")
    assert answer.code == 2
    assert "there is no such folder" in answer.error


@pytest.mark.parametrize("key", ["images", "restarts", "iterations", "behind", "members"])
def test_an_effort_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key} = 0"):
        Effort(**{key: 0})


def test_the_party_of_the_tests_is_one_that_loads(tmp_path: Path) -> None:
    assert load_party(write_party(tmp_path)).party == "hospital-a"


# --- what is said ----------------------------------------------------------------------------


def row(split: str, psnr: float, low: float, *, mode: str = "none", agreed: bool = False) -> Any:
    shown = {"psnr": psnr, "ssim": 0.8, "correlation": psnr / 40, "identified": psnr > 10}
    return {
        "split": split, "mode": mode, "agreed": agreed, "refused": None,
        "inversion": {"psnr": psnr, "images": [shown]},
        "membership": {"auc": low + 0.1, "low": low, "high": low + 0.2},
    }  # fmt: skip


def test_advice_names_the_splits_that_leak_and_what_noise_does() -> None:
    rows = [
        row("conv1", 8, 0.4),
        row("conv1 to conv2", 12, 0.45, agreed=True),
        row("everything", 30, 0.6),
        row("conv1", 6, 0.4, mode="dp-all"),
        row("everything", 7, 0.42, mode="dp-all"),
    ]
    told = advice(rows, "dp-all")
    assert told[0] == (
        'Without noise, sharing "everything" gave back a recognisable image; the agreed split '
        "(conv1 to conv2) did not (0 of 1 images, 12.0 dB at best)."
    )
    assert 'when "everything" is shared: AUC 0.70 at most' in told[1]
    assert told[2].startswith('With the noise of mode "dp-all" no split gave back')
    assert "members were not told apart" in told[2]


def test_advice_does_not_hide_that_the_agreed_split_leaks() -> None:
    told = advice([row("conv1", 25, 0.6, agreed=True)], "none")
    assert told[0] == (
        'Without noise, sharing "conv1" gave back a recognisable image; the agreed split (conv1) '
        "is one of those (1 of 1 images, 25.0 dB at best)."
    )
    assert told[2] == "The agreement adds no noise, so what noise would do was not measured."
