"""What honest parties sign in a federation, and what must be true of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from splitfed.rounds.statements import decode_statement
from splitfed.rounds.view import Statement, shows
from splitfed.rounds.vote import Vote, decode_vote
from splitfed.tensors import Tensors
from splitfed.transport.events import STATE, Event, Greeting, NoteKind, Outgoing
from splitfed.transport.link import Link
from tests.support.members import INITIAL
from tests.support.quick import SWIFT, Quick, QuickLink


class Heard:
    """All that the links of these parties were told to say.

    Attributes:
        closed: the last exchange that each party said it had closed.
        words: what was signed, by kind, party, and what else there is one of.
    """

    def __init__(self, names: str) -> None:
        self.names = names
        self.closed = dict.fromkeys(names, 0)
        self.words: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)

    @property
    def top(self) -> int:
        """The last exchange that anybody has closed."""
        return max(self.closed.values())

    def _of(self, kind: str) -> Iterator[bytes]:
        for (what, *_), said in list(self.words.items()):
            if what == kind:
                yield from said

    def made(self) -> Iterator[list[Statement]]:
        """The statements of every view that was made."""
        groups: dict[tuple[Any, ...], dict[str, Statement]] = defaultdict(dict)
        for word in map(decode_statement, self._of("view")):
            groups[word.view, word.round, word.members][word.party] = word
        for (_, _, members), group in groups.items():
            if len(group) == len(members):
                yield list(group.values())

    def faults(self) -> list[str]:
        """Where somebody signed two things of which there is one, or where an update that a
        member of a view held of another party was not counted, in words."""
        found = [f"{len(said)} of {key}" for key, said in list(self.words.items()) if len(said) > 1]
        votes: dict[tuple[int, int], list[Vote]] = defaultdict(list)
        for vote in map(decode_vote, self._of("vote")):
            votes[vote.view, vote.round].append(vote)
        for words in self.made():
            if any(word.vote for word in words):
                continue  # what one of them had voted on settles it
            first = words[0]
            shown = {name for name in self.names if any(shows(word, name) for word in words)}
            for vote in votes[first.view, first.round]:
                if lacks := shown.difference(dict(vote.inputs)):
                    found.append(f"{vote.party} votes in view {vote.view} without {sorted(lacks)}")
        return found

    def result(self, agreed: dict[int, set[bytes]]) -> Tensors:
        """What g comes to if each round of training is the mean of those it was closed on."""
        g = {name: tensor.clone() for name, tensor in INITIAL.items()}
        votes = {
            v.round: v for v in map(decode_vote, self._of("vote")) if v.aggregate in agreed[v.round]
        }
        for _, vote in sorted(votes.items()):
            if vote.aggregate == vote.shared:  # no fusion
                steps = [1.0 + self.names.index(name) for name, _ in vote.inputs]
                g = {name: tensor + sum(steps) / len(steps) for name, tensor in g.items()}
        return g

    def link(self) -> type[Link]:
        """A link that notes what its party says, and whose seconds are those of the fast clock."""
        heard = self

        class Overheard(QuickLink):
            def next(self, timeout: float | None = None) -> Event | None:
                return super().next(timeout and timeout / SWIFT)

            def greet(self, greeting: Greeting) -> None:
                heard.closed[greeting.name] = greeting.closed_round
                super().greet(greeting)

            def offer(self, outgoing: Outgoing, to: Sequence[str] | None = None) -> None:
                it = outgoing.offer
                if it.kind != STATE:
                    heard.words["update", it.party, it.round].add(it.manifest.root)
                super().offer(outgoing, to)

            def vote(self, round: int, body: bytes, signature: bytes) -> None:
                it = decode_vote(body)
                heard.words["vote", it.party, it.round, it.view].add(body)
                super().vote(round, body, signature)

            def note(
                self,
                round: int,
                origin: str,
                kind: NoteKind,
                body: bytes,
                signature: bytes,
                to: Sequence[str] | None = None,
            ) -> None:
                if kind == "view":
                    it = decode_statement(body)
                    heard.words["view", it.party, it.view].add(body)
                super().note(round, origin, kind, body, signature, to)

        return Overheard


class Square(Quick):
    """A town in which everything that is signed is heard."""

    heard: Heard

    def link_type(self, name: str) -> type[Link]:
        return self.heard.link()
