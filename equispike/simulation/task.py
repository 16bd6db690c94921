"""A task, what an engine does with one, and the record of it."""

import math
import os
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from equispike.arguments import told
from equispike.errors import SimulationError
from equispike.functional.coding import Coder, Constant, Frames, Poisson, delayed
from equispike.functional.inputs import Images, inputs_of, join_inputs
from equispike.graph.network import Network
from equispike.graph.ops import Readout


@dataclass(frozen=True, eq=False)
class Task:
    """One batch of images, and how it is to be simulated.

    Attributes:
        network: with thresholds.
        images: (B, *features), under ``Frames`` (B, T, *features), as ``entered`` returns them.
        indices: their numbers in the data set, (B,), int64, on the same device.
        timesteps: T.
        coder, seed: as in ``simulate``.
        trains, potentials: neuron layers whose spikes, and potentials, are kept for every step.
    """

    network: Network
    images: Tensor
    indices: Tensor
    timesteps: int
    coder: Coder
    seed: int
    trains: frozenset[str] = frozenset()
    potentials: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if isinstance(self.coder, Frames) and self.images.ndim != 2 + len(self.network.input.shape):
            raise SimulationError(
                "coder: es.Frames takes a frame for each step, and here are single images. Calibrate on single frames, "
                "with es.Constant()"
            )

    @property
    def still(self) -> Tensor:
        """The images whose trained activations the rates approach, (B, *features): under ``Frames`` the mean frame."""
        return self.images.mean(1) if isinstance(self.coder, Frames) else self.images

    def of(self, chosen: Tensor | slice) -> "Task":
        """The same of some of the images: a mask (B,) or their places."""
        return replace(self, images=self.images[chosen], indices=self.indices[chosen])

    def in_batches(self, size: int) -> "list[Task]":
        """The same in parts of at most so many images."""
        return [self.of(slice(start, start + size)) for start in range(0, len(self.images), size)]

    def until(self, timesteps: int) -> "Task":
        """The same up to another step."""
        return replace(self, timesteps=timesteps)

    def trains_of(self, steps: int) -> dict[str, Tensor]:
        """Room for the trains that are kept, in so many steps: zeros."""
        kinds = {name: torch.int8 if op.signed else torch.bool for name, op in self.network.neurons.items()}
        return {name: self.every_step((name,), steps, kinds[name])[name] for name in self.trains}

    def every_step(self, layers: Collection[str], steps: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Room for what these layers do in so many steps, (T, B, *features): zeros."""
        batch, shapes = len(self.images), self.network.shapes
        return {name: self.images.new_zeros(steps, batch, *shapes[name], dtype=dtype) for name in layers}


@dataclass(frozen=True, eq=False)
class Moment:
    """A batch between two steps: all that the steps behind it depend on.

    Attributes:
        step: the step before; 0 at the beginning.
        potentials: V of every neuron layer that runs, (B, *features); and of every winner pool the sums of its inputs.
        scores: sums of what the readout read, (B, classes), float64; before its scale, so that they are exact.
        sent: of signed neuron layers, the spikes sent less the negative ones, (B, *features), of the network's type.
    """

    step: int
    potentials: Mapping[str, Tensor]
    scores: Tensor
    sent: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def of(self, chosen: Tensor) -> "Moment":
        """The same moment of some of the images: a mask (B,) or their places."""
        potentials, sent = ({name: x[chosen] for name, x in own.items()} for own in (self.potentials, self.sent))
        return Moment(self.step, potentials, self.scores[chosen], sent)


@dataclass(frozen=True, eq=False)
class Record:
    """Spikes and scores of one batch.

    Attributes:
        totals: sums over the steps of what the readout reads, times its scale, after each step, (T, B, classes).
        counts: spikes of each neuron over all steps, by layer, (B, *features), int32; negative ones count as well.
        spikes: spikes of each layer in each step, by layer, (T, B), int32; likewise.
        trains: which neurons spike in each step, (T, B, *features), bool, of the layers that the task names; of signed
            layers int8, 1 or -1.
        potentials: V after each step, (T, B, *features), of the layers that the task names.
        negative: of ``counts``, the negative spikes of signed layers.
    """

    totals: Tensor
    counts: Mapping[str, Tensor]
    spikes: Mapping[str, Tensor]
    trains: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    potentials: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    negative: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, eq=False)
class Replay:
    """Trains of all steps of layers, as bits, (T, B, *train_bytes(layer's shape)), uint8.

    Attributes:
        given: of layers that need not run; only what the readout needs beside them runs.
        keep: filled with those of layers that do.
    """

    given: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    keep: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


Visit = Callable[[str, Tensor], None]
"""Is shown a node's name and its value in a chunk, (T', B, *features), T' = 1 if it is the same in every step."""


class Running(Protocol):
    """A batch of images on its way through the steps. It belongs to an engine, which alone changes it."""

    @property
    def done(self) -> int:
        """The last step that was run; 0 at the beginning."""
        ...

    def record(self) -> Record:
        """All that happened since it began."""
        ...

    def moment(self) -> Moment:
        """Where it can go on."""
        ...


class Engine(Protocol):
    """A way to run a batch."""

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> Any:
        """A batch before its first step, or behind ``start``, with ``memory`` bytes for the values of one chunk.

        With ``replay`` nothing is recorded; it is run to look at it.
        """
        ...

    def advance(self, batch: Any, visit: Visit | None = None) -> None:
        """Run the next chunk of steps; show its values, at least what the readout reads, by the readout's name."""
        ...


def run(engine: Engine, task: Task, memory: int, start: Moment | None = None) -> Running:
    """Run one batch up to step T: the one loop over time."""
    with full_precision(task.network.device):
        batch = engine.begin(task, memory, start)
        while batch.done < task.timesteps:
            engine.advance(batch)
    return batch


def watch(engine: Engine, task: Task, memory: int, visit: Visit, replay: Replay | None = None) -> None:
    """Run one batch up to step T and show what an engine shows, chunk by chunk."""
    with full_precision(task.network.device):
        batch = engine.begin(task, memory, None, replay or Replay())
        while batch.done < task.timesteps:
            engine.advance(batch, visit)


def entered(network: Network, images: Images, coder: Coder, timesteps: int) -> Tensor:
    """Images as a task holds them: checked, in the network's type and on its device.

    Raises:
        SimulationError: shapes or values are not usable; under ``Frames`` also if there are not T of them.
    """
    for part in cast("tuple[Tensor, ...]", inputs_of(images)):
        if not part.is_floating_point():
            raise SimulationError(f"images of type {part.dtype}: preprocess them as in training (floats)")
    if not isinstance(coder, Frames):
        if isinstance(images, Tensor) and images.shape[2:] == network.input.shape:
            wanted = ", ".join(map(str, ("B", *network.input.shape)))
            raise SimulationError(
                f"images of shape {tuple(images.shape)}: this network takes ({wanted}), the same in all steps. For a "
                "frame in each step, give coder=es.Frames()"
            )
        return network.check_images(images)
    frames = coder.arrange(images, network.input.shape, timesteps)
    return network.check_images(frames.flatten(0, 1)).view(frames.shape)


def check_coder(task: Task) -> None:
    """Ask a coder that is not the package's for an image's first steps; SimulationError if it returns other things."""
    coder, op = task.coder, task.network.input
    if isinstance(coder, Constant | Poisson | Frames):
        return
    steps, part = range(1, min(task.timesteps, 2) + 1), task.of(slice(1))
    found = cast("object", coder.encode(part.images, part.indices, steps, task.seed, op.scale, op.amplitude))
    wanted = (1 if coder.constant else len(steps), *part.images.shape)
    shape, dtype = (tuple(found.shape), found.dtype) if isinstance(found, Tensor) else (told(found), "")
    if (shape, dtype) != (wanted, part.images.dtype):
        raise SimulationError(
            f"coder: {type(coder).__name__}.encode returned {shape} {dtype} for {len(steps)} steps of one image. "
            f"Return a tensor {wanted} of {part.images.dtype}"
        )


def joined_by(coder: Coder, network: Network, timesteps: int) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The function that joins the inputs of a batch for this coder; ``by_image(coder)`` then takes what it returns."""
    if not isinstance(coder, Frames):
        return join_inputs
    return partial(coder.arrange, features=network.input.shape, timesteps=timesteps)


def neuron_layers(network: Network, argument: str, names: Collection[str]) -> frozenset[str]:
    """Neuron layers to keep something of; SimulationError if one is none."""
    if isinstance(names, str):
        names = (names,)
    for name in names:
        if name not in network.neurons:
            raise SimulationError(
                f"{argument}: {name!r} is no neuron layer of this network. Choose from {', '.join(network.neurons)}"
            )
    return frozenset(names)


def check_room(task: Task) -> None:
    """SimulationError if what is to be kept of every step is more than there is memory."""
    network, device = task.network, task.images.device
    trains, potentials = (sum(math.prod(network.shapes[n]) for n in own) for own in (task.trains, task.potentials))
    size = task.timesteps * len(task.images) * (trains + potentials * network.dtype.itemsize)
    if size and size > (have := _memory_of(device)):
        raise SimulationError(
            f"trains, potentials: {size / 2**30:,.0f} GiB to keep, and {device} has {have / 2**30:,.0f}. "
            "Name fewer layers, or give fewer images or time-steps"
        )


def _memory_of(device: torch.device) -> float:
    """Bytes that a device has; infinite where the system does not say."""
    if device.type == "cuda":
        return cast("Any", torch.cuda).get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return math.inf


def scores_of(op: Readout, totals: Tensor) -> Tensor:
    """Scores after each step, (T, B, classes), of the sums up to each step: corrected, then delayed.

    Corrections add up class by class, so that neither the number of images nor the processor changes a bit.
    """
    if op.mix is None or op.shift is None:
        return delayed(totals, op.delay)
    steps = torch.arange(1, 1 + len(totals), device=totals.device)
    scores = steps[:, None, None] * op.shift.double()
    for weights, own in zip(op.mix.double().unbind(1), totals.double().unbind(2), strict=True):
        scores = scores + own[..., None] * weights
    return delayed(scores, op.delay).to(totals.dtype)


def empty_record(task: Task, images: int) -> Record:
    """A record of all steps and so many images in which nothing happens."""
    network = task.network
    zeros = partial(task.images.new_zeros, dtype=torch.int32)
    shapes = {name: network.shapes[name] for name in network.neurons}
    scores = torch.promote_types(task.images.dtype, torch.float32)
    return Record(
        task.images.new_zeros(task.timesteps, images, *network.shapes[network.nodes[-1].name], dtype=scores),
        {name: zeros(images, *shape) for name, shape in shapes.items()},
        {name: zeros(task.timesteps, images) for name in shapes},
        task.trains_of(task.timesteps),
        task.every_step(task.potentials, task.timesteps, network.dtype),
        {name: zeros(images, *shapes[name]) for name, op in network.neurons.items() if op.signed},
    )


def enter(whole: Record, part: Record, first: int, images: Tensor | slice) -> None:
    """Add what these images, (n,), did behind so many steps; their scores and potentials stay from there on."""
    end = first + len(part.totals)
    for mine, other in ((whole.counts, part.counts), (whole.negative, part.negative)):
        for name, own in other.items():
            mine[name][images] += own
    for mine, other in ((whole.spikes, part.spikes), (whole.trains, part.trains), (whole.potentials, part.potentials)):
        for name, own in other.items():
            mine[name][first:end, images] = own
    whole.totals[first:end, images] = part.totals
    whole.totals[end:, images] = part.totals[-1:]
    for name, own in part.potentials.items():
        whole.potentials[name][end:, images] = own[-1:]


def collected(parts: Iterable[tuple[Record, Tensor]], task: Task) -> tuple[Record, Tensor]:
    """One record of several batches, images in their order, and the steps of each image, (B,).

    Batches are entered as they come, so that no more than one is held beside the whole.
    """
    whole, steps, first = empty_record(task, len(task.images)), torch.zeros_like(task.indices), 0
    for part, own in parts:
        images = slice(first, first + len(own))
        enter(whole, part, 0, images)
        steps[images] = own
        first = images.stop
    return whole, steps


def negative_spikes(
    counts: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Negative ones among the spikes of signed layers, (B, *features), int32, from what they had sent in all."""
    return {name: (counts[name] - (after[name] - before[name]).to(torch.int32)) // 2 for name in after}


def upstream(network: Network, given: Collection[str]) -> set[str]:
    """Nodes that have to be known for the readout if the spikes of the ``given`` layers are; these among them."""
    needed = {network.nodes[-1].name}
    for node in reversed(network.nodes):
        if node.name in needed and node.name not in given:
            needed.update(node.inputs)
    return needed


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """While this lasts, float32 convolutions and products of matrices on this device round no factor first.

    On GPUs torch rounds the factors of a convolution to 11 bits (TF32) unless told otherwise; then sums would be others
    than elsewhere, also on integer grids that need more bits. The setting is torch's own, for the whole process; it is
    put back afterwards.

    >>> with full_precision(torch.device("cuda")):
    ...     _precisions()
    ['ieee', 'ieee']
    """
    if device.type != "cuda":
        yield
        return
    before = _precisions()
    _set_precisions(["ieee", "ieee"])
    try:
        yield
    finally:
        _set_precisions(before)


def _places() -> list[Any]:
    return [getattr(torch.backends.cudnn, "conv", torch.backends.cudnn), torch.backends.cuda.matmul]


def _precisions() -> list[str]:
    """Precisions to which float32 factors of convolutions and of products of matrices are rounded."""
    return [
        place.fp32_precision if hasattr(place, "fp32_precision") else "tf32" if place.allow_tf32 else "ieee"
        for place in _places()
    ]


def _set_precisions(precisions: list[str]) -> None:
    for place, precision in zip(_places(), precisions):
        if hasattr(place, "fp32_precision"):
            place.fp32_precision = precision
        else:  # before torch 2.9
            place.allow_tf32 = precision == "tf32"
