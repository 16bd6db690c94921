"""Thresholds from the spikes that each layer really receives: SPIKE-NORM (Sengupta 2019) and RMP (Han 2020)."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor

from equispike.batches import Batch, Batches, hold, read
from equispike.calibrate.method import ReadoutKind, Thresholds, silent, with_thresholds
from equispike.errors import CalibrationError
from equispike.functional.coding import Coder, Poisson, predict
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Maximum
from equispike.graph.network import Network, Node, without_output_neurons
from equispike.graph.ops import Input, Neuron, Readout
from equispike.graph.residual import residual_neurons
from equispike.progress import track
from equispike.provenance import as_data
from equispike.simulation.layout import train_bytes
from equispike.simulation.record import Task, upstream
from equispike.simulation.run import default_batch, observe, simulate

Residual = Literal["measured", "unity"]


@dataclass(frozen=True)
class SpikeNorm:
    r"""SPIKE-NORM (Sengupta et al., 2019, algorithm 1): layer after layer, earlier layers already spiking.

    .. math:: \theta_l = \max_{\text{images}, t, i} \; (W_l\, s_{l-1}(t) + b_l)_i

    The maximum of the weighted input of one step, never of the potential; exact, whatever the batches. In the
    activation form spikes carry the amplitudes of the layers before, so biases and residual sums need no special care.
    The output layer gets a threshold like any other if the network's readout counts spikes.

    With ``residual="unity"``, layers of residual blocks are not measured (section 6.2): their thresholds are one in the
    balanced form, where the spikes that meet in a sum then count the same. In the activation form such a threshold is
    the size of the spikes that enter the block. Layers in front of the blocks and behind them are measured as always.

    Args:
        timesteps: steps that each layer is observed for (the paper: 2,500).
        reset: of the layers while measuring, and of the converted network; the paper's is hard, "zero".
        coder: how calibration images enter.
        seed: of the coder's draws.
        residual: thresholds of the layers in residual blocks and of the layers that read their sums: "measured", as
            those of all layers, or "unity" (see ``graph.residual``).
        memory: bytes of spikes to keep of layers that are done, as bits, so that no layer runs twice: what is more goes
            into temporary files, and where the disk is short too, layers run again. Thresholds do not depend on it.
    """

    timesteps: int = 2500
    reset: Reset = "zero"
    coder: Coder = field(default_factory=Poisson)
    seed: int = 0
    readout: ReadoutKind = "spikes"
    residual: Residual = "measured"
    memory: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise CalibrationError(f"SpikeNorm.timesteps: {self.timesteps} is less than 1")
        _check_residual(self.residual)

    def __str__(self) -> str:
        residual = ", residual='unity'" if self.residual == "unity" else ""
        return f"SpikeNorm(timesteps={self.timesteps}{residual})"

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer.

        Raises:
            CalibrationError: a measured layer stays silent; or unity is asked for in a network without residual blocks.
            DataError: the images are unusable.
        """
        held = hold(batches, network.input.shape)
        unity = set(residual_neurons(network)) if self.residual == "unity" else set[str]()
        if self.residual == "unity" and not unity:
            raise CalibrationError(
                'residual="unity": no two paths of this network meet in a sum. Use residual="measured"'
            )
        thresholds = Thresholds()
        parts = [_Part(network.check_images(x), i.to(network.device)) for x, i in _parts(held, default_batch(network))]
        for number, name in enumerate(network.neurons, start=1):
            if name in unity:
                threshold = torch.tensor(float(_size_of_spikes(network, name)), dtype=torch.float64)
            else:
                label = f"{name} ({number} of {len(network.neurons)})"
                threshold = self._largest_current(network, name, parts, label)
                if threshold <= 0:
                    raise silent(name, "weighted spike input")
            thresholds[name] = threshold.to(network.device, network.dtype)
            network = with_thresholds(network, {name: thresholds[name]}, self.reset)
            thresholds[name] = network.thresholds[name]  # below a ceiling, if the layer has one
        return thresholds

    def _largest_current(self, network: Network, name: str, parts: list["_Part"], label: str) -> Tensor:
        statistic, prefix = Maximum(), _up_to(network, name)
        state = statistic.init(network.device)

        def visit(value: Tensor) -> None:
            nonlocal state
            state = statistic.update(state, value)

        with torch.no_grad():
            for part in track(parts, label, len(parts)):
                keep = self._reserve(network, name, part, sum(p.size for p in parts))
                task = Task(prefix, part.images, part.indices, self.timesteps, self.coder, self.seed)
                observe(task, visit, part.trains, keep)
                part.trains |= keep
                later = _needed_later(network, name, part.trains)
                part.trains = {layer: train for layer, train in part.trains.items() if layer in later}
        return statistic.value(state)

    def _reserve(self, network: Network, name: str, part: "_Part", used: int) -> dict[str, Tensor]:
        """Room for the spikes of layers that run now and that later ones need, as far as there is any."""
        prefix = _up_to(network, name)
        running = (upstream(prefix, part.trains) - part.trains.keys()) & prefix.neurons.keys()
        later = _needed_later(network, name, {*part.trains, *running})
        keep: dict[str, Tensor] = {}
        for layer in prefix.neurons:
            if layer in running and layer in later:
                shape = (self.timesteps, len(part.images), *train_bytes(network.shapes[layer]))
                if (room := _room(prod(shape), used, self.memory)) is not None:
                    keep[layer] = room.view(shape)
                    used += room.nbytes
        return keep


