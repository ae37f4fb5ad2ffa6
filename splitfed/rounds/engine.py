"""The rounds of one party: train, release, exchange, admit, aggregate, vote, close.

There is no coordinator. Every party runs this same code, and because inputs are durable
before the vote and the aggregate is a deterministic function of them, equal votes mean an
equal g everywhere without a commit protocol.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from splitfed.errors import Defect, OwnUpdatesExcluded
from splitfed.progress import Progress
from splitfed.rounds.agreeing import Agreeing
from splitfed.rounds.ending import EXCLUDED_CURE, Ending, after_voids
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Release, Signer, check_finite, release
from splitfed.rounds.learner import Learner, Trained
from splitfed.rounds.mail import Mail
from splitfed.rounds.place import Place
from splitfed.rounds.recovery import greeting_now, released_earlier, standing_of, voted_earlier
from splitfed.rounds.spending import Spending, Unaccounted
from splitfed.rounds.telling import NAMES, Telling
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.timing import RoundClock
from splitfed.rounds.waiting import CONFIRM_WITHIN, CaughtUp, GoAlone, Waiting
from splitfed.store import RunFolder
from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Greeting, Outcome
from splitfed.transport.link import Link


@dataclass(kw_only=True)
class Engine:
    """One party's side of a federation over any link.

    Attributes:
        terms: the agreed constants.
        party: own name.
        signer: signs offers and votes.
        folder: the open run folder; only the engine's thread uses it.
        link: started by :meth:`run`, closed by the caller.
        entrance: the link's ``accept`` check.
        learner: the party's models and data.
        initial: g₀, the agreed initial shared tensors.
        greeting: what this party says of itself; the engine fills in where it stands.
        patience: seconds without a change of a peer's status before ``on_absent`` applies;
            0 waits for ever.
        on_absent: "wait" ends with :class:`PeerUnreachable`, "finish-alone" trains on.
        spending: the privacy account that releases are paid from.
        routes: how each peer is reached, in words, for the operator.
        telling: what this party tells of itself.
    """

    terms: Terms
    party: str
    signer: Signer
    folder: RunFolder
    link: Link
    entrance: Entrance
    learner: Learner
    initial: Tensors
    greeting: Greeting
    progress: Progress
    patience: float = 0.0
    on_absent: Literal["wait", "finish-alone"] = "wait"
    spending: Spending = field(default_factory=Unaccounted)
    clock: Callable[[], float] = time.monotonic
    confirm_within: float = CONFIRM_WITHIN
    rejected: list[dict[str, Any]] = field(default_factory=list)
    routes: Mapping[str, str] = field(default_factory=dict)
    telling: Telling = field(init=False)
    _place: Place = field(init=False)
    _noted: int = field(init=False, default=0)
    _alone: str = field(init=False, default="")
    _mail: Mail = field(init=False)
    _times: RoundClock = field(init=False)
    _waiting: Waiting = field(init=False)
    _agreeing: Agreeing = field(init=False)

    def __post_init__(self) -> None:
        self._place = Place(terms=self.terms, g=dict(self.initial))
        self.telling = Telling(
            party=self.party,
            folder=self.folder,
            link=self.link,
            progress=self.progress,
            rounds=self.terms.rounds,
            number=self._place.number,
            spending=self.spending,
            patience=self.patience,
            on_absent=self.on_absent,
            clock=self.clock,
            routes=self.routes,
        )

    def run(self) -> Ending:
        """Take part until the last round is closed; go on where the folder left off.

        Raises:
            ContractMismatch, PeerError, SafetyStop: running again goes on from there.
        """
        self._times = RoundClock(self.clock)
        self.link.watch = self.telling.heard
        self._resume()
        self.folder.log("started", **standing_of(self.folder, self.closed))
        self.telling.spent()
        if self.folder.confirmed and not self._place.next:
            return self._done(confirmed=True)
        if not self._alone:
            try:
                return self._federate()
            except GoAlone as why:
                self._alone = str(why)
                # Durable before the peer hears of it: a restart must not federate again.
                self.folder.end("alone", self._alone, self.rejected)
        return self._go_alone()

    @property
    def closed(self) -> int:
        """Number of the last closed exchange; 0 before the first."""
        return self._place.closed

    @property
    def rounds(self) -> int:
        """Closed rounds of training."""
        return self._place.rounds

    # --- the whole of it ---------------------------------------------------------------

    def _federate(self) -> Ending:
        self._mail = Mail(
            terms=self.terms,
            party=self.party,
            folder=self.folder,
            link=self.link,
            entrance=self.entrance,
            signer=self.signer,
            greet=self._greet,
            progress=self.progress,
            clock=self.clock,
        )
        self._waiting = Waiting(
            link=self.link,
            mail=self._mail,
            folder=self.folder,
            rejected=self.rejected,
            patience=self.patience,
            on_absent=self.on_absent,
            clock=self.clock,
            telling=self.telling,
        )
        self._agreeing = Agreeing(
            terms=self.terms,
            party=self.party,
            signer=self.signer,
            folder=self.folder,
            link=self.link,
            mail=self._mail,
            waiting=self._waiting,
            place=self._place,
            times=self._times,
            telling=self.telling,
            rejected=self.rejected,
            release=self._let_out,
        )
        self._greet()
        self._open()
        self.link.start()
        self._retain()
        self.telling.phase("meeting", self.closed)
        if not self._place.next:
            return self._done(confirmed=self._part())
        self._waiting.until_here(self._mail.unmet, "greeting")
        self.folder.adopt_contract(
            self.terms.contract, self.greeting.contract_document, self.greeting.roster_document
        )
        self._times.restart()
        while kind := self._place.next:
            try:
                self._round(self.closed + 1, kind)
            except CaughtUp:
                self._catch_up()
        return self._done(confirmed=self._part())

    def _done(self, *, confirmed: bool) -> Ending:
        return Ending(
            outcome="done",
            confirmed=confirmed,
            reason="",
            shared=self._place.g,
            received=self._place.received,
        )

    def _go_alone(self) -> Ending:
        """Train what is left of the rounds without any release."""
        self.telling.alone(self.closed + 1, self._alone)
        self.link.goodbye("alone", self.closed)
        self._times.restart()
        while self._place.rounds < self.terms.rounds:
            self._times.begin(self.link.traffic())
            result = self._train(self.closed + 1, UPDATE)
            self._close(self.closed + 1, UPDATE, "alone", digest(self._place.g), result)
        return Ending(outcome="alone", confirmed=False, reason=self._alone, shared=self._place.g)

    def _resume(self) -> None:
        self.rejected += self._place.resume(self.folder, self.learner)
        self._noted = len(self.rejected)
        ending = self.folder.ending
        if ending is not None:
            self.rejected[:] = ending["rejected"]
            if ending["how"] == "excluded":
                raise OwnUpdatesExcluded(ending["reason"], EXCLUDED_CURE)
            self._alone = ending["reason"]

    def _greet(self) -> None:
        self.link.greet(greeting_now(self.greeting, self.folder, self.signer))

    def _retain(self) -> None:
        """Offer again what a peer one round behind may still need."""
        kinds = ("", *self._place.plan, "")
        for round in (self.closed, self.closed + 1):
            stored = self._earlier(round, kinds[round]) if kinds[round] else None
            if stored is not None:
                self.link.offer(stored.outgoing)
            vote = voted_earlier(self.folder, self.signer, round)
            if vote is not None:
                self.link.vote(round, *vote)

    def _part(self) -> bool:
        """Say goodbye and serve the last round until every peer has closed it too."""
        self.telling.phase("finished", self.closed)
        self.link.goodbye("finished", self.closed)
        confirmed = self._waiting.confirmed(self.closed, self.confirm_within)
        if confirmed:
            self.folder.confirm()
            self.folder.log("confirmed", round=self.closed)
        return confirmed

    def _open(self) -> None:
        """Open the next book with what the folder holds of it and what came early."""
        for event in self._mail.open(self._place.g, self._place.kinds):
            self._waiting.handle(event)

    # --- one round ---------------------------------------------------------------------

    def _round(self, round: int, kind: str) -> None:
        self._times.begin(self.link.traffic())
        if self._mail.book.round != round:
            self._open()
        self.spending.allow(self._mail.named, round, kind)
        self._waiting.take_all("signature")  # the others wait for us once they know we are back
        if self._place.trained_for != kind:
            self._waiting.until_here(self._mail.membership.ahead, "signature")
        result = self._train(round, kind)
        if result.leave:
            raise GoAlone(result.leave)
        membership, receipts = self._mail.membership, self._mail.receipts
        self._waiting.take_all("signature")
        self._waiting.until_here(lambda: receipts.owed(round, membership.peers), "receipt")
        released = self._earlier(round, kind) is not None
        before = membership.entry if released else membership.awaited_before_release
        self._waiting.until_here(before, "signature")
        self.telling.phase("exchanging" if kind == UPDATE else f"exchanging {NAMES[kind]}", round)
        self._times.offered()
        if released:
            self._let_out(round, kind)
        outcome, g, vote = self._agreeing.agree(round, kind)
        self._place.g = g
        admitted = self._mail.book.admitted() if outcome == "agreed" else {}
        self._place.take(kind, admitted, self.learner)
        self._close(round, kind, outcome, vote.aggregate, result)
        self._turn_over(round)
        if over := self._over(outcome):
            how, why = over
            raise OwnUpdatesExcluded(why, EXCLUDED_CURE) if how == "excluded" else GoAlone(why)

    def _let_out(self, round: int, kind: str) -> None:
        own = self._release(round, kind)
        self.link.offer(own.outgoing)
        self._times.offered()
        self._mail.note_own(own.outgoing)

    def _turn_over(self, round: int) -> None:
        """After ``round`` is closed: what belongs to earlier ones is needed by nobody."""
        self.link.discard(round - 1)
        self.folder.prune()
        self._greet()
        self._mail.membership.closed(round, self._place.g)

    def _catch_up(self) -> None:
        """Take over what the others closed while this party was left out."""
        found = self._mail.membership.returning
        vote, shared = found.vote, found.shared
        if vote is None or shared is None:
            raise Defect("nothing to catch up with")
        first = self.closed + 1
        self._place.miss(vote, shared, self.folder, self.learner)
        self.folder.log("caught-up", first=first, last=vote.round, voids=vote.voids)
        rounds = f"{first}" if first == vote.round else f"{first} to {vote.round}"
        self.telling.say(f"the others closed round {rounds} without this party: taken over")
        self._turn_over(vote.round)

    def _train(self, round: int, kind: str) -> Trained:
        """Train or prepare, or take what was made and stored before a restart."""
        place = self._place
        if place.trained_for != kind:
            # Nothing yet, or made ready for a fusion that nobody waits for any more.
            place.trained, place.trained_for = None, kind
        if place.trained is None:
            tell = partial(self.telling.step, round)
            if kind == UPDATE:
                self.telling.phase("training", round)
                place.trained = self.telling.heard_out(self.learner.train(place.rounds + 1, tell))
                check_finite(self.learner.shared(), round=round, party=self.party)
            else:
                self.telling.phase("fitting", round)
                final = place.rounds >= self.terms.rounds
                place.trained = self.learner.prepare(kind, final, tell)
            self._times.mark("train")
            made = dataclasses.asdict(place.trained)
            self.folder.save_checkpoint(
                place.checkpoint(self.learner, round, "trained", trained=made, kind=kind)
            )
        return place.trained

    def _release(self, round: int, kind: str) -> Release:
        stored = self._earlier(round, kind)
        if stored is not None:
            self.telling.released(stored.outgoing.offer, again=True)
            return stored
        out = release(
            self.learner.shared() if kind == UPDATE else self.learner.outgoing(),
            terms=self.terms,
            base=self._place.g,
            run=self._mail.named,
            round=round,
            party=self.party,
            signer=self.signer,
            outbox=self.folder,
            spending=self.spending,
            released=self.folder.ledger.kinds(),
            kind=kind,
        )
        self.telling.released(out.outgoing.offer, again=False, scaled=out.scaled)
        return out

    def _earlier(self, round: int, kind: str) -> Release | None:
        return released_earlier(
            self.folder,
            terms=self.terms,
            party=self.party,
            signer=self.signer,
            round=round,
            kind=kind,
        )

    def _close(self, round: int, kind: str, outcome: Outcome, g: bytes, result: Trained) -> None:
        self._times.mark("exchange")
        accuracy = self.learner.validate()
        self._times.mark("evaluate")
        row = {
            "round": self._place.rounds + (kind == UPDATE),
            "kind": kind,
            "outcome": outcome,
            "reason": self._alone,
            **result.row(),
            "validation_accuracy": accuracy,
            "epsilon": self.spending.epsilon(self.folder.ledger.kinds()),
            "rejected": self.rejected[self._noted :],
            "updates": self._place.updates,
            **self._times.row(self.link.traffic(), result),
        }
        self._place.close(kind, outcome)
        self._noted = len(self.rejected)
        with self.folder.batch():  # a round that ends all is never closed without its ending
            self.folder.close_round(
                round=round,
                outcome=outcome,
                digest=g,
                checkpoint=self._place.checkpoint(self.learner, round, "closed"),
                history=row,
            )
            if over := self._over(outcome):
                self.folder.end(*over, self.rejected)
        self.folder.log("closed", round=round, kind=kind, outcome=outcome)
        self.progress.on_round(row)

    def _over(self, outcome: str) -> tuple[str, str] | None:
        """How the federation ends, and why, where too many rounds were void, counted in all."""
        voids = self._place.voids
        if outcome != "void" or voids < self.terms.max_void_rounds or not self._place.next:
            return None
        return after_voids(voids, self._mail.book.excluded(), self.party)
