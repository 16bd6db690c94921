"""Calls that average, sum or take the maximum of windows, of all of space or of channels."""

from collections.abc import Callable
from typing import Any

import torch

from equispike.graph import linear
from equispike.graph.ops import Add, AvgPool, Conv, Flatten, MaxPool, Op
from equispike.graph.reading import moves, weights
from equispike.graph.reading.values import Ops, Stacked, Untranslatable, Value, aten, flat, per_axis


def _avg_pool(
    x: Value, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_pad: bool = True,
    divisor: int | None = None,
) -> Ops:  # fmt: skip
    dims = len(x.shape) - 1
    size = per_axis(kernel, dims)
    pool = AvgPool(size, per_axis(stride, dims) if stride else size, per_axis(padding, dims), ceil_mode, count_pad)
    return [pool] if divisor is None else [moves.alike(lambda t: pool.total(t) / divisor, x)]


def _adaptive_avg_pool(x: Value, size: Any) -> Ops:
    space = x.shape[1:]
    sizes = [None if n is None else int(n) for n in flat(size)]
    sizes = sizes * len(space) if len(sizes) == 1 else sizes
    wanted = tuple(have if want is None else want for have, want in zip(space, sizes, strict=True))
    if any(have % want and want % have for have, want in zip(space, wanted, strict=True)):
        pool: Any = (
            torch.nn.functional.adaptive_avg_pool1d if len(space) == 1 else torch.nn.functional.adaptive_avg_pool2d
        )
        return [moves.alike(lambda t: pool(t, wanted), x)]
    kernel = tuple(max(1, have // want) for have, want in zip(space, wanted, strict=True))
    few = tuple(min(have, want) for have, want in zip(space, wanted, strict=True))
    larger = weights.upsample(Value(x.node, (x.shape[0], *few)), wanted) if few != wanted else []
    return [
        *([AvgPool(kernel, kernel, (0,) * len(space))] if any(n > 1 for n in kernel) or not larger else []),
        *larger,
    ]


def _mean(x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None, mean: bool = True) -> Ops:
    if isinstance(x, Stacked) and [int(d) for d in flat(dims)] == [0] and not keepdim:
        return [Add((1 / len(x.parts) if mean else 1.0,) * len(x.parts))]
    rank = len(x.shape)
    over = sorted({int(d) % (rank + 1) - 1 for d in flat(dims)}) if dims is not None and list(flat(dims)) else []
    if not over or over[0] < 0:
        raise Untranslatable(moves.MIXES)
    out = tuple(1 if axis in over else n for axis, n in enumerate(x.shape) if keepdim or axis not in over) or (1,)
    if rank > 1 and over == list(range(1, rank)) and mean:
        space = x.shape[1:]
        return [AvgPool(space, space, (0,) * len(space)), *([] if keepdim else [Flatten()])]
    if over == [0] and rank in (2, 3):  # over the channels
        ones = (1,) * (rank - 1)
        weight = torch.full((1, x.shape[0], *ones), 1 / x.shape[0] if mean else 1.0, dtype=torch.float64)
        return [Conv(weight, None, ones, (0,) * (rank - 1), ones), *([] if keepdim else [linear.reshaped(out)])]
    return [linear.summed(x.shape, over, out, mean)]


def _sum(x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Ops:
    return _mean(x, dims, keepdim, mean=False)


def _adaptive_max_pool(x: Value, size: Any) -> Ops:
    space = x.shape[1:]
    wanted = [int(n) for n in flat(size)]
    wanted = wanted * len(space) if len(wanted) == 1 else wanted
    if any(have % want for have, want in zip(space, wanted, strict=True)):
        raise Untranslatable(
            f"{space} does not divide into {tuple(wanted)} equal windows. Choose a size that divides it"
        )
    kernel = tuple(have // want for have, want in zip(space, wanted, strict=True))
    return _max_pool(x, kernel)


def _max_of(x: Value, dims: Any = (), keepdim: bool = False) -> Ops:
    rank = len(x.shape)
    if sorted(int(d) % (rank + 1) for d in flat(dims)) != list(range(2, rank + 1)) or rank == 1:
        raise Untranslatable("only the maximum over all of space is a pool. Use a pool, or average")
    return [*_max_pool(x, x.shape[1:]), *([] if keepdim else [Flatten()])]


def _max_pool(
    x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> list[Op]:
    dims = len(x.shape) - 1
    size = per_axis(kernel, dims)
    strides = per_axis(stride, dims) if stride else size
    if set(size) == {1}:  # the largest of one
        return _avg_pool(x, kernel, stride, padding, ceil_mode)
    return [MaxPool(size, strides, per_axis(padding, dims), per_axis(dilation, dims), ceil_mode)]


POOLS: dict[object, Callable[..., Ops]] = {
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.amax.default: _max_of,
    aten.adaptive_max_pool1d.default: _adaptive_max_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.max_pool2d_with_indices.default: _max_pool,
}
