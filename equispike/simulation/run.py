"""simulate(): checks, batches, memory, choice of engine; and Run, what it returns."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from equispike.arguments import checked
from equispike.errors import SimulationError, warn
from equispike.functional.coding import Coder, Constant, predict
from equispike.functional.inputs import Images, listed
from equispike.graph.network import Network, calibrated, is_open, not_spiking
from equispike.graph.ops import LeakyReLU
from equispike.progress import track
from equispike.shown import frame, html_table
from equispike.simulation import cpu
from equispike.simulation.gpu.engine import Gpu
from equispike.simulation.layerwise import Layerwise
from equispike.simulation.stepwise import Stepwise
from equispike.simulation.stop import Stop, until_settled
from equispike.simulation.task import (
    Engine,
    Record,
    Replay,
    Task,
    Visit,
    check_coder,
    check_room,
    collected,
    empty_record,
    enter,
    entered,
    neuron_layers,
    run,
    scores_of,
    watch,
)

EngineName = Literal["auto", "stepwise", "layerwise", "events", "gpu"]
ENGINES: Mapping[str, Engine] = {
    "stepwise": Stepwise(),
    "layerwise": Layerwise(),
    "events": cpu.Events(),
    "gpu": Gpu(),
}

MEMORY = {"cpu": 32 * 2**20}
"""Default budget for one chunk's values, in bytes, by type of device. Larger chunks leave a CPU's caches."""

BATCH = {"cpu": 32}
"""Images simulated together unless told otherwise, by type of device: GPUs have more to do at once."""

MEMORY_ELSEWHERE, BATCH_ELSEWHERE = 2**30, 512


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Run(Record):
    """A simulation of B images over T steps: what happened, and how.

    Attributes:
        task: what was run: network, images, their numbers, coder and seed.
        steps: that each image was run for, (B,), int64: all T, unless ``stop`` ended it before.
        seconds: duration of the simulation.
        mismatch: share of neurons whose count differs from the specification's (``stepwise``), over the images that
            ``verify`` asked for; None if it asked for none.
    """

    task: Task
    steps: Tensor
    seconds: float
    mismatch: float | None = None

    @cached_property
    def readout(self) -> Tensor:
        """Class scores after each step, (T, B, classes), as the network's readout makes them of ``totals``.

        Divided by the step's number, they estimate the trained network's output. Of a network with other outputs they
        are (T, B, *outputs), see ``analysis.values``. Behind the end of an image they stay.
        """
        scores, last = scores_of(self.task.network.readout, self.totals), self.steps - 1
        if bool((last + 1 == self.timesteps).all()):
            return scores
        steps = torch.arange(self.timesteps, device=last.device)[:, None].minimum(last)
        return scores.gather(0, steps[..., None].expand_as(scores))

    @cached_property
    def neurons(self) -> Mapping[str, int]:
        """Number of neurons, by layer."""
        return {name: math.prod(self.task.network.shapes[name]) for name in self.task.network.neurons}

    def __repr__(self) -> str:
        spikes = sum(int(layer.sum()) for layer in self.spikes.values()) / self.images
        rate = float(self.spike_rate[-1])
        return f"Run({self.images} images, T = {self.timesteps}, {spikes:,.0f} spikes per image, rate {rate:.2f} %)"

    def _repr_html_(self) -> str:
        rows = [
            (name, number, f"{float(self.spikes[name].sum()) / self.images:,.1f}",
             f"{100 * float(self.spikes[name].sum()) / (self.images * number * self.timesteps):.2f}")
            for name, number in self.neurons.items()
        ]  # fmt: skip
        return html_table(repr(self), ("layer", "neurons", "spikes per image", "rate, %"), rows)

    def to_frame(self) -> Any:
        """One row per image: its prediction after T steps, the steps that it ran, its spikes by layer."""
        spikes = {f"spikes {name}": listed(layer.sum(0)) for name, layer in self.spikes.items()}
        return frame({"prediction": listed(self.predictions[-1]), "steps": listed(self.steps), **spikes})

    def sent(self, layer: str) -> Tensor:
        """Spikes of each neuron over all steps less twice the negative ones: what the layer told those behind it."""
        counts = self.counts[layer]
        return counts - 2 * self.negative[layer] if layer in self.negative else counts

    @cached_property
    def _decision(self) -> tuple[Tensor, Tensor]:
        return predict(self.readout.movedim(2, -1))

    @property
    def timesteps(self) -> int:
        return self.totals.shape[0]

    @property
    def images(self) -> int:
        return self.totals.shape[1]

    @property
    def predictions(self) -> Tensor:
        """Class with the highest score after each step, (T, B); equal scores go to the lowest class.

        Classes are the first axis of the outputs: of scores in space, (T, B, classes, *space), each place has a class
        of its own, (T, B, *space).
        """
        return self._decision[0]

    @property
    def ties(self) -> Tensor:
        """Share of images whose highest score is reached by several classes, after each step, (T,)."""
        return self._decision[1].double().flatten(1).mean(1)

    @property
    def spike_rate(self) -> Tensor:
        r"""Spike rate in percent up to each step, (T,), float64 (Han et al., 2020, eq. 8).

        .. math:: R(t) = 100 \cdot \frac{\text{spikes in steps } 1 \ldots t}{\text{neurons} \cdot \text{images} \cdot t}
        """
        return spike_rate(sum_layers(self.spikes), sum(self.neurons.values()), self.images)


@checked
def simulate(
    network: Network,
    images: Images,
    timesteps: int,
    coder: Coder | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
    engine: EngineName = "auto",
    batch_size: int | None = None,
    memory: int | None = None,
    verify: int = 0,
    stop: Stop | None = None,
    trains: Collection[str] = (),
    potentials: Collection[str] = (),
) -> Run:
    """Run a converted network as spikes. On a CPU, a network in half precision runs in float32.

    Args:
        network: with thresholds, from ``convert`` or ``load``.
        images: (B, *features), preprocessed as in training; for a model of several inputs a tuple of them. With
            ``coder=Frames()`` a frame for each step, (T, B, *features).
        timesteps: T, at least 1.
        coder: how images enter; default ``Constant()``, the pixel values as a current in every step.
        seed: of the Poisson draws and random initial potentials, in [0, 2**64).
        indices: the images' numbers in their data set, (B,), default 0, 1, ...; they key the draws, so that a batch
            or a shard draws what the whole run would.
        engine: "stepwise" is the specification; the others do the same faster: "layerwise" by one dense operation for
            many steps, "events" by additions where there are spikes (on CPUs, if its core was compiled), "gpu" by
            products of bytes on a GPU's tensor cores. "auto" chooses: on CPUs events where it can, but for layers that
            are faster otherwise, else layerwise.
        batch_size: images simulated together, by default 32, on GPUs 512. Results do not depend on it, but for the last
            bit of sums that torch computes (see docs/simulation.md).
        memory: budget in bytes for the values of one chunk of steps, by default 32 MiB, on GPUs 1 GiB.
        verify: re-run this many of the images in ``stepwise`` and report the share of neurons that differ.
        stop: end an image early: ``Certain()``, when no class can overtake the first any more, or ``Stable(steps)``,
            when its prediction has not changed for that long. Looked at every 16 steps; behind the end of an image, its
            scores and potentials stay and its neurons are silent.
        trains: neuron layers whose spikes are kept for every step and neuron, a byte each, in ``Run.trains``.
        potentials: neuron layers whose potentials after every step are kept, four bytes each (of a float32 network), in
            ``Run.potentials``. Their current is brought to memory for it, and chunks of steps become shorter.
    Raises:
        SimulationError: wrong shapes, values, indices or arguments.
        ConversionError: the network has no thresholds.
    """
    check_arguments(network, timesteps, engine, batch_size, memory)
    if verify < 0:
        raise SimulationError(f"verify: {verify} is less than 0. Give a number of images")
    if stop is not None and len(network.shapes[network.nodes[-1].name]) > 1:
        raise SimulationError("stop: an image has one answer only where the outputs are a vector of class scores")
    if network.device.type == "cpu":
        network = network.widened()
    task = task_of(network, images, timesteps, coder, seed, indices, trains, potentials)
    size, room = batch_size or default_batch(network), memory or default_memory(network)

    def finished(engine: Engine, part: Task) -> tuple[Record, Tensor]:
        if stop is not None:
            return until_settled(engine, part, room, stop)
        return run(engine, part, room).record(), torch.full_like(part.indices, timesteps)

    chosen, batches = ENGINES[engine] if engine != "auto" else automatic(network), task.in_batches(size)
    began = time.perf_counter()
    with torch.no_grad():
        done = (finished(chosen, part) for part in track(batches, "simulating", len(batches), alone=True))
        [(record, steps)] = [collected(done, task)] if len(batches) > 1 else list(done)
        if task.images.is_cuda:  # what was asked for is done only now
            torch.cuda.synchronize(task.images.device)
        seconds = time.perf_counter() - began
        mismatch = _mismatch(record, finished(ENGINES["stepwise"], task.of(slice(verify)))[0]) if verify else None
    return Run(task=task, **vars(record), steps=steps, seconds=seconds, mismatch=mismatch)


def task_of(
    network: Network,
    images: Images,
    timesteps: int,
    coder: Coder | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
    trains: Collection[str] = (),
    potentials: Collection[str] = (),
) -> Task:
    """The task that these arguments of ``simulate`` make. SimulationError if they do not go together."""
    coder = Constant() if coder is None else coder
    images = entered(network, images, coder, timesteps)
    if not len(images):
        raise SimulationError("images: there are none. Give at least one")
    indices = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
    if indices.shape != (len(images),):
        raise SimulationError(f"indices: shape {tuple(indices.shape)} for {len(images)} images. Give one per image")
    if indices.is_floating_point():
        raise SimulationError(f"indices of type {indices.dtype}: give integers")
    kept = neuron_layers(network, "trains", trains), neuron_layers(network, "potentials", potentials)
    task = Task(network, images, indices.to(images.device, torch.int64), timesteps, coder, seed, *kept)
    check_room(task)
    check_coder(task)
    return task


def check_arguments(
    network: Network, timesteps: int, engine: str, batch_size: int | None = None, memory: int | None = None
) -> None:
    """Refuse what can be refused before anything runs: SimulationError, or ConversionError without thresholds."""
    if timesteps < 1:
        raise SimulationError(f"timesteps: {timesteps} is less than 1. A network needs at least one step to answer")
    for name, value in (("batch_size", batch_size), ("memory", memory)):
        if value is not None and value < 1:
            raise SimulationError(f"{name}: {value} is less than 1")
    if engine != "auto" and engine not in ENGINES:
        raise SimulationError(f"engine: {engine!r} is not known. Choose from {', '.join(sorted(['auto', *ENGINES]))}")
    for node in network.nodes:
        if is_open(node.op) or isinstance(node.op, LeakyReLU):
            raise SimulationError(not_spiking(node))
    if not network.neurons:
        raise SimulationError("the network has no neuron layer: nothing in it spikes")
    for name, op in network.neurons.items():
        calibrated(name, op)


def default_batch(network: Network) -> int:
    """Images simulated together on this network's device."""
    return BATCH.get(network.device.type, BATCH_ELSEWHERE)


