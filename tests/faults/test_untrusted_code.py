"""Code: only of installed packages and of the party's own folder, whatever a file names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from splitfed import lookup
from splitfed.errors import DataError, ModelError
from splitfed.models import build
from splitfed.serve import read_bundle, write_bundle
from splitfed.serve.trust import is_own, party_file_of
from tests.serve.making import facts, make_bundle
from tests.support.commands import answer_to
from tests.support.files import write_files
from tests.support.folders import new_folder
from tests.support.pictures import write_pictures

NET = """
    import torch
    from pathlib import Path

    Path(__file__).with_suffix(".ran").touch()

    class Net(torch.nn.Linear):
        pass

    def made(width=3):
        return Net(2, width)

    def set_of(part):
        raise AssertionError("code of others ran")
"""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    with lookup.searching(None):
        pass


def code_in(folder: Path) -> Path:
    """A folder with a module that leaves a mark when it runs; returns the mark's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strange_net.py").write_text(dedent(NET), encoding="utf-8")
    (folder / "hubconf.py").write_text("from strange_net import made\n", encoding="utf-8")
    return folder / "strange_net.ran"


def bundle(path: Path, code: Path | None) -> Path:
    with new_folder(path, party="hospital-a") as opened:
        write_bundle(
            opened,
            facts(
                factory="strange_net:Net",
                arguments={"in_features": 2, "out_features": 3},
                code=None if code is None else str(code),
            ),
            {"weight": torch.zeros(3, 2), "bias": torch.ones(3)},
        )
    return path


# --- factories -----------------------------------------------------------------------------------

COMMANDS = {
    "os:system": {"command": "touch {mark}"},
    "subprocess:run": {"args": ["touch", "{mark}"]},
    "subprocess:check_output": {"args": ["touch", "{mark}"]},
    "runpy:run_path": {"path_name": "{script}"},
    "importlib:import_module": {"name": "strange_net"},
    "shutil:rmtree": {"path": "{script}"},
    "posix:system": {"command": "touch {mark}"},
    "torch:os.system": {"command": "touch {mark}"},
    "splitfed.lookup:os.system": {"command": "touch {mark}"},
    "splitfed.cli.guard:traceback.linecache.os.system": {"command": "touch {mark}"},
    "torch.hub:load": {"repo_or_dir": "{folder}", "model": "made", "source": "local"},
    "torch:load": {"f": "{script}", "weights_only": False},
    "numpy:load": {"file": "{script}", "allow_pickle": True},
    "torch.utils.cpp_extension:load": {"name": "x", "sources": ["{script}"]},
    "torch:save": {"obj": [], "f": "{mark}"},
    "torch.utils.data:get_worker_info": {},
    # Says that it returns an nn.Module, and runs the text that it is given.
    "torch.fx.graph_module:reduce_graph_module": {
        "import_block": "open('{mark}', 'w').close()\n",
        "body": {"_code": "def forward(self, x):\n    return x\n"},
    },
}


@pytest.mark.parametrize("factory", COMMANDS)
def test_no_factory_of_an_agreement_is_a_command(tmp_path: Path, factory: str) -> None:
    """Whoever writes the agreement also chooses the arguments."""
    mark = code_in(tmp_path / "elsewhere")
    script = mark.with_suffix(".py")
    fill = {"{mark}": str(mark), "{script}": str(script), "{folder}": str(mark.parent)}

    def filled(value: object) -> object:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if isinstance(value, str):
            for key, path in fill.items():
                value = value.replace(key, path)
        return value

    arguments = {key: filled(value) for key, value in COMMANDS[factory].items()}
    before = script.read_bytes()
    with pytest.raises(ModelError):
        build(factory, arguments, folder=tmp_path)
    assert not mark.exists()
    assert script.read_bytes() == before


def test_a_function_beside_the_partys_file_needs_no_annotation(tmp_path: Path) -> None:
    code_in(tmp_path)
    assert build("strange_net:made", {"width": 5}, folder=tmp_path).weight.shape == (5, 2)


def test_a_data_source_is_no_command_either(tmp_path: Path) -> None:
    for reference in ("os:system", "subprocess:run", "torch:os.system"):
        with pytest.raises(DataError, match="part of Python itself|leads into another module"):
            lookup.find(reference, folder=tmp_path, error=DataError, what="data source")


