"""What each ATen operation becomes: the table of translations, and the remedies for what has none.

A translation takes the arguments of the call, with ``Value`` where images' data flows and constants elsewhere. It
returns the operations that replace the call, in order (none for a call that changes nothing), or raises
``Untranslatable``.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from equispike.graph import clips, linear, moves
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Flatten, Linear, MaxPool, Op, Pad
from equispike.graph.values import Mask, Ops, Stacked, Step, Untranslatable, Value, affordable, broadcast, flat, scaled

aten: Any = torch.ops.aten

SMOOTH = "not piecewise linear, so no firing rate equals it. Train with ReLU"
NO_STATISTICS = "has no running statistics to fold in. Use track_running_stats=True, and the model's eval mode"
RANDOM = "drops at random in eval mode too. Pass training=self.training"
THREE_DIMENSIONAL = "3d convolutions are not supported. Use 1d or 2d"
REMEDIES = {
    **dict.fromkeys(("sigmoid", "silu", "gelu", "tanh", "hardswish", "hardsigmoid", "mish", "softplus"), SMOOTH),
    **dict.fromkeys(("SiLU", "GELU", "Sigmoid", "Tanh", "Hardswish", "Hardsigmoid", "Mish", "Softplus"), SMOOTH),
    **dict.fromkeys(("elu", "selu", "celu", "ELU", "SELU", "CELU"), SMOOTH),
    **dict.fromkeys(
        ("softmax", "Softmax", "log_softmax", "LogSoftmax"),
        "needs all classes at once, so only at the end, where it is dropped, can it stand. Remove it",
    ),
    **dict.fromkeys(
        ("layer_norm", "LayerNorm", "group_norm", "GroupNorm", "InstanceNorm2d"),
        "its statistics change with every image. Train with batch norm, which folds into the weights",
    ),
    **dict.fromkeys(("native_batch_norm_legit", "native_batch_norm_legit_functional"), NO_STATISTICS),
    **dict.fromkeys(("batch_norm", "BatchNorm1d", "BatchNorm2d"), NO_STATISTICS),
    "native_dropout": RANDOM,
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d"), "drops at random. Export the model in eval mode"),
    **dict.fromkeys(("conv3d", "Conv3d", "conv_transpose3d", "ConvTranspose3d"), THREE_DIMENSIONAL),
    **dict.fromkeys(
        ("item", "local_scalar_dense"), "takes a number out of the images' data. Compute with tensors per image"
    ),
}


def remedy(operation: str) -> str:
    return REMEDIES.get(operation, "no translation into integrate-and-fire neurons. Replace it, or move it outside")


def _pair(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in flat(value))
    return values * dims if len(values) == 1 else values


def _conv(
    x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> list[Op]:  # fmt: skip
    dims = weight.ndim - 2
    if dims > 2:
        raise Untranslatable(THREE_DIMENSIONAL)
    dilations = _pair(dilation, dims)
    uneven: list[Op] = []
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        padding = [r // 2 for r in reach]
        uneven = _pad_or_crop((0,) * (dims + 1), (0, *(r % 2 for r in reach)))  # one more behind than in front
    elif padding == "valid":
        padding = 0
    return [*uneven, Conv(weight, bias, _pair(stride, dims), _pair(padding, dims), dilations, groups)]


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
    dilations, ones = _pair(dilation, dims), (1,) * dims
    before = [d * (k - 1) - p for d, k, p in zip(dilations, weight.shape[2:], _pair(padding, dims), strict=True)]
    after = [b + more for b, more in zip(before, _pair(output_padding, dims), strict=True)]
    between = (0, *(s - 1 for s in _pair(stride, dims)))
    spread = [Pad((0, *before), (0, *after), between)] if any((*before, *after, *between)) else list[Op]()
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    turned = grouped.transpose(1, 2).flatten(0, 1).flip(list(range(2, dims + 2)))
    return [*spread, Conv(turned.contiguous(), bias, ones, (0,) * dims, dilations, groups)]


def _upsample(x: Value, size: Any, factors: Any = None, *more: Any) -> Ops:
    """Nearest neighbours: each pixel repeated, as a transposed convolution with weights of one; others as a move."""
    space = x.shape[1:]
    if size is None:
        wanted = [int(n * float(f)) for n, f in zip(space, flat(factors), strict=True)]
    else:
        wanted = [int(n) for n in flat(size)]
    repeats = tuple(new // old for new, old in zip(wanted, space, strict=True))
    if any(new % old for new, old in zip(wanted, space, strict=True)):
        target = aten.upsample_nearest1d.vec if len(space) == 1 else aten.upsample_nearest2d.vec
        return moves.run(linear.interpolated, target, x, size, factors, *(more if factors is None else ()))
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
    return [*_linear(x, weight.t() * alpha), *scaled(Value(x.node, (weight.shape[1],)), 1.0, bias * beta)]


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


def _avg_pool(
    x: Value, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_pad: bool = True,
    divisor: int | None = None,
) -> Ops:  # fmt: skip
    dims = len(x.shape) - 1
    size = _pair(kernel, dims)
    pool = AvgPool(size, _pair(stride, dims) if stride else size, _pair(padding, dims), ceil_mode, count_pad)
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
    larger = _upsample(Value(x.node, (x.shape[0], *few)), wanted) if few != wanted else []
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
        raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
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


def _parts(x: Value, sizes: Any, dim: int = 0) -> list[Ops]:
    length = x.shape[dim % (len(x.shape) + 1) - 1]
    lengths = [int(n) for n in flat(sizes)]
    if len(lengths) == 1:
        lengths = [min(lengths[0], length - start) for start in range(0, length, lengths[0])]
    return [_slice(x, dim, end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]


def _chunks(x: Value, chunks: int, dim: int = 0) -> list[Ops]:
    return _parts(x, -(-x.shape[dim % (len(x.shape) + 1) - 1] // chunks), dim)


def _unbind(x: Value, dim: int = 0) -> list[Ops]:
    length = x.shape[dim % (len(x.shape) + 1) - 1]
    return [moves.move(aten.select.int)(x, dim, number) for number in range(length)]


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
    size = _pair(kernel, dims)
    strides = _pair(stride, dims) if stride else size
    return [MaxPool(size, strides, _pair(padding, dims), _pair(dilation, dims), ceil_mode)]


def _add(x: Any, y: Any, *, alpha: float = 1) -> Ops:
    if isinstance(x, Value) and isinstance(y, Value):
        if x.shape == y.shape:
            return [Add((1.0, float(alpha)))]
        return _broadcast(x, y, float(alpha))
    if isinstance(x, Value):
        return scaled(x, 1.0, y * alpha)
    return scaled(y, float(alpha), x)


def _broadcast(x: Value, y: Value, alpha: float) -> Ops:
    """A sum in which the smaller features are repeated."""
    try:
        shape = broadcast(x.shape, y.shape)
    except RuntimeError:
        shape = ()
    if len({len(x.shape), len(y.shape), len(shape)}) > 1:
        raise Untranslatable(f"adds features {x.shape} and {y.shape}. Give both the same shape")
    steps: list[Op | Step] = []
    places = [0, 1]
    for number, value in enumerate((x, y)):
        if value.shape != shape:
            places[number] = 2 + len(steps)
            steps.append(Step(linear.moved(lambda t: t.expand(len(t), *shape), value.shape, shape), (number,)))
    return [*steps, Step(Add((1.0, alpha)), (places[0], places[1]))]


def _sub(x: Any, y: Any, *, alpha: float = 1) -> Ops:
    return _add(x, y, alpha=-alpha)


def _rsub(x: Value, y: Any, alpha: float = 1) -> Ops:
    return scaled(x, -float(alpha), y)


def _neg(x: Value) -> Ops:
    return scaled(x, -1.0, 0.0)


def _mul(x: Any, y: Any) -> Ops:
    if isinstance(x, Value) and isinstance(y, Value):
        mask, other = (x, y) if isinstance(x, Mask) else (y, x)
        if isinstance(mask, Mask):
            return clips.chosen(mask, other, 0.0) if mask.above else clips.chosen(mask, 0.0, other)
        raise Untranslatable("multiplies two data-dependent tensors (a gate or attention). Remove it")
    return scaled(x, y, 0.0) if isinstance(x, Value) else scaled(y, x, 0.0)


def _div(x: Any, y: Any) -> Ops:
    if isinstance(y, Value):
        raise Untranslatable("divides by a data-dependent tensor. Remove it")
    return scaled(x, 1.0 / y, 0.0)


def _cat(values: list[Value | Tensor], dim: int = 0) -> Ops:
    if not all(isinstance(value, Value) for value in values):
        raise Untranslatable("joins data and constants. Join data alone")
    given = [value for value in values if isinstance(value, Value)]
    if dim % (len(given[0].shape) + 1) == 1:
        return [Concat((1.0,) * len(values))]
    return moves.joined(lambda parts: torch.cat(parts, dim), given)


def _stack(values: list[Value | Tensor], dim: int = 0) -> Ops:
    if not all(isinstance(value, Value) for value in values):
        raise Untranslatable("joins data and constants. Join data alone")
    return moves.joined(lambda parts: torch.stack(parts, dim), [v for v in values if isinstance(v, Value)])


def _pad(x: Value, amounts: Any, mode: str = "constant", value: float | None = None) -> Ops:
    rank, ends = len(x.shape), [int(n) for n in amounts]
    if not any(ends[2 * rank :]):  # of the images
        ends = ends[: 2 * rank]
    if mode == "constant" and not value and len(ends) <= 2 * rank:
        before, after = ([*ends[end::2], *(0,) * rank][:rank][::-1] for end in (0, 1))
        return _pad_or_crop(tuple(before), tuple(after))
    filling = {"value": value} if mode == "constant" else {}
    if len(ends) < 2 * rank:
        return [moves.alike(lambda t: torch.nn.functional.pad(t, ends, mode, **filling), x)]
    return moves.move(aten.pad.default)(x, ends, mode, **filling)


def _pad_with_value(x: Value, amounts: Any, value: float = 0.0) -> Ops:
    return _pad(x, amounts, value=value)


def _pad_by(mode: str) -> Callable[..., Ops]:
    def translate(x: Value, amounts: Any) -> Ops:
        return _pad(x, amounts, mode)

    return translate


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Ops:
    """Margins cut off, then every ``step``-th pixel: what is first in each window of a pool with a kernel of 1."""
    axis, rank = dim % (len(x.shape) + 1) - 1, len(x.shape)
    if axis < 0:  # images: all of them, or the batch would have changed
        return []
    first, last, _ = slice(start, end).indices(x.shape[axis])
    if last <= first:
        raise Untranslatable(f"takes nothing out of {x.shape[axis]}. Remove it")
    if step > 1 and (axis == 0 or rank > 3):
        return moves.move(aten.slice.Tensor)(x, dim, start, end, step)
    before, after, stride = [0] * rank, [0] * rank, [1] * rank
    before[axis], after[axis], stride[axis] = -first, last - x.shape[axis], step
    pool: list[Op] = [AvgPool((1,) * (rank - 1), tuple(stride[1:]), (0,) * (rank - 1))] if step > 1 else []
    return [*_pad_or_crop(tuple(before), tuple(after)), *pool]


def _pad_or_crop(before: tuple[int, ...], after: tuple[int, ...]) -> list[Op]:
    return [Pad(before, after)] if any(before) or any(after) else []


def _dropout(x: Value, p: float, train: bool) -> list[Op]:
    if train:
        raise Untranslatable(RANDOM)
    return []


def _nothing(x: Value, *_: Any, **__: Any) -> list[Op]:
    return []


TRANSLATIONS: dict[object, Callable[..., Ops]] = {
    **moves.TRANSLATIONS,
    **clips.TRANSLATIONS,
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.convolution.default: _convolution,
    aten.conv_transpose1d.default: _conv_transposed,
    aten.conv_transpose2d.input: _conv_transposed,
    aten.upsample_nearest1d.default: _upsample,
    aten.upsample_nearest1d.vec: _upsample,
    aten.upsample_nearest2d.default: _upsample,
    aten.upsample_nearest2d.vec: _upsample,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.addmm.default: _addmm,
    aten._native_batch_norm_legit_no_training.default: _trained_batch_norm,
    aten.batch_norm.default: _batch_norm,
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.amax.default: _max_of,
    aten.adaptive_max_pool1d.default: _adaptive_max_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.native_channel_shuffle.default: _channel_shuffle,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _sub,
    aten.rsub.Scalar: _rsub,
    aten.neg.default: _neg,
    aten.mul.Tensor: _mul,
    aten.div.Tensor: _div,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.pad.default: _pad,
    aten.reflection_pad1d.default: _pad_by("reflect"),
    aten.reflection_pad2d.default: _pad_by("reflect"),
    aten.replication_pad1d.default: _pad_by("replicate"),
    aten.replication_pad2d.default: _pad_by("replicate"),
    aten.constant_pad_nd.default: _pad_with_value,
    aten.slice.Tensor: _slice,
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.clone.default: _nothing,
    aten.alias.default: _nothing,
    aten.detach.default: _nothing,
    aten._to_copy.default: _nothing,
    aten.to.dtype: _nothing,
    aten.to.dtype_layout: _nothing,
    aten.contiguous.default: _nothing,
}
"""Translation of each operation that has one. Those in ``RESHAPES`` are judged by the shapes alone."""

SPLITS: dict[object, Callable[..., list[Ops]]] = {
    aten.unbind.int: _unbind,
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.chunk.default: _chunks,
}
"""Operations of several results: for each of them, the slice that takes it."""

SOFTMAXES: frozenset[object] = frozenset(
    {aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default}
)
"""At the end of a model, over the classes, these keep the order of the scores, and are left out."""

RISING: frozenset[object] = frozenset(
    {aten.sigmoid.default, aten.log_sigmoid.default, aten.log_sigmoid_forward.default, aten.tanh.default}
)
"""At the end of a model these keep the order of the scores too."""

HARMLESS: frozenset[object] = frozenset(target for target, made in TRANSLATIONS.items() if made in (_nothing, _dropout))
"""What may follow them."""

RESHAPES: frozenset[object] = frozenset(
    {
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.squeeze.default,
        aten.unsqueeze.default,
        aten.unflatten.int,
    }
)


def reshape(x: Value, shape: tuple[int, ...]) -> list[Op]:
    """A view of the features: a vector of all of them, or nothing (yet; see ``Value.viewed``)."""
    return [Flatten()] if len(shape) == 1 and (x.viewed or x.shape != shape) else []
