"""T2: the noise has the stated size, nobody can draw it again, and nothing keeps its key."""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.privacy.keystream import Keystream
from splitfed.privacy.update import noised_update
from splitfed.sharing import split_model
from splitfed.training.private import PrivateTrainer
from tests.support.privacy import (
    CLASSES,
    image_set,
    images_of,
    mechanism,
    private_trainer,
    small_net,
)

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 400_000
"""So many that every bound below is more than eight standard errors away: the noise cannot be
seeded, and these tests must not fail by chance."""
WIDTH = 6000


class Wide(nn.Module):
    """222,000 shared parameters: as many draws of noise in one step."""

    shared = ("layer",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, WIDTH)
        self.classifier = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.tanh(self.layer(images.flatten(1))))


def wide(seed: int = 1) -> Wide:
    torch.manual_seed(seed)
    return Wide()


def values_of(trainer) -> np.ndarray:
    """All noised parameters as one float64 vector."""
    return torch.cat([t.flatten() for t in trainer.tensors().values()]).double().numpy()


def change_of_a_step(trainer) -> np.ndarray:
    before = values_of(trainer)
    trainer.train_round(1)
    return values_of(trainer) - before


def unrelated(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two vectors of noise have nothing to do with each other, in either direction."""
    return abs(float(np.corrcoef(one, other)[0, 1])) < 0.05


# --- its size ----------------------------------------------------------------------------


def test_gaussians_are_standard_normal() -> None:
    drawn = Keystream().gaussian(DRAWS)
    assert drawn.dtype == np.float64
    assert float(drawn.std()) == pytest.approx(1.0, rel=0.02)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(stats.kurtosis(drawn)) == pytest.approx(0.0, abs=0.1)
    assert stats.kstest(drawn, "norm").statistic < 0.01


def test_gaussians_next_to_each_other_are_independent() -> None:
    drawn = Keystream().gaussian(DRAWS)
    for lag in (1, 2, 7):
        assert unrelated(drawn[:-lag], drawn[lag:])
        assert unrelated(drawn[:-lag] ** 2, drawn[lag:] ** 2)
    # Across the border of the blocks in which they are drawn.
    assert len(np.unique(drawn)) == DRAWS


class Words(Keystream):
    """A keystream whose words are chosen by the test."""

    def __init__(self, *words: int) -> None:
        super().__init__()
        self.chosen = np.array(words, dtype=np.uint64)

    def words(self, count: int) -> np.ndarray:
        return np.resize(self.chosen, count)


@pytest.mark.parametrize("word", [0, 1, 2**63, 2**64 - 1])
def test_no_word_gives_an_infinite_gaussian(word: int) -> None:
    drawn = Words(word).gaussian(3)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() <= 2 * math.sqrt(130 * math.log(2)) + 1e-9


@pytest.mark.parametrize(("mode", "private_moves"), [("dp-frozen", False), ("dp-all", True)])
@pytest.mark.parametrize(("sigma", "clip"), [(1.0, 1.0), (0.7, 3.0)])
def test_a_step_on_an_empty_sample_is_noise_of_sigma_times_the_clipping_norm(
    mode: str, private_moves: bool, sigma: float, clip: float
) -> None:
    lr, records, rate = 0.5, 10**9, 1e-9
    trainer = private_trainer(
        image_set(images_of(4)), mode, model=wide(), records=records, lr=lr,
        sample_rate=rate, noise_multiplier=sigma, max_grad_norm=clip,
    )  # fmt: skip
    assert len(values_of(trainer)) > 200_000
    assert ("classifier.weight" in trainer.tensors()) == private_moves
    scaled = change_of_a_step(trainer) * (rate * records) / lr
    assert float(scaled.std()) == pytest.approx(sigma * clip, rel=0.02)
    assert float(scaled.mean()) == pytest.approx(0.0, abs=0.02 * sigma * clip)


def test_the_noise_of_a_step_does_not_depend_on_how_many_records_were_drawn() -> None:
    """All records are drawn, none has a gradient: the expected batch divides, not the real one."""
    images, labels = images_of(32)
    trainer = private_trainer(
        image_set((torch.full_like(images, math.nan), labels)), model=wide(), records=100, lr=1.0
    )
    change = change_of_a_step(trainer)
    assert float((change * 100).std()) == pytest.approx(1.0, rel=0.02)


def test_every_step_of_a_round_draws_noise_of_its_own() -> None:
    """Independent noise of k steps grows like the root of k."""
    trainer = private_trainer(
        image_set(images_of(4)), model=wide(), records=10**9, lr=1.0,
        sample_rate=1e-9, steps_per_round=9,
    )  # fmt: skip
    assert float(change_of_a_step(trainer).std()) == pytest.approx(3.0, rel=0.02)


def test_the_noise_of_a_party_update_is_twice_the_bound_times_sigma() -> None:
    terms = mechanism("party-update", unit="party", max_grad_norm=0.25, noise_multiplier=3.0)
    base = {"a": torch.zeros(300, 1000), "b": torch.zeros(7)}
    moved = noised_update(base, base, terms, Keystream())
    assert float(moved["a"].double().std()) == pytest.approx(2 * 0.25 * 3.0, rel=0.02)
    assert float(moved["a"].double().mean()) == pytest.approx(0.0, abs=0.02)


# --- it never repeats ---------------------------------------------------------------------


def test_two_keystreams_draw_different_words() -> None:
    one, other = Keystream(), Keystream()
    assert not np.isin(one.words(10_000), other.words(10_000)).any()
    assert unrelated(one.gaussian(20_000), other.gaussian(20_000))


def test_one_keystream_never_draws_a_word_twice() -> None:
    stream = Keystream()
    words = np.concatenate([stream.words(n) for n in (1, 3, 10_000, 10_000)])
    assert len(np.unique(words)) == len(words)


def test_a_keystream_cannot_be_copied() -> None:
    """A copy with the same key and counter would draw the same noise twice."""
    with pytest.raises(TypeError):
        copy.deepcopy(Keystream())


def drawn_by_process(more: str = "") -> list[bytes]:
    """Lines of hexadecimal words from a process of its own."""
    code = (
        "import os\n"
        "from splitfed.privacy.keystream import Keystream\n"
        "stream = Keystream()\n"
        f"{more}"
        "print(stream.words(64).tobytes().hex())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return [bytes.fromhex(line) for line in answer.stdout.split()]


def none_twice(*drawn: bytes) -> bool:
    words = np.concatenate([np.frombuffer(part, dtype=np.uint64) for part in drawn])
    return len(np.unique(words)) == len(words)


def test_two_processes_draw_different_words() -> None:
    (one,), (other,) = drawn_by_process(), drawn_by_process()
    assert len(one) == len(other) == 512
    assert none_twice(one, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_and_its_parent_draw_different_words() -> None:
    """The child inherits key and counter, and must use neither."""
    fork = (
        "stream.words(3)\n"
        "read, write = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.write(write, stream.words(64).tobytes())\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(os.read(read, 512).hex())\n"
    )
    child, parent = drawn_by_process(fork)
    assert len(child) == len(parent) == 512
    assert none_twice(child, parent)


def change(**settings) -> np.ndarray:
    return change_of_a_step(
        private_trainer(
            image_set(images_of(4)), model=wide(), records=10**9, sample_rate=1e-9, **settings
        )
    )


def test_two_parties_with_equal_agreements_models_and_data_draw_different_noise() -> None:
    assert unrelated(change(), change())


def test_a_trainer_that_is_resumed_twice_from_one_state_draws_new_noise_each_time() -> None:
    def made():
        return private_trainer(
            image_set(images_of(4)), model=wide(), records=10**9, sample_rate=1e-9
        )

    first = made()
    first.train_round(1)
    tensors, facts = first.state()
    changes = []
    for _ in range(2):
        again = made()
        again.load_state(tensors, facts)
        changes.append(change_of_a_step(again))
    changes.append(change_of_a_step(first))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert unrelated(changes[one], changes[other])


def test_no_seed_influences_the_noise() -> None:
    def seeded() -> np.ndarray:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        return Keystream().gaussian(20_000)

    assert unrelated(seeded(), seeded())


def test_drawing_noise_leaves_the_generators_of_others_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(4)
    torch.manual_seed(7)
    Keystream().gaussian(100)
    private_trainer(image_set(images_of(4))).train_round(1)
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_state_holds_the_noised_tensors_and_their_optimizer_and_nothing_else(
    momentum: float,
) -> None:
    model = small_net()
    trainer = PrivateTrainer(
        model, image_set(images_of(6)), TrainingConfig(federated={"momentum": momentum}),
        mechanism=mechanism("dp-all"), split=split_model(model), classes=CLASSES, records=6,
    )  # fmt: skip
    trainer.train_round(1)
    tensors, facts = trainer.state()
    names = {"conv.weight", "conv.bias", "classifier.weight", "classifier.bias"}
    wanted = {f"model/{name}" for name in names}
    if momentum:
        wanted |= {f"optimizer/{name}/momentum_buffer" for name in names}
    assert tensors.keys() == wanted
    assert facts == {"optimizer": "sgd"}


# --- who is drawn ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_a_mask_chooses_each_with_the_rate(rate: float) -> None:
    count = 1_000_000
    chosen = Keystream().mask(rate, count)
    assert chosen.dtype == np.bool_
    error = math.sqrt(rate * (1 - rate) / count)
    assert float(chosen.mean()) == pytest.approx(rate, abs=8 * error)


def test_the_size_of_a_poisson_sample_varies_as_a_binomial_does() -> None:
    """Shuffled batches of one size would be accounted for wrongly."""
    stream = Keystream()
    sizes = np.array([stream.mask(0.25, 400).sum() for _ in range(20_000)])
    assert float(sizes.var()) == pytest.approx(400 * 0.25 * 0.75, rel=0.1)


def test_a_rate_of_one_chooses_all() -> None:
    assert Keystream().mask(1.0, 5).tolist() == [True] * 5


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("rate", [1e-18, 0.5, 1.0])
def test_a_mask_has_an_entry_for_each(count: int, rate: float) -> None:
    assert Keystream().mask(rate, count).shape == (count,)


def test_the_probability_of_a_mask_is_exact_to_the_word() -> None:
    quarter = 2**62
    words = Words(0, quarter - 1, quarter, 2**64 - 1)
    assert words.mask(0.25, 4).tolist() == [True, True, False, False]
    assert words.mask(1 - 2**-53, 4).tolist() == [True, True, True, False]


def test_masks_of_two_steps_are_independent() -> None:
    stream = Keystream()
    one, other = (stream.mask(0.5, 100_000).astype(float) for _ in range(2))
    assert unrelated(one, other)
