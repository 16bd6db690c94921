"""The state of a batch that runs by a plan; and the role of the machine that computes its layers, a CPU or a GPU."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from equispike.functional.coding import Poisson, key_for
from equispike.functional.inputs import Shape
from equispike.functional.integrate import Reset
from equispike.graph.network import Network, Node
from equispike.graph.ops import Neuron
from equispike.simulation.beginning import beginning, fixed_values, sums_of_pools
from equispike.simulation.currents import Current
from equispike.simulation.task import Moment, Record, Replay, Task
from equispike.simulation.trains import layer_at, padded, to_positions, train_bytes, unpack

SIGNS = "+", "-"
"""Endings of the names of two trains: those of the input, and of layers that take spikes back."""

Shapes = Mapping[str, Shape]
"""Features of layers, by name."""


@dataclass(frozen=True, eq=False)
class Driven:
    """The neurons of a layer, with numbers for its channels in whole slabs.

    Attributes:
        threshold: (channels,), infinite where there is no channel.
        reset: "subtract" or "zero".
        signed: spikes are taken back.
        drive: by step, (S, channels), S > 1; None where there is none, and where it is the same in every step: then it
            is a part of the bias.
    """

    threshold: Tensor
    reset: Reset
    signed: bool = False
    drive: Tensor | None = None

    def drive_in(self, steps: range) -> Tensor | None:
        """The drive in some steps, (T', channels)."""
        return None if self.drive is None else self.drive[[min(t, len(self.drive)) - 1 for t in steps]]


def trains_of(name: str, op: Neuron) -> tuple[str, ...]:
    """Names of the trains of a neuron layer: one, or of signed neurons one for each sign."""
    return tuple(name + sign for sign in SIGNS) if op.signed else (name,)


@dataclass(frozen=True, eq=False)
class ByLayer(Mapping[str, Tensor]):
    """Tensors by layer, made when they are looked at: all of a small network's would take as long as its spikes."""

    shapes: Shapes
    make: Callable[[str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def extents(shapes: Shapes) -> list[tuple[int, int]]:
    """Positions of each layer, and its channels in whole slabs."""
    return [(prod(space), padded(channels)) for channels, *space in shapes.values()]


def by_layer(numbers: Any, images: int, shapes: Shapes, dtype: torch.dtype | None = None) -> ByLayer:
    """Features (B, *shape) of layers that lie one after the other, each (B, positions, channels in whole slabs).

    Views, unless another type is asked for.
    """
    return ByLayer(shapes, partial(_features, numbers, images, shapes, dtype))


def _features(numbers: Any, images: int, shapes: Shapes, dtype: torch.dtype | None, name: str) -> Tensor:
    first = 0
    for (positions, channels), (other, shape) in zip(extents(shapes), shapes.items()):
        if other == name:
            view = layer_at(torch.as_tensor(numbers), images, shape, first)
            return view.to(dtype or view.dtype)
        first += images * positions * channels
    raise KeyError(name)


class Neurons:
    """All neurons that run, layer after layer in the machine's memory; none of them signed, unless a machine says so.

    Args:
        shapes, images: features of each layer, and the size of the batch.
        v, counts: potentials, and spikes since the run began, of each layer (B, positions, channels in whole slabs).
        fired: spikes by layer, image and step.
    """

    def __init__(self, shapes: Shapes, images: int, v: Any, counts: Any, fired: Tensor) -> None:
        self.shapes, self.images = shapes, images
        self._v, self._counts, self._fired = v, counts, fired

    def begin(self, sent: Mapping[str, Tensor]) -> None:
        """Signed layers go on from what they have sent."""

    @property
    def v(self) -> Mapping[str, Tensor]:
        """Potentials by layer, (B, *features), views."""
        return by_layer(self._v, self.images, self.shapes)

    @property
    def counts(self) -> Mapping[str, Tensor]:
        """Spikes since the run began by layer, (B, *features), int32; negative ones count as well."""
        return by_layer(self._counts, self.images, self.shapes, torch.int32)

    @property
    def negative(self) -> Mapping[str, Tensor]:
        """The negative ones of these, of signed layers."""
        return {}

    @property
    def sent(self) -> Mapping[str, Tensor]:
        """Spikes of signed layers since the first step, less the negative ones, of the network's type."""
        return {}

    @property
    def fired(self) -> Mapping[str, Tensor]:
        """Spikes by layer in each step, (T, B), int32, views."""
        return dict(zip(self.shapes, self._fired.transpose(1, 2).unbind()))


class Based(Protocol):
    """A layer whose current has a part that no spike makes.

    Attributes:
        bias: by channel, or None where there is none, and something else.
        dense: nodes whose dense values are added, each times a coefficient.
        channels: in whole slabs.
    """

    bias: Tensor | None
    dense: tuple[tuple[str, float], ...]
    channels: int


@dataclass(frozen=True, eq=False)
class Action:
    """The work of one node in every chunk.

    Attributes:
        node: whose value comes about.
        run: does it.
        reads: trains and dense values that it reads; ``last_read``: those that nobody reads afterwards.
        writes: trains and dense values that it leaves, and their bytes per image and step.
    """

    node: Node
    run: Callable[["PlannedBatch"], None]
    reads: tuple[str, ...]
    writes: Mapping[str, int]
    last_read: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions in order.

    Attributes:
        needed: nodes whose values come about, beside those of neurons that are given.
        bytes_per_step: the largest sum of trains and dense values of one image and step that are alive at once.
        events: by convolution or linear layer in front of neurons, the additions it costs over the multiplications
            that it would cost densely, per unit of the rates of the trains named.
    """

    actions: tuple[Action, ...]
    needed: frozenset[str]
    bytes_per_step: int
    events: Mapping[str, Mapping[str, float]]

    def steps_per_chunk(self, batch: int, timesteps: int, memory: int, longest: int, besides: int = 0) -> int:
        """Steps whose spikes, dense values where there are any, and ``besides`` bytes fit into ``memory`` bytes."""
        return max(1, min(timesteps, longest, memory // ((self.bytes_per_step + besides) * batch)))


class PlannedBatch:
    """A batch that runs by a plan: all that changes on its way.

    Attributes:
        steps: of the present chunk; the next one starts where it stops.
        trains: spikes of this chunk, by layer, and by sign of the input, laid out as the machine has them.
        dense: values of this chunk, (T', B, *features); ``fixed``: those that are the same in every step, T' = 1.
        neurons: all that run.
        pools: sums of what winner pools were given so far, (B, *features), float64.
        bases: of layers, the current that is there without spikes, where it is the same in every step.
        potentials: after each step, (T, B, *features), of layers that the task names.
        sums: of what the readout read so far, before its scale, (B, *classes), float64.
        totals: as of ``Record``. Runs without ``scored`` have none: where a wide layer is observed, all steps would not
            fit into memory.
        task: what is simulated, and ``batch``, the number of its images.
        plan: what is done in the next chunk; ``first_plan``: in the first one.
        given: trains of all steps that are known, (T, B, positions, bytes); ``keep``: those that are kept.
    """

    def __init__(
        self,
        machine: "Machine",
        plan: Plan,
        task: Task,
        memory: int,
        start: Moment | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.plan = self.first_plan = plan
        self.memory, self.scored = memory, replay is None
        needed, scored = plan.needed, self.scored
        network, images = task.network, task.images.contiguous()
        self.network, self.images, self.task = network, images, task
        self.given: Mapping[str, Tensor] = replay.given if replay else {}
        self.batch = batch = len(images)
        op = network.input
        self.encode = partial(
            task.coder.encode, images, task.indices, seed=task.seed, scale=op.scale, amplitude=op.amplitude
        )
        self.before = 0 if start is None else start.step
        self.steps = range(self.before + 1, self.before + 1)
        self.trains: dict[str, Any] = {}
        self.fixed = fixed_values(task)
        self.dense: dict[str, Tensor] = {}
        self.bases: dict[Based, Tensor] = {}
        shapes = {name: network.shapes[name] for name in network.neurons if name in needed}
        # All steps at once, before anything large: what stays between the trains of two chunks would break the hole
        # that the first leaves, and memory would grow with every chunk.
        steps = task.timesteps - self.before
        self.neurons = machine.Neurons(network, shapes, batch, steps)
        self.potentials = task.every_step(task.potentials, steps, network.dtype)
        classes = network.shapes[network.nodes[-1].name]
        self.totals = images.new_empty(steps * scored, batch, *classes)
        if start is None and not all(network.neurons[name].at_rest for name in shapes):
            start = beginning(task)
        if start is None:
            self.pools = sums_of_pools(network, batch, needed)
            self.sums = images.new_zeros(batch, *classes, dtype=torch.float64)
        else:
            for name, v in self.neurons.v.items():
                v.copy_(start.potentials[name])
            self.neurons.begin(start.sent)
            self.pools = {name: v for name, v in start.potentials.items() if name in needed and name not in shapes}
            self.sums = start.scores.clone()

        kept = {name: trains_of(name, network.neurons[name]) for name in task.trains}
        sizes = {train: train_bytes(network.shapes[name]) for name, trains in kept.items() for train in trains}
        bits = {n: task.indices.new_empty(steps, batch, *size, dtype=torch.uint8) for n, size in sizes.items()}
        self.keep: Mapping[str, Tensor] = replay.keep if replay else bits

    @property
    def done(self) -> int:
        """The last step that was run."""
        return self.steps.stop - 1

    def next_chunk(self, longest: int) -> None:
        """Go on to as many steps as fit into the memory."""
        # for potentials, currents come to memory too: see plan.run_neurons
        currents = max((v[0, 0].numel() * v.itemsize for v in self.potentials.values()), default=0)
        chunk = self.plan.steps_per_chunk(self.batch, self.task.timesteps, self.memory, longest, currents)
        self.steps = range(self.steps.stop, min(self.steps.stop + chunk, self.task.timesteps + 1))

    def record(self) -> Record:
        trains: dict[str, Tensor] = {}
        for name in self.task.trains:
            positive, *negative = (self.keep[train] for train in trains_of(name, self.network.neurons[name]))
            shape, kind = self.network.shapes[name], torch.int8 if negative else torch.bool
            trains[name] = unpack(positive, shape, kind)
            for own in negative:
                trains[name] -= unpack(own, shape, kind)
        own = self.neurons
        return Record(self.totals, own.counts, own.fired, trains, self.potentials, own.negative)

    def moment(self) -> Moment:
        return Moment(self.done, {**self.neurons.v, **self.pools}, self.sums, self.neurons.sent)

    @cached_property
    def draws(self) -> tuple[Tensor, Tensor, int]:
        """Limits by which Poisson input is drawn, (B, channels, positions), the images' numbers, the seed."""
        coder, indices, seed = self.task.coder, self.task.indices, self.task.seed
        assert isinstance(coder, Poisson)
        key_for(seed, indices)
        limits = coder.limits(self.images, self.network.input.scale)
        return limits.view(*limits.shape[:2], -1), indices.contiguous(), seed

    @property
    def rows(self) -> slice:
        """Steps of the present chunk, counted from 0 where the run began."""
        return slice(self.steps.start - 1 - self.before, self.steps.stop - 1 - self.before)

    def value(self, name: str) -> Tensor:
        """Dense value of a node in this chunk."""
        return self.fixed[name] if name in self.fixed else self.dense[name]

    def base(self, layer: Based) -> Tensor:
        """A layer's current without spikes, (B, positions, T', channels); extents may be 1."""
        if layer in self.bases:
            return self.bases[layer]
        base = layer.bias
        for name, coefficient in layer.dense:
            value = to_positions(self.value(name), layer.channels)
            value = value if coefficient == 1 else value * coefficient
            base = value if base is None else base + value
        assert base is not None
        base = base.contiguous()
        if all(name in self.fixed for name, _ in layer.dense):
            self.bases[layer] = base
        return base


class Machine(Protocol):
    """A machine. Trains in a state are laid out as it likes."""

    @property
    def Layer(self) -> type[Any]:
        """``Layer(current, network, choose, neurons)`` prepares a current, and neurons if it drives any (or None).

        With ``choose``, by all ways between which it may choose as it runs.
        """
        ...

    @property
    def Neurons(self) -> Callable[[Network, Shapes, int, int], Neurons]:
        """``Neurons(network, shapes, images, steps)``: of layers of these shapes, without potential."""
        ...

    def suits(self, current: Current) -> bool:
        """Tell whether it can compute this current."""
        ...

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Tell whether it is fast too where most neurons spike."""
        ...

    def fire(self, state: PlannedBatch, name: str, layer: Any) -> None:
        """Run neurons, and the current that drives them, through the chunk; leaves their train."""
        ...

    def emit(self, state: PlannedBatch, name: str, layer: Any) -> None:
        """Leave a current as a dense value."""
        ...

    def score(self, state: PlannedBatch, layer: Any, scale: float) -> None:
        """Add a current, of a vector, to the scores."""
        ...

    def replay(self, state: PlannedBatch, name: str) -> None:
        """Take a train from those that are given."""
        ...

    def draw(self, state: PlannedBatch, name: str) -> None:
        """Leave Poisson spikes of the input, those of either sign as a train of their own."""
        ...

    def packed(self, state: PlannedBatch, name: str) -> Tensor:
        """A train as bits, (T', B, positions, bytes)."""
        ...

    def bytes_per_step(self, shape: tuple[int, ...]) -> int:
        """Bytes of the train of a layer of this shape, of one image and step."""
        ...
