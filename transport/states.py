"""The protocol's transition table: which frame means what in which state.

One *channel* is one connection as the conversation sees it. A frame that the table does
not list for a channel's role and state is something no honest splitfed sends there.
"""

from __future__ import annotations

import enum

from splitfed.transport.frames import Type


class Role(enum.Enum):
    """Who made the connection."""

    DIALED = "we dialed"
    ACCEPTED = "the peer dialed"


class State(enum.Enum):
    """Where a channel stands."""

    NEW = "nothing but stale frames heard yet"
    GREETING = "our HELLO is out"
    DIFFERING = "our WELCOME showed a difference; the peer's documents are awaited"
    CHECKED = "a check was answered: no session, ever"
    OPEN = "in session"
    CLOSED = "fenced, refused or failed: everything on it is ignored"


class Action(enum.Enum):
    """What the conversation does with a frame."""

    GREET = "answer a HELLO"
    WELCOME = "read the answer to our HELLO"
    GREET_AGAIN = "the peer forgot our session: HELLO"
    OFFER = "check, then pull"
    PULL = "queue the chunks"
    DATA = "verify and write a chunk"
    STORED = "the peer holds a payload durably"
    VOTE = "verify and hand up"
    NOTE = "verify the signature of whom it names, and hand up"
    STATUS = "remember"
    GOODBYE = "the peer leaves, or has read that we do"
    REFUSED = "the peer refuses our HELLO"
    DOCUMENTS = "the peer's side of a difference"
    STALE = "count and drop"


_IN_SESSION = (
    Type.OFFER,
    Type.PULL,
    Type.DATA,
    Type.STORED,
    Type.VOTE,
    Type.NOTE,
    Type.STATUS,
)
_ALL_STALE = dict.fromkeys(_IN_SESSION, Action.STALE)
_OPEN = {kind: Action[kind.name] for kind in (*_IN_SESSION, Type.GOODBYE)}

TABLE: dict[tuple[Role, State], dict[Type, Action]] = {
    (Role.DIALED, State.GREETING): {
        **_ALL_STALE,
        Type.WELCOME: Action.WELCOME,
        Type.RESET: Action.STALE,
        Type.GOODBYE: Action.REFUSED,
    },
    (Role.DIALED, State.OPEN): {
        **_OPEN,
        Type.WELCOME: Action.STALE,
        Type.RESET: Action.GREET_AGAIN,
    },
    (Role.DIALED, State.CHECKED): {
        **_ALL_STALE,
        Type.WELCOME: Action.STALE,
        Type.RESET: Action.STALE,
        Type.STATUS: Action.STATUS,
        Type.GOODBYE: Action.GOODBYE,
    },
    (Role.ACCEPTED, State.NEW): {
        **_ALL_STALE,
        Type.HELLO: Action.GREET,
        Type.GOODBYE: Action.STALE,
    },
    (Role.ACCEPTED, State.OPEN): {**_OPEN, Type.HELLO: Action.GREET},
    (Role.ACCEPTED, State.DIFFERING): {
        **_ALL_STALE,
        Type.HELLO: Action.GREET,
        Type.GOODBYE: Action.DOCUMENTS,
    },
    (Role.ACCEPTED, State.CHECKED): {
        **_ALL_STALE,
        Type.HELLO: Action.GREET,
        Type.GOODBYE: Action.DOCUMENTS,
    },
    (Role.DIALED, State.CLOSED): dict.fromkeys(Type, Action.STALE) | {Type.GOODBYE: Action.GOODBYE},
    (Role.ACCEPTED, State.CLOSED): dict.fromkeys(Type, Action.STALE)
    | {Type.GOODBYE: Action.GOODBYE},
}
"""Action by (role, state) and frame type; what is not listed is a violation."""
