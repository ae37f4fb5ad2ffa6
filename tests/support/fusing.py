"""Small learners that fuse: a tiny net, tiny sets, and what two parties released."""

from __future__ import annotations

from typing import Any

from splitfed.config import OwnFusionConfig, TrainingConfig
from splitfed.random import forked
from splitfed.run.fusing import AgreedFusion
from splitfed.run.learner import LocalLearner, PartyData
from splitfed.sharing import split_model
from tests.support.data import tiny_set
from tests.support.training import CLASSES, TinyNet

SIZE = (6, 6)


def quiet(*step: Any) -> None:
    """A step that tells nobody."""


def tiny_net(seed: int = 1) -> TinyNet:
    with forked(seed, "tiny net"):
        return TinyNet()


def learner(method: str = "distill", *, party: str = "a", seed: int = 1, **more: Any) -> Any:
    model = tiny_net(seed)
    fusion = AgreedFusion(
        method=method,
        temperature=2.0,
        reference_size=10,
        models={"a": tiny_net(), "b": tiny_net()},
    )
    return LocalLearner(
        model,
        split=split_model(model),
        data=PartyData(
            train=tiny_set(21, size=SIZE),
            validation=tiny_set(12, size=SIZE),
            test=None,
            reference=tiny_set(10, size=SIZE).without_labels(),
        ),
        settings=TrainingConfig(batch_size=8),
        classes=CLASSES,
        seed=7,
        party=party,
        rounds=2,
        acceptance=more.pop("acceptance", True),
        fusion=fusion,
        **more,
    )


CONSENT = OwnFusionConfig(release_private=True)


def received(kind: str = "outputs") -> dict[str, Any]:
    """What two parties that trained differently released."""
    found = {}
    for party, seed in (("a", 1), ("b", 2)):
        other = learner(party=party, seed=seed, own_fusion=CONSENT)
        other.train(1, quiet)
        other.prepare(kind, True, quiet)
        found[party] = other.outgoing()
    return found
