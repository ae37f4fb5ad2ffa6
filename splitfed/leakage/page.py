"""audit.html: the table, and the reconstructions beside the images that they are of."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from splitfed.errors import UserError
from splitfed.leakage.advice import leaks, recognisable, recognised, tells_members
from splitfed.leakage.measuring import Audit

HEIGHT = 84
"""Pixels on the screen, at least."""
PICTURED = 8
"""Images that are shown at most."""


def write_page(path: Path, audit: Audit) -> Path:
    """Write the page where its owner alone can read it (mode 0600), whole or not at all: it shows
    training images.

    Raises:
        UserError: it cannot be written.
    """
    text = page(audit)
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}",
            "name another file with --out, in a folder that is yours",
        ) from error
    return path


def page(audit: Audit) -> str:
    """The page as text: one file that loads nothing from anywhere."""
    found = audit.found
    shown = audit.pictures[:PICTURED]
    strips = [
        {
            "row": row,
            "pictures": [
                (_png(made[0]), made[1])
                for picture in shown
                if (made := picture.made.get((row["split"], row["mode"]))) is not None
            ],
        }
        for row in found["rows"]
        if row["inversion"] is not None
    ]
    return (
        _environment()
        .get_template("audit.html.j2")
        .render(
            style=Markup(_style()),
            found=found,
            originals=[_png(picture.true) for picture in shown],
            guess=[_png(picture.guess) for picture in shown],
            strips=strips,
            left_out=len(audit.pictures) - len(shown),
            height=max(HEIGHT, audit.pictures[0].true.shape[-2]),
        )
    )


def _png(image: Tensor) -> str:
    """A picture uint8 [C, H, W] as a data: address. Of 1 or 3 channels; of others the first."""
    channels = image.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(channels if channels.shape[2] == 3 else channels[..., 0])
    out = BytesIO()
    picture.save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _size(count: int) -> str:
    return f"{count:,} B" if count < 1024 else f"{count / 1024:,.1f} KiB"


def _style() -> str:
    return files("splitfed.report").joinpath("style.css").read_text(encoding="utf-8")


def _source(name: str) -> str:
    return files("splitfed.leakage").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,  # names come from files of several institutions
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tests: Mapping[str, Any] = {
        "leaking": leaks,
        "recognisable": recognisable,
        "told_apart": tells_members,
    }
    environment.tests.update(tests)
    environment.filters.update(size=_size, recognised=recognised)
    return environment
