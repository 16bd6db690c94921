"""What changes while a plan runs on a batch."""

from collections.abc import Collection, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from equispike.functional.coding import Poisson, key_for
from equispike.simulation.fixed import fixed_values
from equispike.simulation.layout import to_positions
from equispike.simulation.machine import Machine
from equispike.simulation.record import Moment, Task
from equispike.simulation.stepwise import beginning, sums_of_pools


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


class State:
    """What changes while a batch runs.

    Attributes:
        steps: of the present chunk; the next one starts where it stops.
        trains: spikes of this chunk, by layer, and by sign of the input, laid out as the machine has them.
        dense: values of this chunk, (T', B, *features); ``fixed``: those that are the same in every step, T' = 1.
        neurons: all that run.
        pools: sums of what winner pools were given so far, (B, *features), float64.
        bases: of layers, the current that is there without spikes, where it is the same in every step.
        potentials: after each step, (T, B, *features), of layers that the task names.
        sums: of what the readout read so far, before its scale, (B, *classes), float64.
        readout: cumulative scores after each step, (T, B, *classes). Runs without ``scored`` have none: where a wide
            layer is observed, all steps would not fit into memory.
        task: what is simulated, and ``batch``, the number of its images.
        given: trains of all steps that are known, (T, B, positions, bytes).
    """

    def __init__(
        self,
        machine: Machine,
        needed: Collection[str],
        task: Task,
        given: Mapping[str, Tensor],
        start: Moment | None = None,
        scored: bool = True,
    ) -> None:
        network, images = task.network, task.images.contiguous()
        self.network, self.images, self.given, self.task = network, images, given, task
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
        self.readout = images.new_empty(steps * scored, batch, *classes)
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

    @cached_property
    def draws(self) -> tuple[Tensor, Tensor, int]:
        """What Poisson input is drawn by: limits, (B, channels, positions), the images' numbers, the seed."""
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
