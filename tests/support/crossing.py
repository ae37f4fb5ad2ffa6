"""Two round engines over two ZeroMQ wires, with the fault proxy between them.

``a`` listens, ``b`` dials through the proxy. Their learners only add a constant, so that what
every round must come to is known to the last bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from splitfed.errors import LinkDown
from splitfed.progress import Silent
from splitfed.rounds import Ending, Engine, Entrance, Terms, Trained
from splitfed.store import RunFolder
from splitfed.tensors import Tensors, describe, digest
from splitfed.transport.events import Greeting
from splitfed.transport.keys import Identity, PeerKeys, Secret, make_secret
from splitfed.transport.link import Link
from splitfed.transport.sockets import WireOptions
from splitfed.transport.zeromq import ZmqWire
from tests.support.proxy import Proxy

NAMES = ("a", "b")
STEPS = {"a": 1.0, "b": 2.0}
MEAN_STEP = 1.5
DEADLINE = 60.0


class Adder:
    """Adds its constant to every value each round; calls ``hook(moment, round)`` at
    ``"train"`` and ``"validate"``."""

    def __init__(self, step: float, values: Tensors, hook: Callable[[str, int], None]) -> None:
        self.step, self.hook = step, hook
        self.values = values
        self.round = 0

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        self.round = round
        self.hook("train", round)
        self.values = {name: tensor + self.step for name, tensor in self.values.items()}
        step(1, 1, 0.5)
        return Trained(loss=0.5, seconds=0.0)

    def shared(self) -> Tensors:
        return {name: tensor.clone() for name, tensor in self.values.items()}

    def merge(self, shared: Tensors) -> None:
        self.values = {name: tensor.clone() for name, tensor in shared.items()}

    def prepare(self, kind: str, final: bool, step: Callable[[int, int, float], None]) -> Trained:
        raise AssertionError("no fusion here")

    def outgoing(self) -> Tensors:
        raise AssertionError("no fusion here")

    def absorb(self, received: Mapping[str, Tensors]) -> None:
        raise AssertionError("no fusion here")

    def validate(self) -> float | None:
        self.hook("validate", self.round)
        return None

    def state(self) -> tuple[Tensors, dict[str, object]]:
        return self.shared(), {}

    def restore(self, tensors: Tensors, meta: dict[str, object]) -> None:
        self.merge(tensors)


def _quiet(moment: str, round: int) -> None:
    pass


@dataclass
class Crossing:
    """Two parties, ``size`` bytes of shared tensors, and a network that can be broken.

    Attributes:
        link: what every link is told besides, such as ``window``.
        engine: what every engine is told besides, such as ``patience``.
        clocks: by party, what links and engines take for monotonic seconds.
        walls: by party, what folders take for seconds since 1970.
        hooks: by party, called as :class:`Adder` says.
        proxy: made once ``a`` listens.
        links: the newest link of each party.
        endings: how each party's newest life ended.
    """

    path: Path
    size: int
    rounds: int
    options: WireOptions
    link: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    clocks: dict[str, Callable[[], float]] = field(default_factory=dict)
    walls: dict[str, Callable[[], float]] = field(default_factory=dict)
    hooks: dict[str, Callable[[str, int], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.initial: Tensors = {"w": torch.zeros(self.size // 4)}
        self.secrets: dict[str, Secret] = {name: make_secret() for name in NAMES}
        self.terms = Terms(
            contract=b"c" * 32,
            parties=NAMES,
            signing_keys={name: self.secrets[name].signing_public for name in NAMES},
            shared=describe(self.initial),
            rounds=self.rounds,
            max_update_norm=1e9,
            weights=dict.fromkeys(NAMES, 1.0),
            minimum_parties=2,
        )
        self.links: dict[str, Link] = {}
        self.wires: dict[str, ZmqWire] = {}
        self.endings: dict[str, Ending | BaseException] = {}
        self.proxy: Proxy | None = None
        self._threads: dict[str, threading.Thread] = {}

    # --- lives --------------------------------------------------------------------------

    def listen(self, bind: str = "tcp://127.0.0.1:0") -> int:
        """Start ``a``; returns its port once it listens."""
        self.start("a", "tcp://127.0.0.1:1", bind)
        self.until(lambda: self.wires["a"].endpoint is not None)
        return int(str(self.wires["a"].endpoint).rsplit(":", 1)[1])

    def meet(self) -> Proxy:
        """Start both, ``b`` through the proxy; returns that."""
        self.proxy = Proxy(("127.0.0.1", self.listen()))
        self.start("b", self.proxy.address)
        return self.proxy

    def start(self, name: str, address: str, bind: str | None = None) -> None:
        """One life of ``name`` in a thread; ``address`` is where it takes ``a`` to be."""
        roster = {
            other: PeerKeys(
                public_key=self.secrets[other].public.public_key,
                signing_key=self.secrets[other].public.signing_key,
                address=address if other == "a" else None,
            )
            for other in NAMES
        }
        me = Identity(name=name, secret=self.secrets[name])
        self.endings.pop(name, None)
        self.links.pop(name, None)
        self.wires[name] = ZmqWire(me, roster, bind, options=self.options)

        def work() -> None:
            try:
                self.endings[name] = self._live(name)
            except BaseException as error:
                self.endings[name] = error

        self._threads[name] = threading.Thread(target=work, daemon=True, name=f"engine {name}")
        self._threads[name].start()
        self.until(lambda: name in self.links)

    def _live(self, name: str) -> Ending:
        clock = self.clocks.get(name, time.monotonic)
        wall = self.walls.get(name, time.time)
        with RunFolder.open(
            self.path / name, party=name, contract=self.terms.contract, clock=wall
        ) as folder:
            entrance = Entrance(self.terms)
            greeting = Greeting(
                name=name,
                contract=self.terms.contract,
                roster=b"r" * 32,
                initial=digest(self.initial),
                folder=folder.folder_id,
                boot=folder.boot,
            )
            link = self.links[name] = Link(
                self.wires[name],
                name,
                [other for other in NAMES if other != name],
                greeting=greeting,
                accept=entrance.accept,
                wanted=entrance.wanted,
                verify=self._verify,
                clock=clock,
                **self.link,
            )
            learner = Adder(STEPS[name], dict(self.initial), self.hooks.get(name, _quiet))
            engine = Engine(
                terms=self.terms,
                party=name,
                signer=self.secrets[name],
                folder=folder,
                link=link,
                entrance=entrance,
                learner=learner,
                initial=self.initial,
                greeting=greeting,
                progress=Silent(),
                clock=clock,
                **self.engine,
            )
            try:
                return engine.run()
            finally:
                link.close()

    def _verify(self, party: str, body: bytes, signature: bytes, past: bool = False) -> bool | None:
        return self.terms.signed_by(party, body, signature, past)

    def stop(self, name: str) -> None:
        """End the life of ``name`` in the middle of whatever it does, without a goodbye."""
        self.links[name].close(0.0)
        self._threads[name].join(DEADLINE)
        assert not self._threads[name].is_alive(), f"{name} does not stop"
        assert isinstance(self.endings.pop(name), LinkDown)

    # --- waiting ------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], within: float = DEADLINE) -> None:
        """Wait for ``condition``; nobody may have failed meanwhile."""
        end = time.monotonic() + within
        while not condition():
            failed = {n: e for n, e in self.endings.items() if isinstance(e, BaseException)}
            assert not failed, failed
            assert time.monotonic() < end, f"waited {within} s in vain; {self.views()}"
            time.sleep(0.002)

    def connected(self) -> bool:
        """Whether both sides are in session, be it to take leave."""
        return len(self.links) == 2 and all(
            view.state in ("connected", "left")
            for link in self.links.values()
            for view in link_views(link)
        )

    def sessions(self) -> tuple[int, ...]:
        """Sessions after the first, of each party's newest life."""
        return tuple(self.links[name].traffic().reconnects for name in NAMES)

    def views(self) -> str:
        """How things stand, for a failure's message."""
        return "; ".join(f"{name}: {link.peers_status()}" for name, link in self.links.items())

    def finish(self, within: float = DEADLINE) -> None:
        """Until both have ended as they should; see :meth:`check`."""
        end = time.monotonic() + within
        while any(thread.is_alive() for thread in self._threads.values()):
            for name, ending in list(self.endings.items()):
                if isinstance(ending, BaseException):
                    raise ending
                assert ending.outcome == "done", f"{name} ended {ending.outcome}: {ending.reason}"
            assert time.monotonic() < end, f"hangs; {self.views()}"
            time.sleep(0.002)
        self.check()

    def close(self) -> None:
        """Take everything down."""
        for link in self.links.values():
            link.close(0.0)
        for thread in self._threads.values():
            thread.join(DEADLINE)
        if self.proxy is not None:
            self.proxy.close()
            self.proxy = None

    # --- what must hold -----------------------------------------------------------------

    def check(self) -> None:
        """Every round closed once and agreed by both, and g the known mean to the last bit."""
        g = digest({"w": torch.full((self.size // 4,), MEAN_STEP * self.rounds)})
        for name in NAMES:
            ending = self.endings[name]
            if isinstance(ending, BaseException):
                raise ending
            assert (ending.outcome, ending.confirmed) == ("done", True), (name, ending.outcome)
            assert digest(ending.shared) == g, f"{name} ended with other tensors"
            with RunFolder.read_only(self.path / name) as folder:
                rows = [(row["round"], row["outcome"]) for row in folder.history()]
                assert rows == [(r, "agreed") for r in range(1, self.rounds + 1)], (name, rows)
                sent = [entry.row.round for entry in folder.ledger.rows()]
                assert sent == list(range(1, self.rounds + 1)), (name, sent)

    def repeated(self) -> int:
        """Bytes of payload that left more than once, both parties together."""
        sent = sum(link.traffic().payload_sent for link in self.links.values())
        return sent - 2 * self.rounds * self.size


def link_views(link: Link) -> list[Any]:
    """How one link stands with each peer."""
    return list(link.peers_status().values())
