"""Whole federations that fuse, and what peers may send without ending a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import splitfed
from splitfed.config import TrainingConfig
from splitfed.errors import ConfigError, Defect, UserError
from splitfed.run.learner import LocalLearner
from splitfed.sharing import shared_tensors
from splitfed.tensors import digest
from tests.support.data import tiny_set
from tests.support.fusing import CONSENT, SIZE, learner, quiet, received
from tests.support.training import CLASSES, TinyNet

# --- hostile or unlucky ----------------------------------------------------------------------


class Pointing(TinyNet):
    """A private buffer of integers that point into the features, as Swin's position index does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(48))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernels = torch.relu(self.own_norm(self.norm(self.conv(images))))
        return self.classifier(kernels.flatten(1)[:, self.order])


def spoilt(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    if kind == "pointer":
        found["order"][:] = 1 << 40
    elif kind == "huge":
        found["classifier.weight"][:] = 3e38
    elif kind == "variance":
        found["own_norm.running_var"][:] = -5.0
    return found


@pytest.mark.parametrize("method", ["average", "ensemble"])
@pytest.mark.parametrize("kind", ["pointer", "huge", "variance"])
def test_what_a_peer_s_private_layers_hold_never_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    """b lies within what is admitted: finite values of the agreed shapes."""
    real = LocalLearner.outgoing
    monkeypatch.setattr(
        LocalLearner,
        "outgoing",
        lambda self: spoilt(kind, real(self)) if self._party == "b" else real(self),
    )
    parties = [
        splitfed.Party(name, *(tiny_set(n, size=SIZE) for n in (24, 12, 15))) for name in "ab"
    ]
    reports = splitfed.Federation(
        model=Pointing, rounds=1, classes=CLASSES, privacy="none", acceptance=True,
        training=TrainingConfig(batch_size=8), fusion=method,
    ).simulate(parties)  # fmt: skip
    report = reports["a"]
    if kind == "pointer":  # integers are not taken from anybody, so that one changes nothing
        assert report["fusion"]["outcome"] == "fused"
    else:
        assert report["fusion"]["outcome"] == "unusable"
        assert report["evaluation"]["fused"] is None
        assert report["verdict"]["compared"] == "partial"


def test_private_layers_are_not_made_ready_without_consent() -> None:
    it = learner("average")
    it.train(1, quiet)
    with pytest.raises(Defect, match="release_private"):
        it.prepare("private", True, quiet)


def test_averaged_private_layers_stand_on_the_shared_ones_they_were_trained_against() -> None:
    it = learner("average", own_fusion=CONSENT)
    it.train(1, quiet)
    it.prepare("private", True, quiet)
    agreed = {name: tensor + 1 for name, tensor in it.shared().items() if name != "none"}
    it.fuse(received("private"), agreed)
    assert digest(shared_tensors(it.fused, it.split)) == digest(agreed)


def test_learning_between_rounds_that_diverges_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitfed.errors import TrainingDiverged
    from splitfed.training import Trainer

    it, came = learner(), received()
    it.train(1, quiet)
    it.prepare("outputs", False, quiet)
    before = digest(it._own.state()[0])

    def diverge(self: Any, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(torch.nan)
        raise TrainingDiverged("the training loss is nan")

    monkeypatch.setattr(Trainer, "distill", diverge)
    monkeypatch.setattr(Trainer, "fit_all", diverge)
    it.absorb(came)
    assert digest(it._own.state()[0]) == before
    assert it.baseline is None  # the comparison ends, never the run


# --- whole federations -----------------------------------------------------------------------


def federation(method: Any, privacy: Any = "none", own: Any = None, **more: Any) -> dict[str, Any]:
    parties = [
        splitfed.Party(
            name,
            tiny_set(24, size=SIZE),
            tiny_set(12, size=SIZE),
            tiny_set(15, size=SIZE),
            model=own if name == "b" else None,
        )
        for name in ("a", "b")
    ]
    name = method if isinstance(method, str) else method["method"]
    reference = tiny_set(10, size=SIZE) if name == "distill" else None
    return splitfed.Federation(
        model=TinyNet, rounds=2, classes=CLASSES, privacy=privacy, acceptance=True,
        training=TrainingConfig(batch_size=8), fusion=method, reference=reference, **more,
    ).simulate(parties)  # fmt: skip


class OtherNet(TinyNet):
    """The same shared layers, another private part."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("method", "kind", "size"),
    [("distill", "outputs", 10), ("average", "private", None), ("ensemble", "private", None)],
)
def test_every_rule_fuses_a_whole_federation(method: str, kind: str, size: int | None) -> None:
    for name, report in federation(method).items():
        fusion = report["fusion"]
        assert (fusion["method"], fusion["kind"], fusion["outcome"]) == (method, kind, "fused")
        assert fusion["reference_size"] == size
        assert fusion["parties"] == ["a", "b"]
        assert report["evaluation"]["fused"]["accuracy"] is not None
        chosen = fusion["validation"]
        better = {"fused", "partial"}  # equally right: the loss decides
        if chosen["fused"] != chosen["partial"]:
            better = {"fused" if chosen["fused"] > chosen["partial"] else "partial"}
        assert report["verdict"]["compared"] in better
        assert report["kept"] == fusion["kept"]
        assert [row["round"] for row in report["history"]] == [1, 2], name


@pytest.mark.parametrize("method", ["distill", "ensemble"])
def test_parties_may_have_different_private_layers(method: str) -> None:
    for report in federation(method, own=OtherNet).values():
        assert report["evaluation"]["fused"] is not None


def test_private_layers_that_differ_cannot_be_averaged() -> None:
    with pytest.raises(UserError, match="cannot be averaged"):
        federation("average", own=OtherNet)


def test_outputs_can_be_exchanged_between_rounds() -> None:
    reports = federation({"method": "distill", "every": 1})
    plain = federation("distill")
    assert [row["round"] for row in reports["a"]["history"]] == [1, 2]
    assert reports["a"]["fusion"]["payload_bytes"] == 2 * plain["a"]["fusion"]["payload_bytes"]
    # what was learnt between the rounds is in the shared layers that were averaged after
    assert reports["a"]["shared_digest"] != plain["a"]["shared_digest"]


def test_without_fusion_nothing_is_fused() -> None:
    for report in federation("none").values():
        assert report["fusion"]["method"] == "none"
        assert report["evaluation"]["fused"] is None
        assert report["verdict"]["compared"] == "partial"


def test_a_simulation_refuses_what_the_files_refuse() -> None:
    noised = {"mode": "party-update", "epsilon": 8.0, "delta": 1e-5, "max_grad_norm": 1.0}
    with pytest.raises(ConfigError, match="would not be covered"):
        federation("distill", noised)
