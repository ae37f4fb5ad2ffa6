"""[aggregation] rule and its keys: what is refused, where, and with which cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.aggregation import RULES
from splitfed.config import (
    NEEDS,
    AggregationConfig,
    load_federation,
    load_party,
    parse,
    too_few,
)
from splitfed.errors import ConfigError, Fault
from tests.support.files import write_files

ROOT = {"party": "p0"}


def faults_of(keys: dict) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        parse(AggregationConfig, {"max_update_norm": 1.0, **keys}, "federation.toml")
    return {fault.key: fault for fault in caught.value.faults}


def test_every_rule_that_may_be_agreed_on_is_built_and_says_what_it_needs() -> None:
    assert set(RULES) == set(NEEDS)
    for name, need in NEEDS.items():
        keys = {
            "rule": name,
            "byzantine": int(need.told),
            "clip": 1.0 if need.reads == "clip" else None,
            "root": ROOT if need.reads == "root" else None,
        }
        agreed = parse(AggregationConfig, {"max_update_norm": 1.0, **keys}, "f")
        assert agreed.sentence.startswith(name)
        assert " stands " in agreed.sentence


@pytest.mark.parametrize(
    ("keys", "key", "cure"),
    [
        ({"rule": "mean", "byzantine": 1}, "byzantine", "stands no lying party"),
        ({"rule": "krum"}, "byzantine", "byzantine = 1 needs 5 parties"),
        ({"rule": "multi-krum"}, "byzantine", "byzantine = 1 needs 5 parties"),
        ({"rule": "bulyan"}, "byzantine", "byzantine = 1 needs 7 parties"),
        ({"rule": "trimmed-mean"}, "byzantine", "byzantine = 1 needs 3 parties"),
        ({"rule": "median", "byzantine": -1}, "byzantine", "a whole number >= 0"),
        ({"rule": "median", "byzantine": True}, "byzantine", "a whole number >= 0"),
        ({"rule": "centred-clipping"}, "clip", "missing"),
        ({"rule": "centred-clipping", "clip": 0.0}, "clip", "a number above 0"),
        ({"rule": "median", "clip": 1.0}, "clip", "is not read"),
        ({"rule": "fltrust"}, "root", "missing"),
        ({"rule": "mean", "root": ROOT}, "root", "is not read"),
        ({"rule": "fltrust", "root": {"party": "a", "digest": "x"}}, "root.digest", "64 hex"),
        ({"rule": "median", "weights": "records"}, "weights", "counts every party once"),
        ({"rule": "fltrust", "root": ROOT, "weights": {"a": 1.0}}, "weights", "geometric-median"),
    ],
)
def test_what_contradicts_the_rule_is_named_with_its_cure(keys: dict, key: str, cure: str) -> None:
    assert cure in faults_of(keys)[key].cure


MINIMA = {
    "median": [(0, 3), (1, 3), (2, 5)],
    "trimmed-mean": [(1, 3), (2, 5)],
    "krum": [(1, 5), (2, 7)],
    "multi-krum": [(1, 5), (2, 7)],
    "bulyan": [(1, 7), (2, 11)],
    "geometric-median": [(0, 3), (2, 5)],
    "centred-clipping": [(0, 3), (2, 5)],
    "fltrust": [(0, 2), (2, 4)],
    "mean": [(0, 1)],
}


def test_minima_are_those_of_the_papers() -> None:
    assert set(MINIMA) == set(NEEDS)
    for rule, pairs in MINIMA.items():
        for byzantine, minimum in pairs:
            assert NEEDS[rule].parties(byzantine) == minimum, rule


def loaded(tmp_path: Path, lines: str) -> dict[str, Fault]:
    federation = {"max_update_norm = 12": f"max_update_norm = 12\n{lines}"}
    path = write_files(tmp_path, federation=federation)
    load_federation(tmp_path / "federation.toml")  # so that parties can still join it
    with pytest.raises(ConfigError) as caught:
        load_party(path)
    return {fault.key: fault for fault in caught.value.faults}


def test_two_parties_are_refused_a_robust_rule_by_name_and_with_the_reason(tmp_path: Path) -> None:
    fault = loaded(tmp_path, 'rule = "krum"\nbyzantine = 1')["aggregation.rule"]
    assert fault.value == '"krum"'
    assert (
        "needs at least 5 parties (2 byzantine + 3; byzantine = 1), and there are 2" in fault.cure
    )
    assert "nobody can tell which one lies" in fault.cure


@pytest.mark.parametrize(
    ("rule", "byzantine", "number", "cures"),
    [
        ("krum", 1, 3, 'bring in more parties, or use "median"'),
        ("krum", 2, 5, 'lower byzantine to 1, or bring in more parties, or use "median"'),
        ("median", 2, 4, "lower byzantine to 1, or bring in more parties"),
    ],
)
def test_only_cures_that_help_are_named(rule: str, byzantine: int, number: int, cures: str) -> None:
    assert too_few(rule, byzantine, number).endswith(f"there are {number}; {cures}")


def test_a_root_party_that_is_none_is_named(tmp_path: Path) -> None:
    fault = loaded(tmp_path, 'rule = "fltrust"\nroot = { party = "hospital-x" }')
    assert "names no party, did you mean" in fault["aggregation.root.party"].cure


def test_the_root_party_trains_on_the_agreed_root_set_or_not_at_all(tmp_path: Path) -> None:
    from splitfed.data import data_digest
    from splitfed.run.agreement import load_data

    source = "digits:party=1"
    party = {f'"folder:scans/{part}"': f'"{source}"' for part in ("train", "validation", "test")}

    def load(folder: Path, digest: str, root: str = "hospital-a"):
        folder.mkdir()
        lines = f'max_update_norm = 12\nrule = "fltrust"\nroot = {{ party = "{root}", digest = '
        classes = ", ".join(f'"{digit}"' for digit in range(10))
        federation = {
            "max_update_norm = 12": f'{lines}"{digest}" }}',
            '["cat", "dog"]': f"[{classes}]",
        }
        return load_data(load_party(write_files(folder, federation=federation, party=party)))

    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "other", "0" * 64)
    (fault,) = caught.value.faults
    assert fault.key == "aggregation.root.digest"
    found = fault.cure.partition("has digest ")[2][:64]
    assert data_digest(load(tmp_path / "same", found).train).hex() == found
    load(tmp_path / "elsewhere", "0" * 64, root="hospital-b")  # somebody else's to look after
