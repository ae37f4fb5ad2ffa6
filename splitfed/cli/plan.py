"""``splitfed plan``: what would leave the house, before anything does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from splitfed.cli.advice import advice
from splitfed.cli.output import columns, say, say_json
from splitfed.cli.shared import RUNS, AsJson, PartyFile
from splitfed.cli.words import size

if TYPE_CHECKING:
    from splitfed.config import PartyConfig
    from splitfed.run.agreed import Agreed
    from splitfed.types import TensorSpec

ROUND_BYTES, CONNECTION_BYTES = 2048, 8192
"""Upper bounds on what travels beside the tensors and 2 % of framing: per round and peer,
and per connection; the former holds for a round in which nobody is away."""
PARTY_BYTES = 256
"""And beside the two of a pair, for each party more: what a vote says of its update. A greeting
repeats the newest vote and ledger entry (1 KiB) of each peer."""

ALSO_LEAVES = (
    "of every update: names, shapes, dtypes, BLAKE3 digests, my signature",
    "of every round: my signed vote (digests of all updates, which were excluded and why)",
    "of me, on every connection: party name, public keys, digests of the agreement and of the "
    "initial tensors, last closed round and its outcome, a random folder id and a restart count",
    "while running: phase, round, step of how many steps; when I leave, that I do",
    "versions of splitfed and torch, my network address, the times and sizes of messages",
    "where a peer's agreement differs: the agreement itself (without addresses and paths)",
)
AMONG_MANY = (
    "to the others, what any party signed: its votes, its statements about who takes part, "
    "evidence that it lied, and an update that not all received before it vanished",
    "to one that was away: the shared tensors that the others agreed on meanwhile",
)
"""What leaves besides, of three parties and more."""
PRIVATE_STAYS = "private layers"
NEVER_LEAVES = (
    "images, labels, file names",
    PRIVATE_STAYS,
    "optimizer state, gradients",
    "losses, accuracies, verdicts, the report",
    "party.toml and the secret keys",
)


def plan(party_file: PartyFile, as_json: AsJson = False) -> int:
    """Show, offline, all that would leave this machine and all that stays.

    Every tensor with its name, shape, dtype and bytes; whatever else leaves; bytes a round;
    and what privacy is promised. Exits with 2 where a consent is still missing. Nothing is
    sent, and of all images only the unlabelled reference set is read, where one is agreed on.
    The model is built to know its tensors: its factory is code, and that code runs here.
    """
    from splitfed.config import load_party

    found = make_plan(load_party(party_file, consent=False))
    if as_json:
        say_json(found)
    else:
        say(*plan_lines(found))
    return 0 if found["consented"] else 2


def make_plan(config: PartyConfig) -> dict[str, Any]:
    """The plan as plain values. Builds the model, touches no network and no image.

    Raises:
        ModelError, SharingError: the model cannot be built or split as agreed.
        UserError: the own keys are not those of the agreement.
    """
    from splitfed.models import initialise
    from splitfed.privacy import sentence_of
    from splitfed.run.agreed import own_model
    from splitfed.run.agreement import agree, with_reference
    from splitfed.run.party import begun_with, own_identity
    from splitfed.sharing import fingerprint

    own_identity(config)
    config, _ = with_reference(config)
    agreed = agree(config, begun=begun_with(config.folder / RUNS / config.party))
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
    fusion = _fusion(agreed, config.party)
    return {
        "party": config.party,
        "peers": peers,
        "factory": config.federation.model.factory,
        "algorithm": config.federation.algorithm,
        "others_factories": _others(config),
        "own_factory": None if config.model is None else config.model.factory,
        "notes": advice(config),
        "code": _code(config),
        "shared": _rows(split.shared),
        "private": _rows(split.private),
        "fingerprint": fingerprint(split.shared),
        "contract": agreed.terms.contract.hex(),
        "rounds": agreed.terms.rounds,
        "payload_bytes_per_round": payload,
        "payload_bytes": payload * agreed.terms.rounds
        + (0 if fusion is None else fusion["bytes"] * fusion["times"]),
        "rule": config.federation.aggregation.sentence,
        "parties_needed": config.federation.members_needed,
        "fusion": fusion,
        "consented": fusion is None or fusion["kind"] != "private" or config.fusion.release_private,
        "wire_bytes_per_round_at_most": payload * 102 // 100
        + (ROUND_BYTES + PARTY_BYTES * (len(peers) - 1)) * len(peers),
        "wire_bytes_per_connection_at_most": CONNECTION_BYTES
        + (len(peers) - 1) * (PARTY_BYTES * (len(peers) + 1) + 1024),
        "also_leaves": [*ALSO_LEAVES, *(AMONG_MANY if len(peers) > 1 else ())],
        "never_leaves": [
            text
            for text in NEVER_LEAVES
            if text != PRIVATE_STAYS or fusion is None or fusion["kind"] != "private"
        ],
        "privacy": {
            **({"mode": "none"} if agreed.mechanism is None else agreed.mechanism.row()),
            "sentence": sentence_of(agreed.mechanism, agreed.terms.fused_by),
            "account": _account(config, agreed),
        },
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The plan for a person."""
    shared, private, fusion = plan["shared"], plan["private"], plan["fusion"]
    peers = ", ".join(plan["peers"])
    lines = [
        f"{plan['party']} with {peers}, {plan['rounds']} rounds of {plan['factory']}, algorithm "
        f"{plan['algorithm']}",
        "",
        f"LEAVES every round, to {peers}: {len(shared)} tensors",
        _table(shared),
        "",
        *(_fusion_lines(fusion, peers) if fusion else ()),
        f"STAYS{' until then' if fusion is not None and fusion['kind'] == 'private' else ''}: "
        f"{len(private)} tensors",
        _table(private) if private else "  none: everything is shared",
        "",
        "ALSO LEAVES:",
        *(f"  - {text}" for text in plan["also_leaves"]),
        "",
        "NEVER LEAVES:",
        *(f"  - {text}" for text in plan["never_leaves"]),
        "",
        f"bytes a round: {size(plan['payload_bytes_per_round'])} of tensors out{_each(plan)}, as "
        "many in; "
        f"on the wire at most {size(plan['wire_bytes_per_round_at_most'])}, and "
        f"{size(plan['wire_bytes_per_connection_at_most'])} a connection",
        f"bytes in all: {size(plan['payload_bytes'])} of tensors out",
        f"agreement: {plan['contract']}",
        f"shared tensors: {plan['fingerprint']}",
        "  (every party must see the same two lines)",
        f"rule: {plan['rule']}",
        f"parties that a round needs: {plan['parties_needed']} of {1 + len(plan['peers'])}",
        "",
        *_code_lines(plan),
        *(f"note: {text}" for text in plan["notes"]),
    ]
    lines += ["", *_privacy_lines(plan["privacy"])]
    if not plan["consented"]:
        lines += [
            "",
            "NOT YET CONSENTED: `run` refuses until [fusion] release_private = true stands in "
            "party.toml; nothing private leaves before that",
        ]
    return lines


