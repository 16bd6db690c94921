r"""Thresholds against the operating range of Han et al. (2020, eq. 7).

.. math:: f_{in} V_{in} \le V_{th} \le V_{in}

with :math:`f_{in}` the share of steps in which a neuron receives a current, :math:`V_{in}` the mean of it in those
steps, and so :math:`f_{in} V_{in}` its mean over all steps. Below the range a neuron would have to spike more often
than once a step: clipping. Above it, it spikes less often than its input comes: slow. The paper measures the largest
:math:`V_{in}` and scales it, so a network whose threshold is that maximum lies above most neurons' ranges.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from equispike.functional.coding import Coder
from equispike.functional.inputs import Images
from equispike.graph.network import Network, calibrated
from equispike.simulation.run import check_arguments, task_of, watch_all


class Range(NamedTuple):
    """One layer; means are over the driven neurons, those whose mean current is above zero.

    Attributes:
        layer: its name.
        lowest: mean of f_in V_in, in the network's units.
        threshold: mean V_th.
        highest: mean of V_in.
        largest: the largest current of any neuron and step, which SPIKE-NORM and RMP measure.
        below, inside, above: shares of the driven neurons whose threshold lies there; they add up to 1.
    """

    layer: str
    lowest: float
    threshold: float
    highest: float
    largest: float
    below: float
    inside: float
    above: float


def operating_range(
    network: Network, images: Images, timesteps: int, coder: Coder | None = None, seed: int = 0
) -> list[Range]:
    """Simulate some images, all in one batch, and compare each layer's threshold with what its neurons receive.

    A run does not keep every step's currents, so they are computed again here.

    Args:
        network: with thresholds.
        images: (B, *features), some dozens; or a tuple of several inputs.
        timesteps, coder, seed: as in ``simulate``.
    Returns:
        one row per layer that any image drives.
    Raises:
        SimulationError, ConversionError: as ``simulate``.

    >>> import equispike as es
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> images = torch.rand(16, 4)
    >>> (row,) = operating_range(es.convert(model, [images]), images, timesteps=8)
    >>> row.layer, row.below + row.inside + row.above
    ('1', 1.0)
    """
    check_arguments(network, timesteps, "auto")
    task = task_of(network, images, timesteps, coder, seed)
    sources = {name: network[name].inputs[0] for name in network.neurons}
    found = {
        name: _Currents(task.images.new_zeros(len(task.images), *network.shapes[name])) for name in network.neurons
    }

    def visit(name: str, value: Tensor) -> None:
        for neurons, source in sources.items():
            if source == name:
                found[neurons].add(value)

    with torch.no_grad():
        watch_all(task, visit)
    rows = [found[name].row(name, calibrated(name, op)[0]) for name, op in network.neurons.items()]
    return [row for row in rows if row is not None]


class _Currents:
    """Currents of one layer's neurons: sum over the steps that were seen, number of those with any, and the largest."""

    def __init__(self, zeros: Tensor) -> None:
        self.total, self.active = (torch.zeros_like(zeros, dtype=torch.float64) for _ in range(2))
        self.steps, self.largest = 0, -torch.inf

    def add(self, value: Tensor) -> None:
        """Currents of a chunk of steps, (T', B, *features); what is fixed in time comes as one step."""
        self.total += value.double().sum(0)
        self.active += (value != 0).double().sum(0)
        self.steps += len(value)
        self.largest = max(self.largest, float(value.max()))

    def row(self, name: str, threshold: Tensor) -> Range | None:
        driven = self.total > 0
        if not bool(driven.any()):
            return None
        lowest = (self.total / self.steps)[driven]
        highest = (self.total / self.active)[driven]
        theta = threshold.double().expand_as(self.total)[driven]
        below, above = theta < lowest, theta > highest
        inside = ~below & ~above
        return Range(
            name, _mean(lowest), _mean(theta), _mean(highest), self.largest, _mean(below), _mean(inside), _mean(above)
        )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
