"""splitfed: institutions train image models together and share only the layers they declare.

``Federation`` and ``Party`` run a whole federation in one process, for notebooks and tests;
two institutions use the command ``splitfed``. ``load`` opens a finished run's model to predict
with. Importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitfed.serve import load
    from splitfed.simulation import Federation, Party

__all__ = ["Federation", "Party", "__version__", "load"]

_HOMES = {"Federation": "simulation", "Party": "simulation", "load": "serve"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        # By name: the layers above must not become imports of the package itself.
        return getattr(import_module(f"splitfed.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'splitfed' has no attribute {name!r}")