@pytest.mark.parametrize("path", ["", "{here}", ":{here}", "{here}:"])
def test_no_oddity_of_pythonpath_makes_the_working_directory_a_place_of_code(
    tmp_path: Path, path: str
) -> None:
    """An empty part of PYTHONPATH means the working directory, which nobody meant."""
    mark = code_in(tmp_path)
    script = (
        "from splitfed.errors import ModelError\nfrom splitfed import lookup\n"
        "try:\n"
        "    lookup.find('strange_net:Net', folder=None, error=ModelError, what='factory')\n"
        "except ModelError as error:\n"
        "    print(error.message)\n"
    )
    root = str(Path(lookup.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": f"{path.format(here=tmp_path)}:{root}"}
    for how in (["-c", script], ["-m", "runs_it"]):
        (tmp_path / "runs_it.py").write_text(script)
        found = subprocess.run(
            [sys.executable, *how], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        assert "there is no module 'strange_net'" in found.stdout
    assert not mark.exists()


# --- bundles -------------------------------------------------------------------------------------


def test_a_bundle_brings_no_code_of_its_own(tmp_path: Path) -> None:
    marks = [code_in(tmp_path / "sent"), code_in(tmp_path / "sent" / "a")]
    folder = bundle(tmp_path / "sent" / "a", tmp_path / "sent" / "a")
    with pytest.raises(ModelError, match="there is no module 'strange_net'") as refused:
        read_bundle(folder)
    assert "--code" in refused.value.cure
    assert not any(mark.exists() for mark in marks)


@pytest.mark.parametrize("place", ["other", "sent/a/code", "sent/a", "."])
def test_a_folder_that_only_the_bundle_names_is_not_searched(tmp_path: Path, place: str) -> None:
    code = tmp_path / place
    mark = code_in(code)
    folder = bundle(tmp_path / "sent" / "deep" / "a", code)
    with pytest.raises(ModelError, match="there is no module 'strange_net'"):
        read_bundle(folder)
    answer = answer_to("predict", folder, tmp_path / "x.png")
    assert answer.code == 2
    assert "--code" in answer.told
    assert not mark.exists()
    assert type(read_bundle(folder, code).models["partial"][0]).__name__ == "Net"
    assert mark.exists()


def test_ones_own_run_folder_finds_the_code_beside_party_toml(tmp_path: Path) -> None:
    code_in(tmp_path)
    folder = bundle(tmp_path / "runs" / "hospital-a", tmp_path)
    assert type(read_bundle(folder).models["partial"][0]).__name__ == "Net"


def test_a_folder_that_everybody_can_write_is_not_ones_own(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    assert is_own(run, tmp_path)
    tmp_path.chmod(0o777)
    assert not is_own(run, tmp_path)
    tmp_path.chmod(0o700)
    assert not is_own(run, tmp_path.parent)
    assert not is_own(run, run)
    (tmp_path / "link").symlink_to(run)
    assert is_own(tmp_path / "link", tmp_path)  # where it really lies


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"party_file": 7}', "[" * 60_000, "x" * 70_000])
def test_a_run_that_does_not_say_how_it_was_started_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "started.json").write_text(text)
    assert party_file_of(tmp_path) is None


def test_a_run_folder_of_others_runs_no_data_source(tmp_path: Path) -> None:
    """started.json names a party.toml, and that names a function."""
    mark = code_in(tmp_path / "home")
    write_pictures(tmp_path / "home" / "scans")
    source = {'train = "folder:scans/train"': 'train = "strange_net:set_of"'}
    party = write_files(tmp_path / "home", party=source)
    sent = make_bundle(tmp_path / "sent")
    (sent / "started.json").write_text(json.dumps({"party_file": str(party)}))
    answer = answer_to("export", sent, "--format", "torch-export")
    assert answer.code == 2
    assert "reads images with code (strange_net:set_of)" in answer.told
    assert not mark.exists()


# --- plan ----------------------------------------------------------------------------------------


def test_plan_says_whose_code_it_ran_and_whose_run_will(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    home = tmp_path / "a"
    mark = code_in(home)
    made = answer_to(
        "init", home, "--name", "trial", "--party", "a", "--data", tmp_path / "pictures",
        "--address", "tcp://127.0.0.1:7001", "--privacy", "none",
    )  # fmt: skip
    assert made.code == 0, made.told
    joined = answer_to(
        "init", tmp_path / "b", "--join", home / "federation.toml", "--party", "b",
        "--data", tmp_path / "pictures",
    )  # fmt: skip
    assert joined.code == 0, joined.told
    text = (tmp_path / "b" / "federation.toml").read_text()
    before = next(line for line in text.splitlines() if line.startswith("factory"))
    (home / "federation.toml").write_text(text.replace(before, 'factory = "own_net:Own"'))
    (home / "own_net.py").write_text(
        "from splitfed.models import ThreeLayerCNN\n\n\nclass Own(ThreeLayerCNN):\n    pass\n"
    )
    party = home / "party.toml"
    lines = party.read_text().splitlines()
    lines = ['train = "strange_net:set_of"' if x.startswith("train") else x for x in lines]
    party.write_text("\n".join(lines))

    answer = answer_to("plan", party)
    assert answer.code == 0, answer.told
    assert "factory runs code: own_net:Own was just run on this machine" in answer.out
    assert f"from {home / 'own_net.py'}" in answer.out
    assert "`run` also runs data.train = strange_net:set_of" in answer.out
    assert f"code comes from installed packages and from {home} alone" in answer.out
    assert not mark.exists()  # a plan reads no labelled image
    found = json.loads(answer_to("plan", party, "--json").out)
    assert found["code"] == {
        "folder": str(home),
        "files": {"own_net:Own": str(home / "own_net.py")},
        "images": {"data.train": "strange_net:set_of"},
    }
