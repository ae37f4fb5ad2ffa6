"""Models that declare which of their layers are shared, and the way to build any other.

``shared`` on a class lists patterns of the tensors that travel; the agreement may override
it. See :mod:`splitfed.sharing` for what a pattern selects.
"""

from __future__ import annotations

if __name__ != "splitfed.models":
    raise ImportError("import this package as splitfed.models: 'models' belongs to its users")

from splitfed.models.cnn import ThreeLayerCNN
from splitfed.models.factory import build, initialise
from splitfed.models.initial import file_digest, load_initial, save_initial
from splitfed.models.linear import Linear
from splitfed.models.norms import Conversion, batch_to_group_norm, group_count
from splitfed.models.scatter import ScatterFront, ScatterNet
from splitfed.models.vision import (
    EfficientNetB0,
    MobileNetV3Large,
    MobileNetV3Small,
    ResNet18,
    ResNet34,
    ResNet50,
    ViTB16,
)

__all__ = [
    "Conversion",
    "EfficientNetB0",
    "Linear",
    "MobileNetV3Large",
    "MobileNetV3Small",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ScatterFront",
    "ScatterNet",
    "ThreeLayerCNN",
    "ViTB16",
    "batch_to_group_norm",
    "build",
    "file_digest",
    "group_count",
    "initialise",
    "load_initial",
    "save_initial",
]
