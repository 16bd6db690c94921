"""Translations of ONNX operations: read into those of PyTorch, and then as a traced model's (``aten.py``).

A translation takes the attributes of the call and its inputs: ``Value`` where images' data flows, constants elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from equispike.files.onnx import moves
from equispike.files.onnx.arguments import Attributes, axis_of, behind, constant_of, translated, whole_numbers
from equispike.graph.ops import Add, Linear, MaxPool, Op, Pad
from equispike.graph.reading.aten import TRANSLATIONS
from equispike.graph.reading.terms import Untranslatable, Value, aten


def _windows(attributes: Attributes, x: Value, kernel: Sequence[int]) -> tuple[list[Op], dict[str, list[int]]]:
    """Strides, dilations and padding of a kernel; padding that differs between the sides as an operation before it."""
    dims = len(x.shape) - 1
    strides: list[int] = attributes.get("strides") or [1] * dims
    dilations: list[int] = attributes.get("dilations") or [1] * dims
    pads: list[int] = attributes.get("pads") or [0] * 2 * dims
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(x.shape[1:], kernel, strides, dilations, strict=True)
        total = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in sizes]
        less = [n // 2 for n in total]
        more = [n - m for n, m in zip(total, less, strict=True)]
        pads = [*less, *more] if automatic == "SAME_UPPER" else [*more, *less]
    before, after = pads[:dims], pads[dims:]
    uneven: list[Op] = []
    if before != after:
        uneven.append(Pad((0, *before), (0, *after)))
    settings = {"strides": strides, "padding": [0] * dims if uneven else before, "dilations": dilations}
    return uneven, {**settings, "before": before, "after": after}


def _conv(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    kernel = constant_of(weight)
    if kernel is None or kernel.ndim not in (3, 4):
        raise Untranslatable("is not a convolution in 1d or 2d. Use one of these")
    uneven, w = _windows(attributes, x, kernel.shape[2:])
    settings = w["strides"], w["padding"], w["dilations"], int(attributes.get("group", 1))
    return [*uneven, *TRANSLATIONS[aten.conv2d.default](x, kernel, constant_of(bias), *settings)]


def _gemm(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    matrix, added = constant_of(weight), constant_of(bias)
    if attributes.get("transA", 0) or matrix is None or matrix.ndim != 2 or len(x.shape) != 1:
        raise Untranslatable("is not a linear layer on vectors. Flatten first, and multiply by a matrix of weights")
    matrix = (matrix if attributes.get("transB", 0) else matrix.t()) * attributes.get("alpha", 1.0)
    if added is not None:
        added = (added * attributes.get("beta", 1.0)).reshape(-1).expand(matrix.shape[0]).contiguous()
    return [Linear(matrix.contiguous(), added)]


def _batch_norm(attributes: Attributes, x: Value, *statistics: Any) -> list[Op]:
    if attributes.get("training_mode", 0):
        raise Untranslatable("is in training mode. Export the model in eval mode")
    tensors = [constant_of(t) for t in statistics]
    return TRANSLATIONS[aten.batch_norm.default](x, *tensors, False, 0.0, float(attributes.get("epsilon", 1e-5)))


def _clip(attributes: Attributes, x: Value, low: Any = None, high: Any = None) -> list[Op]:
    ends = [constant_of(end) for end in (low, high)]
    least, most = (
        float(end) if end is not None else attributes.get(key) for end, key in zip(ends, ("min", "max"), strict=True)
    )
    return TRANSLATIONS[aten.clamp.default](x, least, most)


def _hard_sigmoid(attributes: Attributes, x: Value) -> list[Op]:
    """A ReLU with a ceiling of one, on a scaled and shifted input."""
    slope, shift = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
    scaled = TRANSLATIONS[aten.mul.Tensor](x, slope)
    return [*scaled, *TRANSLATIONS[aten.add.Tensor](x, shift), *TRANSLATIONS[aten.clamp.default](x, 0.0, 1.0)]


def _leaky_relu(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.leaky_relu.default](x, float(attributes.get("alpha", 0.01)))


def _max_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    ceil = _rounding(x, kernel, w) if uneven else bool(attributes.get("ceil_mode", 0))
    return TRANSLATIONS[aten.max_pool2d.default](x, kernel, w["strides"], w["before"], w["dilations"], ceil)


def _average_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    ceil, counts = (bool(attributes.get(key, 0)) for key in ("ceil_mode", "count_include_pad"))
    if any(d != 1 for d in w["dilations"]):
        raise Untranslatable("is dilated, and average pools cannot be. Replace it")
    if uneven and not counts:
        ceil, uneven, w["padding"] = _rounding(x, kernel, w), [], w["before"]
    return [*uneven, *TRANSLATIONS[aten.avg_pool2d.default](x, kernel, w["strides"], w["padding"], ceil, counts)]


def _rounding(x: Value, kernel: Sequence[int], w: Mapping[str, list[int]]) -> bool:
    """True if the last windows reach over the end, where padding that does not count differs from that in front.

    Then a pool that is padded at both ends as in front, with or without ``ceil_mode``, has the same windows.
    """
    axes = list(zip(x.shape[1:], kernel, *w.values(), strict=True))
    wanted = [(n + b + a - d * (k - 1) - 1) // s for n, k, s, _, d, b, a in axes]
    for ceil in (False, True):
        strides, before, dilations = (tuple(w[key]) for key in ("strides", "before", "dilations"))
        pool = MaxPool(tuple(kernel), strides, before, dilations, ceil)
        if all(2 * b <= k for k, b in zip(kernel, w["before"], strict=True)) and list(behind(x, [pool]).shape[1:]) == [
            n + 1 for n in wanted
        ]:
            return ceil
    raise Untranslatable("pads its two sides differently, and the padding does not count. Pad evenly")


def _pool(attributes: Attributes, x: Value) -> tuple[list[int], list[Op], dict[str, list[int]]]:
    kernel: list[int] = list(attributes["kernel_shape"])
    return kernel, *_windows(attributes, x, kernel)


def _mean(attributes: Attributes, x: Value, axes: Any = None) -> list[Op]:
    chosen = attributes.get("axes") if axes is None else axes
    over = whole_numbers(chosen) if chosen is not None else None
    return TRANSLATIONS[aten.mean.dim](x, over, bool(attributes.get("keepdims", 1)))


def _global_mean(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.mean.dim](x, list(range(2, len(x.shape) + 1)), True)


def _global_max(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.max_pool2d.default](x, list(x.shape[1:]))


def _sum_over(attributes: Attributes, x: Value, axes: Any = None) -> list[Op]:
    chosen = attributes.get("axes") if axes is None else axes
    over = sorted(axis_of(x, n) for n in whole_numbers(chosen)) if chosen is not None else []
    return TRANSLATIONS[aten.sum.dim_IntList](x, over, bool(attributes.get("keepdims", 1)))


def _transpose_conv(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    kernel = constant_of(weight)
    if kernel is None or kernel.ndim not in (3, 4):
        raise Untranslatable("is not a transposed convolution in 1d or 2d. Use one of these")
    dims = kernel.ndim - 2
    more = attributes.get("output_padding") or [0] * dims
    strides, dilations = (attributes.get(key) or [1] * dims for key in ("strides", "dilations"))
    pads: list[int] = attributes.get("pads") or [0] * 2 * dims
    automatic = attributes.get("auto_pad", "NOTSET")
    sizes = attributes.get("output_shape")
    if sizes or automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = list(sizes)[-dims:] if sizes else [n * s for n, s in zip(x.shape[1:], strides, strict=True)]
        axes = zip(x.shape[1:], strides, more, kernel.shape[2:], dilations, wanted, strict=True)
        total = [s * (n - 1) + o + (k - 1) * d + 1 - size for n, s, o, k, d, size in axes]
        less = [n // 2 for n in total]
        rest = [n - m for n, m in zip(total, less, strict=True)]
        pads = [*rest, *less] if automatic == "SAME_LOWER" else [*less, *rest]
    group = int(attributes.get("group", 1))
    settings = strides, [0] * dims, more, group, dilations
    cut = Pad((0, *(-n for n in pads[:dims])), (0, *(-n for n in pads[dims:])))
    whole = TRANSLATIONS[aten.conv_transpose2d.input](x, kernel, constant_of(bias), *settings)
    return [*whole, cut] if any(pads) else whole


def _sum(attributes: Attributes, *terms: Any) -> list[Op]:
    values = [x for x in terms if isinstance(x, Value)]
    added: list[Op] = [Add((1.0,) * len(values))] if len(values) > 1 else []
    if len({x.shape for x in values}) > 1:
        raise Untranslatable(f"adds features {[x.shape for x in values]}. Give all the same shape")
    for constant in (x for x in terms if not isinstance(x, Value)):
        added += TRANSLATIONS[aten.add.Tensor](values[0], constant)
    return added


def _extreme(target: Any, pick: Callable[..., float], side: int) -> Callable[..., list[Op]]:
    """The largest or smallest of several: of one value and numbers a clamp, at its lower (0) or upper (1) end."""

    def translate(attributes: Attributes, *terms: Any) -> list[Op]:
        constants = [x for x in terms if not isinstance(x, Value)]
        values = [x for x in terms if isinstance(x, Value)]
        if len(values) == 1 and all(bool((x == x.flatten()[0]).all()) for x in constants):
            ends: list[float | None] = [None, None]
            ends[side] = pick(float(x.flatten()[0]) for x in constants)
            return TRANSLATIONS[aten.clamp.default](values[0], *ends)
        return translated(target, *terms)

    return translate


def _dropout(attributes: Attributes, x: Value, ratio: Any = None, training: Any = None) -> list[Op]:
    if training is not None and bool(training.any()):
        raise Untranslatable("drops at random. Export the model in eval mode")
    return []


def _concat(attributes: Attributes, *values: Any) -> list[Op]:
    return TRANSLATIONS[aten.cat.default](list(values), int(attributes["axis"]))


def shape_of_reshape(kind: str, attributes: Attributes, inputs: Sequence[Any]) -> tuple[int, ...]:
    """The features behind a reshape; Untranslatable if it would mix images."""
    x = cast("Value", inputs[0])
    size = int(np.prod(x.shape))
    if kind == "Flatten":
        if int(attributes.get("axis", 1)) != 1:
            raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
        return (size,)
    if kind == "Unsqueeze":
        axes = whole_numbers(inputs[1] if len(inputs) > 1 else attributes["axes"])
        rank, shape = len(x.shape) + 1 + len(axes), [-1, *x.shape]
        for axis in sorted(n % rank for n in axes):
            shape.insert(axis, 1)
        if shape[0] != -1:
            raise Untranslatable("puts a dimension in front of the images. Keep the first dimension for the images")
        return tuple(shape[1:])
    if kind == "Squeeze":
        axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
        if axes is None:
            raise Untranslatable("squeezes whatever is 1, the batch too. Name the dimensions")
        gone = {n % (len(x.shape) + 1) - 1 for n in whole_numbers(axes)}
        return tuple(n for axis, n in enumerate(x.shape) if axis not in gone)
    first, *rest = whole_numbers(inputs[1])
    if first == -1 and -1 in rest:
        raise Untranslatable("leaves two dimensions open. Give all but one")
    shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(rest)]
    known = int(np.prod([n for n in shape if n != -1]))
    shape = [size // known if n == -1 else n for n in shape]
    if int(np.prod(shape)) != size:
        raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
    return tuple(shape)


def _nothing(attributes: Attributes, x: Value, *_: Any) -> list[Op]:
    return []


def _as(target: Any) -> Callable[..., list[Op]]:
    """An operation that PyTorch has under the same arguments."""

    def translate(attributes: Attributes, *inputs: Any) -> list[Op]:
        return TRANSLATIONS[target](*inputs)

    return translate


OPERATIONS: dict[str, Callable[..., list[Op]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _as(aten.matmul.default),
    "BatchNormalization": _batch_norm,
    "Relu": _as(aten.relu.default),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "PRelu": _as(aten.prelu.default),
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_mean,
    "ReduceMean": _mean,
    "GlobalMaxPool": _global_max,
    "ReduceSum": _sum_over,
    "ConvTranspose": _transpose_conv,
    "Pad": moves.pad,
    "Slice": moves.slice,
    "Transpose": moves.transposed,
    "DepthToSpace": moves.to_space,
    "SpaceToDepth": moves.to_depth,
    "Gather": moves.gather,
    "Tile": moves.tile,
    "Expand": moves.expand,
    "Abs": _as(aten.abs.default),
    "Resize": moves.resize,
    "Upsample": moves.resize,
    "Sum": _sum,
    "Max": _extreme(aten.maximum.default, max, 0),
    "Min": _extreme(aten.minimum.default, min, 1),
    "Cast": _nothing,
    "Add": _as(aten.add.Tensor),
    "Sub": _as(aten.sub.Tensor),
    "Mul": _as(aten.mul.Tensor),
    "Div": _as(aten.div.Tensor),
    "Neg": _as(aten.neg.default),
    "Concat": _concat,
    "Identity": _nothing,
    "Dropout": _dropout,
    "Flatten": _nothing,
    "Reshape": _nothing,
    "Squeeze": _nothing,
    "Unsqueeze": _nothing,
}
"""What each operation becomes; those in ``RESHAPING`` are judged by shapes alone."""

RESHAPING = "Flatten", "Reshape", "Squeeze", "Unsqueeze"

SPLITTING: dict[str, Callable[..., list[list[Op]]]] = {"Split": moves.split}
"""Operations of several results: given how many there are, the operations that give each."""

AT_THE_END = "Softmax", "LogSoftmax"
"""Operations that keep the order of the scores, and are left out at the end of a network."""
