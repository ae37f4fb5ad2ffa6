"""Imports: downwards only, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH_FREE = {"torch", "torchvision", "opacus", "matplotlib", "pandas", "sklearn", "scipy"}
AT_START_OF_RUN = {"torchvision", "opacus", "matplotlib", "pandas", "sklearn"}


def imported_by(code: str) -> set[str]:
    """Top-level names in ``sys.modules`` after ``code`` ran in a fresh interpreter."""
    report = (
        "\nimport json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module", ["splitfed", "splitfed.errors", "splitfed.types", "splitfed.config", "splitfed.cli"]
)
def test_light_module_does_not_import_torch(module: str) -> None:
    assert imported_by(f"import {module}") & TORCH_FREE == set()


@pytest.mark.parametrize("command", [[], ["run"], ["init"], ["plan"]])
def test_help_does_not_import_torch(command: list[str]) -> None:
    arguments = ["splitfed", *command, "--help"]
    code = (
        "import sys\n"
        f"sys.argv = {arguments!r}\n"
        "from splitfed.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )
    assert imported_by(code) & TORCH_FREE == set()


def test_run_starts_without_what_only_reports_and_data_sources_need() -> None:
    assert imported_by("import splitfed.run") & AT_START_OF_RUN == set()


def test_layers_hold() -> None:
    """The contracts stand in pyproject.toml; this is ``make lint`` seen from the tests."""
    answer = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout
