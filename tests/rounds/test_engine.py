"""The laws of the round: g is identical everywhere, whoever is slow, crashes or lies."""

from __future__ import annotations

import shutil

import pytest
import torch

from splitfed.entries import entry_message
from splitfed.errors import FolderDiverged, LinkDown, OwnUpdatesExcluded, PeerUnreachable
from splitfed.rounds.vote import encode_vote, make_vote
from splitfed.store import RunFolder
from splitfed.tensors import describe, digest, manifest_of, pack, unpack
from splitfed.transport.events import (
    Arrived,
    Greeted,
    Offer,
    Outgoing,
    Voted,
    offer_message,
    vote_message,
)
from tests.support.members import INITIAL, Town


class PowerCut(Exception):
    """The machine goes dark."""


def mean_after(rounds: int, steps: list[float]) -> dict[str, torch.Tensor]:
    rise = rounds * sum(steps) / len(steps)
    return {name: tensor + rise for name, tensor in INITIAL.items()}


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"], ["e", "d", "c", "b", "a"]])
def test_every_party_ends_with_the_same_mean_for_any_number_of_parties(tmp_path, names):
    town = Town(tmp_path, names, {"max_update_norm": 100.0})
    for name in names:
        town.start(name)
    town.wait()
    expected = mean_after(4, [float(i + 1) for i in range(len(names))])
    for name in names:
        ending = town.endings[name]
        assert not isinstance(ending, BaseException), ending
        assert (ending.outcome, ending.confirmed) == ("done", True)
        assert all(torch.allclose(ending.shared[n], expected[n]) for n in expected)
        assert town.closed(name) == town.closed(names[0])
        assert [row["outcome"] for row in town.history(name)] == ["agreed"] * 4


def test_every_release_is_in_the_ledger_and_every_ledger_row_was_released(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    seen = []
    town.hub.record = lambda message: seen.append(bytes(message.body))
    town.start("a")
    town.start("b")
    town.wait()
    for name in ("a", "b"):
        with RunFolder.read_only(tmp_path / name) as folder:
            rows = folder.ledger.rows()
            assert [row.row.round for row in rows] == [1, 2, 3, 4]
            assert folder.ledger.verify() == 4
            for row in rows[-1:]:
                payload = folder.outbox.get(row.row.root)
                assert payload in seen


def test_an_update_beyond_the_bound_leaves_shortened_and_the_round_holds(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.learners["b"].step = 1e6
    town.start("a")
    town.start("b")
    town.wait()
    assert [row["outcome"] for row in town.history("a")] == ["agreed"] * 4
    assert town.closed("a") == town.closed("b")


def test_a_party_killed_in_training_goes_on_and_ends_where_an_undisturbed_run_does(tmp_path):
    calm = Town(tmp_path / "calm", ["a", "b"])
    calm.start("a")
    calm.start("b")
    calm.wait()

    town = Town(tmp_path / "rough", ["a", "b"])

    def cut(round):
        if round == 3:
            raise PowerCut

    town.learners["b"].crash = cut
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], PowerCut)
    town.learners["b"] = type(town.learners["b"])(2.0)
    town.start("b")
    town.wait()
    assert [town.endings[n].outcome for n in "ab"] == ["done", "done"]
    assert digest(town.endings["a"].shared) == digest(calm.endings["a"].shared)
    assert town.learners["b"].trained == [3, 4]


