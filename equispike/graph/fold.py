"""Operations folded into those next to them, or moved past them: the network computes the same."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.graph.linear import composed, multiplied, spread
from equispike.graph.network import Network, Node, is_open
from equispike.graph.ops import (
    Affine,
    AvgPool,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Move,
    Neuron,
    Op,
    Readout,
    Sparse,
    Sum,
    Weighted,
    Weights,
    WinnerPool,
)

MOST_DIAGONAL = 256
"""Features of a vector up to which their own factors become a diagonal matrix, which every engine has kernels for."""


def fold_affine(network: Network) -> Network:
    """Fold every per-channel affine map (batch norm in eval mode) into the weights next to it.

    Backward into the convolution or linear layer that feeds it alone; else forward into what reads it, across average
    pools, flattening and padding, where that is exact (a shift does not cross zeros in space); else it becomes a
    depthwise 1x1 convolution (on vectors, a diagonal linear layer), which is a weighted current like any other.
    """
    while affine := next((node for node in network.nodes if isinstance(node.op, Affine)), None):
        network = _fold_backward(network, affine) or _fold_forward(network, affine)
    return network


def _fold_backward(network: Network, node: Node) -> Network | None:
    affine, before = node.op, network[node.inputs[0]]
    assert isinstance(affine, Affine)
    if len(network.consumers[before.name]) > 1:
        return None
    if isinstance(before.op, Weighted):
        op = before.op
        weight = op.weight * affine.scale.view(-1, *(1,) * (op.weight.ndim - 1))
        bias = affine.shift if op.bias is None else op.bias * affine.scale + affine.shift
        bias = None if op.bias is None and not bool(affine.shift.any()) else bias
        merged = dataclasses.replace(op, weight=weight, bias=bias)
        return _rewire(network.replace_ops({before.name: merged}), {node.name: before.name})
    return None


def _fold_forward(network: Network, node: Node) -> Network:
    """Give the affine map to each node that reads it; if one cannot take it, make it a weighted current for those."""
    affine = node.op
    assert isinstance(affine, Affine)
    source, ops, behind = node.inputs[0], dict[str, Op](), dict[str, Affine]()
    readers, shape = network.consumers[node.name], network.shapes[node.name]
    for reader in readers:
        op = reader.op
        if (moved := _behind(op, affine, shape)) is not None:
            behind[reader.name] = moved
        elif (taken := _take(op, [name == node.name for name in reader.inputs], affine, shape)) is not None:
            ops[reader.name] = taken
    left = [reader for reader in readers if reader.name not in ops and reader.name not in behind]
    nodes: list[Node] = []
    names = {reader.name: network.free(f"{reader.name}.affine") for reader in readers if reader.name in behind}
    for old in network.nodes:
        inputs = tuple(names.get(name, name) for name in old.inputs)
        if old.name in ops or old.name in behind:
            inputs = tuple(source if name == node.name else name for name in inputs)
        if old is node:
            if left:
                nodes.append(Node(node.name, _as_weights(affine, network.shapes[node.name]), inputs))
            continue
        nodes.append(Node(old.name, ops.get(old.name, old.op), inputs))
        if old.name in behind:
            nodes.append(Node(names[old.name], behind[old.name], (old.name,)))
    return dataclasses.replace(network, nodes=tuple(nodes))


def _take(op: Op, mine: list[bool], affine: Affine, shape: tuple[int, ...]) -> Op | None:
    """The operation with the affine map of its inputs (those that are ``mine``) absorbed, or None if it cannot be."""
    shifts = bool(affine.shift.any())
    if isinstance(op, Weights | Affine):
        return _taken_by_weights(op, affine, shape, shifts)
    if shifts or bool((affine.scale != affine.scale[0]).any()):
        return None
    factor = float(affine.scale[0])
    if isinstance(op, Readout):
        return dataclasses.replace(op, scale=op.scale * factor)
    if isinstance(op, Sum):
        weights = (c * factor if m else c for c, m in zip(op.coefficients, mine, strict=True))
        return dataclasses.replace(op, coefficients=tuple(weights))
    return None


def _taken_by_weights(op: Weights | Affine, affine: Affine, shape: tuple[int, ...], shifts: bool) -> Op | None:
    if isinstance(op, Conv):
        if shifts and any(op.padding):
            return None
        scale, shift = (_per_group(t, op) for t in (affine.scale, affine.shift))
        return _absorbed(op, op.weight * scale, (op.weight * shift).flatten(1).sum(1), shifts)
    if isinstance(op, Linear):
        return _absorbed(op, op.weight * affine.scale, op.weight @ affine.shift, shifts)
    if isinstance(op, Affine):
        return Affine(affine.scale * op.scale, affine.shift * op.scale + op.shift)
    return _taken_by_map(op, affine, shape)


def _taken_by_map(op: Sparse, affine: Affine, shape: tuple[int, ...]) -> Sparse:
    scale, shift = (t.repeat_interleave(math.prod(shape[1:])) for t in (affine.scale, affine.shift))
    if bool((scale == scale[0]).all()) and not bool(shift.any()):
        return dataclasses.replace(op, weight=op.weight * scale[0])
    source, weight = spread(op, math.prod(shape) // op.size)
    added = (weight * shift[source]).sum(0).view(op.shape) if bool(shift.any()) else None
    bias = op.bias if added is None else added if op.bias is None else op.bias + added
    return Sparse(op.shape, len(scale), source, weight * scale[source], bias)


def _absorbed(op: Weighted, weight: Tensor, added: Tensor, shifts: bool) -> Weighted:
    bias = op.bias if not shifts else added if op.bias is None else op.bias + added
    return dataclasses.replace(op, weight=weight, bias=bias)


def _per_group(values: Tensor, op: Conv) -> Tensor:
    """Values per input channel, laid along the weight: (out, in / groups, 1, ...)."""
    out = op.weight.shape[0]
    grouped = values.view(op.groups, 1, -1).expand(op.groups, out // op.groups, -1)
    return grouped.reshape(out, -1, *(1,) * (op.weight.ndim - 2))


def _behind(op: Op, affine: Affine, shape: tuple[int, ...]) -> Affine | None:
    """The affine map that does behind the operation what this one, on features of this shape, does in front of it."""
    moved, zeros_between = affine, False
    if isinstance(op, AvgPool):
        zeros_between = any(op.padding) and op.count_include_pad
    elif isinstance(op, Move):
        moved, zeros_between = _behind_move(op, affine, shape)
    elif isinstance(op, Sparse) and op.bias is None and (op.size, op.shape[0]) == (math.prod(shape[1:]), shape[0]):
        # the same for all channels: of weights that add up to less than 1, a shift comes out smaller
        zeros_between = not bool((op.weight.sum(0) == 1).all())
    else:
        return None
    return None if moved is None or (zeros_between and bool(affine.shift.any())) else moved


def _behind_move(op: Move, affine: Affine, shape: tuple[int, ...]) -> tuple[Affine | None, bool]:
    """The map behind a move, and whether zeros come between the features, which take no shift."""
    if isinstance(op, Flatten):
        positions = math.prod(shape[1:])
        return Affine(affine.scale.repeat_interleave(positions), affine.shift.repeat_interleave(positions)), False
    if any(op.between[:1]):
        return None, True
    ends = op.before[0], op.after[0]  # zeros that are channels of their own may be multiplied by anything
    moved = Affine(F.pad(affine.scale, ends, value=float(affine.scale[0])), F.pad(affine.shift, ends))
    return moved, any(n > 0 for n in op.before[1:] + op.after[1:] + op.between[1:])


def _as_weights(affine: Affine, shape: tuple[int, ...]) -> Weighted | Sparse:
    bias = affine.shift if bool(affine.shift.any()) else None
    space = len(shape) - 1
    if not space and shape[0] > MOST_DIAGONAL:
        return multiplied(affine.scale, shape, bias)
    if not space:
        return Linear(torch.diag(affine.scale), bias)
    ones, zeros = (1,) * space, (0,) * space
    return Conv(affine.scale.view(-1, 1, *ones), bias, ones, zeros, ones, groups=shape[0])


def _rewire(network: Network, renamed: Mapping[str, str]) -> Network:
    """Drop the nodes that are keys; whoever read them reads the nodes named by the values."""
    kept = (node for node in network.nodes if node.name not in renamed)
    nodes = (dataclasses.replace(n, inputs=tuple(renamed.get(name, name) for name in n.inputs)) for n in kept)
    return dataclasses.replace(network, nodes=tuple(nodes))


def tidy(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Moves in a row as one, neurons that only repeat others left out, and no move that nobody reads."""
    readers = Counter(name for node in nodes for name in node.inputs)
    done: dict[str, Node] = {}
    for node in nodes:
        op, inputs = node.op, node.inputs
        source = done[inputs[0]] if len(inputs) == 1 else None
        if source is not None and isinstance(op, Sparse) and isinstance(source.op, Sparse) and op.moves:
            if source.op.moves:
                op, inputs = composed(op, source.op), source.inputs
        elif source is not None and _repeats(op, source.op) and readers[source.name] == 1:
            inputs = source.inputs
        done[node.name] = Node(node.name, op, inputs)
    read = {nodes[-1].name}
    for node in reversed(list(done.values())):
        if node.name in read or not isinstance(node.op, Sparse | Neuron):
            read.update(node.inputs)
    return tuple(node for node in done.values() if node.name in read or not isinstance(node.op, Sparse | Neuron))


