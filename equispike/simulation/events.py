"""Event-driven engine for CPUs: only spikes cost anything.

Layers outside, time inside, as in ``layerwise``; between layers spikes are bits. The core (``csrc/``, C++) adds one row
of weights, integers, per spike and output position, with the potentials in registers for all steps of a chunk. A plan,
made once per network, says which layers the core runs; what it cannot run is computed densely, that operation alone.
"""

from functools import partial
from typing import cast

import torch

from equispike.errors import SimulationError
from equispike.graph.network import Network
from equispike.simulation import cpu, planned
from equispike.simulation.plan import Plan
from equispike.simulation.record import Moment, Record, Resume, Task
from equispike.simulation.state import State

DENSE_ABOVE = 0.4
"""Additions over the multiplications of the dense operation, above which the dense operation is faster."""

observe = partial(planned.observe, cpu)


def installed() -> bool:
    """Whether the core was compiled when the package was installed."""
    return cpu.core is not None


def suits(network: Network) -> bool:
    """Whether the core knows the network's device and type."""
    return network.device.type == "cpu" and network.dtype in (torch.float32, torch.float64)


def events(task: Task, memory: int, start: Moment | None = None, adapt: bool = False) -> tuple[Record, Resume]:
    """Run one batch up to step T, in chunks whose trains fit into ``memory`` bytes. The record is that of ``stepwise``.

    With ``adapt``, layers may use the core's dense kernel too, where the machine has instructions for it, and choose by
    the time that they take. On other machines, those whose input turns out to spike so often that torch's dense
    operation is faster use it from the next chunk on, and events again when it calms down.

    Raises:
        SimulationError: there is no core, or it does not suit the network.
    """
    if not (installed() and suits(task.network)):
        raise SimulationError(
            "engine: 'events' needs a network in float32 or float64 on the CPU, and its compiled core. "
            "Choose 'auto' or 'layerwise', or install equispike again where there is a C++ compiler"
        )
    crowded = _crowded if adapt else None
    return planned.run(cpu, task, memory, start, adapt, crowded)


def _crowded(first: Plan, state: State) -> frozenset[str]:
    """Layers whose input spiked so often in this chunk that the dense operation would have been faster."""
    rates = cast("cpu.Neurons", state.neurons).rates_in(state.rows)
    return frozenset(
        name
        for name, trains in first.events.items()
        if sum(share * rates.get(train, 0.0) for train, share in trains.items()) > DENSE_ABOVE
    )
