"""Updates that no honest party sends, over the real link: refused by name, at the gate or before
a byte of them is pulled, and the honest go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Arrived, Voted
from tests.support.adversary import Adversary, real_town
from tests.support.members import INITIAL, outputs_fusion

BOUND = 10.0  # max_update_norm of the towns


def moved(by: float | torch.Tensor) -> Tensors:
    return {name: tensor + by for name, tensor in INITIAL.items()}


def with_value(value: float) -> Tensors:
    return {**INITIAL, "w": torch.tensor([0.0, value, 0.0, 0.0])}


def gaussian() -> Tensors:
    draw = torch.Generator().manual_seed(0)
    return {n: t + 50 * torch.randn(t.shape, generator=draw) for n, t in INITIAL.items()}


GROSS: dict[str, tuple[Callable[[], Tensors], str]] = {
    "NaN": (lambda: with_value(float("nan")), "tensor w is not finite"),
    "infinity": (lambda: with_value(float("-inf")), "tensor w is not finite"),
    "times 100": (lambda: moved(100.0), "above max_update_norm 10"),
    "times -10": (lambda: moved(-10.0), "above max_update_norm 10"),
    "noise beyond the bound": (gaussian, "above max_update_norm 10"),
    "another shape": (lambda: {**INITIAL, "w": torch.zeros(2, 2)}, r"w is float32 [2, 2], agreed"),
    "another name": (lambda: {"b": INITIAL["b"], "v": INITIAL["w"]}, "tensor w is missing"),
    "another type": (lambda: {**INITIAL, "w": torch.zeros(4).double()}, "w is float64 [4], agreed"),
    "a tensor more": (lambda: {**INITIAL, "x": torch.zeros(3)}, "x is not in the contract"),
    "nothing at all": (lambda: {"w": INITIAL["w"]}, "tensor b is missing"),
}


@pytest.mark.parametrize("kind", GROSS)
def test_a_gross_update_is_refused_by_name_and_the_round_is_void(tmp_path, kind: str) -> None:
    make, says = GROSS[kind]
    town = real_town(tmp_path, rounds=2, max_void_rounds=1)
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(make(), 1)
        b.vote(b.expect(Voted))
        town.wait("a")
    (fault,) = town.rejected["a"]
    assert (fault["round"], fault["peer"]) == (1, "b")
    assert says in fault["reason"]
    assert town.endings["a"].outcome == "alone"
    assert [row["outcome"] for row in town.history("a")] == ["void", "alone"]
    assert town.closed("a") == [digest(INITIAL)]


def test_among_three_a_gross_update_is_left_out_and_the_two_others_agree(tmp_path) -> None:
    town = real_town(tmp_path, "abc", rounds=1)
    town.start_all_but("b")
    with Adversary(town) as b:
        b.expect(Arrived, "a")
        b.offer(with_value(float("nan")), 1)
        b.vote(b.expect(Voted, "a"))
        b.link.goodbye("finished", 1)
        town.wait("a", "c")
    assert {town.endings[name].outcome for name in "ac"} == {"done"}
    for name in "ac":
        assert [(f["peer"], f["round"]) for f in town.rejected[name]] == [("b", 1)]
        assert "tensor w is not finite" in town.rejected[name][0]["reason"]
    # a adds 1 to everything and c adds 3: their mean, with b's update left out
    assert torch.equal(town.endings["a"].shared["w"], torch.full((4,), 2.0))
    assert digest(town.endings["a"].shared) == digest(town.endings["c"].shared)


OUTPUTS = {
    "rows that do not add up": (torch.full((4, 3), 0.5), "add up to 1.5"),
    "a negative probability": (torch.tensor([[-1.0, 1.0, 1.0]] * 4), "outside 0 to 1"),
    "not a number": (torch.full((4, 3), float("nan")), "tensor outputs is not finite"),
    "a row too many": (torch.full((5, 3), 1 / 3), "float32 [5, 3], agreed"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_malformed_outputs_at_the_fusion_fuse_nothing_and_are_named(tmp_path, kind: str) -> None:
    outputs, says = OUTPUTS[kind]
    town = real_town(tmp_path, rounds=1, max_void_rounds=3, fusion=outputs_fusion(["a", "b"]))
    town.start("a")
    with Adversary(town) as b:
        b.expect(Arrived)
        b.offer(INITIAL, 1)
        b.vote(b.expect(Voted))
        b.expect(Arrived)
        b.offer({"outputs": outputs}, 2, kind="outputs")
        b.vote(b.expect(Voted))
        b.link.goodbye("finished", 2)
        town.wait("a")
    assert [fault["peer"] for fault in town.rejected["a"]] == ["b"]
    assert says in town.rejected["a"][0]["reason"]
    assert town.endings["a"].received is None
    assert [row["outcome"] for row in town.history("a")] == ["agreed", "void"]
