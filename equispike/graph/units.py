"""Units in which the layers of a network count: passes that change them, and no spike.

``rescale`` changes the form of a network; ``fold_amplitudes`` gives unit spikes, ``fold_thresholds`` one threshold per
layer. On dyadic numbers nothing changes at all; on others, results agree to rounding.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from equispike.errors import ConversionError
from equispike.graph.fold import fold_affine
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Affine, AvgPool, Input, Neuron, Op, Sum
from equispike.graph.walk import in_unit, interpret

Form = Literal["activation", "balanced"]


def rescale(network: Network, form: Form) -> Network:
    r"""The same network, spike for spike, in another form (threshold balancing and weight normalisation are one).

    Every layer may count in a unit of its own: multiplying a layer's amplitude by c, and everything downstream that is
    added to its spikes (biases, thresholds) by c too, changes no spike.

    - "balanced": unit spikes. Thresholds are in units of the weighted spike input, as the papers print them.
    - "activation": a = theta, so that a x rate estimates the trained ReLU and biases stay as trained.

    Raises:
        ConversionError: the network is not calibrated, or a layer has an amplitude per channel, for which no common
            unit exists (use :func:`fold_amplitudes`).
    """

    def change(name: str, op: Neuron, unit: float) -> tuple[Neuron, float]:
        threshold, amplitude = calibrated(name, op)
        reference = amplitude if form == "balanced" else amplitude / threshold / unit
        if reference.numel() > 1 and bool((reference != reference.flatten()[0]).any()):
            raise ConversionError(
                f"{name}: has an amplitude per channel, which no unit of the layer makes equal. "
                "Use exact.fold_amplitudes, or calibrate with one threshold per layer"
            )
        factor = 1 / float(reference.flatten()[0])
        if form == "activation":  # taken over, not computed: equal to the last bit
            return dataclasses.replace(op, threshold=threshold * unit, amplitude=threshold * unit), factor
        return dataclasses.replace(op, threshold=threshold * unit, amplitude=torch.ones_like(amplitude)), factor

    amplitude = 1.0 if form == "balanced" else network.input.scale
    entrance = dataclasses.replace(network.input, amplitude=amplitude)
    # sums count in the unit of their first input: its coefficient stays, so that the way back finds the same units
    return change_units(network, entrance, amplitude / network.input.amplitude, change, join=itemgetter(0))


def change_units(
    network: Network,
    entrance: Input,
    unit: float,
    change: Callable[[str, Neuron, float], tuple[Neuron, float]],
    join: Callable[[list[float]], float] = max,
    pool: Callable[[str, AvgPool, float], tuple[Op, float]] = lambda _, op, unit: (op, unit),
) -> Network:
    """Let every layer count in a new unit, and carry the units through to the readout.

    Args:
        entrance: the new input operation.
        unit: factor by which it multiplies what the network's values mean: new value = old value x unit.
        change: (name, neuron layer, unit of its input) -> (new layer, unit of its output).
        join: unit of a sum or concatenation, from those of its inputs.
        pool: as ``change``, for average pools; by default they stay.
    """
    ops: dict[str, Op] = {}

    def enter(node: Node, op: Input) -> float:
        ops[node.name] = entrance
        return unit

    def fire(node: Node, op: Neuron, incoming: float) -> float:
        ops[node.name], own = change(node.name, _driven_in_unit(op, incoming), incoming)
        return own

    def through(node: Node, incoming: Sequence[float]) -> float:
        op, own = node.op, incoming[0]
        if isinstance(op, Sum):
            own = join(list(incoming))
            op = dataclasses.replace(op, coefficients=tuple(c * (own / u) for c, u in zip(op.coefficients, incoming)))
        elif isinstance(op, AvgPool):
            op, own = pool(node.name, op, own)
        else:
            op = in_unit(op, own)
        ops[node.name] = op
        return own

    for _ in interpret(network.nodes, enter, fire, through):
        pass
    return network.replace_ops(ops)


def fold_amplitudes(network: Network) -> Network:
    """Unit spikes with thresholds unchanged: amplitudes go into the weights that the spikes meet, per channel too.

    Where spikes meet no weights (an identity shortcut), the sum is weighted, or a depthwise 1x1 convolution added.
    The input's amplitude is folded as well, so that an input spike is 1.
    """
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in network.nodes:
        op = node.op
        node = dataclasses.replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        scale = None
        channels = network.shapes[node.name][0]
        if isinstance(op, Neuron):
            amplitude = calibrated(node.name, op)[1]
            if bool((amplitude != 1).any()):
                scale = amplitude.flatten().expand(channels).clone()
                node = dataclasses.replace(node, op=dataclasses.replace(op, amplitude=torch.ones_like(amplitude)))
        elif isinstance(op, Input) and op.amplitude != 1.0:
            scale = torch.full((channels,), op.amplitude, dtype=network.dtype, device=network.device)
            node = dataclasses.replace(node, op=dataclasses.replace(op, amplitude=1.0))
        nodes.append(node)
        if scale is not None:
            renamed[node.name] = network.free(f"{node.name}.amplitude")
            nodes.append(Node(renamed[node.name], Affine(scale, torch.zeros_like(scale)), (node.name,)))
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


def fold_thresholds(network: Network) -> Network:
    r"""One threshold per layer: those per channel go into the weights that drive the channel, with the bias.

    Threshold and current are multiplied by :math:`\max_c \theta_c / \theta_c`, which moves no spike but by rounding.
    Where no weights drive the layer alone (a sum), a depthwise 1x1 convolution is added.

    Raises:
        ConversionError: the network is not calibrated, or a layer with thresholds per channel has a ceiling.
    """
    return _with_thresholds(network, torch.max)


def sum_pools(network: Network) -> Network:
    """Average pools as depthwise convolutions with weights of one; whoever reads them counts in the unit of the sum.

    Raises:
        ConversionError: the windows of a pool differ in size.
    """

    def change(name: str, op: Neuron, unit: float) -> tuple[Neuron, float]:
        return dataclasses.replace(op, threshold=calibrated(name, op)[0] * unit), 1.0

    def pool(name: str, op: AvgPool, unit: float) -> tuple[Op, float]:
        channels, *space = network.shapes[network[name].inputs[0]]
        size = math.prod(op.kernel)
        if op.sizes(tuple(space)) != {size}:
            raise ConversionError(f"{name} (AvgPool): its windows differ in size. Train without padding in the pool")
        return op.sums(channels, network.dtype, network.device), unit * size

    return change_units(network, network.input, 1.0, change, pool=pool)


def fold_drives(network: Network) -> Network:
    """Constant drives as biases of the layers in front, so that neurons have none; the trained function changes.

    Where no weights drive the layer alone (a sum), a depthwise 1x1 convolution is added.

    Raises:
        ConversionError: a drive changes from step to step.
    """
    nodes: list[Node] = []
    for node in network.nodes:
        if isinstance(node.op, Neuron) and node.op.drive is not None:
            if len(node.op.drive) > 1:
                raise ConversionError(f"{node.name}: its drive changes from step to step, and a bias does not")
            shift = node.op.drive[0]
            nodes.append(_in_front(network, node, "drive", Affine(torch.ones_like(shift), shift)))
            node = Node(node.name, dataclasses.replace(node.op, drive=None), (nodes[-1].name,))
        nodes.append(node)
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


def mixing_as_layer(network: Network) -> Network:
    """The correction of scores as a layer in front of the readout, which has none; the trained function changes."""
    if network.readout.mixing is None:
        return network
    *before, last = network.nodes
    layer = Node(network.free(f"{last.name}.mix"), network.readout.mixing, last.inputs)
    readout = dataclasses.replace(
        last, op=dataclasses.replace(network.readout, mix=None, shift=None), inputs=(layer.name,)
    )
    return dataclasses.replace(network, nodes=(*before, layer, readout))


def normalise_weights(network: Network) -> Network:
    r"""Thresholds of 1, spike for spike: weights and biases are divided by the thresholds (Sengupta et al., 2019).

    .. math:: w' = \frac{a_{in}}{\theta} w, \qquad b' = \frac{b}{\theta}, \qquad \theta' = 1, \qquad a' = 1

    This is weight normalisation (Diehl et al., 2015), the other side of threshold balancing: spikes of size 1 drive
    neurons that all fire at 1. Where no weights drive a layer alone (a sum), a depthwise 1x1 convolution is added.

    Raises:
        ConversionError: the network is not calibrated.
    """
    return _with_thresholds(fold_amplitudes(network), torch.ones_like)


def _with_thresholds(network: Network, wanted: Callable[[Tensor], Tensor]) -> Network:
    """Other thresholds, spike for spike: what drives a channel is multiplied as its threshold is."""
    nodes: list[Node] = []
    for node in network.nodes:
        op = node.op
        if isinstance(op, Neuron):
            threshold = calibrated(node.name, op)[0]
            other = wanted(threshold)
            if bool((threshold != other).any()):
                scale = (other / threshold).flatten().expand(network.shapes[node.name][0])
                nodes.append(_in_front(network, node, "threshold", Affine(scale, torch.zeros_like(scale))))
                node = dataclasses.replace(node, inputs=(nodes[-1].name,))
                ceiling = None if op.ceiling is None else _one(node.name, op.ceiling / threshold * other)
                op = dataclasses.replace(_in_channel_units(op, scale, network.shapes[node.name]), ceiling=ceiling)
            node = dataclasses.replace(node, op=dataclasses.replace(op, threshold=other))
        nodes.append(node)
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


def _in_front(network: Network, node: Node, what: str, op: Affine) -> Node:
    """A node that reads what this one reads."""
    return Node(network.free(f"{node.name}.{what}"), op, node.inputs)


def _one(name: str, ceiling: Tensor) -> float:
    """A ceiling that is one for the layer; ConversionError if thresholds per channel make it differ."""
    if bool((ceiling == ceiling.flatten()[0]).all()):
        return float(ceiling.flatten()[0])
    raise ConversionError(
        f"{name}: a clipped ReLU with a threshold per channel cannot have one for the layer. "
        "Calibrate with one threshold per layer"
    )


def _driven_in_unit(op: Neuron, unit: float) -> Neuron:
    """Neurons whose ceiling, drive and potentials count in another unit; thresholds stay."""
    return dataclasses.replace(
        op,
        ceiling=None if op.ceiling is None else op.ceiling * unit,
        drive=None if op.drive is None else op.drive * unit,
        v_init=op.v_init * unit if isinstance(op.v_init, Tensor) else op.v_init,
    )


def _in_channel_units(op: Neuron, units: Tensor, shape: tuple[int, ...]) -> Neuron:
    """Neurons of a layer of this shape whose drive and potentials count in a unit of each channel, (C,)."""
    drive = None if op.drive is None else op.drive * units
    along = units.view(-1, *(1 for _ in shape[1:]))
    return dataclasses.replace(
        op, drive=drive, v_init=op.v_init * along if isinstance(op.v_init, Tensor) else op.v_init
    )
