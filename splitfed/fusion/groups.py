"""Which channels of a model's private layers may change places without changing its function.

Hidden channels have no names: two parties that learn the same features learn them in different
orders. Permuting the output channels of one layer changes nothing as long as everything that
works channel by channel after it (normalisation, depthwise convolution) and the input channels of
the next layer are permuted alike (Ainsworth et al. 2023, *Git Re-Basin*, section 2).

Candidates are read off the order in which layers run, which says nothing about residual
connections, groups of channels or tied weights. So each is put to the proof, and only what obeys
the permutation law numerically is kept: what is not understood is never matched wrongly.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from splitfed.errors import Defect, ModelError
from splitfed.random import forked, generator
from splitfed.sharing import Split, canonical_name, load_tensors, named_tensors
from splitfed.tensors import Tensors

Place = tuple[str, int, int]
"""(tensor, dimension, block): channel c is the slices c·block … (c + 1)·block - 1 of the
dimension. A block above 1 is what a flattened [C, h, w] leaves of a channel: h·w features."""

IMAGES = 2
"""Random inputs for the proof."""
SAME = 1e-9
"""Outputs closer than this, relative to the largest, count as equal: float64 with its sums in
another order is 10⁻¹² apart, another function 10⁻² or more."""


@dataclass(frozen=True)
class Group:
    """Channels that may be permuted, and every place in which they must be permuted together.

    Attributes:
        size: number of channels, at least 2.
        places: the producer's weight first, the consumer's weight last.
    """

    size: int
    places: tuple[Place, ...]


def channel_groups(model: nn.Module, split: Split, example: Tensor) -> tuple[Group, ...]:
    """The groups of private channels of ``model`` that obey the permutation law, in the order
    in which they are computed.

    A group runs from one Conv2d or Linear to the next one executed and consists of private
    tensors only. Every permutation of it leaves the outputs as they are: shown in float64 on
    random inputs, with all parameters and buffers redrawn, so that it does not rest on values
    that happen to be equal (a fresh BatchNorm is all ones and zeros).

    A model that returns no tensor or does not run in float64 has no groups. The model itself,
    and torch's global generator, are left as they are: all of this happens to a copy.

    Args:
        model: images [N, C, H, W] -> [N, ...].
        split: of this model.
        example: [1, C, H, W], float; its shape is used and its values only to run once.

    Raises:
        ModelError: the model does not accept ``example``.
    """
    with torch.no_grad(), forked(0, "fusion", "foreign forward pass"):
        twin = copy.deepcopy(model).cpu().eval()
        layers = _executed(twin, example.detach().cpu())
        names = {
            id(tensor): canonical_name(name)
            for name, tensor in (*twin.named_parameters(), *twin.named_buffers())
        }
        candidates = tuple(_candidates(layers, names, split))
        draw = generator(0, "fusion", "channel groups")
        _redraw(twin.double(), draw)
        inputs = _normal((IMAGES, *example.shape[1:]), draw)
        return tuple(group for group in candidates if _obeys_the_law(twin, group, inputs))


def permuted(
    tensors: Mapping[str, Tensor], group: Group, permutation: Tensor | Sequence[int]
) -> Tensors:
    """``tensors`` with channel ``permutation[c]`` of ``group`` moved to place c.

    Returns:
        The permuted tensors as copies; all others are the very same objects.

    Raises:
        Defect: not a permutation of the group's channels, or a tensor that is missing or does
            not have them.
    """
    order = torch.as_tensor(permutation, dtype=torch.int64)
    if order.shape != (group.size,) or not torch.equal(order.sort()[0], torch.arange(group.size)):
        raise Defect(f"{order.tolist()} is not a permutation of {group.size} channels")
    result = dict(tensors)
    for name, dim, block in group.places:
        if name not in result or result[name].shape[dim] != group.size * block:
            raise Defect(f"tensor {name} does not have {group.size} x {block} in dimension {dim}")
        index = (order[:, None] * block + torch.arange(block)).flatten()
        result[name] = result[name].detach().index_select(dim, index.to(result[name].device))
    return result


# --- candidates ----------------------------------------------------------------------------


def _executed(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """The modules with tensors of their own, in the order in which they finish."""
    order: list[nn.Module] = []

    def note(module: nn.Module, inputs: object, outputs: object) -> None:
        order.append(module)

    hooks = [
        module.register_forward_hook(note) for module in model.modules() if _own_tensors(module)
    ]
    try:
        model(example)
    except Exception as problem:  # a forward pass is foreign code
        raise ModelError(
            f"the model does not accept an example of shape {list(example.shape)}: {problem}",
            "check the size and channels of the images in the agreement",
        ) from problem
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _mixes(module: nn.Module) -> bool:
    """Whether each output channel depends on all input channels."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _candidates(
    layers: Sequence[nn.Module], names: Mapping[int, str], split: Split
) -> Iterator[Group]:
    tied = {*split.aliases, *split.aliases.values()}
    mixing = [index for index, layer in enumerate(layers) if _mixes(layer)]
    for start, end in pairwise(mixing):
        chain = layers[start : end + 1]
        places = _places(chain, names)
        once = all(sum(layer is other for other in layers) == 1 for layer in chain)
        private = all(name in split.private_names - tied for name, _, _ in places)
        if places and once and private:
            yield Group(size=_width(chain[0]), places=tuple(places))


