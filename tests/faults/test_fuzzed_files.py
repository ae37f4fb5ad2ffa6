"""Spoilt files: whatever bytes stand in them, a command ends with an error of its own kind.

Each file is made once, spoilt many times, and read as the commands read it. What is allowed is
to be refused, or to be read as if nothing had happened; an unharmed reading of a harmed ledger
must be of the part that was not harmed.
"""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitfed.config import load_party
from splitfed.errors import (
    ConfigError,
    DataError,
    FolderError,
    LedgerTampered,
    ModelError,
    SplitfedError,
    UserError,
)
from splitfed.models import load_initial, save_initial
from splitfed.report import read_report
from splitfed.serve import read_bundle
from splitfed.serve.facts import decode
from splitfed.store import BUDGET, Budget, RunFolder
from splitfed.store.blobs import BlobStore
from splitfed.store.durable import Disk
from splitfed.tensors import describe
from splitfed.transport.keys import create_secret, load_secret
from tests.serve.making import make_bundle, model, tensors_of
from tests.support.budgets import anything, debit_of, opened
from tests.support.files import FEDERATION, PARTY, write_files
from tests.support.folders import close, new_folder, payload_of, row_of, sign
from tests.support.fuzz import spoilt
from tests.support.reports import sample_report
from tests.support.traps import npz, read_image, read_set

DAMAGE = (FolderError, LedgerTampered)


def refusal(
    read: Callable[[], object], allowed: tuple[type[SplitfedError], ...]
) -> SplitfedError | None:
    """The allowed error that reading ends with, or None; every other exception gets out."""
    try:
        read()
    except allowed as error:
        return error
    return None


def refusals(
    path: Path,
    read: Callable[[], object],
    allowed: tuple[type[SplitfedError], ...],
    *,
    seed: int,
    times: int,
) -> Iterator[SplitfedError]:
    """Spoil the file ``times`` times and read it; gives every refusal, lets all else out."""
    draw, whole = random.Random(seed), path.read_bytes()
    for _ in range(times):
        path.write_bytes(spoilt(draw, whole, (whole,)))
        error = refusal(read, allowed)
        if error is not None:
            yield error
    path.write_bytes(whole)
    read()


def counted(errors: Iterator[SplitfedError], path: Path) -> int:
    """How many there were; each named the file."""
    number = 0
    for error in errors:
        assert path.name in str(error) or str(path.parent) in str(error), error
        number += 1
    return number


# --- configurations ------------------------------------------------------------------------------

WORDS = (
    "[", "]", "{", "}", '"', "'''", "=", ".", ",", "#", "\n", "inf", "nan", "-0", "1e999", "true",
    "1979-05-27T07:32:00Z", "[[x]]", "[parties.c]", "9223372036854775808", "''", "\\u0000", "\t",
    "rounds", "mode", "[privacy]", "none", "dp-all", "fedbabu", "ensemble", "[]", "{}", "[1, 'a']",
)  # fmt: skip


TIMES = {"federation.toml": 150, "party.toml": 200}


def rewritten(draw: random.Random, text: str) -> str:
    """The text with words put in, values swapped, lines moved, or bytes spoilt."""
    lines = text.splitlines()
    settings = [place for place, line in enumerate(lines) if "=" in line]
    match draw.randrange(5):
        case 0 if settings:
            return spoilt(draw, text.encode(), (text.encode(),)).decode("latin-1")
        case 1 if settings:  # another value
            place = draw.choice(settings)
            key = lines[place].partition("=")[0]
            other = lines[draw.choice(settings)].partition("=")[2]
            lines[place] = f"{key}={draw.choice((other, draw.choice(WORDS)))}"
        case 2 if settings:  # one line less
            del lines[draw.randrange(len(lines))]
        case 3 if settings:  # one line elsewhere
            lines.insert(draw.randrange(len(lines)), lines.pop(draw.randrange(len(lines))))
        case _:
            place = draw.randrange(len(text) + 1)
            return text[:place] + draw.choice(WORDS) + text[place + draw.randrange(3) :]
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["federation.toml", "party.toml"])
def test_a_spoilt_configuration_has_faults_and_nothing_else(tmp_path: Path, name: str) -> None:
    party = write_files(tmp_path)
    valid = FEDERATION if name == "federation.toml" else PARTY
    draw, refused = random.Random(name), 0
    for _ in range(TIMES[name]):
        text = valid
        for _ in range(draw.choice((1, 1, 2, 4))):
            text = rewritten(draw, text)
        (tmp_path / name).write_text(text, encoding="utf-8", errors="replace")
        error = refusal(lambda: load_party(party), (ConfigError,))
        if error is not None:
            assert 0 < len(str(error)) < 100_000
            refused += 1
    assert refused > TIMES[name] // 2


