"""The one-way valve: nothing in the federated track refers to anything of the personal track.

Followed by the objects themselves, as the garbage collector sees them, so that no attribute
name, closure or cache can hide a way.
"""

from __future__ import annotations

import gc
import types
from typing import Any

import pytest
import torch

from splitfed.config import TrainingConfig
from splitfed.run.agreed import Agreed, agree_on_model
from splitfed.run.learner import PartyData
from splitfed.run.private import PrivateLearner, federated_model
from splitfed.sharing import split_model
from splitfed.tensors import digest
from tests.support.privacy import CLASSES, image_set, images_of, mechanism, small_net

NOT_FOLLOWED = (types.ModuleType, type, types.BuiltinFunctionType)
"""What everything refers to: the code, not the data. A function's closure is followed."""


def reachable(start: Any) -> dict[int, Any]:
    """Every object that can be reached from ``start``, by id."""
    found: dict[int, Any] = {}
    waiting = [start]
    while waiting:
        this = waiting.pop()
        if id(this) in found or isinstance(this, NOT_FOLLOWED):
            continue
        found[id(this)] = this
        if isinstance(this, types.FunctionType):
            waiting += [cell.cell_contents for cell in this.__closure__ or ()]
            waiting += this.__defaults__ or ()
        elif isinstance(this, torch.Tensor):
            # Tensors keep gradients, views and graphs in C++, out of the collector's sight.
            waiting += [t for t in (this.grad, this._base) if t is not None]
            waiting += [this.grad_fn] if this.grad_fn is not None else []
            waiting += gc.get_referents(this)
        else:
            waiting += gc.get_referents(this)
    return found


def memory(objects: dict[int, Any]) -> set[int]:
    return {o.untyped_storage().data_ptr() for o in objects.values() if isinstance(o, torch.Tensor)}


@pytest.fixture(params=["dp-frozen", "dp-all"])
def learner(request) -> PrivateLearner:
    model = small_net()
    agreed = Agreed(
        terms=None,
        model=agree_on_model(small_net(), None, None),
        classes=CLASSES,
        seed=7,
        factory="",
        document="",
        roster=b"",
        roster_document="",
        records={"a": 24},
        mechanism=mechanism(request.param),
    )
    split = split_model(model)
    federated = federated_model(model, split, agreed)
    return PrivateLearner(
        model,
        federated=federated,
        federated_split=split_model(federated),
        mechanism=agreed.mechanism,
        records=24,
        split=split,
        data=PartyData(
            train=image_set(images_of(24)),
            validation=image_set(images_of(9, seed=50)),
            test=image_set(images_of(9, seed=51)),
        ),
        settings=TrainingConfig(batch_size=8),
        classes=CLASSES,
        seed=7,
        party="a",
        rounds=2,
        acceptance=True,
    )


def test_no_way_leads_from_the_federated_track_to_the_personal_one(learner) -> None:
    learner.train(1, lambda *step: None)
    learner.validate()
    learner.merge(learner.shared())
    federated = reachable(learner._federated)
    assert id(learner._federated.model) in federated  # the search does find what is there
    assert id(learner.data.train.images) in federated
    for name, forbidden in {
        "personal model": learner.model,
        "personal trainer": learner._own,
        "local_only model": learner.baseline,
        "local_only trainer": learner._baseline,
        "validation": learner.data.validation,
        "test": learner.data.test,
        "all data": learner.data,
        "learner": learner,
    }.items():
        assert id(forbidden) not in federated, name


def test_no_tensor_of_the_personal_track_shares_memory_with_the_federated_one(learner) -> None:
    learner.train(1, lambda *step: None)
    personal = memory(reachable(learner.model)) | memory(reachable(learner.baseline))
    held_out = memory(reachable(learner.data.validation)) | memory(reachable(learner.data.test))
    federated = memory(reachable(learner._federated))
    assert personal
    assert held_out
    assert federated
    assert not federated & (personal | held_out)


def test_the_search_would_see_a_way(learner) -> None:
    """One reference put there on purpose, hidden in a closure of a hook."""
    model = learner.model
    learner._federated.model.register_forward_hook(lambda *_: model)
    assert id(learner.model) in reachable(learner._federated)


def test_what_the_personal_track_does_changes_nothing_that_is_sent(learner) -> None:
    learner.train(1, lambda *step: None)
    before = digest(learner.shared())
    learner.fit()
    learner.validate()
    learner.personal()
    with torch.no_grad():
        for parameter in (*learner.model.parameters(), *learner.baseline.parameters()):
            parameter.add_(100.0)
    assert digest(learner.shared()) == before


def test_the_personal_track_starts_from_the_federated_tensors(learner) -> None:
    learner.train(1, lambda *step: None)
    wanted = {name: value + 1.0 for name, value in learner.shared().items()}
    learner.merge(wanted)
    learner._rounds = 0  # only the fitting of the private layers: the shared ones stay
    learner.fit()
    own = dict(learner.model.named_parameters())
    for name, value in wanted.items():
        assert torch.equal(own[name], value)


def test_fine_tuning_moves_every_layer_of_the_personal_model(learner) -> None:
    learner.train(1, lambda *step: None)
    shared = learner.shared()
    learner.fit()
    own = dict(learner.model.named_parameters())
    assert all(not torch.equal(own[name], value) for name, value in shared.items())
