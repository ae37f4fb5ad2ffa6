"""A walk of a council at random, on a network that does its worst, and what comes after it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

from splitfed.rounds.view import Statement
from splitfed.rounds.vote import Vote
from tests.support.council import PARTIES, Member, Outcome, Update, Word, majorities


class Walk:
    """A council on a network that delays, repeats and reorders; its members crash.

    After every step: all closed outcomes of a round are equal, no member contradicts itself, and
    every view has more than half of all parties.

    Attributes:
        up: who is not down.
        mood: whom everybody takes to be alive just now, right or wrong.
        flying: (sender, receiver, word) of what is on its way.
    """

    def __init__(self, seed: int, size: int, rounds: int) -> None:
        self.chance = random.Random(seed)
        self.names, self.rounds = PARTIES[:size], rounds
        minimum = size // 2 + 1
        self.members = {name: Member(name, self.names, minimum) for name in self.names}
        self.up = set(self.names)
        self.moods = majorities(self.names, minimum)
        self.mood = set(self.names)
        self.flying: list[tuple[str, str, Word]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.said: dict[str, Said] = {name: Said() for name in self.names}

    def send(self, sender: str, words: Iterable[Word], to: Iterable[str] | None = None) -> None:
        words = list(words)
        for word in words:
            if word.party == sender:
                self.said[sender].check(word)
        self.flying += [
            (sender, name, word)
            for name in (self.names if to is None else sorted(to))
            if name != sender and name in self.up
            for word in words
        ]

    def deliver(self, index: int, keep: bool = False) -> None:
        sender, name, word = self.flying[index]
        if not keep:
            self.flying[index] = self.flying[-1]
            self.flying.pop()
        member = self.members[name]
        before = member.views.current.number
        if not member.note(word):
            return
        self.after(member, before)
        if sender == word.party and sender in self.up:
            self.send(name, member.answer(word), [sender])

    def after(self, member: Member, before: int) -> None:
        """What a view that was just made calls for."""
        view = member.views.current
        if view.number != before:
            assert 2 * len(view.members) > len(self.names)
            self.send(member.name, member.shown(), view.members)

    def act(self, name: str, alive: Iterable[str] | None) -> None:
        """All that there is to do; it also signs a view if told who is alive."""
        member = self.members[name]
        if member.round > self.rounds:
            return
        before = member.views.current.number
        self.send(name, member.release())
        while member.close():
            self.note_outcomes(member)
            self.send(name, member.certificate(), member.behind() & self.up)
        if alive is not None:
            self.send(name, member.sign(alive))
        self.after(member, before)
        self.send(name, member.vote())

    def note_outcomes(self, member: Member) -> None:
        for round, outcome in member.outcomes.items():
            assert self.outcomes.setdefault(round, outcome) == outcome

    def crash(self, name: str) -> None:
        """What is on its way from or to it may be lost."""
        self.up.discard(name)
        self.flying = [
            flight for flight in self.flying
            if (flight[0] != name or self.chance.random() < 0.5) and flight[1] != name
        ]  # fmt: skip

    def restart(self, name: str) -> None:
        self.members[name].restart()
        self.up.add(name)
        for other in self.up - {name}:
            self.greet(name, other)

    def greet(self, one: str, other: str) -> None:
        """Both connect again; each says which round is open for it."""
        for name, peer in ((one, other), (other, one)):
            member = self.members[name]
            self.send(name, member.greeting(), [peer])
            if member.round > self.members[peer].round:
                self.send(name, member.certificate(), [peer])

    def step(self) -> None:
        chance = self.chance
        dice = chance.random()
        if dice < 0.6 and self.flying:
            for _ in range(min(chance.randrange(1, 3 * len(self.names)), len(self.flying))):
                self.deliver(chance.randrange(len(self.flying)), keep=chance.random() < 0.1)
        elif dice < 0.94 and self.up:
            name = chance.choice(sorted(self.up))
            member = self.members[name]
            alive = None
            if chance.random() < 0.4:
                alive = member.alive(self.mood)
            self.act(name, alive)
        elif dice < 0.95:
            self.mood = set(chance.choice(self.moods))
        elif dice < 0.96 and self.up:
            self.crash(chance.choice(sorted(self.up)))
        elif len(self.up) < len(self.names):
            self.restart(chance.choice(sorted(set(self.names) - self.up)))

    def settle(self, majority: Sequence[str]) -> None:
        """From now on these are all there is, and nothing between them is lost: each must close
        the rounds that are open for any of them.

        Raises:
            Stuck: it does not, though everybody acted forty times.
        """
        goal = max(self.members[name].round for name in majority) + 1
        self.rounds = goal
        for name in self.names:
            if name not in majority and name in self.up:
                self.crash(name)
        for name in majority:
            if name in self.up and self.chance.random() < 0.5:
                self.crash(name)
            if name not in self.up:
                self.restart(name)
        for one, other in itertools.combinations(majority, 2):
            self.greet(one, other)
        for _ in range(40):
            for name in self.chance.sample(majority, len(majority)):
                member = self.members[name]
                self.act(name, member.alive(majority))
                for _ in range(self.chance.randrange(len(self.flying) + 1)):
                    self.deliver(self.chance.randrange(len(self.flying)))
            while self.flying:
                self.deliver(self.chance.randrange(len(self.flying)))
            if all(self.members[name].round >= goal for name in majority):
                return
        raise Stuck(self.tell(majority))

    def tell(self, majority: Sequence[str]) -> str:
        lines = []
        for name in majority:
            views, round = self.members[name].views, self.members[name].round
            seen = [(view.number, "".join(view.members)) for view in views.known.values()]
            lines.append(
                f"{name} in round {round}: view {views.current.number} of {seen}, signed "
                f"{views.mine and (views.mine.view, views.mine.members, views.mine.round)}"
            )
        return "; ".join(lines)


class Stuck(AssertionError):
    """A majority that stays does not come on."""


class Said:
    """The words of one party: an honest one never contradicts itself."""

    def __init__(self) -> None:
        self.words: dict[tuple[object, ...], Word] = {}
        self.signed = 0

    def check(self, word: Word) -> None:
        match word:
            case Update():
                key: tuple[object, ...] = "update", word.round
            case Statement():
                key = "statement", word.view
                self.signed = max(self.signed, word.view)
            case Vote():
                key = "vote", word.round, word.view
                assert key in self.words or word.view >= self.signed
        assert self.words.setdefault(key, word) == word
