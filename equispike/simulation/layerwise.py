"""Layers outside, time inside: one dense operation per layer over a chunk of steps, then the neurons' scan.

A feed-forward network lets a layer run all steps of a chunk before the next layer starts, so T x B images pass through
each convolution at once. What does not change in time (the first layer's current under constant coding) is computed
once. Memory is that of one chunk; the potentials carry over from chunk to chunk.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from equispike.functional.integrate import if_scan
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Conv, Input, Neuron, Readout, WinnerPool
from equispike.graph.walk import interpret
from equispike.simulation.beginning import beginning, fixed_values
from equispike.simulation.stepwise import drive_in, winners
from equispike.simulation.task import Moment, Record, Replay, Task, Visit, negative_spikes, upstream
from equispike.simulation.trains import fastest, pack, unpack


class LayerwiseBatch:
    """A batch on its way.

    Attributes:
        v, sent: potentials (and sums of winner pools), and what signed neurons sent, after the steps that are done.
        fixed: values that are the same in every step, T' = 1.
        running: nodes that run.
    """

    def __init__(self, task: Task, memory: int, start: Moment | None, replay: Replay | None) -> None:
        start = start or beginning(task)
        self.task = replace(task, network=_channels_last(task.network), images=task.images.contiguous())
        self.start, self.replay, self.recorded = start, replay or Replay(), replay is None
        self.v, self.sent = dict(start.potentials), {name: n.clone() for name, n in start.sent.items()}
        self.done, batch = start.step, len(task.images)
        self.chunk = steps_per_chunk(task.network, batch, task.timesteps, memory)
        self.fixed = fixed_values(self.task)
        needed = upstream(task.network, self.replay.given)
        self.running = [node for node in self.task.network.nodes if node.name in needed]
        # All steps at once, as in the event-driven engine: what stays between the values of two chunks would break the
        # hole that the first leaves, and memory would grow with every chunk.
        steps, like = (task.timesteps - start.step) * self.recorded, start.scores
        self.counts: dict[str, Tensor] = {}
        self.spikes = {name: like.new_empty(steps, batch, dtype=torch.int32) for name in task.network.neurons}
        self.trains = task.trains_of(steps)
        self.potentials = task.every_step(task.potentials, steps, task.network.dtype)
        self.scores = like.new_empty(steps + 1, *like.shape) if steps else like
        if steps:
            self.scores[0] = like

    def record(self) -> Record:
        counts = {name: count.to(torch.int32) for name, count in self.counts.items()}
        scores = self.scores[1:] * self.task.network.readout.scale
        totals = scores.to(torch.promote_types(self.task.images.dtype, torch.float32))
        negative = negative_spikes(counts, self.start.sent, self.sent)
        return Record(totals, counts, self.spikes, self.trains, self.potentials, negative)

    def moment(self) -> Moment:
        return Moment(self.done, self.v, self.scores[-1], self.sent)

    def count(self, name: str, value: Tensor, rows: slice) -> None:
        """Enter the spikes of a layer, {-1, 0, 1}, in steps of the run."""
        # in float32, which holds these counts exactly, also where the spikes are of half precision
        fired = _blocks(value.abs() if name in self.sent else value)
        self.spikes[name][rows] = fired.sum(2, dtype=torch.float32)
        count = fired.sum(0, dtype=torch.float32)
        # chunks may lie otherwise in memory
        count = count.as_strided(value.shape[1:], (count.stride(0), *value.stride()[2:]))
        self.counts[name] = self.counts[name] + count if name in self.counts else count
        if name in self.trains:
            self.trains[name][rows] = value

    def fire(self, node: Node, op: Neuron, current: Tensor, steps: range, rows: slice) -> Tensor:
        """Spikes of a layer in a chunk, {-1, 0, 1}."""
        name, (threshold, _) = node.name, calibrated(node.name, op)
        current = current.expand(len(steps), *current.shape[1:])
        spikes, self.v[name] = if_scan(
            current,
            threshold,
            op.reset,
            self.v[name],
            potentials=self.potentials[name][rows] if self.recorded and name in self.potentials else None,
            drive=None if op.drive is None else drive_in(op, steps, current.ndim - 1)[:, None],
            sent=self.sent.get(name),
        )
        return spikes


class Layerwise:
    """The engine, on any device."""

    def begin(
        self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None
    ) -> LayerwiseBatch:
        return LayerwiseBatch(task, memory, start, replay)

    def advance(self, batch: LayerwiseBatch, visit: Visit | None = None) -> None:
        """Run the next chunk and show the value of every node that runs.

        Of neurons spikes in {-1, 0, 1}, of the readout what it reads, before its scale. What is fixed in time is shown
        in the first chunk alone, with T' = 1.
        """
        task, network = batch.task, batch.task.network
        steps = range(batch.done + 1, min(batch.done + batch.chunk, task.timesteps) + 1)
        rows = slice(batch.done - batch.start.step, steps.stop - 1 - batch.start.step)
        if visit and batch.done == batch.start.step:
            for name, value in batch.fixed.items():
                visit(name, value)

        def enter(node: Node, op: Input) -> Tensor:
            return task.coder.encode(task.images, task.indices, steps, task.seed, op.scale, op.amplitude)

        def fire(node: Node, op: Neuron, current: Tensor) -> Tensor:
            spikes = batch.fire(node, op, current, steps, rows)
            if batch.recorded:
                batch.count(node.name, spikes, rows)
            if visit:
                visit(node.name, spikes)
            if node.name in batch.replay.keep:
                batch.replay.keep[node.name][rows] = pack(spikes != 0).permute(2, 0, 1, 3)
            if op.amplitude is not None and bool((op.amplitude != 1).any()):
                spikes.mul_(op.amplitude)
            return spikes

        def through(node: Node, inputs: Sequence[Tensor]) -> Tensor:
            if isinstance(node.op, WinnerPool):
                value, batch.v[node.name] = winners(node.op, inputs[0], batch.v[node.name])
                return value
            if isinstance(node.op, Readout):
                return inputs[0].expand(len(steps), *inputs[0].shape[1:])
            return apply_over_time(node, inputs, len(steps))

        known = dict(batch.fixed)
        for name, train in batch.replay.given.items():
            own = train[steps.start - 1 : steps.stop - 1].to(task.images.device)
            known[name] = unpack(own, network.shapes[name], network.dtype).mul_(
                calibrated(name, network.neurons[name])[1]
            )
        for node, value in interpret(batch.running, enter, fire, through, known):
            if visit and not isinstance(node.op, Neuron):
                visit(node.name, value)
            if batch.recorded and isinstance(node.op, Readout):
                batch.scores[rows.start + 1 : rows.stop + 1] = value.double().cumsum(0) + batch.scores[rows.start]
        batch.done = steps.stop - 1


def steps_per_chunk(network: Network, batch: int, timesteps: int, memory: int) -> int:
    """Steps whose values fit into ``memory`` bytes, at least one."""
    return max(1, min(timesteps, memory // (bytes_per_step(network) * batch)))


def apply_over_time(node: Node, inputs: Sequence[Tensor], steps: int) -> Tensor:
    """A linear operation over time and batch at once; inputs (T', B, ...) with T' = 1 for what is fixed in time."""
    if len(inputs) > 1:
        inputs = [x.expand(steps, *x.shape[1:]) for x in inputs]
    time, batch = inputs[0].shape[:2]
    value = node.op(*(x.reshape(time * batch, *x.shape[2:]) for x in inputs))
    if isinstance(node.op, Conv) and value.ndim == 4:  # of one input channel, a convolution ignores its kernel's format
        value = value.contiguous(memory_format=torch.channels_last)
    return value.reshape(time, batch, *value.shape[1:])


def _blocks(value: Tensor) -> Tensor:
    """Dense features (T', B, *features) as vectors, in the order of memory: a view.

    Spikes lie channels last; sums that do not follow the order of memory are several times as slow.
    """
    return value.as_strided((*value.shape[:2], value[0, 0].numel()), (*value.stride()[:2], 1))


@lru_cache(maxsize=4)
def _channels_last(network: Network) -> Network:
    """The network with its 2d kernels in the memory format in which convolutions and pools run fastest."""

    def change(node: Node) -> Node:
        if isinstance(node.op, Conv):
            weight = node.op.weight.contiguous(memory_format=fastest(node.op.weight))
            return replace(node, op=replace(node.op, weight=weight))
        return node

    return network.rewrite(change)


def bytes_per_step(network: Network) -> int:
    """Peak memory of one image and step: the largest sum of values that are alive at once, and the scan's output."""
    left = {name: len(readers) for name, readers in network.consumers.items()}
    sizes = {name: torch.Size(shape).numel() for name, shape in network.shapes.items()}
    alive = peak = 0
    for node in network.nodes:
        alive += sizes[node.name]
        peak = max(peak, alive)
        for name in set(node.inputs):
            left[name] -= 1
            alive -= 0 if left[name] else sizes[name]
    return peak * torch.finfo(network.dtype).bits // 8
