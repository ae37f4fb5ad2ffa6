"""Checking one party's run folder against itself: ledger, signatures, files, debits, votes.

Nothing here is believed because it stands in the folder. What the party itself cannot make is
what its peers signed: their counter-signatures of its entries, their offers and their votes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from splitfed.config import NEEDS, members_needed
from splitfed.errors import LedgerTampered, PrivacyError
from splitfed.privacy import epsilon
from splitfed.run.facts import Facts, offer_in
from splitfed.run.spending import spends_of
from splitfed.signatures import PartyKeys, by_revoked, verified_by
from splitfed.store import BUDGET, Budget, Debit, FolderView, InputRow, LedgerEntry
from splitfed.transport.events import note_message, vote_message

EPSILON_ERROR = 1e-3
"""Two figures of one ε may differ by this share: the accountant adds up in another grouping."""


@dataclass(kw_only=True)
class Checked:
    """What the checks of one folder came to.

    Attributes:
        facts: what was read.
        faults: what is wrong, each naming its row or file.
        notes: what is worth knowing and no fault.
        unacknowledged: rows without a receipt of every peer, with those peers.
        files: payloads found whole, by folder: "outbox", "inbox".
        debits: rows whose debit was found; None where no budget file was looked at.
        budget: the budget file that was looked at, or None.
    """

    facts: Facts
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unacknowledged: list[tuple[LedgerEntry, tuple[str, ...]]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    debits: int | None = None
    budget: Path | None = None


def check_folder(facts: Facts, budget: Path | None) -> Checked:
    """Check all that one folder says of itself.

    Args:
        facts: what was read of it.
        budget: the party's budget.sqlite, if it is known.

    Raises:
        FolderError: the folder's files, or the budget, cannot be read.
    """
    it = Checked(facts=facts, faults=list(facts.faults))
    it.faults += _ledger(it)
    it.faults += _receipts(it)
    it.faults += _epsilon(facts)
    it.faults += _witnessed(it)
    it.faults += _rounds(it)
    it.faults += _files(it)
    it.faults += _debits(it, budget)
    return it


def _signed(it: Checked, party: str, message: bytes, signature: bytes, what: str) -> str | None:
    """The fault of a signature of ``party`` that should be good, or None."""
    keys = it.facts.keys.get(party, PartyKeys(present=""))
    if verified_by(keys, message, signature, past=True):
        return None
    if by_revoked(keys, message, signature):
        it.notes.append(f"{what}: signed with a key of {party} that was revoked, proves nothing")
        return None
    if not keys.present:
        return f"{what}: no key of {party} is known"
    return f"{what}: not signed by {party}"


def _ledger(it: Checked) -> Iterator[str]:
    facts = it.facts
    for entry in facts.rows or ():
        message = entry.entry(facts.run or b"", facts.party).message()
        fault = _signed(it, facts.party, message, entry.signature, str(entry))
        if fault:
            yield fault


def _receipts(it: Checked) -> Iterator[str]:
    facts = it.facts
    for entry in facts.rows or ():
        mine = entry.entry(facts.run or b"", facts.party)
        for peer, signature in entry.receipts:
            what = f"{entry}: the receipt of {peer}"
            fault = _signed(it, peer, mine.receipt_message(peer), signature, what)
            if fault:
                yield f"{fault} over this entry"
        missing = tuple(peer for peer in facts.peers if peer not in entry.acknowledged)
        if not missing:
            continue
        it.unacknowledged.append((entry, missing))
        vote = facts.vote_of(facts.party, entry.row.round)
        excluded = vote is not None and facts.party in dict(vote.excluded)
        owed = [peer for peer in missing if peer in _owing(facts, entry)]
        if owed and entry is not (facts.rows or ())[-1] and not excluded:
            yield (
                f"{entry}: no receipt of {', '.join(owed)}, and only the last row may be sent "
                "and not acknowledged"
            )


def _owing(facts: Facts, entry: LedgerEntry) -> set[str]:
    """Peers whose receipt of ``entry`` had to be there before the next release: with views, if
    that was in the next round, those that voted in both and were members in between."""
    if not facts.dynamic:
        return set(facts.peers)
    round = entry.row.round
    after = [other.row.round for other in facts.rows or () if other.row.round > round]
    mine = [facts.vote_row(facts.party, number) for number in (round, *after[:1])]
    if after[:1] != [round + 1] or mine[0] is None or mine[1] is None:
        return set()  # a round was missed: nobody had to take what was sent, or it is forgiven
    voted = {row.party for row in facts.votes if row.round == round}
    members = facts.between(mine[0].view, mine[1].view)
    return (voted & members) - set(facts.quarantined)


def _epsilon(facts: Facts) -> Iterator[str]:
    privacy = facts.document.get("privacy")
    mode = privacy.get("mode") if isinstance(privacy, dict) else None
    rows = facts.rows or ()
    promised = mode != "none" if mode else any(entry.row.epsilon is not None for entry in rows)
    before = 0.0
    for entry in rows:
        spent = entry.row.epsilon
        if not promised:
            if spent is not None:
                yield f"{entry}: epsilon {spent:g} where no privacy is promised"
        elif spent is None or not math.isfinite(spent):
            yield f"{entry}: epsilon {spent} where the privacy spent so far must stand"
        else:
            if spent < before * (1 - EPSILON_ERROR):
                yield f"{entry}: epsilon {spent:g} after {before:g}: what is spent stays spent"
            before = max(before, spent)


def _witnessed(it: Checked) -> Iterator[str]:
    """The entries of peers' ledgers that this folder keeps."""
    facts = it.facts
    for peer in sorted({w.entry.party for w in facts.witnessed or ()}):
        expected, round = 1, 0
        for number, kept in sorted(facts.witnessed_of(peer).items()):
            entry = kept.entry
            what = f"entry {number} (round {entry.round}, {entry.kind}) of the ledger of {peer}"
            if number - expected > _unseen(facts, peer, round, entry.round):
                yield f"entry {expected} of the ledger of {peer} is missing before entry {number}"
            if entry.round <= round or entry.run != facts.run:
                yield f"{what} is of an earlier round or of another run"
            expected, round = number + 1, entry.round
            fault = _signed(it, peer, entry.message(), entry.signature, what)
            if fault:
                yield fault
            if kept.counter_signature is not None:
                message = entry.receipt_message(facts.party)
                what = f"{what}: the own receipt"
                fault = _signed(it, facts.party, message, kept.counter_signature, what)
                if fault:
                    yield fault
    if facts.witnessed is not None:
        yield from _inputs(it)


