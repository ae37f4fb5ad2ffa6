from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from splitfed.errors import FolderError
from splitfed.tensors import digest
from tests.support.training import tiny_trainer
from tests.training import resume_process as script

ROOT = Path(__file__).parents[2]


def run(folder: Path, first: int, past: int) -> str:
    module = "tests.training.resume_process"
    command = [sys.executable, "-m", module, str(folder), str(first), str(past)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_round_after_a_restart_is_the_undisturbed_round_to_the_last_bit(tmp_path: Path) -> None:
    """Rounds 1-2 in this process and 3 in another give the bytes of 1-3 in this one."""
    script.main(tmp_path, range(1, 3))
    resumed = run(tmp_path, 3, 4)
    undisturbed = ""
    for optimizer in script.OPTIMIZERS:
        trainer = script.resumable(optimizer)
        script.train(trainer, range(1, 4))
        undisturbed += f"{optimizer} {digest(trainer.state()[0]).hex()}\n"
    assert resumed == undisturbed


def test_the_state_is_a_copy_that_later_training_does_not_touch() -> None:
    trainer = tiny_trainer()
    trainer.train_round(1)
    tensors, _ = trainer.state()
    before = digest(tensors)
    trainer.train_round(2)
    assert digest(tensors) == before
    assert digest(trainer.state()[0]) != before


def test_loading_forgets_what_was_trained_since() -> None:
    trainer = tiny_trainer(optimizer="adam")
    saved = trainer.state()  # before any step: no optimizer state at all
    first = trainer.train_round(1)
    after = digest(trainer.state()[0])
    trainer.load_state(*saved)
    assert trainer.train_round(1).loss == first.loss
    assert digest(trainer.state()[0]) == after


def test_the_state_names_every_tensor_and_its_momentum() -> None:
    trainer = tiny_trainer()
    trainer.train_round(1)
    tensors, meta = trainer.state()
    assert meta == {"optimizer": "sgd"}
    parts = ("conv.bias", "conv.weight", "norm.running_var", "own_norm.num_batches_tracked")
    assert {f"model/{name}" for name in parts} <= set(tensors)
    assert "optimizer/classifier.weight/momentum_buffer" in tensors
    assert all(tensor.device.type == "cpu" for tensor in tensors.values())


def test_a_checkpoint_of_another_optimizer_is_refused_by_both_names() -> None:
    saved = tiny_trainer(optimizer="adam").state()
    with pytest.raises(FolderError, match="optimizer 'adam', .* says 'sgd'"):
        tiny_trainer().load_state(*saved)


def test_a_checkpoint_of_another_model_is_refused_by_tensor_name() -> None:
    tensors, meta = tiny_trainer().state()
    short = {n: t for n, t in tensors.items() if n != "model/conv.bias"}
    with pytest.raises(FolderError, match=r"conv\.bias is missing from the checkpoint"):
        tiny_trainer().load_state(short, meta)
    with pytest.raises(FolderError, match="extra is missing from this model"):
        tiny_trainer().load_state({**tensors, "model/extra": torch.ones(1)}, meta)
    strange = {**tensors, "optimizer/conv.bias/momentum_buffer": torch.ones(99)}
    with pytest.raises(FolderError, match=r"conv\.bias/momentum_buffer \[99\]"):
        tiny_trainer().load_state(strange, meta)
