"""Judgement: does it leave honest partners alone, and what does it see of dishonest ones?

Two parties through ``Federation.simulate``: the shipped engine, gates and votes, in one process,
without privacy. Each has 95 % of its digits of five labels and 5 % of the other five, in training,
validation and test alike. With ``on_distrust = "leave"``, so that a refusal is an ending "alone".

Every seed draws other digits, other initial values and other batches. For each run and party:

* refusals: alarms, and whether the party left.
* gain: accuracy of the federated model minus that of local_only, on the own test digits; kept:
  the same for the model that the party keeps. An ungated party keeps the federated model always.

Attacks are those of ``splitfed simulate --attack``, by the second party, which keeps to the
protocol and the bound. Of a backdoor is told how often a digit that is no 0 is called 0 once it has
the trigger, by the model trained alone, by the federated one, and by the one that is kept; and in
how many runs the kept one does so more often than the one trained alone by over 5 points. "Worse"
counts the kept models that are over half a point less accurate than the one trained alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from measuring import RESULTS, now, publish
from splitfed.config import TrainingConfig, parse
from splitfed.data.digits import CLASSES, all_digits
from splitfed.models import ThreeLayerCNN
from splitfed.random import generator
from splitfed.simulation import Federation, Party, find_attack
from splitfed.simulation.given import images_of
from splitfed.simulation.trial import play

NAMES = ("hospital-a", "hospital-b")
SKEW, ROUNDS = 0.95, 10
TRAIN, VALIDATION, TEST = 200, 300, 1500
TRAINING: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "batch_size": 20, "epochs": 2}
HARM, SUCCESS = 0.005, 0.05
"""Of accuracy lost and of a backdoor's success more, what is still within the target."""
ATTACKS = ("none", "sign-flip", "noise", "label-flip", "inner-product", "backdoor")
COLUMNS = (
    "partner", "runs", "alarms", "left", "alone", "federated", "kept", "gain kept", "worst kept",
    "worse", "backdoor alone", "backdoor federated", "backdoor kept", "above",
)  # fmt: skip


class Net(ThreeLayerCNN):
    """The digits' network, small."""

    def __init__(self) -> None:
        super().__init__(widths=(8, 16, 16), size=(14, 14))


def deal(seed: int) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Each party's parts: images [N, 1, 14, 14] float32 in -1..1 and labels [N]. Training and
    validation digits stand in no other set; the two parties' test digits overlap."""
    digits = torch.from_numpy(all_digits())
    labels, images = digits[:, -1].long(), digits[:, :-1].float().div(127.5).sub(1)
    images = torch.nn.functional.avg_pool2d(images.reshape(-1, 1, 28, 28), 2)
    order = torch.randperm(len(labels), generator=generator(seed, "judgement"))
    low, high = (order[labels[order] < 5], order[labels[order] >= 5])
    hands = []
    for many, few in ((low, high), (high, low)):
        hand, used = {}, [0, 1200]  # the few come from the pool's end that the other leaves
        for part, count in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
            most = round(SKEW * count)
            places = torch.cat([many[used[0] :][:most], few[used[1] + 900 :][: count - most]])
            used = [used[0] + most, used[1] + count - most]
            hand[part] = images[places], labels[places]
        hands.append(hand)
    return hands


def federation(seed: int, rounds: int) -> Federation:
    """The agreement of one run."""
    return Federation(
        model=Net,
        shared=("conv1", "conv2", "conv3"),
        rounds=rounds,
        classes=CLASSES,
        privacy="none",
        training=parse(TrainingConfig, TRAINING, "[training]"),
        seed=seed,
        acceptance=True,
        on_distrust="leave",
    )


def cast_of(hands: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> list[Party]:
    """The parties that hold them."""
    return [
        Party(name, hand["train"], hand["validation"], hand["test"])
        for name, hand in zip(NAMES, hands, strict=True)
    ]


def honest(seed: int, rounds: int) -> list[dict[str, Any]]:
    """A run of two honest parties, a row for each."""
    cast = cast_of(deal(seed))
    reports = federation(seed, rounds).simulate(cast)
    return [
        {
            "seed": seed,
            "party": name,
            "alarms": report["faults"]["alarms"],
            "left": report["outcome"] == "alone",
            "alone": report["evaluation"]["local_only"]["accuracy"],
            "federated": report["evaluation"]["partial"]["accuracy"],
            "kept": report["evaluation"][report["kept"]]["accuracy"],
            "judged": [
                row["judgement"] and [row["judgement"][key] for key in ("difference", "bound")]
                for row in report["history"]
            ],
        }
        for name, report in sorted(reports.items())
    ]


def attacked(seed: int, rounds: int, attack: str) -> list[dict[str, Any]]:
    """A run in which the second party lies; the row of the first."""
    hands = deal(seed)
    cast = cast_of(hands)
    found = play(
        federation(seed, rounds),
        cast,
        test=images_of(hands[0]["test"]),
        attack=find_attack(attack),
        attackers=1,
    )
    figures = found.parties[NAMES[0]]
    return [
        {
            "seed": seed,
            "party": NAMES[0],
            "alarms": found.alarms[NAMES[0]],
            "left": "alone" in found.outcomes[NAMES[0]],
            "alone": figures["local_only"],
            "federated": figures["shared"],
            "kept": figures["personal"],
            "backdoor": [
                figures[key] for key in ("backdoor_local_only", "backdoor_shared", "backdoor")
            ],
        }
    ]


def row_of(attack: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line of the table: all runs with one partner."""
    alone, federated, kept = ([row[key] for row in rows] for key in ("alone", "federated", "kept"))
    gain = sum(federated) - sum(alone)
    marked = [row["backdoor"] for row in rows if row.get("backdoor", [None])[0] is not None]
    planted = [f"{100 * fmean(column):.1f}" for column in zip(*marked, strict=True)]
    planted += [str(sum(its - own > SUCCESS for own, _, its in marked))]
    less = [k - a for k, a in zip(kept, alone, strict=True)]
    return [
        attack,
        str(len({row["seed"] for row in rows})),
        str(sum(bool(row["alarms"]) for row in rows)),
        str(sum(row["left"] for row in rows)),
        *(f"{100 * fmean(values):.2f}" for values in (alone, federated, kept)),
        f"{100 * (sum(kept) - sum(alone)) / gain:.0f} %" if gain > 0 else "-",
        f"{100 * min(less):+.2f}",
        str(sum(difference < -HARM for difference in less)),
        *(planted if marked else ["-"] * 4),
    ]


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="judgement of honest and dishonest partners")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON result")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--honest", type=int, default=20, help="honest runs")
    parser.add_argument("--runs", type=int, default=5, help="runs of each attack")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    torch.set_num_threads(1)
    began = now()
    found: dict[str, list[dict[str, Any]]] = {}
    for attack in options.attacks:
        rows: list[dict[str, Any]] = []
        for seed in range(options.honest if attack == "none" else options.runs):
            none = attack == "none"
            rows += honest(seed, options.rounds) if none else attacked(seed, options.rounds, attack)
            told = [f"{now() - began:.0f} s", *row_of(attack, rows)]
            print(*told, sep=" | ", file=sys.stderr, flush=True)
        found[attack] = rows
    publish(
        "judgement",
        options.out,
        COLUMNS,
        [row_of(attack, rows) for attack, rows in found.items()],
        {
            "rounds": options.rounds,
            "training": TRAINING,
            "sizes": [TRAIN, VALIDATION, TEST],
            "rows": found,
            "wall_s": now() - began,
        },
    )


if __name__ == "__main__":
    main()