@dataclass(frozen=True)
class RMP:
    """RMP-SNN (Han et al., 2020): soft reset, and SpikeNorm's thresholds multiplied by ``scale``.

    A soft-reset neuron stays linear over a wide range of thresholds, so lower ones give the same accuracy in fewer
    steps at more spikes, down to a scale that depends on the network's depth: below it neurons fire in every step.

    Args:
        scale: in (0, 1], or None: the smallest of ``scales`` whose accuracy on labelled images, after ``trial`` steps,
            is within ``tolerance`` of the trained network's; if none is, the most accurate. The images are
            ``validation``, or else the calibration images, which must then come with labels; never test images.
        timesteps, coder, seed, residual, memory: as in :class:`SpikeNorm`.
    """

    scale: float | None = 0.8
    timesteps: int = 2500
    coder: Coder = field(default_factory=Poisson)
    seed: int = 0
    validation: Batches | None = field(default=None, repr=False)
    scales: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    trial: int = 128
    tolerance: float = 0.005
    readout: ReadoutKind = "spikes"
    residual: Residual = "measured"
    memory: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        _check_residual(self.residual)
        for scale in self.scales if self.scale is None else (self.scale,):
            if not 0 < scale <= 1:
                raise CalibrationError(f"RMP.scale: {scale} is outside (0, 1]; 1 leaves thresholds as measured")
        if not self.scales or min(self.timesteps, self.trial) < 1:
            raise CalibrationError("RMP: needs at least one of scales, and timesteps and trial of at least 1")

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer, multiplied by the scale, which they carry. CalibrationError as in SpikeNorm."""
        held = hold(batches, network.input.shape)
        labelled = self._labelled(network, held) if self.scale is None else []
        measure = SpikeNorm(
            self.timesteps, "subtract", self.coder, self.seed, residual=self.residual, memory=self.memory
        )
        measured = measure(network, held)
        return self._choose(network, measured, labelled) if self.scale is None else scaled(measured, self.scale)

    def __str__(self) -> str:
        residual = ", residual='unity'" if self.residual == "unity" else ""
        return f"RMP(scale={self.scale}{residual})"

    @property
    def reset(self) -> Reset:
        """Soft: what the method is about."""
        return "subtract"

    def _labelled(self, network: Network, held: list[Batch]) -> list[Batch]:
        """The images on which a scale is chosen; refused before hours are spent on measuring."""
        if self.validation is not None:
            held = list(read(self.validation, network.input.shape, "validation batch"))
        if any(batch.labels is None for batch in held):
            raise CalibrationError(
                "RMP(scale=None): choosing a scale needs labels. Pass (images, labels), validation=..., or a scale"
            )
        return held

    def _predict(self, converted: Network, images: Tensor, indices: Tensor) -> Tensor:
        return simulate(converted, images, self.trial, self.coder, self.seed, indices).predictions[-1]

    def _choose(self, network: Network, measured: Thresholds, images: list[Batch]) -> Thresholds:
        size = default_batch(network)
        with torch.no_grad():
            scores = without_output_neurons(network)
            trained = _accuracy(images, lambda x, _: predict(scores(network.check_images(x)))[0], size)
        target = trained - self.tolerance
        best, candidate = -1.0, scaled(measured, 1.0)
        for scale in sorted(self.scales):
            thresholds = scaled(measured, scale)
            converted = with_thresholds(network, thresholds)
            accuracy = _accuracy(images, partial(self._predict, converted), size)
            if accuracy >= target:
                return thresholds
            if accuracy > best:
                best, candidate = accuracy, thresholds
        return candidate


def _accuracy(batches: list[Batch], predict: Callable[[Tensor, Tensor], Tensor], size: int) -> float:
    """Share of images (with their numbers) whose predicted class is their label; so many at once."""
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None]).cpu()
    right = sum(int((predict(x, i).cpu() == labels[i]).sum()) for x, i in _parts(batches, size))
    return right / len(labels)


def scaled(thresholds: Thresholds, scale: float) -> Thresholds:
    """Thresholds multiplied by the scale; amplitudes stay as calibrated."""
    result = Thresholds({name: threshold * scale for name, threshold in thresholds.items()})
    result.scale = scale
    return result


def rescaled(network: Network, method: RMP) -> Network:
    """The network that a method with a scale of its own gives, from one that it measured with scale 1."""
    assert method.scale is not None
    reset = next(iter(network.neurons.values())).reset
    changed = with_thresholds(network, scaled(Thresholds(network.thresholds), method.scale), reset)
    provenance = {**network.provenance, "method": as_data(method), "scale": method.scale}
    return replace(changed, provenance=provenance)


def _check_residual(residual: str) -> None:
    """CalibrationError for a rule that there is not."""
    if residual not in ("measured", "unity"):
        raise CalibrationError(f'residual: {residual!r} is not known. Choose from "measured", "unity"')


def _size_of_spikes(network: Network, name: str) -> Tensor | float:
    """Amplitude of the spikes that reach a layer: of a sum's, those of its first input, whose unit is the sum's."""
    node = network[name]
    while not isinstance(node.op, Input):
        node = network[node.inputs[0]]
        if isinstance(node.op, Neuron) and node.op.amplitude is not None:
            return node.op.amplitude
    return node.op.amplitude


@dataclass
class _Part:
    """Some images, their numbers, and the spikes of the layers that are needed again (see ``observe``)."""

    images: Tensor
    indices: Tensor
    trains: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def size(self) -> int:
        return sum(train.nbytes for train in self.trains.values())


def _needed_later(network: Network, name: str, known: Collection[str]) -> set[str]:
    """What the last layer, if that is not ``name``, still needs if the spikes of the known ones are there."""
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


def _parts(held: Sequence[Batch], size: int) -> list[tuple[Tensor, Tensor]]:
    """Images in parts of at most so many, which are simulated at once, with their numbers."""
    parts: list[tuple[Tensor, Tensor]] = []
    first = 0
    for batch in held:
        for start in range(0, len(batch.images), size):
            images = batch.images[start : start + size]
            parts.append((images, torch.arange(first + start, first + start + len(images))))
        first += len(batch.images)
    return parts
