r"""Why spike rates differ from the trained network's, layer by layer: the conversion error split into its causes.

With I the current of the trained network, J the mean current that a neuron really received, its threshold theta, and
N spikes in T steps, the error of a rate falls into four parts that add up:

.. math::
    \frac{I^+}{\theta} - \frac{N}{T} =
    \underbrace{\frac{I^+ - J^+}{\theta}}_{\text{inherited}} +
    \underbrace{\frac{J^+}{\theta} - \min\Bigl(\frac{J^+}{\theta}, 1\Bigr)}_{\text{clipping}} +
    \underbrace{\min\Bigl(\frac{J^+}{\theta}, 1\Bigr) - \frac{n(J)}{T}}_{\text{quantisation}} +
    \underbrace{\frac{n(J)}{T} - \frac{N}{T}}_{\text{unevenness}}

- inherited: earlier layers handed on something else than the trained network would;
- clipping: one spike per step is not enough for what came in;
- quantisation: n(J) spikes is what a current J, the same in every step, would give, and spikes are whole;
- unevenness: the same charge arrived in another order, some of it too late, or drove the potential below zero.

The split follows Bu et al. (2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural
networks"), who name clipping, quantisation and unevenness; taking J where they take I keeps what a layer loses itself
apart from what it inherits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equispike.functional.integrate import Reset
from equispike.graph.network import calibrated, values_of
from equispike.graph.ops import Input, Neuron, Node
from equispike.graph.walk import interpret
from equispike.simulation.beginning import initial_potentials
from equispike.simulation.run import Run

CAUSES = "inherited", "clipping", "quantisation", "unevenness"


class Causes(NamedTuple):
    """One layer: root mean squares over neurons and images, as shares of that of the trained rates."""

    layer: str
    inherited: float
    clipping: float
    quantisation: float
    unevenness: float
    total: float

    @property
    def largest(self) -> str:
        """The part of its own that loses most: "clipping", "quantisation" or "unevenness"."""
        return max(CAUSES[1:], key=lambda cause: getattr(self, cause))

    @property
    def lost(self) -> float:
        """Share lost by its own largest part: at most the whole error, since parts beyond it undo each other."""
        return min(getattr(self, self.largest), self.total)


@dataclass(frozen=True, eq=False)
class Parts:
    """The four parts of each neuron's error in one layer, (B, *features) each, in units of spikes per step."""

    trained: Tensor
    inherited: Tensor
    clipping: Tensor
    quantisation: Tensor
    unevenness: Tensor


def causes(run: Run) -> list[Causes]:
    """The conversion error of every layer, split into its causes."""
    return [_summary(name, part) for name, part in error_parts(run).items()]


def error_parts(run: Run) -> dict[str, Parts]:
    """As :func:`causes`, for every neuron and image."""
    network, images = run.task.network, run.task.still
    with torch.no_grad():
        trained = dict(values_of(network, images, set(network.neurons)))
        received = mean_currents(run)
        start = initial_potentials(network, run.task.indices, run.task.seed)
        parts: dict[str, Parts] = {}
        for name, op in network.neurons.items():
            threshold, amplitude = (t.double() for t in calibrated(name, op))
            wanted = trained[name].double() / amplitude
            came = (received[name] + mean_drive(op, run.timesteps, received[name].ndim)).clamp(
                0.0, op.ceiling
            ) / threshold
            possible = came.clamp(max=1.0)
            even = even_counts(possible, run.timesteps, op.reset, start[name].double() / threshold) / run.timesteps
            rate = run.sent(name).double() / run.timesteps
            parts[name] = Parts(wanted, wanted - came, came - possible, possible - even, even - rate)
    return parts


def mean_drive(op: Neuron, timesteps: int, rank: int) -> Tensor:
    """Mean of a layer's drive over the steps, broadcastable to (B, *features) of so many axes, float64."""
    if op.drive is None:
        return torch.zeros((), dtype=torch.float64)
    rows = op.drive_in(range(1, timesteps + 1))
    assert rows is not None
    return rows.double().mean(0).view(-1, *(1,) * (rank - 2))


def mean_currents(run: Run) -> dict[str, Tensor]:
    """Mean current that each neuron received in a step, (B, *features), float64: everything linear of mean spikes."""
    task, network = run.task, run.task.network.to(torch.float64)
    currents: dict[str, Tensor] = {}

    def enter(node: Node, op: Input) -> Tensor:
        steps = range(1, 2) if task.coder.constant else range(1, run.timesteps + 1)
        total = torch.zeros_like(task.still, dtype=torch.float64)
        for t in steps:
            given = task.images, task.indices, range(t, t + 1), task.seed, op.scale, op.amplitude
            total += task.coder.encode(*given)[0].double()
        return total / len(steps)

    def fire(node: Node, op: Neuron, current: Tensor) -> Tensor:
        currents[node.name] = current
        return run.sent(node.name).double() / run.timesteps * calibrated(node.name, op)[1]

    for _ in interpret(network.nodes, enter, fire):
        pass
    return currents


def even_counts(rate: Tensor, timesteps: int, reset: Reset, v_init: Tensor) -> Tensor:
    r"""Spikes in T steps of a current that is the same in each, n, float64.

    .. math:: n_{soft} = \min(T, \lfloor v_0 + T r \rfloor), \qquad
        n_{hard} = 1 + \Bigl\lfloor \frac{T - t_1}{\lceil 1 / r \rceil} \Bigr\rfloor, \quad
        t_1 = \Bigl\lceil \frac{1 - v_0}{r} \Bigr\rceil

    Args:
        rate: r, current over threshold, in [0, 1].
        v_init: v_0, initial potential over threshold, in [0, 1).

    >>> rate = torch.tensor([0.4, 0.25], dtype=torch.float64)
    >>> [even_counts(rate, 10, reset, torch.zeros(2)).tolist() for reset in ("subtract", "zero")]
    [[4.0, 2.0], [3.0, 2.0]]
    """
    slack = 1e-9  # what should be a whole number of thresholds may have been rounded
    if reset == "subtract":
        soft = (v_init + timesteps * rate + slack).floor().clamp(max=timesteps)
        return torch.where(rate > 0, soft, 0.0)
    first = ((1 - v_init) / rate - slack).ceil().clamp(min=1)
    period = (1 / rate - slack).ceil()
    fires = (rate > 0) & (first <= timesteps)
    return torch.where(fires, 1 + ((timesteps - first) / period).floor(), 0.0)


def _summary(name: str, parts: Parts) -> Causes:
    whole = parts.inherited + parts.clipping + parts.quantisation + parts.unevenness
    scale = float(parts.trained.square().mean().sqrt()) or 1.0
    shares = (
        float(part.square().mean().sqrt()) / scale
        for part in (parts.inherited, parts.clipping, parts.quantisation, parts.unevenness, whole)
    )
    return Causes(name, *shares)
