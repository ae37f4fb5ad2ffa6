"""Which aggregation rule stands which attack: a table, measured.

MNIST digits as ``splitfed.data.digits`` divides them at random, a small ``ThreeLayerCNN``, all
parties in one process through ``Federation.simulate``, which is the code of a real run: gates,
rule, votes. Attackers know every honest update of a round before they send their own, act as
one, and keep inside the public bound, as the gate of every honest party makes them.

A figure is the accuracy of the honest parties' shared model on 1,000 test digits or more, minus
that of the same honest parties by the mean with nobody attacking, in points. With some layers
private it is the mean over the honest parties. "backdoor" counts what matters there as well: how
much more often than without the attackers an image with the trigger is taken for the target.

Two parties are another matter: no rule can tell which of the two lies, so what counts is the
model that the honest one keeps ("pair").
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from measuring import RESULTS, publish
from splitfed.config import NEEDS, TrainingConfig
from splitfed.data import digits
from splitfed.simulation import Federation, Party, find_attack
from splitfed.simulation.settings import MODEL, names
from splitfed.simulation.trial import FIGURES, Result, defended, play, undisturbed

ATTACKS = (
    "sign-flip", "scaling", "noise", "label-flip", "backdoor", "little", "inner-product",
    "inner-product-small",
)  # fmt: skip
PAIR = ("sign-flip", "scaling", "noise", "label-flip", "backdoor", "lying-outputs")
CHANCE = 50.0
"""A model trained alone that is no better, in percent, has not learnt: it measures nothing."""
MARGIN, HARM, SUCCESS = 1.0, 0.5, 5.0  # points: see the numbers in docs/robustness.md


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation to run.

    Attributes:
        rule: the aggregation rule; "" for the honest parties alone, by the mean.
        layers: what travels: "all", or conv1 and conv2 ("partial").
    """

    attack: str
    rule: str
    parties: int
    attackers: int
    layers: str
    rounds: int
    records: int
    seed: int
    clip: float
    acceptance: bool = False


