"""Checking two parties' run folders against each other.

A row of one ledger was counter-signed by the other side, which keeps the entry. Whoever changes
its own folder, keys and all, cannot change that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from pathlib import Path

from splitfed.config import FederationConfig
from splitfed.errors import FolderError
from splitfed.run.facts import Facts, read_facts
from splitfed.run.verifying import Checked, check_folder
from splitfed.serve.trust import party_file_of
from splitfed.store import BUDGET


def check_folders(
    paths: Sequence[Path], agreement: FederationConfig | None = None
) -> list[Checked]:
    """Check one party's folder, or several of one federation also against each other.

    Args:
        paths: run folders; runs may be writing to them.
        agreement: where the public keys are taken from; None: from the folders themselves.

    Returns:
        One for each path, with its faults.

    Raises:
        FolderError: a path is no run folder, or they are not of one federation.
    """
    # Twice: what one side must have is read after what the other side says of it.
    first = [read_facts(path, agreement) for path in paths]
    _same_run(first)
    checked = [check_folder(facts, _budget(facts.path)) for facts in first]
    second = [read_facts(path, agreement) for path in paths] if len(paths) > 1 else []
    for one, other in permutations(range(len(second)), 2):
        checked[one].faults += kept_by_the_other(second[one], first[other])
        checked[other].faults += receipts_kept(first[one], second[other])
    for one, other in combinations(range(len(second)), 2):
        checked[one].faults += rounds_agree(second[one], second[other])
    return checked


def _budget(path: Path) -> Path | None:
    """The budget.sqlite of the run in ``path``; None where that is not known."""
    party_file = party_file_of(path)
    return None if party_file is None else party_file.parent / BUDGET


def _same_run(readings: list[Facts]) -> None:
    """Make sure that folders can be compared with each other.

    Raises:
        FolderError: two of one party, or of different federation runs.
    """
    owners: dict[str, Path] = {}
    for facts in readings:
        if facts.party in owners:
            raise FolderError(
                f"{owners[facts.party]} and {facts.path} are both of {facts.party}",
                "give one folder of each party",
            )
        owners[facts.party] = facts.path
    runs = {facts.run for facts in readings}
    if len(runs) > 1:
        raise FolderError(
            f"{' and '.join(str(facts.path) for facts in readings)} are of different runs",
            "give the folders that began together",
        )


def kept_by_the_other(owner: Facts, keeper: Facts) -> Iterator[str]:
    """Faults of the ledger of ``owner``: every entry that ``keeper`` keeps must be in it.

    Args:
        keeper: read before ``owner``, so that a run that goes on meanwhile is no fault.
    """
    if owner.rows is None:
        return
    rows = {entry.number: entry for entry in owner.rows}
    kept_ones = sorted(keeper.witnessed_of(owner.party).items())
    gone = [number for number, _ in kept_ones if number not in rows]
    for number, kept in kept_ones:
        entry = kept.entry
        signed = "" if kept.counter_signature is None else " and counter-signed it"
        if number in rows:
            mine = rows[number].entry(owner.run or b"", owner.party)
            if not mine.same_as(entry):
                yield (
                    f"{rows[number]}: not the entry that {keeper.party} keeps{signed}: "
                    f"head {mine.head.hex()[:16]} here, {entry.head.hex()[:16]} (round "
                    f"{entry.round}, {entry.kind}, root {entry.root.hex()[:16]}) there"
                )
        elif number in gone:
            ends = f"it ends at row {len(rows)}" if number > len(rows) else "it was removed"
            yield (
                f"row {number} (round {entry.round}, {entry.kind}, root {entry.root.hex()[:16]}): "
                f"{keeper.party} keeps it{signed}, and it is not in the ledger of {owner.party}: "
                f"{ends}"
            )


def receipts_kept(owner: Facts, keeper: Facts) -> Iterator[str]:
    """Faults of the folder of ``keeper``: what it counter-signed for ``owner`` it must keep.

    Args:
        keeper: read after ``owner``.
    """
    if keeper.witnessed is None:
        return
    kept = keeper.witnessed_of(owner.party)
    for row in owner.rows or ():
        if keeper.party not in row.acknowledged:
            continue
        found = kept.get(row.number)
        if found is None or not found.entry.same_as(row.entry(owner.run or b"", owner.party)):
            yield (
                f"{row} of the ledger of {owner.party} bears the receipt of {keeper.party}, whose "
                f"folder keeps {'no' if found is None else 'another'} entry {row.number} of it"
            )


def rounds_agree(one: Facts, other: Facts) -> Iterator[str]:
    """Faults between two folders: rounds closed on both sides have one outcome, or left the same
    shared tensors where one side missed them, and each side's votes are the same in both."""
    theirs = {closed.round: closed for closed in other.closed}
    for closed in one.closed:
        same = theirs.get(closed.round)
        if same is None or "alone" in (closed.outcome, same.outcome):
            continue
        if "missed" in (closed.outcome, same.outcome):
            here, there = one.shared_after(closed), other.shared_after(same)
            if here is not None and there is not None and here != there:
                yield (
                    f"round {closed.round}: it left the shared tensors {here.hex()[:16]} at "
                    f"{one.party} ({closed.outcome}), {there.hex()[:16]} at {other.party} "
                    f"({same.outcome})"
                )
        elif (closed.outcome, closed.digest) != (same.outcome, same.digest):
            yield (
                f"round {closed.round}: closed as {closed.outcome} {closed.digest.hex()[:16]} by "
                f"{one.party}, as {same.outcome} {same.digest.hex()[:16]} by {other.party}"
            )
        yield from _votes_agree(one, other, closed.round)


def _votes_agree(one: Facts, other: Facts, round: int) -> Iterator[str]:
    """In one view each of both parties has one vote, whichever folder keeps it."""
    kept = {(row.party, row.view): row.body for row in other.votes if row.round == round}
    for row in one.votes:
        known = kept.get((row.party, row.view), row.body)
        ours = row.party in (one.party, other.party)
        if row.round == round and ours and known != row.body:
            yield f"round {round}: the folders hold different votes of {row.party}"
