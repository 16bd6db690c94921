"""From an ONNX file to a Network.

Nothing in a file is executed, and no other file is opened.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equispike.errors import ConversionError, extra, one_line
from equispike.files.onnx.arguments import refusal
from equispike.files.onnx.constants import CONSTANTS, fold
from equispike.files.onnx.operations import AT_THE_END, OPERATIONS, RESHAPING, SPLITTING, shape_of_reshape
from equispike.graph.fold import tidy
from equispike.graph.linear import reshaped
from equispike.graph.network import LARGEST, Network, Node, free, shape_of
from equispike.graph.ops import Neuron, Op, Readout
from equispike.graph.reading.aten import reshape
from equispike.graph.reading.program import check_output, parts
from equispike.graph.reading.terms import Untranslatable, Value, laid


def _onnx(name: str) -> Any:
    return extra(name, "onnx", "ONNX files")


def model_of(content: bytes) -> Any:
    """The model in an ONNX file, a graph with facts about it. ValueError if there is none."""
    onnx = _onnx("onnx")
    try:
        model: Any = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError is of a package of its own
        raise ValueError(one_line(error, 200)) from error
    if not model.graph.node:
        raise ValueError("it holds no operations")
    return model


class GraphReader:
    """Walks the graph once. ``known`` holds what each name stands for: data of the images, or a constant."""

    def __init__(self, graph: Any, output: int | None) -> None:
        self.graph = graph
        names = [str(value.name) for value in graph.output]
        check_output(output, len(names))
        if output is None and len(names) != 1:
            raise ConversionError(f"has {len(names)} outputs. Choose one: output=0 for the first")
        self.chosen, self.output = output, names[output or 0]
        self.calls = _needed(graph.node, self.output)
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.known: dict[str, Value | Tensor] = {"": torch.empty(0)}
        self.left = LARGEST
        for stored in graph.initializer:
            self.known[str(stored.name)] = _constant(stored)

    def network(self) -> Network:
        """The graph as a Network; ConversionError or ValueError name what is in the way."""
        self._read_input()
        known = OPERATIONS.keys() | SPLITTING.keys() | CONSTANTS | set(AT_THE_END)
        if unknown := {str(n.op_type) for n in self.calls.values()} - known:
            listed = "; ".join(f"{kind}: {refusal(kind)}" for kind in sorted(unknown))
            raise ConversionError(f"holds operations that do not convert. {listed}")
        for number, node in self.calls.items():
            self._read(node, number)
        scores = self.known[self.output]
        if not isinstance(scores, Value):
            raise ConversionError("its output is a constant. Export a model of images")
        scores = self._shaped("output", scores)
        assert isinstance(scores, Value)
        double = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in self.known.values())
        nodes = tidy((*self.nodes, Node("readout", Readout(), (scores.node,))))
        network = Network(nodes, {} if self.chosen is None else {"output": self.chosen})
        return network.to(torch.float64 if double else torch.float32)

    def _read_input(self) -> None:
        given = [value for value in self.graph.input if value.name not in self.known]
        if not given:
            raise ConversionError("has no input. Export a model of images")
        types = _onnx("onnx").TensorProto
        floats = types.FLOAT, types.DOUBLE, types.FLOAT16, types.BFLOAT16
        if strange := [str(value.name) for value in given if value.type.tensor_type.elem_type not in floats]:
            raise ConversionError(
                f"{strange[0]}: an input of other than floating-point numbers. Export a model of images"
            )
        shapes = [tuple(int(d.dim_value) for d in value.type.tensor_type.shape.dim)[1:] for value in given]
        for shape in shapes:
            if not shape or min(shape) < 1:
                raise ConversionError(f"its images are of shape {list(shape)}. Export with a fixed size of the images")
        entrance, found = parts(shapes)
        whole = self._add("input", entrance, ())
        for value, ops in zip(given, found, strict=True):
            part = whole
            for op in ops:
                part = self._add(self._free(str(value.name)), op, (part.node,))
            self.known[str(value.name)] = part

    def _read(self, node: Any, number: int) -> None:
        kind, attributes = str(node.op_type), {str(a.name): _attribute(a) for a in node.attribute}
        layer = str(node.name).strip("/").replace("/", ".").removesuffix(f".{kind}") or f"{kind}.{number}"
        if missing := [name for name in node.input if name not in self.known]:
            raise ValueError(f"{layer} ({kind}): reads {missing[0]}, which does not come before it")
        inputs = [self.known[name] for name in node.input]
        try:
            results = self._results(node, kind, attributes, inputs, layer)
        except Untranslatable as refused:
            raise ConversionError(f"{layer} ({kind}): {refused}") from refused
        except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ValueError(f"{layer} ({kind}): {error}") from error
        self.known.update(zip(map(str, node.output), results, strict=False))

    def _results(
        self, node: Any, kind: str, attributes: dict[str, Any], inputs: list[Value | Tensor], layer: str
    ) -> list[Value | Tensor]:
        values = [x for x in inputs if isinstance(x, Value)]
        if kind == "Shape" or not values:
            if kind not in CONSTANTS:
                raise Untranslatable("computes with constants alone. Simplify the file, so that it holds the result")
            return [self._kept(fold(kind, attributes, inputs))]
        if kind in AT_THE_END:
            if str(node.output[0]) != self.output or len(values[0].shape) != 1:
                raise Untranslatable(refusal("softmax"))
            return [values[0]]
        if kind not in OPERATIONS and kind not in SPLITTING:
            raise Untranslatable(refusal(kind))
        if kind not in RESHAPING:
            inputs = [self._shaped(layer, x) for x in inputs]
            values = [x for x in inputs if isinstance(x, Value)]
        if kind in SPLITTING:
            parts = SPLITTING[kind](attributes, len(node.output), *inputs)
            return [self._appended(layer, ops, values) for ops in parts]
        if kind not in RESHAPING:
            return [self._appended(layer, OPERATIONS[kind](attributes, *inputs), values)]
        x, shape = values[0], shape_of_reshape(kind, attributes, inputs)
        ops = reshape(x, shape)
        return [self._appended(layer, ops, values) if ops else Value(x.node, shape, x.viewed or shape != x.shape)]

    def _appended(self, layer: str, ops: list[Any], values: list[Value]) -> Value:
        """Append operations on values; return what they give."""
        return laid(ops, values, lambda op, given: self._add(self._free(layer), op, tuple(x.node for x in given)))

    def _shaped(self, layer: str, value: Value | Tensor) -> Value | Tensor:
        """A value whose features have the shape that they are said to have."""
        if isinstance(value, Tensor) or not value.viewed:
            return value
        return self._add(self._free(f"{layer}.reshape"), reshaped(value.shape), (value.node,))

    def _kept(self, constant: Tensor) -> Tensor:
        """A constant that was computed, as long as there is room for such."""
        self.left -= constant.numel()
        if self.left < 0:
            raise Untranslatable("computes constants that are out of proportion. Simplify the file")
        return constant

    def _add(self, name: str, op: Op, inputs: tuple[str, ...]) -> Value:
        self.nodes.append(Node(name, op, inputs))
        self.shapes[name] = shape = shape_of(self.nodes[-1], [self.shapes[source] for source in inputs])
        if int(np.prod(shape, dtype=float)) > LARGEST:
            raise ValueError(f"{name}: features of shape {shape} are out of proportion")
        return Value(name, shape, positive=isinstance(op, Neuron))

    def _free(self, layer: str) -> str:
        return free(layer, {*self.shapes, "readout"})


def _needed(nodes: Any, output: str) -> dict[int, Any]:
    """Select of nodes, in an order in which they can run, the numbers of those that this output is computed from."""
    wanted, found = {output}, dict[int, Any]()
    for number in reversed(range(len(nodes))):
        if not wanted.isdisjoint(nodes[number].output):
            found[number] = nodes[number]
            wanted.update(nodes[number].input)
    return dict(reversed(found.items()))


def _constant(stored: Any) -> Tensor:
    """A tensor of the file. ValueError if its data lie elsewhere, do not fit its shape, or are not finite."""
    helper = _onnx("onnx.numpy_helper")
    if stored.data_location or stored.external_data:
        raise ValueError(f"{stored.name}: lies in another file. Save the model with its weights inside")
    array: Any = np.array(helper.to_array(stored))
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{stored.name}: of type {array.dtype}, and only numbers can be read")
    if not bool(np.isfinite(array).all()):
        raise ConversionError(f"{stored.name}: its weights hold NaN or infinity. Train the model again")
    return torch.tensor(array)


def _attribute(attribute: Any) -> Any:
    """A number, a text, a tensor, or a list of numbers; None for graphs, which no operation here has."""
    kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
    kind = kinds.get(int(attribute.type))
    if kind is None:
        return None
    value = getattr(attribute, kind)
    if kind == "t":
        return _constant(value)
    return value.decode() if kind == "s" else list(value) if kind.endswith("s") else value
