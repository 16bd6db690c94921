"""Soft reset and lowered thresholds: RMP-SNN (Han et al., 2020)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.batches import Batch, Batches, hold, read
from equispike.calibrate.method import Method, ReadoutKind, Sums, Thresholds, with_thresholds
from equispike.calibrate.spike_norm import (
    Observation,
    ResidualRule,
    check_rules,
    in_batches,
    measure,
    residual_neurons,
    rules,
    told_rules,
)
from equispike.errors import CalibrationError
from equispike.functional.coding import Coder, Poisson, predict
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Maximum, Mean
from equispike.graph.network import Network, without_output_neurons
from equispike.simulation.run import default_batch, simulate

Measured = Literal["maximum", "average"]
STATISTICS = {"maximum": Maximum(), "average": Mean(positive=True)}


@checked_fields
@dataclass(frozen=True)
class RMP:
    r"""RMP-SNN (Han et al., 2020): soft reset, and lowered thresholds.

    A soft-reset neuron stays linear over a wide range of thresholds, so lower ones give the same accuracy in fewer
    steps at more spikes, down to a scale that depends on the network: below it neurons fire in every step.

    Thresholds are measured in the loop (section 4.1: freeze a layer's threshold, then estimate the next layer's):

    .. math:: \theta_l = \alpha \max_{\text{images}, t, i} \; (W_l\, s_{l-1}(t) + b_l)_i

    with :math:`s_{l-1}` the spikes of layers that already have their scaled thresholds. A spike is as large as its
    threshold (in the balanced form: one), so a x rate estimates the trained activation, whatever the depth.

    The section can also be read so that all maxima are measured at :math:`\alpha = 1` and then scaled
    (``after=True``). Spikes then keep the size that was measured, and each layer's signal grows by
    :math:`1 / \alpha` (see ``calibrate.method.with_thresholds``).

    Args:
        scale: alpha in (0, 1], or None: the smallest of ``scales`` whose accuracy on labelled images, after ``trial``
            steps, is within ``tolerance`` of the trained network's; if none is, the most accurate. The images are
            ``validation``, or else the calibration images, which must then come with labels; never test images.
        timesteps, coder, seed, residual, front, sums, memory: as in :class:`SpikeNorm`. Unity is not scaled: the
            rates that come in are higher already, and would grow from block to block.
        after: scale when all has been measured, instead of in the loop.
        statistic: "maximum", the paper's V_in^max; or "average", its V_in^avg: the mean of the weighted inputs that are
            above zero, over images, steps and neurons, for which ``scale=1.0`` is natural (the paper: it is about alpha
            times the maximum). Inputs at or below zero drive no spike; with them the mean would mostly be negative.
    """

    scale: float | None = 0.8
    timesteps: int = 2500
    coder: Coder = field(default_factory=Poisson)
    seed: int = 0
    after: bool = False
    statistic: Measured = "maximum"
    validation: Batches | None = field(default=None, repr=False)
    scales: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    trial: int = 128
    tolerance: float = 0.005
    readout: ReadoutKind = "spikes"
    residual: ResidualRule = "unity"
    front: Method | None = None
    sums: Sums = "weighted"
    memory: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        check_rules(self.residual, self.sums)
        if self.statistic not in STATISTICS:
            raise CalibrationError(f"statistic: {self.statistic!r} is not known. Choose from 'maximum', 'average'")
        for scale in self.scales if self.scale is None else (self.scale,):
            if not 0 < scale <= 1:
                raise CalibrationError(f"RMP.scale: {scale} is outside (0, 1]; 1 leaves thresholds as measured")
        if not self.scales or min(self.timesteps, self.trial) < 1:
            raise CalibrationError("RMP: needs at least one of scales, and timesteps and trial of at least 1")

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer, scaled; they carry the scale. Errors as in SpikeNorm."""
        held = hold(batches, network.input.shape)
        if self.scale is None:
            return self._choose(network, held, self._labelled(network, held))
        (thresholds,) = self._at(network, held, [self.scale])
        return thresholds

    def __str__(self) -> str:
        after = ", after=True" if self.after else ""
        statistic = ", statistic='average'" if self.statistic == "average" else ""
        return f"RMP(scale={self.scale}{after}{statistic}{told_rules(self.residual, self.front, self.sums)})"

    @property
    def reset(self) -> Reset:
        """Soft: what the method is about."""
        return "subtract"

    def _at(self, network: Network, held: list[Batch], scales: Sequence[float]) -> Iterator[Thresholds]:
        """Thresholds for each of the scales; what they share is measured once."""
        given = rules(network, held, self.residual, self.front)

        def measured(scale: float) -> Thresholds:
            statistic = STATISTICS[self.statistic]
            how = Observation(
                self.timesteps, self.coder, self.seed, statistic, self.reset, scale, self.sums, self.memory
            )
            return measure(network, held, how, given)

        if self.after:
            whole = measured(1.0)
            whole.unscaled = frozenset(residual_neurons(network) if self.residual == "unity" else ())
            yield from (scaled(whole, scale) for scale in scales)
        else:
            yield from map(measured, scales)

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

    def _choose(self, network: Network, held: list[Batch], images: list[Batch]) -> Thresholds:
        size = default_batch(network)
        with torch.no_grad():
            scores = without_output_neurons(network)
            trained = _accuracy(images, lambda x, _: predict(scores(network.check_images(x)))[0], size)
        tried = list[tuple[float, Thresholds]]()
        for thresholds in self._at(network, held, sorted(self.scales)):
            converted = with_thresholds(network, thresholds)
            accuracy = _accuracy(images, partial(self._predict, converted), size)
            if accuracy >= trained - self.tolerance:
                return thresholds
            tried.append((accuracy, thresholds))
        return max(tried, key=itemgetter(0))[1]


def scaled(thresholds: Thresholds, scale: float) -> Thresholds:
    """Thresholds multiplied by the scale, but for unity, for spikes that keep the size that they had."""
    rest = thresholds.unscaled
    result = Thresholds({name: theta if name in rest else theta * scale for name, theta in thresholds.items()})
    result.scale, result.grows, result.unscaled, result.sums = scale, True, rest, thresholds.sums
    return result


def _accuracy(batches: list[Batch], predict: Callable[[Tensor, Tensor], Tensor], size: int) -> float:
    """Share of images (with their numbers) whose predicted class is their label; so many at once."""
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None]).cpu()
    right = sum(int((predict(x, i).cpu() == labels[i]).sum()) for x, i in in_batches(batches, size))
    return right / len(labels)
