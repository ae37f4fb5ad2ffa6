"""``splitfed plan``: what would leave the house, before anything does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from splitfed.cli.output import columns, say, say_json, size
from splitfed.config import PartyConfig, load_party
from splitfed.types import TensorSpec

CONTROL_BYTES = 2048
"""An upper bound on everything but the tensors, per round and peer."""

ALSO_LEAVES = (
    "digests and signatures of these tensors, and signed votes on each round's outcome",
    "status: phase, round and step numbers",
    "on a difference only: the agreement's text (federation.toml, without secrets)",
    "names and versions of splitfed and torch; timing of messages",
)
NEVER_LEAVES = "images, labels, accuracies and losses, private layers, party.toml, secret keys"


def plan(
    party_file: Annotated[Path, typer.Argument(metavar="PARTY.TOML", help="Your party.toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> int:
    """Offline: every tensor that would leave, every one that stays, and the privacy sentence.

    Builds the model to know its tensors: the factory is code and runs on this machine.
    """
    found = make_plan(load_party(party_file))
    if as_json:
        say_json(found)
    else:
        say(*plan_lines(found))
    return 0


def make_plan(config: PartyConfig) -> dict[str, Any]:
    """The plan as plain values. Builds the model, touches no network and no image.

    Raises:
        ModelError, SharingError: the model cannot be built or split as agreed.
    """
    from splitfed.models import initialise
    from splitfed.run.agreed import own_model
    from splitfed.run.life import NO_PRIVACY
    from splitfed.run.party import agree
    from splitfed.sharing import fingerprint

    agreed = agree(config)
    split = agreed.model.split
    if config.model is not None:
        own = initialise(
            config.model.factory,
            config.model.arguments,
            config.federation.seed,
            folder=config.folder,
        )
        split = own_model(own, agreed.model, config.party)
    peers = list(config.peers)
    payload = agreed.terms.payload_bytes * len(peers)
    return {
        "party": config.party,
        "peers": peers,
        "factory": config.federation.model.factory,
        "own_factory": None if config.model is None else config.model.factory,
        "shared": _rows(split.shared),
        "private": _rows(split.private),
        "fingerprint": fingerprint(split.shared),
        "contract": agreed.terms.contract.hex(),
        "rounds": agreed.terms.rounds,
        "payload_bytes_per_round": payload,
        "payload_bytes": payload * agreed.terms.rounds,
        "also_leaves": list(ALSO_LEAVES),
        "never_leaves": NEVER_LEAVES,
        "privacy": {"mode": config.federation.privacy.mode, "sentence": NO_PRIVACY},
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan for a person."""
    lines = [f"{plan['party']} with {', '.join(plan['peers'])}: {plan['rounds']} rounds", ""]
    lines += ["LEAVES the house each round (shared tensors):"]
    lines.append(_table(plan["shared"]))
    lines += ["", "STAYS in the house (private tensors):"]
    lines.append(_table(plan["private"]) or "  nothing: everything is shared")
    lines += ["", "also leaves:"]
    lines += [f"  {text}" for text in plan["also_leaves"]]
    lines += [
        "",
        f"never leaves: {plan['never_leaves']}",
        f"bytes: {size(plan['payload_bytes_per_round'])} of tensors a round, "
        f"{size(plan['payload_bytes'])} in all, plus about 2 % and {size(CONTROL_BYTES)} a round",
        f"contract {plan['contract']}",
        f"shared tensors' fingerprint {plan['fingerprint']}",
        f"note: {plan['factory']} is code and was run on this machine to make this plan",
    ]
    if plan["own_factory"]:
        lines.append(f"note: so was {plan['own_factory']}, your own private part")
    return [*lines, "", plan["privacy"]["sentence"]]


def _rows(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "bytes": spec.nbytes}
        for spec in specs
    ]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    return columns(
        [
            (
                row["name"],
                "x".join(map(str, row["shape"])) or "scalar",
                row["dtype"],
                size(row["bytes"]),
            )
            for row in rows
        ],
        right=(1, 3),
    )
