"""`splitfed verify` finds and names what was removed, changed, reordered or cut off, whichever
side did it, with or without its own key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from splitfed.errors import FolderError
from splitfed.run.crosscheck import check_folders
from splitfed.run.facts import read_facts
from splitfed.run.verifying import check_folder
from splitfed.store import BUDGET, Budget, RunFolder
from splitfed.transport.keys import Secret
from tests.support.commands import answer_to
from tests.support.members import Town, make_terms, outputs_fusion
from tests.support.paying import DATA, PayingTown
from tests.support.privacy import mechanism
from tests.support.tampering import Rows, changed, edit, rewrite, swapped, without

ROWS = 4


@dataclass(frozen=True)
class Pair:
    """Two finished folders of three rounds and a fusion, and who could sign in them."""

    path: Path
    secrets: dict[str, Secret]

    @property
    def sides(self) -> list[Path]:
        return [self.path / "a", self.path / "b"]

    def faults(self, *names: str) -> list[str]:
        """What is found with these parties' folders at hand; both by default."""
        paths = [self.path / name for name in names or ("a", "b")]
        return [f"{it.facts.party}: {fault}" for it in check_folders(paths) for fault in it.faults]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp("original")
    town = Town(path, ["a", "b"], {"rounds": 3, "fusion": outputs_fusion(["a", "b"])})
    for name in "ab":
        town.start(name)
    town.wait()
    assert [town.endings[name].outcome for name in "ab"] == ["done", "done"]
    return Pair(path, town.secrets)


@pytest.fixture
def pair(original: Pair, tmp_path: Path) -> Pair:
    for name in "ab":
        shutil.copytree(original.path / name, tmp_path / name)
    return Pair(tmp_path, original.secrets)


def names_row(found: list[str], number: int) -> bool:
    return any(fault.startswith("a: ") and f"row {number} " in fault for fault in found)


def test_an_honest_pair_has_no_fault_and_every_entry_is_signed_and_acknowledged(
    original: Pair,
) -> None:
    assert original.faults() == original.faults("a") == original.faults("b") == []
    for it in check_folders(original.sides):
        assert [len(row.acknowledged) for row in it.facts.rows or ()] == [1] * ROWS
        assert len(it.facts.witnessed or ()) == ROWS
        assert (it.notes, it.unacknowledged) == ([], [])
        assert it.files == {"outbox": 1, "inbox": 1}


# --- without the key: the chain and the signatures say it ------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_removed_row_is_named_from_either_folder(pair: Pair, number: int) -> None:
    edit(pair.path / "a", "DELETE FROM ledger WHERE number = ?", number)
    assert names_row(pair.faults("a"), number)
    assert names_row(pair.faults(), number)


FIELDS: dict[str, object] = {
    "time": 1.0,
    "release": bytes(32),
    "round": 9,
    "kind": "private",
    "root": bytes(32),
    "size": 7,
    "tensors": (),
    "epsilon": 0.5,
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("signed", [False, True])
def test_a_changed_field_is_named_though_the_whole_chain_is_made_anew(
    pair: Pair, field: str, signed: bool
) -> None:
    secret = pair.secrets["a"] if signed else None
    rewrite(pair.path / "a", changed(2, **{field: FIELDS[field]}), secret)
    with RunFolder.read_only(pair.path / "a") as view:
        assert view.ledger.verify() == ROWS  # the chain alone no longer tells
    assert names_row(pair.faults("a"), 2), pair.faults("a")
    together = [f for f in pair.faults() if "not the entry that b keeps" in f]
    # Everything after the changed row has another head too.
    assert [f.split(" (")[0] for f in together] == [f"a: row {n}" for n in (2, 3, 4)]


def test_a_changed_signature_is_named(pair: Pair) -> None:
    edit(pair.path / "a", "UPDATE ledger SET signature = zeroblob(64) WHERE number = 3")
    assert pair.faults("a") == ["a: row 3 (round 3, update): not signed by a"]


# --- with the key: what the peer signed says it, in this folder or in its own -----------------


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (without(1), 1),
        (without(2), 2),
        (without(4), 4),
        (without(3, 4), 3),
        (swapped(2, 3), 2),
        (swapped(1, 4), 1),
        (lambda rows: [], 1),
        (lambda rows: [*rows, msgspec.structs.replace(rows[1], receipts=())], 5),
    ],
    ids=["first", "middle", "last", "end", "swapped", "turned", "all", "added"],
)
def test_a_party_that_signs_its_changed_ledger_anew_is_found_out(
    pair: Pair, change: Callable[[Rows], Rows], number: int
) -> None:
    if number == 5:  # a release of its own, under a name of its own
        renamed = changed(5, release=b"5" * 32)
        rewrite(pair.path / "a", lambda rows: renamed(change(rows)), pair.secrets["a"])
        # A row that was sent to nobody is one without a receipt: listed, and no fault.
        (it,) = check_folders([pair.path / "a"])
        assert [str(row) for row, _ in it.unacknowledged] == ["row 5 (round 2, update)"]
        return
    rewrite(pair.path / "a", change, pair.secrets["a"])
    assert pair.faults("a"), "the own folder still holds what b signed"
    assert names_row(pair.faults(), number), pair.faults()