def _each(plan: dict[str, Any]) -> str:
    """To how many peers bytes go, where there is more than one."""
    peers = len(plan["peers"])
    each = size(plan["payload_bytes_per_round"] // peers)
    return "" if peers == 1 else f" ({each} to each of {peers} peers)"


def _code_lines(plan: dict[str, Any]) -> list[str]:
    """Whose code was just run, and whose `run` will run."""
    code = plan["code"]
    files = code["files"]
    factory, own = plan["factory"], plan["own_factory"]
    lines = [
        f"factory runs code: {factory} was just run on this machine, and `run` runs it",
        f"  from {files[factory]}",
    ]
    if own:
        lines.append(f"  and so was {own}, your own private part, from {files[own]}")
    for name, theirs in plan["others_factories"].items():
        lines.append(
            f"  and so was {theirs}, with which {name}'s model is rebuilt here, from "
            f"{files[theirs]}"
        )
    lines += [f"  `run` also runs {key} = {text}" for key, text in code["images"].items()]
    lines.append(
        f"  code comes from installed packages and from {code['folder']} alone: none is ever "
        "received"
    )
    return lines


def _code(config: PartyConfig) -> dict[str, Any]:
    """Where code is looked for, the file of each factory, and images that come from code."""
    from splitfed import lookup
    from splitfed.data.request import KINDS
    from splitfed.errors import ModelError

    own = [] if config.model is None else [config.model.factory]
    named = [config.federation.model.factory, *own, *_others(config).values()]
    found = {
        name: lookup.find(name, folder=config.folder, error=ModelError, what="model factory")
        for name in named
    }
    sources = {key: getattr(config.data, key) for key in ("train", "validation", "test")}
    sources["reference"] = config.data.reference
    return {
        "folder": str(config.folder),
        "files": {name: lookup.source(one) for name, one in found.items()},
        "images": {
            f"data.{key}": text
            for key, text in sources.items()
            if text and text.partition(":")[0] not in KINDS
        },
    }


def _fusion(agreed: Agreed, party: str) -> dict[str, Any] | None:
    """What leaves for fusion; None where nothing does."""
    from splitfed.rounds import UPDATE, plan

    fusion, terms = agreed.fusion, agreed.terms
    if fusion is None or terms.fusion is None:
        return None
    specs = terms.fusion.tensors[party]
    return {
        "method": fusion.method,
        "kind": terms.fusion.kind,
        "tensors": _rows(specs),
        "times": sum(kind != UPDATE for kind in plan((), terms)),
        "every": fusion.every,
        "bytes": sum(spec.nbytes for spec in specs) * (len(terms.parties) - 1),
        "reference_size": fusion.reference_size,
        "reference_digest": fusion.reference_digest,
    }


def _fusion_lines(fusion: dict[str, Any], peers: str) -> list[str]:
    when = "once, after the last round"
    if fusion["every"] is not None:
        each = "every round" if fusion["every"] == 1 else f"every {fusion['every']} rounds"
        when = f"after {each} and the last, {fusion['times']} times in all"
    what = (
        f"class probabilities of {fusion['reference_size']} unlabelled reference images"
        if fusion["kind"] == "outputs"
        else "THE PRIVATE LAYERS, by consent: [fusion] release_private = true in party.toml"
    )
    return [f"LEAVES {when}, to {peers}: {what}", _table(fusion["tensors"]), ""]


def _others(config: PartyConfig) -> dict[str, str]:
    """Models of other parties that are built here."""
    return {
        name: entry.model.factory
        for name, entry in sorted(config.federation.parties.items())
        if entry.model is not None and name != config.party
    }


def _account(config: PartyConfig, agreed: Agreed) -> dict[str, Any] | None:
    """Where the data set's privacy account stands now, and what this federation would make
    of it; None under "none"."""
    from splitfed.privacy import epsilon
    from splitfed.rounds import UPDATE
    from splitfed.run.party import limit_of
    from splitfed.run.spending import spends_of, standing
    from splitfed.store import BUDGET, Budget

    if agreed.mechanism is None:
        return None
    limit = limit_of(config)
    delta = agreed.mechanism.delta if limit is None else limit.delta
    debits = Budget.read(config.folder / BUDGET, config.data.id)
    run, released = _own_run(config)
    own = [debit.kind for debit in debits if debit.run == run]
    updates = own.count(UPDATE)
    planned = agreed.mechanism.spends(
        max(agreed.terms.rounds - updates, 0),
        max(agreed.mechanism.fusions - len(own) + updates, 0),
    )
    return {
        **standing(config.data.id, debits, delta, limit),
        "planned_epsilon": epsilon([*spends_of(debits), *planned], delta),
        "forgotten": len(released - {debit.release for debit in debits}),
    }


def _own_run(config: PartyConfig) -> tuple[bytes | None, set[bytes]]:
    """The run in the default run folder, if it has begun, and its releases: paid already."""
    from splitfed.errors import NoRunFolder
    from splitfed.store import RunFolder

    try:
        with RunFolder.read_only(config.folder / RUNS / config.party) as folder:
            rows = folder.ledger.rows()
            paid = {entry.row.release for entry in rows if entry.row.epsilon is not None}
            return folder.run, paid
    except NoRunFolder:
        return None, set()


def _privacy_lines(privacy: dict[str, Any]) -> list[str]:
    """The mechanism's figures, the sentence, and the account, for a person."""
    if privacy["mode"] == "none":
        return [privacy["sentence"]]
    account = privacy["account"]
    unit = "party's whole update" if privacy["unit"] == "party" else privacy["unit"]
    lines = [
        f"PRIVACY: {privacy['mode']}, for each {unit}",
        f"  epsilon = {privacy['epsilon']:.4f} at delta = {privacy['delta']:g} for all "
        f"{privacy['steps']} planned steps"
        + (
            ""
            if privacy["fusion_epsilon"] is None
            else f" and the fusion (by itself {privacy['fusion_epsilon']:.4f})"
        )
        + f" ({privacy['accountant']}; RDP {privacy['epsilon_rdp']:.4f})",
        f"  noise multiplier {privacy['noise_multiplier']:g}, clipping norm "
        f"{privacy['max_grad_norm']:g}, sample rate {privacy['sample_rate']:g}",
        f"  account of data set {account['data_id']}: {account['spent_epsilon']:.4f} spent by "
        f"{account['runs']} run(s); {account['planned_epsilon']:.4f} after this federation"
        + (
            ", no limit set ([data] budget_epsilon)"
            if account["budget_epsilon"] is None
            else f"; the limit is {account['budget_epsilon']:g} at delta = {account['delta']:g}"
        ),
    ]
    if account["budget_epsilon"] is not None and (
        account["planned_epsilon"] > account["budget_epsilon"]
    ):
        needed = math.ceil(account["planned_epsilon"] * 100) / 100
        lines.append(
            "  THE LIMIT IS NOT ENOUGH: `run` will stop before the round that exceeds it; all "
            f"rounds need [data] budget_epsilon = {needed:g} in party.toml, at budget_delta = "
            f"{account['delta']:g}"
        )
    if account["forgotten"]:
        lines.append(
            f"  BUDGET.SQLITE IS NOT COMPLETE: it lacks {account['forgotten']} release(s) that the "
            "run folder's ledger holds; `run` will refuse (exit 4): restore it from a backup"
        )
    return [*lines, "", privacy["sentence"]]


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
