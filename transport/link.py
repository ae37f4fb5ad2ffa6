"""The link: one thread that owns a wire and holds one conversation with each peer.

The round engine lives in another thread. It hands over offers and votes, and takes events
from :meth:`Link.next`; queues in both directions and a socket pair that wakes the thread
are all that the two share.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from splitfed.errors import Defect, ResourceLimit
from splitfed.tensors import CHUNK_SIZE
from splitfed.transport.commands import Commands, readable
from splitfed.transport.conversation import Conversation
from splitfed.transport.events import Event, Greeting, PeerView, Traffic
from splitfed.transport.exchange import STALL, STATUS_INTERVAL, WINDOW, Settings
from splitfed.transport.mailbox import Mailbox
from splitfed.transport.offers import OfferCheck, Verify, Wanted
from splitfed.transport.sending import MOST_PASSED_ON
from splitfed.transport.wire import Down, Message, Sent, Trouble, Up, Wire, WireEvent

BURST = 8
"""Chunks sent to one peer before the others and what came in have their turn."""
BUSY_RETRY = 0.005
IDLE = 60.0
MAX_BACKLOG = 4096
"""Events of one peer that the engine has not taken, before the peer counts as a flood: more than
the mailbox lets pile up of thirty parties' words."""
CLOSE_WITHIN = 2.0
"""Seconds that closing waits for goodbyes to be read: the wire drops what is unsent."""


