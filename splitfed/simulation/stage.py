"""Who plays whom in a simulation: honest parties are watched, attackers send something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from splitfed.data import ImageSet
from splitfed.errors import UserError
from splitfed.random import derive
from splitfed.rounds import Learner, Trained
from splitfed.run.agreed import Agreed
from splitfed.run.learner import LocalLearner
from splitfed.simulation.attacks import Attack, Scene
from splitfed.simulation.given import images_of
from splitfed.simulation.party import Party
from splitfed.tensors import Tensors

Step = Callable[[int, int, float], None]


class Stage:
    """What attackers see of the honest parties, and everybody's learner for whoever measures.

    Attributes:
        learners: each party's own, once its run has begun.
        attacks: what each party that lies does, by name.
        pages: whether reports are written.
    """

    def __init__(self) -> None:
        self.learners: dict[str, LocalLearner] = {}
        self.attacks: dict[str, Attack] = {}
        self.pages = True
        self._here: set[str] = set()
        self._shown: dict[int, dict[str, Tensors]] = {}
        self._news = threading.Condition()

    def open(self, agreed: Agreed, attacks: Mapping[str, Attack | None]) -> None:
        """Before anybody trains: who lies, and what everybody knows.

        Raises:
            UserError: nobody is honest.
        """
        self.bound, self.seed = agreed.terms.max_update_norm, agreed.seed
        self.base = agreed.model.initial
        self.attacks = {name: attack for name, attack in attacks.items() if attack is not None}
        self._here = set(attacks) - set(self.attacks)
        if not self._here:
            raise UserError("every party attacks", "leave at least one of them honest")

    @contextmanager
    def playing(self, party: str) -> Iterator[None]:
        """While ``party`` runs; after it nobody waits for what it trains."""
        try:
            yield
        finally:
            with self._news:
                self._here.discard(party)
                self._news.notify_all()

    def learner(self, party: str, learner: LocalLearner) -> Learner:
        """What the engine of ``party`` is to drive."""
        self.learners[party] = learner
        if not self.attacks:
            return learner
        return Player(self, party, learner)

    def show(self, party: str, round: int, update: Tensors) -> None:
        """An honest party has trained: attackers are the first to know."""
        with self._news:
            self._shown.setdefault(round, {})[party] = update
            self._shown.pop(round - 2, None)
            self._news.notify_all()

    def honest(self, round: int) -> tuple[Tensors, ...]:
        """The round's honest updates in the order of names, once those who are here have one."""
        with self._news:
            self._news.wait_for(lambda: self._here <= set(self._shown.get(round, {})))
            seen = self._shown.get(round, {})
            return tuple(seen[name] for name in sorted(seen))


class Player:
    """A learner whose shared tensors are seen by the attackers, or made by them."""

    def __init__(self, stage: Stage, party: str, learner: LocalLearner) -> None:
        self._stage = stage
        self._party = party
        self._learner = learner
        self._attack = stage.attacks.get(party)
        self._base = stage.base
        self._lie: Tensors | None = None

    def train(self, round: int, step: Step) -> Trained:
        """Honest training; then the lie, made of what the honest came to."""
        trained = self._learner.train(round, step)
        own = self._learner.shared()
        if self._attack is None:
            self._stage.show(self._party, round, own)
        elif self._attack.update is not None:
            self._lie = self._attack.update(
                Scene(
                    own=own,
                    base=self._base,
                    honest=self._stage.honest(round),
                    attackers=len(self._stage.attacks),
                    bound=self._stage.bound,
                    seed=self._stage.seed,
                    party=self._party,
                    round=round,
                )
            )
        # An attacker stays, whatever its own judgement makes of its lies.
        return trained if self._attack is None else replace(trained, leave="")

    def shared(self) -> Tensors:
        return self._learner.shared() if self._lie is None else dict(self._lie)

    def merge(self, shared: Tensors) -> None:
        self._lie, self._base = None, dict(shared)
        self._learner.merge(shared)

    def prepare(self, kind: str, final: bool, step: Step) -> Trained:
        return self._learner.prepare(kind, final, step)

    def outgoing(self) -> Tensors:
        tensors = self._learner.outgoing()
        if self._attack is None or self._attack.outputs is None or "outputs" not in tensors:
            return tensors
        return {"outputs": self._attack.outputs(tensors["outputs"])}

    def absorb(self, received: Mapping[str, Tensors]) -> None:
        self._learner.absorb(received)

    def validate(self) -> float | None:
        return self._learner.validate()

    def state(self) -> tuple[Tensors, dict[str, object]]:
        return self._learner.state()

    def restore(self, tensors: Tensors, meta: dict[str, object]) -> None:
        self._learner.restore(tensors, meta)


def trained_on(party: Party, classes: int, seed: int) -> ImageSet:
    """The images that ``party`` trains on: its own, or what its attack makes of them."""
    images = images_of(party.train)
    if party.attack is None or party.attack.images is None:
        return images
    return party.attack.images(images, classes, derive(seed, party.name, "attack"))
