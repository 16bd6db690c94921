"""The role of a calibration method, the way of its thresholds into a network, and the error that compares methods."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from equispike.batches import Batch, Batches
from equispike.errors import CalibrationError, CalibrationWarning, warn
from equispike.functional.integrate import Reset
from equispike.graph.network import Network, without_output_neurons
from equispike.graph.ops import Add, Concat, Input, Neuron
from equispike.graph.units import change_units
from equispike.simulation.run import simulate
from equispike.simulation.task import scores_of

ReadoutKind = Literal["potential", "spikes"]
Sums = Literal["weighted", "plain"]

FITTED, HELD_OUT = 64, 128
"""Images to fit candidates on, and to compare them on, at most."""


class Thresholds(dict[str, Tensor]):
    """Threshold of each neuron layer, shape () or (C, 1, ...), in units of the layer's input current.

    Of a ReLU these are the units of its activation. A Rate Norm layer divides by the threshold that it has learnt: its
    activation is a rate, and the method undoes that by the layer's ``gain``. Ceilings (ReLU6, Rate Norm) have not cut
    them yet: that is done where they are installed.

    Attributes:
        scale: factor by which the method multiplied what it had measured; 1 for all but RMP.
        grows: spikes keep the size that was measured, threshold / scale, so that signals grow with depth.
        unscaled: layers that the method did not multiply.
        sums: how spikes of layers with different thresholds meet, see :func:`with_thresholds`.
        told: what the method chose itself, and how, for provenance.
    """

    scale: float = 1.0
    grows: bool = False
    unscaled: frozenset[str] = frozenset()
    sums: Sums = "weighted"
    told: Mapping[str, object] = MappingProxyType({})


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


def with_thresholds(network: Network, thresholds: Mapping[str, Tensor], reset: Reset = "subtract") -> Network:
    r"""The network with these thresholds, in the activation form.

    Amplitudes are :math:`a = g \theta` with the layer's :func:`gain` g, so a x rate estimates the trained activation.
    A layer with a ceiling has no threshold above it: a spike in every step is then the ceiling.

    Thresholds that were scaled after all had been measured (``grows``) leave the amplitudes as measured,
    :math:`a = g \theta / \alpha`: each layer's signal grows by :math:`1 / \alpha`. What is added to such a signal grows
    along, so that the network still computes its trained function: biases and ceilings are multiplied by the growth at
    their place, and branches that meet in a sum are brought to the larger growth. The readout is divided by it.

    With ``sums="plain"``, spikes that meet in a sum or a concatenation count the same, whatever the thresholds of their
    layers, in the unit of the first input: unit spikes and untouched weights, as Sengupta et al. (2019, section 6.1)
    have them. The network then computes its trained function only if those thresholds are equal.

    Args:
        thresholds: by layer; layers not named stay as they are (their growth counts as 1).
        reset: of the named layers.
    Raises:
        CalibrationError: a threshold is not positive and finite, or names no neuron layer; or plain sums of spikes that
            have a size per channel.
    """
    told = thresholds if isinstance(thresholds, Thresholds) else Thresholds()
    if unknown := thresholds.keys() - network.neurons.keys():
        raise CalibrationError(f"{min(unknown)}: no neuron layer has this name. Layers: {', '.join(network.neurons)}")

    def change(name: str, op: Neuron, growth: float) -> tuple[Neuron, float]:
        if name not in thresholds:
            return op, growth
        threshold = thresholds[name].to(network.device, network.dtype)
        if not bool((torch.isfinite(threshold) & (threshold > 0)).all()):
            raise CalibrationError(f"{name}: threshold {threshold.min():g} is not positive and finite")
        if op.ceiling is not None:  # in the unit of its input: what it stands for has not grown by this layer yet
            threshold = threshold.clamp(max=op.ceiling)
        growing = told.scale if told.grows and name not in told.unscaled else 1.0
        op = dataclasses.replace(op, threshold=threshold, amplitude=threshold * gain(op) / growing, reset=reset)
        return op, growth / growing

    if told.sums == "plain":
        return _plain_sums(network, change_units(network, network.input, 1.0, change, join=itemgetter(0)))
    return change_units(network, network.input, 1.0, change)


def with_delay(network: Network, delay: float) -> Network:
    """The network whose scores leave out that share of the steps."""
    return network.replace_ops({network.nodes[-1].name: dataclasses.replace(network.readout, delay=delay)})


def _plain_sums(trained: Network, network: Network) -> Network:
    """The network with sums in which the spikes of all inputs have the size of the first one's."""
    joins: dict[str, Add | Concat] = {}
    for node in trained:
        if isinstance(node.op, Add | Concat):
            first, *rest = (size_of_spikes(network, name) for name in node.inputs)
            weights = (c * first / size for c, size in zip(node.op.coefficients, (first, *rest), strict=True))
            joins[node.name] = dataclasses.replace(node.op, coefficients=tuple(weights))
    return network.replace_ops(joins)


def size_of_spikes(network: Network, name: str) -> float:
    """Amplitude of the spikes that arrive at a node, or that it sends if it is a neuron layer.

    Of a sum those of its first input, whose unit is the sum's. CalibrationError if they have a size per channel.
    """
    source = network[_source(network, name)].op
    size = source.amplitude if isinstance(source, Input | Neuron) else None
    if isinstance(size, Tensor) and size.numel() > 1:
        raise CalibrationError(
            f"{_source(network, name)}: its spikes have a size per channel, so that they are no unit for those behind "
            "it. Give one threshold per layer"
        )
    return float(size) if size is not None else 1.0


def _source(network: Network, name: str) -> str:
    """The neuron layer, or the input, whose spikes a node sends or hands on; of several inputs the first."""
    while not isinstance(network[name].op, Input | Neuron):
        name = network[name].inputs[0]
    return name


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


def substitute(network: Network, name: str, found: Mapping[str, Tensor], quantity: str) -> Tensor:
    """The threshold of a layer that no calibration image drives, with a warning: one spike of those that reach it.

    What such a layer passes on is zero in the trained network too, on these images.

    Args:
        found: thresholds of the layers before it.
        quantity: what was not above zero.
    """
    source = _source(network, network[name].inputs[0])
    op = network[source].op
    size = network.input.amplitude
    if isinstance(op, Neuron):
        size = float((found[source].clamp(0, op.ceiling) * gain(op)).max())
    warn(
        f"{name}: its largest {quantity} on the calibration images is not above zero. Its threshold is now the size of "
        f"a spike that reaches it, {size:g}. Use more images, or check that they are preprocessed as in training",
        CalibrationWarning,
    )
    threshold = size / float(torch.as_tensor(gain(network.neurons[name])).max())
    return torch.tensor(threshold, dtype=network.dtype, device=network.device)


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
    found = (scores_of(dataclasses.replace(network.readout, delay=delay), totals)[-1] for delay in delays)
    return [float((_centred(scores) / timesteps - trained).square().sum()) / size for scores in found]


def _centred(scores: Tensor) -> Tensor:
    scores = scores.double().flatten(1)
    return scores - scores.mean(1, keepdim=True) if scores.shape[1] > 1 else scores
