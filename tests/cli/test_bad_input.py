"""Bad input, as the user meets it: exit code 2 and a line for every fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import Shell
from tests.support.files import KEY_A, write_files
from tests.support.pictures import write_pictures


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_every_command_reports_all_faults_of_both_files(
    shell: Shell, tmp_path: Path, command: str
) -> None:
    path = write_files(
        tmp_path,
        federation={
            "rounds = 3": 'round = "3"',
            'mode = "none"': 'mode = "dp-al"',
            "max_update_norm = 12": "max_update_norm = 12\nminimum_parties = 1",
        },
        party={"scans/train": "lost", '"hospital-a"': '"hospital-x"'},
        more="\n[training]\nlearning_rate = 0.1\nepochs = 1\nsteps = 1\n",
    )
    answer = shell(command, path)
    assert answer.code == 2
    assert answer.out == ""
    lines = answer.error.splitlines()
    assert lines[0] == "error: 8 faults to mend:"
    told = {
        f'{tmp_path}/federation.toml: round = "3": unknown key, did you mean "rounds"?',
        f"{tmp_path}/federation.toml: rounds: missing; should be the number of rounds, "
        "a whole number from 1 to 1000000",
        f"{tmp_path}/federation.toml: aggregation.minimum_parties = 1: should be 2 to 2: more "
        "than half of the 2 parties, at most all",
        f"{path}: training.steps = 1: contradicts epochs = 1; give one",
        f'{path}: data.train = "folder:lost": no such file or folder ({tmp_path}/lost); '
        f"relative paths start at {tmp_path}",
    }
    assert told <= {line.strip() for line in lines}
    assert "privacy.mode" in answer.error
    assert "training.learning_rate" in answer.error
    assert 'party = "hospital-x"' in answer.error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_a_missing_party_file_is_named(shell: Shell, tmp_path: Path, command: str) -> None:
    answer = shell(command, tmp_path / "party.toml")
    assert answer.code == 2
    assert f"{tmp_path}/party.toml: (file): not found; run `splitfed init`" in answer.error


@pytest.mark.parametrize("command", ["status", "evaluate", "report"])
def test_a_folder_without_a_run_is_named(shell: Shell, tmp_path: Path, command: str) -> None:
    answer = shell(command, tmp_path / "runs" / "hospital-a")
    assert answer.code == 2
    assert str(tmp_path / "runs" / "hospital-a") in answer.error
    assert "cure: " in answer.error


def test_a_model_that_cannot_be_built_is_named(shell: Shell, tmp_path: Path) -> None:
    made = initialised(shell, tmp_path)
    for old, new, told in (
        ("ThreeLayerCNN", "TwoLayerCNN", "did you mean ThreeLayerCNN?"),
        ("classes = 2", "classs = 2", "classs"),
        ('["conv1", "conv2"]', '["conv1", "conv7"]', "conv7"),
    ):
        text = made.read_text()
        assert old in text
        made.write_text(text.replace(old, new))
        answer = shell("plan", tmp_path / "a" / "party.toml")
        made.write_text(text)
        assert answer.code == 2, answer.error
        assert told in answer.error


def test_a_secret_that_others_can_read_is_refused_with_its_cure(
    shell: Shell, tmp_path: Path
) -> None:
    initialised(shell, tmp_path)
    (tmp_path / "a" / "secret.json").chmod(0o644)
    answer = shell("plan", tmp_path / "a" / "party.toml")
    assert answer.code == 2
    assert f"chmod 600 {tmp_path}/a/secret.json" in answer.error


@pytest.mark.parametrize("command", ["plan", "check", "run"])
def test_a_secret_of_another_than_me_is_refused(shell: Shell, tmp_path: Path, command: str) -> None:
    made = initialised(shell, tmp_path)
    text = made.read_text()
    keys = [line for line in text.splitlines() if line.startswith("public_key")]
    made.write_text(text.replace(keys[0], f'public_key = "{KEY_A}"'))
    answer = shell(command, tmp_path / "a" / "party.toml")
    assert answer.code == 2
    assert f"parties.a.public_key = {KEY_A}" in answer.error
    assert "name the right secret_key" in answer.error


def initialised(shell: Shell, tmp_path: Path) -> Path:
    """Two parties made by `init`; the agreement's file of the first."""
    write_pictures(tmp_path / "pictures")
    small = "widths = [4, 4, 4]"
    first = shell(
        "init", tmp_path / "a", "--name", "trial", "--party", "a", "--data", tmp_path / "pictures",
        "--address", "tcp://127.0.0.1:7001", "--factory", "splitfed.models:ThreeLayerCNN",
        "--arguments", small,
    )  # fmt: skip
    assert first.code == 0, first.error
    agreement = tmp_path / "a" / "federation.toml"
    second = shell(
        "init", tmp_path / "b", "--join", agreement, "--party", "b", "--data",
        tmp_path / "pictures",
    )  # fmt: skip
    assert second.code == 0, second.error
    agreement.write_bytes((tmp_path / "b" / "federation.toml").read_bytes())
    return agreement


def test_init_names_every_missing_flag_at_once(shell: Shell, tmp_path: Path) -> None:
    answer = shell("init", tmp_path / "a")
    assert answer.code == 2
    assert "error: 3 faults to mend:" in answer.error
    for flag in ("--party", "--name", "--data"):
        assert f"command line: {flag}: missing" in answer.error
    assert not (tmp_path / "a").exists()


