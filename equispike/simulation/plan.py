"""The actions of every chunk of steps, decided once per network and machine, and the engine that follows them.

Each node becomes at most one action on a ``PlannedBatch``: neurons fire in the machine's kernels, with the current that
drives them; what these cannot express is computed densely, for that node alone; views and currents cost nothing
themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch

from equispike.functional.coding import Coder, Poisson
from equispike.functional.integrate import if_scan
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Add, Conv, Input, Linear, Neuron, Readout, WinnerPool
from equispike.simulation.currents import (
    Current,
    Spikes,
    add_currents,
    apply_view,
    apply_weights,
    as_current,
    whole_train,
)
from equispike.simulation.layerwise import apply_over_time
from equispike.simulation.state import SIGNS, Action, Driven, Machine, Plan, PlannedBatch, trains_of
from equispike.simulation.stepwise import drive_in, winners
from equispike.simulation.task import Moment, Replay, Task, Visit, upstream
from equispike.simulation.trains import extent, padded, widen

LONGEST = 64
"""Steps of one chunk at most: more save little, and the lists of events would leave the caches."""


@dataclass(frozen=True)
class ByPlan:
    """An engine that follows a plan, on a machine.

    Attributes:
        machine: computes the layers.
        choose: layers may be computed by whichever way of the machine turns out to be fastest.
    """

    machine: Machine
    choose: bool = True

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> PlannedBatch:
        given = frozenset(replay.given) if replay else frozenset[str]()
        first = self._plan(task, frozenset(), given, replay is None)
        return PlannedBatch(self.machine, first, task, memory, start, replay)

    def advance(self, batch: PlannedBatch, visit: Visit | None = None) -> None:
        """Run the next chunk; show what the readout reads."""
        last = batch.network.nodes[-1]
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

    def _plan(self, task: Task, dense: frozenset[str], given: frozenset[str], scored: bool) -> Plan:
        spike = input_spike(task.network, task.coder)
        return plan(self.machine, task.network, spike, dense, given, self.choose, scored)


@lru_cache(maxsize=4)
def plan(
    machine: Machine,
    network: Network,
    spike: float | None,
    dense: frozenset[str] = frozenset(),
    given: frozenset[str] = frozenset(),
    choose: bool = False,
    scored: bool = True,
) -> Plan:
    """The plan of a network.

    Args:
        machine: computes the layers.
        network: with thresholds of all neurons that are not given.
        spike: size of an input spike (see ``input_spike``).
        dense: convolutions and linear layers that are to be computed densely.
        given: neuron layers whose trains are known; only what the readout needs beside them is computed.
        choose: whether layers may be computed by whichever way turns out to be fastest.
        scored: whether what the readout reads is added up, or left as a dense value for whoever observes it.
    """
    planner = _Planner(machine, network, spike, dense, choose, scored)
    needed = upstream(network, given)
    for node in network.nodes:
        if node.name in needed:
            (planner.replay if node.name in given else planner.add)(node)
    last = {name: i for i, action in enumerate(planner.actions) for name in action.reads}
    observed = () if scored else network.nodes[-1].inputs
    dead: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in observed:
            dead.setdefault(i, []).append(name)
    done = [replace(action, last_read=tuple(dead.get(i, ()))) for i, action in enumerate(planner.actions)]
    return Plan(tuple(done), frozenset(needed - given), _peak(done), planner.events)


def input_spike(network: Network, coder: Coder) -> float | None:
    """Size of an input spike: zero where the input is fixed in time, None where it is not of one size."""
    if coder.constant:
        return 0.0
    op = network.input
    if type(coder) is not Poisson:
        return None
    return op.amplitude if coder.scale is None else op.amplitude * (coder.scale / op.scale)


def _peak(done: list[Action]) -> int:
    sizes: dict[str, int] = {}
    peak = 1
    for action in done:
        for name, size in action.writes.items():  # a name may stand for a train and for its dense value
            sizes[name] = sizes.get(name, 0) + size
        peak = max(peak, sum(sizes.values()))
        for name in action.last_read:
            sizes.pop(name, None)
    return peak


class _Planner:
    """Walks through a network and decides how each node's value comes about.

    Attributes:
        values: nodes whose value is spikes or a current of the core.
        dense: nodes whose dense value is there; ``fixed``: the same in every step.
        events: see Plan.
    """

    def __init__(
        self,
        machine: Machine,
        network: Network,
        spike: float | None,
        densely: frozenset[str],
        choose: bool,
        scored: bool,
    ) -> None:
        self.machine, self.scored = machine, scored
        self.network, self.spike, self.densely, self.choose = network, spike, densely, choose
        self.values: dict[str, Spikes | Current] = {}
        self.dense: set[str] = set()
        self.fixed: set[str] = set()
        self.actions: list[Action] = []
        self.events: dict[str, dict[str, float]] = {}

    def add(self, node: Node) -> None:
        """Decide how this node's value comes about; its inputs are known."""
        op, name = node.op, node.name
        if isinstance(op, Neuron):
            self._fire(node, op)
        elif isinstance(op, Readout):
            self._read_out(node, op)
        elif isinstance(op, Input):
            self._input(node)
        elif self.fixed.issuperset(node.inputs):
            self.fixed.add(name)
            self.dense.add(name)
        elif (value := self._lazy(node)) is not None:
            self.values[name] = value
            if isinstance(value, Current) and len(self.network.consumers[name]) > 1:
                self._densify(name)
        else:
            for source in node.inputs:
                self._densify(source)
            dense = pass_winners if isinstance(op, WinnerPool) else compute
            self._compute(node, partial(dense, node=node), node.inputs)

    def replay(self, node: Node) -> None:
        """The train of a neuron layer comes from the state."""
        assert isinstance(node.op, Neuron)
        self._act(node, partial(self.machine.replay, name=node.name), (), self._train_size(node.name, node.name))
        self._spikes(node, node.op)

    def _spikes(self, node: Node, op: Neuron) -> None:
        shape = self.network.shapes[node.name]
        _, amplitude = calibrated(node.name, op)
        sizes = (amplitude, -amplitude) if op.signed else (amplitude,)
        views = (whole_train(train, shape, size) for train, size in zip(trains_of(node.name, op), sizes))
        self.values[node.name] = Spikes(tuple(views), shape)

    def _fire(self, node: Node, op: Neuron) -> None:
        name = node.name
        current = self._current(node.inputs[0])
        threshold, _ = calibrated(name, op)
        theta = threshold.reshape(-1).expand(extent(current.shape)[0])
        theta = widen(theta, padded(len(theta)), value=torch.inf)
        drive = op.drive
        if drive is not None and len(drive) == 1:
            bias = drive[0] if current.bias is None else current.bias + drive[0]
            current, drive = replace(current, bias=bias), None
        neurons = Driven(theta, op.reset, op.signed, None if drive is None else widen(drive, len(theta)))
        layer = self.machine.Layer(current, self.network, self.choose, neurons)
        run = partial(run_neurons, machine=self.machine, name=name, layer=layer)
        writes = {train: size for own in trains_of(name, op) for train, size in self._train_size(own, name).items()}
        self._act(node, run, self._reads(current), writes)
        self._spikes(node, op)

    def _input(self, node: Node) -> None:
        name, shape = node.name, self.network.shapes[node.name]
        if self.spike:
            sizes = torch.tensor([self.spike, -self.spike], dtype=self.network.dtype, device=self.network.device)
            writes = {train: size for s in SIGNS for train, size in self._train_size(name + s, name).items()}
            self._act(node, partial(self.machine.draw, name=name), (), writes)
            views = (whole_train(name + sign, shape, size) for sign, size in zip(SIGNS, sizes))
            self.values[name] = Spikes(tuple(views), shape)
        elif self.spike is None:
            self._compute(node, partial(present, name=name), ())
        else:
            self.fixed.add(name)
            self.dense.add(name)

    def _lazy(self, node: Node) -> Spikes | Current | None:
        """The node's value as spikes or current of the core, or None if it has to be computed densely."""
        op, shape = node.op, self.network.shapes[node.name]
        inputs = [self.values.get(name) for name in node.inputs if name not in self.dense]
        spikes = [x for x in inputs if isinstance(x, Spikes)]
        if len(spikes) == len(node.inputs):
            if isinstance(op, Conv | Linear):
                value = None if node.name in self.densely else apply_weights(op, spikes[0], shape)
                if value is not None and not self.machine.suits(value):
                    value = None
                scores = all(isinstance(reader.op, Readout) for reader in self.network.consumers[node.name])
                if (
                    value is not None
                    and not scores
                    and not (self.choose and self.machine.multiplies(self.network.dtype))
                ):
                    self.events[node.name] = _events(value, op)
            else:
                value = apply_view(op, spikes, shape)
            if value is not None:
                return value
        if isinstance(op, Add) and inputs and not any(x.flat for x in spikes):
            return add_currents([self._current(name) for name in node.inputs], op.coefficients)
        return None

    def _current(self, name: str) -> Current:
        """A node's value as the input of neurons."""
        value = self.values.get(name)
        if name not in self.dense and isinstance(value, Spikes) and value.flat:
            self._densify(name)
        if name in self.dense or value is None:
            return Current(self.network.shapes[name], dense=((name, 1.0),))
        return as_current(value) if isinstance(value, Spikes) else value

    def _read_out(self, node: Node, op: Readout) -> None:
        (name,) = node.inputs
        value = None if name in self.dense else self.values.get(name)
        if self.scored and isinstance(value, Current) and len(value.shape) == 1:
            layer = self.machine.Layer(value, self.network, self.choose)
            self._act(node, partial(self.machine.score, layer=layer, scale=op.scale), self._reads(value), {})
            return
        self._densify(name)
        if self.scored:
            self._act(node, partial(score, name=name, scale=op.scale), node.inputs, {})

    def _densify(self, name: str) -> None:
        """See to it that the node's dense value is there from here on."""
        if name in self.dense:
            return
        value = self.values[name]
        current = as_current(value) if isinstance(value, Spikes) else value
        layer = self.machine.Layer(current, self.network, self.choose)
        self._compute(self.network[name], partial(self.machine.emit, name=name, layer=layer), self._reads(current))

    def _act(
        self, node: Node, run: Callable[[PlannedBatch], None], reads: tuple[str, ...], writes: Mapping[str, int]
    ) -> None:
        reads = tuple(name for name in dict.fromkeys(reads) if name not in self.fixed)
        self.actions.append(Action(node, run, reads, writes))

    def _compute(self, node: Node, run: Callable[[PlannedBatch], None], reads: tuple[str, ...]) -> None:
        """An action that leaves the node's dense value."""
        self.dense.add(node.name)
        size = prod(self.network.shapes[node.name]) * self.network.dtype.itemsize
        self._act(node, run, reads, {node.name: size})

    def _reads(self, current: Current) -> tuple[str, ...]:
        trains = (term.train for term in (*current.gathers, *current.taps))
        return (*trains, *(name for name, _ in current.dense))

    def _train_size(self, train: str, name: str) -> dict[str, int]:
        return {train: self.machine.bytes_per_step(self.network.shapes[name])}


