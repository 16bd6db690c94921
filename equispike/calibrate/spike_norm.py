"""Thresholds from the spikes that each layer really receives: SPIKE-NORM (Sengupta et al., 2019)."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.batches import Batch, Batches, hold
from equispike.calibrate.method import (
    Method,
    ReadoutKind,
    Sums,
    Thresholds,
    size_of_spikes,
    substitute,
    with_thresholds,
)
from equispike.errors import CalibrationError
from equispike.functional.coding import Coder, Poisson
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Maximum, Statistic
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Readout
from equispike.progress import track
from equispike.simulation.run import default_batch, observe
from equispike.simulation.task import Task, upstream
from equispike.simulation.trains import train_bytes

ResidualRule = Literal["measured", "unity"]

Given = Callable[[Network, str, float], Tensor | None]
"""(network so far, layer, scale) -> its threshold, or None: it is to be measured, and scaled."""


@checked_fields
@dataclass(frozen=True)
class SpikeNorm:
    r"""SPIKE-NORM (Sengupta et al., 2019, algorithm 1): layer after layer, earlier layers already spiking.

    .. math:: \theta_l = \max_{\text{images}, t, i} \; (W_l\, s_{l-1}(t) + b_l)_i

    The maximum of the weighted input of one step, never of the potential; exact, whatever the batches. In the
    activation form spikes carry the amplitudes of the layers before, so biases and residual sums need no special care.
    The output layer gets a threshold like any other if the network's readout counts spikes. A layer that nothing drives
    takes the size of one spike that reaches it, with a warning.

    Args:
        timesteps: steps that each layer is observed for (the paper: 2,500).
        reset: of the layers while measuring, and of the converted network; the paper's is hard, "zero".
        coder: how calibration images enter.
        seed: of the coder's draws.
        residual: thresholds of the layers in residual blocks and of the layers that read their sums
            (``residual_neurons``): "unity" (section 6.2): one in the balanced form, where the spikes that meet in a sum
            then count the same; in the activation form that is the size of the spikes that enter the block. Or
            "measured", as those of all layers: higher, so that answers come much later.
        front: of layers in front of the first residual block, take the thresholds of this method instead; with
            ``DataNorm()`` and unity, the last variant of section 7.3.
        sums: "weighted": spikes count as much as their amplitudes say, so that sums stay right. "plain": unit spikes of
            layers with different thresholds are added as they are (section 6.1), which is what unity cures, so that it
            shows with ``residual="measured"`` alone.
        memory: bytes of spikes to keep of layers that are done, as bits, so that no layer runs twice: what is more goes
            into temporary files, and where the disk is short too, layers run again. Thresholds do not depend on it.
    """

    timesteps: int = 2500
    reset: Reset = "zero"
    coder: Coder = field(default_factory=Poisson)
    seed: int = 0
    readout: ReadoutKind = "spikes"
    residual: ResidualRule = "unity"
    front: Method | None = None
    sums: Sums = "weighted"
    memory: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise CalibrationError(f"SpikeNorm.timesteps: {self.timesteps} is less than 1")
        check_rules(self.residual, self.sums)

    def __str__(self) -> str:
        return f"SpikeNorm(timesteps={self.timesteps}{told_rules(self.residual, self.front, self.sums)})"

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer.

        Raises:
            CalibrationError: a front is asked for in a network without residual blocks.
            DataError: the images are unusable.
        """
        held = hold(batches, network.input.shape)
        given = rules(network, held, self.residual, self.front)
        how = Observation(
            self.timesteps, self.coder, self.seed, Maximum(), self.reset, sums=self.sums, memory=self.memory
        )
        return measure(network, held, how, given)


def rules(network: Network, held: Sequence[Batch], residual: ResidualRule, front: Method | None) -> Given:
    """The thresholds that are not measured: of layers in front of residual blocks, and unity in them.

    Raises:
        CalibrationError: a front is asked for, and there are no residual blocks.
    """
    part = residual_neurons(network)
    if not part and front is not None:
        raise CalibrationError("front: no two paths of this network meet in a sum. Leave it out")
    unity = set(part) if residual == "unity" else set[str]()
    ahead: Mapping[str, Tensor] = {} if front is None else front(network, held)
    first = list(network.neurons).index(part[0]) if part else 0
    plain = set(list(network.neurons)[:first])

    def given(spiking: Network, name: str, scale: float) -> Tensor | None:
        if name in unity:
            size = size_of_spikes(spiking, network[name].inputs[0])
            return torch.tensor(size, dtype=torch.float64)
        return ahead[name] * scale if name in plain and name in ahead else None

    return given


def check_rules(residual: str, sums: str) -> None:
    """CalibrationError for a rule that there is not."""
    for name, value, known in (
        ("residual", residual, ("measured", "unity")),
        ("sums", sums, ("weighted", "plain")),
    ):
        if value not in known:
            raise CalibrationError(f"{name}: {value!r} is not known. Choose from {known[0]!r}, {known[1]!r}")


def told_rules(residual: ResidualRule, front: Method | None, sums: Sums) -> str:
    """The rules as they stand in a method's name: nothing where they are the usual ones."""
    words = [
        *(["residual='measured'"] if residual == "measured" else []),
        *([f"front={front}"] if front is not None else []),
        *(["sums='plain'"] if sums == "plain" else []),
    ]
    return "".join(f", {word}" for word in words)


def residual_neurons(network: Network) -> list[str]:
    """The neuron layers of the residual part, in order; none if no two paths meet in a sum.

    To it belong the layers inside blocks, on any path from a fork to the sum where the paths meet again, and the
    junctions: the layers that read such a sum. The fork of a sum is the last node that everything on its way to the sum
    must pass (its immediate dominator). Layers before, between and behind blocks do not belong to it.
    """
    forks = _last_passed_by_all(network)
    part: set[str] = set()
    for node in network:
        if isinstance(node.op, Add) and len(set(node.inputs)) > 1:
            part |= _between(network, forks[node.name], node.name)
            part |= {reader.name for reader in network.consumers[node.name]}
    return [name for name in network.neurons if name in part]


def _last_passed_by_all(network: Network) -> dict[str, str]:
    """For each node but the first, the last node before it that all paths from the input to it pass."""
    order = {node.name: i for i, node in enumerate(network)}
    last: dict[str, str] = {}
    for node in network.nodes[1:]:
        common = node.inputs[0]
        for name in node.inputs[1:]:
            while name != common:  # the later of two is not on every path: step back from it
                if order[name] > order[common]:
                    name = last[name]
                else:
                    common = last[common]
        last[node.name] = common
    return last


def _between(network: Network, start: str, end: str) -> set[str]:
    """The nodes on any path from one node to another, without the two, if all paths to the end pass the start."""
    found: set[str] = set()
    waiting = [*network[end].inputs]
    while waiting:
        name = waiting.pop()
        if name != start and name not in found:
            found.add(name)
            waiting += network[name].inputs
    return found


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
