"""The inputs of a model that takes several, as parts of the one input that a Network has."""

import math
from collections.abc import Iterable

from equispike.functional.inputs import Place, Shape, layout
from equispike.graph.ops import Flatten, Input, Op, Pad


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
