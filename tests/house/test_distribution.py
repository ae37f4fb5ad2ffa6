"""What is built from the checkout works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
FOLDERS = ("splitfed", "models", "transport")
CLUTTER = ("__pycache__", "*.egg-info", "*.pyc")


def run(*command: object, cwd: Path, **extra: str) -> str:
    """The standard output of ``command``; its whole output in the failure otherwise."""
    answer = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def build_wheel(tree: Path, into: Path) -> Path:
    run(
        sys.executable, "-m", "pip", "wheel", tree, "--no-deps", "--no-build-isolation",
        "--quiet", "--disable-pip-version-check", "--wheel-dir", into, cwd=into,
    )  # fmt: skip
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def clean_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, so that no build folder appears in the checkout."""
    tree = tmp_path_factory.mktemp("tree")
    for name in FOLDERS:
        ignore = shutil.ignore_patterns(*CLUTTER)
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    for name in SOURCES:
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def wheel(clean_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(clean_tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel_of_sdist(clean_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, folder, cwd=clean_tree)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = (path for path in folder.iterdir() if path.is_dir())
    return build_wheel(tree, tmp_path_factory.mktemp("wheel-of-sdist"))


def code_in(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name
        }


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    expected = {}
    for folder, inside in (("splitfed", ""), ("models", "splitfed/"), ("transport", "splitfed/")):
        for path in (ROOT / folder).rglob("*"):
            steps = path.relative_to(ROOT)
            linked = any((ROOT / part).is_symlink() for part in [steps, *steps.parents])
            if path.is_file() and not linked and "__pycache__" not in steps.parts:
                expected[inside + steps.as_posix()] = path.read_bytes()
    assert sorted(code_in(wheel)) == sorted(expected)
    assert code_in(wheel) == expected


def test_sdist_builds_the_same_wheel(wheel: Path, wheel_of_sdist: Path) -> None:
    assert code_in(wheel_of_sdist) == code_in(wheel)


@pytest.mark.parametrize("built", ["wheel", "wheel_of_sdist"])
def test_built_package_works_outside_the_checkout(
    built: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """An environment with splitfed from the wheel and everything else from this one.

    A ``.pth`` line puts this environment's site-packages on the path of the new one without
    running the ``.pth`` files in it, so the editable install of the checkout stays out.
    """
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    cwd=tmp_path).strip())  # fmt: skip
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--quiet", "--disable-pip-version-check", request.getfixturevalue(built), cwd=tmp_path,
    )  # fmt: skip
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = (
        "import json, splitfed, splitfed.models, splitfed.transport\n"
        "print(json.dumps([m.__file__ for m in (splitfed, splitfed.models, splitfed.transport)]))"
    )
    files = json.loads(run(python, "-c", code, cwd=tmp_path))
    assert all(Path(file).is_relative_to(site) for file in files)
    assert not (site / "models").exists()
    assert not (site / "transport").exists()
    assert "Usage" in run(home / "bin" / "splitfed", "--help", cwd=tmp_path, NO_COLOR="1")