@pytest.mark.parametrize("point", ["save_checkpoint", "release", "save_vote", "close_round"])
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_step_of_a_round_loses_and_doubles_nothing(
    tmp_path, monkeypatch, point, before
):
    town = Town(tmp_path, ["a", "b"])
    real = getattr(RunFolder, point)
    calls = []

    def dying(self, *args, **kwargs):
        if self.party == "b":
            calls.append(point)
        if self.party == "b" and len(calls) == 2 and before:
            raise PowerCut
        result = real(self, *args, **kwargs)
        if self.party == "b" and len(calls) == 2:
            calls.append("dead")
            raise PowerCut
        return result

    monkeypatch.setattr(RunFolder, point, dying)
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], PowerCut)
    monkeypatch.setattr(RunFolder, point, real)
    town.learners["b"] = type(town.learners["b"])(2.0)
    town.start("b")
    town.wait()
    expected = mean_after(4, [1.0, 2.0])
    for name in ("a", "b"):
        ending = town.endings[name]
        assert not isinstance(ending, BaseException), ending
        assert all(torch.equal(ending.shared[n], expected[n]) for n in expected)
        with RunFolder.read_only(tmp_path / name) as folder:
            assert [row.row.round for row in folder.ledger.rows()] == [1, 2, 3, 4]


def test_a_folder_restored_from_a_backup_is_told_by_its_own_vote(tmp_path):
    town = Town(tmp_path, ["a", "b"])

    def copy(round):
        if round == 2:
            shutil.copytree(tmp_path / "b", tmp_path / "backup")
        if round == 4:
            raise PowerCut

    town.learners["b"].crash = copy
    town.start("a")
    town.start("b")
    town.wait("b")
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "backup").rename(tmp_path / "b")
    town.learners["b"] = type(town.learners["b"])(2.0)
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], FolderDiverged)
    assert "restored from a backup" in str(town.endings["b"])


def test_patience_ends_a_wait_with_the_peer_named_or_alone(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.start("a", patience=0.2)
    town.wait("a")
    assert isinstance(town.endings["a"], PeerUnreachable)
    assert "b showed no progress" in str(town.endings["a"])
    town.start("a", patience=0.2, on_absent="finish-alone")
    town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert [row["outcome"] for row in town.history("a")] == ["alone"] * 4
    with RunFolder.read_only(tmp_path / "a") as folder:
        assert folder.ledger.rows() == ()


def test_a_closed_link_ends_the_wait(tmp_path, monkeypatch):
    town = Town(tmp_path, ["a", "b"])
    real = Town.link

    def soon_closed(self, *args):
        link = real(self, *args)
        start = link.start

        def start_and_close() -> None:
            start()
            link.close()

        link.start = start_and_close
        return link

    monkeypatch.setattr(Town, "link", soon_closed)
    town.start("a")
    town.wait("a")
    assert isinstance(town.endings["a"], LinkDown)


# --- lying peers -------------------------------------------------------------------------


class Liar:
    """Party b by hand: greets honestly, then does what the test says."""

    def __init__(self, town: Town, accept=lambda offer: None) -> None:
        self.town = town
        self.folder = b"L" * 16
        self.link = town.link("b", town.greeting("b", self.folder, 1), accept)
        self.run = b""

    def __enter__(self) -> Liar:
        self.link.start()
        self.expect(Greeted)
        return self

    def __exit__(self, *error) -> None:
        self.link.close()

    def expect(self, kind):
        while True:
            event = self.link.next(timeout=30)
            assert event is not None, f"no {kind.__name__} came"
            if isinstance(event, kind):
                if isinstance(event, Arrived):
                    self.run = event.offer.run
                    message = event.offer.entry.receipt_message("b")
                    self.link.stored("a", event.offer, self.town.secrets["b"].sign(message))
                return event

    def offer(self, tensors, round, **changes):
        """An update with a ledger entry, both signed, whatever they say."""
        payload = pack(tensors)
        manifest = manifest_of(payload, describe(tensors))
        fields = {
            "kind": "update", "run": self.run, "round": round, "party": "b",
            "number": round, "head": bytes([round]) * 32, **changes,
        }  # fmt: skip
        place = {"number": fields.pop("number"), "head": fields.pop("head")}
        sign = self.town.secrets["b"].sign
        offer = Offer(
            **fields,
            **place,
            manifest=manifest,
            signature=sign(offer_message(root=manifest.root, **fields)),
            entry_signature=sign(entry_message(root=manifest.root, **fields, **place)),
        )
        out = Outgoing(offer, payload)
        self.link.offer(out)
        return out.offer.manifest.root

    def vote(self, theirs: Voted, **changes):
        from splitfed.rounds.vote import decode_vote

        seen = decode_vote(theirs.body)
        fields = {
            "run": seen.run, "round": seen.round, "party": "b", "inputs": dict(seen.inputs),
            "excluded": dict(seen.excluded), "aggregate": seen.aggregate,
            "offers": dict(seen.offers), "shared": seen.shared, "voids": seen.voids,
        }  # fmt: skip
        body = encode_vote(make_vote(**{**fields, **changes}))
        self.link.vote(seen.round, body, self.town.secrets["b"].sign(vote_message(body)))


def shifted(update, by):
    return {name: tensor + by for name, tensor in update.items()}


def nan():
    return {name: tensor * float("nan") for name, tensor in INITIAL.items()}


def extra():
    return {**INITIAL, "private.weight": torch.zeros(2)}


def reshaped():
    return {**INITIAL, "w": torch.zeros(5)}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nan, "tensor b is not finite"),
        (lambda: shifted(INITIAL, 1e6), "above max_update_norm"),
        (extra, "private.weight is not in the contract"),
        (reshaped, "w is float32 [5], agreed is float32 [4]"),
    ],
)
def test_a_bad_update_voids_the_round_and_g_stays(tmp_path, make, says):
    town = Town(tmp_path, ["a", "b"], {"max_void_rounds": 2})
    town.start("a")
    with Liar(town) as liar:
        for _ in range(2):
            round = liar.expect(Arrived).offer.round
            liar.offer(make(), round)
            liar.vote(liar.expect(Voted))
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert [row["outcome"] for row in town.history("a")] == ["void", "void", "alone", "alone"]
    assert [fault["peer"] for fault in town.rejected["a"]] == ["b", "b"]
    assert says in town.rejected["a"][0]["reason"]
    assert town.closed("a") == [digest(INITIAL)] * 2


