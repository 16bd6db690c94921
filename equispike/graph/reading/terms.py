"""The terms of translations: data of the images, what replaces a call, what stands in the way, and the verdict."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from equispike.graph import linear, ops
from equispike.graph.network import LARGEST
from equispike.graph.ops import Affine, Op

aten: Any = torch.ops.aten
"""The operations that PyTorch's programs consist of; their overloads are not known to type checkers."""


class BatchSize:
    """Stands for the number of images in a batch, and for what is computed from it."""


BATCH_SIZE = BatchSize()


@dataclass(frozen=True)
class Value:
    """Data of the images inside a model: the Network node that computes it, and its features without the batch.

    ``viewed``: the node has these features in another shape. ``positive``: none of them is below zero.
    """

    node: str
    shape: tuple[int, ...]
    viewed: bool = False
    positive: bool = False


@dataclass(frozen=True)
class Mask(Value):
    """Where the value of a node is above zero (or, if not ``above``, where it is not)."""

    above: bool = True


@dataclass(frozen=True)
class Stacked(Value):
    """Values of one shape that lie in front of the images' dimension, until they are summed up."""

    parts: tuple[Value, ...] = ()


class Step(NamedTuple):
    """An operation on other values than the last.

    Attributes:
        inputs: numbers of the call's values (0, 1, ...) and, behind them, of what was put in its place so far.
    """

    op: Op
    inputs: tuple[int, ...]


Ops = list[Any]
"""What replaces a call, in order: a ``Step``, or an operation that reads all values of the
call if it is the first, else the last result."""


def laid(ops: Ops, values: Sequence[Value], add: Callable[[Op, tuple[Value, ...]], Value]) -> Value:
    """Add the operations one by one; return the last one's value, or the first value where there are none."""
    found = list(values)
    for number, step in enumerate(ops):
        if isinstance(step, Step):
            found.append(add(step.op, tuple(found[place] for place in step.inputs)))
        else:
            found.append(add(step, tuple(found) if number == 0 else (found[-1],)))
    return found[-1] if ops else found[0]


class Untranslatable(Exception):
    """An operation, or a use of one, without translation; of its two sentences one is the reason, one the remedy."""

    @property
    def why(self) -> str:
        return str(self).partition(". ")[0]

    @property
    def remedy(self) -> str:
        return str(self).partition(". ")[2]


def affordable(*shape: int) -> tuple[int, ...]:
    """The shape of a kernel; Untranslatable if a file, or its writer, asks for one that fills the memory."""
    if math.prod(shape) > LARGEST:
        raise Untranslatable(f"needs a kernel of shape {shape}, which is out of proportion. Use fewer channels")
    return shape


def flat(arguments: object) -> Iterator[Any]:
    """The leaves of nested lists and tuples."""
    if isinstance(arguments, list | tuple):
        for argument in cast("list[object]", arguments):
            yield from flat(argument)
    else:
        yield arguments


def per_axis(value: Any, dims: int) -> tuple[int, ...]:
    """One number for each dimension of space, of one for all or of as many."""
    values = tuple(int(v) for v in flat(value))
    return values * dims if len(values) == 1 else values


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which tensors of these broadcast; RuntimeError if there is none."""
    found: Any = cast("Any", torch).broadcast_shapes(*map(tuple, shapes))
    return tuple(int(n) for n in found)


def affine(x: Value, scale: Any, shift: Any) -> list[Op]:
    """y = scale x + shift with constants, per channel or per feature; the constants may make the features larger."""
    factors, added = _constant(x, scale), _constant(x, shift)
    shape = broadcast(x.shape, factors.shape, added.shape)
    if len(shape) != len(x.shape):
        raise Untranslatable(f"has a constant of more dimensions than an image's features {x.shape}. Use as many")
    larger: list[Op] = [] if shape == x.shape else [linear.moved(lambda t: t.expand(len(t), *shape), x.shape, shape)]
    along = (shape[0], *(1 for _ in shape[1:])) if shape else ()
    channels = [t.expand(along).reshape(-1).clone() for t in (factors, added) if _fits(t, along)]
    if len(channels) == 2:
        return [*larger, Affine(channels[0], channels[1])]
    return [*larger, linear.multiplied(factors.double(), shape, added.double())]


def _fits(constant: Tensor, along: Sequence[int]) -> bool:
    """Tell whether a constant is one per channel."""
    return all(n in (1, wanted) for n, wanted in zip(constant.shape, along[len(along) - constant.ndim :], strict=True))


def _constant(x: Value, constant: Any) -> Tensor:
    """A number or a tensor that broadcasts to an image's features, without the dimension of the images."""
    t = torch.as_tensor(constant, dtype=None if isinstance(constant, Tensor) else torch.float64)
    rank = len(x.shape)
    if t.ndim == rank + 1 and t.shape[0] == 1:
        t = t[0]
    if t.ndim > rank:
        raise Untranslatable(f"has a constant of shape {tuple(t.shape)} for features {x.shape}. Give one for an image")
    try:
        broadcast(x.shape, t.shape)
    except RuntimeError as error:
        raise Untranslatable(
            f"has a constant of shape {tuple(t.shape)}, which does not fit features {x.shape}. Give one that does"
        ) from error
    return t


Verdict = Literal["exact", "approximate", "refused"]
"""Whether spikes do what an operation does: in every step, the better the more steps there are, or not at all."""


class Finding(NamedTuple):
    """One operation of a model: where, what, how it converts and why, and what to do about it (empty for nothing)."""

    layer: str
    operation: str
    verdict: Verdict
    why: str
    remedy: str = ""


VERDICTS: dict[type, tuple[Verdict, str, str]] = {
    ops.Conv: ("exact", "weights carry over", ""),
    ops.Linear: ("exact", "weights carry over", ""),
    ops.AvgPool: ("exact", "averages spikes", ""),
    ops.Affine: ("exact", "folded into the weights", ""),
    ops.Flatten: ("exact", "reorders spikes", ""),
    ops.Pad: ("exact", "zeros around or between spikes, or fewer of them", ""),
    ops.Sparse: ("exact", "spikes moved or summed up with fixed weights", ""),
    ops.Add: ("exact", "currents add up", ""),
    ops.Concat: ("exact", "spikes side by side", ""),
    ops.Neuron: ("approximate", "neurons: rates are multiples of 1/T, at most 1", "More time-steps T"),
    ops.MaxPool: (
        "refused",
        "a maximum of spikes is not the maximum of rates",
        "Train with average pooling, or pass lossy=[es.max_pool_to_avg] or [es.max_pool_to_winner]",
    ),
    ops.WinnerPool: (
        "approximate",
        "of each window, the growth of the largest count passes",
        "More time-steps T",
    ),
    ops.LeakyReLU: (
        "refused",
        "spikes have one sign, so the negative side is lost",
        "Train with ReLU, or pass lossy=[es.leaky_relu_to_pairs]",
    ),
}
"""How each operation of a Network converts, why, and what to do."""

SPOKEN: dict[type, str] = {ops.Neuron: "Relu", ops.Affine: "Mul, Add", ops.Sparse: "fixed map"}
"""What to call the operations of a network that was read from a file, where their names are of this package alone."""


def verdict(op: object) -> tuple[Verdict, str, str]:
    """Judge an operation of a Network: does it convert, why, and what to do."""
    if isinstance(op, ops.AvgPool) and set(op.kernel) == {1}:
        return "exact", "nothing to do" if set(op.stride) == {1} else "leaves spikes out", ""
    return VERDICTS[type(op)]
