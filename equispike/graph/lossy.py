"""Passes that change the network's function: off unless asked for, and each says what it changed."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch

from equispike.arguments import checked
from equispike.errors import ConversionError
from equispike.graph.fold import winner
from equispike.graph.network import Network, Node, is_open
from equispike.graph.ops import Add, Affine, AvgPool, LeakyReLU, MaxPool, Neuron, Op


class Change(NamedTuple):
    """A change that a lossy pass made to one layer."""

    layer: str
    text: str


LossyPass = Callable[[Network], tuple[Network, list[Change]]]


@checked
def max_pool_to_avg(network: Network) -> tuple[Network, list[Change]]:
    """Replace every max pool by an average pool of the same windows.

    The average is never above the maximum, so activations behind it shrink; thresholds are calibrated afterwards, on
    the changed network. Accuracy can fall a lot without training again.

    Raises:
        ConversionError: a max pool is dilated, which average pools cannot be.
    """
    ops: dict[str, Op] = {}
    for node in network.nodes:
        op = node.op
        if is_open(op):
            if any(d != 1 for d in op.dilation):
                raise ConversionError(f"{node.name} (MaxPool): is dilated, and average pools cannot be. Replace it")
            ops[node.name] = AvgPool(op.kernel, op.stride, op.padding, op.ceil_mode, count_include_pad=False)
    changes = [Change(name, f"max pool became average pool of {_size(op)} windows") for name, op in ops.items()]
    return network.replace_ops(ops), changes


@checked
def max_pool_to_winner(network: Network) -> tuple[Network, list[Change]]:
    """Let every max pool pass the growth of the largest count of spikes in each window (see ``ops.WinnerPool``).

    The trained function stays, and at any time the count behind the pool is the largest count in front of it. The pool
    has to count, which few chips can.
    """
    ops: dict[str, Op] = {node.name: winner(node.op) for node in network.nodes if is_open(node.op)}
    changes = [
        Change(name, f"max pool passes the growth of the largest count of {_size(op)}") for name, op in ops.items()
    ]
    return network.replace_ops(ops), changes


@checked
def leaky_relu_to_pairs(network: Network) -> tuple[Network, list[Change]]:
    """Replace every leaky ReLU by two layers of neurons, one for each sign: relu(x) - slope relu(-x).

    The trained function stays. There are twice as many neurons, and each layer is rounded by itself.
    """
    nodes: list[Node] = []
    changes: list[Change] = []
    for node in network.nodes:
        if not isinstance(node.op, LeakyReLU):
            nodes.append(node)
            continue
        above, turned, below, scaled = (f"{node.name}.{part}" for part in ("above", "turned", "below", "scaled"))
        slope = node.op.slope.flatten()
        nodes += Node(above, Neuron(), node.inputs), Node(turned, Add((-1.0,)), node.inputs)
        nodes.append(Node(below, Neuron(), (turned,)))
        if len(slope) == 1:
            nodes.append(Node(node.name, Add((1.0, -float(slope))), (above, below)))
        else:
            nodes.append(Node(scaled, Affine(-slope, torch.zeros_like(slope)), (below,)))
            nodes.append(Node(node.name, Add((1.0, 1.0)), (above, scaled)))
        changes.append(Change(node.name, "leaky ReLU became two neurons, one for each sign"))
    return dataclasses.replace(network, nodes=tuple(nodes)), changes


def _size(op: Op) -> str:
    assert isinstance(op, AvgPool | MaxPool)
    return " x ".join(map(str, op.kernel))
