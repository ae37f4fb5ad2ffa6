"""Personalised federated learning on PFLlib's terms: Fashion-MNIST, 20 parties, few labels each.

PFLlib (Zhang et al. 2025, JMLR 26) pools the 70,000 images, deals them to 20 parties by a
Dirichlet distribution with α = 0.1 for each label, and divides each hand 3 : 1 into training and
test. Its leaderboard gives 97.4 % for FedPer and 97.6 % for FedRep, and no row for a party that
stays by itself. Here all 20 run through ``Federation.simulate``, in one process: the shipped
engine, gates, ledger and votes, every party with all 19 others. The model is PFLlib's: two 5x5
convolutions, a layer of 512 and the classifier; all but the classifier is shared.

Scored as there: right answers of all parties on their own test images, over all test images.

* merged: after the last merge, each party's own classifier on the agreed layers: PFLlib's score.
* fitted: after one more epoch of the classifier alone (``fit_epochs``): what a party keeps.
* alone: ``local_only``, the same model trained by each party alone, for as many steps.

The schedule is shorter than PFLlib's 2,000 rounds of batches of 10 at 0.005, and was fixed before
the first run. The last round counts; test images choose nothing, not even the round. (They stand
in for validation images, so that the score after each merge is in the history; which model is
"kept" would depend on them, and is not reported.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from utility import CLASSES, DATA, read_idx

from measuring import RESULTS, now, processor_seconds, publish
from splitfed.config import TrainingConfig, parse
from splitfed.config.algorithm import Algorithm
from splitfed.data import ImageSet
from splitfed.progress import Silent
from splitfed.simulation import Federation, Party

PARTIES, ALPHA, DEALT = 20, 0.1, 1
"""As PFLlib has them; the last is the seed of its division."""
FEWEST = 40
"""Images of a party: so many that the quarter for testing fills one of PFLlib's batches of 10."""
TRAINING_SHARE = 0.75
ROUNDS = 15
TRAINING: dict[str, Any] = {
    "optimizer": "sgd", "lr": 0.05, "momentum": 0.0, "batch_size": 32, "epochs": 1, "fit_epochs": 1,
}  # fmt: skip
PUBLISHED = {"fedper": 97.4, "fedrep": 97.6}
COLUMNS = ("", "seeds", "merged", "fitted", "alone", "PFLlib", "within 1", "CPU min", "min")


class TwoConvolutions(nn.Module):
    """PFLlib's network for 28x28 grey images.

    Shapes: [N, 1, 28, 28] -> logits [N, 10].
    """

    shared = ("conv1", "conv2", "hidden")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.hidden = nn.Linear(64 * 4 * 4, 512)
        self.classifier = nn.Linear(512, len(CLASSES))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.conv1, self.conv2):
            # The same as relu before pooling, on a quarter of the values.
            x = functional.relu(functional.max_pool2d(layer(x), 2))
        logits: torch.Tensor = self.classifier(functional.relu(self.hidden(x.flatten(1))))
        return logits


@dataclass(frozen=True, kw_only=True)
class Hand:
    """Places of one party's images among all."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


class Watch(Silent):
    """Shows that one party's rounds go by, and what they cost the whole process."""

    def __init__(self, began: float, spent: float) -> None:
        self._began, self._spent = began, spent

    def on_round(self, row: Mapping[str, Any]) -> None:
        _tell(
            f"  round {row['round']}: {now() - self._began:.0f} s, "
            f"CPU {processor_seconds() - self._spent:.0f} s"
        )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def deal(
    labels: NDArray[np.int64],
    *,
    parties: int = PARTIES,
    alpha: float = ALPHA,
    seed: int = DEALT,
    fewest: int = FEWEST,
) -> list[Hand]:
    """Who gets which images: for each label in turn, shares drawn from a Dirichlet distribution
    (Hsu et al. 2019 turned round, as Yurochkin et al. 2019 do it), then 3 : 1 for testing.

    A party that has its N / parties images already gets none of the labels that follow. The
    whole deal is drawn again until everybody has ``fewest`` images. The draws are those of
    PFLlib's script for the same seed, in its order, from numpy's generator of that time.

    Args:
        labels: [N], 0 to K - 1.
    """
    draw = np.random.RandomState(seed)
    full = len(labels) / parties
    while True:
        hands: list[list[int]] = [[] for _ in range(parties)]
        for label in range(int(labels.max()) + 1):
            places = np.flatnonzero(labels == label)
            draw.shuffle(places)
            shares = draw.dirichlet(np.full(parties, alpha))
            shares = shares * np.array([len(hand) < full for hand in hands])
            ends = (np.cumsum(shares / shares.sum()) * len(places)).astype(int)[:-1]
            for hand, part in zip(hands, np.split(places, ends), strict=True):
                hand += part.tolist()
        if min(map(len, hands)) >= fewest:
            break
    return [_divided(np.array(hand), draw) for hand in hands]


def _divided(hand: NDArray[np.int64], draw: np.random.RandomState) -> Hand:
    order = draw.permutation(len(hand))
    tests = len(hand) - int(TRAINING_SHARE * len(hand))
    return Hand(train=hand[order[tests:]], test=hand[order[:tests]])


