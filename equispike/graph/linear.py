"""Fixed linear maps, found by running what a model calls, and kept as one ``Sparse``.

Whatever sums features with fixed weights is such a map. What only moves features is run once, on their numbers; what
weighs them is run on one feature at a time, all others being zero. Either way in float64, where both are exact.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equispike.graph.ops import AvgPool, Sparse

Function = Callable[[Tensor], Tensor]
"""Features of images (B, *features) to others (B, *features), each image by itself."""

_MOST = 2**31
"""Products of features in and out up to which one at a time is tried."""

AT_ONCE = 2**24
"""Numbers that a function gives at once while it is tried."""


def moved(function: Function, shape: tuple[int, ...], out: tuple[int, ...]) -> Sparse:
    """The map of a function that only moves features, repeats them, leaves them out, or puts zeros.

    >>> moved(lambda x: x.flip(1), (3,), (3,)).source
    tensor([[2, 1, 0]])
    """
    size = math.prod(shape)
    places = function(torch.arange(1, size + 1, dtype=torch.float64).view(1, *shape)).reshape(1, -1).long()
    return Sparse(out, size, (places - 1).clamp(min=0), (places > 0).double())


def reshaped(shape: tuple[int, ...]) -> Sparse:
    """Features as they are, in another shape."""
    return multiplied(torch.ones(()), shape)


def multiplied(factors: Tensor, shape: tuple[int, ...], bias: Tensor | None = None) -> Sparse:
    """Each feature times a factor of its own, and a bias; both broadcast to the shape."""
    size = math.prod(shape)
    source = torch.arange(size, device=factors.device)[None]
    weight = factors.expand(shape).reshape(1, size)
    added = None if bias is None or not bool(bias.any()) else bias.expand(shape).contiguous()
    return Sparse(shape, size, source, weight.contiguous(), added)


def summed(shape: tuple[int, ...], axes: Sequence[int], out: tuple[int, ...], mean: bool) -> Sparse:
    """Sums or means over some axes of the features, counted from 0."""
    kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
    targets = torch.arange(math.prod(kept)).view(kept).expand(shape).flatten()
    many = len(targets) // math.prod(kept)
    source = targets.argsort(stable=True).view(-1, many).t().contiguous()
    weight = torch.full(source.shape, 1 / many if mean else 1.0, dtype=torch.float64)
    return Sparse(out, len(targets), source, weight)


def found(function: Function, shape: tuple[int, ...], out: tuple[int, ...], channels: int = 1) -> Sparse | None:
    """The map of any function that is linear but for a constant; None if trying it would take too long.

    Args:
        function: sees features of ``shape``.
        out: shape of what the map gives, all channels together.
        channels: so many blocks of ``shape`` lie one after the other, and each goes through the function by itself.
    """
    size = math.prod(shape)
    zero = function(torch.zeros(1, *shape, dtype=torch.float64)).reshape(-1)
    if size * len(zero) > _MOST:
        return None
    entries: list[tuple[Tensor, Tensor, Tensor]] = []
    step = max(1, AT_ONCE // max(size, len(zero)))
    for first in range(0, size, step):
        ones = torch.zeros(min(step, size - first), size, dtype=torch.float64)
        ones[torch.arange(len(ones)), first + torch.arange(len(ones))] = 1
        given = function(ones.view(-1, *shape)).reshape(len(ones), -1) - zero
        source, target = given.nonzero(as_tuple=True)
        entries.append((source + first, target, given[source, target]))
    sources, targets, weights = (torch.cat(parts) for parts in zip(*entries, strict=True))
    bias = zero.repeat(channels).view(out) if bool(zero.any()) else None
    return _gathered(out, size, sources, targets, weights, len(zero), bias)


def interpolated(function: Function, shape: tuple[int, ...], out: tuple[int, ...]) -> Sparse:
    """The map of a function that treats channels alike and the axes of space one after the other."""
    matrices: list[Tensor] = []
    for axis in range(1, len(shape)):
        ones = [1] * (len(shape) - 2)
        line = torch.eye(shape[axis], dtype=torch.float64).view(
            shape[axis], 1, *ones[: axis - 1], -1, *ones[axis - 1 :]
        )
        matrices.append(function(line).movedim(axis + 1, -1).flatten(1, -2)[:, 0])
    sources, targets = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    weights = torch.ones(1, dtype=torch.float64)
    for matrix in matrices:
        source, target = matrix.nonzero(as_tuple=True)
        sources = (sources[:, None] * matrix.shape[0] + source).flatten()
        targets = (targets[:, None] * matrix.shape[1] + target).flatten()
        weights = (weights[:, None] * matrix[source, target]).flatten()
    size = math.prod(shape[1:])
    return _gathered(out, size, sources, targets, weights, math.prod(out[1:]), None)


def pooled(op: AvgPool, shape: tuple[int, ...]) -> Sparse | None:
    """An average pool of features of this shape, whatever its windows; None if that would take too long."""
    channels, *space = shape
    one = (1, *space)
    return found(op, one, (channels, *op.divisors(tuple(space)).shape), channels)


def composed(outer: Sparse, inner: Sparse) -> Sparse:
    """Two moves in a row as one."""
    outputs, size = math.prod(inner.shape), len(inner.source[0])
    blocks = outputs // size
    source, weight = spread(inner, blocks)
    chosen, own = spread(outer, outputs // outer.size)
    return Sparse(outer.shape, inner.size * blocks, source[:, chosen[0]], weight[:, chosen[0]] * own)


def spread(op: Sparse, blocks: int) -> tuple[Tensor, Tensor]:
    """Sources and weights of all blocks, in places of the whole features."""
    first = torch.arange(blocks, device=op.source.device).repeat_interleave(op.source.shape[1]) * op.size
    return op.source.repeat(1, blocks) + first, op.weight.repeat(1, blocks)


def _gathered(
    out: tuple[int, ...], size: int, sources: Tensor, targets: Tensor, weights: Tensor, outputs: int,
    bias: Tensor | None,
) -> Sparse:  # fmt: skip
    """The map of entries in any order, as rows of sources for each output."""
    order = targets.argsort(stable=True)
    sources, targets, weights = sources[order], targets[order], weights[order]
    counts = targets.bincount(minlength=outputs)
    row = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[targets]
    source = torch.zeros(max(1, int(counts.max())), outputs, dtype=torch.int64)
    weight = torch.zeros(source.shape, dtype=torch.float64)
    source[row, targets], weight[row, targets] = sources, weights
    return Sparse(out, size, source, weight, bias)
