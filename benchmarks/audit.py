"""Does the noise keep its promise? Every mode against an attacker who knows all but chance.

Each game of ``games.py`` is played many times in each of its two worlds. On one half of the
trials the attacker chooses a threshold for the score, on the other half the rates of false
alarms and of misses are counted. By (ε, δ)-differential privacy (Kairouz, Oh & Viswanath 2015)
both of FPR e^ε + FNR ≥ 1 - δ and FNR e^ε + FPR ≥ 1 - δ, so upper bounds on the
rates (Clopper & Pearson 1934) prove a least ε (Jagielski, Ullman & Oprea 2020).

Wanted: what is proven of a shipped mode is at most what is claimed, and of the naive split more
than twice the claim. At δ = 1e-5 only rare events tell, so a proof stays well below even an exact
claim. But the accountant claims an ε at every δ, and at greater ones a proof comes close: there
a shipped mode fails if what is proven with much greater confidence exceeds the claim.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import numpy as np
from games import DELTA, EPSILON, GAMES, SEED, Game, player
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.special import betaincinv

from measuring import RESULTS, Child, child_task, children, hear, now, publish, say
from splitfed.privacy import Mechanism, epsilon

DELTAS = (DELTA, 1e-3, 1e-2, 5e-2)
CONFIDENCE = 0.95
CERTAIN = 1 - 1e-6
"""For the claims at greater δ, which a proof nearly reaches: no false alarm in a lifetime. Also
for choosing a threshold, so that it does not chase the luck of a few trials in the tails."""
LEAST_TRIALS = 4000
"""Fewer cannot prove twice the claim even if no trial is ever judged wrongly."""
COLUMNS = ("ε proven of ε claimed", *"qTσ", "FPR", "FNR", "δ = 1e-5", "", "δ = 0.05", "wanted")
CHUNK = 100  # trials between two reports of a worker

Scores: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the second half of the trials proves at one δ.

    Attributes:
        false_alarms: trials without the canary that score above the threshold.
        misses: trials with it that do not.
        trials: of each world, in this half.
        proven: ε is at least this, with confidence 0.95; ``certain``: with 1 - 1e-6.
    """

    delta: float
    claimed: float
    threshold: float
    false_alarms: int
    misses: int
    trials: int
    proven: float
    certain: float


def at_most(counts: Counts, trials: int, confidence: float) -> Scores:
    """One-sided upper Clopper-Pearson bounds on rates, of ``counts`` in ``trials``."""
    inner = np.minimum(counts, trials - 1)
    bounds = betaincinv(inner + 1.0, trials - inner, confidence)
    return np.asarray(np.where(counts >= trials, 1.0, bounds))


def odds(
    false_alarms: Counts, misses: Counts, trials: int, *, delta: float, confidence: float
) -> Scores:
    """Least e^ε for each pair of counts, the better of both directions; below 1 it says nothing.

    Each of the two rates is bounded with half of the error, so that both hold together.
    """
    each = 1 - (1 - confidence) / 2
    fpr, fnr = at_most(false_alarms, trials, each), at_most(misses, trials, each)
    return np.maximum((1 - delta - fnr) / fpr, (1 - delta - fpr) / fnr)