def test_init_join_takes_no_word_on_what_is_agreed_already(shell: Shell, tmp_path: Path) -> None:
    made = initialised(shell, tmp_path)
    answer = shell(
        "init", tmp_path / "c", "--join", made, "--party", "c", "--data", tmp_path / "pictures",
        "--classes", "cat,dog", "--name", "mine", "--rounds", "3",
    )  # fmt: skip
    assert answer.code == 2
    assert "--name = mine: the agreement that you join says this" in answer.error
    assert "--classes" in answer.error
    assert "--rounds = 3" in answer.error


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--size", "28"], "--size = 28: should be height x width"),
        (["--arguments", "widths"], "--arguments = widths: should be TOML"),
        (["--classes", "cat"], "two classes or more"),
        (["--classes", "cat,cow"], "class 'dog' is not in the agreement"),
        (["--address", "here"], "tcp://hospital-a.example:7001"),
        (["--rounds", "0"], "rounds"),
        (["--channels", "2"], "channels"),
        (["--factory", "torch"], "package.module"),
        (["--shared", "conv9"], "conv9"),
    ],
)
def test_init_refuses_bad_flags_and_writes_nothing(
    shell: Shell, tmp_path: Path, flags: list[str], told: str
) -> None:
    write_pictures(tmp_path / "pictures", each=1)
    answer = shell(
        "init", tmp_path / "a", "--name", "t", "--party", "a", "--data", tmp_path / "pictures",
        "--factory", "splitfed.models:ThreeLayerCNN", *flags,
    )  # fmt: skip
    assert answer.code == 2
    assert told in answer.error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--parties", "9"], "--parties 9: the demo has 2 to 8"),
        (["--parties", "1"], "--parties 1: the demo has 2 to 8"),
        (["--split", "odd"], "choose one of: skew, iid"),
        (["--privacy", "dp"], "--privacy dp: not a mode of the demo"),
        (["--privacy", "dp-shared"], "one record changes the private layers"),
    ],
)
def test_the_demo_refuses_what_it_does_not_offer(
    shell: Shell, tmp_path: Path, flags: list[str], told: str
) -> None:
    answer = shell("demo", "--out", tmp_path / "demo", *flags)
    assert answer.code == 2
    assert told in answer.error
    assert not (tmp_path / "demo").exists()


def test_plan_shows_what_leaves_and_what_stays(shell: Shell, tmp_path: Path) -> None:
    initialised(shell, tmp_path)
    answer = shell("plan", tmp_path / "a" / "party.toml")
    assert answer.code == 0, answer.error
    leaves, stays = answer.out.split("STAYS")[0], answer.out.split("STAYS")[1].split("ALSO")[0]
    for name in ("conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight"):
        assert f"  {name}" in leaves
        assert name not in stays
    for name in ("conv3.weight", "classifier.bias"):
        assert f"  {name}" in stays
        assert name not in leaves
    assert "is (8.00, 1e-05)-DP for each record of this party" in answer.out
    assert "account of data set images: 0.0000 spent" in answer.out
    assert "factory runs code" in answer.out

    found = json.loads(shell("plan", tmp_path / "a" / "party.toml", "--json").out)
    sizes = {row["name"]: row["bytes"] for row in found["shared"]}
    assert sizes == {
        "conv1.bias": 16, "conv1.weight": 144, "conv2.bias": 16, "conv2.weight": 576
    }  # fmt: skip
    assert found["payload_bytes_per_round"] == 752
    assert [row["name"] for row in found["private"]] == [
        "classifier.bias", "classifier.weight", "conv3.bias", "conv3.weight"
    ]  # fmt: skip


def test_plan_of_both_sides_names_one_agreement(shell: Shell, tmp_path: Path) -> None:
    initialised(shell, tmp_path)
    plans = [
        json.loads(shell("plan", tmp_path / name / "party.toml", "--json").out) for name in "ab"
    ]
    assert plans[0]["contract"] == plans[1]["contract"]
    assert plans[0]["fingerprint"] == plans[1]["fingerprint"]


def test_plan_sends_nothing_and_reads_no_image(shell: Shell, tmp_path: Path) -> None:
    initialised(shell, tmp_path)
    for picture in (tmp_path / "pictures").rglob("*.png"):
        picture.write_bytes(b"no picture")
    assert shell("plan", tmp_path / "a" / "party.toml").code == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--epsilon", "1000"], "--epsilon 1000"),
        (["--epsilon", "0.01"], "choose 0.05 to 50"),
        (["--delta", "0.3"], "should be below 1/n = 1/4"),
        (["--privacy", "nonsense"], "choose one of: dp-frozen, dp-all, party-update, none"),
        (["--privacy", "dp-shared"], "one record changes the private layers"),
        (["--privacy", "none", "--epsilon", "3"], "contradict --privacy none"),
        (
            ["--factory", "splitfed.models:ResNet18", "--arguments", 'norm = "batch"'],
            "layer backbone.bn1 is a BatchNorm2d",
        ),
    ],
)
def test_init_refuses_privacy_that_cannot_be_kept_and_leaves_nothing(
    shell: Shell, tmp_path: Path, flags: list[str], told: str
) -> None:
    write_pictures(tmp_path / "pictures", each=2)
    answer = shell(
        "init", tmp_path / "a", "--name", "trial", "--party", "a", "--data",
        tmp_path / "pictures", *flags,
    )  # fmt: skip
    assert answer.code == 2
    assert told in answer.error
    assert 'did you mean "none"' not in answer.error
    assert not (tmp_path / "a" / "secret.json").exists()
    assert not (tmp_path / "a" / "federation.toml").exists()
