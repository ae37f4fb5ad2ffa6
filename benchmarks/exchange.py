"""What the link makes of the wire: 256 MiB of shared tensors each way, against bare pyzmq.

Two processes on loopback, CURVE on, 1 MiB chunks. Bare: pyzmq alone (bare_zmq.py). Link: what
a round does with an update, from offering it until the peer's update is here, every chunk
and the root verified; making the snapshot, its digests and storing it on disk are told
apart. Both take turns. Resident memory is sampled from outside over all that the link's
processes do.
Wanted: link >= 80 % of bare; growth <= sent + received + 128 MiB; wire bytes <= 1.02 x
payload + 2 KiB + 8 KiB a connection.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from measuring import (
    MIB,
    Child,
    ResidentMemory,
    arguments,
    child_task,
    children,
    hear,
    middle,
    now,
    processor_seconds,
    publish,
    say,
    take_turns,
)

SHARE = 0.8
WIRE = 1.02
SLACK = 128 * MIB
NAMES = ("hospital-a", "hospital-b")  # the first listens


def exchange_link(task: dict[str, Any]) -> None:
    """One side: offer ``task["send"]`` MiB, take ``task["receive"]`` MiB, store both."""
    import blake3
    import torch

    from splitfed.entries import entry_message
    from splitfed.store import BlobStore, Disk
    from splitfed.tensors import describe, manifest_of, pack
    from splitfed.transport.events import (
        Arrived,
        Delivered,
        Failed,
        Greeted,
        Greeting,
        Offer,
        Outgoing,
        offer_message,
    )
    from splitfed.transport.keys import Identity, PeerKeys, Secret, verify_signature
    from splitfed.transport.link import Link
    from splitfed.transport.zeromq import ZmqWire

    torch.set_num_threads(1)
    me, peer = task["me"], task["peer"]
    secret = Secret(**task["secret"])
    size = task["send"] * MIB // 4 // 16
    tensors = {f"layer{i:02}.weight": torch.rand(size) for i in range(16)} if size else {}
    roster = {name: PeerKeys(**entry) for name, entry in task["roster"].items()}
    run = blake3.blake3(b"benchmark").digest()
    wire = ZmqWire(Identity(name=me, secret=secret), roster)
    link = Link(
        wire,
        me=me,
        peers=[peer],
        greeting=Greeting(
            name=me, contract=run, roster=run, initial=run, folder=os.urandom(16), boot=1
        ),
        accept=lambda offer: None,
        verify=lambda party, message, signature, past=False: (
            party in roster and verify_signature(roster[party].signing_key, message, signature)
        ),
    )

    def until(kind: type, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            event = link.next(60.0)
            if event is None or isinstance(event, Failed):
                raise RuntimeError(f"{me}: {event}")
            if isinstance(event, kind):
                found.append(event)
        return found

    say({"ready": True})
    hear()  # resident memory is at its level before the exchange
    result: dict[str, float] = {}
    incoming, outgoing = int(task["receive"] > 0), int(size > 0)
    with tempfile.TemporaryDirectory() as folder:
        blobs = BlobStore(Path(folder), "", Disk())
        update = None
        began = now()
        if tensors:
            payload = pack(tensors)
            manifest = manifest_of(payload, describe(tensors))
            result["snapshot_s"] = now() - began
            what: dict[str, Any] = {
                "run": run,
                "round": 1,
                "party": me,
                "kind": "update",
                "root": manifest.root,
            }
            signature, head = secret.sign(offer_message(**what)), bytes(32)
            entry = secret.sign(entry_message(number=1, head=head, **what))
            offer = Offer("update", run, 1, me, manifest, signature, 1, head, entry)
            update = Outgoing(offer, payload)
            began = now()
            blobs.put(manifest, payload)
            result["store_sent_s"] = now() - began
        link.start()
        until(Greeted, 1)
        before = link.traffic()
        say({"connected": True})
        hear()
        result["began"], used = now(), processor_seconds()
        if update is not None:
            link.offer(update)
        arrived = until(Arrived, incoming)
        result["ended"], result["processor_s"] = now(), processor_seconds() - used
        say({"arrived": True})
        hear()
        for event in arrived:
            began = now()
            blobs.put(event.offer.manifest, event.payload)
            result["store_received_s"] = now() - began
            receipt = secret.sign(event.offer.entry.receipt_message(me))
            link.stored(peer, event.offer, receipt)
        until(Delivered, outgoing)
        after = link.traffic()
    result["wire_bytes"] = after.wire_sent
    result["payload_bytes"] = after.payload_sent
    result["connecting_bytes"] = before.wire_sent
    say(result)
    hear()
    link.close()


def _one_after_the_other(pair: list[Child], message: str) -> list[dict[str, Any]]:
    for child in pair:
        child.tell(message)
    return [child.answer() for child in pair]


def measure_link(sizes: tuple[int, int]) -> dict[str, Any]:
    """Both sides over the link; ``sizes`` in MiB are what the first and the second send."""
    from pair import free_port
    from splitfed.transport.keys import make_secret

    secrets = {name: make_secret() for name in NAMES}
    address = f"tcp://127.0.0.1:{free_port()}"
    roster = {
        name: {
            "public_key": secret.public.public_key,
            "signing_key": secret.public.signing_key,
            "address": address if name == NAMES[0] else None,
        }
        for name, secret in secrets.items()
    }
    tasks = [
        {
            "role": "link",
            "me": NAMES[i],
            "peer": NAMES[1 - i],
            "secret": secrets[NAMES[i]].__dict__,
            "roster": roster,
            "send": sizes[i],
            "receive": sizes[1 - i],
        }
        for i in range(2)
    ]
    with children(__file__, tasks) as pair:
        for child in pair:
            child.answer()
        memory = ResidentMemory([child.pid for child in pair])
        memory.start()
        _one_after_the_other(pair, "connect")
        _one_after_the_other(pair, "go")
        results = _one_after_the_other(pair, "store")
        growth = memory.stop()
        for child in pair:
            child.tell("end")
    return {"seconds": _span(results), "growth": growth, "sides": results}


def measure_bare(sizes: tuple[int, int], keep: bool = False) -> dict[str, Any]:
    """The same sizes over pyzmq alone; ``keep``: received into memory instead of dropped."""
    keys = [tuple(key.decode() for key in zmq.curve_keypair()) for _ in NAMES]
    tasks = [
        {
            "role": "bare",
            "listens": i == 0,
            "public": keys[i][0],
            "secret": keys[i][1],
            "server": keys[0][0],
            "keep": keep,
            "send": sizes[i],
            "receive": sizes[1 - i],
        }
        for i in range(2)
    ]
    with children(__file__, tasks) as pair:
        port = pair[0].answer()["port"]
        pair[0].tell()
        pair[1].tell(port)
        for child in pair:
            child.answer()
        results = _one_after_the_other(pair, "go")
        for child in pair:
            child.tell("end")
    return {"seconds": _span(results), "sides": results}


def _span(results: list[dict[str, Any]]) -> float:
    """From the first side's start until the last side has everything."""
    return float(max(r["ended"] for r in results) - min(r["began"] for r in results))


