"""Values of any kind flow through a network: activations, intervals, variances, counts of synapses, units.

A walk says what three roles do: the input, neurons, and everything between them. Nothing else takes a network's
operations apart or lets go of dead values.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from equispike.errors import ConversionError
from equispike.graph.ops import Affine, AvgPool, Input, Move, Neuron, Node, Op, Readout, Sum, Weighted, Weights

AnyValue = TypeVar("AnyValue")
Interval = tuple[Tensor, Tensor]
"""Lower and upper bounds, (B, *features) each."""


def apply(node: Node, inputs: Sequence[Any]) -> Any:
    """The value that the trained network has at a node between neurons."""
    return node.op(*inputs)


def interpret(
    nodes: Iterable[Node],
    enter: Callable[[Node, Input], AnyValue],
    fire: Callable[[Node, Neuron, AnyValue], AnyValue],
    through: Callable[[Node, Sequence[AnyValue]], AnyValue] = apply,
    known: Mapping[str, AnyValue] | None = None,
) -> Iterator[tuple[Node, AnyValue]]:
    """Yield each node with its value, in order; a value is held until the last node that reads it has run.

    Args:
        nodes: of a network, or those of them that run.
        enter: gives the value of the input.
        fire: gives what neurons make of the value that reaches them.
        through: gives the value of any other node from those of its inputs; by default what the trained network has.
        known: values of nodes that need not run. They are not yielded.
    """
    running = [node for node in nodes if node.name not in (known or {})]
    left = Counter(name for node in running for name in set(node.inputs))
    values = dict(known or {})
    for node in running:
        op, inputs = node.op, [values[name] for name in node.inputs]
        for name in set(node.inputs):
            left[name] -= 1
            if not left[name]:
                del values[name]
        if isinstance(op, Input):
            value = enter(node, op)
        elif isinstance(op, Neuron):
            value = fire(node, op, inputs[0])
        else:
            value = through(node, inputs)
        del inputs
        if left[node.name]:
            values[node.name] = value
        yield node, value
        del value


def reweighted(op: Op, change: Callable[[Tensor], Tensor], bias: bool = False) -> Callable[..., Tensor]:
    """The linear map of an operation with each of its weights w replaced by ``change(w)``.

    Weights of 0 and 1 that only say what goes where are left alone.

    Args:
        op: a weighted operation, a sum, an average pool, or a move.
        change: element by element.
        bias: whether the bias stays; else there is none.
    Raises:
        ConversionError: the operation is not linear.

    >>> from equispike.graph.ops import Add
    >>> reweighted(Add((1.0, -2.0)), torch.square)(torch.ones(1), torch.ones(1))
    tensor([5.])
    """
    if isinstance(op, Weights):
        weight = change(op.weight) if isinstance(op, Weighted) else torch.where(op.weight == 0, 0, change(op.weight))
        return dataclasses.replace(op, weight=weight, bias=op.bias if bias else None)
    if isinstance(op, Affine):
        return Affine(change(op.scale), op.shift if bias else torch.zeros_like(op.shift))
    if isinstance(op, Sum):
        changed = change(torch.tensor(op.coefficients, dtype=torch.float64))
        return dataclasses.replace(op, coefficients=tuple(float(c) for c in changed))
    if isinstance(op, AvgPool):

        def pool(x: Tensor) -> Tensor:
            return op.total(x) * change(1 / op.divisors(x.shape[2:]).to(x))

        return pool
    if isinstance(op, Move):
        return op
    raise ConversionError(f"{type(op).__name__}: is not linear. Convert the model first")


def in_unit(op: Op, unit: float) -> Op:
    """The operation between neurons on values that are all multiplied by ``unit``, so that what it gives is too.

    Scores stay what they are.
    """
    if isinstance(op, Weights) and op.bias is not None:
        return dataclasses.replace(op, bias=op.bias * unit)
    if isinstance(op, Affine):
        return dataclasses.replace(op, shift=op.shift * unit)
    return dataclasses.replace(op, scale=op.scale / unit) if isinstance(op, Readout) else op


def bounds(
    nodes: Iterable[Node], entrance: Interval, fire: Callable[[Node, Neuron, Interval], Interval]
) -> Iterator[tuple[Node, Interval]]:
    r"""Yield each node with the interval that its values cannot leave, in order.

    .. math:: h' = W^+ h + W^- l + b, \qquad l' = W^+ l + W^- h + b

    Args:
        nodes: of a network.
        entrance: interval of the input.
        fire: gives what neurons make of an interval.
    """

    def through(node: Node, inputs: Sequence[Interval]) -> Interval:
        lows, highs = [low for low, _ in inputs], [high for _, high in inputs]
        if not isinstance(node.op, Weights | Sum | Affine):  # monotone
            return node.op(*lows), node.op(*highs)
        up = reweighted(node.op, lambda weights: weights.clamp(min=0))
        down = reweighted(node.op, lambda weights: weights.clamp(max=0), bias=True)
        return up(*lows) + down(*highs), up(*highs) + down(*lows)

    return interpret(nodes, lambda node, op: entrance, fire, through)
