"""How accurate a model is under differential privacy: Fashion-MNIST, two parties.

The 60,000 training images are dealt to two parties by a public permutation. Each keeps 2,500 as
validation and trains on 27,500, so that these figures are of n = 27,500. ``Federation.simulate``
runs the shipped code: record-by-record gradients, noise from the operating system, accountant,
gates, ledger, votes. The fixed features of :class:`splitfed.models.ScatterFront` are computed
once; everything else of the model is trained under mode "dp-all". A row for each ε:

* noised: the model that leaves, which is the one ε speaks of; the mean of both parties;
* personal: what a party keeps, trained further on its own images without noise;
* alone: the same layers trained by each party alone without noise (local_only);
* one owner: DP-SGD with the same settings on the 55,000 images in one hand, without a federation;
  with ``--unshared`` also on each party's own images: what is left of sharing under noise.

Hyperparameters were chosen on the validation images; docs/utility.md tells by whom and how. The
test images are looked at once, at the end of each run, and steer nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from measuring import RESULTS, now, publish
from splitfed.config import PrivacyConfig, TrainingConfig, parse
from splitfed.data import ImageSet
from splitfed.evaluation import predict
from splitfed.models import ScatterFront, ScatterNet
from splitfed.privacy import mechanism_of
from splitfed.progress import Silent
from splitfed.sharing import split_model
from splitfed.simulation import Federation, Party
from splitfed.training.private import PrivateTrainer

DATA = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PARTIES = ("a", "b")
DEALT = 2024
"""Seed of the public permutation: validation images must be those that settings were chosen on."""
HELD_OUT = 2500
ROUNDS, STEPS = 24, 5
RATE = {1.0: 30.0, 2.7: 70.0, 8.0: 100.0}
"""Learning rate of the noised steps for each ε."""
LARGEST_UPDATE = 1000.0
"""Far above any update here: the layer begins at zero, where the usual bound would be 1."""
PERSONAL: dict[str, Any] = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 2.0, "schedule": "cosine",
    "batch_size": 256, "epochs": 1, "fit_epochs": 0,
}  # fmt: skip
"""Training without noise. The decay is strong because what the personal model starts from is
noisy: without it the noise stays, and the model ends a point and a half below."""
COLUMNS = ("", "ε", "σ", "noised", "a / b", "personal", "a / b", "alone", "a / b", "min")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The images of one party as features, and what is done with them.

    Attributes:
        train: by party.
        validation: by party; None with ``--all``.
        test: the common test set, or (with ``--on-validation``) each party's validation images.
        rounds: of the federation.
    """

    train: Mapping[str, ImageSet]
    validation: Mapping[str, ImageSet] | None
    test: Mapping[str, ImageSet]
    rounds: int


class Watch(Silent):
    """Keeps what a party's run says, and shows how its noised model does on validation."""

    def __init__(self, party: str) -> None:
        self.party = party
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
        _tell(f"{self.party}: {text}")

    def on_round(self, row: Mapping[str, Any]) -> None:
        if row["round"] % 4 == 0:
            _tell(f"{self.party}: round {row['round']}, validation {row['validation_accuracy']}")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def read_idx(path: Path) -> torch.Tensor:
    """A gzipped IDX file of bytes, as MNIST and its successors come in."""
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).copy()).reshape(
        shape
    )


