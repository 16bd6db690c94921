"""What is done in a chunk of steps outside the layers of a machine: dense operations, and scores."""

from typing import Any

import torch

from equispike.functional.integrate import if_scan
from equispike.graph.exact import calibrated
from equispike.graph.network import Node
from equispike.graph.ops import WinnerPool
from equispike.simulation.layerwise import apply_over_time
from equispike.simulation.machine import Machine
from equispike.simulation.pooling import winners
from equispike.simulation.state import State
from equispike.simulation.stepwise import drive_in


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


def fire(state: State, machine: Machine, name: str, layer: Any) -> None:
    """Neurons, in the machine; where potentials after each step are recorded, outside too, from their currents."""
    if name in state.potentials:
        machine.emit(state, name, layer)
        current, op = state.dense.pop(name), state.network.neurons[name]
        threshold, _ = calibrated(name, op)
        current = current.expand(len(state.steps), *current.shape[1:])
        by_step = op.drive is not None and len(op.drive) > 1  # one that is the same in every step is in the current
        if_scan(
            current,
            threshold,
            op.reset,
            state.neurons.v[name],
            potentials=state.potentials[name][state.rows],
            drive=drive_in(op, state.steps, current.ndim - 1)[:, None] if by_step else None,
            sent=state.neurons.sent.get(name),
        )
    machine.fire(state, name, layer)


def score(state: State, name: str, scale: float) -> None:
    """What the readout reads, added up."""
    value = state.value(name).double()
    sums = torch.cat([state.sums[None], value.expand(len(state.steps), *value.shape[1:])]).cumsum(0)
    state.readout[state.rows] = sums[1:] * scale
    state.sums = sums[-1]
