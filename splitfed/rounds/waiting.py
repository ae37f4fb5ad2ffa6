"""Waiting for peers: with patience, never silently, and only for what is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from splitfed.errors import LinkDown, PeerError, PeerUnreachable
from splitfed.progress import lasting
from splitfed.rounds.mail import Mail, Violation
from splitfed.rounds.quiet import Quiet
from splitfed.rounds.telling import Telling
from splitfed.rounds.vote import shown
from splitfed.store import RunFolder
from splitfed.transport.events import Event
from splitfed.transport.link import Link

CONFIRM_WITHIN = 60.0
"""Seconds after a peer's last sign of life at which a finished party stops waiting for it."""


class GoAlone(Exception):
    """Inside this package only: the federation is over for us, the model is not."""


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

    def until_here(self, missing: Callable[[], list[str]], what: str) -> None:
        """Take mail until ``missing()`` is empty; ``what`` is awaited of those peers.

        Raises:
            GoAlone: a peer broke the rules, left, or is absent beyond patience.
            PeerUnreachable: the same absence with ``on_absent = "wait"``.
            LinkDown: the link was closed by somebody else in this process.
        """
        quiet = Quiet(self.clock)
        silent: dict[str, float] = {}
        for peer in missing():
            quiet.of(peer, self._progress(peer))
        while waiting := missing():
            self.take(waiting, what, silent)
            if not self.patience:
                continue
            quiet.look()
            before, silent = silent, {}
            for peer in missing():
                silent[peer] = quiet.of(peer, self._progress(peer))
                if silent[peer] > self.patience:
                    self._absent(peer, what, silent[peer])
                if before.get(peer, 0.0) <= self.patience / 2 < silent[peer]:
                    self._warn(peer, silent[peer])
        self.telling.waited()

    def confirmed(self, last: int, within: float) -> bool:
        """Serve peers until each has said goodbye after closing ``last``; False if the
        last one was silent for ``within`` seconds, or misbehaves now that all is closed."""

        def unfinished() -> list[str]:
            left = self.mail.left
            return [p for p in self.mail.peers if p not in left or left[p].closed < last]

        quiet = Quiet(self.clock)
        why = f"no sign of life for {within:g} s"
        try:
            while waiting := unfinished():
                silent = min(quiet.of(peer, self._seen(peer)) for peer in waiting)
                if silent > within:
                    break
                self.take(waiting, "goodbye", {})
                quiet.look()
        except (GoAlone, PeerError) as error:
            why = str(error)
        if waiting := unfinished():
            self.folder.log("unconfirmed", of=waiting, reason=why)
            return False
        self.telling.waited()
        return True

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
        """Take in ``event``; what breaks the rules ends the federation, never the process."""
        try:
            self.mail.handle(event)
        except Violation as fault:
            self.reject(self.mail.number, fault.peer, fault.reason)

    def _progress(self, peer: str) -> object:
        """What changes when ``peer`` gets on: its status, and bytes of updates both ways, since
        what a peer pulls from us is its progress too. What moves between us and others is not."""
        view = self.link.peers_status()[peer]
        return view.since_change, view.moved

    def _seen(self, peer: str) -> float | None:
        return self.link.peers_status()[peer].last_sign_of_life

    def reject(self, round: int, peer: str, reason: str) -> NoReturn:
        """Note what a peer did against the rules and leave the federation.

        Raises:
            GoAlone: always.
        """
        reason = shown(reason, 400)
        self.rejected.append({"round": round, "peer": peer, "reason": reason})
        self.folder.log("violation", round=round, peer=peer, reason=reason)
        raise GoAlone(f"{peer}: {reason}")

    def _warn(self, peer: str, silent: float) -> None:
        """Half of the patience is used up: whoever watches may still ring the peer."""
        left = self.patience - silent
        fields = {"silent_s": round(silent, 3), "patience_s": self.patience}
        self.folder.log("patience", peer=peer, then=self.on_absent, **fields)
        ends = "finishes alone" if self.on_absent == "finish-alone" else "ends with exit code 3"
        self.telling.say(
            f"{peer} showed no progress for {lasting(silent)}; in {lasting(left)} this run {ends}"
        )

    def _absent(self, peer: str, what: str, silent: float) -> NoReturn:
        text = f"{peer} showed no progress for {silent:.0f} s while we wait for its {what}"
        fields = {"for": what, "silent_s": round(silent, 3)}
        self.folder.log("absent", peer=peer, then=self.on_absent, **fields)
        if self.on_absent == "finish-alone":
            raise GoAlone(text)
        raise PeerUnreachable(
            text, "run again when the peer is back: the run goes on where it stopped"
        )
