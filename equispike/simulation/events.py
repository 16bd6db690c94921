"""Event-driven engine for CPUs: only spikes cost anything.

Layers outside, time inside, as in ``layerwise``; between layers spikes are bits. The core (``csrc/``, C++) adds one row
of weights, integers, per spike and output position, with the potentials in registers for all steps of a chunk. A plan,
made once per network, says which layers the core runs; what it cannot run is computed densely, that operation alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.functional.coding import Coder
from equispike.graph.network import Network
from equispike.simulation import actions
from equispike.simulation.actions import State
from equispike.simulation.layout import to_features
from equispike.simulation.plan import Plan, input_spike, plan
from equispike.simulation.record import Moment, Record

LONGEST = 64
"""Steps of one chunk at most: more save little, and the lists of events would leave the caches."""

DENSE_ABOVE = 0.4
"""Additions over the multiplications of the dense operation, above which the dense operation is faster."""


def installed() -> bool:
    """Whether the core was compiled when the package was installed."""
    return actions.core is not None


def suits(network: Network) -> bool:
    """Whether the core knows the network's device and type."""
    return network.device.type == "cpu" and network.dtype in (torch.float32, torch.float64)


def events(
    network: Network,
    images: Tensor,
    indices: Tensor,
    timesteps: int,
    coder: Coder,
    seed: int,
    memory: int,
    start: Moment | None = None,
    adapt: bool = False,
) -> Record:
    """Run one batch up to step T, in chunks whose trains fit into ``memory`` bytes. The record is that of ``stepwise``.

    With ``adapt``, layers may use the core's dense kernel too, where the machine has instructions for it, and choose by
    the time that they take. On other machines, those whose input turns out to spike so often that torch's dense
    operation is faster use it from the next chunk on, and events again when it calms down.

    Raises:
        SimulationError: there is no core, or it does not suit the network.
    """
    if not (installed() and suits(network)):
        raise SimulationError(
            "engine: 'events' needs a network in float32 or float64 on the CPU, and its compiled core. "
            "Choose 'auto' or 'layerwise', or install equispike again where there is a C++ compiler"
        )
    spike = input_spike(network, coder)
    present = first = plan(network, spike, choose=adapt)
    state = State(network, images, indices, coder, seed, {}, timesteps, start)
    while state.steps.stop <= timesteps:
        _advance(state, present, timesteps, memory, {})
        if adapt and first.events and state.steps.stop <= timesteps:
            present = plan(network, spike, _crowded(first, state), choose=True)
    return Record(
        state.scores[1:].to(images.dtype),
        {
            name: to_features(count[:, :, None], network.shapes[name])[0].to(
                torch.int32, memory_format=torch.contiguous_format
            )
            for name, count in state.counts.items()
        },
        {name: fired.T for name, fired in state.fired.items()},
        state.moment,
    )


def observe(
    network: Network,
    images: Tensor,
    indices: Tensor,
    timesteps: int,
    coder: Coder,
    seed: int,
    memory: int,
    visit: Callable[[Tensor], None],
    given: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> None:
    """Show what the readout reads to ``visit``: see ``run.observe``; ``memory`` as in ``events``."""
    wanted = plan(network, input_spike(network, coder), given=frozenset(given), choose=True)
    *before_scores, _ = wanted.actions
    wanted = replace(wanted, actions=tuple(before_scores))
    state = State(network, images, indices, coder, seed, given, timesteps, scored=False)
    while state.steps.stop <= timesteps:
        _advance(state, wanted, timesteps, memory, keep)
        visit(state.value(network.nodes[-1].inputs[0]))


def _advance(state: State, present: Plan, timesteps: int, memory: int, keep: Mapping[str, Tensor]) -> None:
    """Run the next chunk."""
    chunk = present.steps_per_chunk(len(state.images), timesteps, memory, LONGEST)
    first = state.steps.stop
    state.steps = range(first, min(first + chunk, timesteps + 1))
    for action in present.actions:
        action.run(state)
        if (name := action.node.name) in keep:
            keep[name][first - 1 : state.steps.stop - 1] = state.trains[name].permute(2, 0, 1, 3)
        for name in action.last_read:
            state.trains.pop(name, None)
            state.dense.pop(name, None)


def _crowded(first: Plan, state: State) -> frozenset[str]:
    """Layers whose input spiked so often in this chunk that the dense operation would have been faster."""
    size = len(state.images) * len(state.steps)
    rates = {
        name: int(fired[:, state.rows].sum()) / (size * prod(state.network.shapes[name]))
        for name, fired in state.fired.items()
    }
    return frozenset(
        name
        for name, trains in first.events.items()
        if sum(share * rates.get(train, 0.0) for train, share in trains.items()) > DENSE_ABOVE
    )
