"""Residual blocks of a network: where paths part, and the sums in which they meet again."""

from equispike.graph.network import Network
from equispike.graph.ops import Add


def residual_neurons(network: Network) -> list[str]:
    """The neuron layers of the residual part, in order; none if no two paths meet in a sum.

    To it belong the layers inside blocks, on any path from a fork to the sum where the paths meet again, and the
    junctions: the layers that read such a sum. The fork of a sum is the last node that everything on its way to the sum
    must pass (its immediate dominator). Layers before, between and behind blocks do not belong to it.
    """
    forks = _last_passed_by_all(network)
    part: set[str] = set()
    for node in network:
        if isinstance(node.op, Add) and len(set(node.inputs)) > 1:
            part |= _between(network, forks[node.name], node.name)
            part |= {reader.name for reader in network.consumers[node.name]}
    return [name for name in network.neurons if name in part]


def _last_passed_by_all(network: Network) -> dict[str, str]:
    """For each node but the first, the last node before it that all paths from the input to it pass."""
    order = {node.name: i for i, node in enumerate(network)}
    last: dict[str, str] = {}
    for node in network.nodes[1:]:
        common = node.inputs[0]
        for name in node.inputs[1:]:
            while name != common:  # the later of two is not on every path: step back from it
                if order[name] > order[common]:
                    name = last[name]
                else:
                    common = last[common]
        last[node.name] = common
    return last


def _between(network: Network, start: str, end: str) -> set[str]:
    """The nodes on any path from one node to another, without the two, if all paths to the end pass the start."""
    found: set[str] = set()
    waiting = [*network[end].inputs]
    while waiting:
        name = waiting.pop()
        if name != start and name not in found:
            found.add(name)
            waiting += network[name].inputs
    return found
