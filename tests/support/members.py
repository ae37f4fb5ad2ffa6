"""Parties with a learner that only adds a constant: the round engine without training."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from splitfed.progress import Silent
from splitfed.rounds import Ending, Engine, Entrance, FusionTerms, Terms, Trained
from splitfed.store import Disk, RunFolder
from splitfed.tensors import Tensors, describe, digest
from splitfed.transport.events import Greeting, Offer
from splitfed.transport.keys import Identity, Secret, make_secret
from splitfed.transport.link import Link
from splitfed.transport.memory import MemoryHub, MemoryWire
from splitfed.types import TensorSpec

Step = Callable[[int, int, float], None]
INITIAL: Tensors = {"w": torch.zeros(4), "b": torch.tensor([1.0, -1.0])}

REFERENCE, CLASSES = 4, 3
OUTPUTS = (TensorSpec("outputs", (REFERENCE, CLASSES), "float32"),)


def outputs_fusion(names: list[str], every: int | None = None) -> FusionTerms:
    """Outputs on four reference images with three classes."""
    return FusionTerms(
        method="distill", kind="outputs", tensors=dict.fromkeys(names, OUTPUTS), every=every
    )


class AddingLearner:
    """Adds ``step`` to every shared value each round, and remembers what it was told."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.values = {name: tensor.clone() for name, tensor in INITIAL.items()}
        self.trained: list[int] = []
        self.merged: list[bytes] = []
        self.prepared: list[tuple[str, bool]] = []
        self.absorbed: list[dict[str, bytes]] = []
        self.crash: Callable[[int], None] = lambda round: None

    def train(self, round: int, step: Step) -> Trained:
        self.crash(round)
        self.values = {name: tensor + self.step for name, tensor in self.values.items()}
        self.trained.append(round)
        step(1, 1, 0.5)
        return Trained(loss=0.5, seconds=0.0)

    def shared(self) -> Tensors:
        return {name: tensor.clone() for name, tensor in self.values.items()}

    def merge(self, shared: Tensors) -> None:
        self.values = {name: tensor.clone() for name, tensor in shared.items()}
        self.merged.append(digest(shared))

    def prepare(self, kind: str, final: bool, step: Step) -> Trained:
        self.crash(-1)
        self.prepared.append((kind, final))
        return Trained(loss=None, seconds=0.0)

    def outgoing(self) -> Tensors:
        """Each row of outputs certain of class number ``step``, modulo three."""
        outputs = torch.zeros(REFERENCE, CLASSES)
        outputs[:, int(self.step) % CLASSES] = 1.0
        return {"outputs": outputs}

    def absorb(self, received: Mapping[str, Tensors]) -> None:
        self.absorbed.append({party: digest(tensors) for party, tensors in received.items()})

    def validate(self) -> float | None:
        return None

    def state(self) -> tuple[Tensors, dict[str, object]]:
        return self.shared(), {"step": self.step}

    def restore(self, tensors: Tensors, meta: dict[str, object]) -> None:
        self.values = {name: tensor.clone() for name, tensor in tensors.items()}


def make_terms(names: list[str], secrets: dict[str, Secret], **changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "contract": b"c" * 32,
        "parties": tuple(sorted(names)),
        "signing_keys": {name: secrets[name].signing_public for name in names},
        "shared": describe(INITIAL),
        "rounds": 4,
        "max_update_norm": 10.0,
        "weights": dict.fromkeys(names, 1.0),
        "minimum_parties": 2 if len(names) == 2 else len(names) // 2 + 1,
    }
    return Terms(**{**fields, **changes})


class Leaver(AddingLearner):
    """Has had enough after training in round ``last``."""

    def __init__(self, step: float, last: int) -> None:
        super().__init__(step)
        self.last = last

    def train(self, round: int, step: Step) -> Trained:
        trained = super().train(round, step)
        return dataclasses.replace(trained, leave="enough" if round == self.last else "")


