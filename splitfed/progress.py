"""What a party's run tells whoever watches it, without knowing whether anybody does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Told by the thread of the run, in order; each call returns at once.

    Texts may name peers and public figures; they go to the screen, never to a peer.
    """

    def on_phase(self, text: str) -> None:
        """The run now does ``text``, such as "training" or "exchanging"."""
        ...

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        """``step`` of ``steps`` local training steps of ``round`` are done."""
        ...

    def on_round(self, row: Mapping[str, Any]) -> None:
        """A round is closed; ``row`` is its entry of the report's ``history``."""
        ...

    def on_peer(self, peer: str, text: str) -> None:
        """What ``peer`` is doing, or what is the matter with the link to it."""
        ...

    def say(self, text: str) -> None:
        """One line that should not be missed."""
        ...


class Silent:
    """A :class:`Progress` that nobody watches."""

    def on_phase(self, text: str) -> None:
        pass

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        pass

    def on_round(self, row: Mapping[str, Any]) -> None:
        pass

    def on_peer(self, peer: str, text: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass
