"""Files from others: refused by name, with a cure, before they cost memory, time or a secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from splitfed.config import load_federation, load_party
from splitfed.data import Preprocessing
from splitfed.errors import ConfigError, DataError, FolderError, ModelError, UserError
from splitfed.models import load_initial
from splitfed.reading import read_plain
from splitfed.report import read_report
from splitfed.serve import check_files, read_bundle
from splitfed.store import RunFolder
from splitfed.transport.keys import load_secret
from splitfed.types import TensorSpec
from tests.serve.making import make_bundle, model
from tests.support.commands import answer_to
from tests.support.files import FEDERATION, spoilt, write_files
from tests.support.folders import new_folder
from tests.support.traps import (
    MIB,
    PLACES,
    Trap,
    frugal,
    npy,
    png,
    read_image,
    read_set,
    safetensors,
    zeros,
)

# --- what stands where a file should be ----------------------------------------------------------


def _federation(path: Path) -> object:
    return load_federation(path)


def _party(path: Path) -> object:
    return load_party(path)


def _initial(path: Path) -> object:
    return load_initial(path, (TensorSpec("w", (4,), "float32"),))


def _facts(path: Path) -> object:
    return check_files(path.parent)


def _report(path: Path) -> object:
    return read_report(path.parent)


def _secret(path: Path) -> object:
    return load_secret(path)


READERS = {
    "federation.toml": (_federation, ConfigError),
    "party.toml": (_party, ConfigError),
    "initial.safetensors": (_initial, ModelError),
    "set.npz": (read_set, DataError),
    "scan.png": (read_image, DataError),
    "model.json": (_facts, FolderError),
    "report.json": (_report, FolderError),
    "secret.json": (_secret, UserError),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("trap", PLACES.values(), ids=PLACES)
def test_what_is_no_plain_file_of_a_sane_size_is_refused(
    tmp_path: Path, name: str, trap: Trap
) -> None:
    read, error = READERS[name]
    trap(tmp_path / name)
    with frugal(), pytest.raises(error) as refused:
        read(tmp_path / name)
    assert name in str(refused.value)


@pytest.mark.parametrize("file", ["model.safetensors", "members.safetensors"])
@pytest.mark.parametrize("trap", PLACES.values(), ids=PLACES)
def test_tensors_of_a_bundle_are_a_plain_file(tmp_path: Path, file: str, trap: Trap) -> None:
    folder = make_bundle(
        tmp_path / "a",
        members={"local_only": model(3)},
        models={"partial": ["kept"], "local_only": ["local_only"]},
    )
    (folder / file).unlink()
    trap(folder / file)
    with frugal(), pytest.raises(FolderError, match=file):
        read_bundle(folder)


@pytest.mark.parametrize("trap", PLACES.values(), ids=PLACES)
def test_a_status_that_is_no_plain_file_is_no_status(tmp_path: Path, trap: Trap) -> None:
    new_folder(tmp_path / "a").close()
    (tmp_path / "a" / "status.json").unlink(missing_ok=True)
    trap(tmp_path / "a" / "status.json")
    assert RunFolder.read_status(tmp_path / "a") is None


def test_a_file_that_grows_while_it_is_read_is_still_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    assert read_plain(path, 100) == bytes(100)
    for place in (Path("/proc/self/maps"), Path("/proc/kallsyms")):  # they say that they are empty
        if place.is_file() and os.access(place, os.R_OK):
            with pytest.raises(OSError, match="larger than 10 bytes"):
                read_plain(place, 10)
            return


# --- the two files of the configuration ----------------------------------------------------------

CONFIGS = {
    "nested lists": ("a = " + "[" * 20_000 + "]" * 20_000, "nested"),
    "nested tables": ("a = " + "{a = " * 500 + "1" + "}" * 500, "nested"),
    "dotted key": (".".join("a" * 100_000) + " = 1", "nested"),
    "dotted header": ("[" + ".".join("a" * 100_000) + "]", "nested"),
    "quoted dotted key": (".".join(['"a b"'] * 50_000) + " = 1", "nested"),
    "dotted value": ("x = {" + " . ".join("a" * 50_000) + " = 1}", "nested"),
    "too many keys": ("\n".join(f"k{i} = 1" for i in range(20_000)), "more than 10000 keys"),
    "huge decimal": ("rounds = " + "9" * 5_000, "a number or date"),
    "huge hexadecimal": ("rounds = 0x" + "f" * 50_000, "rounds: is beyond 64 bits"),
    "impossible date": ("rounds = 2024-02-31", "number or date|is no|mend"),
    "null byte": ('name = "a\\u0000b"', "name: holds a null byte"),
    "null byte in a key": ('"a\\u0000b" = 1', "null byte"),
    "no UTF-8": (b"name = '\xff\xfe'", "is no UTF-8"),
    "a lone surrogate": (b"name = '\xed\xa0\x80'", "is no UTF-8"),
    "too large": ("#" * (2 * MIB), "is larger than 1 MiB"),
}


@pytest.mark.parametrize(("content", "told"), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", ["federation.toml", "party.toml"])
def test_a_configuration_beyond_any_use_is_one_fault(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with frugal(), pytest.raises(ConfigError, match=told) as refused:
        (load_federation if name == "federation.toml" else load_party)(path)
    assert name in str(refused.value)
    assert len(str(refused.value)) < 10_000


def test_an_argument_beyond_64_bits_is_named(tmp_path: Path) -> None:
    text = spoilt(FEDERATION, {"widths = [4, 4, 4]": f"widths = [4, {2**70}]"})
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"model\.arguments\.widths: is beyond 64 bits"):
        load_federation(tmp_path / "federation.toml")


def test_an_image_size_that_no_memory_holds_is_a_fault(tmp_path: Path) -> None:
    text = spoilt(FEDERATION, {"size = [28, 28]": "size = [28, 100000000]"})
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"preprocessing\.size.*8192 at most"):
        load_federation(tmp_path / "federation.toml")
    with pytest.raises(DataError, match="8192 at most"):
        Preprocessing(channels=1, size=(28, 100_000_000))


def test_60_000_classes_are_compared_in_time_that_grows_with_their_number(tmp_path: Path) -> None:
    names = ", ".join(f'"c{number}"' for number in range(60_000))
    text = spoilt(FEDERATION, {'classes = ["cat", "dog"]': f'classes = [{names}, "c7"]'})
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError, match="named twice"):
        load_federation(tmp_path / "federation.toml")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "{home}/inside", "../outside", "sub/../inside", "link"]
)
def test_an_agreement_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    """The digest of the file it names goes to the peer."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"secret")
    (home / "link").symlink_to(tmp_path / "outside")
    path = home / "federation.toml"
    path.write_text(
        spoilt(FEDERATION, {"shared =": f'initial = "{name.format(home=home)}"\nshared ='})
    )
    (home / "inside").write_bytes(b"public")
    with pytest.raises(ConfigError, match=r"model\.initial = .*leads out of"):
        load_federation(path)
    path.write_text(spoilt(FEDERATION, {"shared =": 'initial = "inside"\nshared ='}))
    assert load_federation(path).model.initial is not None


