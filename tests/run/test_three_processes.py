"""Three real processes, a full mesh of links: one is killed, all three end with the same bits."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitfed import Federation, Party
from splitfed.config import load_party
from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.models import ThreeLayerCNN
from splitfed.run.agreement import load_data
from splitfed.store import RunFolder
from tests.support.commands import Answer, answer_to
from tests.support.pairs import end, here, killed, report, start, start_dying, until
from tests.support.ports import free_port

NAMES = ("a", "b", "c")
ROUNDS, RECORDS, PAYLOAD = 2, 64, 18_816 * 4
VOTED = "000004.safetensors"
"""What a party writes after its vote of round 2 and before it closes it."""


def make_trio(where: Path) -> Path:
    """Three party folders: the agreement went from a to b to c and back. a and b listen, so a
    has two that dial it, b one of each, and c dials both."""
    proposal = Proposal(name="trio", classes=DIGITS, rounds=ROUNDS, seed=3, privacy="none")
    addresses = [f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}", None]
    for index, (name, address) in enumerate(zip(NAMES, addresses, strict=True)):
        source = f"digits:party={index}&parties=3&split=iid&records={RECORDS}"
        newcomer = Newcomer(
            party=name, address=address, records=RECORDS, sources=sources_of(source, where)
        )
        if index == 0:
            made = found(where / name, proposal, newcomer)
        else:
            made = join(where / name, made.federation_file, newcomer)
    for name in NAMES[:-1]:
        shutil.copyfile(made.federation_file, where / name / "federation.toml")
    return where


def older(where: Path) -> Path:
    """A copy of b's folder with the file that b had before c joined."""
    shutil.copytree(where / "b", where / "older" / "b")
    file = where / "older" / "b" / "federation.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[parties.c]")])
    return file.parents[1]


@dataclass(frozen=True, kw_only=True)
class Trio:
    """A federation that is over: c was killed between its vote of round 2 and its end.

    Attributes:
        where: the parties' folders.
        checked, older: what b's check was told while a and c waited for b, with the agreed file
            and with the one of before c joined.
    """

    where: Path
    checked: Answer
    older: Answer


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    where = make_trio(tmp_path_factory.mktemp("trio"))
    processes = {"a": start(where, "a"), "c": start_dying(where, "c", VOTED)}
    try:
        for process in processes.values():
            until(process, "meeting")
        asked = [here(it, "b", "--json", command="check") for it in (where, older(where))]
        processes["b"] = start(where, "b")
        killed(processes.pop("c"))
        with RunFolder.read_only(where / "c" / "runs" / "c") as folder:
            assert folder.own_vote(2) is not None
            assert [row["round"] for row in folder.history()] == [1]
        again = here(where, "c")
        assert again.code == 0, again.told
        for name, process in processes.items():
            code, out, error = end(process)
            assert code == 0, f"{name}: {out}{error}"
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    return Trio(where=where, checked=asked[0], older=asked[1])


def test_after_a_kill_all_three_have_the_bits_of_an_undisturbed_federation(trio: Trio) -> None:
    """The yardstick is the same federation in one process, where nothing happened."""
    configs = [load_party(trio.where / name / "party.toml") for name in NAMES]
    parties = []
    for config in configs:
        data = load_data(config)
        parties.append(Party(config.party, data.train, data.validation, data.test))
    agreed = configs[0].federation
    calm = Federation(
        model=ThreeLayerCNN,
        arguments=agreed.model.arguments,
        rounds=ROUNDS,
        classes=agreed.classes,
        seed=agreed.seed,
        privacy="none",
        training=configs[0].training,
    ).simulate(parties)
    for name in NAMES:
        found = report(trio.where, name)
        assert [row["outcome"] for row in found["history"]] == ["agreed"] * ROUNDS
        assert found["confirmed"] is True
        assert found["peers"] == [peer for peer in NAMES if peer != name]
        assert found["shared_digest"] == calm[name]["shared_digest"]


def test_every_update_went_to_both_peers_and_both_signed_for_it(trio: Trio) -> None:
    said = answer_to("plan", trio.where / "a" / "party.toml", "--json")
    assert said.code == 0, said.told
    assert json.loads(said.out)["payload_bytes_per_round"] == 2 * PAYLOAD
    for name in ("a", "b"):  # the counters of c are those of its second life
        traffic = report(trio.where, name)["traffic"]
        for way in ("payload_bytes_sent", "payload_bytes_received"):
            assert ROUNDS * 2 * PAYLOAD <= traffic[way] <= (ROUNDS * 2 + 1) * PAYLOAD
    for name in NAMES:
        with RunFolder.read_only(trio.where / name / "runs" / name) as folder:
            for entry in folder.ledger.rows():
                assert sorted(entry.acknowledged) == [peer for peer in NAMES if peer != name]


def test_verify_compares_the_folders_of_all_three(trio: Trio) -> None:
    folders = [trio.where / name / "runs" / name for name in NAMES]
    answer = answer_to("verify", *folders, "--federation", trio.where / "a" / "federation.toml")
    assert answer.code == 0, answer.told


def test_check_tells_of_every_peer_by_itself(trio: Trio) -> None:
    """b dials a, and c dials b: the check holds b's port meanwhile."""
    assert trio.checked.code == 0, trio.checked.told
    found = {entry["peer"]: entry for entry in json.loads(trio.checked.out)}
    assert sorted(found) == ["a", "c"]
    assert all(entry["ok"] and "it is running" in entry["text"] for entry in found.values())


def test_whoever_has_the_file_of_before_the_third_joined_is_told_what_differs(
    trio: Trio,
) -> None:
    assert trio.older.code == 2
    told = json.loads(trio.older.out)[0]
    assert "parties.c" in told["text"] + told["cure"]
