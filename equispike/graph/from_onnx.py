"""From an ONNX file to a Network. Operations are read into those of PyTorch and translated as a traced model's are.

Nothing in a file is executed, and no other file is opened.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from equispike.errors import ConversionError, FileError, one_line
from equispike.extras import extra
from equispike.graph.aten import TRANSLATIONS, Untranslatable, Value, remedy, reshape
from equispike.graph.network import LARGEST, Network, Node, shape_of
from equispike.graph.ops import Linear, Op, Pad, Readout
from equispike.graph.parts import parts
from equispike.graph.program import check_output

Attributes = Mapping[str, Any]
aten: Any = torch.ops.aten


def read(path: str | PathLike[str], output: int | None = None) -> Network:
    """The trained network in an ONNX file, without thresholds, as ``trace`` gives it for a module.

    Args:
        path: of a model in evaluation mode of images (B, *features) of a fixed shape, in one input or several, that
            gives class scores (B, classes), or other values (B, *outputs).
        output: which of several outputs, from 0. What no other output needs is left out.
    Raises:
        FileError: the file is missing, damaged or no ONNX model, or keeps weights in other files.
        ConversionError: names the operations that cannot be translated, the reason and the remedy.
    """
    path = Path(path)
    graph = _graph(path)
    try:
        return _Reader(graph, output).network()
    except ConversionError as error:
        raise ConversionError(f"{path}: {one_line(error, None)}") from error
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = one_line(error)
        raise FileError(f"{path}: cannot be read as an ONNX network: {reason}") from error


def _onnx(name: str) -> Any:
    return extra(name, "onnx", "ONNX files")


def _graph(path: Path) -> Any:
    onnx = _onnx("onnx")
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        model: Any = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError is of a package of its own
        reason = one_line(error, 200)
        raise FileError(f"{path}: is not a readable ONNX file, or truncated: {reason}") from error
    if not model.graph.node:
        raise FileError(f"{path}: is not a readable ONNX file, or truncated: it holds no operations")
    return model.graph


class _Reader:
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
        for stored in graph.initializer:
            self.known[str(stored.name)] = _constant(stored)

    def network(self) -> Network:
        """The graph as a Network; ConversionError or ValueError name what is in the way."""
        self._read_input()
        unknown = {str(n.op_type) for n in self.calls.values()} - OPERATIONS.keys() - CONSTANTS.keys() - {"Softmax"}
        if unknown:
            listed = "; ".join(f"{kind}: {remedy(kind.lower())}" for kind in sorted(unknown))
            raise ConversionError(f"holds operations that do not convert. {listed}")
        for number, node in self.calls.items():
            self._read(node, number)
        scores = self.known[self.output]
        if not isinstance(scores, Value) or scores.viewed:
            raise ConversionError("its output is a constant, or reshaped to other than a vector. Flatten it")
        double = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in self.known.values())
        nodes = (*self.nodes, Node("readout", Readout(), (scores.node,)))
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
        values = [x for x in inputs if isinstance(x, Value)]
        try:
            if kind in CONSTANTS and (kind == "Shape" or not values):
                self.known[str(node.output[0])] = CONSTANTS[kind](attributes, *inputs)
                return
            if not values or (kind not in OPERATIONS and kind != "Softmax"):
                raise Untranslatable("computes with constants alone, or not as it can be read here. Simplify the file")
            if kind == "Softmax":
                if str(node.output[0]) != self.output or len(values[0].shape) != 1:
                    raise Untranslatable(remedy("softmax"))
                self.known[str(node.output[0])] = values[0]
                return
            if kind not in RESHAPING and (viewed := [x.shape for x in values if x.viewed]):
                raise Untranslatable(f"follows a reshape to {viewed[0]}. Only a reshape to a vector converts")
            shape = _shape_of_reshape(kind, attributes, inputs) if kind in RESHAPING else None
            ops = reshape(values[0], shape) if shape is not None else OPERATIONS[kind](attributes, *inputs)
        except Untranslatable as refusal:
            raise ConversionError(f"{layer} ({kind}): {refusal}") from refusal
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{layer} ({kind}): {error}") from error
        found = values
        for op in ops:
            found = [self._add(self._free(layer), op, tuple(x.node for x in found))]
        result = found[0]
        if shape is not None and not ops:
            result = Value(result.node, shape, result.viewed or shape != result.shape)
        self.known[str(node.output[0])] = result

    def _add(self, name: str, op: Op, inputs: tuple[str, ...]) -> Value:
        self.nodes.append(Node(name, op, inputs))
        self.shapes[name] = shape = shape_of(self.nodes[-1], [self.shapes[source] for source in inputs])
        if int(np.prod(shape, dtype=float)) > LARGEST:
            raise ValueError(f"{name}: features of shape {shape} are out of proportion")
        return Value(name, shape)

    def _free(self, layer: str) -> str:
        taken = {node.name for node in self.nodes} | {"readout"}
        name, count = layer, 1
        while name in taken:
            count += 1
            name = f"{layer}:{count}"
        return name


def _needed(nodes: Any, output: str) -> dict[int, Any]:
    """Of nodes in an order in which they can run, those that this output is computed from, by their numbers."""
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


def _numbers(value: Any) -> list[int]:
    """Whole numbers given as a constant or as an attribute."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where a constant is expected. Export with constants")
    return [int(n) for n in torch.as_tensor(value).flatten()]