# Found by the test above, each once an exception of another kind.
LONG = "x" * 5_000
ONCE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a mode that is a list": ({'mode = "none"': "mode = []"}, {}),
    "images of a name too long for any file": (
        {},
        {'test = "folder:scans/test"': f'test = "folder:{LONG}"'},
    ),
    "a secret of such a name": (
        {},
        {'secret_key = "secret.json"': f'secret_key = "{LONG}"'},
    ),
    "an agreement of such a name": (
        {},
        {'federation = "federation.toml"': f'federation = "{LONG}"'},
    ),
}


@pytest.mark.parametrize(("federation", "party"), ONCE.values(), ids=ONCE)
def test_a_configuration_that_once_crashed_is_a_fault(
    tmp_path: Path, federation: dict[str, str], party: dict[str, str]
) -> None:
    with pytest.raises(ConfigError):
        load_party(write_files(tmp_path, federation=federation, party=party))


def test_a_spoilt_secret_is_refused_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    secret = json.loads(path.read_text())
    errors = refusals(path, lambda: load_secret(path), (UserError,), seed=1, times=400)
    number = 0
    for error in errors:
        assert secret["curve_secret"] not in str(error)
        assert secret["signing_secret"] not in str(error)
        number += 1
    assert number > 300


# --- data ----------------------------------------------------------------------------------------


def test_a_spoilt_archive_of_arrays_is_refused_or_read(tmp_path: Path) -> None:
    images, labels = io.BytesIO(), io.BytesIO()
    np.save(images, np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28))
    np.save(labels, np.array([0, 1], np.uint8))
    path = npz(tmp_path / "set.npz", train_images=images.getvalue(), train_labels=labels.getvalue())
    errors = refusals(path, lambda: read_set(path), (DataError,), seed=2, times=700)
    assert counted(errors, path) > 300


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_spoilt_picture_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"scan.{kind.lower()}"
    blot = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(blot).save(path, kind)
    whole = path.read_bytes()
    draw, refused = random.Random(kind), 0
    for _ in range(150):
        path.write_bytes(spoilt(draw, whole, (whole,)))
        error = refusal(lambda: read_image(path), (DataError,))
        if error is not None:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


# --- tensors and bundles -------------------------------------------------------------------------


def test_spoilt_initial_tensors_are_refused_or_finite(tmp_path: Path) -> None:
    path, tensors = tmp_path / "initial.safetensors", tensors_of(model())
    save_initial(path, tensors)
    specs = describe(tensors)

    def read() -> None:
        assert describe(load_initial(path, specs)) == specs

    assert counted(refusals(path, read, (ModelError,), seed=3, times=300), path) > 100


def test_a_spoilt_bundle_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(
        tmp_path / "a",
        members={"local_only": model(3)},
        models={"partial": ["kept"], "local_only": ["local_only"]},
    )
    for name in ("model.json", "model.safetensors", "members.safetensors"):
        path = folder / name
        errors = refusals(path, lambda: read_bundle(folder), (FolderError,), seed=4, times=25)
        assert counted(errors, path) >= 24, name  # one may have put a byte in its own place


def test_spoilt_facts_are_refused_even_where_nobody_compares_a_digest(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "a") / "model.json"
    whole, draw, refused = path.read_bytes(), random.Random(5), 0
    for _ in range(1_500):
        try:
            decode(path, spoilt(draw, whole, (whole,)))
        except FolderError:
            refused += 1
    assert refused > 300


def test_a_spoilt_report_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(sample_report()))
    errors = refusals(path, lambda: read_report(tmp_path), (FolderError,), seed=6, times=300)
    assert counted(errors, path) > 100


# --- run folders ---------------------------------------------------------------------------------


def lived_in(path: Path) -> Path:
    """A run folder with two closed rounds, releases, a vote and a payload of a peer."""
    with new_folder(path) as folder:
        folder.fix_run(b"r" * 32, {"b": b"f" * 16})
        for round in (1, 2):
            manifest, payload = payload_of(round)
            folder.release(
                row_of(manifest, round), payload, manifest, debit=lambda: None, sign=sign
            )
            close(folder, round)
    return path


