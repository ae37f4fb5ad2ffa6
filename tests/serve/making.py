"""A small bundle with real files, as a run would leave it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from splitfed.models import initialise
from splitfed.serve import write_bundle
from splitfed.sharing import shared_tensors, split_model
from splitfed.tensors import Tensors
from tests.support.folders import CONTRACT, new_folder

CNN = "splitfed.models:ThreeLayerCNN"
ARGUMENTS = {"widths": [4, 4, 4], "classes": 3}
CLASSES = ["cat", "dog", "owl"]
CALIBRATION = {
    "temperature": 1.7,
    "images": 250,
    "abstain_below": 0.4,
    "error_rate": 0.05,
    "reached": True,
}


def model(seed: int = 1, arguments: Mapping[str, Any] = ARGUMENTS, factory: str = CNN) -> nn.Module:
    """A model with opinions: the last layer is widened so that images differ."""
    module = initialise(factory, arguments, seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "classifier.weight":
                parameter.mul_(20)
    return module.eval()


def tensors_of(module: nn.Module) -> Tensors:
    return shared_tensors(module, split_model(module, "*"))


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "party": "hospital-a",
        "peers": ["hospital-b"],
        "contract": CONTRACT.hex(),
        "agreement": "{}",
        "rounds": 3,
        "classes": CLASSES,
        "seed": 7,
        "factory": CNN,
        "arguments": ARGUMENTS,
        "code": None,
        "preprocessing": {"channels": 1, "size": [28, 28], "mean": [0.5], "std": [0.25]},
        "kept": "partial",
        "models": {"partial": ["partial"]},
        "calibration": CALIBRATION,
        "verdict": {"answer": "helped", "compared": "partial", "low": 0.1, "high": 0.2},
        "privacy": {"mode": "none", "sentence": "NO PRIVACY GUARANTEE"},
        "reference": None,
        **changes,
    }


def make_bundle(
    path: Path,
    *,
    own: nn.Module | None = None,
    members: Mapping[str, nn.Module] | None = None,
    **changes: Any,
) -> Path:
    """Write a bundle into a new (or the same) run folder; returns the folder."""
    with new_folder(path, party="hospital-a") as folder:
        write_bundle(
            folder,
            facts(**changes),
            tensors_of(own or model()),
            {name: tensors_of(module) for name, module in (members or {}).items()},
        )
    return path


def pixels(seed: int = 0, shape: tuple[int, ...] = (28, 28)) -> np.ndarray[Any, Any]:
    """A blot: smooth enough to survive, uneven enough to tell rows from columns."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, shape, dtype=np.uint8)


def write_png(path: Path, values: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(values).save(path)
    return path
