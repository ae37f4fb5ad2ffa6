"""What fusion brings over training alone, and when shared layers bring more than outputs.

MNIST digits as the demo divides them (:mod:`splitfed.data.digits`), ``ThreeLayerCNN``, all
parties in one process through ``Federation.simulate``. A seed is that of the models and of the
public division both, so each seed has other images, too. Rows are those of report.json, and
"average" and "ensemble" beside fused ("distill"); "kept" is the best of local_only, partial and
fused on a party's own validation images.

A mean is over parties and seeds; its spread is the standard deviation of the parties' mean over
seeds. Intervals are Student's, 95 %, of the paired differences: a seed, with its parties' mean,
is one observation, as parties of one seed share test images and teacher. Settings of fusion that
are not named here are the defaults of ``splitfed.config.fusion``. A setting in which shared layers
pay was looked for with other seeds than those it is confirmed with (:data:`CONFIRMING`).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student

from measuring import RESULTS, now, processor_seconds, publish
from splitfed.config import OwnFusionConfig, TrainingConfig, parse
from splitfed.config.fusion import EPOCHS, TEMPERATURE, WEIGHT
from splitfed.data import ImageSet, digits
from splitfed.models import initialise
from splitfed.privacy.proposal import usual_arguments, usual_terms
from splitfed.run.learner import PartyData
from splitfed.simulation import Federation, Party, outputs_only

MODEL = "splitfed.models:ThreeLayerCNN"
ARGUMENTS: dict[str, Any] = {"channels": 1, "classes": 10, "size": [28, 28]}
MARGIN, GAIN, LOSS = 1.0, 1.0, 0.5  # points: below full, above and (noised) below local_only
COLUMNS = ("", "seeds", "mean", "± seeds", "worst", "best", "fused minus it", "95 % interval")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Who has which digits, and how they train.

    Attributes:
        about: one line for the table.
        records: training digits a party; None: 2,000 / parties.
        shared: layers that are averaged.
        epochs: local ones a round.
        rate: learning rate; with few digits, at the usual 0.05, some parties alone stay at
            chance level, and the comparison would be about that.
        fusing: epochs of learning from outputs; None: the default.
        reference: how many reference digits; None: all.
        inverted: whether the last party's images, test images too, are negatives.
        noised: under "dp-frozen" on the usual terms.
        extra: rows beside those that every setting has.
        seeds: unless ``--seeds`` names others.
    """

    about: str
    parties: int = 2
    split: str = "skew"
    records: int | None = None
    shared: tuple[str, ...] = ("conv1", "conv2")
    rounds: int = 10
    epochs: int = 1
    rate: float = 0.05
    fusing: int | None = None
    reference: int | None = None
    inverted: bool = False
    noised: bool = False
    extra: tuple[str, ...] = ("outputs_only", "full")
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)


