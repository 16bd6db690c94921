"""From a PyTorch model, as a program of ATen calls, to a Network: every call is translated or refused by name."""

import dataclasses
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from equispike.arguments import checked
from equispike.errors import ConversionError
from equispike.functional.inputs import Images, all_finite
from equispike.graph import linear
from equispike.graph.fold import tidy
from equispike.graph.network import LARGEST, Network, Node, free
from equispike.graph.ops import Neuron, Op, Readout, map_tensors
from equispike.graph.reading.aten import HARMLESS, RESHAPES, RISING, SOFTMAXES, SPLITS, TRANSLATIONS, remedy, reshape
from equispike.graph.reading.clips import COMPARISONS
from equispike.graph.reading.moves import MIXES, MOVES
from equispike.graph.reading.program import Program, Traceable, export, parts
from equispike.graph.reading.terms import (
    BATCH_SIZE,
    Finding,
    Mask,
    Ops,
    Stacked,
    Step,
    Untranslatable,
    Value,
    aten,
    flat,
    laid,
    verdict,
)

FxNode = torch.fx.Node

LIKE: frozenset[object] = frozenset({aten.zeros_like.default, aten.ones_like.default, aten.full_like.default})
FILLED: frozenset[object] = frozenset({aten.zeros.default, aten.ones.default, aten.full.default, aten.expand.default})
"""Calls that give the same for each image: of the shape of a value, or of one that names the number of images."""

ON_BATCH_SIZE = "depends on how many images are in a batch. Compute with each image alone"


@checked
def trace(model: Traceable, example: Images, output: int | None = None) -> Network:
    """Read a model into a Network, without thresholds.

    Batch norm appears as ``Affine`` and max pooling as ``MaxPool``; passes of ``graph.exact`` and ``graph.lossy``
    remove them. The model is copied first: its mode, device and weights stay as they are. Of a model in half precision
    the network is in float32, which holds the same weights.

    Args:
        model: any module of image tensors that returns class scores (B, classes) or other values (B, *outputs), or
            several such tensors; or a program that ``torch.export`` made of one in eval mode, with a free batch size.
        example: one batch of images, (B, *features); for a model of several inputs a tuple of them. Only shapes and
            types matter.
        output: which of several tensors that the model returns, from 0, in the order of its tuples, lists and dicts.
            What no other output needs is left out.
    Raises:
        ConversionError: names every operation that cannot be translated, the reason and the remedy; or what is no
            module, or no batch of images.
    """
    network, reader = _translated(model, example, output)
    if network is None:
        first = {(f.layer, f.operation): f for f in reversed(reader.refused)}  # a module may be made of several calls
        told = [f for f in reader.refused if first[f.layer, f.operation] is f]
        raise ConversionError("; ".join(f"{f.layer} ({f.operation}): {f.why}. {f.remedy}" for f in told))
    return network.widened()


