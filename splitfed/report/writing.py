"""Reading and writing report.json and report.html."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from splitfed.errors import Defect, FolderError
from splitfed.reading import read_plain
from splitfed.report.schema import clean, combine, validate, validate_all

LARGEST = 256 << 20
"""Bytes of a report.json that are read: a model of thousands of tensors over thousands of rounds
takes a few MiB."""


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write ``report.json`` and ``report.html`` of one party into ``folder``.

    Keys beside the known ones are kept; numbers that are not finite become null. Each file
    is replaced whole or not at all.

    Returns:
        The path of report.html.

    Raises:
        Defect: a key is missing or of another type; nothing is written then.
        FolderError: the folder cannot be written.
    """
    checked = validate(report)
    from splitfed.report.page import party_page  # jinja2 and matplotlib, only when needed

    page = _replace(folder / "report.html", party_page(checked))
    # Last: a run that finds it has nothing left to do.
    _replace(folder / "report.json", _json(clean(report)))
    return page


def write_combined(folder: Path, reports: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the report of several parties, ``{"parties": {name: report}}``, and its page,
    which links to ``folder/<party>/report.html`` where there is one.

    Returns:
        The path of report.html.

    Raises:
        Defect: as :func:`write_report`.
        FolderError: the folder cannot be written.
    """
    combined = combine(reports)
    from splitfed.report.page import combined_page

    own = {name: folder / name / "report.html" for name in reports}
    pages = {name: f"{quote(name, safe='')}/report.html" for name in own if own[name].is_file()}
    page = combined_page(validate_all(reports), pages)
    _replace(folder / "report.json", _json(combined))
    return _replace(folder / "report.html", page)


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of a party's run folder, checked.

    Raises:
        FolderError: there is none, or it is not a report of one party.
    """
    path = folder / "report.json"
    cure = "give a party's run folder (DIR/<party>) of a run that has finished"
    try:
        report = json.loads(read_plain(path, LARGEST))
    except FileNotFoundError as error:
        raise FolderError(f"{path} does not exist", cure) from error
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{path} cannot be read: {error}", cure) from error
    if not isinstance(report, dict):
        raise FolderError(f"{path} is not a report", cure)
    if "parties" in report:
        raise FolderError(f"{path} is the report of several parties", cure)
    try:
        validate(report)
    except Defect as error:
        raise FolderError(f"{path}: {error.message}", cure) from error
    return report


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> Path:
    """Write beside ``path`` and move it there, so that a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise FolderError(
            f"{path} cannot be written: {error.strerror or error}",
            "make room or give the folder to yourself, then run the command again",
        ) from error
    return path
