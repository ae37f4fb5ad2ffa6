"""Parties that do what the engine does around :class:`Views`, without disk, wire or clock.

A party's words (updates, statements, votes) are durable before they are sent, so a crash loses
what is on its way and nothing else. Who is suspected is for the caller to say.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from splitfed.rounds.view import Demand, Statement, View, demand_of
from splitfed.rounds.views import Views
from splitfed.rounds.vote import Vote, encode_vote, make_vote

RUN = b"r" * 32
PARTIES = "abcde"


class Update(NamedTuple):
    """What one party releases in one round, by its digest."""

    party: str
    round: int
    root: bytes


Word = Update | Statement | Vote
Kind = TypeVar("Kind", Update, Statement, Vote)
Outcome = tuple[tuple[tuple[str, bytes], ...], bytes]
"""What a round is closed on: inputs and aggregate."""


def root_of(party: str, round: int, face: int = 0) -> bytes:
    return blake2b(f"{party} {round} {face}".encode(), digest_size=32).digest()


def signature_of(root: bytes) -> bytes:
    return root * 2


def outcome_of(vote: Vote) -> Outcome:
    return vote.inputs, vote.aggregate


def copy_of(views: Views) -> Views:
    """An independent one: statements and views never change, the dictionaries of them do."""
    found = copy.copy(views)
    for name, held in vars(views).items():
        if isinstance(held, dict):
            setattr(
                found, name, {k: dict(v) if isinstance(v, dict) else v for k, v in held.items()}
            )
    return found


class Member:
    """One party.

    Attributes:
        name: whose.
        face: an equivocator is two members of one name, each with a face (and root) of its own.
        round: the open one.
        held: every word that it has, its own included, in the order in which they came.
        outcomes: of the rounds that it closed; those it skipped are not there.
    """

    def __init__(self, name: str, names: Iterable[str], minimum: int, face: int = 0) -> None:
        self.name, self.names, self.minimum, self.face = name, tuple(names), minimum, face
        self.round = 1
        self.held: dict[Word, None] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.closed_by: View | None = None
        self.floor = 0
        self.views = Views(self.names, name, minimum)
        self.roots: dict[tuple[int, str], list[bytes]] = {}
        self.ballots: dict[tuple[int, int], dict[str, Vote]] = {}

    def clone(self) -> Member:
        found = copy.copy(self)
        found.views = copy_of(self.views)
        found.held, found.outcomes = dict(self.held), dict(self.outcomes)
        found.roots = {key: list(roots) for key, roots in self.roots.items()}
        found.ballots = {key: dict(votes) for key, votes in self.ballots.items()}
        return found

    def restart(self) -> None:
        """Killed and started again over what is durable."""
        before, self.views = self.views, Views(self.names, self.name, self.minimum)
        for word in sorted(self.held_of(Statement), key=lambda word: (word.view, word.party)):
            if word.view >= self.floor:
                self.views.hear(word)
        for what in ("signed", "pending", "current", "mine"):
            assert getattr(self.views, what) == getattr(before, what), what

    # --- what it knows -----------------------------------------------------------------

    def held_of(self, kind: type[Kind]) -> list[Kind]:
        return [word for word in self.held if isinstance(word, kind)]

    @property
    def own(self) -> list[Word]:
        return [word for word in self.held if word.party == self.name]

    @property
    def demand(self) -> Demand:
        return demand_of(self.views.current, self.round)

    def chosen(self) -> dict[str, bytes] | None:
        """The updates to vote on in the present view; None: not all are here."""
        demand, found = self.demand, {}
        for party in demand.parties:
            here = self.roots.get((self.round, party), [])
            root = demand.roots.get(party, here[0] if here else None)
            if root is None or root not in here:
                return None
            found[party] = root
        return found

    def alive(self, trusted: Iterable[str]) -> set[str]:
        """Who should vote on the open round when only these are not suspected: the members of
        the views that it knows of, and whoever signed a view for this round; all if too few."""
        left = self.views.without_me
        members = {*self.views.current.members, *(() if left is None else left.members)}
        back = {name for name in self.names if self.views.heard_of(name, self.round)}
        found = (members | back) & set(trusted) | {self.name}
        return found if len(found) >= self.minimum else {*trusted, self.name}

    def last_vote(self) -> Vote | None:
        mine = [
            votes[self.name]
            for (round, _), votes in self.ballots.items()
            if round == self.round and self.name in votes
        ]
        return max(mine, key=lambda vote: vote.view, default=None)

    def decided(self) -> Iterator[tuple[int, View, Outcome]]:
        """The rounds, open or later, on which equal votes of all members of one view are here."""
        for (round, number), votes in self.ballots.items():
            view = self.views.known.get(number)
            if round >= self.round and view is not None and set(view.members) <= set(votes):
                first, *others = (votes[name] for name in view.members)
                if all(first.says_the_same_as(other) for other in others):
                    yield round, view, outcome_of(first)

    # --- what it does ------------------------------------------------------------------

    def note(self, word: Word) -> bool:
        """Whether it is new here."""
        if word in self.held:
            return False
        self.held[word] = None
        match word:
            case Update():
                self.roots.setdefault((word.round, word.party), []).append(word.root)
            case Vote():
                votes = self.ballots.setdefault((word.round, word.view), {})
                votes.setdefault(word.party, word)
            case Statement():
                self.views.hear(word)
        return True

    def release(self) -> list[Word]:
        word = Update(self.name, self.round, root_of(self.name, self.round, self.face))
        return [word] if self.note(word) else []

    def wish(self, alive: Iterable[str]) -> Statement | None:
        """What it should sign when these are alive."""
        wish = self.views.wish(self.round, alive)
        if wish is None:
            return None
        vote = self.last_vote()
        body = b"" if vote is None else encode_vote(vote)
        inputs = [
            (party, root, signature_of(root))
            for (round, party), roots in self.roots.items()
            if round == self.round
            for root in roots[:1]
        ]
        return Statement(
            run=RUN,
            view=wish[0],
            round=self.round,
            party=self.name,
            members=wish[1],
            vote=body,
            vote_signature=body and bytes(64),
            inputs=tuple(sorted(inputs)),
        )

    def sign(self, alive: Iterable[str]) -> list[Word]:
        word = self.wish(alive)
        return [word] if word is not None and self.note(word) else []

    def vote(self) -> list[Word]:
        if self.views.pending:
            return []
        number = self.views.current.number
        if self.name in self.ballots.get((self.round, number), {}):
            return []
        chosen = self.chosen()
        if chosen is None:
            return []
        aggregate = blake2b(repr(sorted(chosen.items())).encode(), digest_size=32).digest()
        word = make_vote(
            run=RUN,
            view=number,
            round=self.round,
            party=self.name,
            inputs=chosen,
            excluded={},
            offers={party: signature_of(root) for party, root in chosen.items()},
            aggregate=aggregate,
        )
        return [word] if self.note(word) else []

    def close(self) -> bool:
        """Close the open round, or a later one that the others closed, which skips some."""
        found = max(self.decided(), key=lambda found: found[:1], default=None)
        if found is None:
            return False
        self.round, self.closed_by, self.outcomes[found[0]] = found[0] + 1, found[1], found[2]
        self.floor = self.views.current.number
        self.views.turned()
        return True

    # --- what it says again ------------------------------------------------------------

    def greeting(self) -> list[Word]:
        """To whoever connects: what is its own and not settled, and what made the present view."""
        recent = [
            word
            for word in self.own
            if not isinstance(word, Statement) and word.round >= self.round - 1
        ]
        mine = self.views.mine
        made = list(self.views.current.statements.values())
        return [*recent, *made, *([] if mine is None else [mine]), *self.shown()]

    def answer(self, word: Word) -> list[Word]:
        """To the sender of ``word``: the close of the last round, if the sender lacks it."""
        if not isinstance(word, Statement) or word.round >= self.round or self.closed_by is None:
            return []
        return [*self.certificate(), *self.views.current.statements.values()]

    def behind(self) -> set[str]:
        """Who signed a view for the round that is closed here, or an earlier one."""
        last = {word.party: word.round for word in self.held_of(Statement)}
        return {name for name, round in last.items() if round < self.round and name != self.name}

    def certificate(self) -> list[Word]:
        """What shows to anybody on what the last round was closed: the view and its votes."""
        if self.closed_by is None:
            return []
        votes = self.ballots.get((self.round - 1, self.closed_by.number), {})
        made = list(self.closed_by.statements.values())
        return [*made, *(votes[name] for name in self.closed_by.members)]

    def shown(self) -> list[Word]:
        """To the members of the present view: demanded updates of those that are none."""
        view = self.views.current
        if view.round != self.round:
            return []
        return [
            Update(party, self.round, root)
            for party, root in self.demand.roots.items()
            if party not in view.members and root in self.roots.get((self.round, party), [])
        ]


def contradictory(one: Word, other: Word) -> bool:
    """Whether no honest party signs both."""
    if one.party != other.party:
        return False
    match one, other:
        case Update(), Update():
            return one.round == other.round and one.root != other.root
        case Statement(), Statement():
            return one.view == other.view and one != other
        case Vote(), Vote():
            return (one.round, one.view) == (other.round, other.view) and one != other
        case Statement(), Vote():
            cast = one.cast
            before = other.round == one.round and other.view < one.view
            return before and (cast is None or cast.view < other.view)
    return False


def majorities(names: Iterable[str], minimum: int) -> list[tuple[str, ...]]:
    names = tuple(names)
    chosen = (
        tuple(name for i, name in enumerate(names) if bits >> i & 1)
        for bits in range(1 << len(names))
    )
    return [some for some in chosen if len(some) >= minimum]
