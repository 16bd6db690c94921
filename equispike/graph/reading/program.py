"""Program: a model as a graph of ATen calls, in the form that is translated; ``torch.export`` gives it."""

import copy
import dataclasses
import inspect
import io
import logging
import math
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from equispike.errors import ConversionError, one_line
from equispike.functional.inputs import Images, Place, Shape, inputs_of, layout
from equispike.graph.network import Network
from equispike.graph.ops import Flatten, Input, Op, Pad
from equispike.progress import track

Traceable = nn.Module | ExportedProgram

FREE_BATCH = 'Export it with a free batch size: dynamic_shapes=({0: torch.export.Dim("batch")},)'
"""What to do about a program that was made for a number of images."""


@dataclass(frozen=True, eq=False)
class Program:
    """A model of images as calls of ATen operations that change none of their arguments.

    Attributes:
        graph: placeholders, calls and an output; ``meta["val"]`` of a node tells shape and type of what it gives.
        constants: weights and other fixed tensors, by the names of their placeholders. All others are inputs.
        outputs: names of the nodes that the model returns.
    """

    graph: torch.fx.Graph
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> list[Any]:
        """Shape and type of each input, as ``meta["val"]`` has them."""
        placeholders = (node for node in self.graph.nodes if node.op == "placeholder")
        return [node.meta["val"] for node in placeholders if node.name not in self.constants]

    @property
    def shapes(self) -> list[Shape]:
        """Features of each input, without the batch."""
        return [tuple(int(n) for n in value.shape[1:]) for value in self.inputs]

    def choose(self, output: int) -> "Program":
        """The program that returns one of its outputs alone. ConversionError if there is no such one."""
        check_output(output, len(self.outputs))
        return dataclasses.replace(self, outputs=(self.outputs[output],))

    def needed(self) -> Iterator[torch.fx.Node]:
        """Inputs, constants and the output, and of the calls, in order, those that the outputs are computed from."""
        left = [node for node in self.graph.nodes if node.name in self.outputs]
        found: set[torch.fx.Node] = set()
        while left:
            node = left.pop()
            if node not in found:
                found.add(node)
                left += node.all_input_nodes
        return (node for node in self.graph.nodes if node.op != "call_function" or node in found)


def check_chosen(network: Network, output: int | None) -> None:
    """ConversionError unless a network is for this output: it has one alone, and may say which of a file it was."""
    if output is not None and output != network.provenance.get("output"):
        check_output(output, 1)


def check_output(output: int | None, count: int) -> None:
    """ConversionError if a model with so many outputs does not have this one."""
    if output is not None and not 0 <= output < count:
        raise ConversionError(f"output: {output}, and the model returns {count}. Count from 0 to {count - 1}")


def of(program: ExportedProgram) -> Program:
    """A functional program of ``torch.export``. Its constants are copied."""
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    sources |= signature.inputs_to_lifted_tensor_constants
    stored: dict[str, Any] = {**program.state_dict, **program.constants}
    constants = {name: stored[source].detach().clone() for name, source in sources.items()}
    return Program(program.graph, constants, tuple(map(str, signature.user_outputs)))


def shapes_of(model: object) -> list[Shape]:
    """Features of each input of a program of ``torch.export``, without the batch; none of anything else."""
    return of(model).shapes if isinstance(model, ExportedProgram) else []


def parts(shapes: Iterable[Shape]) -> tuple[Input, list[list[Op]]]:
    """The input that holds them all, see ``functional.inputs``, and what gives each of them back, in order.

    >>> entrance, (first, second) = parts([(3, 32, 32), (10,)])
    >>> entrance.shape, first
    ((4, 32, 32), [Pad(before=(0, 0, 0), after=(-1, 0, 0), between=())])
    """
    shapes = list(shapes)
    if len(shapes) == 1:
        return Input(shapes[0]), [[]]
    joined, places = layout(shapes)
    return Input(joined), [_part(shape, place, joined) for shape, place in zip(shapes, places, strict=True)]


def _part(shape: Shape, place: Place, joined: Shape) -> list[Op]:
    behind, space = joined[0] - place.first - place.channels, joined[1:]
    before = (-place.first, *(0 for _ in space))
    if len(shape) == len(joined):
        return [Pad(before, (-behind, *(n - whole for n, whole in zip(shape[1:], space, strict=True))))]
    vector = Pad((0,), (shape[0] - place.channels * math.prod(space),))
    return [Pad(before, (-behind, *(0 for _ in space))), Flatten(), vector]


def export(model: Traceable, example: Images) -> Program:
    """The model's functional ATen graph with a free batch size. ConversionError if it cannot be exported."""
    inputs = cast("tuple[Tensor, ...]", inputs_of(example))
    _check_types(model, inputs)
    if not isinstance(model, nn.Module):
        return _checked(model, inputs)
    name, model = type(model).__name__, _copied(model)
    _check_layers(model)
    given, parameter = inputs, next(model.parameters(), None)
    if parameter is not None:
        inputs = tuple(x.to(parameter.device, parameter.dtype) for x in inputs)
    if len(inputs[0]) < 2:  # torch.export would take a batch of 0 or 1 for a constant
        inputs = tuple(x.new_zeros(2, *x.shape[1:]) for x in inputs)
    try:
        *_, program = track(_stages(model, inputs), "reading the model", 2)
        return program
    except Exception as error:  # whatever the user's forward may raise
        reason = one_line(error)
        if "specialized it to be a constant" in reason or "was inferred to be a constant" in reason:
            raise ConversionError(
                f"{name}: its forward pass fixes the number of images, as len(x) and int(x.shape[0]) do. Write "
                "x.shape[0] in their place, and keep the images along the first dimension"
            ) from error
        raise ConversionError(
            f"{name}: torch.export could not read it with {_told(given)}: "
            f"{type(error).__name__}: {reason}. Pass a batch of images, (B, *features); the forward pass must accept "
            "any batch size and not branch on values"
        ) from error


