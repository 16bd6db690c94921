"""A network in the few operations that tool chains for spiking hardware know; its spikes stay.

What is left: convolutions without groups whose kernels are squares, linear layers, sums with coefficient 1, neurons
with spikes of size 1. A pool becomes a sum over its windows; padding, slices, concatenation and weighted sums become
convolutions with a single entry per channel. On a quantized network all of that is exact.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from equispike.errors import ConversionError
from equispike.graph import ops
from equispike.graph.linear import spread
from equispike.graph.network import Network, Node, calibrated, not_spiking
from equispike.graph.ops import Add, Concat, Conv, Flatten, Input, Linear, Neuron, Op, Pad, Readout, Sparse, WinnerPool
from equispike.graph.units import fold_amplitudes, fold_drives, fold_thresholds, mixing_as_layer, sum_pools

Profile = Literal["portable", "compact"]


def lower(network: Network, profile: Profile) -> tuple[Network, list[str]]:
    """The network in those operations, and notes on what grew or became inexact.

    Args:
        network: converted.
        profile: "portable": linear layers behind convolutions are convolutions too, and every layer has one threshold;
            "compact": sums over windows, flattening, linear layers and thresholds per channel stay.
    Raises:
        ConversionError: an operation that has no such form.
    """
    for name, op in network.neurons.items():
        if op.signed or isinstance(op.v_init, Tensor) or (op.drive is not None and len(op.drive) > 1):
            reason, instead = (
                ("signed spikes", "with spikes='binary'")
                if op.signed
                else ("potentials per channel", "without Potential")
                if isinstance(op.v_init, Tensor)
                else ("a drive by step", "with Bias in the place of StepBias")
            )
            raise ConversionError(
                f"{name}: NIR cannot state {reason}; ONNX and torch files can. Write one, or convert {instead}"
            )
    network, notes = _without_moves(fold_drives(mixing_as_layer(network)))
    if network.input.step is None:  # a network on integer grids has spikes of size 1 already
        network = fold_amplitudes(network)
    # spikes do not depend on the ceiling of the trained activation: thresholds are below it already
    network = network.replace_ops({name: dataclasses.replace(op, ceiling=None) for name, op in network.neurons.items()})
    network = sum_pools(network)
    if profile == "portable" and any(bool((t != t.max()).any()) for t in network.thresholds.values()):
        network = fold_thresholds(network)
        if network.input.step is not None:
            notes.append(
                "thresholds per channel went into the weights, which are off their integer grid now: sums are rounded. "
                "Quantize with per_channel=False"
            )
    builder = _Builder(network, profile)
    for node in network.nodes:
        builder.add(node)
    if builder.expanded:
        first, more = ", ".join(builder.expanded[:3]), len(builder.expanded) - 3
        notes.append(
            "convolutions in groups, or of each channel alone, were written with zeros between the channels: "
            + (f"{first} and {more} more" if more > 0 else first)
        )
    return Network(tuple(builder.nodes), network.provenance), notes


def is_sum_pool(op: Op) -> bool:
    """Tell a convolution that adds up the windows of each channel: what ``lower`` leaves of pools in "compact"."""
    return (
        isinstance(op, Conv)
        and op.weight.ndim == 4
        and op.weight.shape[0] == op.groups > 1
        and op.bias is None
        and not any(op.padding)
        and all(d == 1 for d in op.dilation)
        and bool((op.weight == 1).all())
    )


@dataclass
class _Builder:
    """The lowered network as it grows.

    Attributes:
        names: where the value of each old node is now.
        spread: old nodes whose vectors live as maps of one pixel, and the dimensions of space of these.
        expanded: convolutions that lost their groups.
    """

    network: Network
    profile: Profile
    nodes: list[Node] = field(default_factory=list[Node])
    names: dict[str, str] = field(default_factory=dict[str, str])
    spread: dict[str, int] = field(default_factory=dict[str, int])
    expanded: list[str] = field(default_factory=list[str])

    def add(self, node: Node) -> None:
        """Append what this node of the old network becomes. ConversionError if it has no such form."""
        op = node.op
        if isinstance(op, Input):
            self._put(node, op)
        elif isinstance(op, Neuron):
            self._put(node, _uniform(node.name, op))
        elif isinstance(op, Conv):
            self._put(node, self._conv(node.name, op))
        elif isinstance(op, Linear):
            self._put(node, self._linear(node, op))
        elif isinstance(op, Pad) and any(op.between):
            raise ConversionError(
                f"{node.name} (Pad): puts zeros between positions, as transposed convolutions and up-sampling do, "
                "which NIR cannot. Export to torch instead"
            )
        elif isinstance(op, Pad):
            ones = (0,) * self.spread.get(node.inputs[0], 0)
            before, after = (*op.before, *ones), (*op.after, *ones)
            self._put(node, self._cast(_placing(node.name, self._shape(node.inputs[0]), before, after)))
        elif isinstance(op, Add | Concat):
            self._sum(node, op)
        elif isinstance(op, Flatten):
            self._flatten(node)
        elif isinstance(op, Readout):
            self._readout(node, op)
        else:
            raise _unwritable(node)

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape in which an old node's value lives now."""
        return (*self.network.shapes[name], *(1,) * self.spread.get(name, 0))

    def _put(self, node: Node, op: Op) -> None:
        self._append(node.name, op, *(self.names[name] for name in node.inputs))
        self.names[node.name] = node.name
        if spread := max((self.spread.get(name, 0) for name in node.inputs), default=0):
            self.spread[node.name] = spread

    def _append(self, name: str, op: Op, *inputs: str) -> str:
        self.nodes.append(Node(name, op, inputs))
        return name

    def _free(self, name: str) -> str:
        """A name for a node that was not there: this one, unless it is taken."""
        while name in self.network.shapes or any(node.name == name for node in self.nodes):
            name += "_"
        return name

    def _cast(self, op: Conv | Linear) -> Conv | Linear:
        return dataclasses.replace(op, weight=op.weight.to(self.network.device, self.network.dtype))

    def _conv(self, name: str, op: Conv) -> Conv:
        if is_sum_pool(op) and self.profile == "compact":
            return op
        if op.groups > 1:
            if not bool((op.weight == 1).all()):  # a pool has few weights in any form
                self.expanded.append(name)
            op = dataclasses.replace(op, weight=ops.ungrouped(op.weight, op.groups), groups=1)
        return _squared(name, op, self.network.shapes[self.network[name].inputs[0]])

    def _linear(self, node: Node, op: Linear) -> Op:
        """Lower a linear layer: in "portable", to a convolution over the whole map that was flattened."""
        source = node.inputs[0]
        if source in self.names and source not in self.spread:
            return op
        if source not in self.names:
            (source,) = self.network[source].inputs
            self.names[node.inputs[0]] = self.names[source]
        shape = self._shape(source)
        space = len(shape) - 1
        self.spread[node.inputs[0]] = space
        stride = (max(shape[1:]),) * space  # there is one window, and room for a larger kernel
        conv = Conv(op.weight.reshape(-1, *shape), op.bias, stride, (0,) * space, (1,) * space)
        return _squared(node.name, conv, shape)

    def _flatten(self, node: Node) -> None:
        """Lower a flattening: in "portable", it is left to the linear layers that read it (see ``_linear``)."""
        (source,) = node.inputs
        shape = self.network.shapes[source]
        if self.profile == "compact" or len(shape) == 1:
            self._put(node, Flatten())
        elif all(n == 1 for n in shape[1:]):
            self.names[node.name], self.spread[node.name] = self.names[source], len(shape) - 1
        elif not all(isinstance(reader.op, Linear) for reader in self.network.consumers[node.name]):
            raise ConversionError(
                f"{node.name} (Flatten): something else than a linear layer reads it, which has no convolution. "
                'Export with the profile "compact"'
            )

    def _sum(self, node: Node, op: Add | Concat) -> None:
        """A term that does not count as it is goes through a matrix of its own; one that is there twice counts double.

        A reader that is not weighted and no neuron finds the sum as one value.
        """
        total, first = self.network.shapes[node.name][0], 0
        terms: dict[str, Tensor] = {}
        for name, coefficient in zip(node.inputs, op.coefficients, strict=True):
            channels = torch.arange(self.network.shapes[name][0])
            matrix = torch.zeros(total, len(channels), dtype=torch.float64)
            matrix[channels + first, channels] = coefficient
            first += len(channels) if isinstance(op, Concat) else 0
            source = self.names[name]
            terms[source] = terms[source] + matrix if source in terms else matrix
        space = len(self._shape(node.inputs[0])) - 1
        if space and node.inputs[0] in self.spread:
            self.spread[node.name] = space
        names: list[str] = []
        for number, (source, matrix) in enumerate(terms.items()):
            as_it_is = matrix.shape == (total, total) and bool((matrix == torch.eye(total)).all())
            mixed = self._free(f"{node.name}.{number}")
            names.append(source if as_it_is else self._append(mixed, self._cast(_mixing(matrix, space)), source))
        direct = all(isinstance(reader.op, Neuron | Conv | Linear) for reader in self.network.consumers[node.name])
        if len(names) == 1:
            self.names[node.name] = names[0]
        elif direct:
            self.names[node.name] = self._append(node.name, Add((1.0,) * len(names)), *names)
        else:
            summed = self._append(self._free(f"{node.name}.sum"), Add((1.0,) * len(names)), *names)
            same = self._cast(_mixing(torch.eye(total, dtype=torch.float64), space))
            self.names[node.name] = self._append(node.name, same, summed)

    def _readout(self, node: Node, op: Readout) -> None:
        source = self.names[node.inputs[0]]
        if node.inputs[0] in self.spread:
            source = self._append(self._free("scores"), Flatten(), source)
        self._append(node.name, op, source)


