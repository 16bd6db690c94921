"""Linear operations over bit-packed spike trains, described before anything runs.

Between two neuron layers everything is linear. Pooling, padding, flattening, concatenation and addition of spikes only
change where a weight finds its spikes: they become views. A convolution or linear layer of views becomes a current: for
each output position and kernel element the range of source positions whose spikes count. What does not fit (None here)
is computed densely.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Linear, Op, Pad, ungrouped
from equispike.simulation.trains import Integers, as_integers, extent

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of source positions, one for each position of an axis; (0, 0) where there is nothing."""

MOST_SOURCES = 64
"""Trains that one layer may gather from (``most_gathers`` of the core)."""

MOST_GROUPS = 8
"""Convolutions of more groups, if not depthwise, run densely: their weights are stored with the zeros in between."""

_NOTHING = (0, 0)


@dataclass(frozen=True, eq=False)
class View:
    """Spikes of one train as the next operation sees them.

    Attributes:
        train: the neuron layer, or sign of the input, that spikes.
        extent: channels, rows and columns of the train.
        rows, cols: what each row and column of the view sums up.
        shift: source channel c appears as channel c + shift.
        scale: what one spike counts, by source channel, (C,).
    """

    train: str
    extent: tuple[int, int, int]
    rows: Ranges
    cols: Ranges
    shift: int
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Spikes:
    """A sum of views, features of ``shape``; ``flat`` if they have since been flattened in C order."""

    views: tuple[View, ...]
    shape: tuple[int, ...]
    flat: bool = False


@dataclass(frozen=True, eq=False)
class Term:
    """The part of a current that comes from one train.

    Attributes:
        train, extent: as in View.
        rows, cols: source ranges by output position and kernel element, (outputs, kernel, 2), int32.
        weight: of a gather (kernel, channels, outputs); of a tap, which has one channel per output, (kernel, outputs).
        shift: of a tap: output c reads source channel c - shift.
    """

    train: str
    extent: tuple[int, int, int]
    rows: Tensor
    cols: Tensor
    weight: Tensor
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Current:
    """Input of a neuron layer: terms over trains, dense values with their coefficients, and a bias."""

    shape: tuple[int, ...]
    gathers: tuple[Term, ...] = ()
    taps: tuple[Term, ...] = ()
    dense: tuple[tuple[str, float], ...] = ()
    bias: Tensor | None = None


def whole_train(train: str, shape: tuple[int, ...], scale: Tensor) -> View:
    """All spikes of a train where they are."""
    channels, rows, cols = extent(shape)
    scale = scale.reshape(-1).expand(channels)
    return View(train, (channels, rows, cols), _each(rows), _each(cols), 0, scale)


def apply_view(op: Op, inputs: list[Spikes], shape: tuple[int, ...]) -> Spikes | None:
    """An operation that only rearranges or sums up spikes; ``shape`` is its output's."""
    if isinstance(op, Flatten):
        (x,) = inputs
        return replace(x, flat=x.flat or len(x.shape) > 1)
    if isinstance(op, Add):
        if len({(x.shape, x.flat) for x in inputs}) > 1:
            return None
        summed = (_scaled(v, c) for x, c in zip(inputs, op.coefficients) for v in x.views)
        return replace(inputs[0], views=tuple(summed))
    if any(x.flat for x in inputs):
        return None
    if isinstance(op, Concat):
        views: list[View] = []
        shift = 0
        for x, coefficient in zip(inputs, op.coefficients):
            views += [_scaled(replace(view, shift=view.shift + shift), coefficient) for view in x.views]
            shift += x.shape[0]
        return Spikes(tuple(views), shape)
    if isinstance(op, Pad) and not any(op.between):
        return Spikes(tuple(_padded(view, op, shape) for view in inputs[0].views), shape)
    if isinstance(op, AvgPool):
        pooled = [_pooled(view, op, shape) for view in inputs[0].views]
        kept = tuple(view for view in pooled if view is not None)
        return Spikes(kept, shape) if len(kept) == len(pooled) else None
    return None


def apply_weights(op: Conv | Linear, x: Spikes, shape: tuple[int, ...]) -> Current | None:
    """The current of a convolution or linear layer over spikes."""
    if x.flat != (isinstance(op, Linear) and len(x.shape) > 1):
        return None
    inputs, rows, cols = extent(x.shape)
    channels, out_rows, out_cols = extent(shape)
    settings: list[tuple[int, int, int]] = [(1, 0, 1), (1, 0, 1)]  # stride, padding, dilation of rows and columns
    if isinstance(op, Linear):
        weight, groups = op.weight.reshape(channels, -1, rows, cols), 1
    else:
        height, width = [1, *op.weight.shape[2:]][-2:]
        weight, groups = op.weight.reshape(channels, -1, height, width), op.groups
        settings += zip(op.stride, op.padding, op.dilation)
    axes = settings[-2:]
    depthwise = groups > 1 and groups == inputs == channels
    if len(x.views) > MOST_SOURCES or (groups > MOST_GROUPS and not depthwise):
        return None
    kernel = weight.shape[2:]
    if groups > 1 and not depthwise:
        weight = ungrouped(weight, groups)
    weight = weight.permute(2, 3, 1, 0).flatten(0, 1)  # (kernel, channels, outputs)
    terms: list[Term] = []
    for view in x.views:
        tables = _table(view.rows, out_rows, kernel[0], *axes[0]), _table(view.cols, out_cols, kernel[1], *axes[1])
        if depthwise:
            own = weight[:, 0] * _moved(view.scale, view.shift, channels)
            terms.append(Term(view.train, view.extent, *tables, own, view.shift))
        else:
            own = _moved(weight.movedim(1, 2), -view.shift, view.extent[0]) * view.scale
            terms.append(Term(view.train, view.extent, *tables, own.movedim(2, 1)))
    found = tuple(terms)
    return Current(shape, bias=op.bias, taps=found) if depthwise else Current(shape, bias=op.bias, gathers=found)


