"""Judgement: when is a merge distrusted, what is told of it, and what it comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.errors import ConfigError, UserError
from splitfed.evaluation import Predictions, loss_of
from splitfed.evaluation.acceptance import CONFIDENCE, MARGIN
from splitfed.rounds.evidence import compared
from splitfed.run.judging import Judge
from splitfed.simulation import Federation, Party, find_attack
from tests.support.updates import OneByOne

CLASSES = ("x", "y")
ROUNDS = 6
IMAGES = 300


def answers(right: list[int] | torch.Tensor, count: int = IMAGES) -> torch.Tensor:
    found = torch.zeros(count, dtype=torch.bool)
    found[right] = True
    return found


def predictions(right: torch.Tensor) -> Predictions:
    """Answers of which ``right`` are right; all labels are 0."""
    said = torch.eye(2, dtype=torch.float64)[(~right).long()]
    labels = torch.zeros(len(right), dtype=torch.int64)
    return Predictions(probabilities=said, values=None, labels=labels, loss=0.0)


# --- the bound -----------------------------------------------------------------------------


def test_the_figures_of_a_loss() -> None:
    without, merged = answers(list(range(200))), answers(list(range(30, 210)))
    loss = loss_of(without, merged)
    assert (loss.images, loss.lost, loss.gained) == (IMAGES, 30, 10)
    assert loss.difference == pytest.approx(20 / IMAGES)
    assert loss.bound < loss.difference


def test_equal_answers_are_no_loss() -> None:
    right = answers(list(range(150)))
    assert loss_of(right, right).bound <= 0
    assert not loss_of(right, right).bad


@pytest.mark.parametrize("more", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("images", [40, 300])
def test_a_loss_of_the_margin_is_called_bad_in_at_most_one_of_a_hundred(
    images: int, more: float
) -> None:
    """At the edge of what is nobody's fault: lost with chance more + margin, gained with more."""
    draw = torch.Generator().manual_seed(1)
    chance = torch.rand(4000, images, generator=draw, dtype=torch.float64)
    lost, gained = chance < more + MARGIN, chance > 1 - more
    pairs = {(int(a), int(b)) for a, b in zip(lost.sum(1), gained.sum(1), strict=True)}
    bad = {
        pair: loss_of(
            answers(list(range(pair[0])), images),
            answers(list(range(pair[0], sum(pair))), images),
        ).bad
        for pair in pairs
    }
    called = [bad[int(a), int(b)] for a, b in zip(lost.sum(1), gained.sum(1), strict=True)]
    assert sum(called) <= (1 - CONFIDENCE) * len(called)


def test_a_large_loss_is_seen() -> None:
    assert loss_of(answers(list(range(270))), answers(list(range(240)))).bad
    assert not loss_of(answers(list(range(270))), answers(list(range(263)))).bad


# --- the judge -----------------------------------------------------------------------------

GOOD, POOR = predictions(answers(list(range(270)))), predictions(answers(list(range(200))))


def judge(**more: Any) -> Judge:
    return Judge(classes=CLASSES, **more)


def asked(it: Judge, merged: Predictions, without: Predictions = GOOD) -> dict[str, Any] | None:
    it.merged = True
    return it.hear(without, merged)


def settled() -> Judge:
    """One who knows the local_only model's past: two rounds, both good."""
    it = judge()
    it.hear(GOOD, None)
    it.hear(GOOD, None)
    return it


def test_distrust_needs_two_bad_answers_running() -> None:
    it = settled()
    first, healed, again = asked(it, POOR), asked(it, GOOD), asked(it, POOR)
    assert first
    assert healed
    assert again
    assert [a["bad"] for a in (first, healed, again)] == [1, 0, 1]
    assert not it.distrust
    last = asked(it, POOR)
    assert last is not None
    assert "2 rounds running" in last["alarm"]
    assert it.distrust == last["alarm"]


def test_a_series_of_bad_answers_raises_one_alarm_and_is_distrusted_to_its_end() -> None:
    it = settled()
    found = [asked(it, POOR) for _ in range(4)]
    assert [bool(a and a["alarm"]) for a in found] == [False, True, False, False]
    assert it.distrust
    asked(it, GOOD)
    assert not it.distrust


def test_a_merged_model_may_be_two_rounds_behind_while_both_learn() -> None:
    it = judge()
    curve = [predictions(answers(list(range(n)))) for n in (30, 90, 150, 210, 270, 285)]
    behind = [curve[0], curve[0], *curve]
    found = [asked(it, merged, alone) for alone, merged in zip(curve, behind, strict=False)]
    assert found[:2] == [None, None]
    assert all(a is not None and a["bad"] == 0 for a in found[2:])


def test_without_a_merge_since_nothing_is_judged() -> None:
    it = settled()
    assert it.hear(GOOD, POOR) is None
    assert asked(it, POOR) is not None
    assert it.hear(GOOD, POOR) is None
    assert it.bad == 1


def test_a_judge_goes_on_where_its_state_was_taken() -> None:
    it, again = settled(), judge()
    asked(it, POOR)
    it.merged = True
    tensors, meta = it.state()
    again.restore(tensors, json.loads(json.dumps(meta)))
    assert it.hear(GOOD, POOR) == again.hear(GOOD, POOR)
    assert again.distrust


def test_a_regression_and_a_party_without_validation_images_are_not_judged() -> None:
    values = torch.zeros(4)
    regression = Predictions(probabilities=None, values=values, labels=values, loss=0.0)
    assert asked(judge(lag=0), regression, regression) is None
    it = judge(lag=0)
    it.merged = True
    assert it.hear(None, None) is None


