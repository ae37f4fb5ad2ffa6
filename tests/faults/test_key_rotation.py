"""Keys are replaced in the middle of a federation: nothing is lost, the old key opens nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from splitfed.errors import FolderDiverged, ProtocolViolation
from splitfed.rounds.past import check_own_past
from splitfed.rounds.vote import decode_vote, encode_vote, make_vote
from splitfed.store import RunFolder
from splitfed.transport.events import vote_message
from splitfed.transport.keys import Secret, make_secret
from tests.support.crash import Crash, CrashDisk
from tests.support.folders import payload_of, row_of
from tests.support.members import Town, replace_keys
from tests.support.trials import PAIR, End, Watch, faults, pair, renew, settle, undisturbed


class Stop(Exception):
    """Ends a party at a chosen moment."""


def stop_both_before(town: Town, round: int) -> None:
    """Both end when they would begin to train ``round``."""

    def crash(number: int) -> None:
        if number == round:
            raise Stop

    for name in PAIR:
        town.learners[name].crash = crash
        town.start(name)
    town.wait()
    assert all(isinstance(town.endings[name], Stop) for name in PAIR), town.endings


def stop_both_at(town: Town, victim: str, stop: int) -> str:
    """``victim`` dies before its durable point number ``stop`` and the other one is stopped."""
    disk = CrashDisk(town.folders[victim])
    disk.arm(stop, town.path / "image", "killed")
    disk.died = lambda: town.kill(victim)
    town.disks[victim] = disk
    for name in PAIR:
        town.start(name)
    town.wait(victim)
    ended = town.endings[victim]
    assert isinstance(ended, Crash), ended
    del town.disks[victim]
    town.folders[victim] = town.path / "image"
    other = next(name for name in PAIR if name != victim)
    town.links[other].close(0.0)
    town.wait(other)
    return str(ended)


def go_on(town: Town) -> None:
    for name in PAIR:
        renew(town, name)
        town.start(name)
    settle(town)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """How a federation of three rounds ends when nothing happens."""
    return undisturbed(tmp_path_factory.mktemp("calm"), rounds=3)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("who", ["a", "b", "ab"])
def test_new_keys_between_two_rounds_change_nothing_of_the_result(
    tmp_path: Path, calm: dict[str, End], who: str, lost: bool
) -> None:
    town = pair(tmp_path, rounds=3)
    stop_both_before(town, 3)
    for name in who:
        replace_keys(town, name, lost=lost)
    go_on(town)
    assert faults(town, calm) == []


def test_two_rotations_in_one_federation_change_nothing(
    tmp_path: Path, calm: dict[str, End]
) -> None:
    town = pair(tmp_path, rounds=3)
    for round in (2, 3):
        stop_both_before(town, round)
        replace_keys(town, "a")
        for name in PAIR:
            renew(town, name)
    go_on(town)
    assert len(town.terms.retired_keys["a"]) == 2
    assert faults(town, calm) == []


def count_points(path: Path) -> int:
    """Durable points of one party in a federation of three rounds."""
    town = pair(path, rounds=3)
    disk = town.disks["a"] = CrashDisk(town.folders["a"])
    for name in PAIR:
        town.start(name)
    town.wait()
    return len(disk.points)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("who", PAIR)
def test_new_keys_in_the_middle_of_a_round_send_again_what_the_old_ones_signed(
    tmp_path: Path, calm: dict[str, End], who: str, lost: bool
) -> None:
    """What was offered and voted before is shown again by the new key, with the same bytes."""
    last = count_points(tmp_path / "count")
    wrong = []
    # From the first contact to the end: a released update, a receipt, a vote, a closed round.
    for stop in range(last // 3, last - 2, 7):
        town = pair(tmp_path / str(stop), rounds=3)
        where = stop_both_at(town, "a", stop)
        replace_keys(town, who, lost=lost)
        go_on(town)
        wrong += [f"before {stop}, {where}: {fault}" for fault in faults(town, calm)]
    assert wrong == []


class Mute:
    """A signer that stops its party when it is about to vote on round 3."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self.signing_public = secret.signing_public

    def sign(self, body: bytes) -> bytes:
        domain = vote_message(b"")
        if body.startswith(domain) and decode_vote(body.removeprefix(domain)).round == 3:
            raise Stop
        return self._secret.sign(body)


def robbed(town: Town) -> None:
    """A thief with a copy of a's folder and secret offers another update for round 3, which b
    stores and does not come to vote on; then both are stopped."""
    stop_both_before(town, 3)
    own = town.folders["a"]
    town.folders["a"] = town.path / "thief"
    shutil.copytree(own, town.folders["a"])
    for name in PAIR:
        renew(town, name)
    train = town.learners["a"].train

    def other_update(round: int, step: object):
        made = train(round, step)
        town.learners["a"].values["w"] = torch.full((4,), 9.0)
        return made

    town.learners["a"].train = other_update
    honest = town.secrets["b"]
    town.secrets["b"] = Mute(honest)
    for name in PAIR:
        town.start(name)
    town.wait("b")
    assert isinstance(town.endings["b"], Stop), town.endings["b"]
    town.links["a"].close(0.0)
    town.wait("a")
    town.secrets["b"] = honest
    town.folders["a"] = own
    town.hub.record = Watch()  # the thief's words are not a's
    with RunFolder.read_only(town.folders["b"]) as folder:
        assert [row.party for row in folder.inputs(3)] == ["a"]