def main() -> None:
    parser = arguments("256 MiB each way over the link, against bare pyzmq")
    parser.add_argument("--mib", type=int, default=256, help="MiB of shared tensors a side")
    options = parser.parse_args()
    mib = options.mib
    ways = {"both ways": (mib, mib), "one way": (mib, 0)}
    kinds: dict[str, Callable[[tuple[int, int]], dict[str, Any]]] = {
        "bare": measure_bare,
        "bare, kept": partial(measure_bare, keep=True),
        "link": measure_link,
    }
    turns = take_turns(
        options.times,
        {
            f"{kind}, {way}": partial(measure, sizes)
            for way, sizes in ways.items()
            for kind, measure in kinds.items()
        },
    )
    rows: list[list[str]] = []
    shares: dict[str, float] = {}
    for way in ways:
        seconds = {kind: [turn["seconds"] for turn in turns[f"{kind}, {way}"]] for kind in kinds}
        for kind, text in (
            ("bare", "bare pyzmq"),
            ("bare, kept", "bare pyzmq, received into memory"),
            ("link", "link"),
        ):
            sides = [turn["sides"] for turn in turns[f"{kind}, {way}"]]
            work = middle([sum(side["processor_s"] for side in pair) for pair in sides])
            rate = f"{mib / middle(seconds[kind]):.0f} MiB/s"
            rows.append([f"{text}, {way}", f"{rate}, {work:.2f} s of processor", ""])
        for kind, wanted in (("bare", f"≥ {SHARE}"), ("bare, kept", "")):
            pairs = zip(seconds["link"], seconds[kind], strict=True)
            share = middle([other / link for link, other in pairs])
            rows.append([f"link / {kind}, {way}, median of the turns", f"{share:.2f}", wanted])
            shares[f"{kind}, {way}"] = share
    both = turns["link, both ways"]
    sides = [side for turn in both for side in turn["sides"]]
    growth = max(max(turn["growth"]) for turn in both)
    allowed = 2 * mib * MIB + SLACK
    fixed = (2 << 10) + (8 << 10)  # one round and one connection
    wire = max((side["wire_bytes"] - fixed) / side["payload_bytes"] for side in sides)
    for key, text in (
        ("snapshot_s", "snapshot and digests, before"),
        ("store_sent_s", "storing the own update durably, before"),
        ("store_received_s", "storing the peer's update durably, after"),
    ):
        rows.append([text, f"{middle([side[key] for side in sides]):.2f} s", ""])
    rows += [
        [
            "growth of resident memory, largest",
            f"{growth / MIB:.0f} MiB",
            f"≤ {allowed // MIB} MiB",
        ],
        ["(wire bytes - 10 KiB) / payload, largest", f"{wire:.5f}", f"≤ {WIRE}"],
        ["  of it connecting", f"{max(side['connecting_bytes'] for side in sides):.0f} B", ""],
    ]
    publish(
        "exchange",
        options.out,
        [f"{mib} MiB a side", "measured", "wanted"],
        rows,
        {
            "turns": turns,
            "shares": shares,
            "growth_bytes": growth,
            "allowed_bytes": allowed,
            "met": min(shares[f"bare, {way}"] for way in ways) >= SHARE
            and growth <= allowed
            and wire <= WIRE,
        },
    )


if __name__ == "__main__":
    job = child_task()
    if job is None:
        main()
    elif job["role"] == "bare":
        from bare_zmq import exchange_bare

        exchange_bare(job)
    else:
        exchange_link(job)