def examine(model: Traceable, example: Images, output: int | None = None) -> tuple[Network | None, list[Finding]]:
    """As ``trace``, but None where an operation cannot be translated; and every operation with its verdict, in order.

    Of operations that only a lossy pass makes fit for spikes the verdict is "refused"; the network holds them.
    """
    network, reader = _translated(model, example, output)
    return None if network is None else network.widened(), reader.findings


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
        """The network that was read. ConversionError where an operation gives other features than the program says."""
        network = Network(tidy(self.nodes))
        for name, shape in network.shapes.items():
            if math.prod(shape) > LARGEST:
                raise ConversionError(f"{name}: features of shape {shape} are out of proportion. Use smaller images")
        for value in self.known.values():
            if (
                isinstance(value, Value)
                and not value.viewed
                and network.shapes.get(value.node, ()) not in ((), value.shape)
            ):
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
        value = dataclasses.replace(outputs[0], shape=outputs[0].shape or (1,))  # one score for each image
        self._add("readout", Readout(), (self._shaped(value),), value.shape)

    def _read_call(self, node: FxNode) -> None:
        def lookup(n: FxNode) -> Any:
            return self.known[n]

        target = cast("Callable[..., Any]", node.target)
        arguments = cast("list[Any]", torch.fx.map_arg(list(node.args), lookup))
        sources = [self.known[n] for n in node.all_input_nodes]
        if any(isinstance(x, Value) for x in sources) and target is torch.ops.aten.sym_size.int:
            self.known[node] = BATCH_SIZE  # for a reshape, or an assertion
        elif (filled := _filled(node, arguments)) is not None:
            self.known[node] = filled
        elif not any(isinstance(x, Value) for x in sources):
            # weights that the model computes from its parameters (weight norm, transposes, ...)
            fixed = BATCH_SIZE not in flat(arguments)
            if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
                layer, operation = _place(node)
                why = "draws random numbers in eval mode too"
                self._refuse(Finding(layer, operation, "refused", why, "Draw them once, and keep them as a buffer"))
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
        translate: Callable[..., Ops] | None = None,
        at: FxNode | None = None,
    ) -> Value:
        layer, operation = _place(at or node)
        inputs = tuple(a for a in flat(arguments) if isinstance(a, Value))
        result, shape, viewed = _result(node), inputs[0].shape, False
        try:
            if result is None:
                raise Untranslatable(remedy(operation))
            if _stacks(node):
                return Stacked(inputs[0].node, inputs[0].shape, parts=tuple(self._settled(arguments[0])))
            if str(result.shape[:1]) != str(self._example.shape[:1]):
                raise Untranslatable(MIXES)
            shape = tuple(int(n) for n in result.shape[1:])
            if node.target in SPLITS:
                return inputs[0]  # what reads a part takes its slice
            if _last(node, self._outputs):
                self.findings.append(Finding(layer, operation, "exact", "dropped: the order of the scores stays"))
                return inputs[0]
            if (mask := _mask(node, arguments, inputs)) is not None:
                return mask
            if node.target in RESHAPES:
                ops: Ops = reshape(inputs[0], shape)
                viewed = not ops and (inputs[0].viewed or shape != inputs[0].shape)
            elif translate is None and node.target not in TRANSLATIONS:
                raise Untranslatable(remedy(operation))
            elif BATCH_SIZE in flat(arguments) and node.target not in MOVES:
                raise Untranslatable(ON_BATCH_SIZE)
            else:
                arguments = [self._settled(a) for a in arguments]
                inputs = tuple(part for a in flat(arguments) if isinstance(a, Value) for part in _parts_of(a))
                ops = (translate or TRANSLATIONS[node.target])(*arguments, **node.kwargs)
            kept = result.dtype.is_floating_point if node.target in HARMLESS else result.dtype == self._example.dtype
            if not kept:
                raise Untranslatable(f"changes the type to {result.dtype}. Use one floating-point type throughout")
            if not all(_finite(step.op if isinstance(step, Step) else step) for step in ops):
                raise Untranslatable("its weights hold NaN or infinity. Train the model again")
        except Untranslatable as refusal:
            self._refuse(Finding(layer, operation, "refused", refusal.why, refusal.remedy))
            return Value(inputs[0].node, shape)
        if not ops:
            self.findings.append(Finding(layer, operation, "exact", "nothing to do"))
        value = self._lay(layer, operation, ops, inputs, shape)
        return Value(value.node, shape, viewed or not shape, value.positive)

    def _lay(
        self, layer: str, operation: str, ops: Ops, inputs: Sequence[Value], shape: tuple[int, ...]
    ) -> Value:  # fmt: skip
        """Add what replaces a call. The layer's own name goes to its neurons, if it has any, else to what is first."""
        plain = [step.op if isinstance(step, Step) else step for step in ops]
        first = next((number for number, op in enumerate(plain) if isinstance(op, Neuron)), 0)
        own = self._name(layer) if first else None
        if own is not None:
            self._names.add(own)
        number = 0

        def add(op: Op, sources: tuple[Value, ...]) -> Value:
            nonlocal number
            name = own if own is not None and number == first else self._name(layer)
            number += 1
            self.findings.append(Finding(name, operation, *verdict(op)))
            return self._add(name, op, sources, shape)

        return laid(ops, inputs, add)

    def _settled(self, argument: Any) -> Any:
        """An argument of a call in whose values features have the shape that they are said to have."""
        if isinstance(argument, Value):
            return self._shaped(argument)
        return [self._settled(a) for a in cast("list[Any]", argument)] if isinstance(argument, list) else argument

    def _shaped(self, value: Value) -> Value:
        if not value.viewed:
            return value
        name = self._name(f"{value.node}.reshape")
        added = self._add(name, linear.reshaped(value.shape), (value,), value.shape)
        return dataclasses.replace(value, node=added.node, viewed=False)

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
        return Value(name, shape, positive=isinstance(op, Neuron))

    def _name(self, layer: str) -> str:
        """The layer's path; for its second use, and if it is taken, "path:2" and so on."""
        return free(layer, self._names | {"input", "readout"})


