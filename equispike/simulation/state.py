"""What changes while a plan runs on a batch."""

from collections.abc import Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from equispike.functional.coding import Poisson, key_for
from equispike.graph.exact import calibrated
from equispike.simulation.layerwise import fixed_values
from equispike.simulation.layout import extent, padded, to_features, to_positions, widen
from equispike.simulation.record import Moment, Task, upstream
from equispike.simulation.stepwise import beginning, sums_of_pools

_COUNTS = {torch.float32: torch.int32, torch.float64: torch.int64}  # of the potentials' width, as in the core
SIGNS = "+", "-"
"""Endings of the names of the input's two trains."""


class State:
    """What changes while a batch runs.

    Attributes:
        steps: of the present chunk; the next one starts where it stops.
        trains: spikes of this chunk, by layer, and by sign of the input, laid out as the machine has them.
        dense: values of this chunk, (T', B, *features); ``fixed``: those that are the same in every step, T' = 1.
        v: potentials, (B, positions, channels); ``counts``: spikes so far, likewise, integers.
        sums: of what winner pools were given so far, (B, *features), float64.
        bases: of layers, the current that is there without spikes, where it is the same in every step.
        fired: spikes by image and step, (B, T), int32, by layer.
        scores: cumulative, before the readout's scale, (T + 1, B, classes), float64; first those before the first step.
            Of runs without ``scored`` those alone: where a wide layer is observed, all steps would not fit into memory.
        task: what is simulated.
        given: trains of all steps that are known, (T, B, positions, bytes).
    """

    def __init__(
        self,
        task: Task,
        given: Mapping[str, Tensor],
        start: Moment | None = None,
        scored: bool = True,
    ) -> None:
        network, images = task.network, task.images.contiguous()
        self.network, self.images, self.given, self.task = network, images, given, task
        op = network.input
        self.encode = partial(
            task.coder.encode, images, task.indices, seed=task.seed, scale=op.scale, amplitude=op.amplitude
        )
        self.before = 0 if start is None else start.step
        self.steps = range(self.before + 1, self.before + 1)
        self.trains: dict[str, Tensor] = {}
        self.fixed = fixed_values(task)
        self.dense: dict[str, Tensor] = {}
        self.bases: dict[object, Tensor] = {}
        needed = upstream(network, given) - given.keys()
        neurons = [name for name in network.neurons if name in needed]
        fractions = {name: network.neurons[name].v_init for name in neurons}
        if start is None and "uniform" not in fractions.values():
            self.v = {name: self._at_start(name, float(fractions[name])) for name in neurons}
            self.sums = sums_of_pools(network, len(images), needed)
            scores = images.new_zeros(len(images), *network.shapes[network.nodes[-1].name], dtype=torch.float64)
        else:
            start = start or beginning(task)
            self.v = {name: self._laid_out(start.potentials[name]) for name in neurons}
            self.sums = {name: v for name, v in start.potentials.items() if name in needed and name not in self.v}
            scores = start.scores
        self.counts = {name: torch.zeros_like(v, dtype=_COUNTS[v.dtype]) for name, v in self.v.items()}
        # All steps at once, before anything large: what stays between the trains of two chunks would break the hole
        # that the first leaves, and memory would grow with every chunk.
        steps = task.timesteps - self.before
        fired = images.new_zeros(len(neurons), len(images), steps, dtype=torch.int32)
        self.fired = dict(zip(neurons, fired))
        self.scores = scores.new_empty(steps * scored + 1, *scores.shape)
        self.scores[0] = scores

    def _at_start(self, name: str, fraction: float) -> Tensor:
        """Potentials before the first step where they are a fraction of the threshold."""
        threshold, _ = calibrated(name, self.network.neurons[name])
        channels, rows, cols = extent(self.network.shapes[name])
        if not fraction:
            return threshold.new_zeros(len(self.images), rows * cols, padded(channels))
        v = (threshold.new_full((), fraction) * threshold).reshape(-1).expand(channels)
        return widen(v, padded(channels)).expand(len(self.images), rows * cols, -1).contiguous()

    def _laid_out(self, v: Tensor) -> Tensor:
        return to_positions(v[None], padded(v.shape[1]))[:, :, 0].clone(memory_format=torch.contiguous_format)

    @cached_property
    def draws(self) -> tuple[Tensor, Tensor, int]:
        """What Poisson input is drawn by: limits, (B, channels, positions), the images' numbers, the seed."""
        coder, indices, seed = self.task.coder, self.task.indices, self.task.seed
        assert isinstance(coder, Poisson)
        key_for(seed, indices)
        limits = coder.limits(self.images, self.network.input.scale)
        return limits.view(*limits.shape[:2], -1), indices.contiguous(), seed

    @property
    def moment(self) -> Moment:
        """Where the run can go on."""
        shapes = self.network.shapes
        potentials = {name: to_features(v[:, :, None], shapes[name])[0] for name, v in self.v.items()}
        return Moment(self.steps.stop - 1, {**potentials, **self.sums}, self.scores[self.rows.stop].clone())

    @property
    def rows(self) -> slice:
        """Rows of ``fired`` that belong to the present chunk."""
        return slice(self.steps.start - 1 - self.before, self.steps.stop - 1 - self.before)

    def value(self, name: str) -> Tensor:
        """Dense value of a node in this chunk."""
        return self.fixed[name] if name in self.fixed else self.dense[name]

    def base(self, layer: object, bias: Tensor, dense: tuple[tuple[str, float], ...]) -> Tensor:
        """A layer's current without spikes, (B, positions, T', channels); extents may be 1."""
        if layer in self.bases:
            return self.bases[layer]
        base = bias
        for name, coefficient in dense:
            value = to_positions(self.value(name), bias.shape[-1])
            base = base + (value if coefficient == 1 else value * coefficient)
        base = base.contiguous()
        if all(name in self.fixed for name, _ in dense):
            self.bases[layer] = base
        return base
