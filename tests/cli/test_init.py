"""`splitfed init` as a person uses it: asked in a terminal, told what comes next."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from splitfed.config import load_federation, load_party
from tests.support.commands import Shell
from tests.support.pictures import write_pictures


class Keyboard(io.StringIO):
    """Standard input of a terminal at which somebody types these lines."""

    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard("".join(f"{line}\n" for line in lines)))


def test_a_terminal_is_asked_for_what_no_flag_says(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    typed(monkeypatch, "hospital-a", "trial", "", "tcp://127.0.0.1:7001", str(pictures))
    answer = shell("init", tmp_path / "a")
    assert answer.code == 0, answer.error
    agreed = load_federation(tmp_path / "a" / "federation.toml")
    assert (agreed.name, list(agreed.parties)) == ("trial", ["hospital-a"])
    assert agreed.model.factory == "splitfed.models:ThreeLayerCNN"
    assert agreed.parties["hospital-a"].address == "tcp://127.0.0.1:7001"
    assert agreed.parties["hospital-a"].records == 12

    typed(monkeypatch, "hospital-b", "", str(pictures))
    answer = shell("init", tmp_path / "b", "--join", tmp_path / "a" / "federation.toml")
    assert answer.code == 0, answer.error
    config = load_party(tmp_path / "b" / "party.toml")
    assert config.party == "hospital-b"
    assert config.me.address is None


def test_ctrl_c_at_a_question_ends_with_130_and_leaves_nothing(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch)  # the end of input is what Ctrl-D gives; Ctrl-C takes the same way out
    assert shell("init", tmp_path / "a").code == 130
    assert not (tmp_path / "a").exists()


def test_init_says_what_comes_next(shell: Shell, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", each=2)
    answer = shell(
        "init", tmp_path / "a", "--name", "trial", "--party", "a", "--data", pictures,
        "--arguments", "widths = [4, 4, 4]",
    )  # fmt: skip
    assert answer.code == 0, answer.error
    assert "sharing conv1, conv2; classes cat, dog; 4 training images" in answer.out
    assert "privacy: dp-frozen, epsilon = 8 for each record, delta = 1e-05" in answer.out
    assert "splitfed init --join federation.toml" in answer.out
    answer = shell(
        "init", tmp_path / "b", "--join", tmp_path / "a" / "federation.toml", "--party", "b",
        "--data", pictures,
    )  # fmt: skip
    assert answer.code == 0, answer.error
    assert f"send this file back to a: {tmp_path}/b/federation.toml" in answer.out
    assert "code that a chose" in answer.out
    assert "a, b have no address and cannot dial each other" in answer.out


def test_a_third_party_joins_the_file_that_the_second_completed(
    shell: Shell, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", each=2)
    first = ("init", tmp_path / "a", "--name", "trial", "--party", "a", "--data", pictures)
    assert shell(*first, "--address", "tcp://a.example:7001").code == 0
    sent = tmp_path / "a" / "federation.toml"
    for name, address in (("b", "tcp://b.example:7001"), ("c", None), ("d", None)):
        flags = ("--address", address) if address else ()
        answer = shell(
            "init", tmp_path / name, "--join", sent, "--party", name, "--data", pictures, *flags
        )
        assert answer.code == 0, answer.error
        others = ", ".join("abcd"[: "abcd".index(name)])
        assert f"you joined trial with {others}" in answer.out
        assert f"send this file back to {others}" in answer.out
        assert ("cannot dial each other" in answer.out) == (name == "d")
        sent = tmp_path / name / "federation.toml"
    assert list(load_federation(sent).parties) == ["a", "b", "c", "d"]
    assert "note: c, d have no address" in answer.out


def test_the_plan_of_three_says_what_else_leaves_and_that_nobody_waits_for_ever(
    shell: Shell, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "pictures", each=2)
    sent, plans = None, []
    for name in "abc":
        joins = ("--name", "trial") if sent is None else ("--join", sent)
        flags = ("--party", name, "--data", pictures, "--address", f"tcp://{name}.example:7001")
        assert shell("init", tmp_path / name, *joins, *flags).code == 0
        sent = tmp_path / name / "federation.toml"
        if name != "a":
            answer = shell("plan", tmp_path / name / "party.toml", "--json")
            assert answer.code == 0, answer.error
            plans.append(json.loads(answer.out))
    two, three = plans
    passed_on = [text for text in three["also_leaves"] if text not in two["also_leaves"]]
    assert len(passed_on) == 2
    assert passed_on[0].startswith("to the others, what any party signed")
    assert passed_on[1].startswith("to one that was away")
    assert two["notes"] == []
    assert len(three["notes"]) == 1
    assert "patience = 0 in party.toml waits for ever" in three["notes"][0]
    # What is beside the tensors grows with the votes, which name everybody's update.
    beside = [
        plan["wire_bytes_per_round_at_most"] - plan["payload_bytes_per_round"] * 102 // 100
        for plan in plans
    ]
    assert beside == [2048, 2 * (2048 + 256)]
    assert two["wire_bytes_per_connection_at_most"] == 8192
    assert three["wire_bytes_per_connection_at_most"] == 8192 + 3 * 256 + 1024
    party = tmp_path / "c" / "party.toml"
    party.write_text(party.read_text().replace("patience = 0", "patience = 600"))
    assert json.loads(shell("plan", party, "--json").out)["notes"] == []
    assert "parties that a round needs: 2 of 3\n" in shell("plan", party).out
    agreed = sent.read_text()
    for changed, note in (
        ('rule = "median"', "none of the 3 parties may be away: rule = 'median' needs 3 in every"),
        (
            'rule = "mean"\nminimum_parties = 3',
            "none of the 3 parties may be away: minimum_parties = 3 is agreed",
        ),
    ):
        sent.write_text(agreed.replace('rule = "mean"', changed))
        answer = shell("plan", party)
        assert "parties that a round needs: 3 of 3\n" in answer.out
        assert f"note: {note}" in answer.out
