"""What a calibration method is, and how its thresholds are put into a network."""

import dataclasses
from typing import Literal, Protocol

import torch
from torch import Tensor

from equispike.batches import Batches
from equispike.errors import CalibrationError
from equispike.functional.integrate import Reset
from equispike.graph.exact import change_units
from equispike.graph.network import Network
from equispike.graph.ops import Neuron

ReadoutKind = Literal["potential", "spikes"]


class Thresholds(dict[str, Tensor]):
    """Threshold of each neuron layer, shape () or (C, 1, ...), in units of the layer's input current.

    Of a ReLU these are the units of its activation. A Rate Norm layer divides by the threshold that it has learnt: its
    activation is a rate, and the method undoes that by the layer's ``gain``.

    Attributes:
        scale: threshold / amplitude: 1, or the factor by which RMP lowers thresholds below the calibrated amplitude.
    """

    scale: float = 1.0


class Method(Protocol):
    """A way to set thresholds. Variants are frozen dataclasses."""

    @property
    def reset(self) -> Reset:
        """The reset for which the thresholds are meant: "subtract" (soft) or "zero" (hard)."""
        ...

    @property
    def readout(self) -> ReadoutKind:
        """The readout of the method's paper: "potential", or "spikes" of an output neuron layer."""
        ...

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds of all neuron layers of a traced, folded network."""
        ...


def with_thresholds(network: Network, thresholds: dict[str, Tensor], reset: Reset = "subtract") -> Network:
    r"""The network with these thresholds, in the activation form.

    Amplitudes are :math:`a = g \theta` / scale with the layer's :func:`gain` g, so with scale 1 a x rate estimates the
    trained activation. RMP's scale
    leaves a as calibrated and lowers theta: each layer's signal grows by 1 / scale, and faster rates pass through the
    depth of the network (Han et al., 2020, section 4.1). What is added to such a signal grows along, so that the
    network still computes its trained function: biases are multiplied by the growth at their place, and branches that
    meet in a sum are brought to the larger growth. The readout is divided by it.

    Args:
        thresholds: by layer; layers not named stay as they are (their growth counts as 1).
        reset: of the named layers.
    Raises:
        CalibrationError: a threshold is not positive and finite, or names no neuron layer.
    """
    scale = thresholds.scale if isinstance(thresholds, Thresholds) else 1.0
    if unknown := thresholds.keys() - network.neurons.keys():
        raise CalibrationError(f"{min(unknown)}: no neuron layer has this name. Layers: {', '.join(network.neurons)}")

    def change(name: str, op: Neuron, growth: float) -> tuple[Neuron, float]:
        if name not in thresholds:
            return op, growth
        threshold = thresholds[name].to(network.device, network.dtype)
        if not bool((torch.isfinite(threshold) & (threshold > 0)).all()):
            raise CalibrationError(f"{name}: threshold {threshold.min():g} is not positive and finite")
        if op.ceiling is not None:  # a rate of one spike per step is the ceiling of a clipped ReLU
            threshold = threshold.clamp(max=op.ceiling / growth * scale)
        op = dataclasses.replace(op, threshold=threshold, amplitude=threshold * gain(op) / scale, reset=reset)
        return op, growth / scale

    return change_units(network, network.input, 1.0, change)


def gain(op: Neuron) -> Tensor | float:
    r"""The slope of a layer's trained activation, :math:`a / \theta`, shape () or (C, 1, ...).

    It is 1 for a ReLU, and one over its threshold for a Rate Norm layer.
    """
    if op.threshold is None or op.amplitude is None:
        return 1.0
    slope = op.amplitude / op.threshold
    first = slope.flatten()[0]
    return first if bool((slope == first).all()) else slope


def to_layer(network: Network, name: str, value: Tensor) -> Tensor:
    """A scalar or per-channel value, () or (C,), shaped so that it broadcasts over the layer's features."""
    value = value.to(network.device, network.dtype)
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (len(network.shapes[name]) - 1))


def silent(name: str, quantity: str) -> CalibrationError:
    """The error for a layer that no calibration image drives."""
    return CalibrationError(
        f"{name}: its largest {quantity} on the calibration images is not above zero, so no threshold follows. "
        "Use more images, check that they are preprocessed as in training, or raise the percentile if there is one"
    )
