"""Calls that move, repeat, interpolate or sum up features with fixed weights: what they do is found by running them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from equispike.graph import linear
from equispike.graph.ops import Concat, Flatten, Op, Pad, Sparse
from equispike.graph.reading.terms import BATCH_SIZE, Ops, Step, Untranslatable, Value, affordable, aten, flat

MIXES = "mixes the images of a batch. Keep the first dimension for the images"


Find = Callable[[linear.Function, tuple[int, ...], tuple[int, ...]], Sparse | None]
"""A way to find the map of a function, from the features that it takes and gives."""


def mapped(find: Find, target: Any, *arguments: Any, **settings: Any) -> Ops:
    """The map of a call with one value of the images among its arguments."""
    values = [x for x in flat([*arguments, *settings.values()]) if isinstance(x, Value)]
    if len(values) != 1:
        raise Untranslatable("combines several data-dependent tensors. Only fixed weights convert")

    def function(t: Tensor) -> Tensor:
        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return t
            if leaf is BATCH_SIZE:
                return len(t)
            return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

        return target(*tree.tree_map(fill, list(arguments)), **tree.tree_map(fill, settings))

    (x,) = values
    out = _shape(function, x)
    if not out:  # one number for each image
        return [_in_time(find(lambda t: function(t)[:, None], x.shape, (1,)))]
    return [_in_time(find(function, x.shape, out))]


def alike(function: linear.Function, x: Value) -> Sparse:
    """The map of a function that does the same to all channels."""
    out = tuple(function(torch.zeros(1, *x.shape, dtype=torch.float64)).shape[1:])
    affordable(*out)
    return _in_time(linear.found(function, (1, *x.shape[1:]), out, x.shape[0]))


def joined(function: Callable[[list[Tensor]], Tensor], values: Sequence[Value]) -> Ops:
    """Several values side by side, in the places that a function puts them in."""
    sizes = [torch.Size(x.shape).numel() for x in values]

    def split(t: Tensor) -> Tensor:
        parts: Sequence[Tensor] = torch.split(t, sizes, 1)
        return function([part.reshape(len(t), *x.shape) for part, x in zip(parts, values, strict=True)])

    whole = Value(values[0].node, (sum(sizes),))
    flattened = [Step(Flatten(), (number,)) for number in range(len(values))]
    places = tuple(len(values) + number for number in range(len(values)))
    out = _shape(split, whole)
    return [*flattened, Step(Concat((1.0,) * len(values)), places), linear.moved(split, whole.shape, out)]


def margins(before: tuple[int, ...], after: tuple[int, ...]) -> list[Op]:
    """Zeros put around features, or their margins cut off (see ``Pad``)."""
    return [Pad(before, after)] if any(before) or any(after) else []


def _shape(function: linear.Function, x: Value) -> tuple[int, ...]:
    """Shape of what a function gives for an image. Untranslatable if images are not by themselves."""
    affordable(*x.shape)
    pair = torch.arange(1, 2 * torch.Size(x.shape).numel() + 1, dtype=torch.float64).view(2, *x.shape)
    both = function(pair)
    if both.ndim < 1 or len(both) != 2:
        raise Untranslatable(MIXES)
    affordable(*both.shape)
    each = torch.cat([function(image[None]) for image in pair])
    if both.shape != each.shape or not torch.allclose(both, each):
        raise Untranslatable(MIXES)
    return tuple(both.shape[1:])


def _in_time(found: Sparse | None) -> Sparse:
    if found is None:
        raise Untranslatable("weighs too many features at once. Use smaller images, or a convolution")
    return found


def _calls(find: Find, names: str) -> dict[object, Callable[..., Ops]]:
    packets = [getattr(aten, name) for name in names.split() if hasattr(aten, name)]
    overloads: list[Any] = [getattr(packet, name) for packet in packets for name in packet.overloads()]
    return {overload: partial(mapped, find, overload) for overload in overloads}


MOVES: dict[object, Callable[..., Ops]] = {
    **_calls(
        linear.moved,  # calls that move, repeat or leave out features
        """_unsafe_index broadcast_to diagonal expand flip fliplr flipud im2col index index_select movedim moveaxis
        narrow permute pixel_unshuffle repeat repeat_interleave roll rot90 select swapaxes swapdims t tile transpose
        unfold""",
    ),
    **_calls(linear.found, "bmm col2im cumsum einsum tril triu"),
    **_calls(
        linear.interpolated,
        """_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
        upsample_bicubic2d upsample_bilinear2d upsample_linear1d""",
    ),
}
"""Translation of each call whose map is found by running it."""
