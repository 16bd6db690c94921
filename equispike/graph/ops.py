"""Operations, one frozen dataclass each: what a node does.

Calling an operation gives the *trained* network's value, (B, *features) in and out; on linear operations that is also
what a spiking step does, so engines call them as they are and treat only ``Input``, ``Neuron`` and ``Readout`` apart.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.errors import ConversionError
from equispike.functional.integrate import Reset


@dataclass(frozen=True, eq=False)
class Input:
    """Where images enter. An input spike has size ``amplitude``; it stands for a pixel of ``scale``.

    Attributes:
        shape: features of one image, without the batch.
        scale: largest absolute pixel seen in calibration, which a Poisson coder maps to one spike in every step.
        amplitude: size of one input spike in the network's own units (``scale`` in the activation form, 1 balanced).
        step: images are rounded to multiples of it and saturate at ``scale``; None takes them as they are.
    """

    shape: tuple[int, ...]
    scale: float = 1.0
    amplitude: float = 1.0
    step: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.amplitude == self.scale else x * (self.amplitude / self.scale)

    def on_grid(self, x: Tensor) -> Tensor:
        """The images (B, *features) as they enter the network."""
        return x if self.step is None else (x / self.step).round().mul(self.step).clamp(-self.scale, self.scale)


@dataclass(frozen=True, eq=False)
class _Dense:
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Conv(_Dense):
    """Convolution, 1d or 2d by the rank of the weight (out, in / groups, *kernel); zero padding."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        convolve = F.conv1d if self.weight.ndim == 3 else F.conv2d
        # along an axis with one weight dilation means nothing, and oneDNN can crash on it (torch 2.13, channels last)
        dilation = tuple(d if k > 1 else 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))
        return convolve(x, self.weight, self.bias, self.stride, self.padding, dilation, self.groups)


