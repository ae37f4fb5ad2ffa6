"""Run by test_resume.py in processes of its own: train some rounds, load or save the state."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from splitfed.sharing import shared_tensors
from splitfed.tensors import digest
from splitfed.training import Trainer
from tests.support.training import tiny_trainer

torch.set_num_threads(1)

OPTIMIZERS = ("sgd", "adam", "adamw")


def train(trainer: Trainer, rounds: range) -> None:
    """Rounds as in a federation: after each, other values come back for the shared tensors."""
    for number in rounds:
        trainer.train_round(number)
        shared = shared_tensors(trainer.model, trainer.split)
        trainer.merge({n: t * 0.9 if t.is_floating_point() else t for n, t in shared.items()})


def resumable(optimizer: str) -> Trainer:
    return tiny_trainer(optimizer=optimizer, schedule="cosine", lr=0.02)


def main(folder: Path, rounds: range) -> None:
    for optimizer in OPTIMIZERS:
        trainer = resumable(optimizer)
        saved, facts = folder / f"{optimizer}.safetensors", folder / f"{optimizer}.json"
        if saved.exists():
            trainer.load_state(load_file(saved), json.loads(facts.read_text()))
        train(trainer, rounds)
        tensors, meta = trainer.state()
        save_file(tensors, saved)
        facts.write_text(json.dumps(meta))
        print(optimizer, digest(tensors).hex())


if __name__ == "__main__":
    main(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))
