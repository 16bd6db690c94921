"""The table of translations of ATen operations, and the remedies for what has none.

A translation takes the arguments of the call, with ``Value`` where images' data flows and constants elsewhere. It
returns the operations that replace the call, in order (none for a call that changes nothing), or raises
``Untranslatable``.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from equispike.graph import linear
from equispike.graph.ops import Add, AvgPool, Concat, Flatten, Op
from equispike.graph.reading import clips, moves, weights
from equispike.graph.reading.terms import Mask, Ops, Step, Untranslatable, Value, affine, aten, broadcast, flat

SMOOTH = "not piecewise linear, so no firing rate equals it. Train with ReLU"
ORDER = "puts the images' data in order. Use a pool, or ReLU"
GATE = "multiplies two data-dependent tensors (a gate or attention). Remove it"
PER_IMAGE = "its statistics change with every image. Train with batch norm, which folds into the weights"
RANDOM = "drops at random in eval mode too. Pass training=self.training"
REMEDIES = {
    **dict.fromkeys(("sigmoid", "silu", "gelu", "tanh", "hardswish", "hardsigmoid", "mish", "softplus"), SMOOTH),
    **dict.fromkeys(("SiLU", "GELU", "Sigmoid", "Tanh", "Hardswish", "Hardsigmoid", "Mish", "Softplus"), SMOOTH),
    **dict.fromkeys(("elu", "selu", "celu", "ELU", "SELU", "CELU", "log_sigmoid", "LogSigmoid"), SMOOTH),
    **dict.fromkeys(
        ("erf", "exp", "log", "sin", "cos", "sqrt", "rsqrt", "pow", "square", "reciprocal", "logit"), SMOOTH
    ),
    **dict.fromkeys(("sign", "round", "floor", "ceil", "trunc", "heaviside", "bernoulli"), clips.JUMPS),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), clips.CHOICE),
    **dict.fromkeys(("sort", "topk", "kthvalue", "median", "argmax", "argsort"), ORDER),
    **dict.fromkeys(("glu", "GLU"), GATE),
    **dict.fromkeys(
        ("softmax", "Softmax", "log_softmax", "LogSoftmax"),
        "needs all classes at once, so only at the end, where it is dropped, can it stand. Remove it",
    ),
    **dict.fromkeys(
        (
            "layer_norm",
            "LayerNorm",
            "group_norm",
            "GroupNorm",
            "RMSNorm",
            "rms_norm",
            "std",
            "var",
            "linalg_vector_norm",
        ),
        PER_IMAGE,
    ),
    **dict.fromkeys(("native_batch_norm_legit", "native_batch_norm_legit_functional"), weights.NO_STATISTICS),
    **dict.fromkeys(("batch_norm", "BatchNorm1d", "BatchNorm2d"), weights.NO_STATISTICS),
    "native_dropout": RANDOM,
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d"), "drops at random. Export the model in eval mode"),
    **dict.fromkeys(("conv3d", "Conv3d", "conv_transpose3d", "ConvTranspose3d"), weights.THREE_DIMENSIONAL),
    **dict.fromkeys(
        ("item", "local_scalar_dense"), "takes a number out of the images' data. Compute with tensors per image"
    ),
}


def remedy(operation: str) -> str:
    return REMEDIES.get(operation, "no translation into integrate-and-fire neurons. Replace it, or move it outside")


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
    return [moves.mapped(linear.moved, aten.select.int, x, dim, number) for number in range(length)]


def _add(x: Any, y: Any, *, alpha: float = 1) -> Ops:
    if isinstance(x, Value) and isinstance(y, Value):
        if x.shape == y.shape:
            return [Add((1.0, float(alpha)))]
        return _broadcast(x, y, float(alpha))
    if isinstance(x, Value):
        return affine(x, 1.0, y * alpha)
    return affine(y, float(alpha), x)


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
    return affine(x, -float(alpha), y)


def _mul(x: Any, y: Any) -> Ops:
    if isinstance(x, Value) and isinstance(y, Value):
        mask, other = (x, y) if isinstance(x, Mask) else (y, x)
        if isinstance(mask, Mask):
            return clips.chosen(mask, other, 0.0) if mask.above else clips.chosen(mask, 0.0, other)
        raise Untranslatable(GATE)
    return affine(x, y, 0.0) if isinstance(x, Value) else affine(y, x, 0.0)


def _div(x: Any, y: Any) -> Ops:
    if isinstance(y, Value):
        raise Untranslatable("divides by a data-dependent tensor. Remove it")
    return affine(x, 1.0 / y, 0.0)


def _cat(values: list[Value | Tensor], dim: int = 0) -> Ops:
    given = _data(values)
    if dim % (len(given[0].shape) + 1) == 1:
        return [Concat((1.0,) * len(values))]
    return moves.joined(lambda parts: torch.cat(parts, dim), given)


def _stack(values: list[Value | Tensor], dim: int = 0) -> Ops:
    return moves.joined(lambda parts: torch.stack(parts, dim), _data(values))


def _data(values: list[Value | Tensor]) -> list[Value]:
    found = [value for value in values if isinstance(value, Value)]
    if len(found) < len(values):
        raise Untranslatable("joins data and constants. Join data alone")
    return found


def _pad(x: Value, amounts: Any, mode: str = "constant", value: float | None = None) -> Ops:
    rank, ends = len(x.shape), [int(n) for n in amounts]
    if not any(ends[2 * rank :]):  # of the images
        ends = ends[: 2 * rank]
    if mode == "constant" and not value and len(ends) <= 2 * rank:
        before, after = ([*ends[end::2], *(0,) * rank][:rank][::-1] for end in (0, 1))
        return moves.margins(tuple(before), tuple(after))
    filling = {"value": value} if mode == "constant" else {}
    if len(ends) < 2 * rank:
        return [moves.alike(lambda t: torch.nn.functional.pad(t, ends, mode, **filling), x)]
    return moves.mapped(linear.moved, aten.pad.default, x, ends, mode, **filling)


def _pad_with_value(x: Value, amounts: Any, value: float = 0.0) -> Ops:
    return _pad(x, amounts, value=value)


def _slice(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Ops:
    """Margins cut off, then every ``step``-th pixel: what is first in each window of a pool with a kernel of 1."""
    axis, rank = dim % (len(x.shape) + 1) - 1, len(x.shape)
    if axis < 0:  # images: all of them, or the batch would have changed
        return []
    first, last, _ = slice(start, end).indices(x.shape[axis])
    if last <= first:
        raise Untranslatable(f"takes nothing out of {x.shape[axis]}. Remove it")
    if step > 1 and (axis == 0 or rank > 3):
        return moves.mapped(linear.moved, aten.slice.Tensor, x, dim, start, end, step)
    before, after, stride = [0] * rank, [0] * rank, [1] * rank
    before[axis], after[axis], stride[axis] = -first, last - x.shape[axis], step
    pool: list[Op] = [AvgPool((1,) * (rank - 1), tuple(stride[1:]), (0,) * (rank - 1))] if step > 1 else []
    return [*moves.margins(tuple(before), tuple(after)), *pool]


def _instance_norm(
    x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, of_images: bool,
    *more: Any,
) -> Ops:  # fmt: skip
    """With running statistics, as in eval mode, the same as batch norm."""
    if of_images or mean is None:
        raise Untranslatable(f"{PER_IMAGE}, or use track_running_stats=True")
    return weights.WEIGHTS[aten.batch_norm.default](x, weight, bias, mean, var, False, *more)


def _dropout(x: Value, p: float, train: bool) -> list[Op]:
    if train:
        raise Untranslatable(RANDOM)
    return []


def _nothing(x: Value, *_: Any, **__: Any) -> list[Op]:
    return []


TRANSLATIONS: dict[object, Callable[..., Ops]] = {
    **weights.WEIGHTS,
    **moves.MOVES,
    **clips.CLIPS,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _sub,
    aten.rsub.Scalar: _rsub,
    aten.neg.default: partial(affine, scale=-1.0, shift=0.0),
    aten.mul.Tensor: _mul,
    aten.div.Tensor: _div,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.pad.default: _pad,
    aten.reflection_pad1d.default: partial(_pad, mode="reflect"),
    aten.reflection_pad2d.default: partial(_pad, mode="reflect"),
    aten.replication_pad1d.default: partial(_pad, mode="replicate"),
    aten.replication_pad2d.default: partial(_pad, mode="replicate"),
    aten.constant_pad_nd.default: _pad_with_value,
    aten.slice.Tensor: _slice,
    aten.instance_norm.default: _instance_norm,
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.clone.default: _nothing,
    aten.alias.default: _nothing,
    aten.nan_to_num.default: _nothing,
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
