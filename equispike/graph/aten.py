"""What each ATen operation becomes: the table of translations, and the remedies for what has none.

A translation takes the arguments of the call, with ``Value`` where images' data flows and constants elsewhere. It
returns the operations that replace the call, in order (none for a call that changes nothing), or raises
``Untranslatable``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from equispike.functional import rate
from equispike.graph.network import LARGEST
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Flatten, LeakyReLU, Linear, MaxPool, Neuron, Op, Pad

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Value:
    """Data of the images inside a model: the Network node that computes it, and its features without the batch.

    ``viewed``: the node has these features in another shape, so that only a reshape to a vector can follow.
    """

    node: str
    shape: tuple[int, ...]
    viewed: bool = False


class Untranslatable(Exception):
    """An operation, or a use of one, without translation; of its two sentences one is the reason, one the remedy."""

    @property
    def why(self) -> str:
        return str(self).partition(". ")[0]

    @property
    def remedy(self) -> str:
        return str(self).partition(". ")[2]


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
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d"), "is not nearest. Use nearest"),
    **dict.fromkeys(("conv3d", "Conv3d", "conv_transpose3d", "ConvTranspose3d"), THREE_DIMENSIONAL),
    "select": "takes one channel or row and drops its dimension. Keep it: x[:, 2:3] for x[:, 2]",
    "unbind": "gives several parts. Slice: x[:, :4], x[:, 4:]",
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


def _upsample(x: Value, size: Any, factors: Any = None, *more: Any) -> list[Op]:
    """Nearest neighbours: each pixel repeated, as a transposed convolution with weights of one."""
    space = x.shape[1:]
    if size is None:
        size = [int(n * float(f)) for n, f in zip(space, flat(factors), strict=True)]
    size = [int(n) for n in flat(size)]
    repeats = tuple(new // old for new, old in zip(size, space, strict=True))
    if any(new % old for new, old in zip(size, space, strict=True)):
        raise Untranslatable(f"{space} does not repeat a whole number of times into {tuple(size)}. Use such a factor")
    return _conv_transposed(x, torch.ones(_affordable(x.shape[0], 1, *repeats)), None, repeats, groups=x.shape[0])


def _affordable(*shape: int) -> tuple[int, ...]:
    """The shape of a kernel; Untranslatable if a file, or its writer, asks for one that fills the memory."""
    if math.prod(shape) > LARGEST:
        raise Untranslatable(f"needs a kernel of shape {shape}, which is out of proportion. Use fewer channels")
    return shape


def _linear(x: Value, weight: Tensor, bias: Tensor | None = None) -> list[Op]:
    if len(x.shape) != 1:
        raise Untranslatable(f"acts on the last of the features {x.shape}. Flatten first, or use a 1x1 convolution")
    return [Linear(weight, bias)]


def _matmul(x: Value | Tensor, weight: Value | Tensor) -> list[Op]:
    if not isinstance(x, Value) or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise Untranslatable("is not images times fixed weights. Only x @ weight, with a matrix, converts")
    return _linear(x, weight.t().contiguous())


def _addmm(bias: Tensor, x: Value, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> list[Op]:
    if beta != 1 or alpha != 1:
        raise Untranslatable("scales its terms. Fold the factors into the weights")
    return [*_matmul(x, weight), _per_channel(Value(x.node, (weight.shape[1],)), 1.0, bias)]


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


def _relu(x: Value) -> list[Op]:
    return [Neuron()]


def _relu6(x: Value) -> list[Op]:
    return [Neuron(ceiling=6.0)]


def _clamp(x: Value, low: Any = None, high: Any = None) -> list[Op]:
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low is None or float(low) != 0.0:
        raise Untranslatable(f"clamps to [{low}, {high}], and only a lower bound of 0 is a ReLU. Use ReLU or ReLU6")
    if high is not None and float(high) <= 0:
        raise Untranslatable(f"clamps to [0, {high}], which is constant. Remove it")
    return [Neuron(ceiling=None if high is None else float(high))]


def _leaky_relu(x: Value, slope: Any = 0.01) -> list[Op]:
    if isinstance(slope, Value):
        raise Untranslatable("its slope is computed from the images. Use a fixed one")
    slope = torch.as_tensor(slope).flatten()
    if len(slope) not in (1, x.shape[0]):
        raise Untranslatable(f"has {len(slope)} slopes for {x.shape[0]} channels. Use one, or one per channel")
    return [LeakyReLU(slope)]


def _rate_norm(x: Value, theta: Tensor | Value) -> list[Op]:
    if isinstance(theta, Value):
        raise Untranslatable("its threshold is computed from the images. Use the running maximum, as eval mode does")
    if not float(theta) > 0:
        raise Untranslatable(f"its threshold {float(theta):g} is not positive. Train the model again")
    return [Neuron(theta.clone(), torch.ones_like(theta), ceiling=float(theta))]


def _rate_levels(x: Value, theta: Tensor | Value, size: Tensor | Value, levels: int) -> list[Op]:
    (neuron,) = _rate_norm(x, theta)
    if isinstance(size, Value) or not isinstance(neuron, Neuron):
        raise Untranslatable("the size of its spikes is computed from the images. Use RateNorm with levels")
    return [replace(neuron, amplitude=size.clone(), levels=levels)]


def _avg_pool(
    x: Value, kernel: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_pad: bool = True,
    divisor: int | None = None,
) -> list[Op]:  # fmt: skip
    if divisor is not None:
        raise Untranslatable("divisor_override is not supported. Scale the next layer's weights instead")
    dims = len(x.shape) - 1
    size = _pair(kernel, dims)
    return [AvgPool(size, _pair(stride, dims) if stride else size, _pair(padding, dims), ceil_mode, count_pad)]


def _adaptive_avg_pool(x: Value, size: Any) -> list[Op]:
    space = x.shape[1:]
    sizes = [None if n is None else int(n) for n in flat(size)]
    sizes = sizes * len(space) if len(sizes) == 1 else sizes
    wanted = tuple(have if want is None else want for have, want in zip(space, sizes, strict=True))
    if any(have % want and want % have for have, want in zip(space, wanted, strict=True)):
        raise Untranslatable(
            f"{space} does not divide into {wanted} equal windows, and no convolution has windows that differ. "
            "Choose a size that divides it"
        )
    kernel = tuple(max(1, have // want) for have, want in zip(space, wanted, strict=True))
    pooled = [min(have, want) for have, want in zip(space, wanted, strict=True)]
    larger = _upsample(Value(x.node, (x.shape[0], *pooled)), wanted) if pooled != list(wanted) else []
    return [
        *([AvgPool(kernel, kernel, (0,) * len(space))] if any(n > 1 for n in kernel) or not larger else []),
        *larger,
    ]


def _mean(x: Value, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> list[Op]:
    space = x.shape[1:]
    rank = len(x.shape) + 1
    over = [] if dims is None else sorted(int(d) % rank for d in flat(dims))
    if not space or over != list(range(2, rank)):
        raise Untranslatable("only the mean over all of space converts. Use global average pooling")
    return [AvgPool(space, space, (0,) * len(space)), *([] if keepdim else [Flatten()])]


def _channel_shuffle(x: Value, groups: int) -> list[Op]:
    """A 1x1 convolution that puts each channel in its new place."""
    channels = torch.arange(x.shape[0]).view(groups, -1).t().flatten()
    ones = (1,) * (len(x.shape) - 1)
    weight = torch.zeros(_affordable(x.shape[0], x.shape[0])).fill_diagonal_(1)[channels].view(x.shape[0], -1, *ones)
    return [Conv(weight, None, ones, (0,) * len(ones), ones)]


def _pixel_shuffle(x: Value, factor: int) -> list[Op]:
    """A transposed convolution that puts each channel in its place of a block of pixels."""
    channels, block = x.shape[0] // factor**2, factor**2
    weight = torch.zeros(_affordable(channels, block, channels, block))
    weight[torch.arange(channels), :, torch.arange(channels)] = torch.eye(block)
    return _conv_transposed(x, weight.view(-1, channels, factor, factor), stride=factor)


def _parts(x: Value, sizes: Any, dim: int = 0) -> list[list[Op]]:
    length = x.shape[dim % (len(x.shape) + 1) - 1]
    lengths = [int(n) for n in flat(sizes)]
    if len(lengths) == 1:
        lengths = [min(lengths[0], length - start) for start in range(0, length, lengths[0])]
    return [_slice(x, dim, end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]


def _chunks(x: Value, chunks: int, dim: int = 0) -> list[list[Op]]:
    return _parts(x, -(-x.shape[dim % (len(x.shape) + 1) - 1] // chunks), dim)


def _max_pool(
    x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> list[Op]:
    dims = len(x.shape) - 1
    size = _pair(kernel, dims)
    strides = _pair(stride, dims) if stride else size
    return [MaxPool(size, strides, _pair(padding, dims), _pair(dilation, dims), ceil_mode)]


def _add(x: Any, y: Any, *, alpha: float = 1) -> list[Op]:
    if isinstance(x, Value) and isinstance(y, Value):
        if x.shape != y.shape:
            raise Untranslatable(f"adds features {x.shape} and {y.shape}. Give both the same shape")
        return [Add((1.0, float(alpha)))]
    if isinstance(x, Value):
        return [_per_channel(x, 1.0, y * alpha)]
    return [_per_channel(y, float(alpha), x)]


def _sub(x: Any, y: Any, *, alpha: float = 1) -> list[Op]:
    return _add(x, y, alpha=-alpha)


def _rsub(x: Value, y: Any, alpha: float = 1) -> list[Op]:
    return [_per_channel(x, -float(alpha), y)]


def _neg(x: Value) -> list[Op]:
    return [_per_channel(x, -1.0, 0.0)]


def _mul(x: Any, y: Any) -> list[Op]:
    if isinstance(x, Value) and isinstance(y, Value):
        raise Untranslatable("multiplies two data-dependent tensors (a gate or attention). Remove it")
    return [_per_channel(x, y, 0.0) if isinstance(x, Value) else _per_channel(y, x, 0.0)]


def _div(x: Any, y: Any) -> list[Op]:
    if isinstance(y, Value):
        raise Untranslatable("divides by a data-dependent tensor. Remove it")
    return _mul(x, 1.0 / y)


def _per_channel(x: Value, scale: Any, shift: Any) -> Affine:
    return Affine(_channels(x, scale), _channels(x, shift))


def _channels(x: Value, constant: Any) -> Tensor:
    """A number or a tensor that broadcasts along the channels alone, as one value per channel, (C,)."""
    t = torch.as_tensor(constant, dtype=None if isinstance(constant, Tensor) else torch.float64)
    channels = x.shape[0]
    along = (channels, *(1,) * (len(x.shape) - 1))
    if t.numel() == 1:
        return t.reshape(1).repeat(channels)
    if t.shape[-len(along) :] == along and t.numel() == channels:
        return t.reshape(channels).clone()
    raise Untranslatable(f"has a constant of shape {tuple(t.shape)}, and only one value per channel converts. Use that")


def _cat(values: list[Value | Tensor], dim: int = 0) -> list[Op]:
    if not all(isinstance(value, Value) for value in values):
        raise Untranslatable("joins data and constants. Join data alone")
    if dim % (len(values[0].shape) + 1) != 1:
        raise Untranslatable(f"joins along dimension {dim}. Join along the channels (1)")
    return [Concat((1.0,) * len(values))]


def _pad(x: Value, amounts: Any, mode: str = "constant", value: float | None = None) -> list[Op]:
    if mode != "constant" or value:
        filling = f"with {value:g}" if value else f"by the mode {mode!r}"
        raise Untranslatable(f"pads {filling}, and only zeros stay silent. Pad with zeros")
    rank = len(x.shape)
    before, after = ([*(int(n) for n in amounts[end::2]), *(0,) * rank][:rank][::-1] for end in (0, 1))
    return _pad_or_crop(tuple(before), tuple(after))


def _pad_with_value(x: Value, amounts: Any, value: float = 0.0) -> list[Op]:
    return _pad(x, amounts, value=value)


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> list[Op]:
    """Margins cut off, then every ``step``-th pixel: what is first in each window of a pool with a kernel of 1."""
    axis, rank = dim % (len(x.shape) + 1) - 1, len(x.shape)
    if axis < 0:  # images: all of them, or the batch would have changed
        return []
    first, last, _ = slice(start, end).indices(x.shape[axis])
    if last <= first:
        raise Untranslatable(f"takes nothing out of {x.shape[axis]}. Remove it")
    if step > 1 and axis == 0:
        raise Untranslatable(f"takes every channel of {step}. Use a 1x1 convolution, or sort the channels before")
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


def flat(arguments: object) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(arguments, list | tuple):
        for argument in cast("list[object]", arguments):
            yield from flat(argument)
    else:
        yield arguments


TRANSLATIONS: dict[object, Callable[..., list[Op]]] = {
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
    aten.relu.default: _relu,
    aten.relu6.default: _relu6,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.leaky_relu.default: _leaky_relu,
    aten.prelu.default: _leaky_relu,
    aten._prelu_kernel.default: _leaky_relu,
    rate.OPERATOR: _rate_norm,
    rate.LEVELS_OPERATOR: _rate_levels,
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
    aten.mean.dim: _mean,
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
    aten.pad.default: _pad,
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

SPLITS: dict[object, Callable[..., list[list[Op]]]] = {
    aten.split.Tensor: _parts,
    aten.split_with_sizes.default: _parts,
    aten.chunk.default: _chunks,
}
"""Operations of several results: for each of them, the slice that takes it."""

SOFTMAXES: frozenset[object] = frozenset(
    {aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default}
)
"""At the end of a model these keep the order of the scores, and are left out."""

RESHAPES: frozenset[object] = frozenset(
    {
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten._unsafe_view.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
    }
)


def reshape(x: Value, shape: tuple[int, ...]) -> list[Op]:
    """A view of the features: a vector of all of them, or nothing (yet; see ``Value.viewed``)."""
    return [Flatten()] if len(shape) == 1 and (x.viewed or x.shape != shape) else []
