"""Program: a model as a graph of ATen calls, in the form that is translated; ``torch.export`` gives it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from equispike.errors import ConversionError
from equispike.functional.inputs import Place, Shape, layout
from equispike.graph.network import Network
from equispike.graph.ops import Flatten, Input, Op, Pad


class BatchSize:
    """Stands for the number of images in a batch, and for what is computed from it."""


BATCH_SIZE = BatchSize()

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
