"""The transition table: complete, and the only place that decides."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfed.errors import ProtocolViolation
from splitfed.transport.events import Failed, Noticed, Status
from splitfed.transport.frames import (
    NO_SESSION,
    Goodbye,
    Header,
    Hello,
    OfferBody,
    Pull,
    Reset,
    StatusBody,
    Type,
    Vote,
    Welcome,
    encode_body,
)
from splitfed.transport.states import TABLE, Action, Role, State
from tests.support.talk import (
    CHUNK,
    Line,
    Net,
    Party,
    channel_of,
    greeting,
    outgoing,
    signed_note,
    signed_vote,
    stored_body,
)

LEGAL = [(role, state) for role, state in itertools.product(Role, State) if (role, state) in TABLE]
BODIES = {
    Type.HELLO: Hello(bytes(16), greeting("bob")),
    Type.WELCOME: Welcome(bytes(16), greeting("bob")),
    Type.RESET: Reset(),
    Type.OFFER: OfferBody(outgoing("bob").offer),
    Type.PULL: Pull(((0, 1),)),
    Type.STORED: stored_body("bob", outgoing("alice").offer),
    Type.VOTE: Vote(*signed_vote("bob", b"vote")),
    Type.NOTE: signed_note("carol", "view", b"a view"),
    Type.STATUS: StatusBody(Status("training", 1, 1, 1)),
    Type.GOODBYE: Goodbye("finished", 1),
}


def stage(role: Role, state: State) -> tuple[Net, Party, Line]:
    """A conversation of Alice with Bob whose one channel is in that role and state."""
    net = Net()
    alice, bob = Party("alice", "bob"), Party("bob", "alice")
    alice.talk.offer(outgoing("alice"))
    if role is Role.DIALED:
        line = net.connect(alice, bob)
    else:
        line = net.connect(bob, alice)
        net.take(bob)
    if state not in (State.NEW, State.GREETING):
        net.pump()
        channel = channel_of(alice, line)
        if state is not State.OPEN:
            alice.talk.greet_again(channel, net.now)
            channel.theirs, channel.session = greeting("bob", contract=b"x" * 32), NO_SESSION
            channel.state = state
    elif role is Role.ACCEPTED:
        alice.talk.channel_of(line.name, net.now)
    assert channel_of(alice, line).state is state
    return net, alice, line


def send(net: Net, alice: Party, line: Line, kind: Type) -> None:
    channel = channel_of(alice, line)
    data = bytes(CHUNK) if kind is Type.DATA else encode_body(BODIES[kind])[1]
    header = Header(
        kind,
        session=channel.session,
        sequence=channel.seen + 1,
        transfer=1,
        round=1,
        length=len(data),
    )
    net.inject(line, alice, header.encode(), data)


def test_every_state_that_a_role_can_be_in_is_listed() -> None:
    assert set(LEGAL) == set(itertools.product(Role, State)) - {
        (Role.DIALED, State.NEW),
        (Role.DIALED, State.DIFFERING),
        (Role.ACCEPTED, State.GREETING),
    }


@pytest.mark.parametrize(
    ("role", "state", "kind"), [(r, s, k) for (r, s) in LEGAL for k in Type], ids=str
)
def test_the_table_decides_what_a_frame_means(role: Role, state: State, kind: Type) -> None:
    net, alice, line = stage(role, state)
    action = TABLE[role, state].get(kind)
    stale = alice.talk.stale
    send(net, alice, line, kind)
    violated = [
        event for event in (*alice.of(Failed), *alice.of(Noticed)) if "bob sent" in str(event.error)
    ]
    if action is None:
        assert violated
        assert isinstance(violated[0].error, ProtocolViolation)
    elif action is Action.STALE:
        assert alice.talk.stale == stale + 1
        assert not violated
    else:
        assert alice.talk.stale == stale
        # Nothing was pulled here, and no WELCOME can guess the session's name.
        assert bool(violated) == (action in (Action.DATA, Action.WELCOME))


@given(
    st.sampled_from(LEGAL),
    st.lists(
        st.tuples(
            st.sampled_from(sorted(Type)),
            st.binary(max_size=200),
            st.booleans(),
            st.integers(0, 3),
            st.integers(0, 2),
        ),
        max_size=6,
    ),
)
def test_no_frame_in_any_state_does_more_than_end_the_peer(
    where: tuple[Role, State], frames: list[tuple[Type, bytes, bool, int, int]]
) -> None:
    net, alice, line = stage(*where)
    for kind, body, own, sequence, transfer in frames:
        channel = alice.talk.channel_of(line.name, net.now)
        assert channel is not None
        header = Header(
            kind,
            session=channel.session if own else b"s" * 16,
            sequence=channel.seen + sequence,
            transfer=transfer,
            length=len(body),
        )
        net.inject(line, alice, header.encode(), body)
        while net.take(alice):
            pass
    assert len(alice.of(Failed)) <= 1


@given(st.lists(st.binary(max_size=100), max_size=4), st.binary(max_size=100))
def test_no_garbage_does_more_than_end_the_peer(headers: list[bytes], body: bytes) -> None:
    net, alice, line = stage(Role.ACCEPTED, State.OPEN)
    for header in headers:
        net.inject(line, alice, header, body)
    assert len(alice.of(Failed)) == bool(headers)


def test_a_frame_of_another_protocol_version_is_a_violation() -> None:
    net, alice, line = stage(Role.ACCEPTED, State.OPEN)
    net.inject(line, alice, Header(Type.STATUS, version=2).encode(), b"")
    assert "version 2" in alice.only(Failed).error.message


def test_garbage_on_a_second_connection_does_not_end_a_sound_session() -> None:
    net, alice, line = stage(Role.ACCEPTED, State.OPEN)
    second = net.connect(Party("bob", "alice"), alice)
    net.inject(second, alice, b"garbage", b"")
    assert not alice.of(Failed)
    assert isinstance(alice.only(Noticed).error, ProtocolViolation)
    assert alice.talk.current is channel_of(alice, line)
