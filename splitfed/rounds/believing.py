"""Which statements wait until the vote inside is seen to follow from the view it was cast in."""

from __future__ import annotations

from collections.abc import Container

from splitfed.rounds.view import Statement, follows
from splitfed.rounds.views import Views
from splitfed.transport.events import Noted


class Believing:
    """Anybody can make a vote up; what a later view must adopt rests on those that were cast.

    Used by the engine's thread only. ``liars``: parties that are out.
    """

    def __init__(self, views: Views, party: str, liars: Container[str]) -> None:
        self._views, self._party, self._liars = views, party, liars
        self._aside: dict[str, tuple[Statement, Noted]] = {}

    def now(self, word: Statement, round: int) -> bool:
        """Whether ``word`` can be taken in while ``round`` is open. Only the views that this party
        is to be a member of matter. Where another member of the view of that vote lied, it may
        have told each of us something else: then nothing can be expected of the vote.
        """
        vote = word.cast
        if vote is None or not vote.view or self._party not in word.members:
            return True
        if word.round != round:
            return word.round < round
        view = self._views.known.get(vote.view)
        if view is None:
            return False
        others = [name for name in view.members if name != word.party]
        return follows(vote, view) or any(name in self._liars for name in others)

    def put_aside(self, word: Statement, event: Noted) -> None:
        """Keep it for later; of each party the newest."""
        known = self._aside.get(word.party)
        if known is None or known[0].view < word.view:
            self._aside[word.party] = word, event

    def ready(self, round: int) -> Noted | None:
        """One that can be taken in by now, which waits no longer; None: there is none."""
        for name, (word, event) in self._aside.items():
            if self.now(word, round):
                del self._aside[name]
                return event
        return None