def _repeats(op: Op, source: Op) -> bool:
    """Tell whether neurons without thresholds read neurons without ceiling: one layer does what both do."""
    if not isinstance(op, Neuron) or not isinstance(source, Neuron):
        return False
    return source.ceiling is None and op.threshold is None and source.threshold is None


def winner(op: MaxPool) -> WinnerPool:
    return WinnerPool(**vars(op))


def early_max_pools(network: Network) -> tuple[Network, set[str]]:
    """Max pools of what no neuron drives, or one layer of neurons alone, as pools of currents; and their names.

    ReLU and maximum can be exchanged, so a pool behind the first layer of neurons moves in front of it. Its currents
    are those of the image: with constant input the same in every step, of which it takes the maximum, spike for spike
    what the neuron with the largest current in each window does. With other input, see ``ops.WinnerPool``.
    """
    done: set[str] = set()
    while pool := _next(network):
        done.add(pool.name)
        network = _moved(network, pool)
    return network, done


def _next(network: Network) -> Node | None:
    """The first max pool that is early and open."""
    spiking: set[str] = set()
    for node in network.nodes:
        if is_open(node.op):
            source = network[node.inputs[0]]
            if source.name not in spiking or (isinstance(source.op, Neuron) and source.inputs[0] not in spiking):
                return node
        if isinstance(node.op, Neuron) or spiking.intersection(node.inputs):
            spiking.add(node.name)
    return None


def _moved(network: Network, pool: Node) -> Network:
    assert isinstance(pool.op, MaxPool)
    source = network[pool.inputs[0]]
    if not isinstance(source.op, Neuron):
        return network.replace_ops({pool.name: winner(pool.op)})
    alone = len(network.consumers[source.name]) == 1
    neurons = source.name if alone else f"{pool.name}.neurons"
    nodes: list[Node] = []
    for node in network.nodes:
        if node is pool:
            nodes.append(Node(pool.name, winner(pool.op), source.inputs))
            nodes.append(Node(neurons, source.op, (pool.name,)))
        elif node is not source or not alone:
            inputs = (neurons if name == pool.name else name for name in node.inputs)
            nodes.append(dataclasses.replace(node, inputs=tuple(inputs)))
    return dataclasses.replace(network, nodes=tuple(nodes))
