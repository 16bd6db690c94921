"""Computed while an ONNX file is read: what exporters leave to do with constants alone, and shapes."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equispike.files.onnx.arguments import Attributes, whole_numbers
from equispike.graph.reading.terms import Untranslatable, Value

TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""Numbers that stand for types in ONNX."""

_LARGEST = 2**27
"""Numbers in a constant; a file that asks for more is made to fill the memory."""


def fold(kind: str, attributes: Attributes, inputs: Sequence[Any]) -> Tensor:
    """The value of an operation on constants. Untranslatable, or what torch raises, if it has none."""
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.numel()]
    if kind in ELEMENTWISE:
        _affordable(*np.broadcast_shapes(*(tuple(x.shape) for x in tensors)))
        return ELEMENTWISE[kind](*inputs)
    return FOLDED[kind](attributes, *inputs)


def _affordable(*shape: int) -> tuple[int, ...]:
    """A shape. Untranslatable if it is out of proportion."""
    if min(shape, default=1) < 0 or math.prod(shape) > _LARGEST:
        raise Untranslatable(f"makes a constant of shape {shape}, which is out of proportion. Simplify the file")
    return shape


def _shape(attributes: Attributes, x: Any) -> Tensor:
    """The shape of a value, with 0 for the batch, which a reshape takes for 'as it was'."""
    shape = [0, *x.shape] if isinstance(x, Value) else list(x.shape)
    return torch.tensor(shape[attributes.get("start", 0) : attributes.get("end")])


def _gather(attributes: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 0)) % x.ndim
    index = index.long()
    _affordable(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    taken = x.index_select(axis, torch.where(index < 0, index + x.shape[axis], index).flatten())
    return taken.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    given = whole_numbers(attributes["axes"] if axes is None else axes)
    for axis in sorted(n % (x.ndim + len(given)) for n in given):
        x = x.unsqueeze(axis)
    return x


def _squeeze(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    chosen = attributes.get("axes") if axes is None else axes
    return x.squeeze() if chosen is None else x.squeeze(tuple(whole_numbers(chosen)))


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


def _reshaped(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = whole_numbers(shape)
    return x.reshape([x.shape[axis] if n == 0 else n for axis, n in enumerate(sizes)])


def _flattened(attributes: Attributes, x: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 1))
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    if int(attributes["to"]) not in TYPES:
        raise Untranslatable("casts to a type that is no number. Simplify the file")
    return x.to(TYPES[int(attributes["to"])])


def _filled(attributes: Attributes, shape: Tensor) -> Tensor:
    value = torch.as_tensor(attributes.get("value", 0.0)).flatten()
    return value.repeat(math.prod(sizes := _affordable(*whole_numbers(shape)))).reshape(sizes)


def _expanded(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = _affordable(*whole_numbers(shape))
    return x.expand(np.broadcast_shapes(tuple(x.shape), sizes)).contiguous()


def _repeated(attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    times = _affordable(*whole_numbers(repeats))
    _affordable(*(n * r for n, r in zip(x.shape, times, strict=True)))
    return x.repeat(times)


def _range(attributes: Attributes, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    _affordable(math.ceil((float(end) - float(start)) / float(step)))
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _sliced(attributes: Attributes, x: Tensor, *given: Any) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    lists = [whole_numbers(value) for value in given] if given else [list(attributes.get(n) or []) for n in names]
    starts, ends, axes, steps = [*lists, [], [], []][:4]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[number] if axes else number) % x.ndim
        places = range(x.shape[axis])[slice(start, end, steps[number] if steps else 1)]
        x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _multiplied(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    _affordable(*x.shape[:-1], y.shape[-1])
    return x @ y


def _dequantized(attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Weights that were stored as integers, with one scale or one per channel."""
    along = [1] * x.ndim
    if scale.numel() > 1:
        along[int(attributes.get("axis", 1))] = scale.numel()
    shift = 0.0 if zero is None else zero.to(scale.dtype).reshape(along)
    return (x.to(scale.dtype) - shift) * scale.reshape(along)


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _over(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operation on two tensors as one on several."""
    return lambda *terms: reduce(combine, terms)


ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": _quotient, "Pow": torch.pow, "Neg": torch.neg,
    "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Exp": torch.exp, "Log": torch.log, "Abs": torch.abs,
    "Floor": torch.floor, "Ceil": torch.ceil, "Equal": torch.eq, "Greater": torch.gt, "Less": torch.lt,
    "Not": torch.logical_not, "And": torch.logical_and, "Or": torch.logical_or, "Where": torch.where,
    "Sum": _over(torch.add), "Max": _over(torch.maximum), "Min": _over(torch.minimum), "Relu": torch.relu,
}  # fmt: skip

FOLDED: dict[str, Callable[..., Tensor]] = {
    "Constant": _given,
    "ConstantOfShape": _filled,
    "Identity": _same,
    "Transpose": _transpose,
    "Shape": _shape,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _joined,
    "Reshape": _reshaped,
    "Flatten": _flattened,
    "Cast": _cast,
    "Expand": _expanded,
    "Tile": _repeated,
    "Range": _range,
    "Slice": _sliced,
    "MatMul": _multiplied,
    "DequantizeLinear": _dequantized,
}
CONSTANTS = frozenset((*ELEMENTWISE, *FOLDED))
"""Operations that are computed while the file is read, where all of their inputs are constants."""
