"""Max pooling where it is exact: in front of neurons whose current stays the same in every step."""

import dataclasses

from equispike.errors import ConversionError
from equispike.graph.network import Network, Node, is_open, not_spiking
from equispike.graph.ops import MaxPool, Neuron, Sparse, WinnerPool


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


def unwritable(node: Node) -> ConversionError:
    """Why no other tool can be told of a node."""
    if isinstance(node.op, Sparse):
        return ConversionError(
            f"{node.name} (Sparse): moves or adds up features, for which NIR has no node. Export to ONNX or torch"
        )
    if not isinstance(node.op, WinnerPool):
        return ConversionError(not_spiking(node))
    return ConversionError(
        f"{node.name} (WinnerPool): takes maxima, of which NIR knows nothing. Export to ONNX or torch, or train with "
        "average pooling"
    )
