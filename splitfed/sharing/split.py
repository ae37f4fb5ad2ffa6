"""One mask that gives every tensor of a model exactly one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import blake3
import msgspec
import torch

from splitfed.errors import Defect, SharingError
from splitfed.sharing.names import named_tensors, selected, unwrapped
from splitfed.tensors import Tensors, describe
from splitfed.types import TensorSpec

_FINGERPRINT_DOMAIN = b"splitfed shared tensors v1\0"


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two sides of a model, each in the order of names.

    Attributes:
        shared: tensors that travel; equal at every party.
        private: tensors that stay; may differ between parties.
        aliases: ``{alias: name}`` for tensors tied to another tensor of the same side.
            An alias has no value of its own and is neither sent nor stored twice.
    """

    shared: tuple[TensorSpec, ...]
    private: tuple[TensorSpec, ...]
    aliases: Mapping[str, str]

    @property
    def shared_names(self) -> frozenset[str]:
        """Names of the tensors that travel."""
        return frozenset(spec.name for spec in self.shared)

    @property
    def private_names(self) -> frozenset[str]:
        """Names of the tensors that stay."""
        return frozenset(spec.name for spec in self.private)


def _declared(model: torch.nn.Module, side: str) -> tuple[str, ...] | None:
    patterns = getattr(model, side, None)
    if patterns is None or isinstance(patterns, torch.nn.Module | torch.Tensor):
        return None
    return _as_patterns(patterns, side)


def _as_patterns(patterns: object, side: str) -> tuple[str, ...]:
    if isinstance(patterns, str):
        return (patterns,)
    if isinstance(patterns, Sequence):
        return tuple(patterns)
    raise SharingError(
        f"{side} = {patterns!r} is neither a pattern nor a list of patterns",
        f'write for example {side} = ("conv1", "conv2")',
    )


def split_model(
    model: torch.nn.Module,
    shared: str | Sequence[str] | None = None,
    private: str | Sequence[str] | None = None,
) -> Split:
    """Give every parameter and buffer of ``model`` exactly one side.

    Args:
        model: any module; wrappers of opacus and DDP are looked through.
        shared: patterns of what travels (see :func:`~splitfed.sharing.matches`);
            None takes the class's own ``shared``. ``"*"`` shares everything: plain FedAvg.
        private: patterns of what stays; None takes the class's own ``private`` when
            ``shared`` comes from the class too. Where there is no ``private`` at all,
            whatever is not shared stays.

    Raises:
        SharingError: naming the tensor or pattern, when nothing is declared or shared, a
            pattern matches nothing, two patterns or both sides claim one tensor, a tensor
            has no side, or memory is shared across the border (tied weights).
    """
    inner = unwrapped(model)
    if shared is None:
        shared = _declared(inner, "shared")
        private = _declared(inner, "private") if private is None else private
    if shared is None:
        raise SharingError(
            f"{type(inner).__name__} does not declare which tensors it shares",
            'set shared = ("conv1", "conv2") on the class, or [model] shared in federation.toml',
        )
    tensors = named_tensors(inner)
    if not tensors:
        raise SharingError(
            f"{type(inner).__name__} has no parameters and no buffers", "give it some layers"
        )
    out = selected(_as_patterns(shared, "shared"), tensors, "shared")
    if not out:
        raise SharingError(
            "nothing is shared: the list of shared patterns is empty",
            'name at least one layer; shared = "*" shares the whole model',
        )
    if private is not None:
        _check_sides(tensors, out, selected(_as_patterns(private, "private"), tensors, "private"))
    aliases = _aliases(tensors, frozenset(out))
    specs = {spec.name: spec for spec in describe(tensors)}
    return Split(
        shared=tuple(specs[n] for n in sorted(specs) if n in out and n not in aliases),
        private=tuple(specs[n] for n in sorted(specs) if n not in out and n not in aliases),
        aliases=aliases,
    )