@pytest.mark.parametrize("name", ["x" * 5_000, "a/b/c", "sub", "pipe"])
def test_an_initial_file_that_no_file_can_be_is_a_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "federation.toml"
    path.write_text(spoilt(FEDERATION, {"shared =": f'initial = "{name}"\nshared ='}))
    with pytest.raises(ConfigError, match=r"model\.initial"):
        load_federation(path)


def test_a_secret_of_nested_lists_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_bytes(b"[" * 4_000)
    path.chmod(0o600)
    with pytest.raises(UserError, match="not a secret file"):
        load_secret(path)


# --- tensors -------------------------------------------------------------------------------------

W = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
TENSORS = {
    "overlapping": (safetensors({"w": W, "x": W}, bytes(16)), "not a safetensors file"),
    "beyond the end": (safetensors({"w": W}, bytes(8)), "not a safetensors file"),
    "more than said": (safetensors({"w": W}, bytes(24)), "not a safetensors file"),
    "shape overflows": (
        safetensors({"w": {**W, "shape": [1 << 62, 1 << 62]}}, bytes(16)),
        "not a safetensors file",
    ),
    "negative offset": (
        safetensors({"w": {**W, "data_offsets": [-16, 0]}}, bytes(16)),
        "not a safetensors file",
    ),
    "header of 4 MiB": (safetensors(b"{" + b" " * (4 * MIB) + b"}"), "is larger than"),
    "header beyond the file": (b"\xff" * 8 + b"{}", "not a safetensors file"),
    "nested header": (safetensors(b'{"w":' + b"[" * 100_000), "not a safetensors file"),
    "half bytes": (safetensors({"w": {**W, "dtype": "F4", "shape": [32]}}, bytes(16)), "not a"),
    "no known type": (safetensors({"w": {**W, "dtype": "Q8"}}, bytes(16)), "not a safetensors"),
    "another shape": (safetensors({"w": {**W, "shape": [2, 2]}}, bytes(16)), "the model has"),
    "a path": (safetensors({"../w": W}, bytes(16)), "tensor w is missing"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "not a safetensors file"),
}


@pytest.mark.parametrize(("content", "told"), TENSORS.values(), ids=TENSORS)
def test_initial_tensors_that_lie_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "initial.safetensors"
    path.write_bytes(content)
    with frugal(), pytest.raises(ModelError, match=told) as refused:
        _initial(path)
    assert str(path) in str(refused.value)


# --- what a person sees --------------------------------------------------------------------------


def test_a_stranger_s_files_end_a_command_with_2_and_no_traceback(tmp_path: Path) -> None:
    party = write_files(tmp_path)
    (tmp_path / "federation.toml").write_text("a = " + "[" * 20_000)
    answers = [answer_to("plan", party)]
    folder = make_bundle(tmp_path / "a")
    (folder / "report.json").write_text("[" * 100_000)
    answers += [answer_to("report", folder), answer_to("evaluate", folder)]
    (folder / "x.png").write_bytes(png(60_000, 60_000, zeros(28 * 29)))
    (folder / "x.npy").write_bytes(npy((1 << 40,)))
    answers += [answer_to("predict", folder, folder / f"x.{kind}") for kind in ("png", "npy")]
    text = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**text, "more": int("9" * 4000)}) * 2)
    answers.append(answer_to("predict", folder, folder / "x.png"))
    for answer in answers:
        assert answer.code == 2, answer.told
        assert "Traceback" not in answer.told
        assert "cure:" in answer.told or "fault" in answer.told