def _unseen(facts: Facts, peer: str, after: int, before: int) -> int:
    """How many entries of a peer's ledger this party may lack between those of two rounds: with
    views, one for each round between in which no input of that peer came from itself."""
    if not facts.dynamic:
        return 0
    came = {row.round: row for row in facts.inputs if row.party == peer}
    return sum(
        not _counted(facts, peer, round) or (round in came and _passed_on(facts, came[round]))
        for round in range(after + 1, before)
    )


def _counted(facts: Facts, peer: str, round: int) -> bool:
    vote = facts.vote_of(facts.party, round)
    return vote is not None and peer in dict(vote.inputs)


def _passed_on(facts: Facts, row: InputRow) -> bool:
    """Whether an input may have come from another than its maker, which was left out: then no
    entry of its ledger came with it."""
    votes = {v.view for v in facts.votes if (v.round, v.party) == (row.round, facts.party)}
    made = [view.view for view in facts.views if view.round <= row.round]
    within = {view.view for view in facts.views if view.round == row.round}
    numbers = {max(made, default=0), *within, *votes}
    return any(row.party not in (facts.members(number) or ()) for number in numbers)


def _inputs(it: Checked) -> Iterator[str]:
    """Each update that came, and the entry of its sender's ledger, belong together."""
    facts = it.facts
    entries = {(w.entry.party, w.entry.round): w for w in facts.witnessed or ()}
    for row in facts.inputs:
        if row.party == facts.party:
            continue
        what = f"what {row.party} sent in round {row.round}"
        offer = offer_in(row)
        if offer is None or offer.manifest.root != row.root or offer.round != row.round:
            yield f"{what}: the offer that is kept is not the one that came"
            continue
        fault = _signed(it, row.party, offer.message(), offer.signature, f"{what}: its offer")
        if fault:
            yield fault
        kept = entries.pop((row.party, row.round), None)
        if offer.run != facts.run:
            it.notes.append(f"{what}: signed for another run, refused; no entry of this one")
            continue
        if kept is None and _passed_on(facts, row):
            continue
        if kept is None or not kept.entry.same_as(offer.entry):
            yield f"{what}: entry {offer.number} of its ledger, which came with it, is not kept"
        elif kept.counter_signature is None and not row.reason:
            yield f"{what}: admitted, and never counter-signed"
    for party, round in sorted(entries):
        number = entries[party, round].entry.number
        late = entries[party, round].counter_signature is None
        if facts.dynamic and late and not _counted(facts, party, round):
            continue  # made before its party was left out: kept, so that its ledger goes on
        yield f"entry {number} of the ledger of {party}: what came in round {round} is missing"