def default_memory(network: Network) -> int:
    """Bytes for one chunk's values on this network's device."""
    return MEMORY.get(network.device.type, MEMORY_ELSEWHERE)


def automatic(network: Network) -> Engine:
    """The fastest engine that can run this network here.

    The engine for GPUs' tensor cores, which was not measured on any yet, runs by name alone.
    """
    return cpu.Events(choose=True, adapt=True) if _event_driven(network) else ENGINES["layerwise"]


def observe(
    task: Task, visit: Callable[[Tensor], None], given: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> None:
    """Show what the readout reads to ``visit``, chunk by chunk, (T', B, *features), or T' = 1 if it is fixed in time.

    Args:
        task: one batch.
        given, keep: see ``task.Replay``.
    """
    if signed := [name for name, op in task.network.neurons.items() if op.signed]:
        raise SimulationError(
            f"{signed[0]}: thresholds are measured on spikes that are all positive. Make neurons signed afterwards"
        )
    last = task.network.nodes[-1].name

    def see(name: str, value: Tensor) -> None:
        if name == last:
            visit(value)

    watch(automatic(task.network), task, default_memory(task.network), see, Replay(given, keep))


def watch_all(task: Task, visit: Visit, memory: int | None = None) -> None:
    """Show the value of every node to ``visit``, chunk by chunk: see ``Layerwise.advance``."""
    watch(ENGINES["layerwise"], task, memory or default_memory(task.network), visit)


def _event_driven(network: Network) -> bool:
    if cpu.suits(network) and not cpu.installed():
        _tell_once()
    return cpu.suits(network) and cpu.installed()


@cache
def _tell_once() -> None:
    warn(
        "equispike was installed without a C++ compiler, so its event-driven engine is missing and simulations run in "
        "the slower 'layerwise'. Install a compiler (g++ or clang++), then build it again: "
        "pip install --force-reinstall --no-deps --no-cache-dir equispike"
    )


def spike_rate(spikes: Tensor, neurons: int, images: int) -> Tensor:
    """Spike rate in percent up to each step, (T,), from the spikes of all layers and images in each step, (T,)."""
    steps = torch.arange(1, len(spikes) + 1, device=spikes.device)
    return spikes.cumsum(0).double() / (max(neurons, 1) * images * steps) * 100


def sum_layers(spikes: Mapping[str, Tensor]) -> Tensor:
    """Spikes of all layers and images in each step, (T,), int64, from those by layer, (T, B)."""
    return torch.stack([layer.sum(1, dtype=torch.int64) for layer in spikes.values()]).sum(0)


def _mismatch(record: Record, reference: Record) -> float:
    """Share of neurons whose count differs, over the images that the reference holds."""
    differing = sum(int((record.counts[name][: len(c)] != c).sum()) for name, c in reference.counts.items())
    return differing / sum(c.numel() for c in reference.counts.values())


def stages(
    network: Network,
    images: Tensor,
    steps: Sequence[int],
    coder: Coder | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Iterator[Run]:
    """For each T in ``steps`` the run that ``simulate`` gives; each goes on where the one before stopped.

    All images are one batch, so pass some dozens at most.

    Args:
        steps: increasing, each at least 1.
        network, images, coder, seed, indices: as in ``simulate``.
    Raises:
        SimulationError, ConversionError: as ``simulate``.
    """
    if not steps or any(a >= b for a, b in pairwise(steps)):
        raise SimulationError(f"steps: {list(steps)} do not increase. Give at least one number of steps, in order")
    check_arguments(network, steps[0], "auto")
    task = task_of(network, images, steps[-1], coder, seed, indices)
    engine, whole, seconds = automatic(network), empty_record(task, len(task.images)), 0.0
    start, everyone = None, torch.arange(len(task.images), device=task.images.device)
    for done, end in zip((0, *steps), steps):
        began = time.perf_counter()
        with torch.no_grad():
            batch = run(engine, task.until(end), default_memory(network), start)
            enter(whole, batch.record(), done, everyone)
            start = batch.moment()
        seconds += time.perf_counter() - began
        counts, negative = ({n: own.clone() for n, own in x.items()} for x in (whole.counts, whole.negative))
        spikes = {name: layer[:end].clone() for name, layer in whole.spikes.items()}
        seen = Record(whole.totals[:end].clone(), counts, spikes, negative=negative)
        yield Run(task=task.until(end), **vars(seen), steps=torch.full_like(task.indices, end), seconds=seconds)
