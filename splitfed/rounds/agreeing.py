"""How the parties agree on what a round comes to: inputs, my vote, equal votes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from splitfed.rounds.gates import Signer
from splitfed.rounds.mail import Mail
from splitfed.rounds.outcome import outcome_of
from splitfed.rounds.place import Place
from splitfed.rounds.telling import NAMES, Telling
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.timing import RoundClock
from splitfed.rounds.vote import Vote, encode_vote
from splitfed.rounds.waiting import GoAlone, Waiting
from splitfed.store import RunFolder
from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Outcome, vote_message
from splitfed.transport.link import Link


@dataclass(kw_only=True)
class Agreeing:
    """The engine's part between training and the end of a round; see
    :class:`~splitfed.rounds.Engine` for the other attributes.

    Attributes:
        release: lets out what this party trained, and notes it in the book.
    """

    terms: Terms
    party: str
    signer: Signer
    folder: RunFolder
    link: Link
    mail: Mail
    waiting: Waiting
    place: Place
    times: RoundClock
    telling: Telling
    rejected: list[dict[str, Any]]
    release: Callable[[int, str], None]
    _said: tuple[object, ...] = field(init=False, default=())

    def agree(self, round: int, kind: str) -> tuple[Outcome, Tensors, Vote]:
        """Gather the inputs, vote, and gather votes, in one view after the other if need be,
        until all members of one have voted alike."""
        while True:
            if self.mail.membership.counts() and self.party not in self.mail.book.inputs:
                self.release(round, kind)
            self.waiting.until_here(self.mail.membership.missing_inputs, NAMES[kind])
            self.times.waited_until(self.mail.busy_until.values())
            if missing := self.mail.book.missing_inputs(self.terms):
                # Another view came, in which an update of this party counts after all; or nobody
                # is left to bring one, until mail changes that.
                if self.party not in missing or self.party in self.mail.book.inputs:
                    self.waiting.take(missing, NAMES[kind], {})
                continue
            self._judged(kind)
            outcome, g, vote = self._settle(round, kind)
            self.waiting.until_here(partial(self.mail.membership.missing_votes, vote), "vote")
            if (closing := self.mail.membership.closing()) is not None:
                self._same(closing, vote)
                return outcome, g, vote
            if liar := self.mail.membership.contradicted(vote):
                self.waiting.blame(*liar)
                if self._still_in(vote.view) and self.mail.membership.wish(()) is None:
                    raise GoAlone(f"{liar[0]}: {liar[1]}; no view without it can be made")
                # The next one may be signed a little later.
                self.waiting.until_here(partial(self._still_in, vote.view), "vote")

    def _still_in(self, view: int) -> list[str]:
        """The other members of ``view``, unless there is a later one or it is signed."""
        membership = self.mail.membership
        views = membership.views
        later = view != views.current.number or views.pending or views.without_me is not None
        return [] if later else membership.peers

    def _same(self, closing: Vote, settled: Vote) -> None:
        """An earlier view may have closed the round: on what was settled here, for every later
        one carries its votes.

        Raises:
            GoAlone: it did not, so a member must have hidden its vote or made one up.
        """
        if not closing.comes_to_the_same_as(settled):
            raise GoAlone(
                f"round {settled.round}: view {closing.view} closed it with "
                f"{closing.difference(settled)} in view {settled.view}: a member lied"
            )

    def _settle(self, round: int, kind: str) -> tuple[Outcome, Tensors, Vote]:
        """Aggregate what was admitted and vote on it, durably before it is sent."""
        book = self.mail.book
        outcome, g, aggregate = outcome_of(book, kind, self.terms, self.place.g)
        vote = book.own_vote(
            terms=self.terms,
            run=self.mail.named,
            party=self.party,
            aggregate=aggregate,
            shared=aggregate if kind == UPDATE else digest(g),
            voids=self.place.voids + (outcome == "void"),
        )
        vote = book.votes.get(self.party, vote)
        body = encode_vote(vote)
        signature = self.signer.sign(vote_message(body))
        self.folder.save_vote(
            round=round, view=vote.view, party=self.party, body=body, signature=signature
        )
        book.add_vote(vote)
        self.folder.log("voted", round=round, outcome=outcome, aggregate=aggregate)
        self.link.vote(round, body, signature)
        return outcome, g, vote

    def _judged(self, kind: str) -> None:
        """Tell the verdicts, unless another view came to the same."""
        number, book = self.mail.number, self.mail.book
        admitted, excluded = book.admitted(), book.excluded()
        said = number, kind, tuple(sorted(admitted)), tuple(sorted(excluded.items()))
        if self._said == said:
            return
        self._said = said
        updates = self.place.compare(kind, admitted, self.party)
        self.telling.judged(number, NAMES[kind], admitted, excluded, updates)
        for party, reason in sorted(excluded.items()):
            fault = {"round": number, "peer": party, "reason": reason}
            if fault not in self.rejected:
                self.rejected.append(fault)