def _rounds(it: Checked) -> Iterator[str]:
    """Votes, inputs, ledger and closed rounds name the same payloads."""
    facts = it.facts
    released = {entry.row.round: entry for entry in facts.rows or ()}
    received = {(row.round, row.party): row.root for row in facts.inputs}
    for vote in facts.votes:
        what = f"the vote of {vote.party} in round {vote.round}"
        fault = _signed(it, vote.party, vote_message(vote.body), vote.signature, what)
        if fault:
            yield fault
    for word in facts.statements:
        what = f"the statement of {word.party} for view {word.view}"
        fault = _signed(it, word.party, note_message("view", word.body), word.signature, what)
        if fault:
            yield fault
    yield from _views(facts)
    for closed in facts.closed:
        if closed.outcome in ("alone", "missed"):
            continue  # nobody's votes are needed for what this party did alone or took over
        view = facts.closed_in(closed)
        for party in facts.members(view) or facts.parties:
            vote_read = facts.vote_of(party, closed.round, view)
            what = f"round {closed.round}: the vote of {party}"
            if vote_read is None or (vote_read.run, vote_read.party) != (facts.run, party):
                yield f"{what} is missing or of another run, although the round is closed"
                continue
            if vote_read.aggregate != closed.digest:
                yield f"{what} names another outcome than the closed round has"
            for sender, root in vote_read.inputs:
                if sender != facts.party and received.get((closed.round, sender)) != root:
                    yield f"{what} names an update of {sender} that this folder did not receive"
            if facts.rows is None:
                continue
            mine, row = dict(vote_read.inputs).get(facts.party), released.get(closed.round)
            if mine is None and facts.dynamic:
                continue  # what this party released came too late to count
            if row is None:
                yield f"{what} names an update of {facts.party} of which no row is in its ledger"
            elif row.row.root != mine:
                yield f"{row}: {what} names another payload than this row"


def _views(facts: Facts) -> Iterator[str]:
    """The views that are noted hold enough parties, and this one."""
    for row in facts.views:
        members, what = set(row.members), f"view {row.view}"
        if not facts.dynamic or facts.party not in members or members - set(facts.parties):
            yield f"{what}: its members {', '.join(row.members)} are not those of this federation"
        if len(members) < _minimum(facts):
            yield f"{what}: {len(members)} members, and {_minimum(facts)} are agreed at least"


def _minimum(facts: Facts) -> int:
    """How many parties a view has at least: the agreement's figure, as many as its rule needs,
    and more than half."""
    found, half = facts.document.get("aggregation"), len(facts.parties) // 2 + 1
    agreed = found if isinstance(found, dict) else {}
    minimum, byzantine = (agreed.get(key, 0) for key in ("minimum_parties", "byzantine"))
    if (rule := str(agreed.get("rule"))) in NEEDS and isinstance(byzantine, int):
        half = members_needed(rule, byzantine, half)
    return max(minimum, half) if isinstance(minimum, int) else half


