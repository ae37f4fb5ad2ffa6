"""What federating costs beside training: a pair of runs against two bare loops.

Bare: two processes at once, each a plain PyTorch loop with the same digits, model, batches,
epochs and validation, one thread each, and nothing else. Run: two ``splitfed run`` processes
at once. Both leave out the first round (warming up), and the run leaves out waiting for the
slower party. They take turns, so that a busy minute of the machine hits both.
Wanted: run / bare <= 1.05.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional

from measuring import arguments, child_task, children, hear, middle, now, publish, say, take_turns
from pair import (
    BATCH,
    LR,
    MEAN,
    MOMENTUM,
    PARTIES,
    RECORDS,
    SEED,
    STD,
    VALIDATION,
    run_pair,
    source,
)
from splitfed.data import Preprocessing, load
from splitfed.models import ThreeLayerCNN

BOUND = 1.05
CLASSES = tuple("0123456789")
PARTS = ("train_s", "evaluate_s", "exchange_s", "wait_s")


def _digits(party: int, part: Literal["train", "validation"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised float32 images [N, 1, 28, 28] and labels [N], all in memory at once."""
    preprocessing = Preprocessing(channels=1, size=(28, 28), mean=(MEAN,), std=(STD,))
    data = load(
        source(party, part),
        preprocessing=preprocessing,
        classes=CLASSES,
        part=part,
        root=Path.cwd(),
        options={},
    )
    images, labels = data.batch(torch.arange(len(data)))
    assert labels is not None
    return images, labels


def bare_loop(task: dict[str, Any]) -> None:
    """The child: train ``task["rounds"]`` epochs and report when each ended."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    images, labels = _digits(task["party"], "train")
    held_out, answers = _digits(task["party"], "validation")
    assert len(images) == RECORDS
    assert len(held_out) == VALIDATION
    model = ThreeLayerCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    say({"ready": True})
    hear()
    ends, trained, losses = [now()], 0.0, []
    for epoch in range(task["rounds"]):
        began = now()
        model.train()
        order = torch.randperm(len(images))
        total = 0.0
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[index]), labels[index])
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(index)
        losses.append(total / len(images))
        trained += (now() - began) if epoch else 0.0
        model.eval()
        with torch.no_grad():
            functional.cross_entropy(model(held_out), answers).item()
        ends.append(now())
    say({"wall_s": ends[-1] - ends[1], "train_s": trained, "loss": losses[-1]})


def bare_pair(rounds: int) -> dict[str, Any]:
    """Seconds of two bare loops at once, first epoch left out."""
    tasks = [{"party": index, "rounds": rounds} for index in range(len(PARTIES))]
    with children(__file__, tasks) as pair:
        for child in pair:
            child.answer()
        for child in pair:
            child.tell()
        answers = [child.answer() for child in pair]
    return {key: [answer[key] for answer in answers] for key in answers[0]}


def federated_pair(rounds: int) -> dict[str, Any]:
    """Seconds of a pair of runs, first round and waiting for the slower party left out.

    ``wall_s`` is the time between the log's lines on closing the first and the last round,
    as seen from outside, less the report's ``wait_s``; the report's other times have to add
    up to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        ended = run_pair(Path(folder), rounds)
    result: dict[str, list[float]] = {key: [] for key in ("wall_s", *PARTS)}
    for one in ended:
        rows = one.report["history"][1:]
        assert len(rows) == rounds - 1
        assert all(row["outcome"] == "agreed" for row in rows)
        spent = {key: sum(row[key] for row in rows) for key in PARTS}
        wall = one.closings[rounds] - one.closings[1] - spent["wait_s"]
        accounted = sum(spent.values()) - spent["wait_s"]
        assert abs(wall - accounted) < 0.02 * wall + 0.1, (wall, spent)
        result["wall_s"].append(wall)
        for key in PARTS:
            result[key].append(spent[key])
    return result


def main() -> None:
    parser = arguments("overhead of a federated pair over bare training loops")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of one epoch")
    options = parser.parse_args()
    rounds = options.rounds
    federated_pair(2)  # fills the digits' cache
    turns = take_turns(
        options.times, {"bare": lambda: bare_pair(rounds), "run": lambda: federated_pair(rounds)}
    )

    def typical(name: str, key: str) -> float:
        """Median over the turns of the mean of the two parties."""
        return middle([sum(turn[key]) / len(turn[key]) for turn in turns[name]])

    pairs = zip(turns["run"], turns["bare"], strict=True)
    ratios = [sum(run["wall_s"]) / sum(bare["wall_s"]) for run, bare in pairs]
    ratio = middle(ratios)
    rows = [
        ["bare loop, rounds 2 and on", f"{typical('bare', 'wall_s'):.2f} s", ""],
        ["  of it training", f"{typical('bare', 'train_s'):.2f} s", ""],
        ["run, rounds 2 and on, waiting left out", f"{typical('run', 'wall_s'):.2f} s", ""],
        ["  of it training", f"{typical('run', 'train_s'):.2f} s", ""],
        ["  of it validation", f"{typical('run', 'evaluate_s'):.2f} s", ""],
        ["  of it exchange", f"{typical('run', 'exchange_s'):.2f} s", ""],
        ["waiting for the slower party (left out)", f"{typical('run', 'wait_s'):.2f} s", ""],
        ["run / bare, median of the turns", f"{ratio:.3f}", f"≤ {BOUND}"],
        ["run / bare, smallest and largest", f"{min(ratios):.3f} – {max(ratios):.3f}", ""],
    ]
    publish(
        "overhead",
        options.out,
        [f"mean of two parties, {rounds} rounds", "measured", "wanted"],
        rows,
        {"turns": turns, "ratios": ratios, "ratio": ratio, "wanted": BOUND, "met": ratio <= BOUND},
    )


if __name__ == "__main__":
    task = child_task()
    if task is None:
        main()
    else:
        bare_loop(task)