@dataclass
class Town:
    """Some parties on one in-memory network."""

    path: Path
    names: list[str]
    changes: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    disks: dict[str, Disk] = field(default_factory=dict)
    wires: dict[str, MemoryWire] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hub = MemoryHub(self.names)
        self.secrets = {name: make_secret() for name in self.names}
        self.terms = make_terms(self.names, self.secrets, **self.changes)
        self.learner: type[AddingLearner] = AddingLearner
        self.learners = {n: AddingLearner(float(i + 1)) for i, n in enumerate(sorted(self.names))}
        self.folders: dict[str, Path] = {name: self.path / name for name in self.names}
        self.endings: dict[str, Ending | BaseException] = {}
        self.rejected: dict[str, list[dict[str, Any]]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def greeting(self, name: str, folder: bytes, boot: int) -> Greeting:
        return Greeting(
            name=name,
            contract=self.terms.contract,
            roster=b"r" * 32,
            initial=digest(INITIAL),
            folder=folder,
            boot=boot,
            roster_document=json.dumps(
                {
                    party: {"public_key": "", "signing_key": key}
                    for party, key in self.terms.signing_keys.items()
                }
            ),
        )

    def verify(self, party: str, body: bytes, signature: bytes, past: bool = False) -> bool | None:
        return self.terms.signed_by(party, body, signature, past)

    def link_type(self, name: str) -> type[Link]:
        """What speaks for ``name``: a liar's may say something else."""
        return Link

    def link(
        self,
        name: str,
        greeting: Greeting,
        accept: Callable[[Offer], str | None],
        wanted: Callable[[Offer], bool] = lambda offer: False,
    ) -> Link:
        wire = self.wires[name] = self.hub.wire(name)
        self.links[name] = self.link_type(name)(
            wire,
            name,
            [other for other in self.terms.parties if other != name],
            greeting=greeting,
            accept=accept,
            wanted=wanted,
            verify=self.verify,
            clock=self.clock,
        )
        return self.links[name]

    def account(self, name: str) -> AbstractContextManager[dict[str, Any]]:
        """What else the engine is told, opened in its thread after the run folder."""
        return nullcontext({})

    def live(self, name: str, **engine: Any) -> Ending:
        """One party's whole run in this thread."""
        with (
            RunFolder.open(
                self.folders[name],
                party=name,
                contract=self.terms.contract,
                disk=self.disks.get(name),
            ) as folder,
            self.account(name) as account,
        ):
            entrance = Entrance(self.terms)
            greeting = self.greeting(name, folder.folder_id, folder.boot)
            link = self.link(name, greeting, entrance.accept, entrance.wanted)
            it = Engine(
                terms=self.terms,
                party=name,
                signer=self.secrets[name],
                folder=folder,
                link=link,
                entrance=entrance,
                learner=self.learners[name],
                initial=INITIAL,
                greeting=greeting,
                progress=Silent(),
                clock=self.clock,
                **account,
                **engine,
            )
            self.rejected[name] = it.rejected
            try:
                return it.run()
            finally:
                self.rejected[name] = it.rejected
                link.close()

    def start(self, name: str, **engine: Any) -> None:
        """The same in a thread; its ending or error lands in :attr:`endings`."""

        def work() -> None:
            try:
                self.endings[name] = self.live(name, **engine)
            except BaseException as error:
                self.endings[name] = error

        self._threads[name] = threading.Thread(target=work, daemon=True)
        self._threads[name].start()

    def alive(self, name: str) -> bool:
        """Whether the life of ``name`` goes on."""
        return self._threads[name].is_alive()

    def kill(self, name: str) -> None:
        """What the kernel does for a dead process: its connections break, and no goodbye."""
        wire = self.wires.get(name)
        if wire is not None:
            self.hub.closed(wire)

    def wait(self, *names: str, within: float = 60.0) -> None:
        """Until these parties have ended; fails the test if they do not."""
        for name in names or self.names:
            thread = self._threads[name]
            thread.join(within)
            assert not thread.is_alive(), f"{name} did not end within {within} s: {self.endings}"

    def identity(self, name: str) -> Identity:
        return Identity(name=name, secret=self.secrets[name])

    def history(self, name: str) -> list[dict[str, Any]]:
        with RunFolder.read_only(self.folders[name]) as folder:
            return folder.history()

    def closed(self, name: str) -> list[bytes]:
        return self.learners[name].merged


def replace_keys(town: Town, name: str, *, lost: bool = False) -> Secret:
    """What `splitfed keys rotate` and the copied agreement do to both sides. The old secret."""
    old, new, terms = town.secrets[name], make_secret(), town.terms
    town.secrets[name] = new
    listed = terms.revoked_keys if lost else terms.retired_keys
    longer = {**listed, name: (*listed.get(name, ()), old.signing_public)}
    town.terms = dataclasses.replace(
        terms,
        signing_keys={**terms.signing_keys, name: new.signing_public},
        revoked_keys=longer if lost else terms.revoked_keys,
        retired_keys=terms.retired_keys if lost else longer,
    )
    return old
