"""Strangers at the port and a hostile peer with a valid key, against a pair that works.

Two processes exchange tensors over the link, alone and beside a third one that knocks at the
listener: with an unknown key, with a wrong pinned key, without encryption, with garbage, and
with 1,000 connections that say nothing. Alone and beside take turns in changing order, and each
turn beside is compared with its neighbour alone. Who got past the handshake is counted at the
listener, by libzmq's own events. Then 10,000 fuzzed frames of a valid key, every one in an open
session, against a link in a process of its own.

The strangers work on the processors that the pair works on: what they cost there is counted as
what they cost the pair.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import (
    MIB,
    ResidentMemory,
    child_task,
    children,
    hear,
    now,
    processor_seconds,
    say,
)
from soak_parties import NAMES, greeting_of, joined, keys, outgoing, party_task
from soak_rows import Row, told
from splitfed.transport import sockets
from splitfed.transport.events import Arrived, Delivered, Failed, Greeted
from splitfed.transport.frames import Type
from tests.support.hostile import RawPeer, bodies, mangled

NOBODY = "nobody"
"""A process that does not knock: the turns alone are like the others in all else."""

MORE_TIME = 1.10
GROWTH = 64 * MIB
IDLE = 1000
KINDS = ("unknown key", "wrong pinned key", "plaintext ZMTP", "garbage", f"{IDLE} idle connections")
RESPITE = 0.02  # seconds between two of a stranger's attempts


# --- an honest party ----------------------------------------------------------------------------


def party(task: dict[str, Any]) -> None:
    """One side of the pair: exchanges ``task["mib"]`` MiB whenever it is told to."""
    handshakes: list[int] = []
    drain = sockets.Monitor.drain

    def counted(self: sockets.Monitor) -> list[tuple[int, int]]:
        events = drain(self)
        handshakes.extend(1 for event, _ in events if event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
        return events

    # The product has no counter of handshakes: this one is put around its monitor.
    mock.patch.object(sockets.Monitor, "drain", counted).start()
    me, peer = task["me"], task["peer"]
    link, secret = joined(task)

    def until(kind: type) -> Any:
        waiting = [event for event in seen if isinstance(event, kind)]
        while not waiting:
            event = link.next(120.0)
            if event is None or isinstance(event, Failed):
                raise RuntimeError(f"{me}: {event} instead of {kind.__name__}")
            seen.append(event)
            waiting = [event] if isinstance(event, kind) else []
        return waiting[0]

    seen: list[Any] = []
    until(Greeted)
    say({"ready": True})
    base = random.Random(me).randbytes(task["mib"] * MIB)
    round_ = 0
    while hear() == "go":
        round_ += 1
        out = outgoing(me, secret, round_, round_.to_bytes(8, "big") + base[8:])
        say({"ready": True})
        hear()
        seen.clear()
        began, used = now(), processor_seconds()
        link.offer(out)
        offer = until(Arrived).offer
        ended, used = now(), processor_seconds() - used
        link.stored(peer, offer, secret.sign(offer.entry.receipt_message(me)))
        until(Delivered)
        link.discard(round_ - 1)
        told = {"began": began, "ended": ended, "used": used, "handshakes": len(handshakes)}
        say(told)
    link.close()


def target(task: dict[str, Any]) -> None:
    """A link that is shot at. When its peer is at an end, a fresh link takes its place."""
    links, violations, arrived = 0, 0, 0
    while hear() == "go":
        link, _ = joined(task)
        links += 1
        say({"ready": True})
        hear()
        while (event := link.next(0.0)) is not None:
            violations += isinstance(event, Failed)
            arrived += isinstance(event, Arrived)
        link.close(0.0)
        say({"links": links, "violations": violations, "arrived": arrived})


# --- who knocks ---------------------------------------------------------------------------------


def crowd(task: dict[str, Any]) -> None:
    """Knocks at ``task["port"]`` until told to stop; says how often, and how often it got in."""
    stop = threading.Event()

    def until_told() -> None:
        hear()
        stop.set()

    threading.Thread(target=until_told, daemon=True).start()
    kind, port = task["kind"], task["port"]
    rng = random.Random(kind)
    knocks, admitted = 0, 0
    standing: list[socket.socket] = []
    context = zmq.Context()
    told = False
    while not stop.is_set():
        if kind == KINDS[4]:
            # All at once; then as many again a second as would end by the handshake's time.
            standing = [one for one in standing if not _ended(one)]
            told = _once(told) if knocks else told
            for _ in range(min(IDLE - len(standing), IDLE // 5 if knocks else IDLE)):
                standing.append(socket.create_connection(("127.0.0.1", port), timeout=10))
                knocks += 1
            stop.wait(1.0)
        elif kind == NOBODY:
            told = _once(told)
        elif kind == "garbage":
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2.0) as one:
                one.sendall(rng.randbytes(1 << 10))
                while one.recv(1 << 10):
                    pass
            knocks += 1
            told = _once(told)
        else:
            admitted += _knock(context, task)
            knocks += 1
            told = _once(told)
        stop.wait(RESPITE)
    context.destroy(0)
    say({"knocks": knocks, "admitted": admitted})


def _once(told: bool) -> bool:
    if not told:
        say({"ready": True})
    return True


def _ended(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return not one.recv(1 << 12)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _knock(context: zmq.Context[zmq.Socket[bytes]], task: dict[str, Any]) -> bool:
    """One attempt of a ZeroMQ socket; whether its handshake succeeded."""
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    if task["kind"] != "plaintext ZMTP":
        public, secret = zmq.curve_keypair()
        if task["kind"] == "wrong pinned key":
            dealer.curve_serverkey, _ = zmq.curve_keypair()
            public, secret = (key.encode() for key in task["valid"])
        else:
            dealer.curve_serverkey = task["server"].encode()
        dealer.curve_publickey, dealer.curve_secretkey = public, secret
    monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    dealer.connect(f"tcp://127.0.0.1:{task['port']}")
    admitted = False
    if monitor.poll(2000):
        event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        admitted = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
    dealer.disable_monitor()
    dealer.close(0)
    return admitted


# --- the measures -------------------------------------------------------------------------------


def measure(quick: bool) -> list[Row]:
    """All rows of this part; ``quick``: fewer turns, less data, 300 frames."""
    return [*measure_strangers(quick), *measure_frames(300 if quick else 10_000)]


def measure_strangers(quick: bool) -> list[Row]:
    """An exchange beside each kind of stranger, against one alone."""
    turns, mib = (3, 32) if quick else (10, 128)
    secrets, roster, port = keys()
    tasks = [
        {**party_task("party", me, peer, secrets, roster), "mib": mib}
        for me, peer in (NAMES, NAMES[::-1])
    ]
    valid = secrets[NAMES[1]]
    rows: list[Row] = []
    with children(__file__, tasks) as pair:
        for child in pair:
            child.answer()

        def exchange() -> tuple[float, float, int]:
            for word in ("go", "now"):
                for child in pair:
                    child.tell(word)
                answers = [child.answer() for child in pair]
            span = max(a["ended"] for a in answers) - min(a["began"] for a in answers)
            return span, float(answers[0]["used"]), int(answers[0]["handshakes"])

        def beside(kind: str) -> tuple[float, float, int, dict[str, int]]:
            task = {"role": "crowd", "kind": kind, "port": port}
            task["server"] = secrets[NAMES[0]].curve_public
            task["valid"] = (valid.curve_public, valid.curve_secret)
            with children(__file__, [task]) as (stranger,):
                stranger.answer()
                span, used, handshakes = exchange()
                stranger.tell("stop")
                return span, used, handshakes, stranger.answer()

        exchange()  # warm
        for kind in KINDS:
            ratios, work, knocks, admitted = [], [], 0, 0
            for turn in range(turns):
                order = (NOBODY, kind) if turn % 2 else (kind, NOBODY)
                found = {who: beside(who) for who in order}
                with_them, used, handshakes, told = found[kind]
                ratios.append(with_them / found[NOBODY][0])
                work.append(used / found[NOBODY][1])
                knocks += told["knocks"]
                admitted = max(admitted + told["admitted"], handshakes - 1)
            ratio = statistics.median(ratios)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            spread += f"; the listener's processor time {statistics.median(work):.2f}"
            rows.append(
                Row(
                    f"{mib} MiB each way beside: {kind}, time against alone",
                    f"<= {MORE_TIME:.2f}",
                    f"{ratio:.2f} (median of {turns} turns, {spread})",
                    ratio <= MORE_TIME,
                )
            )
            rows.append(
                Row(f"{kind}: past the handshake", "0", f"{admitted} of {knocks}", admitted == 0)
            )
        for child in pair:
            child.tell("end")
    return rows


def measure_frames(frames: int) -> list[Row]:
    """So many fuzzed frames of a valid key, in one session after the other."""
    secrets, roster, port = keys()
    me, peer = NAMES
    rng, kinds = random.Random(6), bodies()
    sent, found, growth = 0, {}, 0
    with children(__file__, [party_task("target", me, peer, secrets, roster)]) as (shot_at,):
        memory: ResidentMemory | None = None
        while sent < frames:
            shot_at.tell("go")
            shot_at.answer()
            hostile = RawPeer(f"tcp://127.0.0.1:{port}", secrets[peer], secrets[me].curve_public)
            hostile.greet(greeting_of(peer))
            if memory is None:
                memory = ResidentMemory([shot_at.pid])
                memory.start()
            # Until the link says goodbye or starts the session anew.
            for _ in range(50):
                hostile.raw(*mangled(rng, hostile, kinds))
                hostile.sent += 1
                sent += 1
                if hostile.socket.poll(1) and hostile.hear()[0].type in (Type.GOODBYE, Type.RESET):
                    break
            hostile.close()
            shot_at.tell("next")
            found = shot_at.answer()
        if memory is not None:
            growth = memory.stop()[0]
        shot_at.tell("end")
    ended = f"{found['links']:,} sessions, {found['violations']:,} of them ended by name"
    return [
        Row(f"{sent:,} fuzzed frames of a valid key: crashes", "0", f"0 in {ended}", True),
        Row("  payloads that came of them", "0", str(found["arrived"]), found["arrived"] == 0),
        Row(
            "  growth of resident memory",
            f"<= {GROWTH // MIB} MiB",
            f"{growth / MIB:.1f} MiB",
            growth <= GROWTH,
        ),
    ]


def main() -> int:
    """Measure, print the table, and fail if anything is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some seconds, for a look")
    began = time.monotonic()
    return told(measure(parser.parse_args().quick), began)


if __name__ == "__main__":
    job = child_task()
    if job is None:
        sys.exit(main())
    {"party": party, "crowd": crowd, "target": target}[job["role"]](job)