def as_current(x: Spikes) -> Current:
    """Spikes as they are, as input of neurons or as dense values (before flattening)."""
    channels, rows, cols = extent(x.shape)
    taps = [
        Term(
            view.train,
            view.extent,
            _table(view.rows, rows, 1, 1, 0, 1),
            _table(view.cols, cols, 1, 1, 0, 1),
            _moved(view.scale, view.shift, channels)[None],
            view.shift,
        )
        for view in x.views
    ]
    return Current(x.shape, taps=tuple(taps))


def add_currents(currents: list[Current], coefficients: tuple[float, ...]) -> Current | None:
    """Weighted sum of currents of one shape."""
    parts = list(zip(currents, coefficients))
    biases = [x.bias * c for x, c in parts if x.bias is not None]
    total = Current(
        currents[0].shape,
        tuple(replace(term, weight=term.weight * c) for x, c in parts for term in x.gathers),
        tuple(replace(term, weight=term.weight * c) for x, c in parts for term in x.taps),
        tuple((name, own * c) for x, c in parts for name, own in x.dense),
        torch.stack(biases).sum(0) if biases else None,
    )
    return total if len(total.gathers) <= MOST_SOURCES else None


def integers(current: Current, dtype: torch.dtype) -> Integers:
    """Weights of all gathers as integers, (depth, channels)."""
    channels, *_ = extent(current.shape)
    weights, spikes = [torch.empty(0, channels, dtype=dtype)], [torch.empty(0)]
    for term in current.gathers:
        weights.append(term.weight.flatten(0, 1))
        spikes.append(torch.full((len(weights[-1]),), float(most_at_once(term))))
    return as_integers(torch.cat(weights), torch.cat(spikes))


def most_at_once(term: Term) -> int:
    """Positions of the source that the widest element of the kernel sums up."""
    return prod(int((ranges[..., 1] - ranges[..., 0]).max()) for ranges in (term.rows, term.cols))


def _each(size: int) -> Ranges:
    return tuple((i, i + 1) for i in range(size))


def _scaled(view: View, coefficient: float) -> View:
    return view if coefficient == 1.0 else replace(view, scale=view.scale * coefficient)


def _padded(view: View, op: Pad, shape: tuple[int, ...]) -> View:
    before, after = [(*ends[:1], *([0, 0, *ends[1:]][-2:])) for ends in (op.before, op.after)]
    shift = view.shift + before[0]
    # what is cut off must not come back in a later padding
    channel = torch.arange(view.extent[0]) + shift
    kept = (channel >= before[0]) & (channel >= 0) & (channel < shape[0] - max(0, after[0]))
    rows, cols = (_pad_axis(r, b, a) for r, b, a in zip((view.rows, view.cols), before[1:], after[1:]))
    return replace(view, rows=rows, cols=cols, shift=shift, scale=view.scale * kept.to(view.scale))


def _pad_axis(ranges: Ranges, before: int, after: int) -> Ranges:
    kept = ranges[max(0, -before) : len(ranges) - max(0, -after)]
    return (_NOTHING,) * before + kept + (_NOTHING,) * after


def _pooled(view: View, op: AvgPool, shape: tuple[int, ...]) -> View | None:
    _, *sizes = extent(shape)
    settings = [(1, 1, 0), *zip(op.kernel, op.stride, op.padding)][-2:]
    axes = [
        _pool_axis(ranges, size, *setting, op.count_include_pad)
        for ranges, size, setting in zip((view.rows, view.cols), sizes, settings)
    ]
    if axes[0] is None or axes[1] is None:
        return None
    (rows, height), (cols, width) = axes[0], axes[1]
    return replace(view, rows=rows, cols=cols, scale=view.scale / (height * width))


def _pool_axis(
    ranges: Ranges, size: int, kernel: int, stride: int, padding: int, include_pad: bool
) -> tuple[Ranges, int] | None:
    """The pooled axis and its divisor; None if divisors differ or a window is not contiguous in the source."""
    pooled: list[tuple[int, int]] = []
    divisors: set[int] = set()
    for start in range(-padding, -padding + size * stride, stride):
        stop = min(start + kernel, len(ranges) + padding)
        first, last = max(start, 0), min(stop, len(ranges))
        divisors.add(stop - start if include_pad else last - first)
        window = [r for r in ranges[first:last] if r != _NOTHING]
        if any(a[1] != b[0] for a, b in pairwise(window)):
            return None
        pooled.append((window[0][0], window[-1][1]) if window else _NOTHING)
    return (tuple(pooled), divisors.pop()) if len(divisors) == 1 else None


def _table(ranges: Ranges, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Source ranges by output position and kernel element, (size, kernel, 2)."""
    places = ((y * stride - padding + k * dilation for k in range(kernel)) for y in range(size))
    found = [[ranges[i] if 0 <= i < len(ranges) else _NOTHING for i in row] for row in places]
    return torch.tensor(found, dtype=torch.int32)


def _moved(x: Tensor, shift: int, size: int) -> Tensor:
    """``size`` elements along the last axis, element i being x[i - shift], or zero where there is none."""
    moved = x.new_zeros(*x.shape[:-1], size)
    first, last = max(0, shift), min(size, x.shape[-1] + shift)
    if first < last:
        moved[..., first:last] = x[..., first - shift : last - shift]
    return moved
