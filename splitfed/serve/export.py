"""The kept model for other programs: ONNX, or PyTorch's own ``.pt2``, compared before use.

An exported file takes float32 [N, C, H, W] that is **already preprocessed** and gives float32
[N, K] calibrated probabilities (or a regression's values), for any N ≥ 1. How to preprocess
stands in its metadata under :data:`METADATA`, with the classes and the provenance. An
ensemble becomes one model that averages its members. Whether to abstain is left to the
reader of the probabilities: the threshold stands in the metadata.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from splitfed.data import ImageSet
from splitfed.errors import FolderError, ModelError, UserError
from splitfed.serve.predictor import Predictor

Format = Literal["onnx", "torch-export"]
SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2"}
METADATA = "splitfed.json"
TOLERANCE = 1e-5
"""The largest difference of a probability (of a value, in units of the largest one or 1)."""

MOST = 256
"""Images that are compared at most."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the exported file's answers compare with PyTorch's.

    Attributes:
        file: what was written.
        images: how many were compared.
        difference: the largest absolute difference of a probability (or value).
        same_class: whether the likeliest class is the same for all of them.
    """

    file: Path
    images: int
    difference: float
    same_class: bool


def export(predictor: Predictor, format: Format, out: Path, images: ImageSet) -> Comparison:
    """Write the kept model to ``out`` in another format, if it answers as PyTorch does.

    The file gets its name only after the comparison; one that is there already stays until
    then. Absolute paths of this machine do not get into it.

    Args:
        predictor: of the bundle.
        images: real images to compare on; the first :data:`MOST` are used.

    Raises:
        UserError: the packages of the extra ``export`` are missing.
        ModelError: the model cannot be expressed in the format, or answers differ by more
            than :data:`TOLERANCE` or in the class. Nothing is written then.
        FolderError: the file cannot be written.
    """
    if format == "onnx":
        _require("onnx", "onnxscript", "onnxruntime")
    if out.is_dir():
        raise FolderError(f"{out} is a folder", "name a file with --out")
    images = images.subset(range(min(len(images), MOST)))
    inputs, _ = images.batch(torch.arange(len(images)))
    expected = predictor.outputs(images)
    program = _traced(_Answering(predictor), inputs)
    about = metadata(predictor)
    content = _onnx(program, about) if format == "onnx" else _pt2(program, about)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_bytes(content)
        found = _answers(temporary, format, inputs)
        comparison = _compare(found, expected, out, bool(predictor.bundle.facts.classes))
        os.replace(temporary, out)
    except OSError as error:
        raise FolderError(f"{out}: cannot be written: {error.strerror}", "check --out") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return comparison


def metadata(predictor: Predictor) -> dict[str, Any]:
    """What a user of the exported file must know, as plain values."""
    facts = predictor.bundle.facts
    pictures = predictor.bundle.preprocessing
    ready = facts.preprocessing.dtype == "float32"
    return {
        "input": "float32 [N, channels, height, width]",
        "output": "probabilities [N, classes]" if facts.classes else "values",
        "classes": list(facts.classes),
        "preprocessing": {
            "channels": pictures.channels,
            "size": list(pictures.size),
            "mean": list(pictures.mean),
            "std": list(pictures.std),
            "convert": list(facts.preprocessing.convert),
            "formula": "values as they are" if ready else "(pixel / 255 - mean) / std",
        },
        "calibration": None if facts.calibration is None else facts.calibration.row(),
        "privacy": {"mode": facts.privacy.mode, "sentence": facts.privacy.sentence},
        "provenance": predictor.provenance,
        "software": dict(facts.software),
    }


class _Answering(nn.Module):
    """Members, their mean and the temperature as one module."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        facts = predictor.bundle.facts
        self.members = nn.ModuleList(predictor.bundle.models[facts.kept])
        self.classes = bool(facts.classes)
        self.temperature = 1.0 if facts.calibration is None else facts.calibration.temperature

    def forward(self, images: Tensor) -> Tensor:
        outputs = [member(images).to(torch.float64) for member in self.members]
        if not self.classes:
            values = torch.stack(outputs).mean(dim=0)
            if values.dim() == 2 and values.shape[1] == 1:
                values = values.squeeze(1)
            return values.to(torch.float32)
        logs = [torch.log_softmax(output, dim=1) for output in outputs]
        # log mean p, up to a constant that softmax takes away again
        mean = torch.logsumexp(torch.stack(logs), dim=0) if len(logs) > 1 else logs[0]
        return torch.softmax(mean / self.temperature, dim=1).to(torch.float32)


def _traced(module: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    # A first dimension of 1 would be taken for a constant.
    example = (torch.cat([inputs[:1], inputs[:1]]),)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    problem: Exception | None = None
    for strict in (False, True):  # len(x) is a constant without strict, foreign code with it
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    module.eval(), example, dynamic_shapes=shapes, strict=strict
                )
        except Exception as error:  # the exporter meets foreign code with errors of every class
            problem = error
            continue
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
        return program
    raise ModelError(
        f"the model cannot be exported for any number of images: {_first_line(problem)}",
        "write its forward with tensor operations alone, and x.shape[0] instead of len(x)",
    ) from problem


def _onnx(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["answers"],
            )
        proto = made.model_proto
    except Exception as error:  # operators without a form in ONNX, models above 2 GiB, ...
        raise ModelError(
            f"the model has no form in ONNX: {_first_line(error)}", "try --format torch-export"
        ) from error
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, msgspec.json.encode(about).decode()
    content: bytes = proto.SerializeToString()
    return content


def _pt2(program: torch.export.ExportedProgram, about: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: msgspec.json.encode(about).decode()})
    return content.getvalue()


def _answers(file: Path, format: Format, inputs: Tensor) -> Tensor:
    """What the written file says, float64: to one image alone and to all, as any N must do."""
    run = _onnx_session(file) if format == "onnx" else _pt2_module(file)
    try:
        return torch.cat([run(inputs[:1]), run(inputs)[1:]]).to(torch.float64)
    except Exception as error:  # a runtime meets what it cannot do with errors of every class
        raise ModelError(
            f"the exported model cannot be run: {_first_line(error)}", "try the other --format"
        ) from error


def _onnx_session(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    def run(images: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run


def _pt2_module(file: Path) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        # Loading such a file trusts it: this one has just been written here.
        module = torch.export.load(io.BytesIO(file.read_bytes())).module()
        with torch.no_grad():
            found: Tensor = module(images)
        return found

    return run


def _compare(found: Tensor, expected: Tensor, out: Path, classes: bool) -> Comparison:
    same_shape = found.shape == expected.shape
    difference = float((found - expected).abs().max()) if same_shape else math.inf
    same = not classes or torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    allowed = TOLERANCE * (1.0 if classes else max(1.0, float(expected.abs().max())))
    if not difference <= allowed or not same:
        raise ModelError(
            f"{out}: not written: on {len(expected)} images its answers differ from PyTorch's "
            f"by up to {difference:.3g} (allowed {allowed:.0e}), classes are "
            f"{'the same' if same else 'not the same'}",
            "try the other --format, and please report this model to splitfed",
        )
    return Comparison(file=out, images=len(expected), difference=difference, same_class=same)


def _first_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"exporting to ONNX needs {', '.join(missing)}", "pip install 'splitfed[export]'"
        )