class Link(Commands):
    """One party's side of all its connections.

    Args:
        wire: what carries the bytes; opened, used and closed by the link's thread only.
        me: own roster name.
        peers: roster names of the others. The own name among them asks the own run.
        greeting: what to say about ourselves until :meth:`greet`.
        accept: is an offer to be pulled? See :data:`~.offers.OfferCheck`.
        verify: is a signature good? See :data:`~.offers.Verify`.
        wanted: is another party's offer to be pulled from the peer that passes it on? See
            :data:`~.offers.Wanted`.
        clock: monotonic seconds.
        window: bytes asked for and not yet here, at most, for each peer.
        status_interval: seconds between two STATUS.
        stall: seconds without a new byte of an open transfer until a new connection.
        chunk_size: bytes; the same at both ends.

    Attributes:
        watch: told each event when it happens, in the link's thread; must not raise. The
            engine takes it from :meth:`next`, perhaps hours later.
    """

    def __init__(
        self,
        wire: Wire,
        me: str,
        peers: Sequence[str],
        *,
        greeting: Greeting,
        accept: OfferCheck,
        verify: Verify,
        wanted: Wanted = lambda offer: False,
        clock: Callable[[], float] = time.monotonic,
        window: int = WINDOW,
        status_interval: float = STATUS_INTERVAL,
        stall: float = STALL,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        settings = Settings(
            window=window,
            chunk_size=chunk_size,
            status_interval=status_interval,
            stall=stall,
            # Of each party's, those of two rounds; twice that, since rounds end at different times.
            passed_on=max(MOST_PASSED_ON, 4 * len(wire.keys)),
        )
        conversations = {
            peer: Conversation(
                me=me,
                peer=peer,
                keys=wire.keys,
                greeting=readable(greeting),
                accept=accept,
                verify=verify,
                wanted=wanted,
                settings=settings,
                links=self._links,
            )
            for peer in dict.fromkeys((*peers, me))
        }
        super().__init__(me, peers, conversations, clock)
        self._wire = wire
        self._mailbox = Mailbox()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._guard = threading.Lock()
        self._shut = False
        self._thread: threading.Thread | None = None
        self._opened = threading.Event()
        self._refusal: BaseException | None = None
        self._close_by: float | None = None
        self.watch: Callable[[Event], None] = lambda event: None

    # --- the engine's side ---------------------------------------------------------------

    def start(self) -> None:
        """Open the wire and begin.

        Raises:
            UserError: the wire cannot be opened, for example because the port is in use.
        """
        with self._guard:
            if self._thread is not None:
                raise Defect("a link is started once")
            if self._shut:
                return  # closed by another thread before it began
            self._thread = threading.Thread(target=self._run, name="splitfed link", daemon=True)
            self._thread.start()
        self._opened.wait()
        if self._refusal is not None:
            raise self._refusal

    def close(self, timeout: float = CLOSE_WITHIN) -> None:
        """Wait up to ``timeout`` seconds until goodbyes are read (one that a break swallowed,
        over a new connection), then close the wire.
        Closing twice does nothing."""
        with self._guard:
            self._shut = True
        self._commands.append(lambda: self._closing(timeout))
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._mailbox.close()
        self._wake_in.close()
        self._wake_out.close()

    def next(self, timeout: float | None = None) -> Event | None:
        """The next event, or None after ``timeout`` seconds (None: wait for ever) and on a
        closed link.

        Raises:
            Defect: the link's thread stopped by an error of ours.
        """
        return self._mailbox.get(timeout)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called: no event will come any more."""
        return self._mailbox.closed

    def traffic(self) -> Traffic:
        """Counters since the link was made."""
        conversations = list(self._conversations.values())
        return Traffic(
            payload_sent=sum(c.payload_sent for c in conversations),
            wire_sent=self._wire.bytes_sent,
            payload_received=sum(c.receiving.payload_bytes for c in conversations),
            wire_received=self._wire.bytes_received,
            reconnects=sum(c.reconnects for c in conversations),
            resumes=sum(c.receiving.resumes for c in conversations),
            stale=sum(c.stale for c in conversations),
        )

    def peers_status(self) -> dict[str, PeerView]:
        """How things stand with each peer."""
        return {peer: self._conversations[peer].view for peer in self._peers}

    # --- between the threads -------------------------------------------------------------

    def _links(self) -> dict[str, str]:
        return {peer: view.state for peer, view in self.peers_status().items()}

    def _post(self, command: Callable[[], None]) -> None:
        self._mailbox.check()
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        # Full: it will wake anyway. Closed: there is nobody left to wake.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    def _closing(self, timeout: float) -> None:
        if self._close_by is None:
            self._close_by = self._clock() + timeout

    # --- the link's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._wire.open()
        except BaseException as error:
            self._refusal = error
            self._mailbox.close()
            return
        finally:
            self._opened.set()
        try:
            while not self._done():
                self._turn()
        except BaseException as error:
            self._mailbox.fail(error)
        finally:
            self._wire.close()

    def _done(self) -> bool:
        if self._close_by is None:
            return False
        settled = all(c.settled for c in self._conversations.values())
        return settled or self._clock() >= self._close_by

    def _turn(self) -> None:
        blocked, more = self._send()
        events = self._wire.poll(self._wake_in.fileno(), 0.0 if more else self._pause(blocked))
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        while self._commands:
            self._commands.popleft()()
        now = self._clock()
        for event in events:
            self._heard(event, now)
        for peer, conversation in self._conversations.items():
            conversation.tick(now)
            if conversation.wants_rebuild:
                conversation.wants_rebuild = False
                self._wire.rebuild(peer)
            unwanted, conversation.unwanted = conversation.unwanted, []
            for connection in dict.fromkeys(unwanted):
                self._wire.drop(peer, connection)
            self._report(conversation)

    def _pause(self, blocked: bool) -> float:
        due = min(c.deadline() for c in self._conversations.values())
        if self._close_by is not None:
            due = min(due, self._close_by)
        pause = min(IDLE, BUSY_RETRY if blocked else math.inf, due - self._clock())
        return max(0.0, pause)

    def _heard(self, event: WireEvent, now: float) -> None:
        conversation = self._conversations.get(event.peer)
        if conversation is None:  # a party of the agreement that is none of this link's peers
            if isinstance(event, Message):
                self._wire.drop(event.peer, event.connection)
            return
        match event:
            case Message():
                conversation.received(event, now)
            case Up(connection=connection):
                conversation.up(connection, now)
            case Down(connection=connection, reason=reason):
                conversation.down(connection, reason)
            case Trouble(error=error, fatal=fatal, connection=stray):
                conversation.trouble(error, fatal, stray)

    def _send(self) -> tuple[bool, bool]:
        """Hand frames to the wire; returns (one has no room, one has more to say)."""
        blocked = more = False
        for conversation in self._conversations.values():
            conversation.try_again()
            for _ in range(BURST):
                frame = conversation.peek()
                if frame is None:
                    break
                sent = self._wire.send(*frame)
                if sent is Sent.SENT:
                    conversation.took()
                elif sent is Sent.GONE:
                    conversation.refused_by_wire()
                else:
                    conversation.no_room()
                    blocked = True
            else:
                more = True
        return blocked, more

    def _report(self, conversation: Conversation) -> None:
        peer = conversation.peer
        while conversation.events:
            events, conversation.events = conversation.events, []
            if peer not in self._peers:
                continue
            for event in events:
                self.watch(event)
            self._mailbox.put(events)
            if self._mailbox.backlog(peer) > MAX_BACKLOG:
                conversation.fail(ResourceLimit(f"{peer} sent more than {MAX_BACKLOG} events"))
