"""Inputs of a network: finite numbers, and several inputs side by side in one tensor, so that all knows images alone.

Images lie one behind the other along the channels, those smaller than others with zeros after each spatial axis. A
vector fills channels of its own in C order. Zeros never spike and weigh nothing.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.nn.functional import pad

from equispike.arguments import tensor_of, told
from equispike.errors import DataError

Shape = tuple[int, ...]
Images = Tensor | Sequence[Tensor]
"""Images (B, *features); for a network of several inputs, a tensor of each in the order of the model's ``forward``."""


class Place(NamedTuple):
    """Where an input lies: its first channel, and how many it fills."""

    first: int
    channels: int


def inputs_of(images: object) -> tuple[object, ...]:
    """The inputs of a model, one by one, from a tuple or list of them, or from the only one."""
    return tuple(cast("Sequence[object]", images)) if isinstance(images, tuple | list) else (images,)


def join_inputs(images: Images) -> Tensor:
    """The inputs of a network in one tensor, as it takes, stores and exports them; a single tensor stays as it is.

    Args:
        images: of every input a tensor (B, *features) with the same B, in the order of the model's ``forward``:
            vectors, and images of one number of axes.
    Raises:
        DataError: they differ in B, or their shapes have no common form.

    >>> import torch
    >>> join_inputs((torch.rand(4, 3, 32, 32), torch.rand(4, 1, 16, 16), torch.rand(4, 10))).shape
    torch.Size([4, 5, 32, 32])
    """
    inputs = cast("list[Tensor]", list(map(tensor_of, inputs_of(images))))
    for x in inputs:
        if not isinstance(cast("object", x), Tensor) or (len(inputs) > 1 and not x.ndim):
            raise DataError(f"inputs: {told(x)}. Give tensors (B, *features)")
    if len(inputs) == 1:
        return inputs[0]
    if len({len(x) for x in inputs}) != 1:
        raise DataError(
            f"inputs: of {', '.join(str(len(x)) for x in inputs)} images. Give every image all of its inputs"
        )
    shapes = [tuple(x.shape[1:]) for x in inputs]
    joined, places = layout(shapes)
    whole = inputs[0].new_zeros(len(inputs[0]), *joined)
    for x, (first, channels) in zip(inputs, places):
        if x.ndim - 1 < len(joined):
            x = pad(x, (0, channels * math.prod(joined[1:]) - x.shape[1])).view(len(x), channels, *joined[1:])
        whole[:, first : first + channels, *map(slice, x.shape[2:])] = x
    return whole


def split_inputs(joined: Tensor, shapes: Iterable[Shape]) -> tuple[Tensor, ...]:
    """The inputs of these shapes that ``join_inputs`` put together."""
    shapes = list(shapes)
    if len(shapes) == 1:
        return (joined,)
    parts = list[Tensor]()
    for shape, (first, channels) in zip(shapes, layout(shapes)[1]):
        part = joined[:, first : first + channels]
        parts.append(part.flatten(1)[:, : shape[0]] if len(shape) == 1 else part[:, :, *map(slice, shape[1:])])
    return tuple(parts)


def reshaping(given: Shape, expected: Shape) -> str:
    """Say what to do about images (B, *features) where others are expected: where axes are only moved, how.

    >>> reshaping((64, 1, 28, 28), (28, 28, 1))
    'The network takes the channels last: images.movedim(1, -1)'
    """
    own = given[1:]
    if len(expected) > 1 and own == (expected[-1], *expected[:-1]):
        return "The network takes the channels last: images.movedim(1, -1)"
    if len(expected) > 1 and own == (*expected[1:], expected[0]):
        return "The network takes the channels first: images.movedim(-1, 1)"
    if given == expected:
        return "Give a batch, even of one image: images[None]"
    return "Reshape the images"


def layout(shapes: Iterable[Shape]) -> tuple[Shape, list[Place]]:
    """The features of all inputs side by side, and the place of each. DataError if they have no common form."""
    shapes = list(shapes)
    images = [shape for shape in shapes if len(shape) > 1]
    if len(set(map(len, images))) > 1 or not all(map(all, shapes)) or not all(shapes):
        raise DataError(
            f"inputs: of shapes {', '.join(map(str, shapes))}. Give vectors, and images of one number of axes"
        )
    space = tuple(map(max, zip(*(shape[1:] for shape in images))))
    places, first = list[Place](), 0
    for shape in shapes:
        channels = shape[0] if len(shape) == 1 + len(space) else -(-shape[0] // math.prod(space))
        places.append(Place(first, channels))
        first += channels
    return (first, *space), places


def listed(x: Tensor) -> Any:
    """The numbers of a tensor as nested lists; torch's own ``tolist`` has no types."""
    return cast("Any", x).tolist()


def all_finite(x: Tensor) -> bool:
    """Tell whether no number is NaN or infinite.

    A finite sum says so, in one pass; one that is not may have overflowed on the way.
    """
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())
