"""All that a council can say in one round, view by view, and what it comes to.

A state is the set of words that were said. A party's next word follows from its own words and
from any of the others' that reached it; whatever reached it may be forgotten again, which allows
more than a crash does. So nothing else need be told apart, and the search ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from splitfed.rounds.view import Statement, View, demand_of
from splitfed.rounds.vote import Vote
from tests.support.council import (
    Member,
    Outcome,
    Update,
    Word,
    contradictory,
    majorities,
    outcome_of,
    root_of,
)

State = frozenset[tuple[int, int]]
"""(speaker, word), both by number."""


class Search:
    """Every word that can be said, up to view ``top``.

    Attributes:
        speakers: (party, face); one that equivocates speaks with two faces.
        early: by party, whose updates reached it before it signs anything; before a vote, any
            may.
    """

    def __init__(
        self, speakers: Iterable[tuple[str, int]], minimum: int, top: int, early: dict[str, str]
    ) -> None:
        self.speakers, self.minimum, self.top, self.early = tuple(speakers), minimum, top, early
        self.names = tuple(sorted({name for name, _ in self.speakers}))
        self.words: list[Word] = []
        self._number: dict[Word, int] = {}
        self._next: dict[tuple[int, frozenset[int], frozenset[int]], frozenset[int]] = {}

    def update(self, name: str, face: int) -> Update:
        return Update(name, 1, root_of(name, 1, face))

    def number(self, word: Word) -> int:
        if word not in self._number:
            self._number[word] = len(self.words)
            self.words.append(word)
        return self._number[word]

    def states(self) -> Iterator[State]:
        """All that can come about, each once, those of few words first."""
        seen: set[State] = {frozenset()}
        front = list(seen)
        while front:
            yield from front
            found = {after for state in front for after in self.after(state)}
            front = sorted(found - seen, key=sorted)
            seen.update(front)

    def after(self, state: State) -> Iterator[State]:
        for speaker, (name, _) in enumerate(self.speakers):
            own = frozenset(word for who, word in state if who == speaker)
            others = frozenset(
                word
                for who, word in state
                if self.speakers[who][0] != name and isinstance(self.words[word], Statement)
            )
            for count in range(len(others) + 1):
                for heard in itertools.combinations(sorted(others), count):
                    for word in self.says(speaker, own, frozenset(heard)):
                        yield state | {(speaker, word)}

    def says(self, speaker: int, own: frozenset[int], heard: frozenset[int]) -> frozenset[int]:
        """What the speaker can say next after its own words when it heard these."""
        key = speaker, own, heard
        if key not in self._next:
            words = [self.words[word] for word in sorted(own | heard)]
            self._next[key] = frozenset(map(self.number, self._says(speaker, words))) - own
        return self._next[key]

    def _says(self, speaker: int, words: list[Word]) -> Iterator[Word]:
        name, face = self.speakers[speaker]
        member = Member(name, self.names, self.minimum, face)
        member.release()
        for other in self.early[name]:
            member.note(self.update(other, 0))
        for word in words:
            member.note(word)
            for party, root in word.inputs if isinstance(word, Vote) else ():
                member.note(Update(party, 1, root))
        signed = (member.wish(some) for some in majorities(self.names, 1))
        yield from (word for word in signed if word is not None and word.view <= self.top)
        faces = [[f for n, f in self.speakers if n == other] for other in self.names]
        for shown in itertools.product(*faces):
            voter = member.clone()
            for other, last in zip(self.names, shown, strict=True):
                voter.note(self.update(other, last))
                voter.roots[1, other].sort(key=self.update(other, last).root.__ne__)
            yield from voter.vote()

    def closes(self, state: State) -> Iterator[tuple[tuple[Word, ...], Outcome]]:
        """On what the round can be closed, with the words that show it."""
        said = {self.words[word] for _, word in state}
        made: dict[tuple[int, tuple[str, ...]], dict[str, list[Statement]]] = {}
        votes: dict[tuple[int, Outcome], dict[str, Vote]] = {}
        for word in said:
            if isinstance(word, Statement):
                signed = made.setdefault((word.view, word.members), {})
                signed.setdefault(word.party, []).append(word)
            elif isinstance(word, Vote):
                votes.setdefault((word.view, outcome_of(word)), {})[word.party] = word
        for (number, outcome), cast in votes.items():
            for (view, members), signed in (((0, self.names), {}), *made.items()):
                whole = view == 0 or set(signed) == set(members)
                if view == number and whole and set(members) <= set(cast):
                    ballots = [cast[name] for name in members]
                    for by in itertools.product(*(signed[name] for name in sorted(signed))):
                        made_by = {word.party: word for word in by}
                        if allows(View(view, members, made_by), outcome):
                            yield (*by, *ballots), outcome


def allows(view: View, outcome: Outcome) -> bool:
    """Whether an honest member may have voted for it in the view made by these statements."""
    demand, inputs = demand_of(view, 1), dict(outcome[0])
    return set(inputs) == set(demand.parties) and demand.roots.items() <= inputs.items()


def facts(words: Iterable[Word]) -> Iterator[Word]:
    """All that is signed in these words, those within them included."""
    for word in words:
        yield word
        if isinstance(word, Statement):
            yield from (Update(party, word.round, root) for party, root, _ in word.inputs)
            if word.cast is not None:
                yield from facts([word.cast])
        elif isinstance(word, Vote):
            yield from (Update(party, word.round, root) for party, root in word.inputs)


def liars(words: Iterable[Word]) -> set[str]:
    """Whose words contradict each other."""
    said = set(facts(words))
    return {one.party for one in said for other in said if contradictory(one, other)}
