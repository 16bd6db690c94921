"""Engines that work by a plan: layers outside, time inside, in chunks of steps, on a machine that adds up integers.

Sums are exact in any order, so what spikes does not depend on chunks, threads, kernels, or which machine it is.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from equispike.simulation.layout import train_bytes, unpack
from equispike.simulation.machine import Machine
from equispike.simulation.neurons import SIGNS
from equispike.simulation.plan import Plan, input_spike, plan
from equispike.simulation.record import Moment, Record, Resume, Task
from equispike.simulation.state import State

LONGEST = 64
"""Steps of one chunk at most: more save little, and the lists of events would leave the caches."""


def run(
    machine: Machine,
    task: Task,
    memory: int,
    start: Moment | None = None,
    choose: bool = True,
    crowded: Callable[[Plan, State], frozenset[str]] | None = None,
) -> tuple[Record, Resume]:
    """Run one batch up to step T, in chunks whose trains fit into ``memory`` bytes. The record is that of ``stepwise``.

    With ``choose``, layers may be computed by whichever way of the machine turns out to be fastest; those that
    ``crowded`` names after a chunk, given the first plan, are computed densely in the next.
    """
    network, timesteps = task.network, task.timesteps
    planned = partial(plan, machine, network, input_spike(network, task.coder), choose=choose)  # the key of a cache
    present = first = planned(frozenset[str]())
    state = State(machine, first.needed, task, {}, start)
    extent = timesteps - state.before, state.batch
    kept = {name: [name + sign for sign in SIGNS] if network.neurons[name].signed else [name] for name in task.trains}
    sizes = {train: train_bytes(network.shapes[name]) for name, own in kept.items() for train in own}
    bits = {name: task.indices.new_empty(*extent, *size, dtype=torch.uint8) for name, size in sizes.items()}
    while state.steps.stop <= timesteps:
        _advance(machine, state, present, memory, bits)
        if crowded and first.events and state.steps.stop <= timesteps:
            present = planned(crowded(first, state))
    trains = {name: _unpacked([bits[train] for train in own], network.shapes[name]) for name, own in kept.items()}
    neurons = state.neurons
    record = Record(state.readout, neurons.counts, neurons.fired, trains, state.potentials, neurons.negative)
    return record, lambda: Moment(timesteps, {**neurons.v, **state.pools}, state.sums, neurons.sent)


def _unpacked(bits: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Spikes as they are kept, (T, B, *shape): bool, or of two trains 1 and -1, int8."""
    if len(bits) == 1:
        return unpack(bits[0], shape, torch.bool)
    positive, negative = (unpack(own, shape, torch.int8) for own in bits)
    return positive - negative


def observe(
    machine: Machine,
    task: Task,
    memory: int,
    visit: Callable[[Tensor], None],
    given: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> None:
    """Show what the readout reads to ``visit``: see ``simulation.run.observe``; ``memory`` as in ``run``."""
    network = task.network
    spike = input_spike(network, task.coder)
    wanted = plan(machine, network, spike, given=frozenset(given), choose=True, scored=False)
    state = State(machine, wanted.needed, task, given, scored=False)
    while state.steps.stop <= task.timesteps:
        _advance(machine, state, wanted, memory, keep)
        visit(state.value(network.nodes[-1].inputs[0]))


def _advance(machine: Machine, state: State, present: Plan, memory: int, keep: Mapping[str, Tensor]) -> None:
    """Run the next chunk."""
    timesteps = state.task.timesteps
    currents = max((v[0, 0].numel() * v.itemsize for v in state.potentials.values()), default=0)  # see actions.fire
    chunk = present.steps_per_chunk(state.batch, timesteps, memory, LONGEST, currents)
    first = state.steps.stop
    state.steps = range(first, min(first + chunk, timesteps + 1))
    for action in present.actions:
        action.run(state)
        for name in action.writes:
            if name in keep and name in state.trains:
                keep[name][state.rows] = machine.packed(state, name)
        for name in action.last_read:
            state.trains.pop(name, None)
            state.dense.pop(name, None)