def test_what_a_thief_offered_counts_no_more_once_the_key_is_revoked(
    tmp_path: Path, calm: dict[str, End]
) -> None:
    town = pair(tmp_path, rounds=3)
    robbed(town)
    replace_keys(town, "a", lost=True)
    go_on(town)
    assert faults(town, calm) == []


def test_a_key_that_was_handed_over_still_answers_for_what_it_signed(tmp_path: Path) -> None:
    town = pair(tmp_path, rounds=3)
    robbed(town)
    replace_keys(town, "a")
    for name in PAIR:
        renew(town, name)
        town.start(name)
    town.wait("a")
    assert isinstance(town.endings["a"], FolderDiverged)
    town.links["b"].close(0.0)
    town.wait("b")


def test_an_old_key_signs_nothing_new(tmp_path: Path) -> None:
    town = Town(tmp_path, list(PAIR))
    for lost in (False, True):
        old = replace_keys(town, "a", lost=lost)
        assert not town.terms.signed_by("a", b"offer", old.sign(b"offer"))
        assert town.terms.signed_by("a", b"offer", town.secrets["a"].sign(b"offer"))


def test_a_party_that_goes_on_with_its_old_key_is_stopped_by_name(tmp_path: Path) -> None:
    town = pair(tmp_path, rounds=3)
    stop_both_before(town, 3)
    thief = replace_keys(town, "a")
    town.secrets["a"] = thief
    for name in PAIR:
        renew(town, name)
        town.start(name)
    town.wait()
    assert [row["peer"] for row in town.rejected["b"]] == ["a"]
    assert "sign" in town.rejected["b"][0]["reason"]


RUN = b"r" * 32


def shown_vote(town: Town, signer: Secret) -> None:
    """b shows a vote of a for round 7, signed by ``signer``, and a has never voted."""
    vote = make_vote(
        run=RUN, round=7, party="a", inputs={}, excluded={}, aggregate=b"g" * 32
    )  # fmt: skip
    body = encode_vote(vote)
    with RunFolder.open(town.path / "own", party="a", contract=town.terms.contract) as folder:
        greeting = town.greeting("b", b"f" * 16, 1)
        greeting.votes_held["a"] = (body, signer.sign(vote_message(body)))
        check_own_past("b", greeting, run=RUN, terms=town.terms, folder=folder)


def test_a_vote_under_my_own_revoked_key_is_neither_believed_nor_held_against_its_bearer(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, list(PAIR))
    retired = replace_keys(town, "a")
    stolen = replace_keys(town, "a", lost=True)
    shown_vote(town, stolen)
    for believed in (retired, town.secrets["a"]):
        with pytest.raises(FolderDiverged, match="restored from a backup"):
            shown_vote(town, believed)
    with pytest.raises(ProtocolViolation, match="did not sign"):
        shown_vote(town, make_secret())


def shown_entry(town: Town, signer: Secret, *, in_folder: bool) -> int:
    """b shows an entry of a's ledger, signed by ``signer``, that a's folder holds or does not;
    how many receipts of b for its last entry a has then."""
    manifest, payload = payload_of(1.0)
    path = town.path / ("own" if in_folder else "set-back")
    with RunFolder.open(path, party="a", contract=town.terms.contract) as folder:
        row = folder.release(row_of(manifest, 1), payload, sign=lambda number, head: bytes(64))
        entry = row.entry(RUN, "a")
        if not in_folder:
            entry = msgspec.structs.replace(entry, number=2)
        entry = msgspec.structs.replace(entry, signature=signer.sign(entry.message()))
        greeting = town.greeting("b", b"f" * 16, 1)
        receipt = town.secrets["b"].sign(entry.receipt_message("b"))
        greeting.entries_held["a"] = (entry, receipt)
        check_own_past("b", greeting, run=RUN, terms=town.terms, folder=folder)
        last = folder.ledger.last()
        assert last is not None
        return len(last.acknowledged)


def test_a_receipt_counts_for_what_my_own_ledger_holds_whatever_key_signed_it(
    tmp_path: Path,
) -> None:
    """The peer keeps the entry as it came; it offers no other proof, and we would wait for it."""
    for lost in (False, True):
        town = Town(tmp_path / str(lost), list(PAIR))
        old = replace_keys(town, "a", lost=lost)
        assert shown_entry(town, old, in_folder=True) == 1


def test_an_entry_under_my_own_revoked_key_that_my_ledger_lacks_proves_nothing(
    tmp_path: Path,
) -> None:
    town = Town(tmp_path, list(PAIR))
    retired = replace_keys(town, "a")
    stolen = replace_keys(town, "a", lost=True)
    assert shown_entry(town, stolen, in_folder=False) == 0
    for believed in (retired, town.secrets["a"]):
        with pytest.raises(FolderDiverged, match="restored from a backup"):
            shown_entry(town, believed, in_folder=False)
    with pytest.raises(ProtocolViolation, match="did not sign"):
        shown_entry(town, make_secret(), in_folder=False)
