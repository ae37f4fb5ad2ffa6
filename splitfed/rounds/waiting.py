"""Waiting for peers: with patience, never silently, and only for what is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from splitfed.errors import LinkDown, PeerError, PeerUnreachable
from splitfed.rounds.mail import Mail, Violation
from splitfed.rounds.vote import shown
from splitfed.store import RunFolder
from splitfed.transport.events import Event
from splitfed.transport.link import Link


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

    def until_here(self, missing: Callable[[], list[str]], what: str) -> None:
        """Take mail until ``missing()`` is empty; ``what`` is awaited of those peers.

        Raises:
            GoAlone: a peer broke the rules, left, or is absent beyond patience.
            PeerUnreachable: the same absence with ``on_absent = "wait"``.
            LinkDown: the link was closed by somebody else in this process.
        """
        began, seen = self.clock(), self.link.traffic().payload_received
        while waiting := missing():
            if self.take(waiting, what) or not self.patience:
                continue
            now, received = self.clock(), self.link.traffic().payload_received
            if received > seen:  # bytes of an update are progress too
                began, seen = now, received
            for peer in missing():
                changed = self.link.peers_status()[peer].since_change
                silent = now - max(began, began if changed is None else changed)
                if silent > self.patience:
                    self._absent(peer, what, silent)

    def confirmed(self, last: int, within: float) -> bool:
        """Serve peers until each has said goodbye after closing ``last``; False if the
        last one was silent for ``within`` seconds, or misbehaves now that all is closed."""

        def unfinished() -> list[str]:
            left = self.mail.left
            return [p for p in self.mail.peers if p not in left or left[p].closed < last]

        began = self.clock()
        try:
            while waiting := unfinished():
                self.take(waiting, "goodbye")
                quiet = min(self.clock() - began, *(self.silent(peer) for peer in waiting))
                if quiet > within:
                    break
        except (GoAlone, PeerError) as error:
            self.folder.log("unconfirmed", error=str(error))
        return not unfinished()

    def take(self, waiting: list[str], what: str) -> bool:
        """Take in one event; False if none came within a second."""
        self.folder.set_status(
            {"phase": "waiting", "round": self.mail.number, "for": what, "of": waiting}
        )
        event = self.link.next(timeout=1.0)
        if event is None:
            if self.link.closed:
                raise LinkDown(f"the link was closed while waiting for the {what} of {waiting}")
            return False
        self.handle(event)
        return True

    def handle(self, event: Event) -> None:
        """Take in ``event``; what breaks the rules ends the federation, never the process."""
        try:
            self.mail.handle(event)
        except Violation as fault:
            self.reject(self.mail.number, fault.peer, fault.reason)

    def silent(self, peer: str) -> float:
        """Seconds since the peer's last sign of life; infinite if there was none."""
        seen = self.link.peers_status()[peer].last_sign_of_life
        return float("inf") if seen is None else self.clock() - seen

    def reject(self, round: int, peer: str, reason: str) -> NoReturn:
        """Note what a peer did against the rules and leave the federation.

        Raises:
            GoAlone: always.
        """
        reason = shown(reason, 400)
        self.rejected.append({"round": round, "peer": peer, "reason": reason})
        self.folder.log("violation", round=round, peer=peer, reason=reason)
        raise GoAlone(f"{peer}: {reason}")

    def _absent(self, peer: str, what: str, silent: float) -> NoReturn:
        text = f"{peer} showed no progress for {silent:.0f} s while we wait for its {what}"
        if self.on_absent == "finish-alone":
            raise GoAlone(text)
        raise PeerUnreachable(
            text, "run again when the peer is back: the run goes on where it stopped"
        )
