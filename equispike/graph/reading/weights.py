"""Calls that sum up features with weights of their own: convolutions, linear layers, batch norm."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equispike.graph import linear
from equispike.graph.ops import Affine, Conv, Linear, Op, Pad
from equispike.graph.reading import moves
from equispike.graph.reading.values import Ops, Untranslatable, Value, affine, affordable, aten, flat, per_axis

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
    return moves.weighted(aten.matmul.default)(x, weight)


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
}
