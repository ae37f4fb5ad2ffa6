"""federation.toml: every fault is found, named and has a cure; no agreement is half right."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.config import FederationConfig, load_federation, parse
from splitfed.errors import ConfigError, Fault
from tests.support.files import FEDERATION, KEY_A, KEY_B, SIGNING_A, spoilt


def faults_of(tmp_path: Path, text: str) -> dict[str, Fault]:
    path = tmp_path / "federation.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert caught.value.exit_code == 2
    assert all(fault.file == str(path) for fault in caught.value.faults)
    return {fault.key: fault for fault in caught.value.faults}


def test_a_right_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    agreed = load_federation(path)
    assert agreed.classes == ("cat", "dog")
    assert agreed.model.arguments == {"widths": [4, 4, 4], "classes": 2}
    assert agreed.aggregation.max_void_rounds == 3
    assert agreed.minimum_parties == 2
    assert agreed.weights() == {"hospital-a": 1.0, "hospital-b": 1.0}
    assert agreed.fusion.method == "none"


ONE_FAULT = {
    "wrong type": ("rounds = 3", 'rounds = "3"', "rounds", "whole number from 1"),
    "a bool is no number": ("rounds = 3", "rounds = true", "rounds", "whole number"),
    "out of range": ("rounds = 3", "rounds = 0", "rounds", "from 1"),
    "without an end": ("rounds = 3", "rounds = 1000001", "rounds", "from 1 to 1000000"),
    "missing": ("seed = 7\n", "", "seed", "missing; should be a public whole number"),
    "negative seed": ("seed = 7", "seed = -1", "seed", ">= 0"),
    "unknown key": ("seed = 7", "seed = 7\nround = 3", "round", 'did you mean "rounds"?'),
    "key of another table": (
        "max_update_norm = 12", "max_update_norm = 12\nfactory = 'a:b'",
        "aggregation.factory", "it belongs in [model]",
    ),
    "top key in a table": (
        "max_update_norm = 12", "max_update_norm = 12\nrounds = 3",
        "aggregation.rounds", "top of the file",
    ),
    "hopeless key": ("seed = 7", "seed = 7\nzzz = 1", "zzz", "known here: name, rounds"),
    "class twice": ('["cat", "dog"]', '["cat", "cat"]', "classes", "named twice"),
    "one class": ('["cat", "dog"]', '["cat"]', "classes", "two classes or more"),
    "no colon in factory": (
        "splitfed.models:Three", "splitfed.models.Three", "model.factory", "package.module:Class",
    ),
    "date in arguments": (
        "widths = [4, 4, 4], classes = 2", "when = 2026-01-01", "model.arguments", "only numbers",
    ),
    "infinite argument": (
        "widths = [4, 4, 4], classes = 2", "gain = inf", "model.arguments", "only numbers",
    ),
    "both sides": (
        '["conv1", "conv2"]', '["conv1", "conv2"]\nprivate = ["conv2"]',
        "model.private", "one side only",
    ),
    "nothing shared": ('["conv1", "conv2"]', "[]", "model.shared", "modules or patterns"),
    "two channels": ("channels = 1", "channels = 2", "preprocessing.channels", "1 (grey) or 3"),
    "mean too short": ("channels = 1", "channels = 3", "preprocessing.mean", "3 number(s)"),
    "std of zero": ("std = [0.5]", "std = [0.0]", "preprocessing.std[0]", "above 0"),
    "nan": ("mean = [0.5]", "mean = [nan]", "preprocessing.mean[0]", "one number a channel"),
    "size of three": ("[28, 28]", "[28, 28, 1]", "preprocessing.size", "height and width"),
    "norm of zero": (
        "max_update_norm = 12", "max_update_norm = 0", "aggregation.max_update_norm", "above 0",
    ),
    "rule unknown": (
        "max_update_norm = 12", 'max_update_norm = 12\nrule = "mode"',
        "aggregation.rule", 'should be "mean"',
    ),
    "minority": (
        "max_update_norm = 12", "max_update_norm = 12\nminimum_parties = 1",
        "aggregation.minimum_parties", "2 to 2",
    ),
    "more than all": (
        "max_update_norm = 12", "max_update_norm = 12\nminimum_parties = 3",
        "aggregation.minimum_parties", "2 to 2",
    ),
    "weights forget one": (
        "max_update_norm = 12", "max_update_norm = 12\nweights = { hospital-a = 1 }",
        "aggregation.weights", "gives hospital-b no weight",
    ),
    "weights name a stranger": (
        "max_update_norm = 12",
        "max_update_norm = 12\nweights = { hospital-a = 1, hospital-b = 1, hospital-bb = 1 }",
        "aggregation.weights.hospital-bb", "names no party, did you mean",
    ),
    "weight of zero": (
        "max_update_norm = 12",
        "max_update_norm = 12\nweights = { hospital-a = 1, hospital-b = 0 }",
        "aggregation.weights", "above 0",
    ),
    "no privacy mode": ('mode = "none"', "", "privacy.mode", "no default on purpose"),
    "no such privacy": ('mode = "none"', 'mode = "dp"', "privacy.mode", "NO PRIVACY"),
    "dp-shared": ('mode = "none"', 'mode = "dp-shared"', "privacy.mode", "one record changes"),
    "epsilon under none": (
        'mode = "none"', 'mode = "none"\nepsilon = 3.0', "privacy.epsilon", "adds no noise",
    ),
    "distilled without images": (
        'mode = "none"', 'mode = "none"\n[fusion]\nmethod = "distill"',
        "fusion.reference", "every party holds",
    ),
    "fusion's key without fusion": (
        'mode = "none"', 'mode = "none"\n[fusion]\nevery = 2', "fusion.every", "contradicts",
    ),
    "short key": (KEY_A, "abc", "parties.hospital-a.public_key", "40 characters"),
    "key of too much": (
        KEY_A, "#" * 40, "parties.hospital-a.public_key", "40 characters",
    ),
    "key twice": (KEY_A, KEY_B, "parties.hospital-b.public_key", "also that of hospital-a"),
    "capital hex": (SIGNING_A, "A" * 64, "parties.hospital-a.signing_key", "64 hexadecimal"),
    "key of everybody": (
        SIGNING_A, "01".ljust(64, "0"), "parties.hospital-a.signing_key", "its `splitfed init`"
    ),
    "no scheme": (
        "tcp://127.0.0.1:7001", "127.0.0.1:7001", "parties.hospital-a.address", "tcp://",
    ),
    "no port": ("tcp://127.0.0.1:7001", "tcp://a", "parties.hospital-a.address", "tcp://"),
    "port too high": (
        "tcp://127.0.0.1:7001", "tcp://a:70000", "parties.hospital-a.address", "tcp://",
    ),
    "nobody can dial a wildcard": (
        "tcp://127.0.0.1:7001", "tcp://0.0.0.0:7001", "parties.hospital-a.address", "reach",
    ),
    "path as a name": ("[parties.hospital-b]", '[parties."../b"]', "parties.../b", "letters"),
    "names alike": (
        "[parties.hospital-b]", "[parties.Hospital-A]", "parties.hospital-a", "in case only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_FAULT, ids=lambda case: case.replace(" ", "-"))
def test_each_fault_is_named_with_its_cure(tmp_path: Path, case: str) -> None:
    old, new, key, cure = ONE_FAULT[case]
    faults = faults_of(tmp_path, spoilt(FEDERATION, {old: new}))
    assert key in faults
    assert cure in faults[key].cure


def test_all_faults_come_at_once_also_contradictions_beside_other_faults(tmp_path: Path) -> None:
    """Pydantic alone stops at the first table with a fault; the reader wants them all."""
    text = spoilt(
        FEDERATION,
        {
            "rounds = 3": "rounds = -3\nunknown = 1",
            '["cat", "dog"]': '["cat", "cat"]',
            "channels = 1": "channels = 3",
            "size = [28, 28]": "size = 28",
            "max_update_norm = 12": 'minimum_parties = 1\nrule = "krum"\nweights = { x = 1 }',
            'mode = "none"': 'mode = "nothing"',
            f'signing_key = "{SIGNING_A}"\n': "",
            KEY_A: KEY_B,
        },
    )
    assert set(faults_of(tmp_path, text)) == {
        "rounds", "unknown", "classes", "preprocessing.mean", "preprocessing.std",
        "preprocessing.size", "aggregation.max_update_norm", "aggregation.minimum_parties",
        "aggregation.byzantine", "aggregation.weights", "aggregation.weights.x", "privacy.mode",
        "parties.hospital-a.signing_key", "parties.hospital-b.public_key",
    }  # fmt: skip


def test_a_fault_elsewhere_makes_no_false_contradiction(tmp_path: Path) -> None:
    """A default that stands in for a faulty value must not contradict anything."""
    text = spoilt(FEDERATION, {"channels = 1": 'channels = "grey"', 'mode = "none"': 'mode = "x"'})
    assert set(faults_of(tmp_path, text)) == {"preprocessing.channels", "privacy.mode"}


def test_a_fault_shows_file_key_value_and_cure_in_one_line(tmp_path: Path) -> None:
    fault = faults_of(tmp_path, spoilt(FEDERATION, {"rounds = 3": 'rounds = "3"'}))["rounds"]
    cure = "should be the number of rounds, a whole number from 1 to 1000000"
    assert str(fault) == f'{tmp_path / "federation.toml"}: rounds = "3": {cure}'


def test_a_long_or_strange_value_is_cut_and_escaped(tmp_path: Path) -> None:
    text = spoilt(FEDERATION, {'name = "trial"': f'name = "\\u001b[31m{"x" * 500}"'})
    fault = faults_of(tmp_path, text)["name"]
    assert len(fault.value) == 80
    assert fault.value.isascii()
    assert "\x1b" not in fault.value


@pytest.mark.parametrize(
    ("body", "cure"),
    [
        (b"name = \n", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "missing"),
    ],
)
def test_what_is_no_toml_is_a_fault_too(tmp_path: Path, body: bytes, cure: str) -> None:
    path = tmp_path / "federation.toml"
    path.write_bytes(body)
    with pytest.raises(ConfigError) as caught:
        load_federation(path)
    assert cure in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        load_federation(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_federation(tmp_path)


def test_one_party_alone_is_a_federation_in_the_making(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION[: FEDERATION.index("[parties.hospital-b]")])
    assert list(load_federation(path).parties) == ["hospital-a"]


def test_shared_star_is_one_pattern(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(spoilt(FEDERATION, {'["conv1", "conv2"]': '"*"'}))
    assert load_federation(path).model.shared == ("*",)


@pytest.mark.parametrize(("parties", "minimum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_minimum_defaults_to_both_of_two_and_a_majority_of_more(parties: int, minimum: int) -> None:
    import tomllib

    data = tomllib.loads(FEDERATION)
    data["parties"] = {
        f"p{i}": {"public_key": str(i) * 40, "signing_key": str(i + 1) * 64, "records": 1}
        for i in range(parties)
    }
    assert parse(FederationConfig, data, "test").minimum_parties == minimum


def test_weights_by_records_and_by_table(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(
        spoilt(FEDERATION, {"max_update_norm = 12": 'max_update_norm = 12\nweights = "records"'})
    )
    assert load_federation(path).weights() == {"hospital-a": 100.0, "hospital-b": 100.0}
    table = "weights = { hospital-b = 3, hospital-a = 0.5 }"
    path.write_text(spoilt(FEDERATION, {"max_update_norm = 12": f"max_update_norm = 12\n{table}"}))
    assert load_federation(path).weights() == {"hospital-a": 0.5, "hospital-b": 3.0}


def test_initial_tensors_are_known_by_the_digest_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    named = spoilt(FEDERATION, {"[preprocessing]": 'initial = "i.safetensors"\n[preprocessing]'})
    path.write_text(named)
    with pytest.raises(ConfigError, match="no such file"):
        load_federation(path)
    (tmp_path / "i.safetensors").write_bytes(b"values")
    one = load_federation(path)
    assert one.model.initial is not None
    assert one.model.initial.file == str(tmp_path / "i.safetensors")
    digest = one.model.initial.digest
    assert digest is not None
    assert one.contract()["model"]["initial"] == digest

    (tmp_path / "i.safetensors").write_bytes(b"other values")
    assert load_federation(path).contract_digest != one.contract_digest

    pinned = f'initial = {{ file = "i.safetensors", digest = "{digest}" }}\n[preprocessing]'
    path.write_text(spoilt(FEDERATION, {"[preprocessing]": pinned}))
    with pytest.raises(ConfigError, match="not the file that was agreed on"):
        load_federation(path)
    (tmp_path / "i.safetensors").write_bytes(b"values")
    assert load_federation(path).contract_digest == one.contract_digest


def test_the_first_by_name_listens_of_two_with_addresses(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_text(FEDERATION)
    one = load_federation(path)
    assert one.listener("hospital-b", "hospital-a") == "hospital-a"
    path.write_text(
        spoilt(
            FEDERATION,
            {f'public_key = "{KEY_B}"': f'public_key = "{KEY_B}"\naddress = "tcp://b:1"'},
        )
    )
    assert load_federation(path).listener("hospital-b", "hospital-a") == "hospital-a"
    path.write_text(
        spoilt(
            FEDERATION,
            {
                'address = "tcp://127.0.0.1:7001"\n': "",
                f'public_key = "{KEY_B}"': f'public_key = "{KEY_B}"\naddress = "tcp://b:1"',
            },
        )
    )
    assert load_federation(path).listener("hospital-a", "hospital-b") == "hospital-b"
