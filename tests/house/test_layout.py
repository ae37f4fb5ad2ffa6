"""The folders on disk and what pyproject.toml says of them are one and the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = SETTINGS["tool"]["setuptools"]
LINKED = {"models", "transport"}
HARD_LOOK = 400  # lines


def packages_below(folder: Path, name: str) -> set[str]:
    """Dotted names of all packages in ``folder``, itself included, links not followed."""
    found = {name}
    for init in folder.rglob("__init__.py"):
        steps = init.parent.relative_to(folder).parts
        if not any((folder / Path(*steps[: n + 1])).is_symlink() for n in range(len(steps))):
            found.add(".".join((name, *steps)))
    return found


def test_packages_in_pyproject_are_the_folders_on_disk() -> None:
    on_disk = packages_below(ROOT / "splitfed", "splitfed")
    for name in LINKED:
        on_disk |= packages_below(ROOT / name, f"splitfed.{name}")
    assert sorted(SETUPTOOLS["packages"]) == sorted(on_disk)


def test_every_folder_with_code_is_a_package() -> None:
    """A forgotten __init__.py works in the checkout and is missing from the wheel."""
    folders = {
        module.parent
        for name in ("splitfed", *LINKED)
        for module in (ROOT / name).rglob("*.py")
        if "templates" not in module.parts
    }
    assert sorted(str(f) for f in folders if not (f / "__init__.py").is_file()) == []


@pytest.mark.parametrize("name", sorted(LINKED))
def test_link_and_mapping_point_to_the_folder_at_the_root(name: str) -> None:
    link = ROOT / "splitfed" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert SETUPTOOLS["package-dir"][f"splitfed.{name}"] == name


@pytest.mark.parametrize("name", sorted(LINKED))
def test_root_folder_refuses_to_be_imported_by_its_bare_name(name: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert "ImportError" in answer.stderr
    assert f"splitfed.{name}" in answer.stderr


def test_one_version() -> None:
    import splitfed

    assert splitfed.__version__ == SETTINGS["project"]["version"]


def test_no_file_is_longer_than_one_idea() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for top in ("splitfed", *LINKED, "tests", "benchmarks", "examples")
        for path in (ROOT / top).rglob("*.py")
    }
    assert lengths
    assert {name: n for name, n in lengths.items() if n > HARD_LOOK} == {}
