"""Layers outside, time inside: one dense operation per layer over a chunk of steps, then the neurons' scan.

A feed-forward network lets a layer run all steps of a chunk before the next layer starts, so T x B images pass through
each convolution at once. What does not change in time (the first layer's current under constant coding) is computed
once. Memory is that of one chunk; the potentials carry over from chunk to chunk.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module

import torch
from torch import Tensor

from equispike.functional.integrate import Reset, if_scan
from equispike.graph.exact import calibrated
from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, Input, Neuron, Readout, WinnerPool
from equispike.simulation.fixed import fixed_values
from equispike.simulation.layout import fastest, pack, unpack
from equispike.simulation.pooling import winners
from equispike.simulation.record import Moment, Record, Resume, Task, negative_spikes, upstream
from equispike.simulation.stepwise import beginning, drive_in

Scan = Callable[[Tensor, Tensor, Reset, Tensor], tuple[Tensor, Tensor]]


def layerwise(task: Task, memory: int, start: Moment | None = None) -> tuple[Record, Resume]:
    """Run one batch up to step T, in chunks that fit into ``memory`` bytes. The record is that of ``stepwise``."""
    network, images, timesteps = task.network, task.images, task.timesteps
    start = start or beginning(task)
    v, sent = dict(start.potentials), {name: n.clone() for name, n in start.sent.items()}
    counts: dict[str, Tensor] = {}
    last, steps = network.nodes[-1], timesteps - start.step
    assert isinstance(last.op, Readout)
    # All steps at once, as in the event-driven engine: what stays between the values of two chunks would break the hole
    # that the first leaves, and memory would grow with every chunk.
    spikes = {name: start.scores.new_empty(steps, len(images), dtype=torch.int32) for name in network.neurons}
    trains = task.trains_of(steps)
    potentials = task.every_step(task.potentials, steps, network.dtype)
    scores = start.scores.new_empty(steps + 1, *start.scores.shape)
    scores[0] = start.scores
    done = Counter[str]()

    def record(name: str, value: Tensor) -> None:
        """What a node gave in a chunk: spikes and counts of neurons, scores of the readout."""
        first = done[name]
        done[name] += len(value)
        if name in spikes:
            # in float32, which holds these counts exactly, also where the spikes are of half precision
            fired = _blocks(value.abs() if name in sent else value)
            spikes[name][first : done[name]] = fired.sum(2, dtype=torch.float32)
            count = fired.sum(0, dtype=torch.float32)
            # chunks may lie otherwise in memory
            count = count.as_strided(value.shape[1:], (count.stride(0), *value.stride()[2:]))
            counts[name] = counts[name] + count if name in counts else count
            if name in trains:
                trains[name][first : done[name]] = value
        elif name == last.name:
            scores[first + 1 : done[name] + 1] = value.double().cumsum(0) + scores[first]

    chunk = steps_per_chunk(network, len(images), timesteps, memory)
    propagate(task, chunk, record, v=v, done=start.step, potentials=potentials, sent=sent)
    whole = {name: count.to(torch.int32) for name, count in counts.items()}
    readout = (scores[1:] * last.op.scale).to(torch.promote_types(images.dtype, torch.float32))
    negative = negative_spikes(whole, start.sent, sent)
    return Record(readout, whole, spikes, trains, potentials, negative), lambda: Moment(timesteps, v, scores[-1], sent)


def propagate(
    task: Task,
    chunk: int,
    visit: Callable[[str, Tensor], None],
    given: Mapping[str, Tensor] | None = None,
    v: dict[str, Tensor] | None = None,
    done: int = 0,
    potentials: Mapping[str, Tensor] | None = None,
    sent: Mapping[str, Tensor] | None = None,
) -> None:
    """Run up to step T in chunks and show every value to ``visit(name, value)``, chunk by chunk.

    A value is (T', B, *features): currents of linear nodes, spikes in {-1, 0, 1} of neurons, of the readout what it
    reads, before its scale. What is fixed in time is shown once, with T' = 1. ``given`` are trains of all steps of
    layers that need not run, (T, B, positions, bytes); then only what the readout needs beside them runs.
    Potentials ``v`` after the ``done`` steps before, and what signed neurons have ``sent``, are brought up to date on
    the way; ``potentials`` are filled with those after each step behind, (T - done, B, *features), by layer.
    """
    network, images, given = _channels_last(task.network), task.images.contiguous(), given or {}
    potentials = potentials or {}
    task = replace(task, network=network, images=images)
    needed, scan = upstream(network, given), _scan(network.device.type, network.dtype)
    first = beginning(task) if v is None or sent is None else None
    v = dict(first.potentials) if v is None and first else v or {}
    sent = first.sent if sent is None and first else sent or {}
    fixed = fixed_values(task)
    for name, value in fixed.items():
        visit(name, value)
    running = [node for node in network.nodes if node.name in needed]
    readers = Counter(name for node in running if node.name not in given for name in set(node.inputs))
    for start in range(done + 1, task.timesteps + 1, chunk):
        steps = range(start, min(start + chunk, task.timesteps + 1))
        values, waiting = dict(fixed), dict(readers)
        for node in running:
            op, sources = node.op, () if node.name in given else node.inputs
            if node.name not in fixed:
                inputs = [values[name] for name in sources]
                if node.name in given:
                    train = given[node.name][start - 1 : steps.stop - 1].to(images.device)
                    value = unpack(train, network.shapes[node.name], network.dtype)
                elif isinstance(op, Input):
                    value = task.coder.encode(images, task.indices, steps, task.seed, op.scale, op.amplitude)
                elif isinstance(op, Neuron):
                    threshold, _ = calibrated(node.name, op)
                    current = inputs[0].expand(len(steps), *inputs[0].shape[1:])
                    if node.name in potentials or op.drive is not None or op.signed:
                        rows = slice(start - done - 1, steps.stop - done - 1)
                        value, v[node.name] = if_scan(
                            current,
                            threshold,
                            op.reset,
                            v[node.name],
                            potentials=potentials[node.name][rows] if node.name in potentials else None,
                            drive=None if op.drive is None else drive_in(op, steps, current.ndim - 1)[:, None],
                            sent=sent.get(node.name),
                        )
                    else:
                        value, v[node.name] = scan(current, threshold, op.reset, v[node.name])
                elif isinstance(op, WinnerPool):
                    value, v[node.name] = winners(op, inputs[0], v[node.name])
                elif isinstance(op, Readout):
                    value = inputs[0].expand(len(steps), *inputs[0].shape[1:])
                else:
                    value = apply_over_time(node, inputs, len(steps))
                visit(node.name, value)
                if isinstance(op, Neuron) and op.amplitude is not None and bool((op.amplitude != 1).any()):
                    value.mul_(op.amplitude)
                values[node.name] = value
                del inputs, value
            for name in set(sources):
                waiting[name] -= 1
                if not waiting[name]:
                    del values[name]


def observe(
    task: Task,
    memory: int,
    visit: Callable[[Tensor], None],
    given: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> None:
    """Show what the readout reads to ``visit``: see ``run.observe``; ``memory`` as in ``layerwise``."""
    last, steps = task.network.nodes[-1].name, dict.fromkeys(keep, 0)

    def choose(name: str, value: Tensor) -> None:
        if name == last:
            visit(value)
        if name in keep:
            first = steps[name]
            steps[name] += len(value)
            keep[name][first : steps[name]] = pack(value != 0).permute(2, 0, 1, 3)

    propagate(task, steps_per_chunk(task.network, len(task.images), task.timesteps, memory), choose, given)


def steps_per_chunk(network: Network, batch: int, timesteps: int, memory: int) -> int:
    """Steps whose values fit into ``memory`` bytes, at least one."""
    return max(1, min(timesteps, memory // (bytes_per_step(network) * batch)))


def apply_over_time(node: Node, inputs: list[Tensor], steps: int) -> Tensor:
    """A linear operation over time and batch at once; inputs (T', B, ...) with T' = 1 for what is fixed in time."""
    if len(inputs) > 1:
        inputs = [x.expand(steps, *x.shape[1:]) for x in inputs]
    time, batch = inputs[0].shape[:2]
    value = node.op(*(x.reshape(time * batch, *x.shape[2:]) for x in inputs))
    if isinstance(node.op, Conv) and value.ndim == 4:  # of one input channel, a convolution ignores its kernel's format
        value = value.contiguous(memory_format=torch.channels_last)
    return value.reshape(time, batch, *value.shape[1:])


@cache
def _scan(device: str, dtype: torch.dtype) -> Scan:
    """One kernel on GPUs, where torch comes with Triton; else a loop over the steps."""
    if device == "cuda" and dtype in (torch.float32, torch.float64):
        try:
            return import_module("equispike.simulation.fused").fused_scan
        except ImportError:
            return if_scan
    return if_scan


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
