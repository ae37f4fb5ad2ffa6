"""The demo's setting: made like two institutions would, and nobody's files are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfed.config import load_party
from splitfed.demo import check_choices, make_parties, reference
from splitfed.demo.story import MARK
from splitfed.errors import UserError
from splitfed.run.agreement import load_data


def test_the_setting_is_the_fixed_one(tmp_path: Path) -> None:
    files = make_parties(tmp_path / "demo", rounds=10, split="skew")
    configs = {name: load_party(file) for name, file in files.items()}
    assert list(configs) == ["hospital-a", "hospital-b"]
    a, b = configs.values()
    assert a.federation.contract_digest == b.federation.contract_digest
    agreed = a.federation
    assert (agreed.rounds, agreed.privacy.mode) == (10, "dp-frozen")
    assert (agreed.privacy.epsilon, agreed.privacy.delta) == (8.0, 1e-5)
    assert agreed.model.shared == ("conv1", "conv2")
    plain = {"channels": 1, "classes": 10, "size": [28, 28]}
    assert agreed.model.arguments == {**plain, "activation": "tanh"}
    for config in (a, b):
        training = config.training
        assert (training.optimizer, training.lr, training.momentum) == ("sgd", 0.05, 0.9)
        assert (training.batch_size, training.epochs, training.threads) == (32, 1, 1)
        assert config.defence.acceptance is True
        assert config.me.records == 1000
    assert a.bind is not None
    assert a.bind.startswith("tcp://127.0.0.1:")
    assert b.bind is None


def test_the_digits_are_skewed_and_the_test_set_is_common(tmp_path: Path) -> None:
    files = make_parties(tmp_path / "demo", rounds=1, split="skew")
    a, b = (load_data(load_party(file)) for file in files.values())
    assert (len(a.train), len(b.train)) == (1000, 1000)
    assert a.train.labels is not None
    assert b.train.labels is not None
    assert (a.train.labels < 5).float().mean().item() == pytest.approx(0.8)
    assert (b.train.labels >= 5).float().mean().item() == pytest.approx(0.8)
    assert a.validation is not None
    assert a.test is not None
    assert b.test is not None
    assert (len(a.validation), len(a.test)) == (250, 1500)
    assert (a.test.images == b.test.images).all()


@pytest.mark.parametrize("parties", [3, 8])
def test_more_parties_share_the_same_digits_and_every_pair_can_meet(
    tmp_path: Path, parties: int
) -> None:
    files = make_parties(tmp_path / "demo", rounds=1, split="skew", parties=parties)
    configs = [load_party(file) for file in files.values()]
    names = [f"hospital-{letter}" for letter in "abcdefgh"[:parties]]
    assert list(files) == names
    assert [config.party for config in configs] == names
    assert len({config.federation.contract_digest for config in configs}) == 1
    assert len({config.federation.roster_digest for config in configs}) == 1
    binds = [config.bind for config in configs]
    assert len(set(binds)) == parties
    assert binds[-1] is None
    for place, config in enumerate(configs):
        data = load_data(config)
        assert data.validation is not None
        assert data.train.labels is not None
        size = 2000 // parties
        assert config.me.records == len(data.train) == size
        assert len(data.validation) == size // 4
        low, high = 10 * place / parties, 10 * (place + 1) / parties
        own = (data.train.labels > low - 1) & (data.train.labels < high)
        assert own.float().mean().item() >= 0.8


def test_fresh_keys_each_time(tmp_path: Path) -> None:
    rosters = [
        load_party(make_parties(tmp_path / "demo", rounds=1, split="iid")["hospital-a"])
        .federation.roster_digest
        for _ in range(2)
    ]  # fmt: skip
    assert rosters[0] != rosters[1]


def test_an_earlier_demo_is_replaced_and_other_files_in_it_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    make_parties(out, rounds=1, split="iid")
    (out / "notes.txt").write_text("mine")
    (out / "hospital-a").mkdir()
    (out / "hospital-a" / "report.json").write_text("old")
    (out / "report.html").write_text("old")
    make_parties(out, rounds=1, split="iid")
    assert sorted(path.name for path in out.iterdir()) == [MARK, "notes.txt", "parties"]


@pytest.mark.parametrize("names", [["report.json"], ["parties", "hospital-a"], ["thesis.tex"]])
def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="not from a demo"):
        make_parties(tmp_path, rounds=1, split="iid")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "mine"
    )


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert make_parties(tmp_path, rounds=1, split="iid")


def test_without_noise_the_setting_is_that_of_plain_sharing(tmp_path: Path) -> None:
    files = make_parties(tmp_path / "demo", rounds=10, split="skew", privacy="none")
    for config in map(load_party, files.values()):
        assert config.federation.privacy.mode == "none"
        assert "activation" not in config.federation.model.arguments
        assert config.data.budget_epsilon is None


@pytest.mark.parametrize("privacy", ["dp-frozen", "dp-all", "none"])
def test_the_modes_of_the_demo(privacy: str) -> None:
    check_choices(parties=2, split="skew", privacy=privacy)


@pytest.mark.parametrize(
    "choice",
    [
        {"parties": 1},
        {"parties": 9},
        {"split": "x"},
        {"privacy": "dp"},
        {"privacy": "party-update"},
    ],
)
def test_what_the_demo_does_not_offer_is_refused(choice: dict) -> None:
    with pytest.raises(UserError):
        check_choices(**{"parties": 2, "split": "skew", "privacy": "none", **choice})


def test_noise_beside_a_noise_free_head_is_refused_with_its_reason() -> None:
    with pytest.raises(UserError, match="one record changes the private layers"):
        check_choices(parties=2, split="skew", privacy="dp-shared")


def test_the_reference_averages_everything_and_scores_every_party(tmp_path: Path) -> None:
    files = make_parties(tmp_path / "demo", rounds=1, split="iid")
    for file in files.values():
        # 64 digits are enough to see that both end with one and the same model.
        text = file.read_text().replace("split=iid", "split=iid&records=64")
        file.write_text(text)
    full = reference(files, 1, shared="*")
    assert set(full) == {"hospital-a", "hospital-b"}
    assert full["hospital-a"] is not None
    assert full["hospital-a"] == full["hospital-b"]
