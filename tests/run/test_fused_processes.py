"""Fusion between two real processes, and a prediction in a fresh one with the network off."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from splitfed.data.digits import all_digits
from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.store import RunFolder
from tests.support.pairs import NAMES, end, here, report, run_both, start, until
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two party folders with one agreement of two rounds and a fusion by outputs."""
    where = tmp_path_factory.mktemp("untouched")

    def newcomer(index: int, address: str | None) -> Newcomer:
        source = f"digits:party={index}&parties=2&split=iid&records=96"
        return Newcomer(
            party=NAMES[index],
            address=address,
            records=96,
            sources=sources_of(source, where, reference=source),
            acceptance=True,
        )

    proposal = Proposal(name="pair", classes=DIGITS, rounds=2, privacy="none")
    address = f"tcp://127.0.0.1:{free_port()}"
    made = found(where / "a", proposal, newcomer(0, address))
    joined = join(where / "b", made.federation_file, newcomer(1, None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return where


@pytest.fixture
def pair(untouched: Path, tmp_path: Path) -> Path:
    """A copy of them for one test."""
    return shutil.copytree(untouched, tmp_path / "pair")


@pytest.fixture(scope="module")
def calm(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of them in which both ran undisturbed to the end. Tests only read it."""
    where = shutil.copytree(untouched, tmp_path_factory.mktemp("calm") / "pair")
    (code, out, error), second = run_both(where)
    assert second.code == 0, second.told
    assert code == 0, out + error
    return where


def tensors_of(where: Path, name: str) -> tuple[bytes, bytes]:
    folder = where / name / "runs" / name
    return tuple((folder / f"{part}.safetensors").read_bytes() for part in ("model", "members"))


OFFLINE = """
import socket, sys

class Refusing(socket.socket):
    def __init__(self, *_, **__):
        raise AssertionError("a socket was opened")

socket.socket = Refusing
from splitfed.cli import main
main(sys.argv[1:])
"""


def test_two_processes_fuse(calm: Path) -> None:
    for name in NAMES:
        found_report = report(calm, name)
        fusion = found_report["fusion"]
        assert (fusion["outcome"], fusion["parties"]) == ("fused", ["a", "b"])
        assert fusion["payload_bytes"] == fusion["reference_size"] * 10 * 4
        assert found_report["evaluation"]["fused"]["accuracy"] is not None
        assert found_report["verdict"]["compared"] in ("fused", "partial")
        assert [row["round"] for row in found_report["history"]] == [1, 2]
        with RunFolder.read_only(calm / name / "runs" / name) as folder:
            assert [row.row.kind for row in folder.ledger.rows()] == ["update", "update", "outputs"]


def test_a_fresh_process_predicts_with_the_network_off(calm: Path, tmp_path: Path) -> None:
    digits = all_digits()
    images = []
    for place in (3, 777):
        path = tmp_path / f"{place}.png"
        Image.fromarray(digits[place][:784].reshape(28, 28)).save(path)
        images.append(str(path))
    bundle = str(calm / "a" / "runs" / "a")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "predict", bundle, *images, "--json"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [Path(answer["image"]).name for answer in answers] == ["3.png", "777.png"]
    for answer in answers:
        assert answer["class"] in DIGITS
        assert 0 < answer["probability"] <= 1
        assert answer["agreement"]["answer"] in ("agree", "differ")
        assert answer["provenance"]["peers"] == ["b"]


def test_a_damaged_model_is_written_anew_without_the_peer(calm: Path, tmp_path: Path) -> None:
    where = shutil.copytree(calm, tmp_path / "damaged")
    model = where / "a" / "runs" / "a" / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:100])
    mended = here(where, "a")
    assert mended.code == 0, mended.told
    assert model.read_bytes() == whole


def test_a_party_killed_while_it_fuses_ends_with_the_same_bytes(pair: Path, calm: Path) -> None:
    """And rounds are not added meanwhile: what was released for the fusion would be paid for
    without being planned."""
    first, second = start(pair, "a"), start(pair, "b")
    until(second, "exchanging outputs", "fusing")
    second.send_signal(signal.SIGKILL)
    second.communicate()

    with RunFolder.read_only(pair / "b" / "runs" / "b") as folder:
        assert [row.get("kind") for row in folder.history()] == ["update", "update"]
    file = pair / "b" / "federation.toml"
    text = file.read_text()
    file.write_text(text.replace("rounds = 2", "rounds = 3"))
    longer = here(pair, "b")
    assert longer.code == 2
    assert "the fusion after round 2 is not finished" in longer.error
    assert "put rounds = 2 back" in longer.error

    file.write_text(text)
    again = here(pair, "b")
    assert again.code == 0, again.told
    code, out, error = end(first)
    assert code == 0, out + error
    for name in NAMES:
        assert tensors_of(pair, name) == tensors_of(calm, name)


def test_reference_images_that_differ_are_told_before_any_training(pair: Path) -> None:
    file = pair / "b" / "party.toml"
    text = file.read_text()
    other = 'reference = "digits:party=1&parties=2&split=iid&records=96&seed=9"'
    line = next(line for line in text.splitlines() if line.startswith("reference = "))
    file.write_text(text.replace(line, other))
    answer = here(pair, "b")
    assert answer.code == 2
    assert "fusion.reference.digest" in answer.error
    assert "all parties need the same images" in answer.error

    for name in NAMES:  # without a digest in the file, each side fills in that of its own set
        agreement = pair / name / "federation.toml"
        lines = [
            "reference = {}" if line.startswith("reference = ") else line
            for line in agreement.read_text().splitlines()
        ]
        agreement.write_text("\n".join(lines) + "\n")
    (code, _, error), answer = run_both(pair)
    for ended, told in ((code, error), (answer.code, answer.error)):
        assert ended == 2, told
        assert "fusion.reference.digest" in told
    for name in NAMES:
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert folder.history() == []
