"""Waiting for peers: with patience, never silently, and only for what is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from splitfed.errors import LinkDown, PeerError, PeerUnreachable
from splitfed.progress import lasting
from splitfed.rounds.mail import Mail
from splitfed.rounds.quiet import Quiet
from splitfed.rounds.telling import Telling
from splitfed.rounds.violations import Violation
from splitfed.rounds.vote import shown
from splitfed.store import RunFolder
from splitfed.transport.events import Event
from splitfed.transport.link import Link

CONFIRM_WITHIN = 60.0
"""Seconds after a peer's last sign of life at which a finished party stops waiting for it."""


EXCUSED = 4.0
"""So many times the patience whoever waits for a third party itself may make no progress."""
LONGEST_GOODBYE = 10.0
"""So many times :data:`CONFIRM_WITHIN`, or what stands for it, a finished party waits for one that
gives signs of life and makes no progress."""
MOST_AT_ONCE = 1000
"""Events that are taken in without waiting; a peer that sends more than that waits its turn."""


class GoAlone(Exception):
    """Inside this package only: the federation is over for us, the model is not."""


class CaughtUp(Exception):
    """Inside this package only: what the others closed without us is here."""


@dataclass(kw_only=True)
class Waiting:
    """Takes mail until what is awaited is there.

    Attributes:
        rejected: the engine's list of rejections, added to.
        patience: seconds without a change of a peer's status; 0 waits for ever.
        on_absent: "wait" ends with :class:`PeerUnreachable`, "finish-alone" with
            :class:`GoAlone`.
    """

    link: Link
    mail: Mail
    folder: RunFolder
    rejected: list[dict[str, Any]]
    patience: float
    on_absent: Literal["wait", "finish-alone"]
    clock: Callable[[], float]
    telling: Telling
    _slow: dict[str, tuple[object, float | None]] = field(init=False, default_factory=dict)
    _said: dict[str, tuple[float | None, int]] = field(init=False, default_factory=dict)
    _suspects: set[str] = field(init=False, default_factory=set)
    _blamed: set[str] = field(init=False, default_factory=set)
    _view: int | None = field(init=False, default=None)
    _tried: tuple[int, int] = field(init=False, default=(0, 0))

    def until_here(self, missing: Callable[[], list[str]], what: str) -> None:
        """Take mail until ``missing()`` is empty; ``what`` is awaited of those peers.

        Raises:
            GoAlone: a peer broke the rules, left, or is absent beyond patience.
            PeerUnreachable: the same absence with ``on_absent = "wait"``.
            LinkDown: the link was closed by somebody else in this process.
        """
        quiet, lifeless = Quiet(self.clock), Quiet(self.clock)
        silent: dict[str, float] = {}
        self._reconsider({}, what)
        for peer in missing():
            quiet.of(peer, self._progress(peer))
        self._without_life(lifeless)
        while waiting := missing():
            self.take(waiting, what, silent)
            quiet.look()
            lifeless.look()
            before, silent = silent, self._without_life(lifeless)
            awaited = missing()
            quiet.only(awaited)
            for peer in awaited:
                silent[peer] = quiet.of(peer, self._progress(peer))
            self._reconsider(silent, what)
            for peer in silent if self.patience else ():
                if before.get(peer, 0.0) <= self.patience / 2 < silent[peer] <= self.patience:
                    self._warn(peer, silent[peer])
        self.telling.waited()

    def _without_life(self, lifeless: Quiet) -> dict[str, float]:
        """For how long there was no sign of life of those without whom another member wants to go
        on: nothing of them may be awaited here, and it would wait for this party's signature."""
        found = {peer: lifeless.of(peer, self._seen(peer)) for peer in self.mail.peers}
        doubted = self.mail.membership.views.left_out(self.mail.book.round)
        return {peer: found[peer] for peer in sorted(doubted & found.keys())}

    def _reconsider(self, silent: Mapping[str, float], what: str) -> None:
        """Who is absent, and can the others go on without?"""
        membership = self.mail.membership
        doublings = membership.pace.doublings(self.mail.book.round)
        patience = self.patience * 2.0**doublings
        late = {p: s for p, s in silent.items() if patience and s > patience}
        if not membership.dynamic or self.mail.run is None:
            if late:
                self._absent(sorted(late), what, max(late.values()))
            return
        if membership.returning.shared is not None and what != "greeting":
            raise CaughtUp
        if self._tried != (tried := (doublings, membership.views.current.number)):
            self._tried = tried  # whoever is there may try once more
            self._slow = {p: was for p, was in self._slow.items() if self._seen(p) == was[1]}
        for peer in [p for p, was in self._slow.items() if self._progress(p) != was[0]]:
            del self._slow[peer]  # it is back
        for peer in late.keys() - self._slow.keys():
            self._slow[peer] = self._progress(peer), self._seen(peer)
        suspects = self._slow.keys() - self._excused(silent, patience)
        if not membership.lacking(suspects | (idle := membership.idle())):
            suspects |= idle
        for peer in sorted(suspects - self._suspects):
            silence = late.get(peer, self.patience if peer in self._slow else 0.0)
            self.folder.log("suspected", peer=peer, silent_s=round(silence, 3), **{"for": what})
            why = f"showed no progress for {lasting(silence)} while its {what} is awaited"
            if peer not in self._slow:
                why = "keeps this round from closing in ever more views"
            self.telling.say(f"{peer} {why}: going on without it if the others agree")
        self._suspects = suspects
        enough = membership.consider(suspects)
        self._tell_view()
        if enough:
            return
        if membership.hopeless:
            for _, error in sorted(membership.failures.items()):
                raise error  # what a person can mend is no end of the federation
            for peer, reason in sorted(membership.gone.items()):
                raise GoAlone(f"{peer}: {reason}")
        # Only silence in this very wait ends it, and only if nothing is here that was not read.
        if late and (event := self.link.next(timeout=0.0)) is not None:
            self.handle(event)
        elif late:
            self._absent(sorted(suspects), what, max(late.values()))

    def _excused(self, awaited: Mapping[str, float], patience: float) -> set[str]:
        """Those of the slow that are connected and wait themselves for a third member that is gone
        or is ``awaited`` here too, or have signed a view without it; for so many seconds, and for
        :data:`EXCUSED` times ``patience`` at most. Where they only wait for each other, the last by
        name is not: everybody then drops the same one."""
        links, membership = self.link.peers_status(), self.mail.membership
        members = membership.views.current.members
        third = {*awaited, *self._slow, *membership.gone}.intersection(members)
        blocked: dict[str, set[str]] = {}
        for peer in self._slow:
            if awaited.get(peer, 0.0) > EXCUSED * patience:
                continue
            view = links[peer]
            awaits = set() if view.status is None else set(view.status.awaits)
            awaits |= membership.views.left_out_by(peer, self.mail.book.round)
            if view.state == "connected" and third & (awaits - {peer}):
                blocked[peer] = third & (awaits - {peer})
        excused = set(blocked)
        circle = excused == self._slow.keys() and set().union(*blocked.values()) <= excused
        return excused - {max(excused)} if excused and circle else excused

    def confirmed(self, last: int, within: float) -> bool:
        """Serve peers until each has said goodbye after closing ``last``; False if the
        last one was silent for ``within`` seconds, or misbehaves now that all is closed."""

        membership, left = self.mail.membership, self.mail.left

        def finished(peer: str) -> bool:
            if peer in left:
                alone = membership.dynamic and left[peer].reason == "alone"
                return alone or left[peer].closed >= last
            return membership.dynamic and self.folder.finished.get(peer, 0) >= last

        def unfinished() -> list[str]:
            """Also whoever was left out: it may come back for what the others closed."""
            owed = [peer for peer in self.mail.peers if peer not in membership.quarantined]
            return [peer for peer in owed if not finished(peer)]

        quiet, still = Quiet(self.clock), Quiet(self.clock)
        why = f"no sign of life for {within:g} s, or no progress for {LONGEST_GOODBYE * within:g} s"
        try:
            while waiting := [p for p in unfinished() if p not in membership.lost]:
                silent = min(quiet.of(peer, self._seen(peer)) for peer in waiting)
                stuck = min(still.of(peer, self._progress(peer)) for peer in waiting)
                if silent > within or stuck > LONGEST_GOODBYE * within:
                    break
                self.take(waiting, "goodbye", {})
                quiet.look()
                still.look()
        except (GoAlone, PeerError) as error:
            why = str(error)
        if waiting := unfinished():
            self.folder.log("unconfirmed", of=waiting, reason=why)
            return False
        self.telling.waited()
        return True

    def take_all(self, what: str) -> None:
        """Take in what came meanwhile, without waiting for more. Whoever was left out, or lacks
        signatures, says so at once: ``what`` it waits for then."""
        for _ in range(MOST_AT_ONCE):
            if (event := self.link.next(timeout=0.0)) is None:
                break
            self.handle(event)
        if self.mail.membership.entry():
            self._reconsider({}, what)

    def take(self, waiting: list[str], what: str, silent: dict[str, float]) -> None:
        """Tell that ``what`` is awaited, and take in one event if one comes within a second."""
        self.telling.waiting(what, waiting, silent)
        event = self.link.next(timeout=1.0)
        self.telling.tick()
        if event is not None:
            self.handle(event)
        elif self.link.closed:
            raise LinkDown(f"the link was closed while waiting for the {what} of {waiting}")

    def handle(self, event: Event) -> None:
        """Take in ``event``; what breaks the rules ends the federation, never the process. Among
        three or more it ends it with that peer, if enough others are left."""
        self._hear(self.mail.handle, event)
        # Statements that had to wait for what came meanwhile, be it a liar's end.
        while (ready := self.mail.membership.ready()) is not None:
            self._hear(self.mail.membership.noted, ready)
        self._tell_view()

    def _hear(self, by: Callable[[Any], None], event: Event) -> None:
        try:
            by(event)
        except Violation as fault:
            self.blame(fault.peer, fault.reason)

    def _tell_view(self) -> None:
        """Say who votes, when that has changed."""
        view, known = self.mail.membership.views.current, self._view
        self._view = view.number
        if known is None or known == view.number:
            return
        out = sorted({*self.mail.peers} - {*view.members})
        without = f", without {', '.join(out)}" if out else ""
        self.telling.say(
            f"from round {self.mail.number} on {', '.join(view.members)} vote{without}"
        )

    def _progress(self, peer: str) -> object:
        """What changes when ``peer`` gets on: its status, its statements, and bytes of updates both
        ways, since what a peer pulls from us is its progress too. What moves between us and others
        is not; statements that others pass on count once it gives a sign of life itself, or
        one whose link is cut would seem to be there."""
        view, membership = self.link.peers_status()[peer], self.mail.membership
        life, said = self._said.get(peer, (None, 0))
        if membership.dynamic and life != view.last_sign_of_life:
            said = membership.views.said(peer, self.mail.book.round)
            self._said[peer] = view.last_sign_of_life, said
        return view.since_change, view.moved, said

    def _seen(self, peer: str) -> float | None:
        return self.link.peers_status()[peer].last_sign_of_life

    def blame(self, peer: str, reason: str) -> None:
        """Note what a peer did against the rules. It takes no part in this run any more.

        Raises:
            GoAlone: too few others are left, be they absent or not.
        """
        reason, membership = shown(reason, 400), self.mail.membership
        if peer in self._blamed:
            return
        self._blamed.add(peer)
        self.rejected.append({"round": self.mail.number, "peer": peer, "reason": reason})
        self.folder.log("violation", round=self.mail.number, peer=peer, reason=reason)
        if not membership.dynamic:
            raise GoAlone(f"{peer}: {reason}")
        membership.quarantine(peer, reason)
        self.telling.say(f"{peer}: {reason}; going on without it if the others agree")
        if self.mail.run is None or membership.hopeless:
            raise GoAlone(f"{peer}: {reason}")
        membership.consider(self._suspects)

    def _warn(self, peer: str, silent: float) -> None:
        """Half of the patience is used up: whoever watches may still ring the peer."""
        left = self.patience - silent
        fields = {"silent_s": round(silent, 3), "patience_s": self.patience}
        others = self.mail.membership.dynamic and self.mail.run is not None
        then = "others" if others else self.on_absent
        self.folder.log("patience", peer=peer, then=then, **fields)
        ends = "finishes alone" if self.on_absent == "finish-alone" else "ends with exit code 3"
        if others:
            ends = f"goes on without it if enough others agree, else {ends}"
        self.telling.say(
            f"{peer} showed no progress for {lasting(silent)}; in {lasting(left)} this run {ends}"
        )

    def _absent(self, peers: list[str], what: str, silent: float) -> NoReturn:
        its = "its" if len(peers) == 1 else "their"
        text = f"{', '.join(peers)} showed no progress for {silent:.0f} s while we wait for {its} "
        text += what + self._why_not_without()
        fields = {"for": what, "silent_s": round(silent, 3)}
        for peer in peers:
            self.folder.log("absent", peer=peer, then=self.on_absent, **fields)
        if self.on_absent == "finish-alone":
            raise GoAlone(text)
        raise PeerUnreachable(
            text, "run again when the peer is back: the run goes on where it stopped"
        )

    def _why_not_without(self) -> str:
        """Why three or more do not go on without who is absent."""
        if not self.mail.membership.dynamic:
            return ""
        if self.mail.run is None:
            return ": all parties must meet once before any can go on without another"
        return f", and not enough others are left: {self.mail.membership.lacking(self._suspects)}"
