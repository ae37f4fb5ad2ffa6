"""[fusion] of both files: what may leave, what it needs, and every contradiction by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splitfed.config import load_party
from splitfed.errors import ConfigError, Fault
from tests.support.files import write_files

NONE = 'mode = "none"'
FROZEN = (
    'mode = "dp-frozen"\nepsilon = 8.0\ndelta = 1e-5\nmax_grad_norm = 1.0\nsample_rate = 0.25\n'
    "steps_per_round = 8"
)
ALL = FROZEN.replace("dp-frozen", "dp-all")
UPDATE = 'mode = "party-update"\nepsilon = 8.0\ndelta = 1e-5\nmax_grad_norm = 1.0'
REFERENCE = {'id = "scans"': 'id = "scans"\nreference = "folder:scans/train"'}


def fused(privacy: str, method: str, more: str = "") -> dict[str, str]:
    reference = "\nreference = { }" if method == "distill" else ""
    return {NONE: f'{privacy}\n[fusion]\nmethod = "{method}"{reference}{more}'}


def faults_of(path: Path) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        load_party(path)
    assert all(fault.cure for fault in caught.value.faults)
    return {fault.key: fault for fault in caught.value.faults}


def test_distillation_needs_images_that_every_party_holds(tmp_path: Path) -> None:
    config = load_party(write_files(tmp_path, federation=fused(NONE, "distill"), party=REFERENCE))
    assert config.federation.fusion.method == "distill"
    assert config.federation.fusion.reference is not None
    assert config.federation.fusion.reference.digest is None  # filled in from the images
    fault = faults_of(write_files(tmp_path, federation=fused(NONE, "distill")))["data.reference"]
    assert "images that every party holds" in fault.cure


@pytest.mark.parametrize("method", ["average", "ensemble"])
def test_private_layers_leave_by_consent_alone(tmp_path: Path, method: str) -> None:
    federation = fused(NONE, method)
    fault = faults_of(write_files(tmp_path, federation=federation))["fusion.release_private"]
    assert "lets the private layers of every party leave" in fault.cure
    no = "\n[fusion]\nrelease_private = false\n"
    assert "fusion.release_private" in faults_of(
        write_files(tmp_path, federation=federation, more=no)
    )
    yes = "\n[fusion]\nrelease_private = true\n"
    config = load_party(write_files(tmp_path, federation=federation, more=yes))
    assert config.fusion.release_private


FAULTS: dict[str, tuple[dict[str, str], dict[str, str] | None, str, str, str]] = {
    "party-update": (
        fused(UPDATE, "distill"), REFERENCE, "", "fusion.method", "would not be covered",
    ),
    "frozen average": (
        fused(FROZEN, "average"), None, "\n[fusion]\nrelease_private = true\n", "fusion.method",
        "fitted without noise",
    ),
    "frozen ensemble": (
        fused(FROZEN, "ensemble"), None, "\n[fusion]\nrelease_private = true\n", "fusion.method",
        "fitted without noise",
    ),
    "frozen without its part": (
        fused(FROZEN, "distill"), REFERENCE, "", "privacy.fusion_epsilon", "such as 2",
    ),
    "a part that nothing reads": (
        fused(ALL + "\nfusion_epsilon = 1.0", "distill"), REFERENCE, "",
        "privacy.fusion_epsilon", "drop it",
    ),
    "a part without fusion": (
        {NONE: FROZEN + "\nfusion_epsilon = 1.0"}, None, "", "privacy.fusion_epsilon", "drop it",
    ),
    "every under noise": (
        fused(ALL, "distill", "\nevery = 2"), REFERENCE, "", "fusion.every", "never learns",
    ),
    "every for averaging": (
        fused(NONE, "average", "\nevery = 2"), None, "\n[fusion]\nrelease_private = true\n",
        "fusion.every", "contradicts",
    ),
    "outputs of untrained layers": (
        {**fused(NONE, "distill", "\nevery = 1"), "seed = 7": 'seed = 7\nalgorithm = "fedbabu"'},
        REFERENCE, "", "fusion.every", "fedbabu",
    ),
    "epochs that nothing reads": (
        {NONE: NONE}, None, "\n[fusion]\nepochs = 2\n", "fusion.epochs", "is not read",
    ),
    "own layers averaged": (
        fused(NONE, "average"), None,
        "\n[fusion]\nrelease_private = true\n[model]\nfactory = 'mine:Net'\n", "model.factory",
        "cannot be averaged",
    ),
    "own layers that others cannot build": (
        fused(NONE, "ensemble"), None,
        "\n[fusion]\nrelease_private = true\n[model]\nfactory = 'mine:Net'\n", "model.factory",
        "make both equal",
    ),
    "a model that nobody builds": (
        {"records = 100\n\n[parties.hospital-b]":
         'records = 100\nmodel = { factory = "mine:Net" }\n\n[parties.hospital-b]'},
        None, "", "parties.hospital-a.model", "ensemble",
    ),
    "outputs of a regression": (
        {**fused(NONE, "distill"), 'classes = ["cat", "dog"]': "classes = []"},
        REFERENCE,
        "\n[training]\nloss = 'mse'\n", "fusion.method", "no classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_each_contradiction_is_named_with_its_cure(tmp_path: Path, case: str) -> None:
    federation, party, more, key, cure = FAULTS[case]
    found = faults_of(write_files(tmp_path, federation=federation, party=party, more=more))
    assert key in found, found
    assert cure in found[key].cure


def test_a_digest_is_64_hexadecimal_digits(tmp_path: Path) -> None:
    federation = {NONE: f'{NONE}\n[fusion]\nmethod = "distill"\nreference = {{ digest = "ab" }}'}
    found = faults_of(write_files(tmp_path, federation=federation, party=REFERENCE))
    assert "64 hexadecimal digits" in found["fusion.reference.digest"].cure


def contract(folder: Path, **changes: Any) -> bytes:
    return load_party(write_files(folder, **changes)).federation.contract_digest


def test_the_contract_covers_all_of_fusion(tmp_path: Path) -> None:
    plain = contract(tmp_path, federation=fused(NONE, "distill"), party=REFERENCE)
    seen = {plain}
    for more in ("\nevery = 2", "\ntemperature = 3.0"):
        seen.add(contract(tmp_path, federation=fused(NONE, "distill", more), party=REFERENCE))
    digest = {NONE: f'{NONE}\n[fusion]\nmethod = "distill"\nreference = {{ size = 9 }}'}
    seen.add(contract(tmp_path, federation=digest, party=REFERENCE))
    assert len(seen) == 4


def test_how_i_learn_from_outputs_is_my_own_business(tmp_path: Path) -> None:
    plain = contract(tmp_path, federation=fused(NONE, "distill"), party=REFERENCE)
    mine = "\n[fusion]\nepochs = 9\nweight = 0.5\n"
    assert plain == contract(
        tmp_path, federation=fused(NONE, "distill"), party=REFERENCE, more=mine
    )