def test_the_party_whose_updates_are_excluded_stops_for_safety(tmp_path, monkeypatch):
    town = Town(tmp_path, ["a", "b"], {"max_void_rounds": 1})
    # Without its own shortening, a's own update fails the same check everywhere.
    monkeypatch.setattr("splitfed.rounds.gates.shorten", lambda update, base, bound: (update, None))
    town.learners["a"].step = 1e6
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted))
        town.wait("a")
    assert isinstance(town.endings["a"], OwnUpdatesExcluded)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aggregate": b"x" * 32}, "equal inputs, different aggregate"),
        ({"excluded": {"a": "I do not like it"}}, "different exclusions"),
        ({"inputs": {"a": b"y" * 32, "b": b"z" * 32}}, "different updates of a"),
    ],
)
def test_a_vote_that_contradicts_the_inputs_ends_the_federation_by_name(tmp_path, changes, says):
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted), **changes)
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert says in town.rejected["a"][0]["reason"]
    assert [row["outcome"] for row in town.history("a")] == ["alone"] * 4


def test_two_signed_updates_for_one_round_end_the_federation_by_name(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.expect(Voted)
        liar.link.discard(1)
        liar.offer(shifted(INITIAL, 0.5), 1)
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert "two different signed payloads" in town.rejected["a"][0]["reason"]


def test_an_update_of_another_run_is_excluded(tmp_path):
    town = Town(tmp_path, ["a", "b"], {"max_void_rounds": 1})
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1, run=b"q" * 32)
        liar.vote(liar.expect(Voted))
        town.wait("a")
    assert "another run" in town.rejected["a"][0]["reason"]


def test_what_travels_is_nothing_but_the_contract_s_tensors(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    chunks = []
    town.hub.record = lambda m: chunks.append(bytes(m.body)) if m.header[5] == 6 else None
    town.start("a")
    town.start("b")
    town.wait()
    sizes = sum(spec.nbytes for spec in describe(INITIAL))
    assert len(chunks) == 8
    assert all(len(chunk) == sizes for chunk in chunks)
    assert all(set(unpack(chunk, describe(INITIAL))) == set(INITIAL) for chunk in chunks)
