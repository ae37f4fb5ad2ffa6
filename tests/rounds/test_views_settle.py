"""Parties that took each other for gone, in whatever order: enough come to one view, and stay."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import combinations

import pytest

from splitfed.rounds.pace import QUICK
from splitfed.rounds.view import Statement
from splitfed.rounds.views import MOST_ALONE, Views
from tests.rounds.test_views import heard, word
from tests.support.one import RUN

TURNS, CALM = 3000, 20


class Square:
    """Some parties in round 1. Each hears the others late and in an order of its own. Links are cut
    for good, but not between the members of some majority."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.names = draw.choice(("abc", "abcd", "abcde"))
        most = len(self.names) // 2 + 1
        self.cut = self._cut(set(draw.sample(self.names, most)))
        self.views = {name: Views(self.names, name, most) for name in self.names}
        self.under_way: dict[tuple[str, str], list[Statement]] = defaultdict(list)
        self.signed: Counter[str] = Counter()

    def _cut(self, whole: set[str]) -> list[set[str]]:
        """Pairs that do not reach each other; all of ``whole`` do."""
        pairs = [set(pair) for pair in combinations(self.names, 2) if not set(pair) <= whole]
        return [pair for pair in pairs if self.draw.random() < 0.4]

    def lost(self, name: str) -> set[str]:
        """Of whom ``name`` will never hear again."""
        return {other for pair in self.cut if name in pair for other in pair - {name}}

    def wrong(self, name: str) -> set[str]:
        """Whom ``name`` takes for gone in the beginning."""
        return set(self.draw.sample(self.names, self.draw.choice((0, 1, 1)))) - {name}

    def wish(self, name: str, gone: set[str]) -> tuple[int, tuple[str, ...]] | None:
        return self.views[name].wish(1, self.views[name].alive(1, gone))

    def hear(self, name: str, said: Statement) -> None:
        """Others hear what ``name`` signs, and what made the view that it comes to."""
        views = self.views[name]
        before = views.current.number
        views.hear(said)
        made = views.current.statements.values() if views.current.number != before else ()
        for other in set(self.names) - {name} - self.lost(name):
            self.under_way[name, other] += [said] * (said.party == name) + list(made)

    def turn(self, gone: Callable[[str], set[str]]) -> None:
        """One party hears something, perhaps, and signs what it should; not for ever at once."""
        name = self.draw.choice(self.names)
        senders = [other for other in self.names if self.under_way[other, name]]
        if senders and self.draw.random() < 0.6:
            self.hear(name, self.under_way[self.draw.choice(senders), name].pop(0))
        wish = self.wish(name, gone(name))
        if wish and (self.signed[name] < QUICK or self.draw.random() < 0.1):
            self.signed[name] += 1
            self.hear(name, Statement(RUN, wish[0], 1, name, wish[1]))

    def at_rest(self) -> bool:
        """Whether there is a view in which all its members vote, and reach each other."""
        for view in {views.current.number: views.current for views in self.views.values()}.values():
            members = [self.views[name] for name in view.members]
            if all(v.current.number == view.number and not v.pending for v in members):
                calm = not any(self.wish(name, self.lost(name)) for name in view.members)
                if calm and not any(pair <= set(view.members) for pair in self.cut):
                    return True
        return False


@pytest.mark.parametrize("seed", [*range(100), 285, 383, 531, 663])
def test_enough_come_to_one_view_and_rest_there(seed: int) -> None:
    square, calm = Square(seed), 0
    for _ in range(square.draw.randrange(60)):
        square.turn(lambda name: square.wrong(name) | square.lost(name))
    for _ in range(TURNS):
        square.turn(square.lost)
        calm = calm + 1 if square.at_rest() else 0
        if calm > CALM:
            break
    assert calm > CALM, {name: views.current for name, views in square.views.items()}


def test_where_many_proposed_in_vain_enough_come_to_one_view_and_rest_there() -> None:
    """c, d and e have each signed many lists that nobody else did."""
    names = "abcde"
    everybody = {name: Views(names, name, 3) for name in names}

    def say(said: Statement) -> None:
        for views in everybody.values():
            views.hear(said)

    for number in range(1, MOST_ALONE + 2):
        for name, without in zip("cde", "abc", strict=True):
            say(word(name, number, names.replace(without, "")))
    for _ in range(3 * MOST_ALONE):
        for name, views in everybody.items():
            if wish := views.wish(1, views.alive(1, ())):
                say(word(name, wish[0], "".join(wish[1])))
    members = everybody["a"].current.members
    assert len(members) >= 3
    for name in members:  # at rest, and so they vote
        views = everybody[name]
        assert (views.current.members, views.pending) == (members, False)
        assert views.wish(1, views.alive(1, ())) is None


def test_who_proposed_in_vain_asks_for_a_view_with_itself_and_the_others_without() -> None:
    lone = [word("a", number, "abc") for number in range(1, MOST_ALONE + 2)]
    assert heard("a", *lone).alive(1, ()) == {"a", "b", "c"}
    assert heard("b", *lone).alive(1, ()) == {"b", "c"}


def test_who_is_heard_by_two_that_do_not_hear_each_other_gives_way_to_the_first() -> None:
    """b and c want each other's place with a, which hears both."""
    words = [word("b", 3 * n, "ab") for n in range(1, MOST_ALONE + 2)]
    words += [word("c", 3 * n + 1, "ac") for n in range(1, MOST_ALONE + 2)]
    mine = [word("a", 3 * n + 2, "abc") for n in range(1, MOST_ALONE + 2)]
    assert heard("a", *words, *mine[:-1]).alive(1, ()) == {"a", "b"}  # c can be spared
    views = heard("a", *words, *mine)
    assert views.alive(1, ()) == {"a", "b"}
    assert views.alive(1, "b") == {"a", "c"}  # not to one that is gone


def test_who_is_loud_gives_way_to_the_list_that_most_others_want() -> None:
    """d does not hear a and b, and is silent; c hears all."""
    words = [word(name, 2 * n, "abc") for n in range(1, MOST_ALONE + 2) for name in "ab"]
    mine = [word("c", 2 * n + 1, "abcd") for n in range(1, MOST_ALONE + 2)]
    views = heard("c", word("d", 1, "abcd"), *words, *mine[:-1], parties="abcd", minimum=3)
    assert views.alive(1, ()) == set("abcd")
    views.hear(mine[-1])
    assert views.alive(1, ()) == set("abc")


def test_of_several_that_only_propose_as_many_are_left_out_as_the_others_can_do_without() -> None:
    """c and e do not reach each other, and a is gone: b and d need one of them."""
    words = [word("c", 2 * n, "bcd") for n in range(1, MOST_ALONE + 2)]
    words += [word("e", 2 * n, "bde") for n in range(1, MOST_ALONE + 2)]
    views = heard("b", *words, parties="abcde", minimum=3)
    assert views.alive(1, "a") == {"b", "c", "d"}