def _stages(model: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[Any]:
    """The model as torch.export gives it, and then as it is read: a deep one takes half a minute for both."""
    with _silence(), torch.no_grad():
        # without a largest size, torch 2.6 looks at sizes that no batch has
        sizes = _dynamic(model, [{0: Dim("batch", max=2**31)}] * len(inputs))
        exported = torch.export.export(model, inputs, dynamic_shapes=sizes, strict=False)
    yield exported
    with _silence(), torch.no_grad():
        program = _functional(exported)
    yield program


def _functional(program: ExportedProgram) -> Program:
    """Write a program in calls that change none of their arguments. For gradients, torch would take some apart."""
    with torch.inference_mode():
        program = cast("Any", program).run_decompositions({})
    return of(program)


@contextmanager
def _silence() -> Generator[None]:
    """Keep torch from printing pages of graphs where one line is to say what is wrong."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _check_layers(model: nn.Module) -> None:
    """ConversionError for layers that torch.export takes apart, or fails at in words of its own."""
    for name, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        kind = type(module)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            why = "remembers earlier inputs, and networks here run forward only. Use convolutions or linear layers"
        elif kind.__module__.startswith("torch.ao.nn.") and "quantized" in kind.__module__:
            why = "has its weights packed as integers. Convert the model as it was before, then call es.quantize"
        else:
            continue
        raise ConversionError(f"{name or 'model'} ({kind.__name__}): {why}")


def _told(inputs: Sequence[Tensor]) -> str:
    shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
    return f"{'an input' if len(inputs) == 1 else 'inputs'} of shape {shapes}"


def _checked(model: ExportedProgram, inputs: Sequence[Tensor]) -> Program:
    """A program in the form that ``export`` gives. ConversionError if it takes other inputs."""
    with _silence():
        program = _functional(model)
    fixed = any(isinstance(value, Tensor) and type(value.shape[0]) is int for value in program.inputs)
    if strange := [value for value in program.inputs if not isinstance(value, Tensor)]:
        raise ConversionError(
            f"model: a program with an input that is no tensor: {strange[0]}. Fix it, and export again"
        )
    if any(type(n) is not int for value in program.inputs for n in value.shape[1:]):
        raise ConversionError("model: a program for images of any size. Export it with a fixed size of the images")
    shapes, given = program.shapes, [tuple(x.shape[1:]) for x in inputs]
    if given != shapes and given != [layout(shapes)[0]]:
        raise ConversionError(f"model: a program of inputs (B, ...) of shapes {shapes}, not of {given}")
    if fixed:
        raise ConversionError(f"model: a program for batches of {program.inputs[0].shape[0]}. {FREE_BATCH}")
    return program


def _check_types(model: object, inputs: Sequence[object]) -> None:
    if not isinstance(model, Traceable):
        raise ConversionError(f"model: of type {type(model).__name__}. Pass a torch.nn.Module, built and trained")
    if not inputs:
        raise ConversionError("example: holds no tensor. Pass a batch of images, (B, features)")
    for x in inputs:
        if not isinstance(x, Tensor):
            raise ConversionError(f"example: of type {type(x).__name__}. Pass a tensor of images, (B, features)")
        if x.ndim < 2:
            raise ConversionError(f"example: of shape {tuple(x.shape)}. Pass a batch of images, (B, features)")


def _copied(model: nn.Module) -> nn.Module:
    """The model in eval mode, without gradients; nothing that the copy does reaches the one given.

    Raises:
        ConversionError: a model of TorchScript, or with layers that do not know their sizes yet.
    """
    model = _unwrapped(model)
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ConversionError(
            f"{name}: is TorchScript, whose layers cannot be told apart. Convert the module that it was made of"
        )
    if any(
        isinstance(t, UninitializedParameter | UninitializedBuffer) for t in (*model.parameters(), *model.buffers())
    ):
        raise ConversionError(f"{name}: has lazy layers without weights. Run one batch through it, and train it, first")
    try:
        own = copy.deepcopy(model)
    except Exception:  # computed tensors (pruning), locks, whatever hangs on a module
        own = _rebuilt(model, {})
    return own.eval().requires_grad_(False)


def _dynamic(model: nn.Module, sizes: list[Any]) -> tuple[Any, ...]:
    """Free sizes of the inputs as ``torch.export`` takes them: those of ``*args`` are one entry of their own."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(sizes)
    return (*sizes[:named], tuple(sizes[named:])) if named < len(sizes) else tuple(sizes)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model in DataParallel, DistributedDataParallel or torch.compile."""
    wrapper = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    inner: Any = getattr(cast("Any", model), "module" if wrapper else "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def _rebuilt(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """The module built again of its parts: parameters, buffers and tensors copied, all else the same."""
    if id(module) in done:
        return done[id(module)]
    new = done[id(module)] = module.__class__.__new__(module.__class__)
    fields: dict[str, Any] = new.__dict__
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            fields[name] = value.detach().clone()
        else:
            fields[name] = copy.copy(cast("Any", value)) if isinstance(value, dict | list) else value
    for kind, wrap in (("_parameters", nn.Parameter), ("_buffers", Tensor.clone)):
        stored = fields[kind].items()
        fields[kind] = {name: None if t is None else wrap(t.detach().clone()) for name, t in stored}
    children: dict[str, nn.Module | None] = fields["_modules"]
    fields["_modules"] = {name: None if child is None else _rebuilt(child, done) for name, child in children.items()}
    return new
