"""A federation in one process: the public Python API."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from splitfed import Federation, Party
from splitfed.config import TrainingConfig
from splitfed.errors import SharingError, UserError

CLASSES = ("low", "high")


class Small(nn.Module):
    shared = ("conv1",)

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.head = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x):
        return self.head(torch.relu(self.conv1(x)).mean((2, 3)))


def wide() -> Small:
    return Small(hidden=9)


def other_conv() -> nn.Module:
    model = Small()
    model.conv1 = nn.Conv2d(1, 3, 5)
    return model


def images(seed: int, count: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return torch.randn(count, 1, 8, 8, generator=draw) + labels[:, None, None, None] * 1.5, labels


def party(name: str, seed: int, **more) -> Party:
    return Party(name, images(seed), images(seed + 50), images(99), **more)


def federation(**changes) -> Federation:
    fields = {
        "model": Small, "rounds": 2, "classes": CLASSES, "privacy": "none",
        "training": TrainingConfig(batch_size=8),
    }  # fmt: skip
    return Federation(**{**fields, **changes})


def test_a_simulation_reports_every_party_and_agrees_on_the_shared_tensors(tmp_path):
    reports = federation(acceptance=True).simulate([party("a", 1), party("b", 2)], out=tmp_path)
    assert sorted(reports) == ["a", "b"]
    assert reports["a"]["shared_digest"] == reports["b"]["shared_digest"]
    # without a model trained alone there is nothing else to keep
    federation().simulate([party("a", 1), party("b", 2)], out=tmp_path / "plain")
    a, b = (load_file(tmp_path / "plain" / name / "model.safetensors") for name in "ab")
    assert torch.equal(a["conv1.weight"], b["conv1.weight"])
    assert not torch.equal(a["head.0.weight"], b["head.0.weight"])
    for report in reports.values():
        assert report["evaluation"]["local_only"]["accuracy"] is not None
        assert report["evaluation"]["partial"]["accuracy"] is not None
        assert report["verdict"]["compared"] == "partial"
        assert report["traffic"]["payload_bytes_sent"] == 2 * (27 + 3) * 4
        assert report["privacy"]["sentence"].startswith("NO PRIVACY GUARANTEE")
        assert [row["outcome"] for row in report["history"]] == ["agreed", "agreed"]


def test_the_same_federation_gives_the_same_bytes_again(tmp_path):
    for name in ("one", "two"):
        federation().simulate([party("a", 1), party("b", 2)], out=tmp_path / name)
    for name in "ab":
        one, two = (tmp_path / run / name / "model.safetensors" for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_without_acceptance_there_is_no_verdict():
    report = federation().simulate([party("a", 1), party("b", 2)])["a"]
    assert report["evaluation"]["local_only"] is None
    assert report["verdict"] is None


def test_private_parts_may_differ_between_parties(tmp_path):
    reports = federation().simulate(
        [party("a", 1), party("b", 2, model=wide), party("c", 3)], out=tmp_path
    )
    assert len({report["shared_digest"] for report in reports.values()}) == 1
    assert load_file(tmp_path / "b" / "model.safetensors")["head.0.weight"].shape == (9, 3)


def test_other_shared_tensors_are_refused_by_name_and_end_the_simulation():
    with pytest.raises(UserError, match=r"conv1\.weight is float32 \[3, 1, 5, 5\]"):
        federation().simulate([party("a", 1), party("b", 2, model=other_conv)])


def test_an_error_of_one_party_reaches_the_caller():
    diverging = TrainingConfig(lr=1e30, batch_size=8)
    with pytest.raises(UserError, match="b"):
        federation().simulate([party("a", 1), party("b", 2, training=diverging)])


@pytest.mark.parametrize(
    ("changes", "names", "says"),
    [
        ({}, ["a"], "two or more parties"),
        ({}, ["a", "a"], "different names"),
        ({"privacy": "dp-frozen"}, ["a", "b"], "epsilon: missing"),
        ({"privacy": "dp-shared"}, ["a", "b"], "one record changes the private layers"),
        ({"privacy": "none", "public_head": "pool-linear"}, ["a", "b"], "public_head"),
        ({"weights": {"a": 1.0}}, ["a", "b"], "weights"),
    ],
)
def test_an_agreement_that_cannot_work_is_refused(changes, names, says):
    with pytest.raises(UserError, match=says):
        federation(**changes).simulate([party(name, 1) for name in names])


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(SharingError, match="'conv7' matches no tensor"):
        federation(shared=["conv7"]).simulate([party("a", 1), party("b", 2)])


def test_the_linear_example_matches_averaging_by_hand(capsys):
    file = Path(__file__).parents[2] / "examples" / "linear_fedavg" / "linear_fedavg.py"
    spec = importlib.util.spec_from_file_location("linear_fedavg", file)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main() == 0
    assert "largest difference" in capsys.readouterr().out
