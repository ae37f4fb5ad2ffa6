"""A linear model on fixed wavelet features: what differential privacy leaves most accuracy.

Under DP-SGD every trained parameter is noised, so features that need no training are worth
more than features that could be learnt (Tramèr & Boneh 2021, *Differentially private learning
needs better features (or much more data)*). Here they are the modulus wavelet coefficients of a
scattering transform of order two (Bruna & Mallat 2013; in front of a trained network: Oyallon &
Mallat 2015), and what is trained is linear in them.

Everything before the trained layer is a public constant: filters that follow from formulas, and a
whitening measured on drawings that :func:`drawings` makes up. No real image has a part in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from splitfed.errors import ModelError

ANGLES = 8
FEATURES = 1 + 2 * ANGLES + ANGLES * ANGLES
"""Features of each channel at each place: the mean, two scales, and the pairs of both."""
CONSTANTS = Path(__file__).with_name("scatter.safetensors")
"""What :func:`make_whitening` returned once. It is shipped because every party must hold the
same bits, and an eigendecomposition differs in the last ones from machine to machine."""
DRAWINGS = 5000
RIDGE = 0.01
SMALLEST = 9  # pixels: a filter of 15 is reflected at the border by 7


class ScatterFront(nn.Module):
    """Scattering features over two octaves in 8 directions, on a grid of a quarter of the size.

    Local means, moduli of Morlet wavelets and moduli of the wavelets of those moduli are
    smoothed and sampled every 4 pixels; a square root evens out their sizes; one fixed linear
    map makes the 81 features of a place uncorrelated on made-up drawings; and each image is
    scaled to the norm √(number of features) - 63 for one channel of 28x28 - so that the clipping
    of its gradient does not depend on how bright or busy it is.

    It has no parameters. Its filters are buffers that are not part of ``state_dict()``: they
    follow from this file and its constants. A split keeps them private; they never travel.

    Args:
        mean, std: of the preprocessing, one value for all channels: x·std + mean is in 0..1.

    Shapes: [N, C, H, W] -> [N, 81·C, ⌈H/4⌉, ⌈W/4⌉], H and W at least 9.
    """

    psi0: torch.Tensor
    psi1: torch.Tensor
    phi1: torch.Tensor
    phi2: torch.Tensor
    white: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: float = 0.5, std: float = 0.5) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        constants = filters() | load_file(CONSTANTS)
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The features of normalised images."""
        count, channels, height, width = x.shape
        pixels = (x * self.std + self.mean).reshape(count * channels, 1, height, width)
        bank = {name: getattr(self, name) for name in ("psi0", "psi1", "phi1", "phi2")}
        z = functional.conv2d(coefficients(pixels, bank), self.white, self.shift)
        z = z.reshape(count, channels * FEATURES, z.shape[-2], z.shape[-1])
        norms = z.flatten(1).norm(dim=1).clamp(min=1e-6)
        scaled: torch.Tensor = z * (math.sqrt(z[0].numel()) / norms)[:, None, None, None]
        return scaled