def test_a_whole_older_folder_is_told_by_the_peers_records_alone(tmp_path: Path) -> None:
    town = Town(tmp_path, ["a", "b"])

    def copy(round: int) -> None:
        if round == 3:
            shutil.copytree(tmp_path / "a", tmp_path / "older")

    town.learners["a"].crash = copy
    for name in "ab":
        town.start(name)
    town.wait()
    assert [it.faults for it in check_folders([tmp_path / "older"])] == [[]]
    older, _ = check_folders([tmp_path / "older", tmp_path / "b"])
    own = [fault for fault in older.faults if "of the ledger of b" not in fault]
    assert [fault.split(", root")[0] for fault in own] == [
        "row 3 (round 3, update",
        "row 4 (round 4, update",
    ]
    assert own[0].endswith(
        "b keeps it and counter-signed it, and it is not in the ledger of a: it ends at row 2"
    )


def test_rows_of_another_federation_are_no_rows_of_this_one(pair: Pair, tmp_path: Path) -> None:
    other = Town(tmp_path / "other", ["a", "b"])
    other.secrets, other.terms = pair.secrets, make_terms(["a", "b"], pair.secrets)
    for name in "ab":
        other.start(name)
    other.wait()
    with RunFolder.read_only(tmp_path / "other" / "a") as view:
        foreign = list(view.ledger.rows())
    rewrite(pair.path / "a", lambda rows: [rows[0], *foreign[1:]], pair.secrets["a"])
    assert len(foreign) == ROWS
    assert names_row(pair.faults("a"), 2)
    assert names_row(pair.faults(), 2)


# --- receipts and records --------------------------------------------------------------------


def test_a_receipt_that_was_dropped_is_missed_except_in_the_last_row(pair: Pair) -> None:
    edit(pair.path / "a", "DELETE FROM receipts WHERE number IN (2, 4)")
    (fault,) = pair.faults("a")
    assert "row 2 (round 2, update): no receipt of b, and only the last row may be" in fault
    (it,) = check_folders([pair.path / "a"])
    assert [(row.number, peers) for row, peers in it.unacknowledged] == [(2, ("b",)), (4, ("b",))]
    told = answer_to("verify", pair.path / "a").out
    assert "unacknowledged     rows 2, 4 (rounds 2 to 4) by b" in told


@pytest.mark.parametrize("by", ["a", "b over another row", "nobody"])
def test_a_receipt_that_was_forged_is_named(pair: Pair, by: str) -> None:
    with RunFolder.read_only(pair.path / "a") as view:
        assert view.run is not None
        row, other = view.ledger.rows()[1:3]
        forged = {
            "a": pair.secrets["a"].sign(row.entry(view.run, "a").receipt_message("b")),
            "b over another row": other.receipts[0][1],
            "nobody": bytes(64),
        }[by]
    edit(pair.path / "a", "UPDATE receipts SET counter_signature = ? WHERE number = 2", forged)
    assert pair.faults("a") == [
        "a: row 2 (round 2, update): the receipt of b: not signed by b over this entry"
    ]


