"""Thresholds that round activations best to T steps, of SNN Calibration (Li et al., 2021): a row to compare with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import equispike as es
from equispike.batches import Batches, hold
from equispike.calibrate.method import ReadoutKind, Thresholds, gain, to_layer
from equispike.functional.integrate import Reset
from equispike.graph.network import values_of

GRID = 60
"""Thresholds that are tried for each channel: equal parts of its largest activation."""


def by_channel(network: es.Network, found: Mapping[str, Tensor]) -> Thresholds:
    """Thresholds by layer from those of each channel, (C,), in units of the activation; 0 takes the layer's largest."""
    thresholds = Thresholds()
    for name, theta in found.items():
        largest = theta.max().clamp(min=torch.finfo(theta.dtype).tiny)
        thresholds[name] = to_layer(network, name, theta.where(theta > 0, largest)) / gain(network.neurons[name])
    return thresholds


@dataclass(frozen=True)
class NearestSteps:
    r"""The threshold of each channel with the smallest squared error of what T steps make of its activation.

    .. math:: \theta_c = \arg\min_\theta \sum (q(A_c) - A_c)^2, \qquad
              q(x) = \frac{\theta}{T} \operatorname{clip}(\lfloor x T / \theta + 1/2 \rfloor, 0, T)
    """

    timesteps: int
    reset: Reset = "subtract"
    readout: ReadoutKind = "potential"

    def __str__(self) -> str:
        return f"NearestSteps(timesteps={self.timesteps})"

    def __call__(self, network: es.Network, batches: Batches) -> Thresholds:
        """Thresholds by layer; a channel without activity takes the layer's largest."""
        images = torch.cat([batch.images for batch in hold(batches, network.input.shape)])
        with torch.no_grad():
            values = values_of(network, network.check_images(images), set(network.neurons))
            return by_channel(network, {n: self.nearest(value.movedim(1, 0).flatten(1)) for n, value in values})

    def nearest(self, activations: Tensor) -> Tensor:
        """The threshold of each channel, (C,); 0 where nothing is active.

        Args:
            activations: (C, n).
        """
        largest, steps = activations.amax(1), self.timesteps
        best, smallest = largest.clone(), torch.full_like(largest, torch.inf)
        for part in range(GRID, 0, -1):
            theta = (largest * part / GRID).clamp(min=torch.finfo(largest.dtype).tiny)[:, None]
            rounded = (activations * (steps / theta) + 0.5).floor_().clamp_(0, steps).mul_(theta / steps)
            error = rounded.sub_(activations).square_().sum(1)
            better = error < smallest
            best, smallest = best.where(~better, theta[:, 0]), smallest.where(~better, error)
        return best.where(largest > 0, 0.0)