def proven(
    false_alarms: int, misses: int, trials: int, *, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The least ε that fits these counts; 0 where nothing is proven."""
    counts = np.array([false_alarms]), np.array([misses])
    return float(np.log(max(1.0, *odds(*counts, trials, delta=delta, confidence=confidence))))


def examine(without: Scores, canary: Scores, *, delta: float, claimed: float) -> Finding:
    """Choose the threshold on every second trial, count on the others.

    Args:
        without, canary: scores of equally many trials of the two worlds, none of them NaN.
    """
    assert len(without) == len(canary)
    assert bool(np.isfinite(without).all() and np.isfinite(canary).all())
    seen = np.unique(np.concatenate([without[::2], canary[::2]]))
    middles = (seen[1:] + seen[:-1]) / 2 if len(seen) > 1 else seen
    counts = _counts(without[::2], canary[::2], middles)
    hopes = odds(*counts, len(without[::2]), delta=delta, confidence=CERTAIN)
    threshold = middles[[int(np.argmax(hopes))]]
    alarms, misses = (int(count[0]) for count in _counts(without[1::2], canary[1::2], threshold))
    trials = len(without[1::2])
    return Finding(
        delta=delta,
        claimed=claimed,
        threshold=float(threshold[0]),
        false_alarms=alarms,
        misses=misses,
        trials=trials,
        proven=proven(alarms, misses, trials, delta=delta),
        certain=proven(alarms, misses, trials, delta=delta, confidence=CERTAIN),
    )


def _counts(without: Scores, canary: Scores, thresholds: Scores) -> tuple[Counts, Counts]:
    alarms = len(without) - np.searchsorted(np.sort(without), thresholds, side="right")
    return alarms, np.searchsorted(np.sort(canary), thresholds, side="right")


def holds(game: Game, findings: Sequence[Finding]) -> bool:
    """Whether the findings, the agreed δ first, are what is wanted of the game."""
    agreed, *others = findings
    if game.mode == "naive":
        return agreed.proven > 2 * agreed.claimed
    return agreed.proven <= agreed.claimed and all(x.certain <= x.claimed for x in others)


def play(task: Mapping[str, Any]) -> None:
    """The child: play what is asked for, until nobody asks any more."""
    import torch

    torch.set_num_threads(1)
    players = {}
    for game in GAMES:
        if game.name in task["mechanisms"]:
            claimed = Mechanism(**task["mechanisms"][game.name])
            added = replace(claimed, noise_multiplier=task["noise"] * claimed.noise_multiplier)
            for canary in (False, True):
                players[game.name, canary] = player(game, added, canary=canary)
    gc.freeze()
    say({"ready": True})
    while (job := hear()) is not None:
        trial = players[job["game"], job["canary"]]
        say({"scores": [trial() for _ in range(job["trials"])]})


def gather(
    games: Mapping[str, Mechanism], *, trials: int, workers: int, noise: float
) -> dict[tuple[str, bool], Scores]:
    """Scores of ``trials`` trials of each game in each world."""
    jobs: SimpleQueue[dict[str, Any]] = SimpleQueue()
    for name in games:
        for start in range(0, trials, CHUNK):
            for canary in (False, True):
                jobs.put({"game": name, "canary": canary, "trials": min(CHUNK, trials - start)})
    scores: dict[tuple[str, bool], list[float]] = {(n, c): [] for n in games for c in (False, True)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    task = {"mechanisms": {n: asdict(m) for n, m in games.items()}, "noise": noise}

    def serve(child: Child) -> None:
        try:
            child.answer()
            while True:
                job = jobs.get_nowait()
                child.tell(job)
                found = child.answer()["scores"]
                scores[job["game"], job["canary"]] += found
                progress.advance(bars[job["game"]], len(found))
        except Empty:
            child.tell(None)
        except BaseException:
            while not jobs.empty():  # the others need not go on
                jobs.get_nowait()
            raise

    with (
        children(__file__, [task] * workers) as crew,
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        bars = {name: progress.add_task(name, total=2 * trials) for name in games}
        for done in [pool.submit(serve, child) for child in crew]:
            done.result()
    return {key: np.array(found) for key, found in scores.items()}


def row(game: Game, made: Mechanism, findings: Sequence[Finding]) -> list[str]:
    """The game's line in the table: rates and proof at the agreed δ, and at the greatest."""
    agreed, easiest = findings[0], findings[-1]
    wanted = "> 2×" if game.mode == "naive" else "≤ 1×"
    return [
        game.name,
        *(f"{made.sample_rate:g}", f"{made.steps}", f"{made.noise_multiplier:.4f}"),
        *(f"{count / agreed.trials:.4f}" for count in (agreed.false_alarms, agreed.misses)),
        f"{agreed.proven:.2f} of {agreed.claimed:.2f}",
        f"{agreed.proven / agreed.claimed:.2f}×",
        f"{easiest.proven:.2f} of {easiest.claimed:.2f}",
        f"{wanted}: {'yes' if holds(game, findings) else 'NO'}",
    ]


def draw(path: Path, scores: Mapping[tuple[str, bool], Scores], found: Mapping[str, Any]) -> None:
    """Each game's misses over false alarms, and the region that the claims exclude."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 8), sharex=True, sharey=True)
    grid = np.linspace(0, 1, 501)
    for axis, (name, findings) in zip(axes.flat, found.items(), strict=False):
        without, canary = scores[name, False][1::2], scores[name, True][1::2]
        alarms, misses = _counts(without, canary, np.sort(np.concatenate([without, canary])))
        least = np.zeros_like(grid)
        for x in findings:
            other = np.exp(-x.claimed) * (1 - x.delta - grid)
            least = np.maximum(least, np.maximum(1 - x.delta - np.exp(x.claimed) * grid, other))
        axis.fill_between(grid, least, color="0.85", label="excluded by the claims")
        axis.plot(alarms / len(without), misses / len(canary), label="attack")
        agreed = findings[0]
        axis.plot(agreed.false_alarms / agreed.trials, agreed.misses / agreed.trials, "o")
        title = f"{name}: ε ≥ {agreed.proven:.2f}, claimed {agreed.claimed:.2f}"
        axis.set(title=title, xlabel="false alarms", ylabel="misses")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> int:
    """Play, print, write; 1 if anything is not as wanted."""
    names = [game.name for game in GAMES]
    parser = argparse.ArgumentParser(description="distinguishing games against every mode")
    parser.add_argument("--trials", type=int, default=20_000, help="of each world of each game")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--games", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--noise", type=float, default=1.0, help="times the claimed; < 1 must fail")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results and plot")
    options = parser.parse_args()
    if options.trials < LEAST_TRIALS or options.workers < 1:
        parser.error(f"at least {LEAST_TRIALS} trials, which fewer cannot decide, and one worker")
    games = [game for game in GAMES if game.name in options.games]
    claims = {game.name: game.mechanism() for game in games}
    began = now()
    scores = gather(claims, trials=options.trials, workers=options.workers, noise=options.noise)
    found: dict[str, list[Finding]] = {name: [] for name in claims}
    for name, made in claims.items():
        for delta in DELTAS:
            claimed = epsilon([made.spend(made.rounds)], delta)
            both = scores[name, False], scores[name, True]
            found[name].append(examine(*both, delta=delta, claimed=claimed))
    verdict = {game.name: holds(game, found[game.name]) for game in games}
    publish(
        "audit",
        options.out,
        COLUMNS,
        [row(game, claims[game.name], found[game.name]) for game in games],
        {
            **{"epsilon": EPSILON, "trials": options.trials, "noise": options.noise},
            **{"confidence": CONFIDENCE, "certain": CERTAIN},
            "seeds": {"worlds": SEED, "noise and sampling": "none: the system's entropy"},
            "versions": {name: version(name) for name in ("opacus", "numpy", "scipy")},
            "games": {game.name: asdict(game) for game in games},
            "mechanisms": {name: asdict(made) for name, made in claims.items()},
            "findings": {name: [asdict(x) for x in each] for name, each in found.items()},
            "wall_s": now() - began,
            "met": verdict,
        },
    )
    draw(options.out / "audit.svg", scores, found)
    kept: dict[str, Any] = {f"{n}/{'with' if c else 'without'}": x for (n, c), x in scores.items()}
    np.savez_compressed(options.out / "audit.npz", **kept)  # for looking into a surprise
    return 0 if all(verdict.values()) else 1


if __name__ == "__main__":
    task = child_task()
    if task is None:
        sys.exit(main())
    play(task)