def _translated(model: Traceable, example: Images, output: int | None) -> tuple[Network | None, Reader]:
    program = export(model, example)
    if output is not None:
        program = program.choose(output)
    reader = Reader(program)
    for node in reader.needed:
        reader.read(node)
    return None if reader.refused else reader.network(), reader


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
    """The result of an operation, as a tensor without data: of a tuple (batch norm) the first. None for a number."""
    value: Any = node.meta["val"]
    first: Any = next(flat(value), None)
    return first if isinstance(first, Tensor) else None


def _last(node: FxNode, outputs: Collection[str]) -> bool:
    """Tell whether a call keeps the order of the scores, and is the last in its model that does anything."""
    value: Tensor = node.meta["val"]
    if node.target in SOFTMAXES:
        if value.ndim < 2 or cast("int", node.args[1]) % value.ndim != 1:
            return False
    elif node.target not in RISING:
        return False
    while node.name not in outputs or len(node.users) != 1:
        if len(node.users) != 1 or node.name in outputs:
            return False
        (node,) = node.users
        if node.target not in HARMLESS and node.target not in RESHAPES and node.op != "output":
            return False
    return True


def _mask(node: FxNode, arguments: Sequence[Any], inputs: Sequence[Value]) -> Mask | None:
    """The mask that a comparison with zero gives, also in other types. Untranslatable for another use of one."""
    masks = [x for x in inputs if isinstance(x, Mask)]
    if node.target in COMPARISONS and not masks and not isinstance(arguments[1], Value) and not torch.any(
        torch.as_tensor(arguments[1])
    ):  # fmt: skip
        return Mask(**vars(inputs[0]), above=COMPARISONS[node.target])
    if masks and len(inputs) == 1 and node.target in HARMLESS:
        return masks[0]
    if masks and node.target in (torch.ops.aten.bitwise_not.default, torch.ops.aten.logical_not.default):
        return dataclasses.replace(masks[0], above=not masks[0].above)
    if masks and len(inputs) == 1:
        raise Untranslatable("computes with a comparison of the images' data. Of such, x * (x > 0) alone converts")
    return None


def _filled(node: FxNode, arguments: Sequence[Any]) -> Tensor | None:
    """The tensor of a call that gives the same for all images, as for one of them; None for any other call."""
    like = node.target in LIKE
    if not like and (node.target not in FILLED or BATCH_SIZE not in flat(arguments)):
        return None
    if any(isinstance(a, Value) for a in flat(arguments[like:])):
        return None
    shape = (1, *(int(n) for n in cast("Tensor", node.meta["val"]).shape[1:]))
    first = torch.empty(shape, dtype=node.meta["val"].dtype) if like else arguments[0]

    def alone(argument: Any) -> Any:
        return 1 if argument is BATCH_SIZE else argument

    return cast("Callable[..., Tensor]", node.target)(*tree_map(alone, [first, *arguments[1:]]))


def _stacks(node: FxNode) -> bool:
    """Tell whether a call puts values side by side in front of the images' dimension."""
    return node.target is torch.ops.aten.stack.default and node.args[1:] in ((), (0,))


def _parts_of(value: Value) -> tuple[Value, ...]:
    return value.parts if isinstance(value, Stacked) else (value,)


def _finite(op: Op) -> bool:
    return all(all_finite(value) for value in vars(op).values() if isinstance(value, Tensor))