def test_the_class_that_is_said_more_often_stands_in_the_evidence() -> None:
    found = asked(settled(), POOR)
    assert found is not None
    assert found["shift"] == {"class": "y", "without": 0.1, "merged": pytest.approx(1 / 3)}


# --- the updates beside an alarm -----------------------------------------------------------


def test_updates_are_compared_by_length_and_direction() -> None:
    base = {"w": torch.tensor([1.0, 1.0]), "n": torch.tensor(3)}
    sent = {
        "a": {"w": torch.tensor([4.0, 5.0]), "n": torch.tensor(4)},
        "b": {"w": torch.tensor([-2.0, -3.0]), "n": torch.tensor(9)},
        "c": {"w": torch.tensor([5.0, -2.0]), "n": torch.tensor(4)},
        "d": {"w": torch.tensor([1.0, 1.0]), "n": torch.tensor(4)},
    }
    found = compared(sent, base, "a")
    assert {p: row["norm"] for p, row in found.items()} == {"a": 5.0, "b": 5.0, "c": 5.0, "d": 0.0}
    assert found["a"]["cosine"] is None
    assert found["b"]["cosine"] == pytest.approx(-1.0)
    assert found["c"]["cosine"] == pytest.approx(0.0)
    assert found["d"]["cosine"] is None
    assert compared({"b": sent["b"]}, base, "a")["b"]["cosine"] is None


def test_besides_the_own_one_update_is_compared_at_a_time() -> None:
    updates = OneByOne(most=1)
    found = compared(updates, {"w": torch.zeros(10)}, "p3")
    assert [row["norm"] for row in found.values()] == pytest.approx([i * 10**0.5 for i in range(8)])
    assert len(updates.made) >= 8


# --- whole federations ---------------------------------------------------------------------


class Net(nn.Module):
    """A shared convolution and a private classifier for images of 8x8 pixels."""

    shared = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(images)))


def images(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return torch.randn(count, 1, 8, 8, generator=draw) + labels[:, None, None, None] * 0.6, labels


def federate(out: Path | None = None, attack: str = "", **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": Net, "rounds": ROUNDS, "classes": CLASSES, "privacy": "none", "acceptance": True,
        "training": TrainingConfig(batch_size=8), "max_update_norm": 4.0,
    }  # fmt: skip
    lie = find_attack(attack) if attack else None
    members = [
        Party(name, images(i, 96), images(50 + i, 400), images(99, 40), attack=how)
        for i, (name, how) in enumerate((("a", None), ("b", lie)), 1)
    ]
    return Federation(**{**fields, **more}).simulate(members, out=out)


def events(out: Path, name: str) -> list[dict[str, Any]]:
    lines = (out / "a" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


def test_an_honest_partner_is_never_distrusted(tmp_path: Path) -> None:
    reports = federate(tmp_path, on_distrust="leave")
    for report in reports.values():
        assert report["outcome"] == "done"
        assert report["faults"]["alarms"] == []
    assert [line["round"] for line in events(tmp_path, "judged")] == [2, 3, 4, 5, 6]
    assert events(tmp_path, "alarm") == []
    assert all(
        -1 <= line["cosine"] <= 1 for line in events(tmp_path, "admitted") if line["peer"] == "b"
    )


def test_a_poisoning_partner_raises_an_alarm_with_its_evidence(tmp_path: Path) -> None:
    report = federate(tmp_path, "sign-flip")["a"]
    assert report["outcome"] == "done"
    alarm, *_ = report["faults"]["alarms"]
    assert alarm["round"] <= 4
    assert alarm["peer"] == "b"
    assert "taking part costs accuracy" in alarm["reason"]
    found = alarm["evidence"]
    assert found["bound"] > MARGIN
    assert set(found["updates"]) == {"a", "b"}
    assert report["kept"] == "local_only"
    assert [line["exit_code"] for line in events(tmp_path, "ended")] == [0]
    logged, *_ = events(tmp_path, "alarm")
    assert {key: logged[key] for key in alarm} == alarm
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert alarm["reason"] in page


def test_a_party_that_leaves_on_distrust_finishes_alone(tmp_path: Path) -> None:
    reports = federate(tmp_path, "sign-flip", on_distrust="leave")
    report = reports["a"]
    assert report["outcome"] == "alone"
    alarm, *_ = report["faults"]["alarms"]
    assert report["ended_because"] == alarm["reason"]
    outcomes = [row["outcome"] for row in report["history"]]
    assert outcomes == ["agreed"] * alarm["round"] + ["alone"] * (ROUNDS - alarm["round"])
    assert [line["exit_code"] for line in events(tmp_path, "ended")] == [5]
    assert reports["b"]["outcome"] == "alone"


def test_judging_changes_no_bit_of_what_is_agreed() -> None:
    judged, plain = federate(rounds=4), federate(rounds=4, acceptance=False)
    assert judged["a"]["shared_digest"] == plain["a"]["shared_digest"]


def test_leaving_without_anything_that_judges_in_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="acceptance = true"):
        federate(acceptance=False, on_distrust="leave")
    private = {
        "mode": "dp-frozen", "epsilon": 8.0, "delta": 1e-3, "max_grad_norm": 1.0, "unit": "record",
        "sample_rate": 0.1, "steps_per_round": 2,
    }  # fmt: skip
    with pytest.raises(UserError, match="judged once, after the last round"):
        federate(privacy=private, on_distrust="leave")
