"""Every rule in the rounds of seven parties: the same g everywhere, to the last bit."""

from __future__ import annotations

import pytest
import torch

from splitfed.aggregation import RULES
from splitfed.config import NEEDS
from splitfed.rounds.book import Book
from splitfed.rounds.gates import Admission
from splitfed.rounds.outcome import outcome_of
from splitfed.rounds.terms import UPDATE
from splitfed.tensors import Tensors, digest
from splitfed.transport.keys import make_secret
from tests.support.members import INITIAL, Town, make_terms

SEVEN = list("abcdefg")


def terms_of(rule: str, byzantine: int = 1) -> dict:
    need = NEEDS[rule]
    return {
        "rule": rule,
        "byzantine": byzantine if rule != "mean" else 0,
        "clip": 4.0 if need.reads == "clip" else None,
        "root": "a" if need.reads == "root" else None,
        "max_update_norm": 1000.0,
    }


@pytest.mark.parametrize("rule", RULES)
def test_seven_parties_with_a_liar_reach_one_g(tmp_path, rule: str) -> None:
    """Honest steps are 1 to 6 in every value; the liar's is −300, within the public bound."""
    town = Town(tmp_path, SEVEN, {"rounds": 2, **terms_of(rule)})
    town.learners["g"].step = -300.0
    for name in SEVEN:
        town.start(name)
    town.wait()
    assert [town.endings[name].outcome for name in SEVEN] == ["done"] * 7
    assert [row["outcome"] for row in town.history("a")] == ["agreed", "agreed"]
    assert len({digest(town.endings[name].shared) for name in SEVEN}) == 1
    moved = town.endings["a"].shared["w"] - INITIAL["w"]
    assert bool((moved > 0).all()) == (rule != "mean")
    assert bool((moved.abs() < 13).all()) == (rule != "mean")


def book_of(admitted: int, excluded: int) -> Book:
    book = Book(round=1)
    for i, party in enumerate(SEVEN[: admitted + excluded]):
        tensors: Tensors | None = {name: t + i for name, t in INITIAL.items()}
        reason = None
        if i >= admitted:
            tensors, reason = None, "tensor w is not finite"
        root = bytes([i]) * 32
        book.add_input(Admission(party=party, root=root, tensors=tensors, reason=reason))
    return book


@pytest.mark.parametrize(
    ("admitted", "excluded", "outcome"),
    [
        (7, 0, "agreed"),
        (6, 1, "agreed"),
        (5, 2, "agreed"),
        (6, 0, "void"),
        (5, 1, "agreed"),
        (4, 1, "void"),
    ],
)
def test_a_round_whose_rule_has_too_few_updates_is_void(
    admitted: int, excluded: int, outcome: str
) -> None:
    """Krum that stands two of seven. Who was caught at the gate is one of the two; who is not
    there may be honest, and then two of the others may still lie. minimum_parties is 4."""
    terms = make_terms(SEVEN, {name: make_secret() for name in SEVEN}, **terms_of("krum", 2))
    found, g, vote = outcome_of(book_of(admitted, excluded), UPDATE, terms, INITIAL)
    assert found == outcome
    assert vote == digest(g)
    assert (digest(g) == digest(INITIAL)) == (
        outcome == "void" or torch.equal(g["w"], INITIAL["w"])
    )


def test_minimum_parties_still_holds_where_the_rule_needs_fewer() -> None:
    terms = make_terms(SEVEN, {name: make_secret() for name in SEVEN}, **terms_of("median", 0))
    assert outcome_of(book_of(4, 3), UPDATE, terms, INITIAL)[0] == "agreed"
    assert outcome_of(book_of(3, 4), UPDATE, terms, INITIAL)[0] == "void"


def test_a_round_without_the_root_partys_update_is_void() -> None:
    terms = make_terms(
        SEVEN, {n: make_secret() for n in SEVEN}, **{**terms_of("fltrust"), "root": "g"}
    )
    assert outcome_of(book_of(7, 0), UPDATE, terms, INITIAL)[0] == "agreed"
    assert outcome_of(book_of(6, 1), UPDATE, terms, INITIAL)[0] == "void"
