"""Maps that only move features, which NIR has no node for, put into what stands beside them: exact."""

import dataclasses
import math

import torch

from equispike.graph.linear import spread
from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, Flatten, Input, Linear, Sparse


def without_moves(network: Network) -> tuple[Network, list[str]]:
    """The network without moves behind its input, or in front of a linear layer; and what the user has to know.

    A move behind the input is left to whoever feeds the images. One in front of a linear layer, as of files with the
    channels last, goes into the order of that layer's weights.
    """
    notes: list[str] = []
    for name in [node.name for node in network.nodes if isinstance(node.op, Sparse) and _moves(node.op)]:
        node = network[name]
        assert isinstance(node.op, Sparse)
        source, readers = network[node.inputs[0]], _read_by(network, node)
        alone = isinstance(source.op, Input) and len(_read_by(network, source)) == 1
        if alone and _is_order(node.op) and all(isinstance(reader.op, Conv | Linear) for reader in readers):
            network = _entered_behind(network, source, node, node.op)
            shape = " x ".join(map(str, node.op.shape))
            notes.append(f"Feed images as {shape}: {name}, which puts their axes into that order, is left out.")
        elif len(readers) == 1 and isinstance(readers[0].op, Flatten):
            network = _put_into_weights(network, node, node.op, readers[0])
    return network, notes


def _moves(op: Sparse) -> bool:
    """Tell a map each of whose outputs is one of its inputs, times a factor."""
    return len(op.source) == 1 and op.bias is None


def _is_order(op: Sparse) -> bool:
    """Tell one that takes each input once, all with the same factor."""
    once = op.source.shape[1] == op.size and bool((op.source[0].sort().values == torch.arange(op.size)).all())
    return once and bool((op.weight == op.weight[0, 0]).all())


def _read_by(network: Network, node: Node) -> list[Node]:
    return [other for other in network.nodes if node.name in other.inputs]


def _without(network: Network, gone: Node, changed: dict[str, Node]) -> Network:
    """The network without a node, whose readers read what it read, and with some nodes changed."""

    def kept(node: Node) -> Node:
        node = changed.get(node.name, node)
        return dataclasses.replace(node, inputs=tuple(gone.inputs[0] if n == gone.name else n for n in node.inputs))

    return Network(tuple(kept(node) for node in network.nodes if node.name != gone.name), network.provenance)


def _entered_behind(network: Network, source: Node, node: Node, op: Sparse) -> Network:
    changed = {source.name: dataclasses.replace(source, op=dataclasses.replace(network.input, shape=op.shape))}
    for reader in _read_by(network, node):
        assert isinstance(reader.op, Conv | Linear)
        weight = (reader.op.weight * op.weight[0, 0]).to(reader.op.weight.dtype)
        changed[reader.name] = dataclasses.replace(reader, op=dataclasses.replace(reader.op, weight=weight))
    return _without(network, node, changed)


def _put_into_weights(network: Network, node: Node, op: Sparse, flat: Node) -> Network:
    """The network with the move in the linear layers behind ``flat``; as it is where others read it."""
    readers = _read_by(network, flat)
    given = math.prod(network.shapes[node.inputs[0]])
    places, factors = spread(op, given // op.size)
    changed: dict[str, Node] = {}
    for reader in readers:
        if not isinstance(reader.op, Linear):
            return network
        own = (reader.op.weight * factors[0]).to(reader.op.weight.dtype)
        weight = own.new_zeros(len(own), given).index_add_(1, places[0], own)
        changed[reader.name] = dataclasses.replace(reader, op=dataclasses.replace(reader.op, weight=weight))
    return _without(network, node, changed)
