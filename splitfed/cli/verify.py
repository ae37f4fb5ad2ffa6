"""``splitfed verify``: what left, who signed for it, and whether anybody changed it since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import AsJson
from splitfed.errors import LedgerTampered

if TYPE_CHECKING:
    from splitfed.run.facts import Facts
    from splitfed.run.verifying import Checked

CURE = (
    "keep every side's folder as it is and look for untouched copies: what bears the peer's "
    "receipt is what the peer once got. A folder put back from an older backup looks like this "
    "too: then the newest copy is the right one"
)
ALIKE = 2
"""Of notes that say the same of many rows, so many are told in full."""


def verify(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="Run folders of one party, or of several parties of one federation.",
            show_default=False,
        ),
    ],
    federation: Annotated[
        Path | None,
        typer.Option(
            "--federation",
            metavar="FEDERATION.TOML",
            help="Take all parties' public keys from this agreement. Default: from the folders, "
            "whose owners could have put others there.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check the egress ledger of one party, or of several parties against each other.

    Reads only; a run may go on meanwhile. Exit code 4 if a row was removed, changed, reordered
    or cut off, or if a signature, file, debit or vote does not fit; each is named.
    """
    from splitfed.config import load_federation
    from splitfed.run.crosscheck import check_folders

    agreement = None if federation is None else load_federation(federation)
    checked = check_folders(folders, agreement)
    said = _said(checked, agreement is not None)
    if as_json:
        found = [_row(it) for it in checked]
        say_json({"folders": found, "faults": sum(len(it.faults) for it in checked), **said})
    else:
        for it in checked:
            say(f"{it.facts.party} ({it.facts.path})", columns(_table(it)))
        say(said["checked"], said["not_checked"])
    faults = [f"{it.facts.party}: {fault}" for it in checked for fault in dict.fromkeys(it.faults)]
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        if as_json:
            raise LedgerTampered("\n  ".join([f"{count}:", *faults]), CURE)
        raise LedgerTampered(f"{count}, marked FAULT above", CURE)
    if not as_json:
        say("no fault found")
    return 0


def _table(it: Checked) -> list[tuple[str, str]]:
    row = _row(it)
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["kinds"].items())
    rows = [
        ("rows", f"{row['rows']} ({kinds})" if kinds else str(row["rows"])),
        ("bytes", f"{row['bytes']:,}"),
        ("epsilon", "no privacy promised" if row["epsilon"] is None else f"{row['epsilon']:.4f}"),
        ("signed", f"{row['signed']} of {row['rows']}"),
    ]
    rows += [
        (f"acknowledged by {peer}", _ranges(held)) for peer, held in row["acknowledged"].items()
    ]
    rows += [("unacknowledged", text) for text in _gaps(row["unacknowledged"])]
    rows += [(f"entries kept of {peer}", _ranges(held)) for peer, held in row["witnessed"].items()]
    rows.append(("files whole", ", ".join(f"{n} in {name}" for name, n in it.files.items())))
    if it.debits is not None:
        rows.append(("debits", f"{it.debits} of {row['rows']} in {it.budget}"))
    rows += [("note", note) for note in few(it.notes)]
    rows += [("FAULT", fault) for fault in it.faults]
    return [(name, printable(text)) for name, text in rows]


def _gaps(unacknowledged: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """By whom which rows are not acknowledged: a line for all rows of the same peers."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for gap in unacknowledged:
        alike.setdefault(", ".join(gap["peers"]), []).append(gap)
    for peers, gaps in alike.items():
        first, last = gaps[0], gaps[-1]
        if first is last:
            yield f"row {first['row']} (round {first['round']}, {first['kind']}) by {peers}"
        else:
            where = _ranges(gap["row"] for gap in gaps)
            yield f"{where} (rounds {first['round']} to {last['round']}) by {peers}"


def few(notes: Iterable[str]) -> Iterator[str]:
    """Notes without the many that say the same of further rows: a revoked key has signed all."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(note.rpartition(": ")[2], []).append(note)
    for what, group in alike.items():
        yield from group[:ALIKE]
        if (more := len(group) - ALIKE) > 0:
            yield f"{more} more like these ({what}); --json tells all"


def _row(it: Checked) -> dict[str, Any]:
    from splitfed.signatures import PartyKeys, verified_by

    facts: Facts = it.facts
    rows = facts.rows or ()
    keys = facts.keys.get(facts.party, PartyKeys(present=""))
    signed = [
        verified_by(keys, entry.entry(facts.run or b"", facts.party).message(), sign, past=True)
        for entry, sign in ((row, row.signature) for row in rows)
    ]
    return {
        "folder": str(facts.path),
        "party": facts.party,
        "run": None if facts.run is None else facts.run.hex(),
        "rows": len(rows),
        "kinds": dict(Counter(entry.row.kind for entry in rows)),
        "bytes": sum(entry.row.size for entry in rows),
        "epsilon": rows[-1].row.epsilon if rows else None,
        "signed": sum(signed),
        "acknowledged": {
            peer: [entry.number for entry in rows if peer in entry.acknowledged]
            for peer in facts.peers
        },
        "unacknowledged": [
            {
                "row": entry.number,
                "round": entry.row.round,
                "kind": entry.row.kind,
                "peers": list(peers),
            }
            for entry, peers in it.unacknowledged
        ],
        "witnessed": {
            peer: [n for n, w in facts.witnessed_of(peer).items() if w.counter_signature]
            for peer in facts.peers
        },
        "files": it.files,
        "debits": it.debits,
        "notes": it.notes,
        "faults": list(dict.fromkeys(it.faults)),
    }


def _said(checked: list[Checked], given: bool) -> dict[str, str]:
    """What was checked, and what was not."""
    both = len(checked) > 1
    compared = "; each side's records of the other's entries, outcomes and votes" if both else ""
    budgets = all(it.debits is not None for it in checked if _private(it))
    private = any(_private(it) for it in checked)
    debits = ", the debits of every release" if private and budgets else ""
    return {
        "checked": "checked: the hash chain, every entry's signature, the peers' receipts, what "
        "rounds and votes name, the files that are still there, that epsilon never falls"
        f"{debits}{compared}",
        "not_checked": "not checked: anything that was never written into a ledger or that all "
        "given parties removed together"
        + ("" if given else "; whether the keys are theirs (--federation)")
        + ("" if both else "; whether rows at the end were cut off together with all that "
           "belongs to them (give the peer's folder too)")
        + (", debits" if private and not budgets else "")
        + ", payloads that were pruned",
    }  # fmt: skip


def _private(it: Checked) -> bool:
    return any(entry.row.epsilon is not None for entry in it.facts.rows or ())


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as a person writes them: rows 1-3, 5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    parts = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in found]
    return f"rows {', '.join(parts)}" if parts else "none"