def _check_sides(tensors: Tensors, out: Mapping[str, str], stay: Mapping[str, str]) -> None:
    for name in sorted(tensors):
        if name in out and name in stay:
            raise SharingError(
                f"tensor {name} is declared both shared ('{out[name]}') "
                f"and private ('{stay[name]}')",
                "remove it from one of the two lists",
            )
        if name not in out and name not in stay:
            raise SharingError(
                f"tensor {name} is declared neither shared nor private",
                "add it to one list, or drop 'private' so that the rest stays private",
            )


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """First and past-the-end address of the memory that the tensor's values lie in."""
    span = sum(
        (size - 1) * abs(step) for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
    start = tensor.data_ptr()
    return start, start + (span + 1) * tensor.element_size()


def _aliases(tensors: Tensors, shared: frozenset[str]) -> dict[str, str]:
    """Same-side ties as ``{alias: first name}``; ties across the border are refused."""
    live = sorted(
        ((_extent(t), str(t.device), name) for name, t in tensors.items() if t.numel()),
        key=lambda item: (item[1], item[0], item[2]),
    )
    aliases: dict[str, str] = {}
    for index, ((start, end), device, name) in enumerate(live):
        for (other_start, other_end), other_device, other in live[index + 1 :]:
            if other_device != device or other_start >= end:
                break
            first, second = sorted((name, other))
            if (name in shared) != (other in shared):
                out, stay = (name, other) if name in shared else (other, name)
                raise SharingError(
                    f"shared tensor {out} and private tensor {stay} are tied: they use the "
                    "same memory, so the private one would leave with the shared one",
                    "put both on one side, or untie them (clone one of them)",
                )
            if (start, end) == (other_start, other_end):
                aliases[second] = aliases.get(first, first)
    return aliases


def fingerprint(specs: Sequence[TensorSpec]) -> str:
    """BLAKE3 over names, shapes and dtypes in order, as 64 hex digits.

    Equal fingerprints mean that two parties' shared tensors fit each other.
    """
    body = msgspec.msgpack.encode(tuple(sorted(specs)))
    return blake3.blake3(_FINGERPRINT_DOMAIN + body).hexdigest()


def shared_tensors(model: torch.nn.Module, split: Split) -> Tensors:
    """Copies of the shared tensors on the CPU, by canonical name."""
    return _copies(model, split.shared)


def private_tensors(model: torch.nn.Module, split: Split) -> Tensors:
    """Copies of the private tensors on the CPU, by canonical name. They never travel."""
    return _copies(model, split.private)


def _copies(model: torch.nn.Module, specs: Sequence[TensorSpec]) -> Tensors:
    tensors = named_tensors(unwrapped(model))
    copies = {spec.name: tensors[spec.name].to("cpu", copy=True).contiguous() for spec in specs}
    if describe(copies) != tuple(specs):
        raise Defect("the model's tensors changed shape or dtype since it was split")
    return copies


def partition(tensors: Mapping[str, torch.Tensor], split: Split) -> tuple[Tensors, Tensors]:
    """Sort ``tensors`` into (shared, private) without loss or overlap; aliases fall away.

    Raises:
        SharingError: a name that the split does not know, or one that is missing.
    """
    known = split.shared_names | split.private_names
    for name in sorted((set(tensors) - set(split.aliases)) ^ known):
        state = "unknown to the split" if name in tensors else "missing"
        raise SharingError(f"tensor {name} is {state}", "use the tensors of the model split")
    return (
        {spec.name: tensors[spec.name] for spec in split.shared},
        {spec.name: tensors[spec.name] for spec in split.private},
    )


def merge(shared: Mapping[str, torch.Tensor], private: Mapping[str, torch.Tensor]) -> Tensors:
    """The inverse of :func:`partition`: both sides as one set, names in order.

    Raises:
        SharingError: a name that stands on both sides.
    """
    for name in sorted(set(shared) & set(private)):
        raise SharingError(f"tensor {name} is on both sides", "merge two halves of one split")
    both = {**shared, **private}
    return {name: both[name] for name in sorted(both)}


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy ``tensors`` into ``model`` in place, by canonical name. Others stay as they are.

    Raises:
        SharingError: a name the model does not have, or another shape or dtype; the model
            is unchanged then.
    """
    targets = named_tensors(unwrapped(model))
    for name, value in tensors.items():
        target = targets.get(name)
        if target is None:
            raise SharingError(f"the model has no tensor {name}", "check the model's factory")
        if target.shape != value.shape or target.dtype != value.dtype:
            raise SharingError(
                f"tensor {name} is {tuple(value.shape)} {value.dtype}, "
                f"the model's is {tuple(target.shape)} {target.dtype}",
                "check the model's factory and arguments",
            )
    with torch.no_grad():
        for name, value in tensors.items():
            targets[name].copy_(value)
