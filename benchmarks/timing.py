"""Time several ways of running one network: in turns, and only after their spikes were found equal."""

import dataclasses
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from equispike.analysis.operations import operations
from equispike.errors import SimulationError
from equispike.functional.coding import Constant
from equispike.graph.exact import rescale
from equispike.graph.network import Network, calibrated
from equispike.graph.ops import Input, Neuron, Readout
from equispike.provenance import versions
from equispike.simulation import cpu
from equispike.simulation.cpu import installed, suits
from equispike.simulation.run import EngineName, simulate

IN_L2, IN_MEMORY = 256 * 2**10, 256 * 2**20
"""Bytes that stay in the L2 cache of today's processors, and that no cache holds."""

TURN = 0.05
"""Seconds that a contender's turn takes at least, in as many runs as that takes: the first finds the caches as others
left them, which would be most of a short run's time."""
FEWEST = 200
"""Spikes below which a layer's difference is not taken as a share: rounding may move one of two."""

Spikes = Mapping[str, float]
"""Spikes of each neuron layer over all images and steps."""

Contender = Callable[[], Spikes]
"""Runs all images for all steps, from scratch, and says how often each layer spiked."""


@dataclass(frozen=True)
class Timing:
    """Turns of one contender.

    Attributes:
        seconds: of a run, mean of each turn.
        cpu_seconds: processor time, likewise, over all threads; on one thread it is what a machine that nobody else
            uses would take.
        disagreement: largest difference of a layer's spikes from those of the first contender, over the latter.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    disagreement: float

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def cpu(self) -> float:
        """Processor seconds of a run."""
        return statistics.median(self.cpu_seconds)


def in_turns(
    contenders: Mapping[str, Contender], repeats: int, tolerance: float, least: float = TURN
) -> dict[str, Timing]:
    """Time contenders one after the other, again and again, so that a busy machine slows all of them alike.

    Args:
        contenders: by name; the first is the reference for the spikes. Each runs once before anything is timed.
        repeats: n, turns of each.
        tolerance: largest disagreement of a layer's spikes that is still taken for rounding.
        least: seconds of a turn, in one run or more.
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
            taken[name].append(_turn(run, least))
    return {
        name: Timing(tuple(wall for wall, _ in pairs), tuple(cpu for _, cpu in pairs), disagreements[name])
        for name, pairs in taken.items()
    }


def _turn(run: Contender, least: float) -> tuple[float, float]:
    """Seconds, and processor seconds, of a run."""
    began = time.perf_counter(), time.process_time()
    runs, seconds = 0, -1.0
    while seconds < least:
        run()
        runs, seconds = runs + 1, time.perf_counter() - began[0]
    return seconds / runs, (time.process_time() - began[1]) / runs


def disagreement(reference: Spikes, spikes: Spikes) -> float:
    """Largest difference of a layer's spikes over its spikes, or over FEWEST; infinite if layers are not the same.

    >>> disagreement({"a": 1000, "b": 2}, {"a": 1010, "b": 1})
    0.01
    """
    if reference.keys() != spikes.keys():
        return float("inf")
    return max(abs(spikes[name] - count) / max(count, FEWEST) for name, count in reference.items())


def contenders(
    network: Network, images: Tensor, timesteps: int, engines: Iterable[EngineName] = ("layerwise", "events", "auto")
) -> dict[str, Contender]:
    """The plain torch loop, then this package's engines as far as they run here, by name."""
    usable = installed() and suits(network)
    found = {engine: ours(network, images, timesteps, engine) for engine in engines if usable or engine != "events"}
    return {"plain torch loop": plain_loop(network, images, timesteps), **found}


def ours(network: Network, images: Tensor, timesteps: int, engine: EngineName) -> Contender:
    """One of this package's engines, all images in one batch."""

    def run() -> Spikes:
        done = simulate(network, images, timesteps, engine=engine, batch_size=len(images))
        return {name: float(layer.sum()) for name, layer in done.spikes.items()}

    return run


def plain_loop(network: Network, images: Tensor, timesteps: int) -> Contender:
    """The loop that comes to mind first: for each step and layer a dense operation, an addition, a comparison.

    Constant input, soft reset, spikes of size 1; nothing is recorded but the sum of each layer's spikes.
    """
    balanced = rescale(network, "balanced")
    thresholds = {name: calibrated(name, op)[0] for name, op in balanced.neurons.items()}

    @torch.inference_mode()
    def run() -> Spikes:
        x = Constant().encode(
            balanced.check_images(images), torch.arange(len(images)), range(1, 2), 0, balanced.input.scale, 1.0
        )[0]
        potentials = {name: x.new_zeros(len(x), *balanced.shapes[name]) for name in thresholds}

        def fire(name: str, current: Tensor) -> Tensor:
            v = potentials[name].add_(current)
            spikes = (v >= thresholds[name]).to(v.dtype)
            v.sub_(thresholds[name] * spikes)
            return spikes

        return loop(balanced, [x] * timesteps, fire)

    return run


