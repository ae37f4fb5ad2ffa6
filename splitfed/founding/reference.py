"""The unlabelled images that all parties hold, and the fusion that rests on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitfed.config import FederationConfig
from splitfed.config.faults import did_you_mean
from splitfed.config.fusion import METHODS
from splitfed.data import Preprocessing
from splitfed.errors import UserError


def method_of(
    wanted: str | None, reference: str | None, *, privacy: str, classes: Sequence[str]
) -> str:
    """How the models are fused: as ``wanted``, else by outputs where there are images for it.

    Raises:
        UserError: no such method, or one that lacks its images.
    """
    if wanted is None:
        usable = reference is not None and classes and privacy != "party-update"
        return "distill" if usable else "none"
    if wanted not in METHODS:
        raise UserError(
            f"--fusion {wanted}: no such method{did_you_mean(wanted, METHODS)}",
            f"choose one of: {', '.join(METHODS)}",
        )
    if wanted == "distill" and reference is None:
        raise UserError(
            "--fusion distill needs unlabelled images that every party holds",
            "name them with --reference, such as --reference folder:reference",
        )
    return wanted


def reference_of(
    source: str, preprocessing: Preprocessing, classes: Sequence[str], folder: Path
) -> tuple[str, int]:
    """Digest (64 hex digits) and size of a reference set, by reading it.

    Raises:
        DataError: naming the file.
    """
    from splitfed.data import data_digest, load

    images = load(
        source,
        preprocessing=preprocessing,
        classes=tuple(classes),
        part="reference",
        root=folder,
        options={},
    )
    return data_digest(images).hex(), len(images)


def check_reference(
    source: str | None, agreement: FederationConfig, folder: Path, received: Path
) -> None:
    """Make sure that whoever joins holds the images that were agreed on.

    Raises:
        UserError: none are named, or others.
    """
    wanted = agreement.fusion.reference
    if wanted is None:
        return
    if source is None:
        raise UserError(
            f"{received}: this agreement exchanges outputs on {wanted.size or 'some'} unlabelled "
            "images that every party holds",
            "ask for them, and name them with --reference, such as --reference folder:reference",
        )
    preprocessing = Preprocessing(**agreement.preprocessing.model_dump())
    found = reference_of(source, preprocessing, agreement.classes, folder)
    for key, mine, theirs in zip(
        ("digest", "size"), found, (wanted.digest, wanted.size), strict=True
    ):
        if theirs is not None and mine != theirs:
            raise UserError(
                f"--reference {source}: {key} {mine}, agreed is {theirs}",
                "all parties need the same images in the same order, with the same preprocessing",
            )
