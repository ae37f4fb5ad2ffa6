"""``splitfed export``: a finished run's model for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitfed.cli.output import say, say_json
from splitfed.cli.results import refuse_strange_code
from splitfed.cli.shared import AsJson, Code, Folder
from splitfed.errors import UserError

if TYPE_CHECKING:
    from splitfed.data import ImageSet
    from splitfed.serve import Bundle


class ExportFormat(StrEnum):
    """What can be written."""

    onnx = "onnx"
    torch_export = "torch-export"


def export(
    folder: Folder,
    format: Annotated[
        ExportFormat,
        typer.Option("--format", help="ONNX, or PyTorch's own .pt2.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What to write. Default: model.onnx or model.pt2 in DIR.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE",
            help="Images to compare on. Default: the test images of party.toml.",
            show_default=False,
        ),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Images to compare on.")
    ] = None,
    code: Code = None,
    as_json: AsJson = False,
) -> int:
    """Write a finished run's model as ONNX or torch.export, compared with PyTorch before use.

    The file takes preprocessed images, float32 [N, channels, height, width], and gives
    calibrated probabilities; an ensemble becomes one model. Classes, preprocessing and the
    threshold for abstaining stand in its metadata as splitfed.json. It is written only if its
    answers on real images are PyTorch's.
    """
    from splitfed.serve import Predictor, read_bundle, read_images
    from splitfed.serve.export import SUFFIX
    from splitfed.serve.export import export as write

    bundle = read_bundle(folder, code)
    # An option takes one value; what follows it (--images a.png b.png) arrives in ``more``.
    given = [*(images or []), *(more or [])]
    compared = read_images(given, bundle).images if given else _own_images(folder, bundle)
    target = folder / f"model{SUFFIX[format.value]}" if out is None else out
    found = write(Predictor(bundle), format.value, target, compared)
    if as_json:
        say_json(
            {
                "file": str(found.file),
                "format": format.value,
                "images": found.images,
                "difference": found.difference,
                "same_class": found.same_class,
            }
        )
        return 0
    what = "the same classes, probabilities" if bundle.facts.classes else "values"
    say(
        f"written: {found.file}",
        f"compared with PyTorch on {found.images} images: {what} within {found.difference:.1e}",
    )
    return 0


def _own_images(folder: Path, bundle: Bundle) -> ImageSet:
    """The party's own test or validation images, named in the party.toml of the run."""
    from splitfed.config import load_party
    from splitfed.data.images import image_set
    from splitfed.run.agreement import load_data
    from splitfed.serve.trust import STARTED, party_file_of

    cure = "give some real images with --images"
    path = party_file_of(folder)
    if path is None:
        raise UserError(f"no images to compare on: {folder / STARTED} names no party.toml", cure)
    try:
        config = load_party(path)
        refuse_strange_code(folder, config)
        if config.party != bundle.facts.party:
            raise UserError(f"{config.path} is now of {config.party}")
        data = load_data(config)
    except UserError as error:
        raise UserError(f"no images to compare on: {error.message}", cure) from None
    found = data.validation if data.test is None else data.test
    wanted = (bundle.preprocessing.channels, *bundle.preprocessing.size)
    if found is None or tuple(found.images.shape[1:]) != wanted:
        have = "none" if found is None else f"images of {list(found.images.shape[1:])}"
        raise UserError(
            f"no images of {list(wanted)} to compare on: {config.path} names {have}", cure
        )
    return image_set(found.images, None, bundle.preprocessing)
