"""``splitfed simulate``: attackers among simulated parties, on own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from splitfed.cli import simulate as command
from splitfed.founding import Newcomer, Proposal, found, join, sources_of
from splitfed.simulation.attacks import ATTACKS
from tests.support.commands import Answer, answer_to
from tests.support.data import tiny_set


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A party.toml with 60 images to train on and 30 each to choose and to measure by."""
    where = tmp_path_factory.mktemp("own")
    arrays = {}
    for seed, (part, count) in enumerate((("train", 60), ("val", 30), ("test", 30))):
        images = tiny_set(count, seed=seed)
        assert images.labels is not None
        arrays[f"{part}_images"] = images.images[:, 0].numpy()
        arrays[f"{part}_labels"] = images.labels.numpy()
    for name in "ab":
        (where / name).mkdir()
        np.savez(where / name / "images.npz", **arrays)
    proposal = Proposal(name="own", classes=("0", "1", "2"), rounds=3, privacy="none")

    def newcomer(name: str, address: str | None) -> Newcomer:
        sources = sources_of(f"npz:{where / name / 'images.npz'}", where / name)
        return Newcomer(party=name, address=address, records=60, sources=sources)

    made = found(where / "a", proposal, newcomer("a", "tcp://127.0.0.1:7001"))
    joined = join(where / "b", made.federation_file, newcomer("b", None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return made.party_file


def simulated(*words: str | Path) -> Answer:
    return answer_to("simulate", *words)


@pytest.fixture(scope="module")
def lied_to(own: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """Three parties of 20 images each, one of which turns its update round."""
    out = tmp_path_factory.mktemp("kept") / "out"
    told = simulated(
        own, "--attack", "sign-flip", "--parties", "3", "--rounds", "1", "--rule", "median",
        "--out", out, "--json",
    )  # fmt: skip
    assert told.code == 0, told.told
    return json.loads(told.out), out


def test_the_answer_names_attack_paper_rule_attackers_and_both_results(lied_to) -> None:
    found, _ = lied_to
    assert found["attack"]["name"] == "sign-flip"
    assert "AAAI 2019" in found["attack"]["paper"]
    assert (found["rule"], found["parties"], found["attackers"]) == ("median", 3, ["party-03"])
    for which in ("without", "with"):
        result = found[which]
        assert sorted(result["parties"]) == ["party-01", "party-02"]
        for row in result["parties"].values():
            assert 0 <= row["shared"] <= 1
            assert 0 <= row["local_only"] <= 1
            assert row["backdoor"] is None
    assert found["with"]["outcomes"] == {"party-01": ["agreed"], "party-02": ["agreed"]}


def test_what_is_kept_are_the_run_folders_of_a_real_run_and_the_result(lied_to) -> None:
    found, out = lied_to
    assert json.loads((out / "result.json").read_text()) == found
    for name in ("party-01", "party-02", "party-03"):
        assert (out / name / "ledger.sqlite").is_file()
        report = json.loads((out / name / "report.json").read_text())
        assert report["party"] == name
        assert report["privacy"]["mode"] == "none"


def test_the_table_for_people_says_what_was_refused_and_what_raised_an_alarm(own: Path) -> None:
    told = simulated(own, "--attack", "backdoor", "--parties", "2", "--rounds", "1")
    assert told.code == 0, told.told
    for part in (
        "2 parties, 1 of them lying; rule = 'mean'", "BadNets", "without the attackers",
        "backdoor", "refused: none", "alarms:", "void rounds: 0",
    ):  # fmt: skip
        assert part in told.out, part
    assert "%" in told.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--attack", "sign-fip"], "choose one of: sign-flip"),
        (["--parties", "1"], "give two or more parties"),
        (
            ["--attack", "noise", "--parties", "3", "--attackers", "3"],
            "at least one of them honest",
        ),
        (["--attack", "noise", "--attackers", "0"], "one or more attackers"),
        (["--attack", "noise", "--rule", "medain"], "choose one of: mean"),
        (["--attack", "noise", "--parties", "4", "--rule", "krum"], "needs at least 5 parties"),
        (["--attack", "noise", "--parties", "2", "--rule", "median"], "of two parties nobody can"),
        (["--attack", "lying-outputs"], "without reference images"),
        (["--parties", "61"], "60 training images for 61 part"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_a_cure(own: Path, words, says: str) -> None:
    told = simulated(own, *words)
    assert told.code == 2, told.told
    assert says in told.error


def test_a_folder_that_holds_something_is_not_written_into(own: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    told = simulated(own, "--parties", "2", "--rounds", "1", "--out", tmp_path)
    assert told.code == 2
    assert "is there already" in told.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_help_names_every_attack() -> None:
    import inspect

    source = inspect.getsource(command)
    assert [name for name in ATTACKS if name not in source] == []