def over_all(accuracies: Sequence[float], sizes: Sequence[int]) -> float:
    """Right answers of all parties over all test images, in percent."""
    right = sum(round(a * size) for a, size in zip(accuracies, sizes, strict=True))
    return 100 * right / sum(sizes)


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All 70,000 images, [N, 1, 28, 28] uint8, and labels: training images first."""
    images, labels = (
        torch.cat([read_idx(folder / f"{part}-{kind}-ubyte.gz") for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    return images[:, None], labels.to(torch.int64)


def parties_of(images: torch.Tensor, labels: torch.Tensor) -> list[Party]:
    """The 20 parties with their own images, scaled to -1..1 as PFLlib does."""
    half = torch.tensor([0.5])

    def chosen(places: NDArray[np.int64]) -> ImageSet:
        index = torch.from_numpy(places)
        return ImageSet(images=images[index], labels=labels[index], mean=half, std=half)

    made = []
    for number, hand in enumerate(deal(labels.numpy())):
        test = chosen(hand.test)
        made.append(Party(f"party-{number:02}", chosen(hand.train), validation=test, test=test))
    return made


def federate(
    parties: Sequence[Party], algorithm: Algorithm, seed: int, *, rounds: int, alone: bool
) -> dict[str, Any]:
    """One federation of all parties, and its scores in percent."""
    began, spent = now(), processor_seconds()
    reports = Federation(
        model=TwoConvolutions,
        rounds=rounds,
        classes=CLASSES,
        privacy="none",
        training=parse(TrainingConfig, TRAINING, "[training]"),
        weights="records",
        seed=seed,
        acceptance=alone,
        algorithm=algorithm,
    ).simulate(parties, progress=lambda name: _watch(name == parties[0].name, began, spent))
    found = [reports[party.name] for party in parties]
    sizes = [report["evaluation"]["test_size"] for report in found]

    def accuracies(key: str) -> list[float] | None:
        rows = [report["evaluation"][key] for report in found]
        return None if None in rows else [row["accuracy"] for row in rows]

    merged = [[row["validation_accuracy"] for row in report["history"]] for report in found]
    each = {
        "merged": [history[-1] for history in merged],
        "fitted": accuracies("partial"),
        "alone": accuracies("local_only"),
    }
    return {
        "algorithm": algorithm,
        "seed": seed,
        **{key: None if row is None else over_all(row, sizes) for key, row in each.items()},
        "by_round": [over_all(row, sizes) for row in zip(*merged, strict=True)],
        "by_party": each,
        "test_sizes": sizes,
        "verdicts": [report["verdict"] for report in found],
        "outcomes": sorted({row["outcome"] for report in found for row in report["history"]}),
        "training_s": sum(r["time"]["train_s"] + r["time"]["baseline_s"] for r in found),
        "evaluate_s": sum(r["time"]["evaluate_s"] for r in found),
        "cpu_s": processor_seconds() - spent,
        "wall_s": now() - began,
    }


def _watch(shown: bool, began: float, spent: float) -> Silent:
    return Watch(began, spent) if shown else Silent()


def row_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line of the table: an algorithm over its seeds."""

    def cell(key: str) -> str:
        values = [result[key] for result in results if result[key] is not None]
        if not values:
            return "-"
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        return f"{fmean(values):.2f}{spread}"

    algorithm = results[0]["algorithm"]
    merged, published = fmean(result["merged"] for result in results), PUBLISHED[algorithm]
    return [
        algorithm,
        str(len(results)),
        *(cell(key) for key in ("merged", "fitted", "alone")),
        f"{published:.1f}",
        "yes" if merged >= published - 1 else f"no, {merged - published:+.2f}",
        f"{sum(result['cpu_s'] for result in results) / 60:.1f}",
        f"{sum(result['wall_s'] for result in results) / 60:.1f}",
    ]


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="personalised federated learning, 20 parties")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON result")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four IDX files")
    parser.add_argument("--algorithms", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of models and batches")
    parser.add_argument("--quick", action="store_true", help="few images, two rounds: does it run?")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    torch.set_num_threads(1)
    began, rounds = now(), options.rounds
    images, labels = read(options.data)
    if options.quick:
        images, labels, rounds = images[::20], labels[::20], 2
    parties = parties_of(images, labels)
    results: list[dict[str, Any]] = []
    for algorithm in options.algorithms:
        for seed in options.seeds:
            _tell(f"{algorithm}, seed {seed}")
            # Alone is the same whatever the others do; FedPer's is the one of as many steps.
            alone = algorithm == "fedper"
            results.append(federate(parties, algorithm, seed, rounds=rounds, alone=alone))
            _tell(" | ".join(row_of(results[-1:])))
    publish(
        "personalised-quick" if options.quick else "personalised",
        options.out,
        COLUMNS,
        [row_of([r for r in results if r["algorithm"] == name]) for name in options.algorithms],
        {
            "rounds": rounds,
            "training": TRAINING,
            "records": [len(party.train) for party in parties],
            "rows": results,
            "wall_s": now() - began,
        },
    )


if __name__ == "__main__":
    main()