def _files(it: Checked) -> Iterator[str]:
    """Payloads that are still there are what was stored; the newest must be there."""
    facts = it.facts
    received = {
        row.root: (row.round, f"what {row.party} sent in round {row.round}")
        for row in facts.inputs
        if row.party != facts.party and _stored(facts, row)
    }
    released = {entry.row.root: (entry.row.round, str(entry)) for entry in facts.rows or ()}
    with FolderView.at(facts.path) as view:
        for name, blobs, named in (
            ("outbox", view.outbox, released),
            ("inbox", view.inbox, received),
        ):
            it.files[name] = 0
            for root, (round, what) in sorted(named.items(), key=lambda item: item[1]):
                try:
                    there = blobs.check(root)
                except LedgerTampered as error:
                    yield f"{what}: {error.message}"
                    continue
                it.files[name] += there
                # As of now: a run that goes on prunes what comes before it.
                if not there and round >= view.last_closed:
                    yield f"{what}: its file {facts.path}/{name}/{root.hex()} is missing"
            unnamed = len(blobs.roots() - set(named))
            if unnamed and facts.rows is not None:
                it.notes.append(
                    f"{name}: {unnamed} file{'s' * (unnamed > 1)} that no row names: left by a "
                    "crash before the row, or by a row that was removed"
                )


def _stored(facts: Facts, row: InputRow) -> bool:
    entries = facts.witnessed_of(row.party).values()
    kept = [w for w in entries if w.entry.round == row.round]
    if not kept and facts.dynamic:
        return row.admitted and _passed_on(facts, row)
    return any(w.counter_signature is not None for w in kept)


def _debits(it: Checked, budget: Path | None) -> Iterator[str]:
    """Everything that was released under differential privacy was paid."""
    facts = it.facts
    rows = [entry for entry in facts.rows or () if entry.row.epsilon is not None]
    if not rows:
        return
    if budget is None or not budget.is_file():
        it.notes.append(f"debits: not checked, {budget or BUDGET} is not within reach")
        return
    it.budget, it.debits = budget, 0
    try:
        found = [debit for debit in Budget.read_all(budget) if debit.run == facts.run]
    except LedgerTampered as error:
        yield error.message
        return
    paid = {debit.release: debit for debit in found}
    spent: list[Debit] = []
    for entry in rows:
        debit = paid.pop(entry.row.release, None)
        if debit is None or debit.root != entry.row.root:
            has = "no debit" if debit is None else f"a debit for root {debit.root.hex()[:16]}"
            yield f"{entry}: {budget} has {has}"
            continue
        it.debits += 1
        spent.append(debit)
        yield from _same_epsilon(facts, entry, spent)
    last = rows[-1].row.round
    for debit in paid.values():
        what = f"round {debit.round}, {debit.kind}: paid for in {budget}"
        if debit.round > last:
            it.notes.append(f"{what}, and in no row: a crash before it, or a row was removed")
        else:
            yield f"{what}, and in no row of the ledger"


def _same_epsilon(facts: Facts, entry: LedgerEntry, spent: list[Debit]) -> Iterator[str]:
    """The row's ε is what the debits up to it cost together."""
    privacy = facts.document.get("privacy")
    delta = privacy.get("delta") if isinstance(privacy, dict) else None
    if not isinstance(delta, float) or len(spent) != entry.number:
        return
    try:
        costs = epsilon(spends_of(spent), delta)
    except PrivacyError:
        return
    said = entry.row.epsilon or 0.0
    if not math.isclose(said, costs, rel_tol=EPSILON_ERROR, abs_tol=EPSILON_ERROR):
        yield f"{entry}: epsilon {said:g}, and its debits so far cost {costs:g}"
