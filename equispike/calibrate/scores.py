"""Distance of scores after T steps from the trained ones, on calibration images held out from the fitting."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from equispike.batches import Batch
from equispike.graph.network import Network, without_output_neurons
from equispike.simulation.run import simulate
from equispike.simulation.task import scores_of

FITTED, HELD_OUT = 64, 128
"""Images to fit candidates on, and to compare them on, at most."""


class Halves(NamedTuple):
    """Images to fit on and images that were held out, (B, *features) each."""

    fitted: Tensor
    held_out: Tensor


def halves(held: Sequence[Batch]) -> Halves:
    """A quarter of the images held out; which ones depends on what they show, not on their order or batches.

    Of one image alone there is nothing to hold out: it is on both sides.
    """
    images = in_one_order(torch.cat([batch.images for batch in held]))
    count = min(HELD_OUT, len(images) // 4) or min(1, len(images) - 1)
    rest = images[count:]
    return Halves(rest[:FITTED], images[:count] if count else rest)


def in_one_order(images: Tensor) -> Tensor:
    """The images in an order that depends on what they show, (B, *features)."""
    digests = [hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest() for image in images]
    return images[sorted(range(len(images)), key=lambda i: digests[i])]


def with_delay(network: Network, delay: float) -> Network:
    """The network whose scores leave out that share of the steps."""
    return network.replace_ops({network.nodes[-1].name: replace(network.readout, delay=delay)})


def score_errors(network: Network, images: Tensor, timesteps: int, delays: Sequence[float]) -> list[float]:
    r"""Squared errors of the scores after T steps of constant input, relative to the trained scores.

    .. math:: \sum \| s / T - y \|^2 \big/ \sum \| y \|^2

    with the mean over the classes taken from both where there are several: it decides nothing.

    Args:
        images: (B, *features).
        delays: of the readout; an error for each, from one simulation.
    """
    totals = simulate(network, images, timesteps).totals
    with torch.no_grad():
        trained = _centred(without_output_neurons(network)(network.check_images(images)))
    size = float(trained.square().sum().clamp(min=1e-300))
    found = (scores_of(replace(network.readout, delay=delay), totals)[-1] for delay in delays)
    return [float((_centred(scores) / timesteps - trained).square().sum()) / size for scores in found]


def _centred(scores: Tensor) -> Tensor:
    scores = scores.double().flatten(1)
    return scores - scores.mean(1, keepdim=True) if scores.shape[1] > 1 else scores
