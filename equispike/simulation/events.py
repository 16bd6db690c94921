"""Event-driven engine for CPUs: only spikes cost anything. And the loop of all engines that work by a plan.

Layers outside, time inside, as in ``layerwise``, in chunks of steps; between layers spikes are bits. The core
(``csrc/``, C++) adds one row of weights, integers, per spike and output position, with the potentials in registers for
all steps of a chunk. A plan, made once per network, says which layers the machine runs; what it cannot run is computed
densely, that operation alone. Sums are exact in any order, so what spikes does not depend on chunks, threads, kernels,
or which machine it is.
"""

from dataclasses import dataclass
from typing import cast

import torch

from equispike.errors import SimulationError
from equispike.graph.network import Network
from equispike.simulation import cpu
from equispike.simulation.plan import input_spike, plan
from equispike.simulation.state import Machine, Plan, PlannedBatch
from equispike.simulation.task import Moment, Replay, Task, Visit

LONGEST = 64
"""Steps of one chunk at most: more save little, and the lists of events would leave the caches."""

DENSE_ABOVE = 0.4
"""Additions over the multiplications of the dense operation, above which the dense operation is faster."""

CPU = cpu.Cpu()


@dataclass(frozen=True)
class ByPlan:
    """An engine that follows a plan, on a machine.

    Attributes:
        machine: computes the layers.
        choose: layers may be computed by whichever way of the machine turns out to be fastest.
        adapt: layers whose input turns out to spike so often that torch's dense operation is faster use it from the
            next chunk on, and events again when it calms down.
    """

    machine: Machine
    choose: bool = True
    adapt: bool = False

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> PlannedBatch:
        given = frozenset(replay.given) if replay else frozenset[str]()
        first = self._plan(task, frozenset(), given, replay is None)
        return PlannedBatch(self.machine, first, task, memory, start, replay)

    def advance(self, batch: PlannedBatch, visit: Visit | None = None) -> None:
        """Run the next chunk; show what the readout reads."""
        task, last = batch.task, batch.network.nodes[-1]
        batch.next_chunk(LONGEST)
        for action in batch.plan.actions:
            action.run(batch)
            for name in action.writes:
                if name in batch.keep and name in batch.trains:
                    batch.keep[name][batch.rows] = self.machine.packed(batch, name)
            for name in action.last_read:
                batch.trains.pop(name, None)
                batch.dense.pop(name, None)
        if visit:
            visit(last.name, batch.value(last.inputs[0]))
        if self.adapt and batch.first_plan.events and batch.done < task.timesteps and batch.scored:
            batch.plan = self._plan(task, _crowded(batch), frozenset(), True)

    def _plan(self, task: Task, dense: frozenset[str], given: frozenset[str], scored: bool) -> Plan:
        spike = input_spike(task.network, task.coder)
        return plan(self.machine, task.network, spike, dense, given, self.choose, scored)


def installed() -> bool:
    """Tell whether the core was compiled when the package was installed."""
    return cpu.core is not None


def suits(network: Network) -> bool:
    """Tell whether the core knows the network's device and type."""
    return network.device.type == "cpu" and network.dtype in (torch.float32, torch.float64)


@dataclass(frozen=True)
class Events(ByPlan):
    """The engine for CPUs, on the compiled core; with ``choose``, its dense kernel too where the machine has one."""

    machine: Machine = CPU
    choose: bool = False

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> PlannedBatch:
        """See ``task.Engine``.

        Raises:
            SimulationError: there is no core, or it does not suit the network.
        """
        if not (installed() and suits(task.network)):
            raise SimulationError(
                "engine: 'events' needs a network in float32 or float64 on the CPU, and its compiled core. "
                "Choose 'auto' or 'layerwise', or install equispike again where there is a C++ compiler"
            )
        return super().begin(task, memory, start, replay)


def _crowded(batch: PlannedBatch) -> frozenset[str]:
    """Layers whose input spiked so often in this chunk that the dense operation would have been faster."""
    rates = cast("cpu.CpuNeurons", batch.neurons).rates_in(batch.rows)
    return frozenset(
        name
        for name, trains in batch.first_plan.events.items()
        if sum(share * rates.get(train, 0.0) for train, share in trains.items()) > DENSE_ABOVE
    )
