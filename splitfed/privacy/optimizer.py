"""Opacus' optimizer with noise from the operating system and without its non-finite trap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from opacus.grad_sample import GradSampleModuleNoOp
from opacus.optimizers import DPOptimizer

if TYPE_CHECKING:
    from splitfed.privacy.keystream import Keystream


class PrivateOptimizer(DPOptimizer):
    """Clips each unit's gradient, sums, adds noise, divides by the public expected batch.

    One step is, over the units i of a Poisson sample (Abadi et al. 2016, algorithm 1),
    ``(Σᵢ gᵢ · min(1, C/‖gᵢ‖) + N(0, σ²C² I)) / B`` with the public B = q·n, whatever the
    sample's size; an empty sample is a step of noise alone.

    Differs from :class:`opacus.optimizers.DPOptimizer` in three things:

    * a unit whose gradient is not finite (or whose norm overflows) contributes zero, decided
      unit by unit before the sum: one NaN pixel would make the whole sum NaN;
    * noise comes from a :class:`~splitfed.privacy.keystream.Keystream`;
    * sum and noise are added in float64.

    Args:
        optimizer: takes the noised step.
        model: whose parameters it steps; opacus' marks are put on them.
        noise_multiplier: σ.
        max_grad_norm: C.
        expected_batch_size: B.
        keystream: this party's source of noise.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        model: torch.nn.Module,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        keystream: Keystream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._keystream = keystream
        # Opacus' own wrapper for gradients that are computed elsewhere: it only adds the
        # attributes that its optimizer keeps books in.
        self._wrapper = GradSampleModuleNoOp(model)

    def add(self, gradients: Sequence[torch.Tensor]) -> None:
        """Take in one chunk of this step: per parameter, [N, ...] gradients of N units."""
        self._hand_over(gradients, last=False)

    def noised_step(self) -> None:
        """End this step: noise the sum, scale it, let the inner optimizer take it."""
        empty = [parameter.new_zeros((0, *parameter.shape)) for parameter in self.params]
        self._hand_over(empty, last=True)

    def discard(self) -> None:
        """Forget a step that was begun: its sum and its gradients."""
        self._is_last_step_skipped = False
        self._step_skip_queue.clear()
        self.zero_grad(set_to_none=True)

    def clip_and_accumulate(self) -> None:
        """Add the clipped gradients of one chunk of units to the sum of this step."""
        samples = self.grad_samples
        factors = clip_factors(samples, self.max_grad_norm)
        for parameter, sample in zip(self.params, samples, strict=True):
            part = weighted_sum(factors, sample).to(torch.float64)
            if parameter.summed_grad is None:
                parameter.summed_grad = part
            else:
                parameter.summed_grad += part

    def add_noise(self) -> None:
        """Noise the sum of this step and hand it to the inner optimizer."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            total = parameter.summed_grad
            noise = torch.from_numpy(self._keystream.gaussian(total.numel())) * std
            noised = total + noise.reshape(total.shape).to(total.device)
            parameter.grad = noised.to(parameter.dtype)

    def _hand_over(self, gradients: Sequence[torch.Tensor], *, last: bool) -> None:
        for parameter, gradient in zip(self.params, gradients, strict=True):
            parameter.grad_sample = gradient
        self.signal_skip_step(not last)
        self.step()
        self.zero_grad(set_to_none=True)


def clip_factors(samples: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """[N] factors min(1, C/‖gᵢ‖) over all parameters together; 0 for a gradient that is not
    finite.

    Args:
        samples: per parameter, [N, ...] gradients of N units.
        max_norm: C.
    """
    squares: Any = sum(_exact(sample.flatten(1)).square().sum(1) for sample in samples)
    norms = torch.sqrt(squares)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def _exact(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least: squares and sums in half precision would let a norm of 4 pass for 1."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def weighted_sum(factors: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Σᵢ fᵢ gᵢ over the first dimension; a unit with factor 0 adds nothing, even if NaN."""
    flat = _exact(sample.flatten(1))
    out = factors == 0
    if bool(out.any()):
        flat = flat.masked_fill(out[:, None], 0.0)
    return (factors @ flat).reshape(sample.shape[1:])
