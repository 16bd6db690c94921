r"""Costs of operations, spikes and answers: tables of assumed joules, and Ding et al.'s power model.

All functions take numbers that were measured before; nothing is simulated here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from equispike.analysis.accuracy import latency
from equispike.errors import SimulationError


@dataclass(frozen=True)
class Costs:
    """Energy of one operation, in joules: an assumption, with its name.

    Attributes:
        name: what the numbers hold for; shortly, a colon, and in full.
        mac: multiply and add, in the trained network and where the spiking one receives numbers.
        add: one synaptic addition.
        weight: reading one weight from memory; 0 leaves memory out, as most of the field does.
    """

    name: str
    mac: float
    add: float
    weight: float = 0.0


FLOAT32_45NM = Costs(
    "32-bit floats: 3.7 pJ to multiply, 0.9 to add, at 45 nm and 0.9 V (Horowitz, 2014)", 4.6e-12, 0.9e-12
)
FLOAT32_45NM_MEMORY = Costs(
    "32-bit floats and memory: as without, and 10 pJ to read 64 bits of weights from 8 kB on the chip, at 45 nm and "
    "0.9 V (Horowitz, 2014)",
    4.6e-12,
    0.9e-12,
    5e-12,
)
INT8_45NM = Costs(
    "8-bit integers: 0.2 pJ to multiply, 0.03 to add, at 45 nm and 0.9 V (Horowitz, 2014)", 0.23e-12, 0.03e-12
)


def power(spikes: Tensor, joules_per_spike: float = 1.0, seconds_per_step: float = 1e-3) -> Tensor:
    r"""Power in each step (Ding et al., 2021, eq. 14, after Cao et al., 2015), (T,), float64.

    .. math:: P(t) = \frac{\text{spikes in step } t}{10^{-3}\,\mathrm{s}} \, \alpha

    Args:
        spikes: of all layers in each step, (T,), e.g. of one image.
        joules_per_spike: alpha; with 1 the power is in units of alpha per second.
        seconds_per_step: the paper takes a millisecond.
    Returns:
        in watts.

    >>> import torch
    >>> power(torch.tensor([2, 4]), joules_per_spike=1e-9)
    tensor([2.0000e-06, 4.0000e-06], dtype=torch.float64)
    """
    return spikes.double() * joules_per_spike / seconds_per_step


def energy_until(energy: Tensor, accuracies: Tensor, target: float) -> float | None:
    """Energy spent until an accuracy is reached for good, rather than in all T steps; None if it is not.

    Args:
        energy: up to each step, (T,), e.g. from ``Operations.energy_by_step``.
        accuracies: after each step, (T,).
        target: in the unit of the accuracies.

    >>> import torch
    >>> energy_until(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.9, 0.95]), target=0.9)
    2.0
    """
    if energy.shape != accuracies.shape:
        raise SimulationError(f"energy of {len(energy)} steps for accuracies of {len(accuracies)}. Pass the same run's")
    reached = latency(accuracies, target)
    return None if reached is None else float(energy[reached - 1])


def pareto(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """The points that no other beats, cheapest first: no point costs at most as much and is worth more.

    Of equal points the first is named.

    >>> pareto(costs=[3.0, 1.0, 2.0, 2.0], values=[0.9, 0.5, 0.4, 0.9])
    [1, 3]
    """
    front: list[int] = []
    for point in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i)):
        if not front or values[point] > values[front[-1]]:
            front.append(point)
    return front
