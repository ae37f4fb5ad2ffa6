"""Building a model from ``package.module:Class``: what is found, what is refused, how it starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from splitfed import lookup
from splitfed.errors import DataError, ModelError
from splitfed.models import ThreeLayerCNN, build, initialise
from splitfed.tensors import digest

CNN = "splitfed.models:ThreeLayerCNN"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Modules imported from a test's folder are forgotten after it."""
    path = list(sys.path)
    yield
    assert sys.path == path
    with lookup.searching(None):
        pass


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


NET = """
    from torch import nn

    class Net(nn.Module):
        shared = ("body",)

        def __init__(self, width: int = {width}) -> None:
            super().__init__()
            self.body = nn.Linear(2, width)
"""


def test_own_and_foreign_classes_are_built_with_their_arguments() -> None:
    own = build(CNN, {"classes": 3, "widths": [4, 4, 4]})
    assert isinstance(own, ThreeLayerCNN)
    assert own.classifier.out_features == 3
    foreign = build("torch.nn:Linear", {"in_features": 2, "out_features": 5})
    assert isinstance(foreign, nn.Linear)
    assert foreign.weight.shape == (5, 2)


def test_a_function_that_returns_a_module_is_a_factory_too() -> None:
    model = build("torchvision.models:resnet18", {"num_classes": 2})
    assert model.fc.out_features == 2


def test_a_class_beside_the_partys_file_is_found_with_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "mynet.py", "from mylayers.blocks import Net\n")
    write(tmp_path, "mylayers/__init__.py", "")
    write(tmp_path, "mylayers/blocks.py", NET.format(width=3))
    assert build("mynet:Net", {}, folder=tmp_path).body.out_features == 3
    assert build("mylayers.blocks:Net", {"width": 7}, folder=tmp_path).body.out_features == 7


def test_a_module_imported_while_building_is_found_too(tmp_path: Path) -> None:
    write(tmp_path, "myparts.py", NET.format(width=4))
    text = "def make():\n    from myparts import Net\n    return Net()\n"
    write(tmp_path, "mylazy.py", text)
    assert build("mylazy:make", {}, folder=tmp_path).body.out_features == 4


def test_two_parties_in_one_process_may_each_have_a_net_py(tmp_path: Path) -> None:
    for party, width in (("a", 3), ("b", 5)):
        write(tmp_path, f"{party}/mynet.py", NET.format(width=width))
    widths = [
        build("mynet:Net", {}, folder=tmp_path / party).body.out_features
        for party in ("a", "b", "a")
    ]
    assert widths == [3, 5, 3]
    (tmp_path / "c").mkdir()
    with pytest.raises(ModelError, match="there is no module 'mynet'"):
        build("mynet:Net", {}, folder=tmp_path / "c")
    with pytest.raises(ModelError, match="no installed package"):
        build("mynet:Net", {})


def test_the_working_directory_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "mynet.py", NET.format(width=3))
    monkeypatch.chdir(tmp_path)
    for first in ("", str(tmp_path)):  # as a notebook and ``python -m`` put it
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [first, *sys.path])
            with pytest.raises(ModelError, match="there is no module 'mynet'"):
                build("mynet:Net", {})
            assert build("mynet:Net", {}, folder=tmp_path).body.out_features == 3
            with lookup.searching(None):
                pass


