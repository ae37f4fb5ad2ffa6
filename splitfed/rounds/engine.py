"""The rounds of one party: train, release, exchange, admit, aggregate, vote, close.

There is no coordinator. Every party runs this same code, and because inputs are durable
before the vote and the aggregate is a deterministic function of them, equal votes mean an
equal g everywhere without a commit protocol.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from splitfed.aggregation import RULES
from splitfed.errors import Defect, OwnUpdatesExcluded
from splitfed.progress import Progress
from splitfed.rounds.ending import EXCLUDED_CURE, Ending
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Release, Signer, admit, check_finite, release
from splitfed.rounds.learner import Learner, Trained
from splitfed.rounds.mail import Mail
from splitfed.rounds.recovery import (
    check_checkpoint,
    greeting_now,
    recalled,
    released_earlier,
    under,
)
from splitfed.rounds.spending import Spending, Unaccounted
from splitfed.rounds.terms import Terms
from splitfed.rounds.timing import RoundClock
from splitfed.rounds.vote import Vote, encode_vote
from splitfed.rounds.waiting import GoAlone, Waiting
from splitfed.store import Checkpoint, RunFolder
from splitfed.tensors import Tensors, digest
from splitfed.transport.events import Greeting, Outcome, vote_message
from splitfed.transport.link import Link

CONFIRM_WITHIN = 60.0
"""Seconds after a peer's last sign of life at which a finished party stops waiting for it."""


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
    _g: Tensors = field(init=False)
    _closed: int = field(init=False, default=0)
    _outcome: Outcome = field(init=False, default="")
    _trained: Trained | None = field(init=False, default=None)
    _voids: int = field(init=False, default=0)
    _alone: str = field(init=False, default="")
    _mail: Mail = field(init=False)
    _times: RoundClock = field(init=False)
    _waiting: Waiting = field(init=False)

    def run(self) -> Ending:
        """Take part until the last round is closed; go on where the folder left off.

        Raises:
            ContractMismatch, PeerError, SafetyStop: running again goes on from there.
        """
        self._times = RoundClock(self.clock)
        self._resume()
        if self.folder.confirmed and self._closed >= self.terms.rounds:
            return Ending(outcome="done", confirmed=True, reason="", shared=self._g)
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
        """The last closed round; 0 before the first."""
        return self._closed

    # --- the whole of it ---------------------------------------------------------------

    def _federate(self) -> Ending:
        self._mail = Mail(
            terms=self.terms,
            party=self.party,
            folder=self.folder,
            link=self.link,
            entrance=self.entrance,
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
        )
        self._greet()
        self._open(self._closed + 1)
        self.link.start()
        self._retain(self._closed)
        self._say("meeting", self._closed)
        if self._closed >= self.terms.rounds:
            return Ending(outcome="done", confirmed=self._part(), reason="", shared=self._g)
        self._waiting.until_here(self._unmet, "greeting")
        self.folder.adopt_contract(self.terms.contract, self.greeting.contract_document)
        self._times.restart()
        while self._closed < self.terms.rounds:
            self._round(self._closed + 1)
        return Ending(outcome="done", confirmed=self._part(), reason="", shared=self._g)

    def _go_alone(self) -> Ending:
        """Train what is left of the rounds without any release."""
        self.progress.say(f"finishing alone: {self._alone}")
        self.folder.log("alone", round=self._closed + 1, reason=self._alone)
        self.link.goodbye("alone", self._closed)
        self._times.restart()
        while self._closed < self.terms.rounds:
            round = self._closed + 1
            self._times.begin(self.link.traffic())
            trained = self._train(round)
            self._close(round, "alone", digest(self._g), trained)
        return Ending(outcome="alone", confirmed=False, reason=self._alone, shared=self._g)

    def _resume(self) -> None:
        self._g = dict(self.initial)
        checkpoint, closed = self.folder.checkpoint(), self.folder.closed()
        if closed is not None:
            self._closed, self._outcome = closed.round, closed.outcome
        if checkpoint is not None:
            check_checkpoint(self.folder, checkpoint, self._closed)
            self._g = under("global/", checkpoint.tensors)
            self.learner.restore(under("learner/", checkpoint.tensors), checkpoint.meta["learner"])
            if checkpoint.meta["phase"] == "trained":
                self._trained = Trained(**checkpoint.meta["trained"])
        rows, ending = self.folder.history(), self.folder.ending
        self._voids = sum(row["outcome"] == "void" for row in rows)
        self.rejected += [fault for row in rows for fault in row["rejected"]]
        if ending is not None:
            self.rejected[:] = ending["rejected"]
            if ending["how"] == "excluded":
                raise OwnUpdatesExcluded(ending["reason"], EXCLUDED_CURE)
            self._alone = ending["reason"]

    def _unmet(self) -> list[str]:
        return [peer for peer in self._mail.peers if peer not in self._mail.met]

    def _greet(self) -> None:
        self.link.greet(
            greeting_now(self.greeting, self.folder, self._closed, self._outcome, self._g)
        )

    def _retain(self, closed: int) -> None:
        """Offer again what a peer one round behind may still need."""
        for round in (closed, closed + 1):
            stored = self._earlier(round) if round else None
            if stored is not None:
                self.link.offer(stored.outgoing)
            vote = self.folder.own_vote(round) if round else None
            if vote is not None:
                self.link.vote(round, vote.body, vote.signature)

    def _part(self) -> bool:
        """Say goodbye and serve the last round until every peer has closed it too."""
        self._say("finished", self._closed)
        self.link.goodbye("finished", self._closed)
        confirmed = self._waiting.confirmed(self.terms.rounds, self.confirm_within)
        if confirmed:
            self.folder.confirm()
        return confirmed

    def _open(self, round: int) -> None:
        """Open the book of ``round`` with what the folder holds of it and what came early."""
        early = self._mail.open(round, self._g)
        if self.folder.run is not None:
            for verdict in recalled(
                self.folder, terms=self.terms, base=self._g, run=self.folder.run, round=round
            ):
                self._mail.book.add_input(verdict)
        for event in early:
            self._waiting.handle(event)

    # --- one round ---------------------------------------------------------------------

    def _round(self, round: int) -> None:
        self._times.begin(self.link.traffic())
        if self._mail.book.round != round:
            self._open(round)
        self.spending.allow(self._run(), round)
        trained = self._train(round)
        own = self._release(round)
        self._say("exchanging", round)
        self.link.offer(own.outgoing)
        self._times.offered()
        self._note_own(round, own)
        self._waiting.until_here(lambda: self._mail.book.missing_inputs(self.terms), "update")
        self._times.waited_until(self._mail.busy_until.values())
        outcome, aggregate, vote = self._settle(round)
        self._waiting.until_here(lambda: self._mail.book.missing_votes(self.terms), "vote")
        self._check_votes(vote)
        self._g = aggregate
        self.learner.merge(aggregate)
        self._close(round, outcome, vote.aggregate, trained)
        self.link.discard(round - 1)
        self.folder.prune()
        self._greet()
        if outcome == "void":
            self._count_void()

    def _train(self, round: int) -> Trained:
        """Train, or take what was trained and stored before a restart."""
        if self._trained is None:
            self._say("training", round)
            self._trained = self.learner.train(round, lambda *step: self._step(round, *step))
            self._times.mark("train")
            check_finite(self.learner.shared(), round=round, party=self.party)
            self.folder.save_checkpoint(
                self._checkpoint(round, "trained", trained=dataclasses.asdict(self._trained))
            )
        return self._trained

    def _release(self, round: int) -> Release:
        stored = self._earlier(round)
        if stored is not None:
            return stored
        out = release(
            self.learner.shared(),
            terms=self.terms,
            base=self._g,
            run=self._run(),
            round=round,
            party=self.party,
            signer=self.signer,
            outbox=self.folder,
            spending=self.spending,
            releases=len(self.folder.ledger) + 1,
        )
        if out.scaled is not None:
            self.progress.say(
                f"round {round}: own update shortened to {out.scaled:.3f} of its length "
                "to fit max_update_norm"
            )
            self.folder.log("shortened", round=round, factor=out.scaled)
        return out

    def _earlier(self, round: int) -> Release | None:
        return released_earlier(
            self.folder, terms=self.terms, party=self.party, signer=self.signer, round=round
        )

    def _note_own(self, round: int, own: Release) -> None:
        """Judge the own update like everyone else does, from the bytes that left."""
        verdict = admit(
            own.outgoing.offer,
            own.outgoing.payload,
            terms=self.terms,
            base=self._g,
            run=self._run(),
            round=round,
        )
        self._mail.book.add_input(verdict)

    def _settle(self, round: int) -> tuple[Outcome, Tensors, Vote]:
        """Aggregate what was admitted and vote on it, durably before it is sent."""
        book = self._mail.book
        admitted = book.admitted()
        for party, reason in sorted(book.excluded().items()):
            self.rejected.append({"round": round, "peer": party, "reason": reason})
            self.progress.say(f"round {round}: update of {party} excluded: {reason}")
            self.folder.log("excluded", round=round, peer=party, reason=reason)
        outcome: Outcome = "agreed"
        if len(admitted) >= self.terms.minimum_parties:
            aggregate = RULES[self.terms.rule].apply(admitted, self.terms.weights)
        else:
            outcome, aggregate = "void", self._g
        vote = book.own_vote(
            terms=self.terms, run=self._run(), party=self.party, aggregate=digest(aggregate)
        )
        body = encode_vote(vote)
        signature = self.signer.sign(vote_message(body))
        self.folder.save_vote(
            round=round, view=vote.view, party=self.party, body=body, signature=signature
        )
        book.add_vote(vote)
        self.link.vote(round, body, signature)
        return outcome, aggregate, vote

    def _check_votes(self, own: Vote) -> None:
        different = self._mail.book.contradiction(own)
        if different is not None:
            peer, difference = different
            self._waiting.reject(
                own.round, peer, f"its vote contradicts the stored inputs: {difference}"
            )

    def _close(self, round: int, outcome: Outcome, g: bytes, trained: Trained) -> None:
        self._times.mark("exchange")
        accuracy = self.learner.validate()
        self._times.mark("evaluate")
        row = {
            "round": round,
            "outcome": outcome,
            "reason": self._alone,
            "train_loss": trained.loss,
            "validation_accuracy": accuracy,
            "epsilon": self.spending.epsilon(len(self.folder.ledger)),
            "baseline_s": trained.baseline_seconds,
            "rejected": [fault for fault in self.rejected if fault["round"] == round],
            **self._times.row(self.link.traffic(), trained),
        }
        self.folder.close_round(
            round=round,
            outcome=outcome,
            digest=g,
            checkpoint=self._checkpoint(round, "closed"),
            history=row,
        )
        self._closed, self._outcome, self._trained = round, outcome, None
        self.folder.log("closed", round=round, outcome=outcome)
        self.progress.on_round(row)

    def _count_void(self) -> None:
        """End the federation when too many rounds were void, counted in all."""
        self._voids += 1
        if self._voids < self.terms.max_void_rounds:
            return
        excluded = sorted(self._mail.book.excluded())
        if self.party in excluded:
            text = (
                f"{self._voids} rounds were void and the last one excluded our own update: "
                f"{self._mail.book.excluded()[self.party]}"
            )
            self.folder.end("excluded", text, self.rejected)
            raise OwnUpdatesExcluded(text, EXCLUDED_CURE)
        raise GoAlone(f"{self._voids} void rounds, last excluded: {', '.join(excluded)}")

    # --- small things ------------------------------------------------------------------

    def _run(self) -> bytes:
        if self._mail.run is None:
            raise Defect("a round was started before the run has a name")
        return self._mail.run

    def _say(self, phase: str, round: int) -> None:
        self.link.status(phase, round, 0, 0)
        self.folder.set_status({"phase": phase, "round": round, "rounds": self.terms.rounds})
        self.progress.on_phase(f"round {round}: {phase}" if round else phase)

    def _step(self, round: int, step: int, steps: int, loss: float) -> None:
        # Where the steps would give away n, a sign of life that only the clock decides.
        told = (step, steps) if self.spending.public_steps else (int(self.clock()) // 10, 0)
        self.link.status("training", round, *told)
        self.progress.on_step(round, step, steps, loss)

    def _checkpoint(self, round: int, phase: str, **more: Any) -> Checkpoint:
        tensors, meta = self.learner.state()
        return Checkpoint(
            round=round,
            tensors={f"global/{name}": tensor for name, tensor in self._g.items()}
            | {f"learner/{name}": tensor for name, tensor in tensors.items()},
            meta={"phase": phase, "learner": meta, **more},
        )