CONFIRMING = (21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
DEMO = Setting(
    about="the demo without privacy: 2 parties, 1,000 digits each, 80 % of five labels",
    extra=("outputs_only", "full", "average", "ensemble"),
)
TRUNK = ("conv1", "conv2", "conv3")
FEW = Setting(
    about="2 parties, 100 digits each, 80 % of five labels",
    records=100,
    epochs=5,
    rate=0.02,
    fusing=20,
    seeds=CONFIRMING[:5],
)
MANY = replace(FEW, about="8 parties, 50 digits each, any labels", parties=8, split="iid",
               records=50, fusing=40)  # fmt: skip
SETTINGS = {
    "demo": DEMO,
    "dp-frozen": replace(
        DEMO, about="the demo: dp-frozen, ε = 8 in all", noised=True, extra=()
    ),
    "few-labels": FEW,
    "few-labels-trunk": replace(FEW, about=f"{FEW.about}; all convolutions shared", shared=TRUNK),
    "small-reference": replace(
        FEW,
        about=f"{FEW.about}; all convolutions shared, 50 reference digits",
        reference=50,
        shared=TRUNK,
        seeds=CONFIRMING,
    ),
    "many-parties": MANY,
    "many-parties-trunk": replace(
        MANY, about=f"{MANY.about}; all convolutions shared", shared=TRUNK
    ),
    "shifted": replace(FEW, about=f"{FEW.about}; one party in negatives", inverted=True),
}  # fmt: skip
DOCUMENTED = ("demo", "dp-frozen", "small-reference", "few-labels-trunk")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- statistics ---


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; not a number for a single value."""
    return stdev(values) if len(values) > 1 else math.nan


def interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent ``differences``; unbounded for one alone."""
    count = len(differences)
    if count < 2:
        return -math.inf, math.inf
    half = float(student.ppf((1 + confidence) / 2, count - 1)) * stdev(differences)
    half /= math.sqrt(count)
    return fmean(differences) - half, fmean(differences) + half


Table = Mapping[str, Mapping[str, float]]
"""Accuracy in percent by row and party, of one seed."""


def paired(results: Sequence[Table], one: str, other: str) -> list[float]:
    """``one`` minus ``other`` for each seed: the mean over the parties."""
    return [
        fmean(found[one][party] - found[other][party] for party in found[one])
        for found in results
        if one in found and other in found
    ]


def weaker(found: Table) -> str:
    """The party that has the least by itself; of equals the first by name."""
    return min(sorted(found["local_only"]), key=found["local_only"].__getitem__)


def targets(name: str, results: Sequence[Table]) -> list[tuple[str, float, bool]]:
    """What this setting was to reach: in words, the figure in points, and whether it did."""
    made: list[tuple[str, float, bool]] = []
    if name == "demo":
        below = fmean(paired(results, "fused", "full"))
        made.append((f"fused at least full - {MARGIN:g}", below, below >= -MARGIN))
        gains = [f["fused"][weaker(f)] - f["local_only"][weaker(f)] for f in results]
        gain = fmean(gains)
        made.append(
            (f"fused at least local_only + {GAIN:g}, weaker party", gain, gain >= GAIN)
        )  # fmt: skip
    elif name == "dp-frozen":
        for row in ("kept", "fused"):
            least = min(f[row][party] - f["local_only"][party] for f in results for party in f[row])
            words = f"{row} never below local_only - {LOSS:g}, any party and seed"
            made.append((words, least, least >= -LOSS))
    else:
        low, _ = interval(paired(results, "fused", "outputs_only"))
        made.append(("fused above outputs_only: lower end of the interval", low, low > 0))
    return made


# --- one seed ---


def parties_of(setting: Setting, seed: int) -> tuple[list[Party], ImageSet]:
    """The parties with their digits, and the reference digits of all."""
    dealt = digits.federation(setting.parties, setting.split, seed, setting.records)
    parties = []
    for number, own in enumerate(dealt.parties):
        negative = setting.inverted and number == setting.parties - 1
        seen = inverted if negative else _as_is
        parties.append(
            Party(
                f"hospital-{chr(97 + number)}", seen(own.train), seen(own.validation),
                seen(dealt.test),
            )
        )  # fmt: skip
    return parties, dealt.reference.subset(range(setting.reference or len(dealt.reference)))


def inverted(data: ImageSet) -> ImageSet:
    """Negatives: white on black becomes black on white."""
    return replace(data, images=255 - data.images)


def _as_is(data: ImageSet) -> ImageSet:
    return data


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    """All rows of one seed, by party, in percent."""
    began, spent = now(), processor_seconds()
    parties, reference = parties_of(setting, seed)
    training = parse(TrainingConfig, {"epochs": setting.epochs, "lr": setting.rate}, "[training]")
    fusing = OwnFusionConfig(epochs=setting.fusing or EPOCHS)
    mode = "dp-frozen" if setting.noised else "none"
    records = len(_labelled(parties[0].train))
    arguments = ARGUMENTS | usual_arguments(mode, ("activation",))
    federation = partial(
        Federation,
        model=MODEL,
        arguments=arguments,
        rounds=setting.rounds,
        classes=digits.CLASSES,
        seed=seed,
        training=training,
        fusing=fusing,
    )
    reports = federation(
        shared=setting.shared,
        privacy=usual_terms(mode, records=records, outputs=True),
        acceptance=True,
        fusion="distill",
        reference=reference,
    ).simulate(parties)
    found = {
        row: {name: report["evaluation"][row] for name, report in reports.items()}
        for row in ("local_only", "partial", "federated", "fused")
    }
    kept = {name: report["kept"] for name, report in reports.items()}
    found["kept"] = {name: found[row][name] for name, row in kept.items()}

    def outputs() -> dict[str, dict[str, Any] | None]:
        return outputs_only(
            {p.name: _data(p) for p in parties},
            initialise(MODEL, arguments, seed),
            reference=reference,
            settings={p.name: training for p in parties},
            fusing=fusing,
            temperature=TEMPERATURE,
            rounds=setting.rounds,
            classes=digits.CLASSES,
            seed=seed,
        )

    def by(fusion: str) -> dict[str, dict[str, Any] | None]:
        made = federation(shared=setting.shared, privacy="none", fusion=fusion).simulate(parties)
        return {name: report["evaluation"]["fused"] for name, report in made.items()}

    def full() -> dict[str, dict[str, Any] | None]:
        made = federation(shared="*", privacy="none").simulate(parties)
        return {name: report["evaluation"]["partial"] for name, report in made.items()}

    others: dict[str, Callable[[], dict[str, dict[str, Any] | None]]] = {
        "outputs_only": outputs,
        "full": full,
        "average": partial(by, "average"),
        "ensemble": partial(by, "ensemble"),
    }
    for row in setting.extra:
        found[row] = others[row]()
    first = reports[parties[0].name]
    return {
        "seed": seed,
        "accuracy": {
            row: {name: 100 * score["accuracy"] for name, score in scores.items()}
            for row, scores in found.items()
            if None not in scores.values()
        },
        "kept": kept,
        "verdict": {name: report["verdict"]["answer"] for name, report in reports.items()},
        "validation": {name: report["fusion"]["validation"] for name, report in reports.items()},
        "outcome": {name: report["fusion"]["outcome"] for name, report in reports.items()},
        "records": records,
        "reference": len(reference),
        "test": first["evaluation"]["test_size"],
        "privacy": first["privacy"]["sentence"],
        "cpu_s": processor_seconds() - spent,
        "wall_s": now() - began,
    }


def _labelled(images: Any) -> ImageSet:
    assert isinstance(images, ImageSet)  # all parties here have sets
    return images


def _data(party: Party) -> PartyData:
    return PartyData(
        train=_labelled(party.train),
        validation=_labelled(party.validation),
        test=_labelled(party.test),
    )


# --- the table ---


def rows_of(results: Sequence[Table]) -> list[list[str]]:
    """Lines of the table, best known row names first."""
    lines = []
    for row in results[0]:
        values = [list(found[row].values()) for found in results if row in found]
        means = [fmean(each) for each in values]
        every = [value for each in values for value in each]
        line = [
            row, f"{len(means)}", f"{fmean(means):.2f}", f"{spread(means):.2f}",
            f"{min(every):.2f}", f"{max(every):.2f}",
        ]  # fmt: skip
        if row != "fused":
            differences = paired(results, "fused", row)
            low, high = interval(differences)
            line += [f"{fmean(differences):+.2f}", f"{low:+.2f} to {high:+.2f}"]
        lines.append(line)
    return lines


def show(name: str, setting: Setting, results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """One setting: table, targets, JSON."""
    tables: list[Table] = [result["accuracy"] for result in results]
    reached = targets(name, tables)
    kept = [row for result in results for row in result["kept"].values()]
    verdicts = [answer for result in results for answer in result["verdict"].values()]
    print(f"\n{setting.about}; seeds {[result['seed'] for result in results]}")
    publish(
        f"fusion-{name}",
        out,
        COLUMNS,
        rows_of(tables),
        {
            "about": setting.about,
            "setting": asdict(setting),
            "targets": [dict(zip(("what", "points", "met"), target, strict=True))
                        for target in reached],
            "fusing": {"temperature": TEMPERATURE, "weight": WEIGHT,
                       "epochs": setting.fusing or EPOCHS},
            "rows": results,
        },
    )  # fmt: skip
    print(f"kept: {counted(kept)}; verdict of fused: {counted(verdicts)}")
    print(
        f"distillation: T = {TEMPERATURE:g}, weight {WEIGHT:g}, {setting.fusing or EPOCHS} epochs"
    )
    for words, points, met in reached:
        print(f"{'met' if met else 'MISSED'}: {words}: {points:+.2f}")
    cpu = sum(result["cpu_s"] for result in results) / 60
    print(f"CPU {cpu:.1f} min, wall {sum(result['wall_s'] for result in results) / 60:.1f} min")


def counted(words: Sequence[str]) -> str:
    """How often each word stands there, the most frequent first."""
    counts = sorted((-words.count(word), word) for word in set(words))
    return ", ".join(f"{word} {-count} of {len(words)}" for count, word in counts)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="what fusion and shared layers bring")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON results")
    parser.add_argument(
        "--setting", nargs="+", default=list(DOCUMENTED), choices=list(SETTINGS),
        help=f"default: {' '.join(DOCUMENTED)}",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", help="default: those of the setting")
    parser.add_argument("--rate", type=float, help="another learning rate than the setting's")
    parser.add_argument("--quick", action="store_true", help="one seed, one round: does it run?")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    torch.set_num_threads(1)
    for name in options.setting:
        setting = SETTINGS[name]
        seeds = options.seeds or setting.seeds
        if options.rate is not None:
            setting = replace(setting, rate=options.rate)
        if options.quick:
            setting, seeds = replace(setting, rounds=1, epochs=1, fusing=1), seeds[:1]
        results = []
        for seed in seeds:
            results.append(measure(setting, seed))
            means = {row: fmean(v.values()) for row, v in results[-1]["accuracy"].items()}
            shown = ", ".join(f"{row} {mean:.2f}" for row, mean in means.items())
            _tell(f"{name}, seed {seed}: {shown}; CPU {results[-1]['cpu_s']:.0f} s")
        show(f"{name}-quick" if options.quick else name, setting, results, options.out)


if __name__ == "__main__":
    main()
