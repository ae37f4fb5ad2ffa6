"""The switches that make equal inputs give equal bytes on one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from splitfed.errors import ModelError, UserError


def find_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        UserError: ``"cuda"`` where torch sees no CUDA device.
    """
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                "[training] device = 'cuda', but torch sees no CUDA device",
                "set device = 'cpu' in party.toml, or install a CUDA build of torch and a driver",
            )
        # cuBLAS reads it when it is first used; without it its results vary between runs.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(name)


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms that give the same bytes every time; the old switches come back after.

    Raises:
        ModelError: the model uses an operation that has no such algorithm, by its name.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its switch is a property mypy cannot see
    fill = memory.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    _switch(True)
    # Writing over fresh memory only hides bugs of other code, and costs time in every step.
    memory.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(". ", 1)[0].split("\n", 1)[0]
        raise ModelError(
            f"the model uses an operation that gives other results each time: {reason}",
            "replace it in the model, for example adaptive pooling by pooling of a fixed size",
        ) from error
    finally:
        _switch(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def _switch(enabled: bool, *, warn_only: bool = False) -> None:
    """``torch.use_deterministic_algorithms`` without importing torch's compiler.

    That function also switches the compiler, and imports it to do so: a second of every start.
    Whoever compiles a model has imported it before, by ``torch.compile``; without it, the other
    public door to the same flag says as much.
    """
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    else:
        how = "default" if not enabled else "warn" if warn_only else "error"
        torch.set_deterministic_debug_mode(how)
