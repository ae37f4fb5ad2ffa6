"""Everything known about the open round: inputs, verdicts and votes of every party."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from splitfed.errors import Defect, ProtocolViolation
from splitfed.rounds.gates import Admission
from splitfed.rounds.terms import Terms
from splitfed.rounds.view import Demand, View
from splitfed.rounds.vote import Vote, make_vote
from splitfed.tensors import Tensors


class Admitted(Mapping[str, Tensors]):
    """Updates by party, of which each is in memory only while somebody uses it."""

    def __init__(self, verdicts: Mapping[str, Admission]) -> None:
        self._verdicts = verdicts

    def __getitem__(self, party: str) -> Tensors:
        return self._verdicts[party].values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._verdicts)

    def __len__(self) -> int:
        return len(self._verdicts)


@dataclass(kw_only=True)
class Book:
    """The open round as this party sees it.

    Attributes:
        round: its number, from 1.
        inputs: the verdict on each update received so far, own included.
        ballots: by view, each party's vote received so far, own included.
        view: whose votes close it; None: all parties'.
        demand: which updates count; None: all parties'.
    """

    round: int
    inputs: dict[str, Admission] = field(default_factory=dict)
    ballots: dict[int, dict[str, Vote]] = field(default_factory=dict)
    view: View | None = None
    demand: Demand | None = None

    @property
    def number(self) -> int:
        """The number of the view."""
        return 0 if self.view is None else self.view.number

    @property
    def votes(self) -> dict[str, Vote]:
        """The votes in the present view, by party."""
        return self.ballots.get(self.number, {})

    def add_input(self, admission: Admission) -> None:
        """Note one verdict.

        Raises:
            ProtocolViolation: the party has shown another update for this round.
        """
        earlier = self.inputs.get(admission.party)
        if earlier is not None and earlier.root != admission.root:
            raise ProtocolViolation(
                f"{admission.party} signed two different updates for round {self.round}"
            )
        if earlier is None:
            self.inputs[admission.party] = admission

    def add_vote(self, vote: Vote) -> None:
        """Note one vote.

        Raises:
            ProtocolViolation: the party has voted differently in this round and view.
        """
        ballots = self.ballots.setdefault(vote.view, {})
        earlier = ballots.get(vote.party)
        if earlier is not None and earlier != vote:
            raise ProtocolViolation(f"{vote.party} cast two different votes for round {self.round}")
        ballots[vote.party] = vote

    def crowded_out(self, vote: Vote, most: int, keep: Collection[int]) -> int | None:
        """The view whose vote of this party makes room for ``vote``, where ``most`` others for
        views outside ``keep`` are here: the lowest, perhaps that of ``vote`` itself; None: there
        is room."""
        cast = {view for view, ballots in self.ballots.items() if vote.party in ballots}
        spare = sorted((cast | {vote.view}) - set(keep))
        return spare[0] if vote.view not in cast and len(spare) > most else None

    def forget_vote(self, view: int, party: str) -> None:
        """Its vote in ``view`` counts no more."""
        self.ballots.get(view, {}).pop(party, None)

    def missing_inputs(self, terms: Terms) -> list[str]:
        """Parties whose update is still awaited, by name."""
        parties = terms.parties if self.demand is None else self.demand.parties
        return [party for party in parties if not self._holds(party)]

    def _holds(self, party: str) -> bool:
        held = self.inputs.get(party)
        wanted = None if self.demand is None else self.demand.roots.get(party)
        return held is not None and wanted in (None, held.root)

    def missing_votes(self, terms: Terms) -> list[str]:
        """Parties whose vote is still awaited, by name."""
        members = terms.parties if self.view is None else self.view.members
        return [party for party in members if party not in self.votes]

    def admitted(self) -> Mapping[str, Tensors]:
        """The updates that enter the aggregate, by party; each is read when it is asked for."""
        return Admitted({p: a for p, a in self.counted().items() if a.reason is None})

    def excluded(self) -> dict[str, str]:
        """Why the others do not."""
        return {p: a.reason for p, a in self.counted().items() if a.reason is not None}

    def counted(self) -> dict[str, Admission]:
        """The verdicts on the updates that are voted on."""
        if self.demand is None:
            return self.inputs
        return {party: self.inputs[party] for party in self.demand.parties if party in self.inputs}

    def own_vote(
        self,
        *,
        terms: Terms,
        run: bytes,
        party: str,
        aggregate: bytes,
        shared: bytes = b"",
        voids: int = 0,
    ) -> Vote:
        """What this party votes, now that every input is in.

        Raises:
            Defect: an input is missing, or the recomputation contradicts the vote that
                this party cast before a restart.
        """
        if self.missing_inputs(terms):
            raise Defect(f"vote on round {self.round} without {self.missing_inputs(terms)}")
        counted = self.counted()
        vote = make_vote(
            run=run,
            round=self.round,
            party=party,
            inputs={p: a.root for p, a in counted.items()},
            excluded=self.excluded(),
            aggregate=aggregate,
            view=self.number,
            offers={p: a.signature for p, a in counted.items()},
            shared=shared,
            voids=voids,
        )
        earlier = self.votes.get(party)
        if earlier is not None and not earlier.says_the_same_as(vote):
            raise Defect(
                f"round {self.round}: the recomputation contradicts my own vote "
                f"({earlier.difference(vote)})",
                "keep the run folder and report this",
            )
        return vote

    def contradiction(self, own: Vote) -> tuple[str, str] | None:
        """The first member (by name) whose vote in the present view differs from ``own``, cast in
        it, with the difference."""
        if own.view != self.number:
            return None  # another view has come since: its votes decide
        ballots = self.ballots.get(own.view, {})
        members = ballots.keys() if self.view is None else set(self.view.members)
        for party in sorted(ballots.keys() & members):
            if not ballots[party].says_the_same_as(own):
                return party, own.difference(ballots[party])
        return None

    def closing(self, views: Iterable[View], party: str) -> Vote | None:
        """My vote in the highest of ``views`` that closes the round: all its members' votes are
        here and say the same. None: none does."""
        for view in sorted(views, key=lambda view: view.number, reverse=True):
            ballots = self.ballots.get(view.number, {})
            own = ballots.get(party)
            if own is not None and all(
                name in ballots and ballots[name].says_the_same_as(own) for name in view.members
            ):
                return own
        return None
