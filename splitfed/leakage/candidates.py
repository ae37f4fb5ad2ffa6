"""The splits that are compared: the model's first stage, its first two, and so on to all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape

from torch import nn

from splitfed.sharing import Split, split_model
from splitfed.sharing.algorithms import NORMS
from splitfed.sharing.names import named_tensors, unwrapped

MOST = 6
"""Prefixes that are compared at most: a deep model has dozens."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to split a model.

    Attributes:
        label: what it shares, for a person: "conv1", "conv1 to conv3", "everything", or
            "as agreed" where the agreed set is no prefix.
        split: the split.
        agreed: whether it is the one of the agreement.
    """

    label: str
    split: Split
    agreed: bool


def candidates(model: nn.Module, agreed: Split, most: int = MOST) -> list[Candidate]:
    """Prefixes of the model's stages in the order in which the class declares them, and the
    agreed split among them or, where it is no prefix, at the end.

    A stage is an outermost submodule that holds tensors; a normalisation layer belongs to the
    stage before it. Of more than ``most`` prefixes, some evenly chosen ones stay: always the
    first and everything.

    Raises:
        SharingError: tied tensors lie on both sides of a border.
    """
    stages = list(_stages(unwrapped(model)))
    found: list[Candidate] = []
    seen: set[frozenset[str]] = set()
    for count in _evenly(len(stages), most):
        whole = count == len(stages)
        names = [name for stage in stages[:count] for name in stage.names]
        split = split_model(model, ("*",) if whole else tuple(map(escape, names)))
        label = stages[0].name if count == 1 else f"{stages[0].name} to {stages[count - 1].name}"
        found.append(
            Candidate(
                label="everything" if whole else label,
                split=split,
                agreed=split.shared_names == agreed.shared_names,
            )
        )
        seen.add(split.shared_names)
    if agreed.shared_names not in seen:
        found.append(Candidate(label="as agreed", split=agreed, agreed=True))
    return found


@dataclass(frozen=True, kw_only=True)
class _Stage:
    name: str
    names: tuple[str, ...]


def _stages(model: nn.Module) -> Iterator[_Stage]:
    """The outermost submodules with tensors, norms joined to what precedes them; of a model that
    holds one submodule alone, that one's. What the model holds itself comes last."""
    everything = named_tensors(model)
    prefix, inner = "", model
    while len(children := list(inner.named_children())) == 1 and not _own(inner):
        prefix += f"{children[0][0]}."
        inner = children[0][1]
    grouped: list[tuple[str, list[str]]] = []
    for name, part in children:
        names = [n for n in everything if n.startswith(f"{prefix}{name}.")]
        if not names:
            continue
        if isinstance(part, NORMS) and grouped:
            grouped[-1][1].extend(names)
        else:
            grouped.append((name, names))
    taken = {name for _, names in grouped for name in names}
    rest = [name for name in everything if name not in taken]
    for name, names in grouped:
        yield _Stage(name=name, names=tuple(names))
    if rest:
        yield _Stage(name="the rest", names=tuple(rest))


def _own(model: nn.Module) -> bool:
    return any(True for _ in model.parameters(recurse=False)) or any(
        True for _ in model.buffers(recurse=False)
    )


def _evenly(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of 1..count, the ends among them."""
    if count <= most:
        return range(1, count + 1)
    return sorted({1 + round(i * (count - 1) / (most - 1)) for i in range(most)})