@dataclass(frozen=True, eq=False)
class Linear(_Dense):
    """Fully connected layer on vectors, weight (out, in)."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class AvgPool:
    """Average pooling, 1d or 2d by the length of the kernel."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        pool = F.avg_pool1d if len(self.kernel) == 1 else F.avg_pool2d
        return pool(x, self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def total(self, x: Tensor) -> Tensor:
        """Sums of the windows, before the division."""
        if len(self.kernel) == 2:
            return F.avg_pool2d(x, self.kernel, self.stride, self.padding, self.ceil_mode, divisor_override=1)
        wide = (*self.kernel, 1), (*self.stride, 1), (*self.padding, 0)
        return F.avg_pool2d(x[..., None], *wide, self.ceil_mode, divisor_override=1)[..., 0]

    def divisors(self, space: tuple[int, ...]) -> Tensor:
        """Elements of the window at each place, of the padding too where it counts.

        Args:
            space: sizes of the input in space.
        Returns:
            integers, of the sizes of the output in space.
        """
        windows = torch.ones((), dtype=torch.int64)
        for kernel, stride, padding, size in zip(self.kernel, self.stride, self.padding, space, strict=True):
            reach = size + 2 * padding - kernel
            starts = torch.arange((-(-reach // stride) if self.ceil_mode else reach // stride) + 1) * stride - padding
            starts = starts[starts < size]  # in ceil mode, torch drops a window that would begin behind the features
            low, high = (0, size) if not self.count_include_pad else (-padding, size + padding)
            windows = windows[..., None] * ((starts + kernel).clamp(max=high) - starts.clamp(min=low))
        return windows

    def sizes(self, space: tuple[int, ...]) -> set[int]:
        """All that it divides by somewhere."""
        return {int(n) for n in self.divisors(space).flatten()}

    def sums(self, channels: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Conv:
        """The sums over these windows, as a depthwise convolution; without those that only ``ceil_mode`` adds."""
        ones = torch.ones(channels, 1, *self.kernel, dtype=dtype, device=device)
        return Conv(ones, None, self.stride, self.padding, (1,) * len(self.kernel), groups=channels)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Max pooling: read from a model so that a pass can replace it; no engine runs it."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        pool = F.max_pool1d if len(self.kernel) == 1 else F.max_pool2d
        return pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)


@dataclass(frozen=True, eq=False)
class WinnerPool(MaxPool):
    r"""Max pooling of spikes: of each window, the growth of the largest sum of spikes passes.

    .. math:: y(t) = \max_i S_i(t) - \max_i S_i(t - 1), \qquad S_i(t) = \sum_{s \le t} x_i(s)

    So the count of what passes is the largest count in the window, at any time. (The gate of Rueckauer et al., 2017,
    passes the spikes of whoever leads; of neurons that take turns too many.) Constant inputs give their maximum.
    """


@dataclass(frozen=True, eq=False)
class LeakyReLU:
    """x where it is positive, else slope x, slope () or (C,): read from a model so that a lossy pass can replace it."""

    slope: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.slope.view(-1, *(1,) * (x.ndim - 2)))


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale x + shift per channel (batch norm in eval mode, or a constant); folded away before conversion."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        along_channels = (-1, *(1,) * (x.ndim - 2))
        return x * self.scale.view(along_channels) + self.shift.view(along_channels)


@dataclass(frozen=True, eq=False)
class Flatten:
    """All features of an image in one vector, in C order."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True, eq=False)
class Pad:
    """Zeros around the features, or their margins cut off: ``before`` and ``after`` along each feature axis.

    The first axis is the channels. A negative number cuts that many off. ``between`` neighbours along an axis go so
    many zeros, first of all; empty for none anywhere.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        if any(self.between):
            sizes = [(n - 1) * (zeros + 1) + 1 for n, zeros in zip(x.shape[1:], self.between, strict=True)]
            spread = x.new_zeros(len(x), *sizes)
            spread[(slice(None), *(slice(None, None, zeros + 1) for zeros in self.between))] = x
            x = spread
        axes = list(zip(self.before, self.after, x.shape[1:], strict=True))
        return F.pad(x, [n for before, after, _ in reversed(axes) for n in (before, after)])


@dataclass(frozen=True, eq=False)
class Sparse:
    r"""A fixed linear map of few weights, of features in C order: moves, repeats, sums, interpolates.

    .. math:: y_i = \sum_k w_{ki} \, x_{s_{ki}} + b_i

    The features are blocks of equal size, one after the other, and the same map acts on each of them: where it leaves
    channels alone, these are the channels.

    Attributes:
        shape: of what it gives.
        size: features of its input in one block.
        source: s, places in the block, (K, outputs of one block), integers; 0 where there is no weight.
        weight: w, of the same shape; 0 where there is none.
        bias: of the shape that it gives, or None.
    Raises:
        ConversionError: sources do not fit the size, or weights the sources.
    """

    shape: tuple[int, ...]
    size: int
    source: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        known = self.source.device.type != "meta" and self.source.numel()
        if (
            self.source.dtype != torch.int64
            or self.source.ndim != 2
            or self.source.shape != self.weight.shape
            or (known and not 0 <= int(self.source.min()) <= int(self.source.max()) < self.size)
        ):
            raise ConversionError(f"Sparse: its sources do not fit blocks of {self.size} features. Convert again")

    def __call__(self, x: Tensor) -> Tensor:
        blocks = x.reshape(len(x), math.prod(x.shape[1:]) // self.size, self.size)
        y = blocks.index_select(2, self.source[0]) * self.weight[0]
        for source, weight in zip(self.source[1:], self.weight[1:], strict=True):
            y = y + blocks.index_select(2, source) * weight
        y = y.reshape(len(x), *self.shape)
        return y if self.bias is None else y + self.bias

    @property
    def moves(self) -> bool:
        """Every output is one of the inputs, or zero."""
        alone = len(self.weight) == 1 and self.bias is None
        return alone and bool(((self.weight == 0) | (self.weight == 1)).all())


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of its inputs, input i weighted with coefficient i: 1 unless the inputs count in different units."""

    coefficients: tuple[float, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        first, *rest = _weighted(inputs, self.coefficients)
        for x in rest:
            first = first + x
        return first


@dataclass(frozen=True, eq=False)
class Concat:
    """Inputs side by side along the channels, weighted as in :class:`Add`."""

    coefficients: tuple[float, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.cat(_weighted(inputs, self.coefficients), dim=1)


@dataclass(frozen=True, eq=False)
class Neuron:
    """Integrate-and-fire neurons that stand for a ReLU.

    Attributes:
        threshold: theta, in units of the input current, shape () or (C, 1, ...); None before calibration.
        amplitude: a, the size of one spike, shape () or (C, 1, ...); None before calibration.
        ceiling: upper bound of the trained activation in units of the current (ReLU6: 6), or None.
        reset: "subtract" (soft) or "zero" (hard).
        v_init: potential before the first step: a number is a fraction of the threshold, "uniform" draws in [0, theta),
            a tensor (C, 1, ...) is the potential of each channel, in units of the current.
        drive: current of each channel that is added in every step, (S, C): step t = 1, 2, ... uses row min(t, S).
        spikes: "binary", or "signed": a negative spike takes one back when the potential falls below zero.
        levels: the trained activation is a multiple of ceiling / levels (QCFS: Bu et al., 2022), or None. Spikes do not
            depend on it.

    Called on a current I it gives what the spikes stand for, a I / theta clipped at zero and at the ceiling: the rate
    times the amplitude, were rates continuous and unbounded. In the activation form (a = theta) that is the ReLU. The
    drive is no part of it: it corrects what spikes make of the ReLU, and the trained function stays what it was.
    """

    threshold: Tensor | None = None
    amplitude: Tensor | None = None
    ceiling: float | None = None
    reset: Reset = "subtract"
    v_init: float | Literal["uniform"] | Tensor = 0.0
    drive: Tensor | None = None
    spikes: Literal["binary", "signed"] = "binary"
    levels: int | None = None

    @property
    def signed(self) -> bool:
        """Negative spikes are sent too."""
        return self.spikes == "signed"

    @property
    def at_rest(self) -> bool:
        """Every potential is zero before the first step."""
        return not bool(self.v_init.any()) if isinstance(self.v_init, Tensor) else self.v_init == 0.0

    def drive_in(self, steps: range) -> Tensor | None:
        """Rows of the drive for some steps, (T', C), or one row where all are the same; None without a drive."""
        if self.drive is None or len(self.drive) == 1:
            return self.drive
        return self.drive[[min(t, len(self.drive)) - 1 for t in steps]]

    def __call__(self, x: Tensor) -> Tensor:
        y = x.clamp(min=0.0, max=self.ceiling)
        if self.levels is not None and self.ceiling is not None:
            y = (y * (self.levels / self.ceiling) + 0.5).floor() * (self.ceiling / self.levels)
        if self.threshold is None or self.amplitude is None:
            return y
        return y * (self.amplitude / self.threshold)


@dataclass(frozen=True, eq=False)
class Readout:
    """Class scores: the sum over time of its input, times ``scale``, so that score / T estimates the trained output.

    Its input is the last layer's current (readout by potential) or spikes of output neurons. ``mix`` M, (classes,
    classes), and ``shift`` c, (classes,), correct scores s of t steps of spikes to M s + t c. Scores leave out the
    share ``delay`` of the steps, the first ones (see ``functional.coding.delayed``). Trained scores stay as they are.
    """

    scale: float = 1.0
    mix: Tensor | None = None
    shift: Tensor | None = None
    delay: float = 0.0

    @property
    def mixing(self) -> Linear | None:
        """The correction as a layer on what the readout reads, or None."""
        return None if self.mix is None or self.shift is None else Linear(self.mix, self.shift / self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.scale == 1.0 else x * self.scale


Weighted = Conv | Linear
"""Sums of many inputs with weights and a bias."""

Weights = Weighted | Sparse
"""Operations with a weight for each input that they read, and a bias or none."""

Sum = Add | Concat
"""Several inputs, each with a coefficient."""

Move = Flatten | Pad
"""Features in other places, and zeros."""

Op = Input | Weights | AvgPool | MaxPool | WinnerPool | LeakyReLU | Affine | Move | Sum | Neuron | Readout
AnyOp = TypeVar("AnyOp", bound=Op)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: its name (the layer's path in the model), what it does, and the nodes that feed it."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()


def map_tensors(op: AnyOp, change: Callable[[Tensor], Tensor]) -> AnyOp:
    """The operation with ``change`` applied to each of its tensors (a copy; the original stays).

    Integers keep their type and values, and go where ``change`` takes the others.
    """
    tensors = {f.name: value for f in dataclasses.fields(op) if isinstance(value := getattr(op, f.name), Tensor)}
    changed = {name: change(value) for name, value in tensors.items() if value.is_floating_point()}
    devices = [value.device for value in changed.values()]
    kept = {name: value.to(devices[0]) for name, value in tensors.items() if name not in changed}
    return dataclasses.replace(op, **changed, **kept)


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """Weights of a convolution without groups that does the same: zeros between the groups."""
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    whole = weight.new_zeros(groups, blocks.shape[1], groups, *weight.shape[1:])
    whole[torch.arange(groups), :, torch.arange(groups)] = blocks
    return whole.reshape(weight.shape[0], -1, *weight.shape[2:])


def _weighted(inputs: tuple[Tensor, ...], coefficients: tuple[float, ...]) -> list[Tensor]:
    return [x if c == 1.0 else x * c for x, c in zip(inputs, coefficients, strict=True)]
