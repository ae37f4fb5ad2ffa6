"""Two parties with real keys on a real port, without training: links and what goes over them."""

from __future__ import annotations

from typing import Any

from pair import free_port
from splitfed.entries import entry_message
from splitfed.tensors import CHUNK_SIZE, manifest_of
from splitfed.transport.events import Greeting, Offer, Outgoing, offer_message
from splitfed.transport.keys import Identity, PeerKeys, Secret, make_secret, verify_signature
from splitfed.transport.link import Link
from splitfed.transport.zeromq import ZmqWire
from splitfed.types import TensorSpec

NAMES = ("hospital-a", "hospital-b")  # the first listens
RUN = bytes(32)


def keys() -> tuple[dict[str, Secret], dict[str, dict[str, Any]], int]:
    """Secrets and roster of the pair, and the port at which the first listens."""
    secrets, port = {name: make_secret() for name in NAMES}, free_port()
    roster = {
        name: {
            "public_key": secret.public.public_key,
            "signing_key": secret.public.signing_key,
            "address": f"tcp://127.0.0.1:{port}" if name == NAMES[0] else None,
        }
        for name, secret in secrets.items()
    }
    return secrets, roster, port


def party_task(
    role: str, me: str, peer: str, secrets: dict[str, Secret], roster: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    secret = secrets[me].__dict__
    return {"role": role, "me": me, "peer": peer, "secret": secret, "roster": roster}


def joined(task: dict[str, Any]) -> tuple[Link, Secret]:
    """The link of ``task["me"]`` with ``task["peer"]``, running, and the own secret."""
    me, secret = task["me"], Secret(**task["secret"])
    roster = {name: PeerKeys(**entry) for name, entry in task["roster"].items()}
    link = Link(
        ZmqWire(Identity(name=me, secret=secret), roster),
        me,
        [task["peer"]],
        greeting=greeting_of(me),
        accept=lambda offer: None,
        verify=lambda name, message, signature, past=False: (
            name in roster and verify_signature(roster[name].signing_key, message, signature)
        ),
    )
    link.start()
    return link, secret


def greeting_of(name: str) -> Greeting:
    folder = name.encode().ljust(16, b"\0")
    return Greeting(name=name, contract=RUN, roster=RUN, initial=RUN, folder=folder, boot=1)


def outgoing(me: str, secret: Secret, round_: int, payload: bytes) -> Outgoing:
    """A signed offer of these bytes as one tensor."""
    manifest = manifest_of(payload, (TensorSpec("w", (len(payload),), "uint8"),), CHUNK_SIZE)
    what: dict[str, Any] = {"run": RUN, "round": round_, "party": me, "kind": "update"}
    what["root"] = manifest.root
    place: dict[str, Any] = {"number": round_, "head": round_.to_bytes(32, "big")}
    offer = Offer(
        kind="update",
        run=RUN,
        round=round_,
        party=me,
        manifest=manifest,
        signature=secret.sign(offer_message(**what)),
        entry_signature=secret.sign(entry_message(**what, **place)),
        **place,
    )
    return Outgoing(offer, payload)
