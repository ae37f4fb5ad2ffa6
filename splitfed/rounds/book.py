"""Everything known about the open round: inputs, verdicts and votes of every party."""

from __future__ import annotations

from dataclasses import dataclass, field

from splitfed.errors import Defect, ProtocolViolation
from splitfed.rounds.gates import Admission
from splitfed.rounds.terms import Terms
from splitfed.rounds.vote import Vote, make_vote
from splitfed.tensors import Tensors


@dataclass(kw_only=True)
class Book:
    """The open round as this party sees it.

    Attributes:
        round: its number, from 1.
        inputs: the verdict on each update received so far, own included.
        votes: each party's vote received so far, own included.
    """

    round: int
    inputs: dict[str, Admission] = field(default_factory=dict)
    votes: dict[str, Vote] = field(default_factory=dict)

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
            ProtocolViolation: the party has voted differently in this round.
        """
        earlier = self.votes.get(vote.party)
        if earlier is not None and earlier != vote:
            raise ProtocolViolation(f"{vote.party} cast two different votes for round {self.round}")
        self.votes[vote.party] = vote

    def missing_inputs(self, terms: Terms) -> list[str]:
        """Parties whose update is still awaited, by name."""
        return [party for party in terms.parties if party not in self.inputs]

    def missing_votes(self, terms: Terms) -> list[str]:
        """Parties whose vote is still awaited, by name."""
        return [party for party in terms.parties if party not in self.votes]

    def admitted(self) -> dict[str, Tensors]:
        """The updates that enter the aggregate."""
        return {p: a.tensors for p, a in self.inputs.items() if a.tensors is not None}

    def excluded(self) -> dict[str, str]:
        """Why the others do not."""
        return {p: a.reason for p, a in self.inputs.items() if a.reason is not None}

    def own_vote(self, *, terms: Terms, run: bytes, party: str, aggregate: bytes) -> Vote:
        """What this party votes, now that every input is in.

        Raises:
            Defect: an input is missing, or the recomputation contradicts the vote that
                this party cast before a restart.
        """
        if self.missing_inputs(terms):
            raise Defect(f"vote on round {self.round} without {self.missing_inputs(terms)}")
        vote = make_vote(
            run=run,
            round=self.round,
            party=party,
            inputs={p: a.root for p, a in self.inputs.items()},
            excluded=self.excluded(),
            aggregate=aggregate,
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
        """The first peer (by name) whose vote differs from ``own``, with the difference."""
        for party in sorted(self.votes):
            if not self.votes[party].says_the_same_as(own):
                return party, own.difference(self.votes[party])
        return None
