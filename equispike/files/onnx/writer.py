"""A converted network as an ONNX file with the time loop inside, for runtimes that know nothing of spikes.

What comes before the first neurons is the same in every step, and computed once. The rest is the body of a ``Loop``,
which carries potentials, spike counts and scores from step to step.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equispike.errors import ConversionError, extra
from equispike.files.module import changing, rows, start
from equispike.graph.network import Network, Node, calibrated, not_spiking
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Linear, Neuron, Pad, Readout, Sparse, WinnerPool

OPSET, IR_VERSION = 17, 8
"""Of 2022: what runtimes from then on read."""

PROVENANCE = "equispike"
"""Name of the metadata entry that holds the provenance as JSON."""


class _Carried(NamedTuple):
    """A value that goes from step to step: its name in a step, its type, sizes, and the value before the first step."""

    name: str
    type: int
    sizes: list[str | int]
    start: str


class GraphWriter:
    """The file as it grows. ``x3`` is the value of node 3, ``v3`` and ``n3`` are its potentials and spike counts.

    Attributes:
        before: operations in front of the loop, and then behind it.
        step: operations inside.
        place, layer: where the next operation goes, and whose it is.
        stored: weights and other constants.
        carried: what goes from step to step.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.helper = extra("onnx.helper", "onnx", "ONNX files")
        self.types = extra("onnx", "onnx", "ONNX files").TensorProto
        self.float: int = {torch.float32: self.types.FLOAT, torch.float64: self.types.DOUBLE}[network.dtype]
        self.moving = changing(network)
        self.numbers = {node.name: number for number, node in enumerate(network.nodes)}
        self.before: list[Any] = []
        self.step: list[Any] = []
        self.place, self.layer = self.before, "input"
        self.stored: list[Any] = []
        self.carried: list[_Carried] = []

    def model(self) -> Any:
        """The file, ready to be serialized."""
        self._images()
        for node in self.network.nodes[1:]:
            self.place, self.layer = self.step if node.name in self.moving else self.before, node.name
            self._node(node)
        results = self._loop()
        given = [
            self._info("images", self.types.FLOAT, ["batch", *self.network.input.shape]),
            self._info("timesteps", self.types.INT64, []),
        ]
        graph = self.helper.make_graph(self.before, "network", given, results, self.stored)
        model = self.helper.make_model(
            graph, opset_imports=[self.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="equispike", producer_version=version("equispike"),
        )  # fmt: skip
        self.helper.set_model_props(model, {PROVENANCE: json.dumps(dict(self.network.provenance), sort_keys=True)})
        return model

    def _images(self) -> None:
        """The images as they enter; and what is carried, before the first step."""
        op, x = self.network.input, "images"
        if self.float != self.types.FLOAT:
            x = self._put("Cast", x, to=self.float)
        if op.step is not None:
            x = self._put("Round", self._put("Div", x, self._number(op.step)))
            x = self._put("Mul", x, self._number(op.step))
            x = self._put("Clip", x, self._number(-op.scale), self._number(op.scale))
        self._put("Mul", x, self._number(op.amplitude / op.scale), result="x0")
        batch = self._put("Shape", "images", start=0, end=1)

        def carry(name: str, kind: int, shape: tuple[int, ...], value: Tensor) -> None:
            sizes = self._put("Concat", batch, self._integers(*shape), axis=0)
            start = self._put("Expand", self._tensor(value), sizes, result=f"{name}.start")
            self.carried.append(_Carried(name, kind, ["batch", *shape], start))

        for name, neuron in self.network.neurons.items():
            shape, number, threshold = self.network.shapes[name], self.numbers[name], calibrated(name, neuron)[0]
            first, zero = start(name, neuron), threshold.new_zeros(())
            carry(f"v{number}", self.float, shape, first if isinstance(first, Tensor) else threshold * first)
            carry(f"n{number}", self.float, shape, zero)
            if neuron.signed:
                carry(f"c{number}", self.float, shape, zero)
        for node in self.network.nodes:
            if isinstance(node.op, WinnerPool) and node.name in self.moving:
                number, zero = self.numbers[node.name], torch.zeros((), dtype=torch.float64)
                carry(f"s{number}", self.types.DOUBLE, self.network.shapes[node.inputs[0]], zero)
                carry(f"m{number}", self.types.DOUBLE, self.network.shapes[node.name], zero)
        carry("total", self.types.DOUBLE, self.network.shapes[self.network.nodes[-1].name], torch.zeros(()).double())

    def _node(self, node: Node) -> None:
        op, inputs, result = node.op, [f"x{self.numbers[name]}" for name in node.inputs], f"x{self.numbers[node.name]}"
        if isinstance(op, Conv):
            self._conv(op, inputs[0], op.padding, result)
        elif isinstance(op, Linear):
            product = self._put(
                "MatMul", inputs[0], self._weight(op.weight.t()), result=None if op.bias is not None else result
            )
            if op.bias is not None:
                self._put("Add", product, self._weight(op.bias), result=result)
        elif isinstance(op, AvgPool):
            self._average(op, inputs[0], self.network.shapes[node.inputs[0]], result)
        elif isinstance(op, WinnerPool):
            self._largest(op, inputs[0], node, result)
        elif isinstance(op, Sparse):
            self._sparse(op, inputs[0], result)
        elif isinstance(op, Flatten):
            self._put("Flatten", *inputs, result=result, axis=1)
        elif isinstance(op, Pad):
            self._pad(op, inputs[0], self.network.shapes[node.inputs[0]], result)
        elif isinstance(op, Add | Concat):
            pairs = zip(inputs, op.coefficients, strict=True)
            terms = [x if c == 1.0 else self._put("Mul", x, self._number(c)) for x, c in pairs]
            if isinstance(op, Add):
                self._put("Sum", *terms, result=result)
            else:
                self._put("Concat", *terms, result=result, axis=1)
        elif isinstance(op, Neuron):
            self._fire(op, inputs[0], self.numbers[node.name], self.network.shapes[node.name])
        elif isinstance(op, Readout):
            scale = self._tensor(torch.tensor(op.scale, dtype=torch.float64))
            score = self._put("Mul", self._put("Cast", *inputs, to=self.types.DOUBLE), scale)
            self._put("Add", "total", score, result="total.next")
        else:
            raise ConversionError(not_spiking(node))

    def _conv(self, op: Conv, x: str, behind: Sequence[int], result: str | None = None) -> str:
        """A convolution with this much padding behind the features, and its own in front."""
        weights = [self._weight(t) for t in (op.weight, op.bias) if t is not None]
        return self._put(
            "Conv", x, *weights, result=result, strides=list(op.stride), dilations=list(op.dilation), group=op.groups,
            pads=[*op.padding, *behind],
        )  # fmt: skip

    def _sparse(self, op: Sparse, x: str, result: str) -> None:
        """All terms of each sum taken out of the blocks at once, weighted, and added up."""
        x = self._put("Reshape", x, self._integers(0, -1, op.size))
        terms = self._put("Gather", x, self._tensor(op.source), axis=2)
        if not op.moves or bool((op.weight == 0).any()):
            terms = self._put("Mul", terms, self._weight(op.weight))
        total = self._put("ReduceSum", terms, self._integers(2), keepdims=0)
        last = result if op.bias is None else None
        shaped = self._put("Reshape", total, self._integers(0, *op.shape), result=last)
        if op.bias is not None:
            self._put("Add", shaped, self._tensor(op.bias), result=result)

    def _largest(self, op: WinnerPool, x: str, node: Node, result: str) -> None:
        """The maximum of what stays the same; of spikes, the growth of the largest sum (see ``ops.WinnerPool``)."""
        before, after = (self.network.shapes[name][1:] for name in (node.inputs[0], node.name))
        reach = [d * (k - 1) + 1 for d, k in zip(op.dilation, op.kernel, strict=True)]
        axes = zip(after, op.stride, reach, before, op.padding, strict=True)
        behind = [max(p, (n - 1) * s + k - size - p) for n, s, k, size, p in axes]
        windows: dict[str, Any] = {"kernel_shape": list(op.kernel), "strides": list(op.stride)}
        windows |= {"dilations": list(op.dilation), "pads": [*op.padding, *behind]}
        if node.name not in self.moving:
            self._put("MaxPool", x, result=result, **windows)
            return
        number = self.numbers[node.name]
        sums = self._put("Add", f"s{number}", self._put("Cast", x, to=self.types.DOUBLE), result=f"s{number}.next")
        most = self._put("MaxPool", sums, result=f"m{number}.next", **windows)
        self._put("Cast", self._put("Sub", most, f"m{number}"), to=self.float, result=result)

    def _average(self, op: AvgPool, x: str, shape: tuple[int, ...], result: str) -> None:
        """Sums over windows, divided: on windows that reach over the end, runtimes' own pools differ from torch's."""
        sizes = op.divisors(shape[1:])
        axes = zip(sizes.shape, op.stride, op.kernel, shape[1:], op.padding, strict=True)
        behind = [max(p, (n - 1) * s + k - size - p) for n, s, k, size, p in axes]
        sums = self._conv(op.sums(shape[0], self.network.dtype), x, behind)
        self._put("Div", sums, self._tensor(sizes.to(self.network.dtype)), result=result)

    def _pad(self, op: Pad, x: str, shape: tuple[int, ...], result: str) -> None:
        """Zeros between neighbours are put behind each, along an axis of its own; those behind the last are cut off."""
        after = op.after
        if any(op.between):
            x = self._put("Reshape", x, self._integers(0, *(n for size in shape for n in (size, 1))))
            behind = [n for zeros in op.between for n in (0, zeros)]
            x = self._put("Pad", x, self._integers(*[0] * (2 + len(behind)), *behind))
            sizes = zip(shape, op.between, strict=True)
            x = self._put("Reshape", x, self._integers(0, *(size * (zeros + 1) for size, zeros in sizes)))
            after = tuple(n - zeros for n, zeros in zip(after, op.between, strict=True))
        self._put("Pad", x, self._integers(0, *op.before, 0, *after), result=result)

    def _fire(self, op: Neuron, x: str, number: int, shape: tuple[int, ...]) -> None:
        threshold, amplitude = calibrated(self.layer, op)
        theta, unit = self._tensor(threshold), bool((amplitude == 1).all())
        if (drive := rows(op, shape)) is not None:
            row = self._put("Min", "number", self._integers(len(drive) - 1))
            x = self._put("Add", x, self._put("Gather", self._tensor(drive), row, axis=0))
        u = self._put("Add", f"v{number}", x)
        fires = self._put("GreaterOrEqual", u, theta)
        spikes = f"x{number}" if unit else f"z{number}"
        self._put("Cast", fires, to=self.float, result=f"p{number}" if op.signed else spikes)
        if op.signed:
            below = self._put("Less", u, self._number(0.0))
            some = self._put("Greater", f"c{number}", self._number(0.0))
            back = self._put("Cast", self._put("And", below, some), to=self.float)
            self._put("Sub", f"p{number}", back, result=spikes)
            self._put("Add", f"c{number}", spikes, result=f"c{number}.next")
            self._put("Sub", u, self._put("Mul", theta, spikes), result=f"v{number}.next")
            self._put("Add", f"n{number}", self._put("Abs", spikes), result=f"n{number}.next")
        else:
            left = self._put("Sub", u, theta) if op.reset == "subtract" else self._number(0.0)
            self._put("Where", fires, left, u, result=f"v{number}.next")
            self._put("Add", f"n{number}", spikes, result=f"n{number}.next")
        if not unit:
            self._put("Mul", spikes, self._tensor(amplitude), result=f"x{number}")

    def _loop(self) -> list[Any]:
        """Close the loop, make counts integers; what comes out."""
        self.place, self.layer = self.step, "step"
        self._put("Identity", "more", result="more.next")
        self._put("Identity", "total.next", result="score")
        total = self.carried[-1]
        given = [self._info("number", self.types.INT64, []), self._info("more", self.types.BOOL, [])]
        given += [self._info(state.name, state.type, state.sizes) for state in self.carried]
        taken = [self._info("more.next", self.types.BOOL, [])]
        taken += [self._info(f"{state.name}.next", state.type, state.sizes) for state in self.carried]
        taken.append(self._info("score", total.type, total.sizes))
        body = self.helper.make_graph(self.step, "step", given, taken)
        self.place, self.layer = self.before, "time"
        ends = [f"{state.name}.end" for state in self.carried]
        starts = [state.start for state in self.carried]
        delay = self.network.readout.delay
        totals = "totals" if delay else "scores"
        self.before.append(
            self.helper.make_node("Loop", ["timesteps", "", *starts], [*ends, totals], "time", body=body)
        )
        if delay:
            self._delayed(totals, total, delay)
        results = [self._info("scores", total.type, ["timesteps", *total.sizes])]
        for name in self.network.neurons:
            self._put("Cast", f"n{self.numbers[name]}.end", to=self.types.INT64, result=f"spikes.{name}")
            results.append(self._info(f"spikes.{name}", self.types.INT64, ["batch", *self.network.shapes[name]]))
        return results

    def _delayed(self, totals: str, total: _Carried, delay: float) -> None:
        """Scores of the sums after each step: see ``functional.coding.delayed``."""
        one = self._tensor(torch.tensor(1))
        numbers = self._put("Range", one, self._put("Add", "timesteps", one), one)
        steps = self._put("Cast", numbers, to=self.types.DOUBLE)
        share = self._put("Floor", self._put("Mul", steps, self._tensor(torch.tensor(delay, dtype=torch.float64))))
        early = self._put("Min", share, self._put("Sub", steps, self._tensor(torch.ones((), dtype=torch.float64))))
        first = self._put("Unsqueeze", total.start, self._integers(0))
        rows = self._put("Cast", early, to=self.types.INT64)
        before = self._put("Gather", self._put("Concat", first, totals, axis=0), rows, axis=0)
        factor = self._put("Div", steps, self._put("Sub", steps, early))
        factor = self._put("Reshape", factor, self._integers(-1, *(1 for _ in total.sizes)))
        self._put("Mul", self._put("Sub", totals, before), factor, result="scores")

    def _put(self, kind: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """An operation; the name of its value, a free one unless it is given."""
        result = result or f"t{len(self.before)}.{len(self.step)}"
        node = self.helper.make_node(kind, list(inputs), [result], name=f"{self.layer}/{result}", **attributes)
        self.place.append(node)
        return result

    def _info(self, name: str, kind: int, sizes: Sequence[str | int]) -> Any:
        return self.helper.make_tensor_value_info(name, kind, sizes)

    def _number(self, value: float) -> str:
        return self._tensor(torch.tensor(value, dtype=self.network.dtype))

    def _integers(self, *values: int) -> str:
        return self._tensor(torch.tensor(values, dtype=torch.int64))

    def _weight(self, value: Tensor) -> str:
        """A weight: whole numbers as integers of 8 or 16 bits, which runtimes turn into floats when they load it."""
        for kind in (torch.int8, torch.int16):
            if bool((value.to(kind) == value).all()):
                place, self.place = self.place, self.before
                name = self._put("Cast", self._tensor(value.to(kind)), to=self.float)
                self.place = place
                return name
        return self._tensor(value)

    def _tensor(self, value: Tensor) -> str:
        """A constant; its name."""
        name = f"constant.{len(self.stored)}"
        array = value.detach().cpu().contiguous().numpy()
        self.stored.append(extra("onnx.numpy_helper", "onnx", "ONNX files").from_array(array, name))
        return name
