"""The contract: equal for equal agreements however they are written, different otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splitfed.config import FederationConfig, canonical_json, differences, load_federation
from tests.support.files import FEDERATION, KEY_A, SIGNING_A, spoilt


def read(tmp_path: Path, lines: dict[str, str] | None = None) -> FederationConfig:
    path = tmp_path / "federation.toml"
    path.write_text(spoilt(FEDERATION, lines))
    return load_federation(path)


SAME = {
    "address": ("tcp://127.0.0.1:7001", "tcp://elsewhere.example:1"),
    "key": (KEY_A, "c" * 40),
    "signing key": (SIGNING_A, "c" * 64),
    "default written out": ("max_update_norm = 12", 'max_update_norm = 12\nrule = "mean"'),
    "minimum written out": ("max_update_norm = 12", "max_update_norm = 12\nminimum_parties = 2"),
    "float for whole": ("max_update_norm = 12", "max_update_norm = 12.0"),
    "order": ('name = "trial"\nrounds = 3', 'rounds = 3\nname = "trial"'),
    "comment": ("seed = 7", "seed = 7  # the seventh"),
    "one pattern": ('["conv1", "conv2"]', '[ "conv1",\n "conv2" ]'),
}


@pytest.mark.parametrize("what", SAME)
def test_what_is_not_agreed_on_leaves_the_contract_alone(tmp_path: Path, what: str) -> None:
    old, new = SAME[what]
    assert read(tmp_path, {old: new}).contract_digest == read(tmp_path).contract_digest


OTHER = {
    "name": ('name = "trial"', 'name = "other"'),
    "rounds": ("rounds = 3", "rounds = 4"),
    "class order": ('["cat", "dog"]', '["dog", "cat"]'),
    "seed": ("seed = 7", "seed = 8"),
    "factory": ("ThreeLayerCNN", "Linear"),
    "arguments": ("[4, 4, 4]", "[4, 4, 5]"),
    "shared": ('["conv1", "conv2"]', '["conv1"]'),
    "shared undeclared": ('shared = ["conv1", "conv2"]\n', ""),
    "mean": ("mean = [0.5]", "mean = [0.25]"),
    "size": ("[28, 28]", "[28, 32]"),
    "bound": ("max_update_norm = 12", "max_update_norm = 13"),
    "weights": ("max_update_norm = 12", 'max_update_norm = 12\nweights = "records"'),
    "rule": ("max_update_norm = 12", 'max_update_norm = 12\nrule = "median"'),
    "liars": ("max_update_norm = 12", 'max_update_norm = 12\nrule = "krum"\nbyzantine = 1'),
    "more liars": ("max_update_norm = 12", 'max_update_norm = 12\nrule = "krum"\nbyzantine = 2'),
    "clip": ("max_update_norm = 12", 'max_update_norm = 12\nrule = "centred-clipping"\nclip = 2'),
    "root": (
        "max_update_norm = 12",
        'max_update_norm = 12\nrule = "fltrust"\nroot = { party = "hospital-a" }',
    ),
    "void rounds": ("max_update_norm = 12", "max_update_norm = 12\nmax_void_rounds = 1"),
    "records": ('address = "tcp://127.0.0.1:7001"\nrecords = 100', "records = 101"),
    "party": ("[parties.hospital-b]", "[parties.hospital-c]"),
}


@pytest.mark.parametrize("what", OTHER)
def test_what_is_agreed_on_changes_the_contract(tmp_path: Path, what: str) -> None:
    old, new = OTHER[what]
    assert read(tmp_path, {old: new}).contract_digest != read(tmp_path).contract_digest


def test_every_digest_so_far_is_another(tmp_path: Path) -> None:
    digests = {read(tmp_path, {old: new}).contract_digest for old, new in OTHER.values()}
    assert len(digests) == len(OTHER)


def test_the_contract_holds_no_address_key_or_path(tmp_path: Path) -> None:
    (tmp_path / "secret-folder").mkdir()
    (tmp_path / "secret-folder" / "i.safetensors").write_bytes(b"x")
    initial = 'initial = "secret-folder/i.safetensors"\n[preprocessing]'
    text = canonical_json(read(tmp_path, {"[preprocessing]": initial}).contract()).decode()
    for private in ("127.0.0.1", KEY_A, SIGNING_A, "secret-folder", str(tmp_path)):
        assert private not in text
    assert "hospital-a" in text


def test_the_contract_survives_its_own_json(tmp_path: Path) -> None:
    contract = read(tmp_path).contract()
    assert json.loads(canonical_json(contract)) == contract
    assert list(contract) == sorted(contract)


def test_the_contract_digest_stays_what_it_is(tmp_path: Path) -> None:
    """Two versions of splitfed that read one file must agree. If this fails on purpose,
    raise CONTRACT_SCHEMA: old and new versions then say so instead of only differing."""
    assert read(tmp_path).contract_digest.hex() == (
        "079f58f6eec41df43dcf9a9a68c2399a3f233b1c8a99846496d0091f7583f644"
    )


def test_the_roster_changes_with_a_key_and_with_nothing_else(tmp_path: Path) -> None:
    one = read(tmp_path)
    assert one.roster()["hospital-a"] == {"public_key": KEY_A, "signing_key": SIGNING_A}
    assert read(tmp_path, {KEY_A: "c" * 40}).roster_digest != one.roster_digest
    assert read(tmp_path, {SIGNING_A: "c" * 64}).roster_digest != one.roster_digest
    assert read(tmp_path, {"rounds = 3": "rounds = 4"}).roster_digest == one.roster_digest
    assert read(tmp_path, {"tcp://127.0.0.1:7001": "tcp://b:1"}).roster_digest == one.roster_digest
    assert len({one.roster_digest, one.contract_digest}) == 2


def test_differing_fields_stand_side_by_side(tmp_path: Path) -> None:
    mine: Any = read(tmp_path).contract()
    theirs: Any = read(tmp_path, {"rounds = 3": "rounds = 5", "[4, 4, 4]": "[4, 4]"}).contract()
    found = {d.key: (d.mine, d.theirs) for d in differences(mine, theirs)}
    assert found == {"rounds": ("3", "5"), "model.arguments.widths": ("[4, 4, 4]", "[4, 4]")}
