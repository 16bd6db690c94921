"""Helpers of translations of ONNX operations: constants as arguments, and the way to those of PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equispike.graph.network import Node, shape_of
from equispike.graph.ops import Op
from equispike.graph.reading.aten import TRANSLATIONS, remedy
from equispike.graph.reading.terms import Untranslatable, Value, laid

Attributes = Mapping[str, Any]
UNKNOWN = "is not known to the reader of ONNX files. Convert the PyTorch module, or a program of torch.export"
SAME_IN_PYTORCH = {
    "InstanceNormalization": "InstanceNorm2d", "LayerNormalization": "LayerNorm", "GroupNormalization": "GroupNorm",
    "HardSwish": "Hardswish", "Gelu": "gelu", "Swish": "silu",
}  # fmt: skip
"""Operations that do not convert, under the names that they have in PyTorch."""


def refusal(kind: str) -> str:
    """Reason and remedy for an operation without a translation."""
    known = [remedy(name) for name in (SAME_IN_PYTORCH.get(kind, kind), kind.lower())]
    return next((words for words in known if words != remedy("")), UNKNOWN)


def translated(target: Any, *arguments: Any) -> list[Op]:
    """The translation of an operation of PyTorch; Untranslatable, by its name there, if there is none."""
    if target not in TRANSLATIONS:
        raise Untranslatable(remedy(str(target).removeprefix("aten.").partition(".")[0]))
    return TRANSLATIONS[target](*arguments)


def behind(x: Value, ops: Sequence[Any]) -> Value:
    """The value behind operations on this one."""

    def add(op: Op, given: Sequence[Value]) -> Value:
        return Value(x.node, shape_of(Node("", op, (x.node,) * len(given)), [value.shape for value in given]))

    return laid(list(ops), [x], add)


def axis_of(x: Value, axis: Any) -> int:
    """A dimension counted from the images (0) on; Untranslatable for that of the images."""
    found = int(axis) % (len(x.shape) + 1)
    if not found:
        raise Untranslatable("acts across the images of a batch. Keep the first dimension for the images")
    return found


def whole_numbers(value: Any) -> list[int]:
    """Whole numbers given as a constant or as an attribute."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where a constant is expected. Export with constants")
    return [int(n) for n in torch.as_tensor(value).flatten()]


def constant_of(value: Any) -> Tensor | None:
    """A constant, or None where it was left out."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where weights are expected. Only fixed weights convert")
    return None if value is None or not value.numel() else value
