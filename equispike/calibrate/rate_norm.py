"""Thresholds that a network has learnt in its training (Ding 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from equispike.batches import Batches, hold
from equispike.calibrate.method import ReadoutKind, Thresholds, substitute
from equispike.errors import CalibrationError
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Maximum
from equispike.graph.network import Network, values_of


@dataclass(frozen=True)
class RateNorm:
    r"""Rate Norm (Ding et al., 2021, theorem 1): each layer keeps the threshold it was trained with, and its weights.

    .. math:: \theta_l = p_l \, r_{max,l}

    For networks whose activations are ``nn.RateNorm`` layers; spikes have size 1. Output neurons (readout "spikes") are
    no part of such a network: their threshold is their largest current on the calibration images, which are otherwise
    not looked at.
    """

    reset: Reset = "subtract"
    readout: ReadoutKind = "potential"

    def __str__(self) -> str:
        return "RateNorm()"

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer. CalibrationError names a layer that is a plain ReLU."""
        output = network.nodes[-1].inputs[0]
        thresholds = Thresholds()
        for name, op in network.neurons.items():
            if op.threshold is not None:
                thresholds[name] = op.threshold
            elif name == output:
                largest = _largest_current(network, name, batches)
                thresholds[name] = largest if largest > 0 else substitute(network, name, thresholds, "current")
            else:
                raise CalibrationError(
                    f"{name} (ReLU): has no threshold from training. Train the model with equispike.nn.RateNorm in "
                    "place of every ReLU (nn.with_rate_norm does this), or convert with es.DataNorm()"
                )
        return thresholds


def _largest_current(network: Network, name: str, batches: Batches) -> Tensor:
    statistic, source = Maximum(), network[name].inputs[0]
    state = statistic.init(network.device)
    with torch.no_grad():
        for batch in hold(batches, network.input.shape):
            for _, current in values_of(network, network.check_images(batch.images), {source}):
                state = statistic.update(state, current)
    return statistic.value(state)