def _events(current: Current, op: Conv | Linear) -> dict[str, float]:
    """Additions of a current per output, for trains that spike in every step, over those of the dense operation."""
    _, rows, cols = extent(current.shape)
    found: dict[str, float] = {}
    for term in current.gathers:
        reads = prod(float((ranges[..., 1] - ranges[..., 0]).sum()) for ranges in (term.rows, term.cols))
        found[term.train] = found.get(term.train, 0.0) + reads / (rows * cols) * term.extent[0] / op.weight[0].numel()
    return found


def present(state: PlannedBatch, name: str) -> None:
    """The input of a coder whose values are not spikes of one size."""
    state.dense[name] = state.encode(steps=state.steps)


def compute(state: PlannedBatch, node: Node) -> None:
    """A linear operation on dense values."""
    inputs = [state.value(name) for name in node.inputs]
    state.dense[node.name] = apply_over_time(node, inputs, len(state.steps))


def pass_winners(state: PlannedBatch, node: Node) -> None:
    """A winner pool, on dense values."""
    assert isinstance(node.op, WinnerPool)
    state.dense[node.name], state.pools[node.name] = winners(
        node.op, state.value(node.inputs[0]), state.pools[node.name]
    )


def run_neurons(state: PlannedBatch, machine: Machine, name: str, layer: Any) -> None:
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


def score(state: PlannedBatch, name: str, scale: float) -> None:
    """Add up what the readout reads."""
    value = state.value(name).double()
    sums = torch.cat([state.sums[None], value.expand(len(state.steps), *value.shape[1:])]).cumsum(0)
    state.totals[state.rows] = sums[1:] * scale
    state.sums = sums[-1]
