"""Two honest parties on a network that does its worst: a random walk that must lose nothing.

The network delivers, repeats, reorders, damages and loses messages, brings back messages
of earlier sessions, and breaks connections with or without the listener's notice; the
parties restart. Both pass on what Carol, a third party, signed. Whatever the order, the
invariants hold after every step, and once the network behaves, every payload, every vote and
every note has arrived.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from splitfed.transport.assembly import BAD_CHUNKS_ALLOWED
from splitfed.transport.events import Arrived, Delivered, Failed, Noted, Offer, Outgoing, Voted
from splitfed.transport.frames import NO_SESSION, Header, NoteBody, Type
from tests.support.talk import (
    CHUNK,
    WINDOW,
    Line,
    Net,
    Party,
    Passed,
    outgoing,
    receipt,
    signed_note,
    signed_vote,
    stored_body,
)

NAMES = ("alice", "bob")
names = st.sampled_from(NAMES)
sizes = st.sampled_from([0, CHUNK, 9 * CHUNK + 7, 20 * CHUNK])


class App:
    """What a party's durable folder knows, across its lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peer = "bob" if name == "alice" else "alice"
        self.boot = 0
        self.round = 1
        self.offers: dict[int, Outgoing] = {}
        self.votes: dict[int, tuple[bytes, bytes]] = {}
        self.stored: dict[int, tuple[Offer, bytes]] = {}
        self.heard: dict[int, bytes] = {}
        self.delivered: set[int] = set()
        self.passed_on: dict[int, Outgoing] = {}
        self.carols: dict[int, tuple[Offer, bytes]] = {}
        self.notes: dict[int, NoteBody] = {}
        self.noted: set[bytes] = set()
        self.curious = True
        self.party = self.live()

    def wants(self, offer: Offer) -> bool:
        """Does it lack this payload of Carol's, and care?"""
        return self.curious and offer.round not in self.carols

    def live(self) -> Party:
        """A new process over the same folder."""
        self.boot += 1
        self.seen = 0
        self.party = Party(
            self.name, self.peer, wanted=self.wants, boot=self.boot, closed_round=self.round - 1
        )
        for offer, _ in self.stored.values():
            self.party.holds(offer)
        for round in (self.round - 1, self.round):
            if round in self.offers:
                self.party.talk.offer(self.offers[round])
            if round in self.votes:
                self.party.talk.vote(round, *self.votes[round])
            if round in self.passed_on:
                out = self.passed_on[round]
                self.party.talk.pass_on(out.offer, out.payload)
            if round in self.notes:
                self.party.talk.note(round, self.notes[round])
        return self.party

    @property
    def closable(self) -> bool:
        """Has the open round everything?"""
        return self.round in self.stored and self.round in self.votes and self.round in self.heard


