"""torchvision's networks with a declared split: stem and early stages shared, the rest private.

Each adapter holds torchvision's own network as ``backbone``, without pretrained weights:
public ones come through ``[model] initial``. torchvision is imported when one is built.

``norm="group"`` turns every BatchNorm into a GroupNorm (see :mod:`splitfed.models.norms`),
which differential privacy needs. Under ``norm="batch"`` the shared part includes BatchNorm's
running statistics, computed from a party's images; that is allowed in privacy mode "none" only.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import torch
from torch import nn

from splitfed.errors import ModelError
from splitfed.models.norms import Conversion, batch_to_group_norm


class _Adapter(nn.Module):
    """A torchvision network for images of ``channels`` channels.

    Attributes:
        backbone: torchvision's network.
        conversions: the BatchNorms that were converted, empty under ``norm="batch"``.
    """

    network: ClassVar[str]
    stem: ClassVar[str]

    def __init__(self, classes: int, channels: int, norm: str = "batch", **options: Any) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ModelError(f"{type(self).__name__}: norm = {norm!r}", 'choose "batch" or "group"')
        if classes < 1 or channels not in (1, 3):
            raise ModelError(
                f"{type(self).__name__}: classes = {classes}, channels = {channels}",
                "give 1 or more classes, and 1 or 3 channels",
            )
        networks = importlib.import_module("torchvision.models")
        backbone: nn.Module = getattr(networks, self.network)(
            weights=None, num_classes=classes, **options
        )
        if channels == 1:
            _take_grey(backbone, self.stem)
        self.conversions: tuple[Conversion, ...] = (
            batch_to_group_norm(backbone) if norm == "group" else ()
        )
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images: [N, channels, H, W] -> [N, classes]."""
        logits: torch.Tensor = self.backbone(x)
        return logits


def _take_grey(backbone: nn.Module, stem: str) -> None:
    """Let the first convolution take one channel, as if grey stood in all three.

    The sum over the input channels gives the same outputs, draws nothing from a random
    generator and works for pretrained weights as well.
    """
    convolution = backbone.get_submodule(stem)
    assert isinstance(convolution, nn.Conv2d)
    summed = convolution.weight.detach().sum(dim=1, keepdim=True)
    convolution.weight = nn.Parameter(summed)
    convolution.in_channels = 1


class _ResNet(_Adapter):
    stem = "conv1"
    shared = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2")

    def __init__(self, classes: int, channels: int = 3, norm: str = "batch") -> None:
        super().__init__(classes, channels, norm)


class ResNet18(_ResNet):
    """ResNet-18 (He et al. 2016); shared: the stem and the first two of four stages."""

    network = "resnet18"


class ResNet34(_ResNet):
    """ResNet-34 (He et al. 2016); shared: the stem and the first two of four stages."""

    network = "resnet34"


class ResNet50(_ResNet):
    """ResNet-50 (He et al. 2016); shared: the stem and the first two of four stages."""

    network = "resnet50"


class _MobileNetV3(_Adapter):
    stem = "features.0.0"

    def __init__(self, classes: int, channels: int = 3, norm: str = "batch") -> None:
        super().__init__(classes, channels, norm)


class MobileNetV3Small(_MobileNetV3):
    """MobileNetV3-Small (Howard et al. 2019); shared: the stem and blocks 1-3, which work at
    an eighth of the image's size or more; blocks 4-11, the last convolution and the
    classifier are private."""

    network = "mobilenet_v3_small"
    shared = ("backbone.features.[0-3]",)


class MobileNetV3Large(_MobileNetV3):
    """MobileNetV3-Large (Howard et al. 2019); shared: the stem and blocks 1-6, which work at
    an eighth of the image's size or more; blocks 7-15, the last convolution and the
    classifier are private."""

    network = "mobilenet_v3_large"
    shared = ("backbone.features.[0-6]",)


class EfficientNetB0(_Adapter):
    """EfficientNet-B0 (Tan & Le 2019); shared: the stem and stages 1-3, which work at an
    eighth of the image's size or more; stages 4-7, the last convolution and the classifier
    are private."""

    network = "efficientnet_b0"
    stem = "features.0.0"
    shared = ("backbone.features.[0-3]",)

    def __init__(self, classes: int, channels: int = 3, norm: str = "batch") -> None:
        super().__init__(classes, channels, norm)


class ViTB16(_Adapter):
    """ViT-B/16 (Dosovitskiy et al. 2021); shared: the patch embedding, class token and
    positions, and the first six of twelve blocks. It has no BatchNorm, hence no ``norm``.

    Args:
        classes: number of classes.
        channels: of the input, 1 or 3.
        size: side of the square input in pixels, a multiple of 16.
    """

    network = "vit_b_16"
    stem = "conv_proj"
    shared = (
        "backbone.conv_proj",
        "backbone.class_token",
        "backbone.encoder.pos_embedding",
        "backbone.encoder.layers.encoder_layer_[0-5]",
    )

    def __init__(self, classes: int, channels: int = 3, size: int = 224) -> None:
        if size < 16 or size % 16:
            raise ModelError(f"ViTB16: size = {size}", "give a multiple of 16")
        super().__init__(classes, channels, image_size=size)
