"""``splitfed predict``: what a finished run's model says about new images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import AsJson, Code, Folder

if TYPE_CHECKING:
    from splitfed.serve import Prediction


def predict(
    folder: Folder,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Image files (PNG, JPEG, ...), or .npy with uint8 pixels.",
            show_default=False,
        ),
    ],
    code: Code = None,
    as_json: AsJson = False,
) -> int:
    """Tell the class of images by a finished run's model, offline.

    Images are read as the training images were; one that cannot be read stops the command
    before anything is predicted. Probabilities are calibrated on your validation images.
    Where the model may be wrong more often than promised it abstains: the class is then a
    guess, and "no answer" says so. Building the model runs its code, of packages installed
    here or of the party's folder, never of DIR. Nothing leaves this machine.
    """
    from splitfed.serve import load

    found = load(folder, code).predict(images)
    if as_json:
        say_json([prediction.row() for prediction in found])
    else:
        say(*_lines(found))
    return 0


def _lines(found: Sequence[Prediction]) -> list[str]:
    """One aligned line an image, what is true of all of them, and where they come from."""
    rows = [("image", "class", "probability", "")] if found[0].label is not None else []
    rows += [
        (printable(str(one.image)), _answer(one), _probability(one), _note(one)) for one in found
    ]
    lines = [columns(rows, right=(2,), indent="")]
    compared = [one.agreement["answer"] for one in found if one.agreement is not None]
    if compared:
        lines.append(
            f"own and fused model agree on {compared.count('agree')} of {len(compared)} images"
        )
    if (promise := found[0].promise) is not None:
        lines.append(
            f"abstains below probability {promise['abstain_below']:.3f}: of the answers above at "
            f"most {promise['error_rate']:.0%} are wrong, at 95 % confidence, for images like the "
            f"{promise['images']} validation images"
        )
    if any(not one.abstained and one.reason for one in found):
        lines.append(printable(found[0].reason))
    return [*lines, printable(_provenance(found[0].provenance))]


def _answer(one: Prediction) -> str:
    if one.label is not None:
        return printable(one.label)
    values = one.value if isinstance(one.value, list) else [one.value]
    return " ".join(f"{value:.6g}" for value in values)


def _probability(one: Prediction) -> str:
    return "" if one.probability is None else f"{one.probability:.3f}"


def _note(one: Prediction) -> str:
    notes = [f"no answer (abstained): {one.reason}"] if one.abstained else []
    if one.agreement is not None and one.agreement["answer"] == "differ":
        notes.append(f"own model says {one.agreement['own']}, fused {one.agreement['fused']}")
    if one.converted:
        notes.append(f"converted: {one.converted}")
    return printable("; ".join(notes))


_MODELS = {
    "partial": "the personal model (partial)",
    "local_only": "the model trained alone (local_only)",
    "fused": "the fused model (fused)",
}


def _provenance(source: dict[str, Any]) -> str:
    verdict = source["verdict"]
    helped = verdict.get("answer", "not measured") if verdict else "not measured"
    return (
        f"answered by {_MODELS[source['kept']]} of {source['party']} with "
        f"{', '.join(source['peers']) or 'nobody'}; {source['rounds']} rounds, "
        f"federating: {helped}, privacy: {source['privacy']}, "
        f"agreement {source['contract'][:16]}, bundle {source['bundle'][:16]}"
    )