class ScatterNet(nn.Module):
    """One linear layer on scattering features, shared, and an offset of each class, private.

    The shared layer sees all places at once (a convolution as large as the grid) and begins at
    zero. Meant for privacy mode "dp-all". Under "dp-frozen" the offset stays at zero.

    ``splitfed init`` proposes max_update_norm = max(1, ‖g₀‖), which is 1 for a layer that begins
    at zero and would shorten every update: **set [aggregation] max_update_norm by hand** (1000
    with the settings of docs/utility.md).

    Args:
        channels: of the input, 1 or 3 as a rule.
        classes: number of classes.
        size: height and width of the images in pixels, 9 or more each.
        input: "images"; or "features" for the outputs of a :class:`ScatterFront`, computed once
            for many epochs. The trained tensors are the same.
        mean, std: of the preprocessing, as for :class:`ScatterFront`.

    Raises:
        ModelError: a value that makes no such network.

    Shapes: [N, channels, *size], or [N, 81·channels, ⌈H/4⌉, ⌈W/4⌉], -> logits [N, classes].
    """

    shared = ("shared_conv",)

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        size: Sequence[int] = (28, 28),
        input: str = "images",
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        super().__init__()
        if min(channels, classes) < 1:
            raise ModelError(
                f"ScatterNet: channels = {channels}, classes = {classes}", "both must be 1 or more"
            )
        if len(size) != 2 or min(size) < SMALLEST:
            raise ModelError(
                f"ScatterNet: size = {list(size)}",
                f"give height and width, {SMALLEST} pixels or more",
            )
        if input not in ("images", "features"):
            raise ModelError(f"ScatterNet: input = {input!r}", 'choose "images" or "features"')
        self.front = ScatterFront(mean, std) if input == "images" else nn.Identity()
        grid = (-(-size[0] // 4), -(-size[1] // 4))
        self.shared_conv = nn.Conv2d(FEATURES * channels, classes, grid, bias=False)
        nn.init.zeros_(self.shared_conv.weight)
        self.offset = nn.Parameter(torch.zeros(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the images, or of their features."""
        # The convolution written as the matrix product that it is where the kernel covers the
        # whole grid: vmap differentiates that several times faster.
        weight = self.shared_conv.weight.flatten(1)
        return functional.linear(self.front(x).flatten(1), weight, self.offset)


# --- wavelets ------------------------------------------------------------------------------


def filters() -> dict[str, torch.Tensor]:
    """``psi0`` [16, 1, 9, 9] and ``psi1`` [16, 1, 15, 15]: Morlet wavelets of two octaves, real
    parts, then imaginary ones; ``phi1`` [1, 1, 5, 5] and ``phi2`` [1, 1, 11, 11]: low-passes."""
    frequency = 3 * math.pi / 4
    return {
        "psi0": _morlets(0.8, frequency, 9),
        "psi1": _morlets(1.6, frequency / 2, 15),
        "phi1": _gaussian(0.8, 5),
        "phi2": _gaussian(1.6, 11),
    }


def coefficients(pixels: torch.Tensor, bank: dict[str, torch.Tensor]) -> torch.Tensor:
    """Square roots of the scattering coefficients, neither whitened nor scaled.

    Args:
        pixels: [N, 1, H, W] in 0..1.
        bank: what :func:`filters` returns.

    Returns:
        [N, 81, ⌈H/4⌉, ⌈W/4⌉]: the local mean; 8 moduli of the fine octave; 8 of the coarse one;
        8 x 8 coarse moduli of the fine ones.
    """
    low, fine, coarse = bank["phi1"], bank["psi0"], bank["psi1"]
    mean = _convolve(pixels, bank["phi2"], stride=4)
    first = _modulus(_convolve(pixels, fine), 1)
    first = _convolve(first, low.repeat(ANGLES, 1, 1, 1), stride=2)
    second = _modulus(_convolve(pixels, coarse, stride=2), 1)
    # On the halved grid the fine wavelet is the coarse octave's.
    both = _modulus(_convolve(first, fine.repeat(ANGLES, 1, 1, 1)), ANGLES)
    moduli = torch.cat([first, second, both], 1)
    moduli = _convolve(moduli, low.repeat(moduli.shape[1], 1, 1, 1), stride=2)
    return torch.cat([mean, moduli], 1).clamp(min=0).sqrt()


def _convolve(x: torch.Tensor, kernels: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Each channel with its own share of ``kernels``, the image reflected at its border."""
    border = kernels.shape[-1] // 2
    padded = functional.pad(x, (border,) * 4, mode="reflect")
    return functional.conv2d(padded, kernels, stride=stride, groups=x.shape[1])


def _modulus(x: torch.Tensor, channels: int) -> torch.Tensor:
    """[N, channels·(8 real, 8 imaginary), H, W] -> [N, channels·8, H, W]."""
    parts = x.reshape(len(x), channels, 2, ANGLES, *x.shape[-2:])
    return torch.sqrt(parts.square().sum(2) + 1e-12).flatten(1, 2)


def _plane(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, right) of each place of a filter, from its middle."""
    steps = torch.arange(size, dtype=torch.float64) - size // 2
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    return down, right


def _gaussian(sigma: float, size: int) -> torch.Tensor:
    down, right = _plane(size)
    bell = torch.exp(-(right.square() + down.square()) / (2 * sigma**2))
    return (bell / bell.sum()).to(torch.float32)[None, None]


def _morlets(sigma: float, frequency: float, size: int) -> torch.Tensor:
    """Complex waves under a bell twice as long across them, less what makes their sum zero."""
    down, right = _plane(size)
    real, imaginary = [], []
    for angle in range(ANGLES):
        turn = math.pi * angle / ANGLES
        along = right * math.cos(turn) + down * math.sin(turn)
        across = down * math.cos(turn) - right * math.sin(turn)
        bell = torch.exp(-(along.square() + (across / 2).square()) / (2 * sigma**2))
        bell = bell / bell.sum()
        wave = torch.cos(frequency * along)
        real.append(bell * (wave - (bell * wave).sum()))
        imaginary.append(bell * torch.sin(frequency * along))
    return torch.stack(real + imaginary)[:, None].to(torch.float32)


# --- the public whitening --------------------------------------------------------------------


def make_whitening(count: int = DRAWINGS) -> dict[str, torch.Tensor]:
    """The constants in ``scatter.safetensors``, from made-up drawings alone; some seconds.

    Returns:
        ``white`` [81, 81, 1, 1] and ``shift`` [81]: W = (Cov + r·I)^(-1/2) and -W·mean of the
        coefficients over all places, r = 0.01 of the mean eigenvalue.
    """
    bank = filters()
    parts = [coefficients(part, bank) for part in torch.split(drawings(count), 500)]
    values = torch.cat(parts).to(torch.float64).movedim(1, 0).flatten(1)
    mean = values.mean(1, keepdim=True)
    covariance = (values - mean) @ (values - mean).T / values.shape[1]
    sizes, axes = torch.linalg.eigh(covariance)
    white = (axes * (sizes + RIDGE * sizes.mean()).pow(-0.5)) @ axes.T
    return {
        "white": white.to(torch.float32)[:, :, None, None].contiguous(),
        "shift": -(white @ mean)[:, 0].to(torch.float32),
    }


def drawings(count: int, size: int = 28, seed: int = 0) -> torch.Tensor:
    """[count, 1, size, size] in 0..1: up to six random shapes on black, one over the other,
    each plain, striped or grainy. Public: they follow from ``seed``."""
    draw = torch.Generator().manual_seed(seed)

    def uniform() -> torch.Tensor:
        return torch.rand(count, 1, 1, generator=draw)

    steps = torch.linspace(-1, 1, size)
    down, right = torch.meshgrid(steps, steps, indexing="ij")

    def shape() -> torch.Tensor:
        """Rectangles, ellipses and triangles with soft edges: 1 inside, 0 outside."""
        turn = uniform() * 2 * math.pi
        x, y = right - (uniform() - 0.5) * 1.2, down - (uniform() - 0.5) * 1.2
        u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
        width, height = 0.1 + 0.8 * uniform(), 0.1 + 0.8 * uniform()
        kind = uniform()
        box = torch.maximum(u.abs() / width, v.abs() / height)
        ellipse = ((u / width).square() + (v / height).square()).sqrt()
        triangle = torch.maximum(u.abs() / width + (v / height + 1) / 2, -v / height)
        edge = torch.where(kind < 0.4, box, torch.where(kind < 0.75, ellipse, triangle))
        return ((1 - edge) * torch.minimum(width, height) * size / 2 + 0.5).clamp(0, 1)

    canvas = torch.zeros(count, size, size)
    for layer in range(6):
        present = uniform() < (1.0 if layer == 0 else 0.6)
        mask = shape() * present
        turn, rate, phase = uniform() * math.pi, 1.5 * 2 ** (4 * uniform()), uniform() * 2 * math.pi
        wave = torch.sin(rate * (right * turn.cos() + down * turn.sin()) + phase)
        stripes = 1 + (uniform() < 0.5) * uniform() * wave * 0.7
        strength = (uniform() < 0.5) * uniform() * 0.5
        grainy = 1 + strength * torch.randn(count, size, size, generator=draw)
        value = uniform() * (uniform() < 0.85) * stripes * grainy
        canvas = canvas * (1 - mask) + mask * value
    return canvas.clamp(0, 1)[:, None]
