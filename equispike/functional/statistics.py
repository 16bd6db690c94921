"""Statistics of data that arrives in batches: exact maximum, mean, percentile.

A statistic is a description with four pure functions on a state that the caller holds:

    state = statistic.init()
    for batch in batches:
        state = statistic.update(state, batch)
    value = statistic.value(state)

``merge`` joins the states of two parts of the data, e.g. of two shards. Values are float64, which holds every smaller
type exactly: a scalar over everything, or (C,) over all but dimension 1 of (B, C, ...) where ``per_channel`` is set.
All are the same for any batch size and order, bit for bit.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from equispike.errors import CalibrationError
from equispike.functional.inputs import listed

Seen = TypeVar("Seen")


class Statistic(Protocol[Seen]):
    """Something that can be computed from data seen part by part. A state without data merges with any other."""

    def init(self, device: torch.device | str = "cpu") -> Seen:
        """The state before any data, on the device of the data to come."""
        ...

    def update(self, state: Seen, x: Tensor) -> Seen:
        """The state after x, floating point. Raises CalibrationError if a value is NaN or infinite."""
        ...

    def merge(self, a: Seen, b: Seen) -> Seen:
        """The state after the data of both."""
        ...

    def value(self, state: Seen) -> Tensor:
        """The statistic of all data seen. Raises CalibrationError if there was none."""
        ...


@dataclass(frozen=True)
class Maximum:
    """Largest value, signed and exact. The state is the maximum itself, minus infinity before any data.

    >>> statistic = Maximum()
    >>> statistic.value(statistic.update(statistic.init(), torch.tensor([-3.0, -2.0])))
    tensor(-2., dtype=torch.float64)
    """

    per_channel: bool = False

    def init(self, device: torch.device | str = "cpu") -> Tensor:
        return torch.tensor(-torch.inf, dtype=torch.float64, device=device)

    def update(self, state: Tensor, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return state
        _check(x, self.per_channel)
        return self.merge(state, x.amax(dim=_reduced(x, self.per_channel)).double())

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b)

    def value(self, state: Tensor) -> Tensor:
        if state.isneginf().any():
            raise _nothing_seen()
        return state


class ExactSum(NamedTuple):
    """State of a mean: sums of the mantissas by exponent, (1 or C, 256), and how many values (per channel), int64."""

    total: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Mean:
    r"""Arithmetic mean, exact: mantissas are added as integers, one sum for each exponent of a float32.

    .. math:: \sum_i x_i = \sum_e 2^{e - 150} \sum_{i:\, e_i = e} m_i, \qquad x = m \, 2^{e - 150}, \quad |m| < 2^{24}

    A float64 is rounded to float32 first, which adds 2**-24 of each value; one too large for float32 is refused.

    Args:
        per_channel: one mean for each index of dimension 1.
        positive: of the values above zero alone; 0 where there is none.
    """

    per_channel: bool = False
    positive: bool = False

    def init(self, device: torch.device | str = "cpu") -> ExactSum:
        zero = torch.zeros(1, 256, dtype=torch.int64, device=device)
        return ExactSum(zero, zero[:, 0].clone() - 1)  # -1: nothing was seen, not even values that do not count

    def update(self, state: ExactSum, x: Tensor) -> ExactSum:
        if x.numel() == 0:
            return state
        _check(x, self.per_channel, limit=torch.finfo(torch.float32).max)
        channels = x.shape[1] if self.per_channel else 1
        rows = x.movedim(1, 0).reshape(channels, -1) if self.per_channel else x.reshape(1, -1)
        bits = rows.float().contiguous().view(torch.int32)
        exponent = (bits >> 23 & 0xFF).long()
        mantissa = (bits & 0x7FFFFF).long() + ((exponent > 0).long() << 23)
        signed = mantissa * bits.sign()
        counted = rows > 0 if self.positive else torch.ones_like(rows, dtype=torch.bool)
        total = torch.zeros(channels, 256, dtype=torch.int64, device=x.device)
        total.scatter_add_(1, exponent.clamp(min=1), signed * counted)  # subnormal: in units of 2**-149 as well
        return self.merge(state, ExactSum(total, counted.sum(1)))

    def merge(self, a: ExactSum, b: ExactSum) -> ExactSum:
        unseen_a, unseen_b = bool((a.seen < 0).any()), bool((b.seen < 0).any())
        if unseen_a or unseen_b:
            return a if unseen_b else b
        return ExactSum(a.total + b.total, a.seen + b.seen)

    def value(self, state: ExactSum) -> Tensor:
        if bool((state.seen < 0).any()):
            raise _nothing_seen()
        totals: list[list[int]] = listed(state.total)
        numbers: list[int] = listed(state.seen)
        means = [
            float(sum((m * Fraction(2) ** (e - 150) for e, m in enumerate(row) if m), Fraction()) / max(seen, 1))
            for row, seen in zip(totals, numbers)
        ]
        found = torch.tensor(means, dtype=torch.float64, device=state.total.device)
        return found if self.per_channel else found[0]


class Histogram(NamedTuple):
    """State of a percentile: values in each bin, (1 or C, bins), int64, and the exact maximum, () or (C,), float64.

    Most bins are empty, so the counts may be sparse where they are sent to another process.
    """

    counts: Tensor
    maximum: Tensor


@dataclass(frozen=True)
class Percentile:
    r"""Percentile of the values above zero by nearest rank: the smallest v with at least ``percentile`` % of them <= v.

    Made for outputs of ReLU: zeros do not count, so that the percentile of a layer of which few neurons are active is
    one of what is active (as in the reference code of Rueckauer et al., 2017). It is 0 where there is none. The state
    is a histogram whose bins are the sign-free leading bits of the float32 representation (8 of the exponent,
    m = ``bits`` of the mantissa), which order positive numbers as their values do. The value is the middle of the bin
    that holds the nearest rank, or the exact maximum where that is smaller, so

    .. math:: |\hat v - v| \le 2^{-(m+1)} v, \qquad \hat v \le \max

    for float32 and smaller types. Values under 2**-126 have no such relative bound: there the error is at most
    2 * 2**-(126 + m). A float64 is rounded to float32 first, which adds 2**-24 to the bound; one too large for float32
    is refused. Percentile 100 gives the exact maximum.

    Args:
        percentile: in (0, 100], read as the decimal number that it prints as: 99.9 is 999 / 1000.
        per_channel: one percentile for each index of dimension 1.
        bits: m, 1 to 16. None takes 12 for a scalar (8 MB, bound 0.0122 %) and 6 per channel (131 kB per channel,
            so 67 MB for 512; bound 0.78 %).
    """

    percentile: float
    per_channel: bool = False
    bits: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise CalibrationError(f"percentile: {self.percentile} is outside (0, 100]; 99.9 means 99.9 %")
        if self.bits is not None and not 1 <= self.bits <= 16:
            raise CalibrationError(f"bits: {self.bits} is outside 1 to 16; pass None for the default")

    @property
    def mantissa_bits(self) -> int:
        """m, the mantissa bits that a bin keeps."""
        return self.bits if self.bits is not None else 6 if self.per_channel else 12

    @property
    def bins(self) -> int:
        """Bins of one histogram: every finite, non-negative float32 has one."""
        return 255 << self.mantissa_bits

    def init(self, device: torch.device | str = "cpu") -> Histogram:
        counts = torch.zeros(1, self.bins, dtype=torch.int64, device=device)
        return Histogram(counts, torch.tensor(0.0, dtype=torch.float64, device=device))

    def update(self, state: Histogram, x: Tensor) -> Histogram:
        """Counts the values of x in bins of equal relative width; negative ones count as 0."""
        if x.numel() == 0:
            return state
        _check(x, self.per_channel, limit=torch.finfo(torch.float32).max)
        # where, unlike clamp, also turns -0.0 into 0.0, whose bits are zero.
        x = x.where(x > 0, 0.0)
        maximum = x.amax(dim=_reduced(x, self.per_channel)).double()
        keys = x.float().view(torch.int32) >> (23 - self.mantissa_bits)
        keys = torch.where(x > 0, keys.clamp(min=1), keys)  # the first bin is for zeros alone
        channels = 1
        if self.per_channel:
            channels = x.shape[1]
            offsets = torch.arange(channels, device=x.device) * self.bins
            keys = keys + offsets.reshape(-1, *[1] * (x.ndim - 2))
        counts = torch.bincount(keys.flatten(), minlength=channels * self.bins)
        return self.merge(state, Histogram(counts.reshape(channels, self.bins), maximum))

    def merge(self, a: Histogram, b: Histogram) -> Histogram:
        if len(a.counts) != len(b.counts):  # one of them has seen nothing
            return a if len(a.counts) > len(b.counts) else b
        return Histogram(a.counts.to_dense() + b.counts, torch.maximum(a.maximum, b.maximum))

    def value(self, state: Histogram) -> Tensor:
        below = state.counts.to_dense().cumsum(dim=1)
        if int(below[0, -1]) == 0:
            raise _nothing_seen()
        zeros, total = below[:, 0], below[:, -1]
        active: list[int] = listed(total - zeros)
        # In exact arithmetic: 99.9 / 100 * 1000 is above 999 in floating point, and its ceiling 1000.
        share = Fraction(repr(float(self.percentile))) / 100
        ranks = zeros + torch.tensor([-(-share * n // 1) for n in active], dtype=torch.int64, device=below.device)
        middle = self._middle(torch.searchsorted(below, ranks.unsqueeze(1)).squeeze(1)).where(ranks < total, torch.inf)
        return torch.minimum(middle.reshape(state.maximum.shape), state.maximum)

    def clipped(self, state: Histogram, limit: Tensor) -> float:
        """Share of the sum of all values that lies above the limit, () or (C,); a value counts as its bin's middle."""
        counts = state.counts.to_dense()
        channels, bins = counts.nonzero(as_tuple=True)  # few of the bins hold anything
        numbers, middle = counts[channels, bins], self._middle(bins)
        above = (middle - limit.expand(len(counts))[channels]).clamp(min=0)
        return float((numbers * above).sum() / (numbers * middle).sum().clamp(min=1e-300))

    def _middle(self, bins: Tensor) -> Tensor:
        """Middle of each bin, float64; zero for the first, which holds zero."""
        shift = 23 - self.mantissa_bits
        representation = (bins << shift) + (1 << shift - 1)
        return representation.int().view(torch.float32).double().where(bins > 0, 0.0)


def _reduced(x: Tensor, per_channel: bool) -> tuple[int, ...]:
    """Dimensions that a statistic runs over."""
    return tuple(i for i in range(x.ndim) if not (per_channel and i == 1))


def _check(x: Tensor, per_channel: bool, limit: float = torch.inf) -> None:
    if per_channel and x.ndim < 2:
        raise CalibrationError(f"shape {tuple(x.shape)} has no channel dimension; expected (B, C, ...)")
    everything = tuple(range(x.ndim))  # with dimensions named, a tensor in any order of memory is read in that order
    low, high = x.amin(everything), x.amax(everything)  # NaN propagates
    if not (low.isfinite() and high.isfinite()):
        raise CalibrationError("a value is NaN or infinite; check the weights and the calibration images")
    if high > limit:
        raise CalibrationError(f"{float(high):g} is larger than a float32 holds; scale the network or its input down")


def _nothing_seen() -> CalibrationError:
    return CalibrationError("no values were seen; pass at least one calibration batch")