class Federation(RuleBasedStateMachine):
    """See the module's text."""

    @initialize(first=sizes, second=sizes)
    def begin(self, first: int, second: int) -> None:
        self.net = Net()
        self.apps = {name: App(name) for name in NAMES}
        self.all_offers: dict[bytes, bytes] = {}
        self.damaged: dict[tuple[str, int], int] = {}
        self.line = self.connect()
        self.offer("alice", first)
        self.offer("bob", second)

    def connect(self) -> Line:
        self.line = self.net.connect(self.apps["bob"].party, self.apps["alice"].party)
        return self.line

    def party(self, name: str) -> Party:
        return self.apps[name].party

    # --- what the parties do ---

    @rule(name=names, size=sizes)
    def offer(self, name: str, size: int) -> None:
        app = self.apps[name]
        if app.round not in app.offers:
            app.offers[app.round] = out = outgoing(name, app.round, size)
            self.all_offers[out.offer.manifest.root] = out.payload
            app.party.talk.offer(out)

    @rule(name=names)
    def store(self, name: str) -> None:
        """The app takes what arrived and makes it durable."""
        app = self.apps[name]
        for event in app.party.events[app.seen :]:
            match event:
                case Arrived(offer=offer, payload=payload) if offer.party == "carol":
                    app.carols[offer.round] = (offer, bytes(payload))
                    app.party.holds(offer)
                case Noted(body=body):
                    app.noted.add(body)
                case Arrived(offer=offer, payload=payload):
                    app.stored[offer.round] = (offer, bytes(payload))
                    app.party.holds(offer)
                case Voted(round=round, body=body):
                    app.heard[round] = body
                case Delivered(round=round, offer=offer) if offer.party == name:
                    app.delivered.add(round)
                case _:
                    pass
        app.seen = len(app.party.events)

    @rule(name=names)
    def vote(self, name: str) -> None:
        app = self.apps[name]
        ready = app.round in app.stored and app.round in app.offers
        if ready and app.round not in app.votes:
            app.votes[app.round] = signed_vote(name, b"vote %d" % app.round)
            app.party.talk.vote(app.round, *app.votes[app.round])

    @rule(name=names, size=sizes)
    def pass_on(self, name: str, size: int) -> None:
        """What Carol signed for the open round; all her payloads of a round are one."""
        app = self.apps[name]
        if app.round not in app.passed_on:
            others = self.apps[app.peer].passed_on
            out = others.get(app.round) or outgoing("carol", app.round, size)
            app.passed_on[app.round] = out
            self.all_offers[out.offer.manifest.root] = out.payload
            app.party.talk.pass_on(out.offer, out.payload)

    @rule(name=names)
    def note(self, name: str) -> None:
        app = self.apps[name]
        app.notes[app.round] = note = signed_note("carol", "view", b"view %d" % app.round)
        app.party.talk.note(app.round, note)

    @rule(name=names, curious=st.booleans())
    def change_its_mind(self, name: str, curious: bool) -> None:
        app = self.apps[name]
        app.curious = curious
        app.party.talk.look_again(self.net.now)
        self.net.collect(app.party)

    @rule(name=names)
    def close_round(self, name: str) -> None:
        app = self.apps[name]
        if app.closable:
            app.party.talk.discard(app.round - 1)
            app.round += 1

    @rule(name=names, size=sizes)
    def work(self, name: str, size: int) -> None:
        """All of that, as far as it goes."""
        self.store(name)
        self.vote(name)
        self.close_round(name)
        self.offer(name, size)

    @rule(name=names)
    def restart(self, name: str) -> None:
        """Killed and started again: only the folder remains."""
        self.net.cut(self.line, unnoticed_by=self.party(name))
        self.apps[name].live()
        self.connect()

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.net.now += seconds
        for app in self.apps.values():
            app.party.talk.tick(self.net.now)
            self.net.collect(app.party)
            if app.party.talk.wants_rebuild:
                app.party.talk.wants_rebuild = False
                self.net.cut(self.line)
                self.connect()

    # --- what the network does ---

    @rule(count=st.integers(1, 30))
    def things_take_their_course(self, count: int) -> None:
        for _ in range(count):
            for name in NAMES:
                self.net.take(self.party(name))
                self.net.deliver(self.line, self.party(name))

    @rule(name=names, count=st.integers(1, 12))
    def take(self, name: str, count: int) -> None:
        for _ in range(count):
            self.net.take(self.party(name))

    @rule(name=names, count=st.integers(1, 12))
    def deliver(self, name: str, count: int) -> None:
        for _ in range(count):
            self.net.deliver(self.line, self.party(name))

    @rule(name=names, index=st.integers(1, 5))
    def reorder(self, name: str, index: int) -> None:
        self.net.deliver(self.line, self.party(name), index)

    @rule(name=names)
    def duplicate(self, name: str) -> None:
        queue = self.line.queues[id(self.party(name))]
        if queue:
            queue.insert(0, queue[0])

    @rule(name=names)
    def lose(self, name: str) -> None:
        queue = self.line.queues[id(self.party(name))]
        if queue:
            queue.popleft()

    @rule(name=names, choice=st.integers(0, 10_000))
    def bring_back(self, name: str, choice: int) -> None:
        """A message of any earlier session comes once more."""
        old = [f for f in self.net.passed if f.sender != name and f.header.session != NO_SESSION]
        old = [f for f in old if f.type is not Type.WELCOME]
        if old:
            frame = old[choice % len(old)]
            self.net.inject(self.line, self.party(name), frame.header.encode(), frame.body)

    @rule(noticed=st.booleans())
    def break_connection(self, noticed: bool) -> None:
        self.net.cut(self.line, unnoticed_by=None if noticed else self.party("alice"))
        self.connect()

    @rule(fresh=st.booleans(), early=st.integers(1, 6), late=st.integers(1, 6))
    def overtake(self, fresh: bool, early: int, late: int) -> None:
        """Alice reads a new connection before what still waits on the old one (its HELLO, if
        that is ``fresh``), then hears that the old one ended: libzmq reads in any order."""
        bob, alice = self.party("bob"), self.party("alice")
        if fresh:
            self.break_connection(noticed=True)
            self.take("bob", 1)
        old = self.line
        self.connect()
        for _ in range(early):
            for party in (bob, alice):
                self.net.take(party)
                self.net.deliver(self.line, alice if party is bob else bob)
        for _ in range(late):
            self.net.deliver(old, alice)
        old.alive = False
        alice.talk.down(old.name, "the connection ended")
        self.net.collect(alice)

    @rule(name=names)
    def damage(self, name: str) -> None:
        """One byte of the next chunk changes, as often as honest memory may fail."""

        def alter(frame: Passed) -> tuple[Header, bytes]:
            # A receiver that restarts counts anew; the bound here is for the whole walk.
            key = (name, frame.header.round)
            fit = frame.type is Type.DATA and frame.sender == name and frame.body
            if fit and self.damaged.get(key, 0) < BAD_CHUNKS_ALLOWED:
                self.damaged[key] = self.damaged.get(key, 0) + 1
                self.net.alter = lambda frame: (frame.header, frame.body)
                return frame.header, bytes([frame.body[0] ^ 1]) + frame.body[1:]
            return frame.header, frame.body

        self.net.alter = alter

    # --- what must hold ---

    @invariant()
    def in_flight_is_within_the_window(self) -> None:
        for app in getattr(self, "apps", {}).values():
            assert 0 <= app.party.talk.receiving.in_flight <= WINDOW

    @invariant()
    def only_verified_bytes_are_ever_written(self) -> None:
        for app in getattr(self, "apps", {}).values():
            for assembly in app.party.talk.receiving.incomplete:
                truth = self.all_offers[assembly.offer.manifest.root]
                assert len(assembly.payload) == len(truth)
                for chunk, held in enumerate(assembly.held):
                    place = slice(chunk * CHUNK, chunk * CHUNK + assembly.size_of(chunk))
                    right = truth[place] if held else bytes(len(truth[place]))
                    assert assembly.payload[place] == right

    @invariant()
    def stored_is_said_only_of_what_is_verified_and_durable(self) -> None:
        for frame in self.net.of(Type.STORED) if hasattr(self, "net") else ():
            app, round = self.apps[frame.sender], frame.header.round
            held = [held[round] for held in (app.stored, app.carols) if round in held]
            ((offer, payload),) = (h for h in held if frame.content == stored_body(app.name, h[0]))
            assert payload == self.all_offers[offer.manifest.root]

    @invariant()
    def nothing_arrives_twice_in_one_life_and_nobody_fails(self) -> None:
        for app in getattr(self, "apps", {}).values():
            keys = [event.offer.key for event in app.party.of(Arrived)]
            assert len(keys) == len(set(keys))
            votes = [event.round for event in app.party.of(Voted)]
            assert len(votes) == len(set(votes))
            notes = [event.body for event in app.party.of(Noted)]
            assert len(notes) == len(set(notes))
            assert not app.party.of(Failed), app.party.events

    @invariant()
    def delivered_means_durable(self) -> None:
        for app in getattr(self, "apps", {}).values():
            for event in app.party.of(Delivered):
                peer = self.apps[app.peer]
                held = peer.stored if event.offer.party == app.name else peer.carols
                assert held[event.round][0] == event.offer
                assert event.counter_signature == receipt(app.peer, event.offer)

    def calm_weather(self) -> None:
        """The network behaves for a while: both are in session again, by themselves, and
        everything offered and voted arrives."""
        self.net.alter = lambda frame: (frame.header, frame.body)
        for name in NAMES:
            self.change_its_mind(name, curious=True)
        for _ in range(12):
            self.net.pump()
            for name in NAMES:
                self.store(name)
                self.vote(name)
            self.time_passes(10.0)
        assert all(app.party.talk.current is not None for app in self.apps.values())
        for app in self.apps.values():
            peer = self.apps[app.peer]
            for round in (peer.round - 1, peer.round):
                if round in peer.offers and round >= app.round:
                    assert app.stored[round][1] == peer.offers[round].payload
                if round in peer.votes and round >= app.round:
                    assert app.heard[round] == peer.votes[round][0]
                if round in peer.passed_on and round >= app.round:
                    assert app.carols[round][1] == peer.passed_on[round].payload
                if round in peer.notes and round >= app.round:
                    assert peer.notes[round].body in app.noted

    def teardown(self) -> None:
        if hasattr(self, "net"):
            self.calm_weather()
            self.nothing_arrives_twice_in_one_life_and_nobody_fails()


TestFederation = Federation.TestCase
TestFederation.settings = settings(max_examples=150, stateful_step_count=60)
