"""Measuring layer after layer, each behind the spikes of those before it: what SPIKE-NORM and RMP share."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from equispike.batches import Batch
from equispike.calibrate.method import Sums, Thresholds, substitute, with_thresholds
from equispike.functional.coding import Coder
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Statistic
from equispike.graph.network import Network, Node
from equispike.graph.ops import Readout
from equispike.progress import track
from equispike.simulation.run import default_batch, observe
from equispike.simulation.task import Task, upstream
from equispike.simulation.trains import train_bytes

Given = Callable[[Network, str, float], Tensor | None]
"""(network so far, layer, scale) -> its threshold, or None: it is to be measured, and scaled."""


@dataclass(frozen=True)
class Observation:
    """A way to measure layers.

    Attributes:
        timesteps, coder, seed: of the simulation.
        statistic: of the weighted inputs of single steps, over all neurons, steps and images.
        reset: of the layers before the one that is measured.
        scale: a threshold is what was measured times this, before the next layer is measured.
        sums: see ``with_thresholds``.
        memory: bytes of spikes to keep of layers that are done.
    """

    timesteps: int
    coder: Coder
    seed: int
    statistic: Statistic[Any]
    reset: Reset
    scale: float = 1.0
    sums: Sums = "weighted"
    memory: int = 2**30


def measure(network: Network, held: Sequence[Batch], how: Observation, given: Given) -> Thresholds:
    """Thresholds by layer, in order: each measured behind layers that already spike at theirs."""
    thresholds = Thresholds()
    thresholds.scale, thresholds.sums = how.scale, how.sums
    parts = [
        Observed(network.check_images(x), i.to(network.device)) for x, i in in_batches(held, default_batch(network))
    ]
    spiking = network
    for number, name in enumerate(network.neurons, start=1):
        threshold = given(spiking, name, how.scale)
        if threshold is None:
            threshold = _measured(spiking, name, parts, how, f"{name} ({number} of {len(network.neurons)})")
            if threshold <= 0:
                threshold = substitute(network, name, thresholds, "weighted spike input")
            threshold = threshold.to(network.device, network.dtype) * how.scale
        thresholds[name] = threshold.to(network.device, network.dtype)
        spiking = with_thresholds(network, thresholds, how.reset)
    return thresholds


@dataclass
class Observed:
    """Some images, their numbers, and the spikes of the layers that are needed again (see ``observe``)."""

    images: Tensor
    indices: Tensor
    trains: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def size(self) -> int:
        return sum(train.nbytes for train in self.trains.values())


def in_batches(held: Sequence[Batch], size: int) -> list[tuple[Tensor, Tensor]]:
    """Images in parts of at most so many, which are simulated at once, with their numbers."""
    parts: list[tuple[Tensor, Tensor]] = []
    first = 0
    for batch in held:
        for start in range(0, len(batch.images), size):
            images = batch.images[start : start + size]
            parts.append((images, torch.arange(first + start, first + start + len(images))))
        first += len(batch.images)
    return parts


def _measured(network: Network, name: str, parts: list[Observed], how: Observation, label: str) -> Tensor:
    statistic, prefix = how.statistic, _up_to(network, name)
    state = statistic.init(network.device)

    def visit(value: Tensor) -> None:
        nonlocal state
        state = statistic.update(state, value)

    with torch.no_grad():
        for part in track(parts, label, len(parts)):
            keep = _reserve(network, name, part, how, sum(p.size for p in parts))
            task = Task(prefix, part.images, part.indices, how.timesteps, how.coder, how.seed)
            observe(task, visit, part.trains, keep)
            part.trains |= keep
            later = _needed_later(network, name, part.trains)
            part.trains = {layer: train for layer, train in part.trains.items() if layer in later}
    return statistic.value(state)


def _reserve(network: Network, name: str, part: Observed, how: Observation, used: int) -> dict[str, Tensor]:
    """Room for the spikes of layers that run now and that later ones need, as far as there is any."""
    prefix = _up_to(network, name)
    running = (upstream(prefix, part.trains) - part.trains.keys()) & prefix.neurons.keys()
    later = _needed_later(network, name, {*part.trains, *running})
    keep: dict[str, Tensor] = {}
    for layer in prefix.neurons:
        if layer in running and layer in later:
            shape = (how.timesteps, len(part.images), *train_bytes(network.shapes[layer]))
            if (room := _room(prod(shape), used, how.memory)) is not None:
                keep[layer] = room.view(shape)
                used += room.nbytes
    return keep


def _needed_later(network: Network, name: str, known: Collection[str]) -> set[str]:
    """List what the last layer, if that is not ``name``, still needs if the spikes of the known ones are there."""
    *_, last = network.neurons
    return upstream(_up_to(network, last), known) if last != name else set()


def _room(size: int, used: int, memory: int) -> Tensor | None:
    """So many bytes: in memory, or where that is used up in a temporary file, or None if the disk is short too."""
    if used + size <= memory:
        return torch.empty(size, dtype=torch.uint8)
    if used + size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
        return None
    try:
        with tempfile.NamedTemporaryFile(prefix="equispike-") as file:  # the mapping keeps the file's contents
            return torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError):  # a system that does not open or delete such a file
        return None


def _up_to(network: Network, name: str) -> Network:
    """The part that computes a neuron layer's input current: all nodes before it, and the current as readout."""
    position = next(i for i, node in enumerate(network.nodes) if node.name == name)
    readout = Node(network.nodes[-1].name, Readout(), network[name].inputs)
    return Network((*network.nodes[:position], readout))
