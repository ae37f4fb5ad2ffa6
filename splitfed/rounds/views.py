"""Who votes: numbered lists of members, each made by the signatures of all its members.

View 0 is all parties. When members are gone, the others sign the next view, and a round is
closed by equal votes of all members of one view. It is single-decree Paxos (L. Lamport, *The
Part-Time Parliament*, 1998) for each round, with the whole view as the quorum: every view holds
more than half of all parties, so any two have a member in common; that member's signature
carries its vote of the earlier view, and after signing it votes in no lower view. So a later
view can only come to what an earlier one may have come to.

Nothing here does input or output, looks at a clock or decides who is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from splitfed.rounds.view import HIGHEST, Statement, View

LEAP = 64
"""How far above all others one party alone can take the numbers of views, and how many of its
newest statements are kept for views that are not made."""
MOST_ALONE = 8
"""Lists of members for one round that nobody else signed: who proposed more only keeps the others
from agreeing. So many of such lists are progress of their party."""


class Views:
    """The views that one party knows of.

    Attributes:
        current: the highest view that all its members made, this party among them.
        known: the views made while the open round was open, by number, ``current`` and
            ``without_me`` included: equal votes of all members of any of them close it, whether
            or not this party is one of them.
        without_me: the highest made by others without this party, if higher than ``current``.
        signed: number of the highest view that this party signed.
        crowded_out: statements that were forgotten since newer ones of their party came, as
            (view, party); whoever keeps them too takes them from here.
    """

    def __init__(
        self, parties: Iterable[str], party: str, minimum: int, *, root: str | None = None
    ) -> None:
        """``minimum``: members of a view at least; ``root``: whom every view needs."""
        self._party, self._minimum = party, minimum
        self._needed = {party} if root is None else {party, root}
        self._parties = tuple(sorted(parties))
        self.current = View(0, self._parties)
        self.known = {0: self.current}
        self.without_me: View | None = None
        self.signed = 0
        self.crowded_out: list[tuple[int, str]] = []
        self._floor = 0
        self._tops: dict[str, int] = {}
        self._heard: dict[tuple[int, int, tuple[str, ...]], dict[str, Statement]] = {}
        self._words: dict[tuple[int, str], Statement] = {}

    @property
    def pending(self) -> bool:
        """Whether this party signed a view that is not made yet: it must not vote then."""
        return self.signed > self.current.number

    @property
    def mine(self) -> Statement | None:
        """What this party signed last; None: nothing."""
        return self._words.get((self.signed, self._party))

    @property
    def unsigned(self) -> tuple[str, ...]:
        """Whose signature the pending view lacks, by name; empty without one."""
        if not self.pending or (mine := self.mine) is None:
            return ()
        heard = self._heard[mine.view, mine.round, mine.members]
        return tuple(name for name in mine.members if name not in heard)

    def heard_of(self, party: str, round: int) -> bool:
        """Whether ``party`` signed a view above the current one for ``round``."""
        return any(
            word.round == round and number > self.current.number
            for (number, name), word in self._words.items()
            if name == party
        )

    def left_out_by(self, party: str, round: int) -> set[str]:
        """Whom ``party`` left out when it last signed a view, if that is above the present one and
        for ``round``."""
        word = self.word(self.top(party), party)
        if word is None or word.round != round or word.view <= self.current.number:
            return set()
        return set(self._parties).difference(word.members)

    def left_out(self, round: int) -> set[str]:
        """The other members of the present view without whom one of them wants to close
        ``round``."""
        others = set(self.current.members) - {self._party}
        return others & {out for name in others for out in self.left_out_by(name, round)}

    @property
    def floor(self) -> int:
        """A statement for a lower view says nothing about the open round."""
        return self._floor

    @property
    def _highest(self) -> int:
        """The highest number to go beyond: what one party alone signed far above all others says
        nothing."""
        first, second, *_ = *sorted(self._tops.values(), reverse=True), 0, 0
        return max(self.signed, min(first, second + LEAP))

    def alive(self, round: int, out: Collection[str]) -> set[str]:
        """Who should vote on ``round``: the members of the present view and of the one made without
        this party, and whoever said so for this very round; but for those that are ``out``."""
        left = () if self.without_me is None else self.without_me.members
        back = [name for name in self._parties if self.heard_of(name, round)]
        found = {self._party, *self.current.members, *left, *back}.difference(out)
        # Too few: whoever was left out for a while may be there again.
        found = found if len(found) >= self._minimum else set(self._parties).difference(out)
        # Without the loud ones, as many as can be spared, the last by name. Who is loud itself
        # gives way, or each of them would want another view for ever.
        noisy = self.noisy(round)
        loud = sorted(found & noisy - self._needed, reverse=True)
        calm = found.difference(loud[: max(0, len(found) - self._minimum)])
        return self._followed(round, calm, out) if self._party in noisy else calm

    def _followed(self, round: int, calm: set[str], out: Collection[str]) -> set[str]:
        """``calm``, or a list with this party that another one signed last for ``round``: one that
        its members do not contradict by their own last lists before others, then that which most
        of them signed, then ``calm``, then the first by name."""
        last: dict[str, tuple[str, ...]] = {}
        for number, name in sorted(self._words):
            word = self._words[number, name]
            if word.round == round and name != self._party:
                last[name] = word.members
        own = tuple(sorted(calm))

        def rank(members: tuple[str, ...]) -> tuple[bool, int, bool, tuple[str, ...]]:
            theirs = [last[name] for name in members if name in last]
            contradicted = not all(set(names).issuperset(members) for names in theirs)
            return contradicted, -theirs.count(members), members != own, members

        lists = {m for m in last.values() if self._needed <= {*m} and not {*m}.intersection(out)}
        *_, best = min(map(rank, {*lists, own}))
        return set(best)

    def word(self, view: int, party: str) -> Statement | None:
        """What ``party`` signed for ``view``, if it was heard and is kept."""
        return self._words.get((view, party))

    def top(self, party: str) -> int:
        """Number of the highest view that ``party`` signed, as far as it was heard; 0: none."""
        return self._tops.get(party, 0)

    def said(self, party: str, round: int) -> int:
        """How many views ``party`` signed for ``round``, as far as that is progress: alone a
        few, and together with others no more than are kept."""
        sizes = [
            len(group)
            for (_, of, _), group in self._heard.items()
            if of == round and party in group
        ]
        alone = sizes.count(1)
        return len(sizes) - alone + min(alone, MOST_ALONE)

    def noisy(self, round: int) -> set[str]:
        """Who proposed more than :data:`MOST_ALONE` lists for ``round`` that nobody else signed."""
        alone = Counter(
            name
            for (_, of, _), group in self._heard.items()
            for name in group
            if of == round and len(group) == 1
        )
        return {name for name, lists in alone.items() if lists > MOST_ALONE}

    def behind(self, round: int) -> set[str]:
        """Whoever signed last while ``round`` or an earlier one was open for it."""
        last: dict[str, int] = {}
        for (_, party), word in self._words.items():
            last[party] = max(last.get(party, 0), word.round)
        return {party for party, of in last.items() if of <= round}

    @property
    def foreign(self) -> list[View]:
        """The views without this party by whose votes the open round or a later one may be
        closed."""
        return [view for view in self._made_views.values() if self._party not in view.members]

    @property
    def _made_views(self) -> dict[int, View]:
        """All that are known to be made, by number."""
        left = self.without_me
        return self.known if left is None else {**self.known, left.number: left}

    def hear(self, statement: Statement) -> Statement | None:
        """Note a statement whose signatures were verified. Views may be made by it.

        Returns:
            The earlier one if the party signed another for this number, which counts on; else
            None.
        """
        key = statement.view, statement.party
        earlier = self._words.get(key)
        if earlier is not None:
            return None if earlier == statement else earlier
        self._tops[statement.party] = max(self.top(statement.party), statement.view)
        if statement.party == self._party:
            self.signed = max(self.signed, statement.view)
        if statement.view < self._floor:
            return None
        self._words[key] = statement
        group = statement.view, statement.round, statement.members
        self._heard.setdefault(group, {})[statement.party] = statement
        if set(self._heard[group]) == set(statement.members):
            self._made(View(statement.view, statement.members, dict(self._heard[group])))
        self._make_room(statement.party)
        return None

    def _make_room(self, party: str) -> None:
        """Keep the newest :data:`LEAP` statements of ``party`` for views that are not made."""
        made = self._made_views
        spare = sorted(n for n, name in self._words if name == party and n not in made)
        for number in spare[:-LEAP]:
            word = self._words.pop((number, party))
            group = self._heard[number, word.round, word.members]
            del group[party]
            if not group:
                del self._heard[number, word.round, word.members]
            self.crowded_out.append((number, party))

    def _made(self, view: View) -> None:
        if self._party in view.members:
            self.known[view.number] = view
            if view.number > self.current.number:
                self.current = view
        else:
            self.known.setdefault(view.number, view)
            if self.without_me is None or view.number > self.without_me.number:
                self.without_me = view
        left = self.without_me
        if left is not None and left.number < self.current.number:
            self.without_me = None

    def turned(self) -> None:
        """The open round is closed: only the current view and later ones matter from now on."""
        number = self._floor = self.current.number
        self.known = {made: view for made, view in self._made_views.items() if made >= number}
        self._words = {key: word for key, word in self._words.items() if key[0] >= number}
        self._heard = {key: group for key, group in self._heard.items() if key[0] >= number}

    def _in_vain(self, mine: Statement) -> bool:
        """Whether a member signed another list for a later view, or for this one: it may never sign
        this one, or votes in it no more. Numbers that nobody follows do not count."""
        return any(
            mine.view <= number <= self._highest
            and name in mine.members
            and word.members != mine.members
            for (number, name), word in self._words.items()
        )

    def wish(self, round: int, alive: Iterable[str]) -> tuple[int, tuple[str, ...]] | None:
        """Number and members of the view that this party should sign now; None: nothing.

        All that agree on who is alive come to one view: whoever has signed less joins the
        highest proposal of these members, and whoever has signed another list proposes anew.

        Args:
            round: the open one.
            alive: who should vote on it, this party among them.
        """
        members = tuple(sorted(alive))
        if len(members) < self._minimum or not self._needed <= {*members}:
            return None
        same = [
            number
            for number, of, names in self._heard
            if of == round and names == members and self.signed < number <= self._highest
        ]
        if same:
            return max(same), members
        if self._highest >= HIGHEST:
            return None  # liars took the numbers there: no more views
        anew = self._highest + 1, members
        if self.pending and (mine := self.mine) is not None:
            waits = (mine.round, mine.members) == (round, members) and not self._in_vain(mine)
            return None if waits else anew
        at_rest = self.without_me is None and members == self.current.members
        # Whoever has signed a later view votes in this one no more: to wait for it is in vain.
        gone_on = any(self.heard_of(name, round) for name in members if name != self._party)
        return None if at_rest and not gone_on else anew
