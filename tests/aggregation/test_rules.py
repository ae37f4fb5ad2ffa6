"""What every rule has in common: determinism, laws, refusals."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from splitfed.aggregation import RULES, Parameters
from splitfed.config import NEEDS
from splitfed.errors import Defect, UserError
from splitfed.tensors import Tensors, digest
from tests.support.updates import BASE, PARTIES, honest, parameters

ROBUST = [name for name in RULES if name != "mean"]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def apply(name: str, updates: dict[str, Tensors], base: Tensors = BASE, **changes) -> Tensors:
    return RULES[name](updates, base, parameters(name, list(updates), **changes))


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_mappings_changes_no_bit(name: str) -> None:
    updates = honest(PARTIES, seed=1)
    turned = {p: dict(reversed(updates[p].items())) for p in reversed(updates)}
    base = dict(reversed(BASE.items()))
    one, other = apply(name, updates), apply(name, turned, base)
    assert list(one) == list(other) == sorted(BASE)
    assert digest(one) == digest(other)


@pytest.mark.parametrize("name", RULES)
def test_shapes_and_dtypes_stay_and_no_memory_is_shared(name: str) -> None:
    updates = honest(PARTIES, seed=2)
    before = {party: digest(tensors) for party, tensors in updates.items()}
    result = apply(name, updates)
    for key, tensor in result.items():
        assert tensor.shape == BASE[key].shape
        assert tensor.dtype == BASE[key].dtype
        tensor.zero_()
    assert {party: digest(tensors) for party, tensors in updates.items()} == before
    assert digest(BASE) == digest(honest(["p0"], seed=0, spread=0.0)["p0"])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_updates_come_out_as_they_are(name: str, dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(4)
    one = {"w": torch.randn(50, generator=gen).to(dtype), "n": torch.tensor([7, 8])}
    base = {"w": torch.zeros(50, dtype=dtype), "n": torch.tensor([1, 1])}
    updates = {party: {key: t.clone() for key, t in one.items()} for party in PARTIES}
    result = apply(name, updates, base, clip=1e6)
    step = 4 * torch.finfo(dtype).eps if name in ("fltrust", "centred-clipping") else 0.0
    assert torch.allclose(result["w"].double(), one["w"].double(), rtol=step, atol=0.0)
    assert torch.equal(result["n"], one["n"])


@pytest.mark.parametrize("name", RULES)
def test_who_is_called_what_does_not_matter(name: str) -> None:
    """All updates change names; of equals the first by name counts, so they must differ."""
    updates = honest(["a", "b", "c", "d", "e", "f", "g"], seed=5)
    first = apply(name, updates, root="a")
    for order in list(permutations("bcdefg"))[7::151]:
        names = dict(zip("abcdefg", ("a", *order), strict=True))
        moved = apply(name, {names[p]: tensors for p, tensors in updates.items()}, root="a")
        for key in first:
            assert torch.allclose(moved[key].double(), first[key].double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_what_all_are_shifted_by_the_result_is_shifted_by(name: str) -> None:
    shift = {"w": torch.full((4, 5), 0.5), "b": torch.full((3,), -2.0), "n": torch.tensor([10, 10])}
    updates = honest(PARTIES, seed=6, dtype=torch.float64)
    base = {key: t.double() if t.is_floating_point() else t for key, t in BASE.items()}

    def moved(tensors: Tensors) -> Tensors:
        return {key: tensors[key] + shift[key].to(tensors[key].dtype) for key in tensors}

    here = apply(name, updates, base)
    there = apply(name, {p: moved(t) for p, t in updates.items()}, moved(base))
    for key in here:
        assert torch.allclose(there[key].double(), moved(here)[key].double(), atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_slices_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from splitfed.aggregation import arithmetic, clipping

    whole = digest(apply(name, honest(PARTIES, seed=7)))
    monkeypatch.setattr(arithmetic, "SLICE", 14)
    monkeypatch.setattr(clipping, "SLICE", 3)
    assert digest(apply(name, honest(PARTIES, seed=7))) == whole


@pytest.mark.parametrize("name", RULES)
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    """With tensors so long that torch would share the work out."""
    gen = torch.Generator().manual_seed(0)
    base = {"w": torch.zeros(70_000)}
    updates = {party: {"w": torch.randn(70_000, generator=gen)} for party in PARTIES}
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.add(digest(apply(name, updates, base)))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


@pytest.mark.parametrize("name", ROBUST)
def test_a_rule_refuses_fewer_parties_than_it_needs_by_name(name: str) -> None:
    byzantine = 2
    minimum = NEEDS[name].parties(byzantine)
    enough = [f"p{i}" for i in range(minimum)]
    apply(name, honest(enough, seed=1), byzantine=byzantine)
    with pytest.raises(UserError, match=f"rule = '{name}' needs at least {minimum} parties"):
        apply(name, honest(enough[:-1], seed=1), byzantine=byzantine)


@pytest.mark.parametrize("name", ROBUST)
def test_updates_that_are_not_alike_are_a_defect(name: str) -> None:
    updates = honest(PARTIES, seed=1)
    updates["p3"]["w"] = torch.zeros(2)
    with pytest.raises(Defect, match=r"tensor w is \(2,\)"):
        apply(name, updates)


def test_a_key_that_the_rule_reads_and_was_not_given_is_a_defect() -> None:
    updates = honest(PARTIES, seed=1)
    with pytest.raises(Defect, match="centred-clipping without clip"):
        RULES["centred-clipping"](updates, BASE, Parameters())
    with pytest.raises(Defect, match="without an update of registry"):
        RULES["fltrust"](updates, BASE, Parameters(root="registry"))


def test_a_round_with_too_few_updates_comes_to_nothing() -> None:
    updates = honest(PARTIES[:4], seed=1)
    assert RULES["krum"].round(updates, BASE, Parameters(byzantine=1)) is None
    trusting = Parameters(root="p6")
    assert RULES["fltrust"].round(updates, BASE, trusting, caught=1) is None


def test_who_is_caught_at_the_gate_needs_not_be_stood_any_more() -> None:
    """Seven parties that stand two liars: one caught leaves six, enough to stand the other."""
    updates = honest(PARTIES[:6], seed=1)
    updates["p5"]["w"] = updates["p5"]["w"] + 1e6
    asked = Parameters(byzantine=2)
    assert RULES["multi-krum"].round(updates, BASE, asked) is None
    result = RULES["multi-krum"].round(updates, BASE, asked, caught=1)
    assert result is not None
    assert float(result["w"].abs().max()) < 10
    rest = {p: updates[p] for p in PARTIES[:4]}
    assert RULES["multi-krum"].round(rest, BASE, asked, caught=1) is None


def test_as_many_are_stood_as_the_rule_can_although_one_was_caught() -> None:
    updates = honest(PARTIES, seed=1)
    for liar in ("p5", "p6"):
        updates[liar]["w"] = updates[liar]["w"] + 1e6
    result = RULES["multi-krum"].round(updates, BASE, Parameters(byzantine=2), caught=1)
    assert result is not None
    assert float(result["w"].abs().max()) < 10


def test_rules_cannot_be_changed_while_running() -> None:
    with pytest.raises(TypeError):
        RULES["mean"] = RULES["mean"]
