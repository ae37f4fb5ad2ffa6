"""Texts in the repository speak of the project alone: of no machine, and of no file it lacks."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {
    ".git", ".venv", "__pycache__", "runs", "build", "dist", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".hypothesis", ".import_linter_cache",
}  # fmt: skip
# An absolute path into somebody's own folders: true on one machine only.
PRIVATE_PATH = re.compile(r"(?<![\w.~}])/(?:work|root|home|Users|mnt|farm)/")
OUTWARD_PATH = re.compile(r"(?<![\w./])((?:\.\./)+[A-Za-z_][\w./-]*)")
# Written with a folder or between backquotes or brackets: a mention of a file, not a word.
DOCUMENT = re.compile(r"(?<![\w/.*{}<>-])([\w./-]+\.md)\b")
ELSEWHERE = re.compile(r"https?://\S+")
TEST = re.compile(r"\btests/[\w/]+\.py\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the repository, links not followed, with its content."""
    for folder, below, files in os.walk(ROOT):
        below[:] = sorted(
            name for name in below if name not in NOT_OURS and not name.endswith(".egg-info")
        )
        for path in (Path(folder) / name for name in sorted(files)):
            with contextlib.suppress(UnicodeDecodeError):
                yield path, path.read_text(encoding="utf-8")


def private_paths(text: str) -> list[str]:
    return [match.group() for match in PRIVATE_PATH.finditer(text)]


def paths_out_of_the_repository(path: Path, text: str) -> list[str]:
    """Relative paths that lead above the root from the file that names them."""
    depth = len(path.relative_to(ROOT).parts) - 1
    return [m for m in OUTWARD_PATH.findall(text) if m.count("../") > depth]


def missing_documents(path: Path, text: str) -> list[str]:
    """Markdown files that ``text`` names and that stand neither beside it nor at the root."""
    named = set(DOCUMENT.findall(ELSEWHERE.sub("", text)))
    return sorted(n for n in named if not any((f / n).is_file() for f in (path.parent, ROOT)))


def test_no_file_names_a_private_path() -> None:
    found = {str(p.relative_to(ROOT)): private_paths(t) for p, t in texts()}
    assert "tests/house/test_texts.py" in found
    own = found.pop("tests/house/test_texts.py")
    assert len(own) == 2  # the two examples below: this file is read as well
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_no_file_points_out_of_the_repository() -> None:
    found = {str(p.relative_to(ROOT)): paths_out_of_the_repository(p, t) for p, t in texts()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_every_document_that_is_named_exists() -> None:
    found = {
        str(p.relative_to(ROOT)): missing_documents(p, t)
        for p, t in texts()
        if p.suffix in (".md", ".toml", ".py", "") and p != Path(__file__).resolve()
    }
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_every_test_that_a_document_names_exists() -> None:
    named = {
        (str(path.relative_to(ROOT)), test)
        for path, text in texts()
        if path.suffix == ".md"
        for test in TEST.findall(text)
    }
    assert ("docs/threat-model.md", "tests/faults/test_verify.py") in named
    assert sorted(pair for pair in named if not (ROOT / pair[1]).is_file()) == []


@pytest.mark.parametrize("text", ["see /home/ada/data", "cd /Users/ada/project"])
def test_private_path_is_seen(text: str) -> None:
    assert private_paths(text)


def test_outward_path_is_seen_and_inward_path_is_not() -> None:
    assert paths_out_of_the_repository(ROOT / "docs" / "a.md", "../../x/y") == ["../../x/y"]
    assert paths_out_of_the_repository(ROOT / "docs" / "a.md", "../models/cnn.py") == []


def test_missing_document_is_seen() -> None:
    assert missing_documents(ROOT / "a.md", "`9-nowhere.md`") == ["9-nowhere.md"]
    assert missing_documents(ROOT / "a.md", "[here](README.md)") == []