def _tensor(value: Any) -> Tensor | None:
    """A constant, or None where it was left out."""
    if isinstance(value, Value):
        raise Untranslatable("depends on the images where weights are expected. Only fixed weights convert")
    return None if value is None or not value.numel() else value


def _windows(attributes: Attributes, x: Value, kernel: Sequence[int]) -> tuple[list[Op], dict[str, list[int]]]:
    """Strides, dilations and padding of a kernel; padding that differs between the sides as an operation before it."""
    dims = len(x.shape) - 1
    strides: list[int] = attributes.get("strides") or [1] * dims
    dilations: list[int] = attributes.get("dilations") or [1] * dims
    pads: list[int] = attributes.get("pads") or [0] * 2 * dims
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(x.shape[1:], kernel, strides, dilations, strict=True)
        total = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in sizes]
        less = [n // 2 for n in total]
        more = [n - m for n, m in zip(total, less, strict=True)]
        pads = [*less, *more] if automatic == "SAME_UPPER" else [*more, *less]
    before, after = pads[:dims], pads[dims:]
    uneven: list[Op] = []
    if before != after:
        uneven.append(Pad((0, *before), (0, *after)))
        before = [0] * dims
    return uneven, {"strides": strides, "padding": before, "dilations": dilations}


def _conv(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    kernel = _tensor(weight)
    if kernel is None or kernel.ndim not in (3, 4):
        raise Untranslatable("is not a convolution in 1d or 2d. Use one of these")
    uneven, w = _windows(attributes, x, kernel.shape[2:])
    settings = w["strides"], w["padding"], w["dilations"], int(attributes.get("group", 1))
    return [*uneven, *TRANSLATIONS[aten.conv2d.default](x, kernel, _tensor(bias), *settings)]


def _gemm(attributes: Attributes, x: Value, weight: Any, bias: Any = None) -> list[Op]:
    matrix, added = _tensor(weight), _tensor(bias)
    if attributes.get("transA", 0) or matrix is None or matrix.ndim != 2 or len(x.shape) != 1:
        raise Untranslatable("is not a linear layer on vectors. Flatten first, and multiply by a matrix of weights")
    matrix = (matrix if attributes.get("transB", 0) else matrix.t()) * attributes.get("alpha", 1.0)
    if added is not None:
        added = (added * attributes.get("beta", 1.0)).reshape(-1).expand(matrix.shape[0]).contiguous()
    return [Linear(matrix.contiguous(), added)]


def _batch_norm(attributes: Attributes, x: Value, *statistics: Any) -> list[Op]:
    if attributes.get("training_mode", 0):
        raise Untranslatable("is in training mode. Export the model in eval mode")
    tensors = [_tensor(t) for t in statistics]
    return TRANSLATIONS[aten.batch_norm.default](x, *tensors, False, 0.0, float(attributes.get("epsilon", 1e-5)))


def _clip(attributes: Attributes, x: Value, low: Any = None, high: Any = None) -> list[Op]:
    ends = [_tensor(end) for end in (low, high)]
    least, most = (
        float(end) if end is not None else attributes.get(key) for end, key in zip(ends, ("min", "max"), strict=True)
    )
    return TRANSLATIONS[aten.clamp.default](x, least, most)


def _leaky_relu(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.leaky_relu.default](x, float(attributes.get("alpha", 0.01)))


def _max_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    if uneven:
        raise Untranslatable("pads its two sides differently, and the padding does not count. Pad evenly")
    ceil = bool(attributes.get("ceil_mode", 0))
    return TRANSLATIONS[aten.max_pool2d.default](x, kernel, w["strides"], w["padding"], w["dilations"], ceil)


def _average_pool(attributes: Attributes, x: Value) -> list[Op]:
    kernel, uneven, w = _pool(attributes, x)
    ceil, counts = (bool(attributes.get(key, 0)) for key in ("ceil_mode", "count_include_pad"))
    if uneven and not counts:
        raise Untranslatable("pads its two sides differently, and the padding does not count. Pad evenly")
    if any(d != 1 for d in w["dilations"]):
        raise Untranslatable("is dilated, and average pools cannot be. Replace it")
    return [*uneven, *TRANSLATIONS[aten.avg_pool2d.default](x, kernel, w["strides"], w["padding"], ceil, counts)]


def _pool(attributes: Attributes, x: Value) -> tuple[list[int], list[Op], dict[str, list[int]]]:
    kernel: list[int] = list(attributes["kernel_shape"])
    return kernel, *_windows(attributes, x, kernel)


def _mean(attributes: Attributes, x: Value, axes: Any = None) -> list[Op]:
    chosen = attributes.get("axes") if axes is None else axes
    over = _numbers(chosen) if chosen is not None else None
    return TRANSLATIONS[aten.mean.dim](x, over, bool(attributes.get("keepdims", 1)))


def _global_mean(attributes: Attributes, x: Value) -> list[Op]:
    return TRANSLATIONS[aten.mean.dim](x, list(range(2, len(x.shape) + 1)), True)


def _dropout(attributes: Attributes, x: Value, ratio: Any = None, training: Any = None) -> list[Op]:
    if training is not None and bool(training.any()):
        raise Untranslatable("drops at random. Export the model in eval mode")
    return []


def _concat(attributes: Attributes, *values: Any) -> list[Op]:
    return TRANSLATIONS[aten.cat.default](list(values), int(attributes["axis"]))


def _shape_of_reshape(kind: str, attributes: Attributes, inputs: Sequence[Any]) -> tuple[int, ...]:
    """The features behind a reshape; Untranslatable if it would mix images."""
    x = cast("Value", inputs[0])
    size = int(np.prod(x.shape))
    if kind == "Flatten":
        if int(attributes.get("axis", 1)) != 1:
            raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
        return (size,)
    if kind == "Squeeze":
        axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
        if axes is None:
            raise Untranslatable("squeezes whatever is 1, the batch too. Name the dimensions")
        gone = {n % (len(x.shape) + 1) - 1 for n in _numbers(axes)}
        return tuple(n for axis, n in enumerate(x.shape) if axis not in gone)
    first, *rest = _numbers(inputs[1])
    if first == -1 and -1 in rest:
        raise Untranslatable("leaves two dimensions open. Give all but one")
    shape = [x.shape[axis] if n == 0 else n for axis, n in enumerate(rest)]
    known = int(np.prod([n for n in shape if n != -1]))
    shape = [size // known if n == -1 else n for n in shape]
    if int(np.prod(shape)) != size:
        raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
    return tuple(shape)


def _shape(attributes: Attributes, x: Any) -> Tensor:
    """The shape of a value, with 0 for the batch, which a reshape takes for 'as it was'."""
    return torch.tensor([0, *x.shape] if isinstance(x, Value) else list(x.shape))


def _gather(attributes: Attributes, x: Tensor, index: Tensor) -> Tensor:
    if x.ndim != 1:
        raise Untranslatable("gathers from more than a list. Simplify the file")
    return x[index]


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    (axis,) = _numbers(attributes["axes"] if axes is None else axes)
    return x.unsqueeze(axis)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    order: list[int] = attributes.get("perm") or list(range(x.ndim))[::-1]
    return x.permute(order).contiguous()


def _given(attributes: Attributes) -> Tensor:
    if len(attributes) != 1:
        raise ValueError(f"holds {len(attributes)} values where one is expected")
    return torch.as_tensor(next(iter(attributes.values())))


def _same(attributes: Attributes, x: Tensor) -> Tensor:
    return x


def _joined(attributes: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, int(attributes["axis"]))


def _nothing(attributes: Attributes, x: Value, *_: Any) -> list[Op]:
    return []


def _as(target: Any) -> Callable[..., list[Op]]:
    """An operation that PyTorch has under the same arguments."""

    def translate(attributes: Attributes, *inputs: Any) -> list[Op]:
        return TRANSLATIONS[target](*inputs)

    return translate


OPERATIONS: dict[str, Callable[..., list[Op]]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _as(aten.matmul.default),
    "BatchNormalization": _batch_norm,
    "Relu": _as(aten.relu.default),
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "PRelu": _as(aten.prelu.default),
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    "GlobalAveragePool": _global_mean,
    "ReduceMean": _mean,
    "Add": _as(aten.add.Tensor),
    "Sub": _as(aten.sub.Tensor),
    "Mul": _as(aten.mul.Tensor),
    "Div": _as(aten.div.Tensor),
    "Neg": _as(aten.neg.default),
    "Concat": _concat,
    "Identity": _nothing,
    "Dropout": _dropout,
    "Flatten": _nothing,
    "Reshape": _nothing,
    "Squeeze": _nothing,
}
"""What each operation becomes; those in ``RESHAPING`` are judged by shapes alone."""

RESHAPING = "Flatten", "Reshape", "Squeeze"

CONSTANTS: dict[str, Callable[..., Tensor]] = {
    "Constant": _given,
    "Identity": _same,
    "Transpose": _transpose,
    "Shape": _shape,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Concat": _joined,
}
"""What is computed from constants while the file is read."""
