"""ONNX operations that move features about: cut off, put around, split, turned, resized."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equispike.files.onnx.arguments import Attributes, axis_of, behind, constant_of, translated, whole_numbers
from equispike.graph.ops import Conv, Op
from equispike.graph.reading.aten import TRANSLATIONS
from equispike.graph.reading.terms import Untranslatable, Value, aten


def pad(attributes: Attributes, x: Value, amounts: Any = None, value: Any = None, axes: Any = None) -> list[Op]:
    rank = len(x.shape) + 1
    given = whole_numbers(attributes["pads"] if amounts is None else amounts)
    chosen = range(rank) if axes is None or not axes.numel() else [n % rank for n in whole_numbers(axes)]
    half = len(given) // 2
    ends = {axis: (given[at], given[at + half]) for at, axis in enumerate(chosen)}
    if any(ends.pop(0, (0, 0))):
        raise Untranslatable("adds images to the batch. Keep the first dimension for the images")
    mode = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(attributes.get("mode", ""), "constant")
    filling = constant_of(value) if value is not None else attributes.get("value")
    deepest = min((axis for axis, amount in ends.items() if any(amount)), default=rank)
    backwards = [n for axis in reversed(range(deepest, rank)) for n in ends.get(axis, (0, 0))]
    return translated(aten.pad.default, x, backwards, mode, float(filling) if filling is not None else 0.0)


def slice(attributes: Attributes, x: Value, *given: Any) -> list[Op]:
    """One slice after the other, each along one axis."""
    names = ("starts", "ends", "axes", "steps")
    lists = [whole_numbers(value) for value in given] if given else [list(attributes.get(n) or []) for n in names]
    starts, ends, axes, steps = [*lists, [], [], [], []][:4]
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    ops: list[Op] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        rank = len(x.shape) + 1
        if axis % rank == 0 and (start, step) != (0, 1):
            raise Untranslatable("takes some images of a batch. Keep all of them")
        before = behind(x, ops)
        if step < 0:
            places = range(before.shape[axis % rank - 1])[start:end:step]
            ops += _taken(before, axis % rank, list(places))
        else:
            ops += TRANSLATIONS[aten.slice.Tensor](before, axis % rank, start, end, step)
    return ops


def _taken(x: Value, axis: int, places: list[int]) -> list[Op]:
    """Some of the places along an axis, in any order."""
    return TRANSLATIONS[aten.index_select.default](x, axis, torch.tensor(places, dtype=torch.int64))


def gather(attributes: Attributes, x: Any, index: Any) -> list[Op]:
    """One place along an axis, which goes, or several."""
    axis = axis_of(x, attributes.get("axis", 0))
    chosen = constant_of(index)
    if not isinstance(x, Value) or chosen is None or chosen.ndim > 1:
        raise Untranslatable("takes more than a list of places. Take one, or a list, along each axis")
    places = [n + x.shape[axis - 1] if n < 0 else n for n in whole_numbers(chosen)]
    return _taken(x, axis, places) if chosen.ndim else TRANSLATIONS[aten.select.int](x, axis, places[0])


def tile(attributes: Attributes, x: Value, repeats: Any) -> list[Op]:
    times = whole_numbers(repeats)
    if times[0] != 1:
        raise Untranslatable("repeats images. Keep the first dimension for the images")
    return TRANSLATIONS[aten.repeat.default](x, times)


def expand(attributes: Attributes, x: Value, shape: Any) -> list[Op]:
    sizes = whole_numbers(shape)
    rank = len(x.shape) + 1
    if len(sizes) > rank or (len(sizes) == rank and sizes[0] not in (0, 1)):
        raise Untranslatable("repeats images. Keep the first dimension for the images")
    sizes = [1] * (rank - len(sizes)) + sizes
    wanted = [n if size in (0, 1) else size for n, size in zip(x.shape, sizes[1:], strict=True)]
    return TRANSLATIONS[aten.expand.default](x, [-1, *wanted]) if wanted != list(x.shape) else []


def split(attributes: Attributes, count: int, x: Value, sizes: Any = None) -> list[list[Op]]:
    """The slice that takes each of ``count`` parts."""
    axis = axis_of(x, attributes.get("axis", 0))
    length = x.shape[axis - 1]
    given = whole_numbers(sizes) if sizes is not None and sizes.numel() else attributes.get("split")
    even = -(-length // count)
    lengths = list(given) if given else [min(even, length - n * even) for n in range(count)]
    if sum(lengths) != length or min(lengths) < 1 or len(lengths) != count:
        raise Untranslatable(f"splits {length} into {lengths}. Give parts that add up to it")
    ends = np.cumsum(lengths).tolist()
    return [TRANSLATIONS[aten.slice.Tensor](x, axis, end - n, end) for n, end in zip(lengths, ends, strict=True)]


def transposed(attributes: Attributes, x: Value) -> list[Op]:
    rank = len(x.shape) + 1
    order: list[int] = [n % rank for n in attributes.get("perm") or list(range(rank))[::-1]]
    if order[0] != 0:
        raise Untranslatable("moves the images of a batch. Keep the first dimension for the images")
    return translated(aten.permute.default, x, order) if order != list(range(rank)) else []


def to_space(attributes: Attributes, x: Value) -> list[Op]:
    factor = int(attributes["blocksize"])
    shuffle = TRANSLATIONS[aten.pixel_shuffle.default](x, factor)
    if attributes.get("mode", "DCR") == "CRD":
        return shuffle
    channels = torch.arange(x.shape[0]).view(factor**2, -1).t().flatten()  # as pixel_shuffle wants them
    return [_picked(channels, len(x.shape) - 1), *shuffle]


def to_depth(attributes: Attributes, x: Value) -> list[Op]:
    """A convolution whose kernels take one pixel each out of a block."""
    factor, channels = int(attributes["blocksize"]), x.shape[0]
    weight = torch.zeros(factor, factor, channels, channels, factor, factor)
    rows, columns, same = torch.meshgrid(*map(torch.arange, (factor, factor, channels)), indexing="ij")
    weight[rows, columns, same, same, rows, columns] = 1.0
    return [Conv(weight.view(-1, channels, factor, factor), None, (factor, factor), (0, 0), (1, 1))]


def _picked(channels: Tensor, dims: int) -> Conv:
    """A 1x1 convolution that takes these channels, in this order."""
    ones = (1,) * dims
    weight = torch.eye(len(channels))[channels].view(*[len(channels)] * 2, *ones)
    return Conv(weight, None, ones, (0,) * dims, ones)


def resize(attributes: Attributes, x: Value, *given: Any) -> list[Op]:
    """Nearest neighbours where they repeat or leave out; interpolations as PyTorch has them."""
    constants = [torch.as_tensor(value) if not isinstance(value, Value) else None for value in given]
    old = len(given) == 1  # opset 10 and Upsample: scales alone, counted from the first pixel
    scales, sizes = (constants[0], None) if old else [*constants[1:], None, None][:2]
    if not given:
        scales = torch.tensor(attributes.get("scales", ()))
    space = x.shape[1:]
    axes = [n % (len(x.shape) + 1) - 2 for n in attributes.get("axes") or range(len(x.shape) + 1)]
    factors, wanted = [1.0] * len(space), list(space)
    for kind, values in (("scales", scales), ("sizes", sizes)):
        for axis, value in zip(axes, [] if values is None else map(float, values.flatten()), strict=False):
            if axis < 0 and value not in (0.0, 1.0) and (kind == "scales" or (axis == -1 and value != x.shape[0])):
                raise Untranslatable("resizes channels or images. Resize space alone")
            if axis >= 0 and kind == "scales":
                factors[axis], wanted[axis] = value, int(space[axis] * value)
            elif axis >= 0:
                factors[axis], wanted[axis] = value / space[axis], int(value)
    mode = attributes.get("mode", "nearest")
    where = attributes.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    if wanted == list(space):
        return []
    if mode == "nearest":
        rounding = attributes.get("nearest_mode", "floor" if old else "round_prefer_floor")
        return _nearest(x, factors, wanted, where, rounding)
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners") or attributes.get("antialias", 0):
        raise Untranslatable(f"interpolates by {where}, or smooths. Use half_pixel or align_corners")
    known = {"linear1": "upsample_linear1d", "linear2": "upsample_bilinear2d", "cubic2": "upsample_bicubic2d"}
    name = known.get(f"{mode}{len(space)}", str(mode))
    corners = where == "align_corners"
    return translated(getattr(getattr(aten, name), "vec", name), x, wanted, corners, None)


def _nearest(x: Value, factors: list[float], wanted: list[int], where: str, rounding: str) -> list[Op]:
    """Pixels repeated a whole number of times, every n-th of them, or any of them."""
    repeats: list[int] = []
    slices: list[Op] = []
    for axis, (n, factor, size) in enumerate(zip(x.shape[1:], factors, wanted, strict=True)):
        places = _sources(n, factor, size, where, rounding)
        if size % n == 0 and places == [i // (size // n) for i in range(size)]:
            repeats.append(size // n)
        elif len(steps := {b - a for a, b in pairwise(places)}) <= 1 and steps != {0}:
            step = steps.pop() if steps else 1
            given = behind(x, slices), axis + 2, places[0], places[-1] + 1, step
            slices += TRANSLATIONS[aten.slice.Tensor](*given)
            repeats.append(1)
        else:
            slices += _taken(behind(x, slices), axis + 2, places)
            repeats.append(1)
    between = behind(x, slices)
    size = [n * r for n, r in zip(between.shape[1:], repeats, strict=True)]
    name = aten.upsample_nearest1d.vec if len(size) == 1 else aten.upsample_nearest2d.vec
    return [*slices, *(TRANSLATIONS[name](between, size) if any(r > 1 for r in repeats) else [])]


def _sources(n: int, factor: float, size: int, where: str, rounding: str) -> list[int]:
    """Which pixel of a row of n each pixel of the new row takes, as the operator's definition says."""
    rounds: dict[str, tuple[Any, float]] = {
        "floor": (np.floor, 0.0), "ceil": (np.ceil, 0.0), "round_prefer_floor": (np.ceil, -0.5),
        "round_prefer_ceil": (np.floor, 0.5),
    }  # fmt: skip
    new = np.arange(size)
    places = {
        "asymmetric": new / factor,
        "half_pixel": (new + 0.5) / factor - 0.5,
        "pytorch_half_pixel": (new + 0.5) / factor - 0.5 if size > 1 else 0.0 * new,
        "align_corners": new * (n - 1) / max(1, size - 1),
    }
    if where not in places or rounding not in rounds:
        raise Untranslatable(f"counts its pixels by {where}, {rounding}. Use asymmetric and floor")
    whole, shift = rounds[rounding]
    return [int(place) for place in np.clip(whole(places[where] + shift), 0, n - 1)]