def _uniform(name: str, op: Neuron) -> Neuron:
    threshold, _ = calibrated(name, op)
    if bool((threshold == threshold.max()).all()):
        threshold = threshold.max()
    return dataclasses.replace(op, threshold=threshold, amplitude=torch.ones_like(threshold))


def _mixing(matrix: Tensor, space: int) -> Conv | Linear:
    """Channels multiplied with a matrix (out, in), at every position of so many dimensions."""
    if not space:
        return Linear(matrix, None)
    ones = (1,) * space
    return Conv(matrix.view(*matrix.shape, *ones), None, ones, (0,) * space, ones)


def _placing(name: str, shape: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> Conv | Linear:
    """Zeros around features of this shape, or their margins cut off, as a kernel with one entry per channel.

    Along an axis, a kernel of k elements with its entry at j, and padding p, give out[i] = in[i + j - p] for
    n + 2p - k + 1 positions: j = p - before and k = 2p - before - after + 1.
    """
    channels = torch.arange(max(0, -before[0]), shape[0] - max(0, -after[0]))
    matrix = torch.zeros(shape[0] + before[0] + after[0], shape[0], dtype=torch.float64)
    matrix[channels + before[0], channels] = 1.0
    if len(shape) == 1:
        return Linear(matrix, None)
    paddings = [max(0, b, a) for b, a in zip(before[1:], after[1:], strict=True)]
    sizes = [2 * p - b - a + 1 for p, b, a in zip(paddings, before[1:], after[1:], strict=True)]
    if any((max(sizes) - size) % 2 for size in sizes):
        raise ConversionError(
            f"{name} (Pad): pads its axes unevenly, which no square kernel does. Pad by even or by odd amounts in total"
        )
    paddings = [p + (max(sizes) - size) // 2 for p, size in zip(paddings, sizes, strict=True)]
    weight = torch.zeros(*matrix.shape, *(max(sizes),) * len(sizes), dtype=torch.float64)
    weight[(slice(None), slice(None), *(p - b for p, b in zip(paddings, before[1:], strict=True)))] = matrix
    ones = (1,) * len(sizes)
    return Conv(weight, None, ones, tuple(paddings), ones)


def _squared(name: str, op: Conv, shape: tuple[int, ...]) -> Conv:
    """The same convolution with a square kernel, zeros filled in: tools take one size for both axes."""
    sizes = op.weight.shape[2:]
    for size in (max(sizes), max(sizes) + 1):
        axes = zip(sizes, op.stride, op.padding, op.dilation, shape[1:], strict=True)
        fronts = [_front(size, *axis) for axis in axes]
        if None not in fronts:
            weight = op.weight.new_zeros(*op.weight.shape[:2], *(size,) * len(sizes))
            found = [front for front in fronts if front is not None]
            where = (slice(f, f + k) for f, k in zip(found, sizes, strict=True))
            weight[(slice(None), slice(None), *where)] = op.weight
            padding = (p + f * d for p, f, d in zip(op.padding, found, op.dilation, strict=True))
            return dataclasses.replace(op, weight=weight, padding=tuple(padding))
    raise ConversionError(
        f"{name} (Conv): a kernel of {' x '.join(map(str, sizes))} has no square one that does the same, and tools "
        "take one size for both axes. Train with kernels whose sides are both even or both odd"
    )


def _front(size: int, kernel: int, stride: int, padding: int, dilation: int, length: int) -> int | None:
    """Zeros to put in front of a kernel along one axis so that it has this size and gives as many outputs."""
    reach, more = length + 2 * padding - dilation * (kernel - 1) - 1, size - kernel
    fitting = (f for f in range(more + 1) if (reach + dilation * (2 * f - more)) // stride == reach // stride)
    return next(fitting, None)


def _unwritable(node: Node) -> ConversionError:
    """Why no other tool can be told of a node."""
    if isinstance(node.op, Sparse):
        return ConversionError(
            f"{node.name} (Sparse): moves or adds up features, for which NIR has no node. Export to ONNX or torch"
        )
    if not isinstance(node.op, WinnerPool):
        return ConversionError(not_spiking(node))
    return ConversionError(
        f"{node.name} (WinnerPool): takes maxima, of which NIR knows nothing. Export to ONNX or torch, or train with "
        "average pooling"
    )


def _without_moves(network: Network) -> tuple[Network, list[str]]:
    """The network without moves behind its input, or in front of a linear layer; and what the user has to know.

    A move behind the input is left to whoever feeds the images. One in front of a linear layer, as of files with the
    channels last, goes into the order of that layer's weights.
    """
    notes: list[str] = []
    for name in [node.name for node in network.nodes if isinstance(node.op, Sparse) and _moves(node.op)]:
        node = network[name]
        assert isinstance(node.op, Sparse)
        source, readers = network[node.inputs[0]], _read_by(network, node)
        alone = isinstance(source.op, Input) and len(_read_by(network, source)) == 1
        weighted = all(isinstance(other.op, Conv | Linear) for other in _behind_pads(network, node))
        if alone and _is_order(node.op) and weighted:
            network = _entered_behind(network, source, node, node.op)
            shape = " x ".join(map(str, node.op.shape))
            notes.append(f"Feed images as {shape}: {name}, which puts their axes into that order, is left out.")
        elif len(readers) == 1 and isinstance(readers[0].op, Flatten):
            network = _put_into_weights(network, node, node.op, readers[0])
    return network, notes


def _moves(op: Sparse) -> bool:
    """Tell a map each of whose outputs is one of its inputs, times a factor."""
    return len(op.source) == 1 and op.bias is None


def _is_order(op: Sparse) -> bool:
    """Tell one that takes each input once, all with the same factor."""
    once = op.source.shape[1] == op.size and bool((op.source[0].sort().values == torch.arange(op.size)).all())
    return once and bool((op.weight == op.weight[0, 0]).all())


def _read_by(network: Network, node: Node) -> list[Node]:
    return [other for other in network.nodes if node.name in other.inputs]


def _behind_pads(network: Network, node: Node) -> list[Node]:
    """Readers of a node; in the place of a border of zeros, the readers of that."""
    readers = _read_by(network, node)
    return [last for r in readers for last in (_behind_pads(network, r) if isinstance(r.op, Pad) else [r])]


def _without(network: Network, gone: Node, changed: dict[str, Node]) -> Network:
    """The network without a node, whose readers read what it read, and with some nodes changed."""

    def kept(node: Node) -> Node:
        node = changed.get(node.name, node)
        return dataclasses.replace(node, inputs=tuple(gone.inputs[0] if n == gone.name else n for n in node.inputs))

    return Network(tuple(kept(node) for node in network.nodes if node.name != gone.name), network.provenance)


def _entered_behind(network: Network, source: Node, node: Node, op: Sparse) -> Network:
    changed = {source.name: dataclasses.replace(source, op=dataclasses.replace(network.input, shape=op.shape))}
    for reader in _behind_pads(network, node):
        assert isinstance(reader.op, Conv | Linear)
        weight = (reader.op.weight * op.weight[0, 0]).to(reader.op.weight.dtype)
        changed[reader.name] = dataclasses.replace(reader, op=dataclasses.replace(reader.op, weight=weight))
    return _without(network, node, changed)


def _put_into_weights(network: Network, node: Node, op: Sparse, flat: Node) -> Network:
    """The network with the move in the linear layers behind ``flat``; as it is where others read it."""
    readers = _read_by(network, flat)
    given = math.prod(network.shapes[node.inputs[0]])
    places, factors = spread(op, given // op.size)
    changed: dict[str, Node] = {}
    for reader in readers:
        if not isinstance(reader.op, Linear):
            return network
        own = (reader.op.weight * factors[0]).to(reader.op.weight.dtype)
        weight = own.new_zeros(len(own), given).index_add_(1, places[0], own)
        changed[reader.name] = dataclasses.replace(reader, op=dataclasses.replace(reader.op, weight=weight))
    return _without(network, node, changed)
