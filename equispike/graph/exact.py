"""Passes that keep the network's function: each takes a Network and returns a new one.

``fold_affine`` removes batch norm; ``rescale`` changes the units in which layers count; ``fold_amplitudes`` gives unit
spikes. On dyadic numbers nothing changes at all; on others, results agree to rounding. ``quantize`` does that rounding
once, for good: behind it arithmetic is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.errors import ConversionError
from equispike.graph.grid import sum_bits, to_grid
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Op, Pad, Readout

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
    units: dict[str, float] = {}
    ops: dict[str, Op] = {}
    for node in network.nodes:
        op, incoming = node.op, [units[name] for name in node.inputs]
        if isinstance(op, Input):
            ops[node.name], units[node.name] = entrance, unit
        elif isinstance(op, Add | Concat):
            units[node.name] = common = join(incoming)
            weights = (c * (common / u) for c, u in zip(op.coefficients, incoming, strict=True))
            ops[node.name] = dataclasses.replace(op, coefficients=tuple(weights))
        elif isinstance(op, Neuron):
            ops[node.name], units[node.name] = change(node.name, _driven_in_unit(op, incoming[0]), incoming[0])
        elif isinstance(op, AvgPool):
            ops[node.name], units[node.name] = pool(node.name, op, incoming[0])
        else:
            units[node.name] = incoming[0]
            ops[node.name] = _in_unit(op, incoming[0])
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
            renamed[node.name] = f"{node.name}.amplitude"
            nodes.append(Node(renamed[node.name], Affine(scale, torch.zeros_like(scale)), (node.name,)))
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


def fold_thresholds(network: Network) -> Network:
    r"""One threshold per layer: those per channel go into the weights that drive the channel, with the bias.

    Threshold and current are multiplied by :math:`\max_c \theta_c / \theta_c`, which moves no spike but by rounding.
    Where no weights drive the layer alone (a sum), a depthwise 1x1 convolution is added.

    Raises:
        ConversionError: the network is not calibrated, or a layer with thresholds per channel has a ceiling.
    """
    nodes: list[Node] = []
    for node in network.nodes:
        op = node.op
        if isinstance(op, Neuron):
            threshold = calibrated(node.name, op)[0].flatten()
            largest = threshold.max()
            if bool((threshold != largest).any()):
                if op.ceiling is not None:
                    raise ConversionError(
                        f"{node.name}: a clipped ReLU with a threshold per channel cannot have one for the layer. "
                        "Calibrate with one threshold per layer"
                    )
                scale = largest / threshold
                nodes.append(Node(f"{node.name}.threshold", Affine(scale, torch.zeros_like(scale)), node.inputs))
                op = _in_channel_units(op, scale, network.shapes[node.name])
                node = dataclasses.replace(node, inputs=(nodes[-1].name,))
            node = dataclasses.replace(node, op=dataclasses.replace(op, threshold=largest))
        nodes.append(node)
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


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


def fold_affine(network: Network) -> Network:
    """Fold every per-channel affine map (batch norm in eval mode) into the weights next to it.

    Backward into the convolution or linear layer that feeds it alone; else forward into what reads it, across average
    pools, flattening and padding, where that is exact (a shift does not cross zeros in space); else it becomes a
    depthwise 1x1 convolution (on vectors, a diagonal linear layer), which is a weighted current like any other.
    """
    while affine := next((node for node in network.nodes if isinstance(node.op, Affine)), None):
        network = _fold_backward(network, affine) or _fold_forward(network, affine)
    return network


def check_bits(bits: int) -> None:
    """ConversionError for a number of bits that :func:`quantize` does not take."""
    if not 4 <= bits <= 16:
        raise ConversionError(f"bits: {bits} is not between 4 and 16. 12 keep the accuracy of most networks")


def quantize(network: Network, bits: int = 12, timesteps: int = 1, per_channel: bool = True) -> Network:
    r"""The network on integer grids, where every engine gives the same spikes and scores to the last bit.

    Spikes get size 1 (:func:`fold_amplitudes`). With :math:`2^{k-1} \le \max |w| < 2^k` over a channel whose currents
    neurons alone read, else over the layer, :math:`e = b - 1 - k` and b bits,

    .. math:: w' = \mathrm{round}(2^e w), \quad |w'| < 2^{b-1}, \qquad \beta' = \mathrm{round}(2^e \beta), \qquad
        \theta' \approx 2^e \theta

    The factors go into the thresholds, the weights of sums (integers too) and the scale of the readout, so that they
    move no spike; only rounding does. Thresholds are integers, or keep b bits where they would be small ones; average
    pools of a power of two elements stay, others become sums whose divisor goes into what reads them. Images are
    rounded to 1/256 of the power of two at or above the largest pixel of the calibration, and saturate at that pixel;
    a fixed initial potential becomes a multiple of 1/16 of the threshold. A network that is on such grids already
    keeps every spike.

    All sums of one step are then exact in any order. That is proved from the numbers (``grid.sum_bits``) and decides
    the type: float32 where 24 bits hold every sum, else float64.

    Args:
        network: calibrated.
        bits: of a weight with its sign, 4 to 16.
        timesteps: steps T for which potentials are proved exact too, whatever the spikes; that often takes float64.
            Past it, potentials of more than 2**24 grid steps, thousands of thresholds from firing, could be rounded.
        per_channel: channels have grids of their own, which is finer. False gives one threshold per layer
            (:func:`fold_thresholds`), which many tools and chips need.
    Raises:
        ConversionError: bits out of range, no thresholds, an average pool of windows that differ in size, or sums that
            not even float64 holds.
    """
    check_bits(bits)
    unit = fold_amplitudes(network.to(torch.float64))
    rounded = to_grid(unit if per_channel else fold_thresholds(unit), bits, per_channel)
    needed = sum_bits(rounded, timesteps)
    worst = max(needed, key=lambda name: needed[name])
    if needed[worst] > 53:
        raise ConversionError(
            f"{worst} ({type(rounded[worst].op).__name__}): its sums need {needed[worst]} bits over {timesteps} steps, "
            "and float64 holds 53. Give fewer bits or timesteps"
        )
    # every engine adds up scores in float64, whatever the type of the network
    dtype = torch.float32 if max(n for name, n in needed.items() if name != rounded.nodes[-1].name) <= 24 else None
    provenance = {**network.provenance, "quantized": {"bits": bits, "timesteps": timesteps, "sum_bits": needed}}
    return dataclasses.replace(rounded.to(dtype or torch.float64), provenance=provenance)


def calibrated(name: str, op: Neuron) -> tuple[Tensor, Tensor]:
    """Threshold and amplitude of a neuron layer; ConversionError if it has none yet."""
    if op.threshold is None or op.amplitude is None:
        raise ConversionError(f"{name}: has no threshold yet. Calibrate first: es.convert(model, batches, method=...)")
    return op.threshold, op.amplitude


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
            nodes.append(Node(f"{node.name}.drive", Affine(torch.ones_like(shift), shift), node.inputs))
            node = Node(node.name, dataclasses.replace(node.op, drive=None), (nodes[-1].name,))
        nodes.append(node)
    return fold_affine(dataclasses.replace(network, nodes=tuple(nodes)))


def _in_unit(op: Op, unit: float) -> Op:
    if isinstance(op, Conv | Linear) and op.bias is not None:
        return dataclasses.replace(op, bias=op.bias * unit)
    if isinstance(op, Affine):
        return dataclasses.replace(op, shift=op.shift * unit)
    return dataclasses.replace(op, scale=op.scale / unit) if isinstance(op, Readout) else op


def _fold_backward(network: Network, node: Node) -> Network | None:
    affine, before = node.op, network[node.inputs[0]]
    assert isinstance(affine, Affine)
    if len(network.consumers[before.name]) > 1:
        return None
    if isinstance(before.op, Conv | Linear):
        op = before.op
        weight = op.weight * affine.scale.view(-1, *(1,) * (op.weight.ndim - 1))
        bias = affine.shift if op.bias is None else op.bias * affine.scale + affine.shift
        bias = None if op.bias is None and not bool(affine.shift.any()) else bias
        merged: Op = dataclasses.replace(op, weight=weight, bias=bias)
    elif isinstance(before.op, Affine):
        merged = Affine(before.op.scale * affine.scale, before.op.shift * affine.scale + affine.shift)
    else:
        return None
    return _rewire(network.replace_ops({before.name: merged}), {node.name: before.name})


def _fold_forward(network: Network, node: Node) -> Network:
    """Give the affine map to each node that reads it; if one cannot take it, make it a weighted current for those."""
    affine = node.op
    assert isinstance(affine, Affine)
    source, ops, behind = node.inputs[0], dict[str, Op](), dict[str, Affine]()
    readers = network.consumers[node.name]
    for reader in readers:
        op = reader.op
        if (moved := _behind(op, affine, network.shapes[node.name])) is not None:
            behind[reader.name] = moved
        elif (taken := _take(op, [name == node.name for name in reader.inputs], affine)) is not None:
            ops[reader.name] = taken
    left = [reader for reader in readers if reader.name not in ops and reader.name not in behind]
    nodes: list[Node] = []
    names = {reader.name: f"{reader.name}.affine" for reader in readers if reader.name in behind}
    for old in network.nodes:
        inputs = tuple(names.get(name, name) for name in old.inputs)
        if old.name in ops or old.name in behind:
            inputs = tuple(source if name == node.name else name for name in inputs)
        if old is node:
            if left:
                nodes.append(Node(node.name, _as_weights(affine, network.shapes[node.name]), inputs))
            continue
        nodes.append(Node(old.name, ops.get(old.name, old.op), inputs))
        if old.name in behind:
            nodes.append(Node(names[old.name], behind[old.name], (old.name,)))
    return dataclasses.replace(network, nodes=tuple(nodes))


def _take(op: Op, mine: list[bool], affine: Affine) -> Op | None:
    """The operation with the affine map of its inputs (those that are ``mine``) absorbed, or None if it cannot be."""
    shifts = bool(affine.shift.any())
    if isinstance(op, Conv) and (not shifts or not any(op.padding)):
        scale, shift = (_per_group(t, op) for t in (affine.scale, affine.shift))
        return _absorbed(op, op.weight * scale, (op.weight * shift).flatten(1).sum(1), shifts)
    if isinstance(op, Linear):
        return _absorbed(op, op.weight * affine.scale, op.weight @ affine.shift, shifts)
    if shifts or bool((affine.scale != affine.scale[0]).any()):
        return None
    factor = float(affine.scale[0])
    if isinstance(op, Readout):
        return Readout(op.scale * factor)
    if isinstance(op, Add | Concat):
        weights = (c * factor if m else c for c, m in zip(op.coefficients, mine, strict=True))
        return dataclasses.replace(op, coefficients=tuple(weights))
    return None


def _absorbed(op: Conv | Linear, weight: Tensor, added: Tensor, shifts: bool) -> Conv | Linear:
    bias = op.bias if not shifts else added if op.bias is None else op.bias + added
    return dataclasses.replace(op, weight=weight, bias=bias)


def _per_group(values: Tensor, op: Conv) -> Tensor:
    """Values per input channel, laid along the weight: (out, in / groups, 1, ...)."""
    out = op.weight.shape[0]
    grouped = values.view(op.groups, 1, -1).expand(op.groups, out // op.groups, -1)
    return grouped.reshape(out, -1, *(1,) * (op.weight.ndim - 2))


def _behind(op: Op, affine: Affine, shape: tuple[int, ...]) -> Affine | None:
    """The affine map that does behind the operation what this one, on features of this shape, does in front of it."""
    if isinstance(op, AvgPool):
        moved, zeros_between = affine, any(op.padding) and op.count_include_pad
    elif isinstance(op, Flatten):
        positions = math.prod(shape[1:])
        moved = Affine(affine.scale.repeat_interleave(positions), affine.shift.repeat_interleave(positions))
        zeros_between = False
    elif isinstance(op, Pad) and not any(op.between[:1]):
        ends = op.before[0], op.after[0]  # zeros that are channels of their own may be multiplied by anything
        moved = Affine(F.pad(affine.scale, ends, value=float(affine.scale[0])), F.pad(affine.shift, ends))
        zeros_between = any(n > 0 for n in op.before[1:] + op.after[1:] + op.between[1:])
    else:
        return None
    return None if zeros_between and bool(affine.shift.any()) else moved


def _as_weights(affine: Affine, shape: tuple[int, ...]) -> Conv | Linear:
    bias = affine.shift if bool(affine.shift.any()) else None
    space = len(shape) - 1
    if not space:
        return Linear(torch.diag(affine.scale), bias)
    ones, zeros = (1,) * space, (0,) * space
    return Conv(affine.scale.view(-1, 1, *ones), bias, ones, zeros, ones, groups=shape[0])


def _rewire(network: Network, renamed: Mapping[str, str]) -> Network:
    """Drop the nodes that are keys; whoever read them reads the nodes named by the values."""
    kept = (node for node in network.nodes if node.name not in renamed)
    nodes = (dataclasses.replace(n, inputs=tuple(renamed.get(name, name) for name in n.inputs)) for n in kept)
    return dataclasses.replace(network, nodes=tuple(nodes))
