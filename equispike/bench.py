"""Time several ways of running one network: in turns, and only after their spikes were found equal."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.functional.coding import Constant
from equispike.graph.exact import calibrated, rescale
from equispike.graph.network import Network
from equispike.graph.ops import Input, Neuron, Readout
from equispike.simulation.run import EngineName, simulate
from equispike.versions import versions

Spikes = Mapping[str, float]
"""Spikes of each neuron layer over all images and steps."""

Contender = Callable[[], Spikes]
"""Runs all images for all steps, from scratch, and says how often each layer spiked."""


@dataclass(frozen=True)
class Timing:
    """Repeats of one contender.

    Attributes:
        seconds: of each repeat.
        cpu_seconds: processor time of each repeat, over all threads; on one thread it is what a machine that nobody
            else uses would take.
        disagreement: largest difference of a layer's spikes from those of the first contender, over the latter.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    disagreement: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_seconds)


def in_turns(contenders: Mapping[str, Contender], repeats: int, tolerance: float) -> dict[str, Timing]:
    """Time contenders one after the other, again and again, so that a busy machine slows all of them alike.

    Args:
        contenders: by name; the first is the reference for the spikes. Each runs once before anything is timed.
        repeats: n, timed runs of each.
        tolerance: largest disagreement of a layer's spikes that is still taken for rounding.
    Raises:
        SimulationError: a contender spikes differently, so that its time would not compare.
    """
    found = {name: run() for name, run in contenders.items()}
    reference = next(iter(found.values()))
    disagreements = {name: disagreement(reference, spikes) for name, spikes in found.items()}
    for name, worst in disagreements.items():
        if not worst <= tolerance:
            raise SimulationError(
                f"{name}: its spikes differ by {worst:.2%} in a layer, more than {tolerance:.2%}. "
                "Give it the same thresholds, reset and input before comparing times"
            )
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            began = time.perf_counter(), time.process_time()
            run()
            taken[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return {
        name: Timing(tuple(wall for wall, _ in pairs), tuple(cpu for _, cpu in pairs), disagreements[name])
        for name, pairs in taken.items()
    }


def disagreement(reference: Spikes, spikes: Spikes) -> float:
    """Largest relative difference of a layer's spikes; infinite if the layers are not the same.

    >>> disagreement({"a": 100, "b": 50}, {"a": 101, "b": 50})
    0.01
    """
    if reference.keys() != spikes.keys():
        return float("inf")
    return max(abs(spikes[name] - count) / max(count, 1) for name, count in reference.items())


def ours(network: Network, images: Tensor, timesteps: int, engine: EngineName) -> Contender:
    """One of this package's engines, all images in one batch."""

    def run() -> Spikes:
        done = simulate(network, images, timesteps, engine=engine, batch_size=len(images))
        return {name: float(layer.sum()) for name, layer in done.spikes.items()}

    return run


def plain_loop(network: Network, images: Tensor, timesteps: int) -> Contender:
    """What anyone would write in torch first: for each step and layer a dense operation, an addition, a comparison.

    Constant input, soft reset, spikes of size 1; nothing is recorded but the sum of each layer's spikes.
    """
    balanced = rescale(network, "balanced")

    @torch.inference_mode()
    def run() -> Spikes:
        x = Constant().encode(
            balanced.check_images(images), torch.arange(len(images)), range(1, 2), 0, balanced.input.scale, 1.0
        )[0]
        potentials = {name: x.new_zeros(len(x), *balanced.shapes[name]) for name in balanced.neurons}
        totals = dict.fromkeys(potentials, 0.0)
        score = x.new_zeros(())
        for _ in range(timesteps):
            values: dict[str, Tensor] = {}
            for node in balanced.nodes:
                op, inputs = node.op, [values[name] for name in node.inputs]
                if isinstance(op, Input):
                    values[node.name] = x
                elif isinstance(op, Neuron):
                    threshold, _ = calibrated(node.name, op)
                    v = potentials[node.name].add_(inputs[0])
                    spikes = (v >= threshold).to(v.dtype)
                    v.sub_(threshold * spikes)
                    totals[node.name] += float(spikes.sum(dtype=torch.float64))
                    values[node.name] = spikes
                elif isinstance(op, Readout):
                    score = score + inputs[0]
                else:
                    values[node.name] = op(*inputs)
        return totals

    return run


def table(timings: Mapping[str, Timing], work: int) -> str:
    """One line per contender: median, range, throughput, processor time, and the latter over that of the fastest.

    Args:
        timings: of ``in_turns``.
        work: images x steps of one run.
    """
    best = min(timing.cpu for timing in timings.values())
    rows = [("", "median s", "min .. max s", "image-steps/s", "cpu s", "x fastest", "spikes differ")]
    for name, t in timings.items():
        spread = f"{min(t.seconds):.3f} .. {max(t.seconds):.3f}"
        cells = f"{t.median:.3f}", spread, f"{work / t.median:,.0f}", f"{t.cpu:.3f}", f"{t.cpu / best:.1f}"
        rows.append((name, *cells, f"{t.disagreement:.3%}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def conditions(network: Network, images: Tensor, timesteps: int, spike_rate: float) -> dict[str, object]:
    """What a time depends on, as JSON-able data."""
    return {
        "batch": len(images),
        "timesteps": timesteps,
        "spike_rate": spike_rate,
        "neurons": sum(torch.Size(network.shapes[name]).numel() for name in network.neurons),
        "device": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": versions(),
    }


def with_spike_rate(network: Network, images: Tensor, percent: float, timesteps: int = 32, rounds: int = 12) -> Network:
    """The network with the threshold of each layer moved until the layer spikes at about this rate, all amplitudes 1.

    What it computes is no longer what was trained: for measuring times at equal rates only.
    """
    network = rescale(network, "balanced")
    for _ in range(rounds):
        run = simulate(network, images, timesteps)
        moved = dict[str, Neuron]()
        for name, op in network.neurons.items():
            rate = 100 * float(run.spikes[name].sum()) / (run.neurons[name] * run.images * timesteps)
            threshold, amplitude = calibrated(name, op)
            factor = min(2.0, max(0.5, (rate / percent) ** 0.7)) if rate else 0.5
            moved[name] = Neuron(threshold * factor, amplitude, op.ceiling, op.reset, op.v_init)
        network = network.replace_ops(moved)
    return network


def summary(timings: Mapping[str, Timing], known: Mapping[str, object]) -> dict[str, object]:
    """Everything measured and under which conditions, as JSON-able data."""
    measured = {
        name: {
            "median": t.median,
            "seconds": list(t.seconds),
            "cpu_median": t.cpu,
            "cpu_seconds": list(t.cpu_seconds),
            "disagreement": t.disagreement,
        }
        for name, t in timings.items()
    }
    return {**known, "n": len(next(iter(timings.values())).seconds), "measured": measured}
