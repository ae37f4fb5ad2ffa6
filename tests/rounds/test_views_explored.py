"""Whoever is suspected, whatever is late and whoever crashes: one outcome a round, and a majority
that stays closes it."""

from __future__ import annotations

import collections

import pytest

from tests.support.council import majorities
from tests.support.council_walk import Walk
from tests.support.council_words import Search, liars

HONEST = (("a", 0), ("b", 0), ("c", 0))


@pytest.mark.parametrize(
    "early", [{"a": "", "b": "", "c": ""}, {"a": "", "b": "", "c": "ab"}], ids=["none", "some"]
)
def test_no_words_of_three_parties_close_a_round_on_two_outcomes(early: dict[str, str]) -> None:
    """All states of one round up to view 2: 28,528 for each pattern of early updates."""
    closed: collections.Counter[int] = collections.Counter()
    search = Search(HONEST, minimum=2, top=2, early=early)
    for state in search.states():
        outcomes = {outcome for _, outcome in search.closes(state)}
        closed[len(outcomes)] += 1
    assert closed == {0: 18_585, 1: 9_943}


def test_two_outcomes_need_a_liar_and_show_who_it_is() -> None:
    """Party c has two faces, each with an update, statements and votes of its own: views are no
    defence against it. But the words on which two honest parties close differently convict it,
    and nobody else. The smallest case: a and b each close view 1 with c, on different updates."""
    speakers = (*HONEST, ("c", 1))
    search = Search(speakers, minimum=2, top=1, early=dict.fromkeys("abc", ""))
    fooled = []
    for state in search.states():
        closes = list(search.closes(state))
        for shown, outcome in closes:
            for other_shown, other in closes:
                if outcome != other:
                    assert liars((*shown, *other_shown)) == {"c"}
                    fooled.append(len(state))
    assert min(fooled) == 8  # a, b and each face of c: a statement and a vote


@pytest.mark.parametrize(("size", "walks", "steps"), [(3, 2000, 250), (5, 1500, 300)])
def test_a_majority_that_stays_closes_the_round_after_any_walk(
    size: int, walks: int, steps: int
) -> None:
    reached = collections.Counter(dict.fromkeys(("all rounds", "views", "left out", "behind"), 0))
    for seed in range(walks):
        walk = Walk(seed, size, rounds=3)
        for _ in range(walk.chance.randrange(steps)):
            walk.step()
        members = walk.members.values()
        reached["all rounds"] += max(member.round for member in members) > 3
        reached["views"] += any(member.views.current.number > 2 for member in members)
        reached["left out"] += any(member.views.without_me is not None for member in members)
        rounds = [member.round for member in members]
        reached["behind"] += max(rounds) > min(rounds) + 1
        walk.settle(walk.chance.choice(majorities(walk.names, size // 2 + 1)))
    assert all(reached.values()), reached