def test_a_receiver_that_denies_what_it_signed_is_found_out(pair: Pair) -> None:
    edit(pair.path / "b", "DELETE FROM witnessed WHERE number = 2")
    assert any("entry 2 of the ledger of a is missing" in fault for fault in pair.faults("b"))
    edit(pair.path / "b", "DELETE FROM witnessed WHERE number > 1")
    edit(pair.path / "b", "DELETE FROM inputs WHERE round > 1")
    told = [fault for fault in pair.faults() if "whose folder keeps no entry" in fault]
    assert [fault.split(" (")[0] for fault in told] == [f"b: row {n}" for n in (2, 3, 4)]


@pytest.mark.parametrize("column", ["head", "root", "run", "signature", "counter_signature"])
def test_a_changed_record_of_the_peers_ledger_is_named(pair: Pair, column: str) -> None:
    size = 64 if "signature" in column else 32
    edit(pair.path / "b", f"UPDATE witnessed SET {column} = zeroblob({size}) WHERE number = 2")
    assert any("entry 2 (round 2, update) of the ledger of a" in f for f in pair.faults("b"))


@pytest.mark.parametrize("table", ["votes", "inputs"])
def test_a_vote_or_an_input_that_was_removed_is_named_by_its_round(pair: Pair, table: str) -> None:
    edit(pair.path / "a", f"DELETE FROM {table} WHERE round = 2 AND party = 'b'")
    assert any("round 2" in fault for fault in pair.faults("a"))


def test_an_outcome_that_only_one_side_has_is_named(pair: Pair) -> None:
    edit(pair.path / "a", "UPDATE closed SET digest = zeroblob(32) WHERE round = 1")
    assert any("round 1: closed as agreed" in fault for fault in pair.faults())


@pytest.mark.parametrize("place", ["outbox", "inbox"])
def test_a_payload_that_was_changed_or_taken_is_named_by_its_row(pair: Pair, place: str) -> None:
    (file,) = (pair.path / "a" / place).iterdir()
    whose = "row 4 (round 4, outputs)" if place == "outbox" else "what b sent in round 4"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (fault,) = pair.faults("a")
    assert fault.startswith(f"a: {whose}")
    assert "was changed after it was written" in fault
    file.unlink()
    (fault,) = pair.faults("a")
    assert fault.startswith(f"a: {whose}")
    assert "is missing" in fault


def test_a_payload_that_a_running_party_prunes_meanwhile_is_no_fault(tmp_path: Path) -> None:
    town = Town(tmp_path, ["a", "b"], {"rounds": 2})
    for rounds in (2, 4):
        before = [read_facts(tmp_path / name) for name in "ab" if rounds > 2]
        town.terms = replace(town.terms, rounds=rounds)
        for name in "ab":
            town.learners[name] = type(town.learners[name])(1.0)
            town.start(name)
        town.wait()
    for facts in before:
        assert check_folder(facts, None).faults == []


def test_an_epsilon_that_falls_is_named(pair: Pair) -> None:
    def spent(rows: Rows) -> Rows:
        for number, epsilon in enumerate((1.0, 2.0, 1.5, 2.5), start=1):
            rows = changed(number, epsilon=epsilon)(rows)
        return rows

    rewrite(pair.path / "a", spent, pair.secrets["a"])
    assert any("row 3 (round 3, update): epsilon 1.5 after 2" in f for f in pair.faults("a"))


def test_a_folder_without_its_peers_keys_proves_nothing(pair: Pair) -> None:
    edit(pair.path / "a", "DELETE FROM meta WHERE key = 'rosters'")
    assert "a: row 1 (round 1, update): no key of a is known" in pair.faults("a")


# --- what it cost ----------------------------------------------------------------------------


@pytest.fixture
def paid(tmp_path: Path) -> Pair:
    """Two rounds that were paid for from a budget; only the agreement is written in afterwards."""
    town = PayingTown(tmp_path, ["a", "b"], {"rounds": 2})
    for name in "ab":
        town.start(name)
    town.wait()
    document = {"privacy": {"mode": "dp-frozen", "delta": mechanism().delta}}
    for name in "ab":
        assert not isinstance(town.endings[name], BaseException), town.endings[name]
        folder = town.folders[name]
        (folder / "started.json").write_text(json.dumps({"party_file": str(folder / "party.toml")}))
        contracts = [(town.terms.contract, json.dumps(document))]
        packed = msgspec.msgpack.encode(contracts)
        edit(folder, "UPDATE meta SET value = ? WHERE key = 'contracts'", packed)
    return Pair(tmp_path, town.secrets)


