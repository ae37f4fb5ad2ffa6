"""The order of exchanges follows from the agreement and from what is closed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitfed.rounds.schedule import expected, following, plan, trained
from tests.rounds.test_gates import TERMS
from tests.support.members import outputs_fusion

U, F = "update", "outputs"  # an update, a fusion


def terms(rounds: int, fusion: bool = True, every: int | None = None):
    kind = outputs_fusion(list(TERMS.parties), every) if fusion else None
    return replace(TERMS, rounds=rounds, fusion=kind)


@pytest.mark.parametrize(
    ("rounds", "fusion", "every", "wanted"),
    [
        (3, False, None, [U, U, U]),
        (3, True, None, [U, U, U, F]),
        (4, True, 2, [U, U, F, U, U, F]),
        (5, True, 2, [U, U, F, U, U, F, U, F]),
        (3, True, 1, [U, F, U, F, U, F]),
        (2, True, 9, [U, U, F]),
    ],
)
def test_fusion_comes_after_the_agreed_rounds_and_after_the_last(rounds, fusion, every, wanted):
    assert list(plan((), terms(rounds, fusion, every))) == wanted


def test_two_exchanges_are_open_and_none_after_the_last():
    both = terms(2)
    assert expected((), both) == {1: U, 2: U}
    assert expected((U,), both) == {2: U, 3: F}
    assert expected((U, U), both) == {3: F}
    assert expected((U, U, F), both) == {}
    assert following((U, U, F), both) is None


def test_rounds_that_were_added_come_after_the_fusion_that_took_place():
    assert list(plan((U, U, F), terms(3))) == [U, U, F, U, F]
    assert trained((U, U, F, U)) == 3


@pytest.mark.parametrize("every", [None, 1, 2, 3])
def test_what_follows_never_depends_on_how_far_a_party_is(every):
    agreed = terms(5, every=every)
    whole = plan((), agreed)
    for closed in range(len(whole) + 1):
        assert plan(whole[:closed], agreed) == whole
