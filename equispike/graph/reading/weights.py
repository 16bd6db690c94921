"""Calls that sum up features or compare them: convolutions, linear layers, batch norm; pools of any kind."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equispike.graph import linear
from equispike.graph.ops import Add, Affine, AvgPool, Conv, Flatten, Linear, MaxPool, Op, Pad
from equispike.graph.reading import moves
from equispike.graph.reading.terms import Ops, Stacked, Untranslatable, Value, affine, affordable, aten, flat, per_axis

NO_STATISTICS = "has no running statistics to fold in. Use track_running_stats=True, and the model's eval mode"
THREE_DIMENSIONAL = "3d convolutions are not supported. Use 1d or 2d"


def _conv(
    x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> list[Op]:  # fmt: skip
    dims = weight.ndim - 2
    if dims > 2:
        raise Untranslatable(THREE_DIMENSIONAL)
    dilations = per_axis(dilation, dims)
    uneven: list[Op] = []
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        padding = [r // 2 for r in reach]
        uneven = moves.margins((0,) * (dims + 1), (0, *(r % 2 for r in reach)))  # one more behind than in front
    elif padding == "valid":
        padding = 0
    return [*uneven, Conv(weight, bias, per_axis(stride, dims), per_axis(padding, dims), dilations, groups)]


def _convolution(
    x: Value, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> list[Op]:  # fmt: skip
    if transposed:
        return _conv_transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(x, weight, bias, stride, padding, dilation, groups)


def _conv_transposed(
    x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> list[Op]:  # fmt: skip
    """A convolution with the kernel turned round, over features with stride - 1 zeros between them."""
    dims = weight.ndim - 2
    if dims > 2:
        raise Untranslatable(THREE_DIMENSIONAL)
    dilations, ones = per_axis(dilation, dims), (1,) * dims
    before = [d * (k - 1) - p for d, k, p in zip(dilations, weight.shape[2:], per_axis(padding, dims), strict=True)]
    after = [b + more for b, more in zip(before, per_axis(output_padding, dims), strict=True)]
    between = (0, *(s - 1 for s in per_axis(stride, dims)))
    spread = [Pad((0, *before), (0, *after), between)] if any((*before, *after, *between)) else list[Op]()
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    turned = grouped.transpose(1, 2).flatten(0, 1).flip(list(range(2, dims + 2)))
    return [*spread, Conv(turned.contiguous(), bias, ones, (0,) * dims, dilations, groups)]


def upsample(x: Value, size: Any, factors: Any = None, *more: Any) -> Ops:
    """Nearest neighbours: each pixel repeated, as a transposed convolution with weights of one; others as a move."""
    space = x.shape[1:]
    if size is None:
        wanted = [int(n * float(f)) for n, f in zip(space, flat(factors), strict=True)]
    else:
        wanted = [int(n) for n in flat(size)]
    repeats = tuple(new // old for new, old in zip(wanted, space, strict=True))
    if any(new % old for new, old in zip(wanted, space, strict=True)):
        target = aten.upsample_nearest1d.vec if len(space) == 1 else aten.upsample_nearest2d.vec
        return moves.mapped(linear.interpolated, target, x, size, factors, *(more if factors is None else ()))
    return _conv_transposed(x, torch.ones(affordable(x.shape[0], 1, *repeats)), None, repeats, groups=x.shape[0])


def _linear(x: Value, weight: Tensor, bias: Tensor | None = None) -> Ops:
    """On the last axis: of a vector a linear layer, else a 1x1 convolution with this axis as its channels."""
    *others, size = x.shape
    if not others:
        return [Linear(weight, bias)]
    places = math.prod(others)
    back = (*others, len(weight))
    return [
        linear.moved(lambda t: t.reshape(len(t), places, size).transpose(1, 2), x.shape, (size, places)),
        Conv(weight[:, :, None].contiguous(), bias, (1,), (0,), (1,)),
        linear.moved(lambda t: t.transpose(1, 2).reshape(len(t), *back), (len(weight), places), back),
    ]


def _matmul(x: Any, weight: Any) -> Ops:
    if isinstance(x, Value) and isinstance(weight, Tensor) and weight.ndim == 2:
        return _linear(x, weight.t().contiguous())
    if isinstance(x, Value) and isinstance(weight, Value):
        raise Untranslatable("multiplies two data-dependent tensors. Only images times fixed weights convert")
    return moves.mapped(linear.found, aten.matmul.default, x, weight)


def _addmm(bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Ops:
    if not isinstance(x, Value) or not isinstance(weight, Tensor) or isinstance(bias, Value):
        raise Untranslatable("is not images times fixed weights. Only x @ weight, with a matrix, converts")
    return [*_linear(x, weight.t() * alpha), *affine(Value(x.node, (weight.shape[1],)), 1.0, bias * beta)]


def _batch_norm(
    x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, training: bool,
    momentum: float, eps: float, cudnn: bool = False,
) -> list[Op]:  # fmt: skip
    if mean is None or var is None or training:
        raise Untranslatable(NO_STATISTICS)
    scale = torch.rsqrt(var.double() + eps) * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    return [Affine(scale.to(var.dtype), shift.to(var.dtype))]


def _trained_batch_norm(x: Value, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> list[Op]:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


def _channel_shuffle(x: Value, groups: int) -> list[Op]:
    """A 1x1 convolution that puts each channel in its new place."""
    channels = torch.arange(x.shape[0]).view(groups, -1).t().flatten()
    ones = (1,) * (len(x.shape) - 1)
    weight = torch.zeros(affordable(x.shape[0], x.shape[0])).fill_diagonal_(1)[channels].view(x.shape[0], -1, *ones)
    return [Conv(weight, None, ones, (0,) * len(ones), ones)]


def _pixel_shuffle(x: Value, factor: int) -> list[Op]:
    """A transposed convolution that puts each channel in its place of a block of pixels."""
    channels, block = x.shape[0] // factor**2, factor**2
    weight = torch.zeros(affordable(channels, block, channels, block))
    weight[torch.arange(channels), :, torch.arange(channels)] = torch.eye(block)
    return _conv_transposed(x, weight.view(-1, channels, factor, factor), stride=factor)


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
    larger = upsample(Value(x.node, (x.shape[0], *few)), wanted) if few != wanted else []
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


WEIGHTS: dict[object, Callable[..., Ops]] = {
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.convolution.default: _convolution,
    aten.conv_transpose1d.default: _conv_transposed,
    aten.conv_transpose2d.input: _conv_transposed,
    aten.upsample_nearest1d.default: upsample,
    aten.upsample_nearest1d.vec: upsample,
    aten.upsample_nearest2d.default: upsample,
    aten.upsample_nearest2d.vec: upsample,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
    aten._native_batch_norm_legit_no_training.default: _trained_batch_norm,
    aten.batch_norm.default: _batch_norm,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.native_channel_shuffle.default: _channel_shuffle,
    aten.pixel_shuffle.default: _pixel_shuffle,
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
