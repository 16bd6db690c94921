"""Network: a topologically ordered tuple of nodes. Plain data, never changed in place; engines own all state."""

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from equispike.arguments import moving_to
from equispike.errors import ConversionError, SimulationError, one_line
from equispike.functional.inputs import Images, all_finite, join_inputs, reshaping
from equispike.graph.ops import (
    Add,
    Conv,
    Input,
    Linear,
    MaxPool,
    Neuron,
    Node,
    Op,
    Readout,
    Sum,
    Weighted,
    Weights,
    WinnerPool,
    map_tensors,
)
from equispike.graph.walk import interpret
from equispike.nn.spiking import TRIANGLE, NeuronLayer, Operation, Spiking, Surrogate
from equispike.provenance import in_words
from equispike.shown import frame, html_table

LARGEST = 2**28
"""Features of one image in one place; more is a file that lies, or a network that this machine could not run."""


class TableRow(NamedTuple):
    """One line of a network's table. Shape without batch; MACs of one image; threshold in the network's own units."""

    layer: str
    type: str
    shape: tuple[int, ...]
    parameters: int
    neurons: int
    macs: int
    threshold: str


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A trained network as data, with or without thresholds.

    Built only if it makes sense: exactly one input (first) and one readout (last), unique names, every node after
    those it reads, and shapes that fit; otherwise a ConversionError names the node.

    Attributes:
        nodes: the operations, in an order in which they can run.
        provenance: where it comes from (model, method, data, versions), as JSON-able data.
        shapes: features of each node's output, without the batch.
    """

    nodes: tuple[Node, ...]
    provenance: Mapping[str, object] = field(default_factory=dict[str, object])
    shapes: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", _infer_shapes(self.nodes))

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __call__(self, x: Images) -> Tensor:
        """The trained network's output (B, classes) for images (B, *features): every neuron as its ReLU."""
        return self.values(x)[self.nodes[-1].name]

    def __repr__(self) -> str:
        neurons = sum(math.prod(self.shapes[name]) for name in self.neurons)
        shapes = f"{self.input.shape} -> {self.shapes[self.nodes[-1].name]}"
        method = self.provenance.get("method")
        how = in_words(cast("Mapping[str, Any]", method)) if isinstance(method, Mapping) else "no thresholds"
        return f"Network({shapes}, {len(self.nodes)} nodes, {neurons:,} neurons in {len(self.neurons)} layers, {how})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), TableRow._fields, map(_cells, self.table()))

    def to_frame(self) -> Any:
        """One row per node, as a pandas data frame."""
        rows = self.table()
        return frame({name: [getattr(row, name) for row in rows] for name in TableRow._fields})

    def __str__(self) -> str:
        header = tuple(name.capitalize() if name != "macs" else "MACs" for name in TableRow._fields)
        rows = [header, *(_cells(row) for row in self.table())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, "<<<>>>>", widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """For each node, those that read it, in order."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return readers

    @cached_property
    def input(self) -> Input:
        return cast("Input", self.nodes[0].op)

    @cached_property
    def readout(self) -> Readout:
        return cast("Readout", self.nodes[-1].op)

    @cached_property
    def neurons(self) -> dict[str, Neuron]:
        """The neuron layers by name, from input to output."""
        return {node.name: node.op for node in self.nodes if isinstance(node.op, Neuron)}

    @property
    def thresholds(self) -> Mapping[str, Tensor]:
        """Threshold of each calibrated neuron layer, in the network's own units, shape () or (C, 1, ...).

        A view that cannot be set: ``calibrate.method.with_thresholds`` gives a network with others.
        """
        found = {name: op.threshold for name, op in self.neurons.items() if op.threshold is not None}
        return MappingProxyType(found)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights (float32 in a network without any)."""
        return next((op.weight.dtype for op in self._weighted_ops()), torch.float32)

    @cached_property
    def device(self) -> torch.device:
        return next((op.weight.device for op in self._weighted_ops()), torch.device("cpu"))

    def free(self, name: str) -> str:
        """The name, or if a node has it, "name:2" and so on."""
        return free(name, self._by_name)

    def to(self, target: torch.device | torch.dtype | str) -> "Network":
        """The same network on another device or in another floating-point type. EquispikeError if there is no such."""
        return self.rewrite(lambda node: dataclasses.replace(node, op=map_tensors(node.op, moving_to(target))))

    def widened(self) -> "Network":
        """The same network in float32 if it is in half precision, whose weights float32 holds; else itself."""
        return self.to(torch.float32) if self.dtype.itemsize < 4 else self

    def rewrite(self, change: Callable[[Node], Node]) -> "Network":
        """The network with ``change`` applied to every node."""
        return dataclasses.replace(self, nodes=tuple(change(node) for node in self.nodes))

    def replace_ops(self, ops: Mapping[str, Op]) -> "Network":
        """The network with the named nodes' operations replaced."""
        return self.rewrite(lambda node: dataclasses.replace(node, op=ops[node.name]) if node.name in ops else node)

    def values(self, x: Images, wanted: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Values of the trained network for images (B, *features), by node; those not wanted are freed on the way.

        Args:
            x: images, or a tuple of several inputs, moved to the network's floating-point type and device.
            wanted: names to return (default: the readout alone).
        """
        keep = {self.nodes[-1].name} if wanted is None else set(wanted)
        return dict(values_of(self, self.check_images(x), keep))

    def module(self, surrogate: Surrogate = TRIANGLE, seed: int = 0) -> Spiking:
        """The converted network as an ``nn.Module`` that runs one step a call: to stream frames, or to train on.

        The same spikes as those of ``simulate`` with constant input. Its weights are copies.

        Args:
            surrogate: slope of a spike where gradients pass.
            seed: of potentials that start at random; images then count as 0, 1, ... of the data set.
        Raises:
            ConversionError: the network has no thresholds yet, or holds an operation that does not run step by step.

        >>> from equispike.graph.ops import Input, Linear, Neuron, Readout
        >>> neurons = Neuron(torch.tensor(1.0), torch.tensor(1.0))
        >>> nodes = Node("x", Input((1,))), Node("w", Linear(torch.eye(1), None), ("x",)), Node("n", neurons, ("w",))
        >>> module = Network((*nodes, Node("scores", Readout(), ("n",)))).module()
        >>> [float(module(torch.tensor([[0.5]])).detach()) for _ in range(4)]
        [0.0, 1.0, 0.0, 1.0]
        """
        streams = {name: number for number, name in enumerate(self.neurons, start=1)}
        nodes: list[tuple[str, nn.Module, tuple[str, ...]]] = []
        for node in self.nodes:
            op = node.op
            layer: nn.Module = Operation(op)
            if isinstance(op, Neuron):
                if op.threshold is None or op.amplitude is None:
                    raise ConversionError(f"{node.name}: has no threshold yet. Convert the model first")
                own = op.threshold, op.amplitude, op.reset, op.signed, op.v_init, op.drive
                layer = NeuronLayer(*own, surrogate, streams[node.name], seed)
            elif isinstance(op, Readout) and op.mix is not None:
                layer = Operation(Linear(op.mix * op.scale, op.shift))
            elif isinstance(op, WinnerPool):
                raise ConversionError(
                    f"{node.name} (WinnerPool): keeps sums of its own, for which a module has no place. Convert with "
                    "lossy=[es.max_pool_to_avg], or train with AvgPool2d"
                )
            nodes.append((node.name, layer, node.inputs))
        return Spiking(nodes)

    def check_images(self, x: Images) -> Tensor:
        """The images in the network's type, on its device and on its input's grid, if it has one; inputs joined.

        Raises:
            SimulationError: shape or values are not usable.
            DataError: several inputs do not go together.
        """
        x = join_inputs(x)
        expected = self.input.shape
        if x.ndim == 0 or tuple(x.shape[1:]) != expected:
            raise SimulationError(
                f"images of shape {tuple(x.shape)}: this network takes (B, {', '.join(map(str, expected))}). "
                f"{reshaping(tuple(x.shape), expected)}, or convert the model with an example of that shape"
            )
        x = x.to(self.device, self.dtype)
        if not all_finite(x):
            raise SimulationError("images hold NaN or infinity: check the loading and the normalisation of the data")
        return self.input.on_grid(x)

    def table(self) -> list[TableRow]:
        """One row per node."""
        return [self._row(node) for node in self.nodes]

    def _row(self, node: Node) -> TableRow:
        op, shape = node.op, self.shapes[node.name]
        size = math.prod(shape)
        tensors = [t for t in (getattr(op, "weight", None), getattr(op, "bias", None)) if isinstance(t, Tensor)]
        macs = size * op.weight[0].numel() if isinstance(op, Weighted) else 0
        neurons, threshold = (size, _span(op.threshold)) if isinstance(op, Neuron) else (0, "")
        return TableRow(node.name, type(op).__name__, shape, sum(t.numel() for t in tensors), neurons, macs, threshold)

    def _weighted_ops(self) -> Iterator[Weights]:
        return (node.op for node in self.nodes if isinstance(node.op, Weights))


def free(name: str, taken: Container[str]) -> str:
    """The name, or if it is taken, "name:2" and so on."""
    return next(found for n in count(1) if (found := name if n == 1 else f"{name}:{n}") not in taken)


def values_of(
    network: Network, x: Tensor, keep: set[str], answer: Callable[[Neuron, Tensor], Tensor] = Neuron.__call__
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, value) of the nodes in ``keep``, in order, holding no value longer than it is needed.

    ``answer`` is what neurons make of their current; by default what they do in the trained network.
    """
    for node, value in interpret(network.nodes, lambda node, op: op(x), lambda node, op, current: answer(op, current)):
        if node.name in keep:
            yield node.name, value


_SEEN: WeakKeyDictionary[Op, tuple[list[tuple[int, ...]], tuple[int, ...]]] = WeakKeyDictionary()
"""Shapes of the inputs and of the output of operations met before: passes share most operations with their input."""


def _infer_shapes(nodes: tuple[Node, ...]) -> dict[str, tuple[int, ...]]:
    kinds = [type(node.op) for node in nodes]
    if not nodes or kinds[0] is not Input or kinds[-1] is not Readout or kinds.count(Input) + kinds.count(Readout) != 2:
        raise ConversionError("a network has one input, its first node, and one readout, its last node")
    shapes: dict[str, tuple[int, ...]] = {}
    for node in nodes:
        if node.name in shapes:
            raise ConversionError(f"{node.name}: two nodes have this name")
        if not node.name.isprintable():
            raise ConversionError(f"{one_line(node.name)}: a name with characters that cannot be printed")
        if missing := [name for name in node.inputs if name not in shapes]:
            raise ConversionError(f"{node.name}: reads {missing[0]}, which does not come before it")
        inputs = [shapes[name] for name in node.inputs]
        seen = _SEEN.get(node.op)
        if seen is None or seen[0] != inputs:
            seen = _SEEN[node.op] = inputs, shape_of(node, inputs)
        shapes[node.name] = seen[1]
    return shapes


def shape_of(node: Node, inputs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Features of the node's output, from those of its inputs, all without the batch. Nothing is computed.

    Raises:
        ConversionError: the operation does not fit its inputs, or leaves nothing of them.

    >>> shape_of(Node("conv", Conv(torch.ones(8, 3, 5, 5), None, (1, 1), (0, 0), (1, 1)), ("input",)), [(3, 32, 32)])
    (8, 28, 28)
    """
    op, where = node.op, f"{node.name} ({type(node.op).__name__})"
    if isinstance(op, Input):
        return op.shape
    _check_inputs(node, inputs)
    meta = map_tensors(op, lambda t: torch.empty_like(t, device="meta", dtype=torch.float32))
    try:
        result = meta(*(torch.empty(2, *shape, device="meta") for shape in inputs))
    except (RuntimeError, IndexError, TypeError, ValueError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0]
        raise ConversionError(f"{where}: does not fit its input {inputs}: {reason}") from error
    shape = tuple(result.shape[1:])
    if 0 in shape:
        raise ConversionError(f"{where}: leaves nothing of its input {inputs}")
    if isinstance(op, Readout) and not 0 <= op.delay < 1:
        raise ConversionError(f"{where}: delay {op.delay} is outside [0, 1)")
    mixing = op.mixing if isinstance(op, Readout) else None
    if mixing and (len(shape) != 1 or shape_of(Node(node.name, mixing, ("",)), [shape]) != shape):
        raise ConversionError(f"{where}: mix does not fit scores of shape {shape}")
    if isinstance(op, Neuron):
        _check_neurons(node.name, op, inputs[0])
        if shape != inputs[0]:
            raise ConversionError(f"{where}: threshold or amplitude does not fit a layer of shape {inputs[0]}")
    return shape


def _check_inputs(node: Node, inputs: list[tuple[int, ...]]) -> None:
    """ConversionError if an operation takes another number of inputs, or others than such."""
    op = node.op
    expected = len(op.coefficients) if isinstance(op, Sum) else 1
    if len(inputs) != expected or expected == 0:
        raise ConversionError(f"{node.name} ({type(op).__name__}): has {len(inputs)} inputs, expected {expected}")
    if isinstance(op, Add) and len(set(inputs)) > 1:
        raise ConversionError(f"{node.name} (Add): inputs of shapes {inputs} cannot be added without broadcasting")
    if isinstance(op, Conv) and op.weight.ndim not in (3, 4):
        raise ConversionError(f"{node.name} (Conv): a weight of {op.weight.ndim} dimensions; 1d has 3 and 2d has 4")


def _check_neurons(name: str, op: Neuron, shape: tuple[int, ...]) -> None:
    """ConversionError if drive, potentials or kind of spikes do not fit a layer of this shape."""
    channels, *space = shape
    along = (channels, *(1 for _ in space))
    if op.drive is not None and (op.drive.ndim != 2 or op.drive.shape[1] != channels or not len(op.drive)):
        raise ConversionError(
            f"{name} (Neuron): a drive of shape {tuple(op.drive.shape)}. Give rows of {channels} channels, at least one"
        )
    if isinstance(op.v_init, Tensor) and tuple(op.v_init.shape) != along:
        raise ConversionError(f"{name} (Neuron): v_init of shape {tuple(op.v_init.shape)}, where {along} is expected")
    if op.signed and op.reset == "zero":
        raise ConversionError(
            f"{name} (Neuron): signed spikes give charge back, which a hard reset has forgotten. Use reset='subtract'"
        )


def calibrated(name: str, op: Neuron) -> tuple[Tensor, Tensor]:
    """Threshold and amplitude of a neuron layer; ConversionError if it has none yet."""
    if op.threshold is None or op.amplitude is None:
        raise ConversionError(f"{name}: has no threshold yet. Calibrate first: es.convert(model, batches, method=...)")
    return op.threshold, op.amplitude


def is_open(op: Op) -> TypeGuard[MaxPool]:
    """Tell a max pool of a trained model, for which nothing that runs on spikes stands yet."""
    return isinstance(op, MaxPool) and not isinstance(op, WinnerPool)


def not_spiking(node: Node) -> str:
    """The complaint about a node that only a trained network can have."""
    return f"{node.name} ({type(node.op).__name__}): does not run on spikes. Convert the model first"


def _span(threshold: Tensor | None) -> str:
    if threshold is None:
        return "-"
    low, high = float(threshold.min()), float(threshold.max())
    return f"{low:.4g}" if threshold.numel() == 1 else f"{low:.4g} .. {high:.4g}"


def _cells(row: TableRow) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape))
    counts = (f"{n:,}" if n else "" for n in (row.parameters, row.neurons, row.macs))
    return (row.layer, row.type, shape, *counts, row.threshold)


OUTPUT_NEURONS = "output neurons"
"""Name of the neurons that ``convert`` puts in front of a readout that counts spikes."""


def without_output_neurons(network: Network) -> Network:
    """The network whose readout is the scores themselves: output neurons hold back those below zero."""
    *before, readout = network.nodes
    source = network[readout.inputs[0]]
    if source.name != OUTPUT_NEURONS:
        return network
    nodes = [node for node in before if node is not source]
    return dataclasses.replace(network, nodes=(*nodes, dataclasses.replace(readout, inputs=source.inputs)))