def measured(case: Case) -> dict[str, Any]:
    """Run it; figures in points."""
    torch.set_num_threads(1)
    began = time.process_time()
    attack = find_attack(case.attack)
    dealt = digits.federation(case.parties, "iid", case.seed, case.records)
    cast = [
        Party(name, own.train, own.validation)
        for name, own in zip(names(case.parties), dealt.parties, strict=True)
    ]
    federation = Federation(
        model=MODEL,
        arguments={"channels": 1, "classes": 10, "size": [28, 28], "widths": [8, 16, 16]},
        rounds=case.rounds,
        classes=digits.CLASSES,
        privacy="none",
        shared=None if case.layers == "partial" else "*",
        seed=case.seed,
        # Alone, with as many images as one of two has, a model does not learn at the larger rate.
        training=TrainingConfig(lr=0.1 if case.parties > 2 else 0.02, batch_size=16, epochs=1),
        acceptance=case.acceptance,
    )
    if attack.outputs is not None:
        federation = replace(federation, fusion="distill", reference=dealt.reference)
    result: Result
    if case.rule:
        guarded = defended(
            federation, case.rule, attackers=case.attackers, clip=case.clip, root=cast[0].name
        )
        result = play(guarded, cast, test=dealt.test, attack=attack, attackers=case.attackers)
    else:
        result = undisturbed(
            federation, cast, test=dealt.test, attack=attack, attackers=case.attackers
        )
    figures = (*FIGURES, "backdoor_shared")
    mean = {key: result.mean(key) for key in figures}
    return {
        **asdict(case),
        **{key: None if value is None else 100 * value for key, value in mean.items()},
        "alarms": sum(map(len, result.alarms.values())),
        "rejected": sum(map(len, result.rejected.values())),
        "cpu_s": time.process_time() - began,
    }


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All that the options ask for, each undisturbed federation once per attack that plants."""
    for seed in options.seeds:
        for attackers in options.attackers:
            for layers in options.layers:
                usual: dict[str, Any] = {
                    "parties": options.parties,
                    "attackers": attackers,
                    "layers": layers,
                    "rounds": options.rounds,
                    "records": options.records,
                    "seed": seed,
                    "clip": options.clip,
                }
                yield Case(attack="backdoor", rule="", **usual)
                for rule in options.rules:
                    if NEEDS[rule].parties(attackers) > options.parties:
                        continue
                    for attack in options.attacks:
                        yield Case(attack=attack, rule=rule, **usual)


def pairs(options: argparse.Namespace) -> Iterator[Case]:
    """Two parties, one of them lying, judged by the acceptance test."""
    for seed in options.seeds:
        for attack in PAIR:
            yield Case(
                attack=attack, rule="mean", parties=2, attackers=1, layers="partial",
                rounds=options.rounds, records=500, seed=seed, clip=options.clip, acceptance=True,
            )  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> list[list[str]]:
    """Rule x attack of one number of attackers and one sharing: points beside undisturbed."""
    base = [row for row in rows if not row["rule"]]
    plain = _mean(base, "shared")
    lines = [["nobody attacks", *(f"{plain:.1f} %" for _ in options.attacks)]]
    for rule in options.rules:
        cells = []
        for attack in options.attacks:
            found = [row for row in rows if (row["rule"], row["attack"]) == (rule, attack)]
            if not found:
                cells.append("-")
                continue
            text = f"{_mean(found, 'shared') - plain:+.1f}"
            if attack == "backdoor":
                planted = _mean(found, "backdoor_shared") - _mean(base, "backdoor_shared")
                text += f" ({planted:+.0f})"
            cells.append(text)
        lines.append([rule, *cells])
    return lines


def stood(lines: Sequence[Sequence[str]], options: argparse.Namespace) -> dict[str, list[str]]:
    """By attack, the rules under which the honest lose a point at most, and (of a backdoor) under
    which it succeeds 5 points more often at most."""
    found: dict[str, list[str]] = {attack: [] for attack in options.attacks}
    for rule, *cells in lines[1:]:
        for attack, cell in zip(options.attacks, cells, strict=True):
            parts = cell.replace("(", "").replace(")", "").split()
            good = cell != "-" and float(parts[0]) >= -MARGIN
            if good and (len(parts) < 2 or float(parts[1]) <= SUCCESS):
                found[attack].append(rule)
    return found


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else float("nan")


def of_pairs(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What the honest one of two keeps, beside training alone."""
    lines = []
    for row in rows:
        gain = row["personal"] - row["local_only"]
        planted = ""
        met = gain >= -HARM
        if row["backdoor"] is not None:
            more = row["backdoor"] - row["backdoor_local_only"]
            planted, met = f"{more:+.1f}", met and more <= SUCCESS
        lines.append(
            [
                row["attack"], f"{row['shared']:.1f}", f"{row['personal']:.1f}",
                f"{row['local_only']:.1f}", f"{gain:+.1f}", planted, str(row["alarms"]),
                ("met" if met else "MISSED") if row["local_only"] > CHANCE else "no yardstick",
            ]
        )  # fmt: skip
    return lines


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="rule x attack")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON results")
    parser.add_argument("--parties", type=int, default=7)
    parser.add_argument("--attackers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", nargs="+", default=["all"], choices=["all", "partial"])
    parser.add_argument("--rules", nargs="+", default=list(NEEDS), choices=list(NEEDS))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--records", type=int, default=200, help="training digits a party")
    parser.add_argument("--clip", type=float, default=1.0, help="of centred-clipping")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--no-pairs", action="store_true", help="leave two parties out")
    parser.add_argument("--only-pairs", action="store_true", help="nothing but two parties")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    wanted = [] if options.only_pairs else list(cases(options))
    if not options.no_pairs:
        wanted += pairs(options)
    rows = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for row in pool.map(measured, wanted):
            rows.append(row)
            print(
                f"{len(rows)}/{len(wanted)} {row['attack']} {row['rule'] or 'nobody'} "
                f"{row['attackers']} of {row['parties']}: {row['shared']:.1f}; "
                f"{row['cpu_s']:.0f} CPU s",
                file=sys.stderr,
                flush=True,
            )
    setting = {key: str(value) for key, value in vars(options).items()}
    for attackers in options.attackers:
        for layers in options.layers:
            among = [
                row
                for row in rows
                if (row["attackers"], row["parties"]) == (attackers, options.parties)
                and row["layers"] == layers
            ]
            if options.only_pairs or not among:
                continue
            lines = table(among, options)
            print(f"\n{options.parties} parties, {attackers} lying, layers shared: {layers}")
            publish(
                f"robustness-{options.parties}-{attackers}-{layers}", options.out,
                ("rule", *options.attacks), lines, {"setting": setting, "rows": among},
            )  # fmt: skip
            for attack, rules in stood(lines, options).items():
                print(f"{'met' if rules else 'MISSED'}: {attack}: {', '.join(rules) or 'no rule'}")
    two = [row for row in rows if row["parties"] == 2]
    if two:
        print("\ntwo parties, one lying")
        publish(
            "robustness-2", options.out,
            ("attack", "shared", "kept", "local_only", "kept minus it", "backdoor", "alarms", ""),
            of_pairs(two), {"setting": setting, "rows": two},
        )  # fmt: skip


if __name__ == "__main__":
    main()
