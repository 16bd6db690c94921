r"""The fit of spike rates to the trained network's, and Ding et al.'s bound on it (2021, eq. 7 and theorem 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import length_hint
from typing import NamedTuple

import torch
from torch import Tensor

from equispike.arguments import checked
from equispike.batches import Batches, read
from equispike.errors import SimulationError
from equispike.functional.coding import Coder, Constant, by_image
from equispike.functional.rate import omega
from equispike.graph.network import Network, calibrated, values_of
from equispike.progress import track
from equispike.simulation.run import Run, check_arguments, default_batch, task_of, watch_all
from equispike.simulation.task import Task, joined_by


class FitRow(NamedTuple):
    """A layer after a step: mean K, mean of the bound 2 Omega / t, and the share of images whose K is below theirs."""

    layer: str
    step: int
    k: float
    bound: float
    within: float


@dataclass(frozen=True, eq=False)
class RateFit:
    r"""The fit of rates r(t) = spikes / t to the trained network's rates :math:`\hat r`, by layer.

    .. math:: K_l(t) = \frac{\lVert r_l(t) - \hat r_l \rVert_2^2}{\lVert \hat r_l \rVert_2^2}, \qquad
        \Omega_l = \frac{\lVert \hat r_l \rVert_1}{\lVert \hat r_l \rVert_2^2}, \qquad
        \hat r_l = \mathrm{clip}(I_l / \theta_l, 0, 1)

    with the norms over the neurons of one layer for one image, and I the trained network's current.

    Theorem 2 says :math:`K_l(t) < 2 \Omega_l / t` for a layer that receives the same current in every step: the first
    one under constant coding, with soft reset from potential 0. There even :math:`K_l(t) < \Omega_l / t` holds, since
    each rate is too low by less than 1/t and by at most itself. Deeper layers receive spikes; for them, and for other
    neurons and coders, the bound is what the paper compares with, and ``within`` says where it holds.

    Images for which a layer's trained rates are all zero have no K; they are left out of ``k`` and ``within``.

    Attributes:
        k: mean of K over the images after each step, by layer, (T,), float64; NaN if no image drives the layer.
        within: share of the images with K < 2 Omega / t after each step, by layer, (T,), float64; NaN likewise.
        omega: by layer, (B,), one value per image; 0 where all rates are zero.
    """

    k: Mapping[str, Tensor]
    within: Mapping[str, Tensor]
    omega: Mapping[str, Tensor]

    def table(self, steps: Sequence[int]) -> list[FitRow]:
        """One row for each layer and chosen step, 1 to T."""
        longest = len(next(iter(self.k.values())))
        if outside := [t for t in steps if not 1 <= t <= longest]:
            raise SimulationError(f"steps: {outside[0]} is outside 1 to {longest}, the steps that were simulated")
        return [
            FitRow(name, t, float(k[t - 1]), 2 * _mean_omega(self.omega[name]) / t, float(self.within[name][t - 1]))
            for name, k in self.k.items()
            for t in steps
        ]


class Misfit(NamedTuple):
    """K of each image at the end of a run, (B,), NaN where the layer is not driven, and its Omega, (B,)."""

    k: Tensor
    omega: Tensor


def misfit(run: Run) -> dict[str, Misfit]:
    """K and Omega (see :class:`RateFit`) of every layer and image after the last step of a run."""
    found: dict[str, Misfit] = {}
    with torch.no_grad():
        for name, expected in trained_rates(run.task.network, run.task.still).items():
            difference = run.sent(name).to(expected.dtype) / run.timesteps - expected
            square = expected.flatten(1).square().sum(1)
            found[name] = Misfit(difference.flatten(1).square().sum(1) / square, omega(expected))
    return {name: Misfit(k.where(o > 0, torch.nan), o) for name, (k, o) in found.items()}


def rate_counts(run: Run) -> dict[str, Tensor]:
    """The distribution of firing rates: by layer, how many neurons (of all images) spiked n times, (T + 1,), int64.

    Divided by T, n is the rate.
    """
    return {
        name: torch.bincount(run.sent(name).flatten().long(), minlength=run.timesteps + 1).cpu() for name in run.counts
    }


@checked
def rate_fit(
    network: Network,
    batches: Batches | Tensor,
    timesteps: int,
    coder: Coder | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | None = None,
) -> RateFit:
    """Simulate images and compare every layer's rates, after every step, with the trained network's.

    Memory grows neither with the number of images (but for one Omega for each layer) nor with that of steps.

    Args:
        network: with thresholds.
        batches: images, or (images, labels); image k of all batches draws as image k.
        timesteps: T, at least 1.
        coder, seed, batch_size, memory: as in ``simulate``.
    Raises:
        SimulationError, ConversionError, DataError: as ``evaluate``.
    """
    coder = Constant() if coder is None else coder
    check_arguments(network, timesteps, "auto", batch_size, memory)
    batch_size = batch_size or default_batch(network)
    sums = {name: _Sums(timesteps) for name in network.neurons}
    total = 0
    with torch.no_grad():
        found = read(batches, network.input.shape, join=joined_by(coder, network, timesteps))
        coder = by_image(coder)
        for batch in track(found, "comparing rates", length_hint(batches)):
            for part in torch.split(batch.images, batch_size):
                indices = torch.arange(total, total + len(part))
                _compare(task_of(network, part, timesteps, coder, seed, indices), memory, sums)
                total += len(part)
    return RateFit(
        {name: s.k / s.images for name, s in sums.items()},
        {name: s.within / s.images for name, s in sums.items()},
        {name: torch.cat(s.omega) for name, s in sums.items()},
    )


@dataclass
class _Sums:
    """Sums of one layer, over the images that drive it."""

    timesteps: int
    images: int = 0
    omega: list[Tensor] = field(default_factory=list[Tensor])

    def __post_init__(self) -> None:
        self.k, self.within = (torch.zeros(self.timesteps, dtype=torch.float64) for _ in range(2))

    def add(self, first: int, k: Tensor, bound: Tensor) -> None:
        """K and 2 Omega / t in steps from ``first`` on, (T', B)."""
        steps = slice(first, first + len(k))
        self.k[steps] += k.sum(1).double().cpu()
        self.within[steps] += (k < bound).sum(1).cpu()


def _compare(task: Task, memory: int | None, sums: Mapping[str, _Sums]) -> None:
    """Add one batch to the sums."""
    network, images = task.network, task.still
    expected = trained_rates(network, images)
    omegas = {name: omega(rate) for name, rate in expected.items()}
    for name, values in omegas.items():
        sums[name].omega.append(values.cpu())
        sums[name].images += int((values > 0).sum())
    fired = {name: torch.zeros_like(rate) for name, rate in expected.items()}
    done = dict.fromkeys(expected, 0)

    def visit(name: str, value: Tensor) -> None:
        if name not in expected:
            return
        rate, first, driven = expected[name], done[name], omegas[name] > 0
        t = torch.arange(first + 1, first + 1 + len(value), device=value.device)
        counts = value.to(rate.dtype).cumsum(0).add_(fired[name])
        fired[name], done[name] = counts[-1].clone(), first + len(value)
        misfit = counts.div_(t.view(-1, *(1,) * rate.ndim)).sub_(rate).flatten(2).square().sum(2)
        k = misfit[:, driven] / rate.flatten(1).square().sum(1)[driven]
        sums[name].add(first, k, 2 * omegas[name][driven] / t[:, None])

    watch_all(task, visit, memory)


def trained_rates(network: Network, images: Tensor) -> dict[str, Tensor]:
    r"""Rates that the trained network asks of each layer, :math:`\mathrm{clip}(I_l / \theta_l, 0, 1)`, (B, *features).

    Args:
        images: in the network's type and on its device, see ``Network.check_images``.
    """
    rates: dict[str, Tensor] = {}
    for name, value in values_of(network, images, set(network.neurons)):
        _, amplitude = calibrated(name, network.neurons[name])
        rates[name] = (value / amplitude).clamp(max=1).to(torch.promote_types(value.dtype, torch.float32))
    return rates


def _mean_omega(values: Tensor) -> float:
    """Over the images that drive the layer."""
    return float(values.double().sum() / (values > 0).sum())
