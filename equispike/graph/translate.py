"""From a program of ATen operations to a Network: every operation is translated or refused by name."""

import math
import operator
from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor

from equispike.errors import ConversionError
from equispike.functional.finite import all_finite
from equispike.graph.aten import (
    RESHAPES,
    SOFTMAXES,
    SPLITS,
    TRANSLATIONS,
    Untranslatable,
    Value,
    flat,
    remedy,
    reshape,
)
from equispike.graph.network import LARGEST, Network, Node
from equispike.graph.ops import Op, Readout, map_tensors
from equispike.graph.parts import parts
from equispike.graph.program import BATCH_SIZE, Program
from equispike.graph.verdicts import VERDICTS, Finding

FxNode = torch.fx.Node

BATCH = "depends on how many images are in a batch. Compute with each image alone"


class Reader:
    """Walks what is ``needed`` of a graph once. ``known`` holds what each node gives: a Value or a constant.

    A refused operation passes its first input on under the shape it would have had, so that the rest is judged too.
    """

    def __init__(self, program: Program) -> None:
        self.nodes: list[Node] = []
        self.findings: list[Finding] = []
        self.refused: list[Finding] = []
        self.known: dict[FxNode, Any] = {}
        self._example = program.inputs[0]  # its batch size, type and device are the network's
        self._input, found = parts(program.shapes)
        self._parts, self.needed = iter(found), dict.fromkeys(program.needed())
        self._names: set[str] = set()
        self._stored = {t.untyped_storage().data_ptr() for t in program.constants.values()}
        self._left = LARGEST
        self._constants, self._outputs = program.constants, program.outputs

    def network(self) -> Network:
        """What has been read. ConversionError where an operation gives other features than the program says."""
        network = Network(tuple(self.nodes))
        for name, shape in network.shapes.items():
            if math.prod(shape) > LARGEST:
                raise ConversionError(f"{name}: features of shape {shape} are out of proportion. Use smaller images")
        for value in self.known.values():
            if isinstance(value, Value) and not value.viewed and network.shapes[value.node] != value.shape:
                said = f"features of shape {value.shape}, and gives {network.shapes[value.node]}"
                raise ConversionError(f"{value.node}: the program says {said}. Export it again")
        return network

    def read(self, node: FxNode) -> None:
        if node.op == "placeholder":
            self._read_placeholder(node)
        elif node.op == "output":
            self._read_output(node)
        else:
            self._read_call(node)

    def _read_placeholder(self, node: FxNode) -> None:
        if node.name in self._constants:
            self.known[node] = self._constants[node.name]
            return
        if not self.nodes:
            self._add("input", self._input, (), self._input.shape)
        value, ops = Value("input", self._input.shape), next(self._parts)
        if ops:
            if self.needed.keys().isdisjoint(node.users):
                return
            self.findings.append(Finding(node.name, "input", "exact", "one of several, which lie side by side"))
            for op in ops:
                value = self._add(self._name(node.name), op, (value,), ())
        self.known[node] = Value(value.node, tuple(int(n) for n in node.meta["val"].shape[1:]))

    def _read_output(self, node: FxNode) -> None:
        values = {n.name: self.known.get(n) for n in node.all_input_nodes}
        outputs = [values.get(name) for name in self._outputs]
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            found = sum(isinstance(output, Value) for output in outputs)
            raise ConversionError(
                f"output: the model returns {len(outputs)} values, {found} computed from the images. "
                "Return one tensor: class scores, or other values; or choose one: output=0 for the first"
            )
        if outputs[0].viewed:
            why = f"reshaped to {outputs[0].shape} per image, and only a reshape to a vector converts"
            self._refuse(Finding("readout", "output", "refused", why, "Return it as it was, or as a vector"))
        self._add("readout", Readout(), (outputs[0],), outputs[0].shape)

    def _read_call(self, node: FxNode) -> None:
        def lookup(n: FxNode) -> Any:
            return self.known[n]

        target = cast("Callable[..., Any]", node.target)
        arguments = cast("list[Any]", torch.fx.map_arg(list(node.args), lookup))
        sources = [self.known[n] for n in node.all_input_nodes]
        if any(isinstance(x, Value) for x in sources) and target is torch.ops.aten.sym_size.int:
            self.known[node] = BATCH_SIZE  # for a reshape, or an assertion
        elif not any(isinstance(x, Value) for x in sources):
            # weights that the model computes from its parameters (weight norm, transposes, ...)
            fixed = BATCH_SIZE not in flat(arguments)
            self.known[node] = target(*arguments, **torch.fx.map_arg(node.kwargs, lookup)) if fixed else BATCH_SIZE
        elif target is operator.getitem:
            self.known[node] = self._read_part(node)
        else:
            self.known[node] = self._read_operation(node, arguments)

    def _read_part(self, node: FxNode) -> Any:
        """One result of several: of a split a slice, of others (batch norm) all that has been read."""
        source = node.all_input_nodes[0]
        if source.target not in SPLITS or not isinstance(self.known[source], Value):
            return self.known[source]
        arguments = cast("list[Any]", torch.fx.map_arg(list(source.args), lambda n: self.known[n]))
        number = cast("int", node.args[1])
        return self._read_operation(node, arguments, lambda *given: SPLITS[source.target](*given)[number], source)

    def _read_operation(
        self,
        node: FxNode,
        arguments: list[Any],
        translate: Callable[..., list[Op]] | None = None,
        at: FxNode | None = None,
    ) -> Value:
        layer, operation = _place(at or node)
        inputs = tuple(a for a in flat(arguments) if isinstance(a, Value))
        result, shape, viewed = _result(node), inputs[0].shape, False
        try:
            if result is None:
                raise Untranslatable(remedy(operation))
            if str(result.shape[:1]) != str(self._example.shape[:1]):
                raise Untranslatable("mixes the images of a batch. Keep the first dimension for the images")
            shape = tuple(int(n) for n in result.shape[1:])
            if node.target in SPLITS:
                return inputs[0]  # what reads a part takes its slice
            if node.target in SOFTMAXES and _last(node, self._outputs):
                self.findings.append(Finding(layer, operation, "exact", "dropped: the order of the scores stays"))
                return inputs[0]
            if node.target in RESHAPES:
                ops = reshape(inputs[0], shape)
                viewed = not ops and (inputs[0].viewed or shape != inputs[0].shape)
            elif translate is None and node.target not in TRANSLATIONS:
                raise Untranslatable(remedy(operation))
            elif BATCH_SIZE in flat(arguments):
                raise Untranslatable(BATCH)
            elif reshaped := [x.shape for x in inputs if x.viewed]:
                raise Untranslatable(f"follows a reshape to {reshaped[0]}. Only a reshape to a vector converts")
            else:
                ops = (translate or TRANSLATIONS[node.target])(*arguments, **node.kwargs)
            if result.dtype != self._example.dtype:
                raise Untranslatable(f"changes the type to {result.dtype}. Use one floating-point type throughout")
            if not all(map(_finite, ops)):
                raise Untranslatable("its weights hold NaN or infinity. Train the model again")
        except Untranslatable as refusal:
            self._refuse(Finding(layer, operation, "refused", refusal.why, refusal.remedy))
            return Value(inputs[0].node, shape)
        if not ops:
            self.findings.append(Finding(layer, operation, "exact", "nothing to do in a trained network"))
        for op in ops:
            name = self._name(layer)
            self.findings.append(Finding(name, operation, *VERDICTS[type(op)]))
            inputs = (self._add(name, op, inputs, shape),)
        return Value(inputs[0].node, shape, viewed)

    def _refuse(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.refused.append(finding)

    def _add(self, name: str, op: Op, inputs: tuple[Value, ...], shape: tuple[int, ...]) -> Value:
        self._names.add(name)
        op = map_tensors(op, lambda t: t.to(self._example.device, self._example.dtype))
        made = [t for t in vars(op).values() if isinstance(t, Tensor)]
        self._left -= sum(t.numel() for t in made if t.untyped_storage().data_ptr() not in self._stored)
        if self._left < 0:
            raise ConversionError(f"{name}: the kernels that stand for operations are out of proportion")
        self.nodes.append(Node(name, op, tuple(value.node for value in inputs)))
        return Value(name, shape)

    def _name(self, layer: str) -> str:
        """The layer's path; for its second use, and if it is taken, "path:2" and so on."""
        name, count = layer, 1
        while name in self._names or name in ("input", "readout"):
            count += 1
            name = f"{layer}:{count}"
        return name


def _place(node: FxNode) -> tuple[str, str]:
    """The layer's path in the model and the operation's name: the module's class, or the function called."""
    function = str(node.target).removeprefix("aten.").partition(".")[0].strip("_")
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()), ("", ""))
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    if kind.startswith(("torch.nn.modules.", "equispike.nn.")) and not kind.startswith("torch.nn.modules.container"):
        return path, kind.rpartition(".")[2]
    return (f"{path}.{function}" if path else function), function


def _result(node: FxNode) -> Tensor | None:
    """What an operation gives, as a tensor without data: of a tuple (batch norm) the first. None for a number."""
    value: Any = node.meta["val"]
    first: Any = next(flat(value), None)
    return first if isinstance(first, Tensor) else None


def _last(node: FxNode, outputs: Collection[str]) -> bool:
    """Whether a node is the model's output and nothing else reads it, softmax over the classes."""
    alone = len(node.users) == 1 and node.name in outputs
    value: Tensor = node.meta["val"]
    return alone and value.ndim == 2 and cast("int", node.args[1]) in (1, -1)


def _finite(op: Op) -> bool:
    return all(all_finite(value) for value in vars(op).values() if isinstance(value, Tensor))
