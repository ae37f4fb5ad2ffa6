"""Judgement under privacy: it reads the personal track, and nothing of it reaches what is sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitfed.config import TrainingConfig
from splitfed.run import private
from splitfed.run.agreed import Agreed, Settings, agree_on_model
from splitfed.run.judging import LAG, RUNNING
from splitfed.run.learner import PartyData
from splitfed.run.life import make_learner
from splitfed.sharing import shared_tensors
from splitfed.tensors import digest
from tests.privacy.test_valve import reachable
from tests.support.privacy import CLASSES, image_set, images_of, mechanism, small_net

DP_SGD = ("dp-frozen", "dp-all")


def learner(mode: str, *, labels: int = 0, on_distrust: str = "warn") -> Any:
    """It validates on what it trains on, so that alone it is good at it. ``labels`` turns the
    validation labels round, and nothing else."""
    agreed = Agreed(
        terms=type("Terms", (), {"rounds": 6})(),
        model=agree_on_model(small_net(), None, None),
        classes=CLASSES,
        seed=7,
        factory="",
        document="",
        roster=b"",
        roster_document="",
        records={"a": 24},
        mechanism=mechanism(mode, unit="party" if mode == "party-update" else "record"),
    )
    images, truth = (part.repeat(25, *(1,) * (part.dim() - 1)) for part in images_of(24))
    return make_learner(
        agreed,
        Settings(
            training=TrainingConfig(batch_size=8, epochs=10),
            acceptance=True,
            on_distrust=on_distrust,
        ),
        party="a",
        model=small_net(),
        split=agreed.model.split,
        data=PartyData(
            train=image_set(images_of(24)),
            validation=image_set((images, (truth + labels) % len(CLASSES))),
            test=None,
        ),
        turn=None,
    )


def ruined(shared: Any) -> Any:
    """Layers that answer every image alike, and are too far out to learn otherwise."""
    return {n: torch.full_like(t, 50.0 if n.endswith("bias") else 0.0) for n, t in shared.items()}


def rounds(it: Any, count: int = LAG + RUNNING + 1, ruin: bool = False) -> list[Any]:
    """Rounds whose merges are what was sent; or ruined."""
    made = []
    for round in range(1, count + 1):
        made.append((it.train(round, lambda *_: None), digest(it.shared())))
        it.merge(ruined(it.shared()) if ruin else it.shared())
    return made


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates leave as they were trained: without noise, equal worlds send equal bytes."""

    def as_it_is(now, base, mechanism, keystream):
        return {name: value.clone() for name, value in now.items()}

    monkeypatch.setattr(private, "noised_update", as_it_is)


@pytest.mark.parametrize("mode", DP_SGD)
def test_noised_tracks_are_judged_only_after_the_last_round(mode: str) -> None:
    it = learner(mode, on_distrust="leave")
    for made, _ in rounds(it, ruin=True):
        assert made.judgement is None
        assert made.leave == ""
    it.fit()
    before = digest(it.shared())
    found = it.last_judgement()
    assert found is not None
    assert found["images"] == 600
    assert digest(it.shared()) == before


@pytest.mark.parametrize("mode", DP_SGD)
def test_no_way_leads_from_the_federated_track_to_the_judge(mode: str) -> None:
    it = learner(mode)
    rounds(it, 2)
    it.fit()
    it.last_judgement()
    federated = reachable(it._federated)
    assert id(it._judge) not in federated
    assert all(id(past) not in federated for past in it._judge.past)


def test_what_validation_images_say_changes_no_bit_of_an_update(bare) -> None:
    """Two worlds that differ in validation labels alone."""
    worlds = [
        rounds(learner("party-update", labels=k, on_distrust="leave"), ruin=True) for k in (0, 1)
    ]
    judgements = [[made.judgement for made, _ in world] for world in worlds]
    assert judgements[0][-1] is not None
    assert judgements[0] != judgements[1]  # they did see other labels
    assert [sent for _, sent in worlds[0]] == [sent for _, sent in worlds[1]]


def test_only_leaving_tells_and_only_where_it_was_asked_for(bare) -> None:
    told = {
        choice: rounds(learner("party-update", on_distrust=choice), ruin=True)
        for choice in ("warn", "leave")
    }
    assert all(made.leave == "" for made, _ in told["warn"])
    assert any("2 rounds running" in made.leave for made, _ in told["leave"])
    assert [sent for _, sent in told["warn"]] == [sent for _, sent in told["leave"]]


def test_a_judge_that_is_interrupted_goes_on_bit_for_bit(bare) -> None:
    whole, first, again = (learner("party-update", on_distrust="leave") for _ in range(3))
    expected = rounds(whole, ruin=True)
    found = []
    for it in (first, again):
        if found:
            it.restore(*first.state())
        for round in (1, 2, 3) if it is first else (4, 5):
            found.append((it.train(round, lambda *_: None), digest(it.shared())))
            it.merge(ruined(it.shared()))
    assert [made.judgement for made, _ in found] == [made.judgement for made, _ in expected]
    assert [made.leave for made, _ in found] == [made.leave for made, _ in expected]
    assert digest(shared_tensors(again.model, again.split)) == digest(
        shared_tensors(whole.model, whole.split)
    )


@pytest.mark.parametrize("mode", [*DP_SGD, "party-update"])
def test_the_sentence_says_that_leaving_is_not_covered(mode: str) -> None:
    unit = "party" if mode == "party-update" else "record"
    sentence = mechanism(mode, unit=unit).sentence
    assert "the decision to leave" in sentence.partition("Not covered:")[2]