def _width(producer: nn.Module) -> int:
    weight = producer.weight
    assert isinstance(weight, Tensor)
    return len(weight)


def _places(chain: Sequence[nn.Module], names: Mapping[int, str]) -> list[Place]:
    """Where the channels between the two ends of ``chain`` show; empty where that is unclear."""
    producer, *between, consumer = chain
    ends = (producer, consumer)
    if not all({"weight"} <= _own_tensors(end).keys() <= {"weight", "bias"} for end in ends):
        return []  # masked, or reparametrised: what else there is belongs to which channel?
    size = _width(producer)
    wanted = [(tensor, 0) for tensor in _own_tensors(producer).values()]
    for layer in between:
        # a tensor of one element, such as num_batches_tracked, belongs to all channels alike
        wanted += [(tensor, 0) for tensor in _own_tensors(layer).values() if tensor.numel() > 1]
    wanted.append((_own_tensors(consumer)["weight"], 1))
    if size < 2 or any(tensor.shape[dim] % size for tensor, dim in wanted):
        return []
    return [(names[id(tensor)], dim, tensor.shape[dim] // size) for tensor, dim in wanted]


# --- the proof -----------------------------------------------------------------------------


def _normal(shape: Sequence[int], draw: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64, generator=draw)


def _redraw(model: nn.Module, draw: torch.Generator) -> None:
    """Values without coincidences, of a size that keeps signals alive through many layers."""
    matrices = {id(p) for p in model.parameters() if p.dim() > 1}
    for _, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if id(tensor) in matrices:
            fan_in = tensor.numel() / len(tensor)
            tensor.copy_(_normal(tensor.shape, draw) * (2 / fan_in) ** 0.5)
        else:  # positive: it may be a variance
            uniform = torch.rand(tensor.shape, dtype=torch.float64, generator=draw)
            tensor.copy_(uniform + 0.5)


def _obeys_the_law(model: nn.Module, group: Group, inputs: Tensor) -> bool:
    """Whether outputs stay the same under every permutation of ``group``.

    Permutations that leave a function as it is can be composed, and all of them are composed of
    two: the exchange of the first two channels, and the cycle of all. So two trials prove what
    a random permutation, which may keep to the groups of a GroupNorm, would leave open.
    """
    channels = list(range(group.size))
    exchange = [1, 0, *channels[2:]]
    cycle = [*channels[1:], 0]
    without_consumer = Group(group.size, group.places[:-1])
    before = _outputs(model, inputs)
    if before is None or not all(
        _same(before, _outputs_of(model, group, order, inputs)) for order in (exchange, cycle)
    ):
        return False
    # A law that breaking it does not break proves nothing: the channels may be dead.
    broken = _outputs_of(model, without_consumer, cycle, inputs)
    return broken is not None and not _same(before, broken)


def _outputs_of(
    model: nn.Module, group: Group, permutation: Sequence[int], inputs: Tensor
) -> Tensor | None:
    """The outputs once ``group`` is permuted. It stays so: redrawn values are as good as before."""
    every = named_tensors(model)
    places = {name: every[name] for name, _, _ in group.places}
    load_tensors(model, permuted(places, group, permutation))
    return _outputs(model, inputs)


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor | None:
    try:
        outputs = model(inputs)
    except Exception:  # foreign code, which need not run in float64
        return None
    if not isinstance(outputs, Tensor) or outputs.numel() == 0:
        return None
    return outputs if bool(torch.isfinite(outputs).all()) else None


def _same(left: Tensor, right: Tensor | None) -> bool:
    if right is None or left.shape != right.shape:
        return False
    return bool((left - right).abs().max() <= SAME * left.abs().max())
