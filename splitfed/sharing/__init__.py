"""Which tensors of a model leave the house and which stay.

A model class declares ``shared`` (and, if it likes, ``private``) as patterns; the
agreement may override both. :func:`split_model` gives every parameter and every buffer
exactly one side or refuses, naming the tensor: sharing fails closed.

>>> import torch
>>> class Net(torch.nn.Module):
...     shared = ("conv1",)
...     def __init__(self):
...         super().__init__()
...         self.conv1 = torch.nn.Conv2d(1, 2, 3)
...         self.conv10 = torch.nn.Conv2d(2, 2, 3)
>>> split = split_model(Net())
>>> [spec.name for spec in split.shared]
['conv1.bias', 'conv1.weight']
>>> [spec.name for spec in split.private]
['conv10.bias', 'conv10.weight']
"""

from __future__ import annotations

from splitfed.sharing.algorithms import algorithm_split
from splitfed.sharing.names import canonical_name, matches, named_tensors
from splitfed.sharing.split import (
    Split,
    fingerprint,
    load_tensors,
    merge,
    partition,
    private_tensors,
    shared_tensors,
    split_model,
)

__all__ = [
    "Split",
    "algorithm_split",
    "canonical_name",
    "fingerprint",
    "load_tensors",
    "matches",
    "merge",
    "named_tensors",
    "partition",
    "private_tensors",
    "shared_tensors",
    "split_model",
]