@pytest.mark.parametrize("name", ["json", "random", "torch", "splitfed"])
def test_a_file_never_shadows_an_installed_module(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"{name}.py", NET.format(width=3))
    with pytest.raises(ModelError, match=rf"'{name}' in .* has the name of another module"):
        build(f"{name}:Net", {}, folder=tmp_path)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("splitfed.models.ThreeLayerCNN", "has no colon"),
        (":Net", "is incomplete"),
        ("splitfed.models:", "is incomplete"),
        ("no_such_package.net:Net", "there is no module 'no_such_package.net'"),
        ("splitfed.models.nothing:Net", "there is no module 'splitfed.models.nothing'"),
        ("torch.nn.modules.deeper:Net", "there is no module 'torch.nn.modules.deeper'"),
        ("splitfed.models:ThreeLayerCnn", "has no 'ThreeLayerCnn'"),
        ("splitfed.models:ThreeLayerCNN.inner", "has no 'ThreeLayerCNN.inner'"),
        ("torch:Tensor", "is the class Tensor, not an nn.Module"),
        ("splitfed.tensors:CHUNK_SIZE", "is a int, not an nn.Module"),
        ("torchvision.models:get_model", "cannot be called"),
        ("json:JSONDecoder", "json is part of Python itself"),
        ("builtins:dict", "builtins is part of Python itself"),
        ("os:getcwd", "os is part of Python itself"),
        ("os.path:join", "os.path is part of Python itself"),
        ("splitfed.lookup:os.getcwd", "leads into another module, os"),
        ("torch:nn.Linear", "leads into another module, torch.nn"),
        ("splitfed.lookup:contextmanager", "contextlib is part of Python itself"),
        ("splitfed.models:ThreeLayerCNN.__init__.__globals__.get", "'__init__' is no name"),
        ("torch:load", "does not say that it returns an nn.Module"),
        ("torch.hub:load", "does not say that it returns an nn.Module"),
    ],
)
def test_a_factory_that_cannot_be_used_says_why(factory: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        build(factory, {})
    assert factory in caught.value.message
    assert caught.value.cure


def test_a_misspelled_class_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ModelError) as caught:
        build("splitfed.models:ThreeLayerCnn", {})
    assert "ThreeLayerCNN" in caught.value.cure


@pytest.mark.parametrize("arguments", [{"clases": 3}, {"channels": 1, "classes": 2, "depth": 9}])
def test_wrong_arguments_show_the_signature(arguments: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument") as caught:
        build(CNN, arguments)
    assert "widths: 'Sequence[int]' = (32, 64, 64)" in caught.value.cure


def test_a_constructor_that_fails_is_named_with_its_arguments() -> None:
    with pytest.raises(ModelError, match=r"fails with \{.*'four'.*TypeError") as caught:
        build("torch.nn:Linear", {"in_features": "four", "out_features": 1})
    assert "in_features: int" in caught.value.cure
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_models_own_complaint_passes_unchanged() -> None:
    with pytest.raises(ModelError, match="^ThreeLayerCNN: activation = 'gelu'"):
        build(CNN, {"activation": "gelu"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_dependency\n", "importing mynet fails: ModuleNotFoundError"),
        ("def (\n", "importing mynet fails: SyntaxError"),
        ("1 / 0\n", "importing mynet fails: ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_to_import_is_told_from_a_missing_one(
    tmp_path: Path, text: str, words: str
) -> None:
    write(tmp_path, "mynet.py", text)
    with pytest.raises(ModelError, match=words):
        build("mynet:Net", {}, folder=tmp_path)
    write(tmp_path, "mynet.py", NET.format(width=31))
    assert build("mynet:Net", {}, folder=tmp_path).body.out_features == 31


def test_a_lookup_raises_the_error_of_its_user() -> None:
    with pytest.raises(DataError, match="^data source 'nothing' has no colon"):
        lookup.find("nothing", folder=None, error=DataError, what="data source")


def test_equal_seeds_start_equal_and_different_seeds_do_not() -> None:
    first, again, other = (digest(initialise(CNN, {}, seed).state_dict()) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_initial_values_do_not_depend_on_the_process_and_do_not_disturb_it() -> None:
    torch.manual_seed(1)
    first = digest(initialise(CNN, {}, 7).state_dict())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert digest(initialise(CNN, {}, 7).state_dict()) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_demos_model_starts_from_these_values_on_every_machine() -> None:
    """A change here breaks the agreement between two versions of splitfed."""
    weight = initialise(CNN, {}, 0).conv1.weight.flatten()[:3].tolist()
    assert weight == pytest.approx([-0.0438810, -0.0742857, 0.0680366], abs=1e-7)