def test_every_debit_is_found_and_costs_what_its_row_says(paid: Pair) -> None:
    assert paid.faults() == []
    assert [it.debits for it in check_folders(paid.sides)] == [2, 2]
    (paid.path / "a" / "started.json").unlink()
    (it,) = check_folders([paid.path / "a"])
    assert (it.debits, it.faults) == (None, [])
    assert it.notes == ["debits: not checked, budget.sqlite is not within reach"]


@pytest.mark.parametrize("debits", [0, 1])
def test_a_budget_that_was_put_back_is_missed_by_the_rows_it_lacks(paid: Pair, debits: int) -> None:
    file = paid.path / "a" / BUDGET
    first, _ = Budget.read_all(file)
    file.unlink()
    with Budget.open(file, data_id=DATA, data_digest=b"d" * 32) as budget:
        for _ in range(debits):
            budget.spend(first, lambda every: None)
    found = paid.faults("a")
    assert len(found) == 2 - debits
    assert f"a: row 2 (round 2, update): {file} has no debit" in found


def test_an_epsilon_that_its_debits_do_not_cost_is_named_though_it_is_signed(paid: Pair) -> None:
    rewrite(paid.path / "a", changed(2, epsilon=40.0), paid.secrets["a"])
    assert any("row 2 (round 2, update): epsilon 40, and its debits" in f for f in paid.faults("a"))


def test_a_debit_older_than_the_last_row_belongs_to_a_row(paid: Pair) -> None:
    rewrite(paid.path / "a", without(1), paid.secrets["a"])
    assert any("round 1, update: paid for in" in f for f in paid.faults("a"))


# --- the command -----------------------------------------------------------------------------


def test_the_command_tells_both_sides_in_a_table_and_says_what_it_did_not_check(
    original: Pair,
) -> None:
    told = answer_to("verify", *original.sides)
    assert told.code == 0, told.told
    for line in (
        "rows               4 (3 update, 1 outputs)",
        "epsilon            no privacy promised",
        "signed             4 of 4",
        "acknowledged by b  rows 1-4",
        "entries kept of b  rows 1-4",
    ):
        assert line in told.out
    assert "not checked: anything that was never written into a ledger" in told.out
    assert told.out.endswith("no fault found\n")
    assert "give the peer's folder too" not in told.out
    assert "give the peer's folder too" in answer_to("verify", original.sides[0]).out


def test_the_command_exits_4_and_names_the_row_on_stderr_and_in_json(pair: Pair) -> None:
    rewrite(pair.path / "a", without(4), pair.secrets["a"])
    told = answer_to("verify", *pair.sides, "--json")
    assert told.code == 4
    assert "LedgerTampered" in told.error
    assert "row 4 (round 4, outputs" in told.error
    found = json.loads(told.out)
    assert found["faults"] == sum(len(folder["faults"]) for folder in found["folders"]) > 0
    assert any("row 4" in fault for fault in found["folders"][0]["faults"])


def test_without_json_a_fault_is_told_once_in_the_table(pair: Pair) -> None:
    rewrite(pair.path / "a", without(4), pair.secrets["a"])
    told = answer_to("verify", *pair.sides)
    assert "  FAULT " in told.out
    assert "no fault found" not in told.out
    assert "marked FAULT above" in told.error
    assert "row 4" not in told.error


def test_what_is_no_folder_or_does_not_belong_together_is_the_users_mistake(
    pair: Pair, tmp_path: Path
) -> None:
    assert answer_to("verify", tmp_path).code == 2
    shutil.copytree(pair.path / "a", tmp_path / "copy")
    with pytest.raises(FolderError, match="are both of a"):
        check_folders([pair.path / "a", tmp_path / "copy"])
    other = Town(tmp_path / "other", ["a", "b"], {"rounds": 1})
    for name in "ab":
        other.start(name)
    other.wait()
    with pytest.raises(FolderError, match="of different runs"):
        check_folders([pair.path / "a", tmp_path / "other" / "b"])