def look(path: Path) -> list[Any]:
    """What the commands read of it."""
    with RunFolder.read_only(path) as view:
        found: list[Any] = [view.verify(), len(view.ledger), view.party, view.closed()]
        found += [view.history(), view.boot, view.contract, view.run, view.ending, view.status()]
        checkpoint = view.checkpoint()
        found += [None if checkpoint is None else checkpoint.round, view.votes(1), view.inputs(1)]
        rows = view.ledger.rows()  # signatures are for `verify`, which knows the keys
        found += [view.evidence(), [(it.number, it.row, it.previous, it.head) for it in rows]]
    return found


@pytest.mark.parametrize("opening", ["reading", "running"])
def test_a_spoilt_ledger_is_damage_or_tampering(tmp_path: Path, opening: str) -> None:
    logging.getLogger("splitfed.store").setLevel(logging.ERROR)
    whole = lived_in(tmp_path / "whole")
    content = (whole / "ledger.sqlite").read_bytes()
    draw, refused = random.Random(opening), 0
    folder = tmp_path / "spoilt"
    shutil.copytree(whole, folder)
    for _ in range(250):
        for rest in folder.glob("ledger.sqlite*"):
            rest.unlink()
        (folder / "ledger.sqlite").write_bytes(flipped(draw, content))

        def read() -> None:
            if opening == "running":
                new_folder(folder).close()
            look(folder)

        error = refusal(read, DAMAGE)
        if error is not None:
            assert error.cure
            refused += 1
    assert refused > 60


def flipped(draw: random.Random, content: bytes) -> bytes:
    """Some bytes changed where there are any, or spoilt as other files are."""
    if draw.random() < 0.3:
        return spoilt(draw, content, (content,))
    data = bytearray(content)
    used = [place for place, byte in enumerate(content) if byte]
    for _ in range(draw.choice((1, 1, 3, 10))):
        data[draw.choice(used)] = draw.randrange(256)
    return bytes(data)


def test_a_changed_byte_in_a_ledger_row_is_never_read_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    path = lived_in(tmp_path / "a") / "ledger.sqlite"
    before = look(tmp_path / "a")
    with RunFolder.read_only(tmp_path / "a") as view:
        heads = [entry.head for entry in view.ledger.rows()]
        fields = [part for entry in view.ledger.rows() for part in (entry.row.root, entry.head)]
    content = path.read_bytes()
    for field in (*heads, *fields):
        for place in [at for at in range(len(content)) if content.startswith(field, at)]:
            data = bytearray(content)
            data[place + 7] ^= 1
            path.write_bytes(data)
            try:
                assert look(tmp_path / "a") == before  # another table's copy of the value
            except DAMAGE:
                continue
    path.write_bytes(content)
    assert look(tmp_path / "a") == before


def test_a_spoilt_budget_is_damage_or_tampering(tmp_path: Path) -> None:
    path = tmp_path / BUDGET
    with opened(path) as budget:
        for round in range(1, 5):
            budget.spend(debit_of(round), anything)
    whole = Budget.read(path, "chest")
    content, draw, refused = path.read_bytes(), random.Random(7), 0
    for _ in range(300):
        for rest in tmp_path.glob(f"{BUDGET}*"):
            rest.unlink()
        path.write_bytes(flipped(draw, content))
        try:
            # A budget that is read at all says all that was spent, or less of another data set.
            assert Budget.read(path, "chest") in (whole, ())
        except DAMAGE:
            refused += 1
    assert refused > 100


def test_a_spoilt_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    logging.getLogger("splitfed.store").setLevel(logging.ERROR)
    folder = lived_in(tmp_path / "a")
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    whole, draw = newest.read_bytes(), random.Random(8)
    for _ in range(60):
        content = spoilt(draw, whole, (whole,))
        newest.write_bytes(content)
        with RunFolder.read_only(folder) as view:
            found = view.checkpoint()
        assert found is not None
        assert found.round == (2 if content == whole else 1)


def test_a_spoilt_payload_is_never_given_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, "restore it", Disk())
    manifest, payload = payload_of(3, size=64)
    store.put(manifest, payload)
    path = tmp_path / manifest.root.hex()

    def read() -> None:
        assert store.get(manifest.root) == payload
        assert store.check(manifest.root)

    assert counted(refusals(path, read, (LedgerTampered,), seed=9, times=500), path) > 480
