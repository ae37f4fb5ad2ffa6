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
from tests.run.test_two_processes import NAMES, end, report, start
from tests.support.ports import free_port


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two party folders with one agreement of two rounds and a fusion by outputs."""

    def newcomer(index: int, address: str | None) -> Newcomer:
        source = f"digits:party={index}&parties=2&split=iid&records=96"
        return Newcomer(
            party=NAMES[index],
            address=address,
            records=96,
            sources=sources_of(source, tmp_path, reference=source),
            acceptance=True,
        )

    proposal = Proposal(name="pair", classes=DIGITS, rounds=2, privacy="none")
    address = f"tcp://127.0.0.1:{free_port()}"
    made = found(tmp_path / "a", proposal, newcomer(0, address))
    joined = join(tmp_path / "b", made.federation_file, newcomer(1, None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return tmp_path


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


def test_two_processes_fuse_a_fresh_one_predicts_offline_and_damage_is_mended(pair: Path) -> None:
    for process in [start(pair, name) for name in NAMES]:
        code, out, error = end(process)
        assert code == 0, out + error
    for name in NAMES:
        found_report = report(pair, name)
        fusion = found_report["fusion"]
        assert (fusion["outcome"], fusion["parties"]) == ("fused", ["a", "b"])
        assert fusion["payload_bytes"] == fusion["reference_size"] * 10 * 4
        assert found_report["evaluation"]["fused"]["accuracy"] is not None
        assert found_report["verdict"]["compared"] in ("fused", "partial")
        assert [row["round"] for row in found_report["history"]] == [1, 2]
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert [row.row.kind for row in folder.ledger.rows()] == ["update", "update", "outputs"]

    digits = all_digits()
    images = []
    for place in (3, 777):
        path = pair / f"{place}.png"
        Image.fromarray(digits[place][:784].reshape(28, 28)).save(path)
        images.append(str(path))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            OFFLINE,
            "predict",
            str(pair / "a" / "runs" / "a"),
            *images,
            "--json",
        ],
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

    model = pair / "a" / "runs" / "a" / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:100])  # damaged: written anew, without the peer
    code, out, error = end(start(pair, "a"))
    assert code == 0, out + error
    assert model.read_bytes() == whole


def test_a_party_killed_while_it_fuses_ends_with_the_same_bytes(pair: Path) -> None:
    calm = pair.parent / "calm"
    shutil.copytree(pair, calm)
    for process in [start(calm, name) for name in NAMES]:
        assert end(process)[0] == 0
    first, second = start(pair, "a"), start(pair, "b")
    assert second.stdout is not None
    for line in second.stdout:
        if "fusing" in line or "exchanging outputs" in line:
            break
    second.send_signal(signal.SIGKILL)
    second.communicate()
    code, out, error = end(start(pair, "b"))
    assert code == 0, out + error
    assert end(first)[0] == 0
    for name in NAMES:
        assert tensors_of(pair, name) == tensors_of(calm, name)


def test_rounds_are_not_added_while_a_fusion_is_open(pair: Path) -> None:
    """What was released for the fusion would be paid for without being planned."""
    first, second = start(pair, "a"), start(pair, "b")
    assert second.stdout is not None
    for line in second.stdout:
        if "exchanging outputs" in line or "fitting" in line:
            break
    for process in (second, first):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with RunFolder.read_only(pair / "b" / "runs" / "b") as folder:
        assert [row.get("kind") for row in folder.history()] == ["update", "update"]
    file = pair / "b" / "federation.toml"
    text = file.read_text()
    file.write_text(text.replace("rounds = 2", "rounds = 3"))
    code, _, error = end(start(pair, "b"))
    assert code == 2
    assert "the fusion after round 2 is not finished" in error
    assert "put rounds = 2 back" in error


def test_reference_images_that_differ_are_told_before_any_training(pair: Path) -> None:
    file = pair / "b" / "party.toml"
    text = file.read_text()
    other = 'reference = "digits:party=1&parties=2&split=iid&records=96&seed=9"'
    line = next(line for line in text.splitlines() if line.startswith("reference = "))
    file.write_text(text.replace(line, other))
    code, _, error = end(start(pair, "b"))
    assert code == 2
    assert "fusion.reference.digest" in error
    assert "all parties need the same images" in error

    for name in NAMES:  # without a digest in the file, each side fills in that of its own set
        agreement = pair / name / "federation.toml"
        lines = [
            "reference = {}" if line.startswith("reference = ") else line
            for line in agreement.read_text().splitlines()
        ]
        agreement.write_text("\n".join(lines) + "\n")
    for process in [start(pair, name) for name in NAMES]:
        code, out, error = end(process)
        assert code == 2, out + error
        assert "fusion.reference.digest" in error
    for name in NAMES:
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert folder.history() == []