def featured(folder: Path, part: str, order: torch.Tensor | None, limit: int | None) -> ImageSet:
    """The images of ``part`` ("train" or "t10k") as features [N, 81, 7, 7], with labels."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")[:, None]
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz").to(torch.int64)
    if order is not None:
        images, labels = images[order], labels[order]
    images, labels = images[:limit], labels[:limit]
    front = ScatterFront()
    with torch.no_grad():
        parts = [front((part / 255 - 0.5) / 0.5) for part in torch.split(images, 500)]
    return ImageSet(images=torch.cat(parts), labels=labels)


def between(data: ImageSet, start: int, end: int) -> ImageSet:
    """Records ``start`` to ``end``, not copied."""
    assert data.labels is not None
    return ImageSet(images=data.images[start:end], labels=data.labels[start:end])


def prepare(options: argparse.Namespace) -> Task:
    """Read, deal and divide the images."""
    order = torch.randperm(60000, generator=torch.Generator().manual_seed(DEALT))
    each, held_out, rounds, tests = 30000, HELD_OUT, ROUNDS, None
    if options.quick:
        each, held_out, rounds, tests = 2000, 500, 2, 1000
        order = torch.cat([order[:each], order[30000 : 30000 + each]])
    data = featured(options.data, "train", order, None)
    middle = each if options.all else each - held_out
    starts = {party: index * each for index, party in enumerate(PARTIES)}
    train = {party: between(data, at, at + middle) for party, at in starts.items()}
    validation = (
        None
        if options.all
        else {party: between(data, at + middle, at + each) for party, at in starts.items()}
    )
    if options.on_validation:
        assert validation is not None
        return Task(train=train, validation=validation, test=validation, rounds=rounds)
    test = featured(options.data, "t10k", None, tests)
    return Task(
        train=train, validation=validation, test=dict.fromkeys(PARTIES, test), rounds=rounds
    )


def privacy(epsilon: float) -> dict[str, Any]:
    """[privacy] of the agreement."""
    if math.isinf(epsilon):
        return {"mode": "none"}
    return {
        "mode": "dp-all", "epsilon": epsilon, "delta": 1e-5, "max_grad_norm": 0.1,
        "sample_rate": 0.25, "steps_per_round": STEPS,
    }  # fmt: skip


def training(epsilon: float) -> TrainingConfig:
    """[training] of both parties: without noise, and ``federated`` for the noised steps."""
    keys = dict(PERSONAL)
    if not math.isinf(epsilon):
        keys["federated"] = {
            "optimizer": "sgd", "lr": RATE[epsilon], "momentum": 0.9, "schedule": "cosine",
        }  # fmt: skip
    return parse(TrainingConfig, keys, "[training]")


def federate(task: Task, epsilon: float, seed: int) -> dict[str, Any]:
    """Two parties, from the agreement to both reports.

    Raises:
        RuntimeError: an update was shortened: then it is not this recipe that was measured.
    """
    watches = {party: Watch(party) for party in PARTIES}
    began = now()
    reports = Federation(
        model="splitfed.models:ScatterNet",
        arguments={"input": "features"},
        rounds=task.rounds,
        classes=CLASSES,
        privacy=privacy(epsilon),
        training=training(epsilon),
        seed=seed,
        max_update_norm=LARGEST_UPDATE,
        acceptance=True,
    ).simulate(
        [
            Party(
                name=party,
                train=task.train[party],
                validation=None if task.validation is None else task.validation[party],
                test=task.test[party],
            )
            for party in PARTIES
        ],
        progress=lambda party: watches[party],
    )
    shortened = [text for watch in watches.values() for text in watch.said if "shortened" in text]
    if shortened:
        raise RuntimeError(f"max_update_norm = {LARGEST_UPDATE}: {shortened[0]}")
    found = {party: report["evaluation"] for party, report in reports.items()}

    def accuracies(key: str) -> list[float] | None:
        rows = [found[party][key] for party in PARTIES]
        return None if None in rows else [row["accuracy"] for row in rows]

    last = [reports[party]["history"][-1] for party in PARTIES]
    return {
        "who": "two parties",
        "epsilon": "inf" if math.isinf(epsilon) else epsilon,
        "seed": seed,
        "sigma": reports[PARTIES[0]]["privacy"]["noise_multiplier"],
        "records": [len(task.train[party]) for party in PARTIES],
        "noised": accuracies("federated"),
        "personal": accuracies("partial"),
        "alone": accuracies("local_only"),
        "kept": [reports[party]["kept"] for party in PARTIES],
        "validation": [row["validation_accuracy"] for row in last],
        "verdict": [reports[party]["verdict"] for party in PARTIES],
        "sentence": reports[PARTIES[0]]["privacy"]["sentence"],
        "wall_s": now() - began,
    }


def own(task: Task, epsilon: float, seed: int, parties: Sequence[str] = PARTIES) -> dict[str, Any]:
    """The training images of ``parties`` in one hand, and the noised steps of :func:`federate`.

    As after a merge, the shared layer's momentum restarts every round: one setting less that
    differs.
    """
    labels = [task.train[party].labels for party in parties]
    data = ImageSet(
        images=torch.cat([task.train[party].images for party in parties]),
        labels=torch.cat([part for part in labels if part is not None]),
    )
    agreed = parse(PrivacyConfig, privacy(epsilon), "[privacy]")
    mechanism = mechanism_of(agreed, rounds=task.rounds, records={"owner": len(data)})
    assert mechanism is not None
    model = ScatterNet(input="features")
    began = now()
    trainer = PrivateTrainer(
        model,
        data,
        training(epsilon),
        mechanism=mechanism,
        split=split_model(model),
        classes=CLASSES,
        records=len(data),
    )
    for round in range(1, task.rounds + 1):
        trainer.train_round(round)
        trainer.merge(trainer.shared())
    tests = dict.fromkeys(task.test[party] for party in parties)
    correct = [predict(model, test).correct for test in tests]
    return {
        "who": "one owner" if len(parties) > 1 else f"{parties[0]} without the other",
        "epsilon": epsilon,
        "seed": seed,
        "sigma": mechanism.noise_multiplier,
        "records": [len(data)],
        "noised": [float(part.to(torch.float64).mean()) for part in correct if part is not None],
        "personal": None,
        "alone": None,
        "sentence": mechanism.sentence,
        "wall_s": now() - began,
    }


def row_of(result: Mapping[str, Any]) -> list[str]:
    """One line of the table, in percent."""

    def pair(key: str) -> list[str]:
        values = result[key]
        if values is None:
            return ["-", ""]
        each = " / ".join(f"{100 * value:.2f}" for value in values)
        return [f"{100 * fmean(values):.2f}", each if len(values) > 1 else ""]

    sigma = result["sigma"]
    return [
        result["who"],
        f"{result['epsilon']}",
        "-" if sigma is None else f"{sigma:.3f}",
        *pair("noised"),
        *pair("personal"),
        *pair("alone"),
        f"{result['wall_s'] / 60:.1f}",
    ]


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="accuracy under differential privacy")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON result")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four IDX files")
    known = [*RATE, math.inf]
    parser.add_argument(
        "--eps", type=float, nargs="+", default=[2.7, 8.0, 1.0, math.inf], choices=known
    )
    parser.add_argument(
        "--one-owner", type=float, nargs="*", default=[2.7], choices=list(RATE), metavar="EPS",
        help="also all images in one hand, at these ε (of those in --eps)",
    )  # fmt: skip
    parser.add_argument(
        "--unshared", type=float, nargs="*", default=[], choices=list(RATE), metavar="EPS",
        help="also each party's noised steps without the other, at these ε",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="noise differs always")
    parser.add_argument("--all", action="store_true", help="train on all 2 x 30,000 images")
    parser.add_argument(
        "--on-validation", action="store_true", help="score on validation, read no test image"
    )
    parser.add_argument("--quick", action="store_true", help="few images, two rounds: does it run?")
    options = parser.parse_args(words)
    if options.all and options.on_validation:
        parser.error("--all leaves no validation images")
    return options


def main() -> None:
    options = options_of()
    torch.set_num_threads(1)
    began = now()
    task = prepare(options)
    _tell(f"features: {now() - began:.0f} s")
    jobs: list[tuple[Callable[[Task, float, int], dict[str, Any]], float, int]] = []
    for seed in options.seeds:
        for epsilon in options.eps:
            jobs.append((federate, epsilon, seed))
            if epsilon in options.one_owner:
                jobs.append((own, epsilon, seed))
            if epsilon in options.unshared:
                jobs += [(partial(own, parties=(party,)), epsilon, seed) for party in PARTIES]
    results = []
    for job, epsilon, seed in jobs:
        results.append(job(task, epsilon, seed))
        _tell(json.dumps(results[-1]))
        _tell(" | ".join(row_of(results[-1])))
    publish(
        "utility-quick" if options.quick else "utility",
        options.out,
        COLUMNS,
        [row_of(result) for result in results],
        {
            "scored_on": "validation" if options.on_validation else "test",
            "test_images": len(task.test[PARTIES[0]]),
            "rounds": task.rounds,
            "personal": PERSONAL,
            "rows": results,
            "wall_s": now() - began,
        },
    )


if __name__ == "__main__":
    main()
