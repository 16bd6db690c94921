"""Thresholds that grow by what they cut off, batch after batch, of Bu et al. (2025): a row to compare with."""

from dataclasses import dataclass

import torch

import equispike as es
from equispike.batches import Batches, hold
from equispike.calibrate.method import ReadoutKind, Thresholds
from equispike.functional.integrate import Reset
from equispike.graph.network import values_of
from experiments.nearest_steps import by_channel

BATCH = 5
"""Images in a batch: some hundred batches of 512 images, as many as the authors' thresholds need to settle."""


@dataclass(frozen=True)
class LocalThresholdBalancing:
    r"""The threshold of each channel after one pass over the images, which begins at zero.

    .. math:: \theta_c \leftarrow \theta_c + 2 \, \overline{\max(A_c - \theta_c, 0)}

    with the mean over images and space of each batch: one step of gradient descent on the squared error of what the
    threshold cuts off, at a rate of 1. The order of the images counts.
    """

    reset: Reset = "subtract"
    readout: ReadoutKind = "potential"

    def __str__(self) -> str:
        return "LocalThresholdBalancing()"

    def __call__(self, network: es.Network, batches: Batches) -> Thresholds:
        """Thresholds by layer; a channel without activity takes the layer's largest."""
        images = torch.cat([batch.images for batch in hold(batches, network.input.shape)])
        found: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for some in images.split(BATCH):
                for name, value in values_of(network, network.check_images(some), set(network.neurons)):
                    own = value.movedim(1, 0).flatten(1)
                    theta = found.get(name, own.new_zeros(len(own)))
                    found[name] = theta + 2 * (own - theta[:, None]).clamp(min=0).mean(1)
        return by_channel(network, found)
