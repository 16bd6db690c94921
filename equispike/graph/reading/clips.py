"""Calls that become neurons: ReLU in all its spellings, and what one or two of them express exactly."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equispike.functional import rate
from equispike.graph.ops import Add, Affine, LeakyReLU, Neuron, Op
from equispike.graph.reading.terms import Mask, Ops, Step, Untranslatable, Value, affine, aten

CHOICE = "chooses by the images' data. Of such choices only x where x > 0, else 0, is a ReLU. Use ReLU"
JUMPS = "jumps, and no sum of ReLUs does. Use ReLU, or equispike.nn.RateNorm with levels"


def relu(x: Value) -> list[Op]:
    return [] if x.positive else [Neuron()]


def clamp(x: Value, low: Any = None, high: Any = None) -> Ops:
    r"""Neurons with a ceiling, moved to the lower bound; with an upper bound b alone, b - relu(b - x)."""
    least, most = _bound(low, -math.inf), _bound(high, math.inf)
    least = max(least, 0.0) if x.positive else least
    if not least < most:
        raise Untranslatable(f"clamps to [{least:g}, {most:g}], which is constant. Remove it")
    if most == math.inf and (least == -math.inf or (x.positive and least == 0)):
        return []
    if least == -math.inf:
        return [_affine(x, -1.0, most), Neuron(), _affine(x, -1.0, most)]
    ceiling = None if most == math.inf else most - least
    if least == 0:
        return [Neuron(ceiling=ceiling)]
    return [_affine(x, 1.0, -least), Neuron(ceiling=ceiling), _affine(x, 1.0, least)]


def _clamp_max(x: Value, high: Any) -> Ops:
    return clamp(x, None, high)


def _hard_tanh(x: Value, low: Any = -1.0, high: Any = 1.0) -> Ops:
    return clamp(x, low, high)


def _bound(value: Any, missing: float) -> float:
    """A number that bounds all features; ``missing`` where there is none."""
    if isinstance(value, Value):
        raise Untranslatable("its bounds are computed from the images. Use fixed ones")
    if value is None:
        return missing
    numbers = torch.as_tensor(value).double().flatten()
    if not len(numbers) or not bool((numbers == numbers[0]).all()):
        raise Untranslatable("its bounds differ from place to place. Use one for the layer")
    return float(numbers[0])


def _affine(x: Value, scale: float, shift: float) -> Affine:
    factors, shifts = (torch.full((x.shape[0],), number, dtype=torch.float64) for number in (scale, shift))
    return Affine(factors, shifts)


def _threshold(x: Value, threshold: float, value: float) -> Ops:
    if threshold != value:
        raise Untranslatable(
            f"jumps from {value:g} to {threshold:g}, and no sum of ReLUs does. Use ReLU, or the same for both"
        )
    return clamp(x, threshold)


def _abs(x: Value) -> Ops:
    """relu(x) + relu(-x)."""
    if x.positive:
        return []
    return [Step(Neuron(), (0,)), Step(Add((-1.0,)), (0,)), Neuron(), Step(Add((1.0, 1.0)), (1, 3))]


def _soft_shrink(x: Value, bound: float = 0.5) -> Ops:
    """relu(x - b) - relu(-x - b)."""
    above, below = _affine(x, 1.0, -bound), _affine(x, -1.0, -bound)
    return [Step(above, (0,)), Neuron(), Step(below, (0,)), Neuron(), Step(Add((1.0, -1.0)), (2, 4))]


def _hard_shrink(x: Value, bound: float = 0.5) -> Ops:
    if bound > 0:
        raise Untranslatable(f"jumps at {-bound:g} and {bound:g}, and no sum of ReLUs does. Use Softshrink, or ReLU")
    return []


def _hard_sigmoid(x: Value) -> Ops:
    """A sixth of relu6(x + 3)."""
    return [_affine(x, 1.0, 3.0), Neuron(ceiling=6.0), _affine(x, 1 / 6, 0.0)]


def maximum(x: Value | Tensor, y: Value | Tensor) -> Ops:
    """y + relu(x - y)."""
    if isinstance(x, Value) and isinstance(y, Value):
        _same(x, y)
        return [Step(Add((1.0, -1.0)), (0, 1)), Neuron(), Step(Add((1.0, 1.0)), (1, 3))]
    return _bounded(x, y, 1.0)


def minimum(x: Value | Tensor, y: Value | Tensor) -> Ops:
    """x - relu(x - y)."""
    if isinstance(x, Value) and isinstance(y, Value):
        _same(x, y)
        return [Step(Add((1.0, -1.0)), (0, 1)), Neuron(), Step(Add((1.0, -1.0)), (0, 3))]
    return _bounded(x, y, -1.0)


def _same(x: Value, y: Value) -> None:
    if x.shape != y.shape:
        raise Untranslatable(f"compares features {x.shape} and {y.shape}. Give both the same shape")


def _bounded(x: Value | Tensor, y: Value | Tensor, side: float) -> Ops:
    """The larger (side 1) or smaller (side -1) of features and a constant c: c + side relu(side (x - c))."""
    data, constant = (x, y) if isinstance(x, Value) else (y, x)
    assert isinstance(data, Value)
    fixed = torch.as_tensor(constant).double()
    if bool((fixed == fixed.flatten()[0]).all()):
        return clamp(data, float(fixed.flatten()[0])) if side > 0 else clamp(data, None, float(fixed.flatten()[0]))
    return [*affine(data, side, -side * fixed), Neuron(), *affine(data, side, fixed)]


def _leaky_relu(x: Value, slope: Any = 0.01) -> Ops:
    if isinstance(slope, Value):
        raise Untranslatable("its slope is computed from the images. Use a fixed one")
    slope = torch.as_tensor(slope).flatten()
    if len(slope) not in (1, x.shape[0]):
        raise Untranslatable(f"has {len(slope)} slopes for {x.shape[0]} channels. Use one, or one per channel")
    return [LeakyReLU(slope)]


def _random_leaky_relu(x: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Ops:
    if training:
        raise Untranslatable("draws its slope at random in eval mode too. Pass training=self.training")
    return _leaky_relu(x, (float(lower) + float(upper)) / 2)


def _rate_norm(x: Value, theta: Tensor | Value) -> Ops:
    if isinstance(theta, Value):
        raise Untranslatable("its threshold is computed from the images. Use the running maximum, as eval mode does")
    if not float(theta) > 0:
        raise Untranslatable(f"its threshold {float(theta):g} is not positive. Train the model again")
    return [Neuron(theta.clone(), torch.ones_like(theta), ceiling=float(theta))]


def _rate_levels(x: Value, theta: Tensor | Value, size: Tensor | Value, levels: int) -> Ops:
    (neuron,) = _rate_norm(x, theta)
    if isinstance(size, Value):
        raise Untranslatable("the size of its spikes is computed from the images. Use RateNorm with levels")
    return [replace(neuron, amplitude=size.clone(), levels=levels)]


def chosen(mask: Any, x: Any, y: Any) -> Ops:
    """x where it is above zero, else 0."""
    if isinstance(mask, Mask):
        kept, other = (x, y) if mask.above else (y, x)
        zero = not isinstance(other, Value) and not bool(torch.as_tensor(other).any())
        if zero and isinstance(kept, Value) and (kept.node, kept.shape) == (mask.node, mask.shape):
            return [Step(Neuron(), (0,))]  # the mask and what it chooses from are one node's value
    raise Untranslatable(CHOICE)


def _filled(x: Value, mask: Any, value: Any) -> Ops:
    """The value where the mask holds, else x."""
    return chosen(mask, value, x)


def _put(x: Value, places: Any, value: Any, accumulate: bool = False) -> Ops:
    """The same as ``x[mask] = value``."""
    return chosen(places[0] if len(places) == 1 and not accumulate else None, value, x)


CLIPS: dict[object, Callable[..., Ops]] = {
    aten.relu.default: relu,
    aten.relu6.default: partial(clamp, low=0.0, high=6.0),
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clip.default: clamp,
    aten.clip.Tensor: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_min.Tensor: clamp,
    aten.clamp_max.default: _clamp_max,
    aten.clamp_max.Tensor: _clamp_max,
    aten.hardtanh.default: _hard_tanh,
    aten.threshold.default: _threshold,
    aten.abs.default: _abs,
    aten.softshrink.default: _soft_shrink,
    aten.hardshrink.default: _hard_shrink,
    aten.hardsigmoid.default: _hard_sigmoid,
    aten.maximum.default: maximum,
    aten.minimum.default: minimum,
    aten.max.other: maximum,
    aten.min.other: minimum,
    aten.fmax.default: maximum,
    aten.fmin.default: minimum,
    aten.masked_fill.Scalar: _filled,
    aten.masked_fill.Tensor: _filled,
    aten.index_put.default: _put,
    aten.leaky_relu.default: _leaky_relu,
    aten.prelu.default: _leaky_relu,
    aten._prelu_kernel.default: _leaky_relu,
    aten.rrelu.default: _random_leaky_relu,
    aten.where.self: chosen,
    aten.where.ScalarOther: chosen,
    aten.where.ScalarSelf: chosen,
    rate.OPERATOR: _rate_norm,
    rate.LEVELS_OPERATOR: _rate_levels,
}

COMPARISONS: dict[object, bool] = {
    **dict.fromkeys((aten.gt.Scalar, aten.ge.Scalar, aten.gt.Tensor, aten.ge.Tensor), True),
    **dict.fromkeys((aten.lt.Scalar, aten.le.Scalar, aten.lt.Tensor, aten.le.Tensor), False),
}
"""Comparisons with zero, and whether they hold above it. At zero itself either choice gives zero."""
