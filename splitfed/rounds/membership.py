"""One party's part in the views: what it signs, what it passes on, and who is gone for it.

Only in federations of three or more. Two parties never form a smaller view: one that goes on
alone has left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import torch

from splitfed.errors import FolderDiverged, ProtocolViolation, SplitfedError
from splitfed.rounds.believing import Believing
from splitfed.rounds.book import Book
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Signer
from splitfed.rounds.liars import Liars
from splitfed.rounds.pace import Claims, Pace
from splitfed.rounds.remaining import Remaining
from splitfed.rounds.returning import Returning
from splitfed.rounds.schedule import plan
from splitfed.rounds.serving import Serving
from splitfed.rounds.statements import (
    Exchange,
    Lie,
    check_statement,
    decode_lie,
    decode_statement,
    own_statement,
)
from splitfed.rounds.terms import Terms
from splitfed.rounds.view import Statement, demand_of, shown_for, shows
from splitfed.rounds.views import Views
from splitfed.rounds.violations import blaming
from splitfed.rounds.vote import Vote
from splitfed.store import RunFolder
from splitfed.transport.events import Noted, note_message, vote_message
from splitfed.transport.link import Link


class Membership(Remaining):
    """Used by the engine's thread only.

    Attributes:
        dynamic: whether there can be views at all.
        views: those that this party knows of.
        lost: peers that are gone for as long as this process lives, with the reason.
        claims: which rounds peers say they have closed.
        pace: of the views that this party signs.
        failures: why the connection to a peer that is gone can never come about as things stand.
        returning: what this party, when left out, learns of what the others closed.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        party: str,
        folder: RunFolder,
        link: Link,
        entrance: Entrance,
        signer: Signer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms, self._party, self._folder = terms, party, folder
        self._link, self._entrance, self._signer = link, entrance, signer
        self.dynamic = len(terms.parties) > 2
        self.views = Views(terms.parties, party, terms.members_needed, root=terms.root)
        self.lost: dict[str, str] = {}
        self.claims = Claims(clock)
        self.failures: dict[str, SplitfedError] = {}
        self._late: set[str] = set()
        self.pace = Pace(clock)
        self.returning = Returning(terms)
        self._book = Book(round=0)
        self._kinds: tuple[str, ...] = ()
        self._run: bytes | None = None
        self._serving = Serving(
            terms=terms, party=party, folder=folder, link=link, signer=signer, views=self.views
        )
        self._liars = Liars(terms=terms, party=party, folder=folder, link=link, signer=signer)
        self._believing = Believing(self.views, party, self._liars.quarantined)
        for row in folder.statements() if self.dynamic else ():
            message = note_message("view", row.body)
            if row.party == party or terms.signed_by(row.party, message, row.signature, past=True):
                self.views.hear(decode_statement(row.body))
        if (made := self.views.current).number:  # in case the process died in between
            folder.note_view(made.number, made.round, made.members)

    @property
    def _exchange(self) -> Exchange:
        """Run, number and kind of the open exchange; after the last, of one that never comes."""
        assert self._run is not None  # nothing is exchanged before the run has a name
        round = self._book.round
        kinds = plan(self._kinds, self._terms)
        return self._run, round, kinds[round - 1] if round <= len(kinds) else ""

    # --- the open round ----------------------------------------------------------------

    def open(
        self,
        book: Book,
        kinds: Sequence[str],
        run: bytes | None,
        g: Mapping[str, torch.Tensor],
    ) -> None:
        """``book`` is of the open round; those of ``kinds`` are closed, and ``g`` came of them."""
        self._book, self._kinds, self._run = book, tuple(kinds), run
        self._serving.agreed = run, g
        if self.dynamic:
            self._turn()
            self._serving.say_again(book.round)

    def missing_inputs(self) -> list[str]:
        """Of whom something is awaited before this party can vote: signatures that the next view
        lacks, or updates. One of a party outside the view is due from whoever says it holds it, and
        so is one of this party that it did not release itself."""
        if waiting := self.entry():
            return waiting
        missing = set(self._book.missing_inputs(self._terms))
        if self._party not in self._book.inputs:
            missing.discard(self._party)
        view = self.views.current
        due = missing & set(view.members) - {self._party}
        for party in missing - due:
            due |= {name for name, word in view.statements.items() if shows(word, party)}
        return sorted((due - {self._party}) or (missing - {self._party}))

    def missing_votes(self, own: Vote) -> list[str]:
        """Whose vote is awaited in the view in which this party voted ``own``; nobody's where the
        round is closed, or another view has come."""
        if self.views.pending or self.views.current.number != own.view or self.closing():
            return []
        if self.dynamic and self._book.contradiction(own) is not None:
            return []  # no vote that is still to come can mend that
        return self._book.missing_votes(self._terms)

    def closing(self) -> Vote | None:
        """My vote in a view whose members' equal votes close the open round; None: none yet."""
        return self._book.closing(self.views.known.values(), self._party)

    def closed(self, round: int, g: Mapping[str, torch.Tensor]) -> None:
        """``round`` is closed here, and ``g`` came of it."""
        if not self.dynamic:
            return
        self._serving.agreed = self._run, g
        self.views.turned()
        voted = [vote.view for vote in self._folder.votes(round)]
        self._folder.drop_statements(below=min([*voted, self.views.current.number]))
        self.returning.forget(round)
        out = set(self._terms.parties) - set(self.views.current.members)
        connected = {
            p for p, view in self._link.peers_status().items() if view.state == "connected"
        }
        behind = (out & connected) | self.views.behind(round)
        for peer in sorted(behind - {self._party}):
            self.serve(peer)

    def entry(self) -> list[str]:
        """Whose signatures are awaited until this party is a member again; nobody's where it is
        one, or where the votes that close the round are here. Until then it releases nothing."""
        if self.closing():
            return []
        if self.views.pending:
            return list(self.views.unsigned)
        return [] if (left := self.views.without_me) is None else list(left.members)

    def ahead(self) -> list[str]:
        """Whoever greeted this party with the open round closed: it is closed without it then, and
        what they pass on tells so. A claim that nothing follows stops nobody for long."""
        if not self.dynamic or self.closing():
            return []
        here = [peer for peer in self.peers if peer not in self._late]
        return self.claims.ahead(here, self._book.round)

    def awaited_before_release(self) -> list[str]:
        """Whom this party hears out before it releases anything in the open round."""
        return self.entry() or self.ahead()

    def counts(self) -> bool:
        """Whether an update of this party can still count in the open round."""
        demand = self._book.demand
        return demand is None or self._party in demand.parties

    # --- who takes part ----------------------------------------------------------------

    def consider(self, late: Iterable[str]) -> bool:
        """Sign the next view where it should be another than the present one.

        Returns:
            Whether enough parties are left to go on with.
        """
        self._late = set(late)
        if self._book.round <= self._folder.last_closed or not self._exchange[2]:
            return True  # all rounds are closed: nothing is voted on
        if self.lacking(self._late):
            return False
        if (left := self.views.without_me) is not None and left.round > self._book.round:
            return True  # they are ahead: first what they closed has to come here
        wish = self.wish(self._late)
        if wish is not None and self.pace.may_sign(self._book.round):
            self._sign(*wish)
        return True

    def _sign(self, number: int, members: tuple[str, ...]) -> None:
        own = self._folder.own_vote(round := self._book.round)
        word = own_statement(
            number,
            members,
            exchange=self._exchange,
            terms=self._terms,
            party=self._party,
            vote=b"" if own is None else own.body,
            vote_signature=b"" if own is None else self._signer.sign(vote_message(own.body)),
            held={name: (it.root, it.signature) for name, it in self._book.inputs.items()},
        )
        body = msgspec.msgpack.encode(word)
        signature = self._signer.sign(note_message("view", body))
        self._folder.save_statement(
            view=number, round=round, party=self._party, body=body, signature=signature
        )
        self._folder.log("view-signed", view=number, round=round, members=list(members))
        if word.cast is not None:  # with what made the view of that vote
            self._serving.say_again(round, word.cast.view)
        self._link.note(round, self._party, "view", body, signature)
        self._hear(word)

    def _hear(self, word: Statement) -> Statement | None:
        before = self.views.current.number
        earlier = self.views.hear(word)
        for view, party in self.views.crowded_out:
            self._folder.drop_statement(view, party)
        self.views.crowded_out.clear()
        if self.views.current.number != before:
            self._made()
        return earlier

    def _made(self) -> None:
        view = self.views.current
        out = sorted(set(self._terms.parties) - set(view.members))
        self._folder.note_view(view.number, view.round, view.members)
        self._folder.log(
            "view", view=view.number, round=view.round, members=list(view.members), left_out=out
        )
        self._turn()
        self._serving.say_again(self._book.round)

    def _turn(self) -> None:
        """The book follows the present view; what that view settles is asked for and passed on."""
        view, book = self.views.current, self._book
        book.view = view
        book.demand = demand = demand_of(view, book.round)
        for party in sorted(demand.liars):
            self._liars.show(self._exchange, party, *demand.liars[party])
        for party, root in demand.roots.items():
            held = book.inputs.get(party)
            if held is not None and held.root != root and party != self._party:
                # It signed both, and one of them may have closed the round somewhere.
                one, other = (held.root, held.signature), shown_for(view, party, root)
                self._liars.show(self._exchange, party, one, other)
                self._folder.drop_input(book.round, party)
                del book.inputs[party]
        known = {self._party, *book.inputs}
        lacking = {party: root for party, root in demand.roots.items() if party not in known}
        self._entrance.asked = frozenset(lacking.items())
        self._link.look_again()
        if view.round == book.round:
            self._serving.pass_on(book.round, demand, view)

    # --- what others say ---------------------------------------------------------------

    def noted(self, event: Noted) -> None:
        """Take in a statement or evidence that ``event.origin`` signed.

        Raises:
            Violation: no honest party signs this, or passes it on.
            FolderDiverged: it is mine, and this folder does not have it.
        """
        with blaming(event.peer):  # who passes something on has read it
            word = (decode_lie if event.kind == "evidence" else decode_statement)(event.body)
            if event.peer != event.origin and word.run != self._run:
                raise ProtocolViolation(f"passes on a {event.kind} of another run")
        with blaming(event.origin):
            if isinstance(word, Lie):
                self._liars.shown(word, self._run)
            else:
                self._stated(word, event)

    def ready(self) -> Noted | None:
        """A statement that had to wait and can be taken in by now."""
        return self._believing.ready(self._book.round)

    def _stated(self, word: Statement, event: Noted) -> None:
        run, open_round, _ = self._exchange
        check_statement(word, origin=event.origin, run=run, terms=self._terms, kinds=self._kinds)
        if event.origin == self._party:
            kept = self.views.word(word.view, self._party)
            if word.view > self.views.signed or kept not in (None, word):
                raise FolderDiverged(
                    f"{event.peer} holds a statement for view {word.view} that this party signed "
                    f"and that {self._folder.path} lacks: was it restored from a backup?",
                    "put the newest copy of the folder back, or start over on all sides",
                )
            return
        if not self._believing.now(word, open_round):
            self._believing.put_aside(word, event)
            return
        known = self.views.word(word.view, event.origin)
        if event.origin in self.quarantined and known not in (None, word):
            return  # enough is kept against it
        if word.view >= self.views.floor:
            self._folder.save_statement(
                view=word.view,
                round=word.round,
                party=event.origin,
                body=event.body,
                signature=event.signature,
            )
        earlier = self._hear(word)
        self._look()
        if earlier is not None:
            raise ProtocolViolation(f"signed two different lists of members for view {word.view}")
        cast = word.cast
        if cast is not None and word.round == open_round:
            held = self._book.ballots.get(cast.view, {}).get(event.origin, cast)
            if held != cast:
                raise ProtocolViolation(f"cast two different votes for round {word.round}")
        # After the last round its book stays open: the folder knows that it is closed.
        if word.round <= self._folder.last_closed and event.peer == event.origin:
            self.serve(event.origin)

    def contradicted(self, own: Vote) -> tuple[str, str] | None:
        """Who lied where a vote of the same view differs from ``own``, and how; None: none does.

        A different update of a third party is that party's lie if it signed both, and the
        voter's if it did not.
        """
        found = self._book.contradiction(own)
        if found is None or not self.dynamic:
            return found and (found[0], f"its vote contradicts the stored inputs: {found[1]}")
        voter, difference = found
        liar = self._liars.behind(self._exchange, own, self._book.ballots[own.view][voter])
        if liar is not None:
            return liar, f"signed two different updates for round {own.round}"
        return voter, f"its vote contradicts the stored inputs: {difference}"

    def quarantine(self, party: str, reason: str) -> None:
        """``party`` broke the rules: it takes no part in this run any more."""
        self._liars.quarantine(party, reason, self._book.round)

    def serve(self, peer: str) -> None:
        """Pass on to ``peer``, which is behind, what it lacks."""
        if peer not in self.gone:
            self._serving.serve(peer)

    def learn(self, vote: Vote) -> None:
        """A vote for the open round or a later one may be one that closed it without us."""
        if vote.round > len(plan(self._kinds, self._terms)):
            return
        self.returning.note(vote, [view.number for view in self.views.foreign])
        self._look()

    def _look(self) -> None:
        """Find out what others closed without this party, and ask for what came of it."""
        for view in self.views.foreign:
            self.returning.certify(view, self._book.round)
        vote = self.returning.vote
        wanted = None if vote is None else (vote.round, vote.shared)
        if wanted != self._entrance.state:
            self._entrance.state = wanted
            self._link.look_again()
