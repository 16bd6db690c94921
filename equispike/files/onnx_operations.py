"""What each ONNX operation becomes: read into those of PyTorch, and translated as a traced model's are (``aten.py``).

A translation takes the attributes of the call and its inputs: ``Value`` where images' data flows, constants elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from equispike.graph.aten import TRANSLATIONS, Untranslatable, Value
from equispike.graph.ops import Linear, Op, Pad

Attributes = Mapping[str, Any]
aten: Any = torch.ops.aten


def _numbers(value: Any) -> list[int]:
    """Whole numbers given as a constant or as an attribute."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where a constant is expected. Export with constants")
    return [int(n) for n in torch.as_tensor(value).flatten()]


def _tensor(value: Any) -> Tensor | None:
    """A constant, or None where it was left out."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where weights are expected. Only fixed weights convert")
    return None if value is None or not value.numel() else value


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
        before = [0] * dims
    return uneven, {"strides": strides, "padding": before, "dilations": dilations}


def _conv(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    kernel = _tensor(weight)
    if kernel is None or kernel.ndim not in (3, 4):
        raise Untranslatable("is not a convolution in 1d or 2d. Use one of these")
    uneven, w = _windows(attributes, x, kernel.shape[2:])
    settings = w["strides"], w["padding"], w["dilations"], int(attributes.get("group", 1))
    return [*uneven, *TRANSLATIONS[aten.conv2d.default](x, kernel, _tensor(bias), *settings)]


def _gemm(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    matrix, added = _tensor(weight), _tensor(bias)
    if attributes.get("transA", 0) or matrix is None or matrix.ndim != 2 or len(x.shape) != 1:
        raise Untranslatable("is not a linear layer on vectors. Flatten first, and multiply by a matrix of weights")
    matrix = (matrix if attributes.get("transB", 0) else matrix.t()) * attributes.get("alpha", 1.0)
    if added is not None:
        added = (added * attributes.get("beta", 1.0)).reshape(-1).expand(matrix.shape[0]).contiguous()
    return [Linear(matrix.contiguous(), added)]


def _batch_norm(attributes: Attributes, x: Value, *statistics: Any) -> list[Op]:
    if attributes.get("training_mode", 0):
        raise Untranslatable("is in training mode. Export the model in eval mode")
    tensors = [_tensor(t) for t in statistics]
    return TRANSLATIONS[aten.batch_norm.default](x, *tensors, False, 0.0, float(attributes.get("epsilon", 1e-5)))


def _clip(attributes: Attributes, x: Value, low: Any = None, high: Any = None) -> list[Op]:
    ends = [_tensor(end) for end in (low, high)]
    least, most = (
        float(end) if end is not None else attributes.get(key) for end, key in zip(ends, ("min", "max"), strict=True)
    )
    return TRANSLATIONS[aten.clamp.default](x, least, most)


def _leaky_relu(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.leaky_relu.default](x, float(attributes.get("alpha", 0.01)))


def _max_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    if uneven:
        raise Untranslatable("pads its two sides differently, and the padding does not count. Pad evenly")
    ceil = bool(attributes.get("ceil_mode", 0))
    return TRANSLATIONS[aten.max_pool2d.default](x, kernel, w["strides"], w["padding"], w["dilations"], ceil)


def _average_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    ceil, counts = (bool(attributes.get(key, 0)) for key in ("ceil_mode", "count_include_pad"))
    if uneven and not counts:
        raise Untranslatable("pads its two sides differently, and the padding does not count. Pad evenly")
    if any(d != 1 for d in w["dilations"]):
        raise Untranslatable("is dilated, and average pools cannot be. Replace it")
    return [*uneven, *TRANSLATIONS[aten.avg_pool2d.default](x, kernel, w["strides"], w["padding"], ceil, counts)]


def _pool(attributes: Attributes, x: Value) -> tuple[list[int], list[Op], dict[str, list[int]]]:
    kernel: list[int] = list(attributes["kernel_shape"])
    return kernel, *_windows(attributes, x, kernel)


def _mean(attributes: Attributes, x: Value, axes: Any = None) -> list[Op]:
    chosen = attributes.get("axes") if axes is None else axes
    over = _numbers(chosen) if chosen is not None else None
    return TRANSLATIONS[aten.mean.dim](x, over, bool(attributes.get("keepdims", 1)))


def _global_mean(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.mean.dim](x, list(range(2, len(x.shape) + 1)), True)


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
    if kind == "Squeeze":
        axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
        if axes is None:
            raise Untranslatable("squeezes whatever is 1, the batch too. Name the dimensions")
        gone = {n % (len(x.shape) + 1) - 1 for n in _numbers(axes)}
        return tuple(n for axis, n in enumerate(x.shape) if axis not in gone)
    first, *rest = _numbers(inputs[1])
    if first == -1 and -1 in rest:
        raise Untranslatable("leaves two dimensions open. Give all but one")
    shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(rest)]
    known = int(np.prod([n for n in shape if n != -1]))
    shape = [size // known if n == -1 else n for n in shape]
    if int(np.prod(shape)) != size:
        raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
    return tuple(shape)


def _shape(attributes: Attributes, x: Any) -> Tensor:
    """The shape of a value, with 0 for the batch, which a reshape takes for 'as it was'."""
    return torch.tensor([0, *x.shape] if isinstance(x, Value) else list(x.shape))


def _gather(attributes: Attributes, x: Tensor, index: Tensor) -> Tensor:
    if x.ndim != 1:
        raise Untranslatable("gathers from more than a list. Simplify the file")
    return x[index]


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    (axis,) = _numbers(attributes["axes"] if axes is None else axes)
    return x.unsqueeze(axis)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    order: list[int] = attributes.get("perm") or list(range(x.ndim))[::-1]
    return x.permute(order).contiguous()


def _given(attributes: Attributes) -> Tensor:
    if len(attributes) != 1:
        raise ValueError(f"holds {len(attributes)} values where one is expected")
    return torch.as_tensor(next(iter(attributes.values())))


def _same(attributes: Attributes, x: Tensor) -> Tensor:
    return x


def _joined(attributes: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, int(attributes["axis"]))


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
    "LeakyRelu": _leaky_relu,
    "PRelu": _as(aten.prelu.default),
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_mean,
    "ReduceMean": _mean,
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
}
"""What each operation becomes; those in ``RESHAPING`` are judged by shapes alone."""

RESHAPING = "Flatten", "Reshape", "Squeeze"

CONSTANTS: dict[str, Callable[..., Tensor]] = {
    "Constant": _given,
    "Identity": _same,
    "Transpose": _transpose,
    "Shape": _shape,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Concat": _joined,
}
"""What is computed from constants while the file is read."""
