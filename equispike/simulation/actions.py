"""What is done in a chunk of steps outside the layers of a machine: dense operations, and scores."""

import torch

from equispike.graph.network import Node
from equispike.graph.ops import WinnerPool
from equispike.simulation.layerwise import apply_over_time
from equispike.simulation.pooling import winners
from equispike.simulation.state import State


def present(state: State, name: str) -> None:
    """The input of a coder whose values are not spikes of one size."""
    state.dense[name] = state.encode(steps=state.steps)


def apply(state: State, node: Node) -> None:
    """A linear operation on dense values."""
    inputs = [state.value(name) for name in node.inputs]
    state.dense[node.name] = apply_over_time(node, inputs, len(state.steps))


def choose(state: State, node: Node) -> None:
    """A winner pool, on dense values."""
    assert isinstance(node.op, WinnerPool)
    state.dense[node.name], state.pools[node.name] = winners(
        node.op, state.value(node.inputs[0]), state.pools[node.name]
    )


def score(state: State, name: str, scale: float) -> None:
    """What the readout reads, added up."""
    value = state.value(name).double()
    sums = torch.cat([state.sums[None], value.expand(len(state.steps), *value.shape[1:])]).cumsum(0)
    state.readout[state.rows] = sums[1:] * scale
    state.sums = sums[-1]
