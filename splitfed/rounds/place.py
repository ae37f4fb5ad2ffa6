"""Where a party stands between two exchanges, and how that is kept in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from splitfed.rounds.evidence import compared
from splitfed.rounds.learner import Learner, Trained
from splitfed.rounds.rebuilding import ended_again
from splitfed.rounds.recovery import check_checkpoint, packed, sorted_out, under
from splitfed.rounds.schedule import following, plan, trained
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.vote import Vote
from splitfed.store import Checkpoint, RunFolder
from splitfed.tensors import Tensors


def missed_row(number: int, kind: str, voids: int) -> dict[str, Any]:
    """The history row of an exchange that the others closed without this party.

    Args:
        number: the round of training that it is, or that it comes after.
        voids: void rounds in all by the time it caught up.
    """
    return {
        "round": number,
        "kind": kind,
        "outcome": "missed",
        "reason": "",
        "train_loss": None,
        "baseline_s": 0.0,
        "judgement": None,
        "validation_accuracy": None,
        "epsilon": None,
        "rejected": [],
        "updates": {},
        "voids": voids,
        **dict.fromkeys(("train_s", "exchange_s", "wait_s", "evaluate_s"), 0.0),
        **dict.fromkeys(("bytes_sent", "bytes_received"), 0),
    }


@dataclass(kw_only=True)
class Place:
    """Everything that the next exchange depends on, besides the learner's own state.

    Attributes:
        terms: the agreement.
        g: the agreed shared tensors as they are now.
        kinds: what was exchanged and is closed, in order.
        received: what the fusion after the last round brought, by party; None before it, and
            where it came to nothing.
        trained: what training or preparing the open exchange came to, once it is done;
            ``trained_for`` is that exchange's kind.
        voids: void exchanges so far.
        updates: how the admitted updates of the open round compare, for the party's own eyes.
    """

    terms: Terms
    g: Tensors
    kinds: list[str] = field(default_factory=list)
    received: dict[str, Tensors] | None = None
    trained: Trained | None = None
    trained_for: str = ""
    voids: int = 0
    updates: dict[str, Any] = field(default_factory=dict)

    @property
    def closed(self) -> int:
        """Number of the last closed exchange; 0 before the first."""
        return len(self.kinds)

    @property
    def rounds(self) -> int:
        """Closed rounds of training."""
        return trained(self.kinds)

    @property
    def plan(self) -> tuple[str, ...]:
        """The kinds of all exchanges, closed ones and those to come."""
        return plan(self.kinds, self.terms)

    @property
    def next(self) -> str:
        """What is exchanged next; empty when all is done."""
        return following(self.kinds, self.terms) or ""

    def number(self, exchange: int) -> int:
        """The round of training that an exchange is, or that it comes after."""
        return trained(self.plan[:exchange])

    def close(self, kind: str, outcome: str) -> None:
        """The open exchange has ended."""
        self.kinds.append(kind)
        self.trained, self.trained_for, self.updates = None, "", {}
        self.voids += outcome == "void"

    def miss(self, vote: Vote, g: Tensors, folder: RunFolder, learner: Learner) -> None:
        """Take over, durably, what others closed up to ``vote``, which left ``g``."""
        self.g = g
        learner.merge(g)
        self.trained, self.trained_for, self.updates = None, "", {}
        self.voids = vote.voids
        rows = []
        for kind in self.plan[self.closed : vote.round]:
            self.kinds.append(kind)
            rows.append((self.closed, vote.shared, missed_row(self.rounds, kind, vote.voids)))
        folder.close_missed(rows, self.checkpoint(learner, vote.round, "closed"))

    def compare(self, kind: str, admitted: Mapping[str, Tensors], party: str) -> dict[str, Any]:
        """Note how the updates of the open round lie to each other; ``g`` is still the old one."""
        self.updates = compared(admitted, self.g, party) if kind == UPDATE else {}
        return self.updates

    def take(self, kind: str, admitted: Mapping[str, Tensors], learner: Learner) -> None:
        """Take over what came of an exchange; ``g`` is already the one that was voted for."""
        if kind == UPDATE:
            learner.merge(self.g)
        elif self.rounds >= self.terms.rounds:
            self.received = dict(admitted) or None
        elif admitted:
            learner.absorb(admitted)

    def resume(self, folder: RunFolder, learner: Learner) -> list[dict[str, Any]]:
        """Go on where the folder left off; returns everything that was rejected until then.

        Raises:
            FolderError: the newest whole checkpoint is too old, and what happened since cannot
                be made again from what is stored.
        """
        rows = folder.history()
        self.kinds = [row.get("kind", UPDATE) for row in rows]
        for row in rows:
            self.voids = row.get("voids", self.voids + (row["outcome"] == "void"))
        checkpoint = folder.checkpoint()
        if checkpoint is not None:
            done = checkpoint.meta["phase"] == "trained"
            before_end = done and checkpoint.round == self.closed
            if not before_end:
                check_checkpoint(folder, checkpoint, self.closed)
            self.g = under("global/", checkpoint.tensors)
            self.received = sorted_out(under("received/", checkpoint.tensors)) or None
            learner.restore(under("learner/", checkpoint.tensors), checkpoint.meta["learner"])
            if before_end:
                self._end_again(folder, checkpoint, learner)
            elif done:
                self.trained = Trained(**checkpoint.meta["trained"])
                self.trained_for = checkpoint.meta.get("kind", UPDATE)
        return [fault for row in rows for fault in row["rejected"]]

    def _end_again(self, folder: RunFolder, checkpoint: Checkpoint, learner: Learner) -> None:
        """The checkpoint after the last exchange is damaged: make its state again from the one
        before its end, which was just taken over, and from what is stored of the exchange.

        Raises:
            FolderError: too little of it is left.
        """
        kind = self.kinds.pop()
        found = ended_again(folder, terms=self.terms, kind=kind, g=self.g)
        if found is None:
            check_checkpoint(folder, checkpoint, self.closed + 1)
            return
        self.g, admitted = found
        if folder.history(last=1)[-1]["outcome"] != "alone":
            self.take(kind, admitted, learner)
        self.kinds.append(kind)
        folder.log("checkpoint-rebuilt", round=self.closed)

    def checkpoint(self, learner: Learner, round: int, phase: str, **more: Any) -> Checkpoint:
        """All that :meth:`resume` needs, as of now."""
        tensors, meta = learner.state()
        return Checkpoint(
            round=round,
            tensors={f"global/{name}": tensor for name, tensor in self.g.items()}
            | {f"learner/{name}": tensor for name, tensor in tensors.items()}
            | {f"received/{name}": t for name, t in packed(self.received or {}).items()},
            meta={"phase": phase, "learner": meta, **more},
        )
