"""The optimizer of one model, with a state that is kept by tensor name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from splitfed.errors import FolderError
from splitfed.tensors import Tensors

if TYPE_CHECKING:
    from splitfed.config.party import OptimizerConfig


class NamedOptimizer:
    """SGD, Adam or AdamW whose state can be saved, loaded and restarted by tensor name.

    torch keeps state by position in a list; names survive a model whose parameters come in
    another order, and let one layer's momentum restart while another's goes on.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizerConfig) -> None:
        self.kind = settings.optimizer
        self._parameters = dict(parameters)
        self._inner = _build(self._parameters.values(), settings)
        self.zero_grad = self._inner.zero_grad
        self.step = self._inner.step

    @property
    def inner(self) -> torch.optim.Optimizer:
        """torch's own optimizer, for a wrapper that steps it."""
        return self._inner

    def set_rate(self, rate: float) -> None:
        """The learning rate of the steps to come."""
        for group in self._inner.param_groups:
            group["lr"] = rate

    def restart(self, names: Iterable[str]) -> None:
        """Forget momentum and moments of the named parameters, as if never stepped."""
        for name in names:
            if name in self._parameters:
                self._inner.state.pop(self._parameters[name], None)

    def state(self) -> Tensors:
        """Copies on the CPU, called ``<tensor name>/<key>`` such as ``fc.bias/exp_avg``."""
        return {
            f"{name}/{key}": value.detach().to("cpu", copy=True).contiguous()
            for name, parameter in sorted(self._parameters.items())
            for key, value in sorted(self._inner.state.get(parameter, {}).items())
            if isinstance(value, Tensor)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become the optimizer that :meth:`state` was taken from.

        Raises:
            FolderError: the state of a tensor that this model does not train, or of
                another shape.
        """
        fresh: dict[str, dict[str, Tensor]] = {}
        for full_name, value in state.items():
            name, _, key = full_name.rpartition("/")
            parameter = self._parameters.get(name)
            if parameter is None or (key != "step" and value.shape != parameter.shape):
                raise FolderError(
                    f"the checkpoint's optimizer state {full_name} {list(value.shape)} "
                    "fits no tensor of this model",
                    "run with the model the folder was made with, or give --out a new folder",
                )
            # Adam's step counter stays on the CPU, as torch keeps it.
            device = torch.device("cpu") if key == "step" else parameter.device
            fresh.setdefault(name, {})[key] = value.detach().to(device, copy=True)
        self.restart(self._parameters)
        for name, entries in fresh.items():
            self._inner.state[self._parameters[name]].update(entries)


def _build(parameters: Iterable[nn.Parameter], settings: OptimizerConfig) -> torch.optim.Optimizer:
    chosen = list(parameters)
    rate, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        sgd = _uncompiled(torch.optim.SGD)
        return sgd(chosen, lr=rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return _uncompiled(kind)(chosen, lr=rate, weight_decay=decay)


Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _uncompiled(kind: type[Kind]) -> type[Kind]:
    """``kind`` without the decorators that tell torch's compiler to keep out.

    The first call of each of them imports the whole compiler, one to two seconds of every
    start, and nothing here is compiled. What is left of ``step`` is its body, without
    gradients as the decorator has it. A torch whose methods are not decorated this way gives
    the same optimizer with its slow start.
    """
    body = {name: _undecorated(getattr(kind, name)) for name in ("add_param_group", "zero_grad")}
    body["step"] = torch.no_grad()(_undecorated(kind.step))
    plain: type[Kind] = type(kind.__name__, (kind,), body)
    return plain


def _undecorated(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__wrapped__", method)
