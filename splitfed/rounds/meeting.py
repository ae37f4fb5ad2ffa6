"""Meeting peers: what a greeting says of a peer and of me, and who is gone."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping

import msgspec
import torch

from splitfed.errors import Defect, FolderDiverged, ProtocolViolation, SplitfedError
from splitfed.progress import Progress
from splitfed.rounds.book import Book
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Signer
from splitfed.rounds.membership import Membership
from splitfed.rounds.past import check_own_past
from splitfed.rounds.receipts import Receipts
from splitfed.rounds.schedule import plan, trained
from splitfed.rounds.terms import UPDATE, Terms, run_id
from splitfed.rounds.violations import Violation, blaming
from splitfed.store import RunFolder
from splitfed.transport.events import Event, Failed, Greeting, Left, Offer
from splitfed.transport.link import Link


class Meeting:
    """The part of :class:`~splitfed.rounds.mail.Mail` that knows the peers. Used by the engine's
    thread only; the attributes are described there."""

    def __init__(
        self,
        *,
        terms: Terms,
        party: str,
        folder: RunFolder,
        link: Link,
        entrance: Entrance,
        signer: Signer,
        greet: Callable[[], None],
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._party = party
        self._folder = folder
        self._link = link
        self._entrance = entrance
        self._greet = greet
        self._new_greetings: dict[str, Greeting] = {}
        self.receipts = Receipts(terms=terms, party=party, folder=folder, signer=signer)
        self.membership = Membership(
            terms=terms,
            party=party,
            folder=folder,
            link=link,
            entrance=entrance,
            signer=signer,
            clock=clock,
        )
        self._progress = progress
        self._clock = clock
        self._base: Mapping[str, torch.Tensor] = {}
        self._kinds: tuple[str, ...] = ()
        self.kind = UPDATE
        self._early: list[Event] = []
        self._folders: dict[str, bytes] = {party: folder.folder_id}
        self.peers = tuple(name for name in terms.parties if name != party)
        self.book = Book(round=0)
        self.run = folder.run
        self.busy_until: dict[str, float] = {}
        self.met: set[str] = set()
        self.left: dict[str, Left] = {}
        entrance.run = folder.run

    @property
    def number(self) -> int:
        """The round of training that is open, or after which the open fusion comes."""
        return trained((*self._kinds, self.kind))

    @property
    def last(self) -> int:
        """Number of the last exchange, which closes the federation."""
        return len(plan(self._kinds, self._terms))

    def unmet(self) -> list[str]:
        """Peers that have not greeted us in this process. Once the run has a name, those that
        others vote without need not: until a view without them is made, they are awaited together
        with whoever has yet to sign it."""
        if self.run is None:
            return [peer for peer in self.peers if peer not in self.met]
        if self.membership.returning.shared is not None:
            return []  # what they closed without us is here
        if self.membership.dynamic and self.membership.closing():
            return []  # they all voted: whoever has closed this round signs no view for it
        found = {peer for peer in self.membership.peers if peer not in self.met}
        return sorted(found.union(self.membership.views.unsigned if found else ()))

    @property
    def named(self) -> bytes:
        """The name of the run.

        Raises:
            Defect: not every peer has been met yet.
        """
        if self.run is None:
            raise Defect("a round was started before the run has a name")
        return self.run

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take in one event."""

    def _gone(self, peer: str, reason: str) -> None:
        """The peer takes no part any more, and is not to blame among three or more.

        Raises:
            Violation: there are two parties.
        """
        if not self.membership.dynamic:
            raise Violation(peer, reason)
        self.membership.lost[peer] = reason
        self._progress.say(f"{peer}: {reason}; going on without it if the others agree")

    def _failed(self, event: Failed) -> None:
        if isinstance(event.error, ProtocolViolation):
            if event.error.evidence:
                offer = msgspec.msgpack.decode(event.error.evidence, type=Offer)
                self._folder.save_evidence(offer.round, event.peer, event.error.evidence)
            raise Violation(event.peer, event.error.message)
        if self.run is None or not self.membership.dynamic:
            raise event.error
        self._fails(event.peer, event.error)

    def _fails(self, peer: str, error: SplitfedError) -> None:
        """With ``peer`` it does not go on, for a reason that a person can mend."""
        if peer not in self.membership.failures:
            self.membership.failures[peer] = error
            self._gone(peer, error.message.splitlines()[0].rstrip(":"))

    def _elsewhere(self, peer: str) -> bool:
        """Whether ``peer`` may be in another run than this party by no fault of its own: a third
        party may have shown each of them another run folder. Later all have met in one run."""
        if not self.membership.dynamic or self._folder.last_closed:
            return False
        shown = ", ".join(f"{name} {found.hex()[:8]}" for name, found in self._folders.items())
        error = FolderDiverged(
            f"{peer} is in another run than {self._party}: some party has shown the two of them "
            f"different run folders (here: {shown})",
            "compare this list with the others': whose folder differs has shown two; begin anew "
            "with another --out everywhere",
        )
        self._fails(peer, error)
        return True

    def _greeted(self, peer: str, greeting: Greeting) -> None:
        if greeting.purpose == "check":
            return
        self.left.pop(peer, None)
        known = self._folder.peer_folders.get(peer, greeting.folder)
        if known != greeting.folder and self.membership.dynamic and self.run is not None:
            raise Violation(peer, "comes back with another run folder: it has started over")
        if known != greeting.folder:
            raise FolderDiverged(
                f"{peer} comes back with another run folder ({greeting.folder.hex()[:8]} "
                f"instead of {known.hex()[:8]}): it has started over",
                "let it use its old folder, or start over on both sides with a new --out",
            )
        self._folders[peer] = greeting.folder
        if self.run is None and set(self._folders) == set(self._terms.parties):
            self.run = run_id(self._folder.contract, self._folders)
            self._folder.fix_run(
                self.run, {p: f for p, f in self._folders.items() if p != self._party}
            )
            self._entrance.run = self.run
            self.membership.open(self.book, self._kinds, self.run, self._base)
        self._new_greetings[peer] = greeting
        if self.run is not None:
            # Also those that came before the run had a name: nothing is released until then.
            while self._new_greetings:
                self._check_own_past(*self._new_greetings.popitem(), self.run)
        self.met.add(peer)
        self.membership.lost.pop(peer, None)
        self.membership.failures.pop(peer, None)
        self._check_progress(peer, greeting)
        if self.run is not None:
            early, self._early = self._early, []
            for event in early:
                self.handle(event)

    def _check_own_past(self, peer: str, greeting: Greeting, run: bytes) -> None:
        with blaming(peer):
            check_own_past(peer, greeting, run=run, terms=self._terms, folder=self._folder)

    def _check_progress(self, peer: str, greeting: Greeting) -> None:
        mine = self._folder.last_closed
        if self.membership.dynamic:
            self.membership.claims.closed[peer] = greeting.closed_round
            if greeting.closed_round < mine or peer not in self.membership.views.current.members:
                self.membership.serve(peer)
            return
        if greeting.closed_round > mine + 1:
            raise Violation(
                peer, f"claims to have closed round {greeting.closed_round}, we are at {mine}"
            )
        if greeting.closed_round < mine - 1:
            self._progress.on_peer(
                peer,
                f"is at round {greeting.closed_round}, we closed {mine}: waiting for its "
                "newest run folder",
            )