def call(op: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
    """The value of an operation in one step."""
    return op(*inputs)


def loop(
    network: Network,
    blocks: Iterable[Tensor],
    fire: Callable[[str, Tensor], Tensor],
    apply: Callable[[Callable[..., Tensor], list[Tensor]], Tensor] = call,
) -> Spikes:
    """Run a network layer after layer, for one block of steps after the other; a value is freed once nobody needs it.

    Args:
        network: in the balanced form.
        blocks: what its input gives: (B, *features) for each step, or all of them at once.
        fire: from a layer's name and its current in a block to its spikes.
        apply: from any other operation and its inputs in a block to its value.
    """
    last = {name: readers[-1].name for name, readers in network.consumers.items() if readers}
    totals = dict.fromkeys(network.neurons, torch.zeros((), dtype=torch.float64, device=network.device))
    score = torch.zeros(())
    for block in blocks:
        values: dict[str, Tensor] = {}
        for node in network.nodes:
            op, inputs = node.op, [values[name] for name in node.inputs]
            if isinstance(op, Input):
                values[node.name] = block
            elif isinstance(op, Neuron):
                values[node.name] = spikes = fire(node.name, inputs[0])
                totals[node.name] = totals[node.name] + spikes.sum(dtype=torch.float64)
            elif isinstance(op, Readout):
                score = score + inputs[0]
            else:
                values[node.name] = apply(op, inputs)
            for name in dict.fromkeys(node.inputs):
                if last[name] == node.name:
                    del values[name]
    return {name: float(spikes) for name, spikes in totals.items()}


def peak_additions(size: int, tries: int = 9) -> float:
    """Additions of float32 per second that one thread manages on numbers of ``size`` bytes, read in order.

    Each number is used once in every round, so that these are also the numbers per second that come from the cache
    which holds them, or from memory. The best of some tries, by the core; without it by torch.
    """
    numbers, core = torch.ones(size // 4), cpu.core
    rounds = max(1, 2**24 // size)
    best = float("inf")
    for _ in range(tries):
        began = time.process_time()
        if core is not None:
            core.add_up(numbers, rounds, cpu.ISA)
        else:
            for _ in range(rounds):
                numbers.sum()
        best = min(best, time.process_time() - began)
    return rounds * len(numbers) / best


@dataclass(frozen=True)
class Work:
    """The work of one run of a contender, and what the machine could do.

    Attributes:
        image_steps: images x steps.
        spike_rate: in percent, after all steps.
        additions: synaptic operations (see ``analysis.operations``) of all images and steps.
        cache, memory: additions per second that one thread manages on numbers in the L2 cache, and in main memory.
    """

    image_steps: int
    spike_rate: float
    additions: float
    cache: float
    memory: float

    def share(self, timing: Timing) -> float:
        """Synaptic operations per processor second over what a thread could add from the L2 cache."""
        return self.additions / timing.cpu / self.cache


def work(network: Network, images: Tensor, timesteps: int) -> Work:
    """Run the images once, and count; constant input, as the contenders have it."""
    run = simulate(network, images, timesteps)
    each = operations(network, run.counts, timesteps).additions
    cache, memory = peak_additions(IN_L2), peak_additions(IN_MEMORY)
    return Work(len(images) * timesteps, float(run.spike_rate[-1]), each * len(images), cache, memory)


def table(timings: Mapping[str, Timing], work: Work) -> str:
    """One line per contender, then what the machine could do.

    The columns: median and range, throughput, processor time, the latter over that of the fastest, share of what one
    thread could add from the L2 cache, and the largest difference of a layer's spikes from the first contender's.
    """
    best = min(timing.cpu for timing in timings.values())
    rows = [("", "median s", "min .. max s", "image-steps/s", "cpu s", "x fastest", "of L2 peak", "spikes differ")]
    for name, t in timings.items():
        spread = f"{min(t.seconds):.3f} .. {max(t.seconds):.3f}"
        cells = f"{t.median:.3f}", spread, f"{work.image_steps / t.median:,.0f}", f"{t.cpu:.3f}", f"{t.cpu / best:.1f}"
        rows.append((name, *cells, f"{work.share(t):.1%}", f"{t.disagreement:.3%}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    peaks = " and ".join(
        f"{rate / 1e9:.1f} G/s ({rate * 4 / 1e9:.0f} GB/s) from {place}"
        for place, rate in (("the L2 cache", work.cache), ("memory", work.memory))
    )
    lines.append(f"additions: {work.additions:,.0f} in a run; one thread manages {peaks}")
    return "\n".join(lines)


def conditions(network: Network, images: Tensor, timesteps: int) -> dict[str, object]:
    """Conditions that a time depends on, as JSON-able data."""
    return {
        "batch": len(images),
        "timesteps": timesteps,
        "neurons": sum(torch.Size(network.shapes[name]).numel() for name in network.neurons),
        "device": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": versions(),
    }


def processor() -> str:
    """The system's name for the processor; on Linux with the numbers of its family and model, which names leave out."""
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        known = ""
    found = (re.search(rf"^{key}\s*: (.+)$", known, re.MULTILINE) for key in ("model name", "cpu family", "model"))
    name, family, model = (match and match[1] for match in found)
    return f"{name} ({family}/{model})" if name else platform.processor() or platform.machine()


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
            threshold, _ = calibrated(name, op)
            factor = min(2.0, max(0.5, (rate / percent) ** 0.7)) if rate else 0.5
            moved[name] = dataclasses.replace(op, threshold=threshold * factor)
        network = network.replace_ops(moved)
    return network


def summary(timings: Mapping[str, Timing], work: Work, known: Mapping[str, object]) -> dict[str, object]:
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
    n = len(next(iter(timings.values())).seconds)
    return {**known, **dataclasses.asdict(work), "n": n, "measured": measured}
