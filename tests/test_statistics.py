"""Streaming statistics against NumPy on all the data at once, whatever the batches and their order."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equispike.errors import CalibrationError
from equispike.functional.statistics import Maximum, Mean, Percentile

TINY = 2.0**-126  # the smallest normal float32
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
finite64 = st.floats(min_value=-float(torch.finfo(torch.float32).max), max_value=float(torch.finfo(torch.float32).max))


def after(statistic, batches):
    return functools.reduce(statistic.update, batches, statistic.init())


def value(statistic, *batches: Tensor) -> Tensor:
    return statistic.value(after(statistic, batches))


def nearest_rank(values: np.ndarray, percentile: float) -> float:
    """The smallest positive v with at least that many % of the positive values <= v, or 0; percentile as printed."""
    ordered = np.sort(values.astype(np.float64)[values > 0])
    wanted = Fraction(str(percentile)) / 100 * len(ordered)
    if not len(ordered):
        return 0.0
    return next(float(v) for i, v in enumerate(ordered) if i + 1 >= wanted)


def assert_within_bound(found: float, x: Tensor, percentile: float, bits: int) -> None:
    exact = nearest_rank(x.numpy(), percentile)
    bound = 2.0 ** -(bits + 1) + (2.0**-24 if x.dtype == torch.float64 else 0.0)
    assert abs(found - exact) <= (bound * exact if exact >= TINY else 2.0 ** -(125 + bits))
    assert found <= max(0.0, float(x.max()))


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(finite32, min_size=1, max_size=60),
    percentile=st.sampled_from([0.1, 10.0, 25.0, 50.0, 75.0, 99.0, 99.9, 100.0]),
    bits=st.sampled_from([1, 4, 6, 12]),
)
def test_percentile_keeps_its_bound(values: list[float], percentile: float, bits: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert_within_bound(float(value(Percentile(percentile, bits=bits), x)), x, percentile, bits)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(finite64, min_size=1, max_size=60), percentile=st.sampled_from([10.0, 50.0, 99.9]))
def test_percentile_of_float64_keeps_its_bound(values: list[float], percentile: float) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    assert_within_bound(float(value(Percentile(percentile), x)), x, percentile, 12)


@pytest.mark.parametrize("bits", [6, 12])
@pytest.mark.parametrize("edge", [TINY, 1.0, 1.5, 3.0, 2.0**127, float(torch.finfo(torch.float32).max)])
def test_percentile_at_the_edges_of_bins(edge: float, bits: int) -> None:
    """Values that are, or round to, the first or the last of a bin; the largest one lies elsewhere."""
    top = torch.finfo(torch.float32).max
    for v in (math.nextafter(edge, 0.0), edge, math.nextafter(edge, top) if edge < top else edge):
        for dtype in (torch.float32, torch.float64):
            x = torch.tensor([v, v, top], dtype=dtype)
            assert_within_bound(float(value(Percentile(50.0, bits=bits), x)), x, 50.0, bits)


@pytest.mark.parametrize(("percentile", "rank"), [(99.9, 999), (99.0, 990), (14.0, 140), (0.1, 1), (50.0, 500)])
def test_percentile_is_decimal(percentile: float, rank: int) -> None:
    """1..1000 at 99.9 % is 999 exactly: in floating point 99.9 / 100 * 1000 may pass it."""
    found = float(value(Percentile(percentile, bits=16), torch.arange(1, 1001).float()))
    assert abs(found - rank) <= rank * 2.0**-17
    assert round(found) == rank


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("per_channel", [False, True])
def test_percentile_of_activations(percentile: float, per_channel: bool) -> None:
    x = torch.randn(40, 5, 9, 9, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 5)[:, None, None]
    x = x.relu()
    statistic = Percentile(percentile, per_channel)
    found = value(statistic, *x.split(7))
    channels = x.transpose(0, 1).reshape(5, -1) if per_channel else x.reshape(1, -1)
    assert found.shape == ((5,) if per_channel else ())
    for v, channel in zip(found.reshape(-1).tolist(), channels, strict=True):
        assert_within_bound(v, channel, percentile, 6 if per_channel else 12)
        if percentile == 100:
            assert v == float(channel.max())


def test_percentile_of_signed_and_silent_data() -> None:
    assert float(value(Percentile(100.0), torch.tensor([-3.0, -1.0]))) == 0.0
    assert float(value(Percentile(50.0), torch.zeros(9))) == 0.0
    assert float(value(Percentile(1.0), torch.tensor([-5.0, -0.0, 0.0, 4.0]))) == 4.0


def test_the_share_above_a_limit_is_that_of_the_sum() -> None:
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) - 0.3
    for per_channel, limit in ((False, torch.tensor(0.25)), (True, torch.tensor([0.1, 0.25, 0.5]))):
        statistic = Percentile(99.0, per_channel)
        y = x.clamp(min=0)
        expected = float((y - limit).clamp(min=0).sum() / y.sum())
        assert statistic.clipped(after(statistic, [x]), limit.double()) == pytest.approx(expected, rel=0.01)
    silent = Percentile(99.0)
    assert silent.clipped(after(silent, [torch.zeros(9)]), torch.tensor(0.0)) == 0.0
    assert silent.clipped(after(silent, [torch.tensor([0.25])]), torch.tensor(0.125)) == pytest.approx(0.5, rel=0.01)


def test_default_histogram_of_512_channels_is_small() -> None:
    state = after(Percentile(99.9, per_channel=True), [torch.rand(2, 512)])
    assert state.counts.numel() * 8 <= 64 * 2**20


@settings(max_examples=60, deadline=None)
@given(values=st.lists(finite32, min_size=1, max_size=40))
def test_maximum_and_mean(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert float(value(Maximum(), x)) == float(x.max())
    exact = float(sum(map(Fraction, x.tolist())) / len(values))
    assert float(value(Mean(), x)) == exact
    positive = [Fraction(v) for v in x.tolist() if v > 0]
    assert float(value(Mean(positive=True), x)) == float(sum(positive) / max(len(positive), 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_maximum_is_exact_in_every_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(50, 3, 4, dtype=torch.float64).to(dtype)
    assert value(Maximum(), x).item() == x.max().item()
    assert value(Percentile(100.0), x).item() == max(0.0, x.max().item())
    assert torch.equal(value(Maximum(per_channel=True), x), x.amax((0, 2)).double())


STATISTICS = [
    s(per_channel=c)
    for s in (Maximum, Mean, functools.partial(Mean, positive=True), functools.partial(Percentile, 90.0, bits=4))
    for c in (False, True)
]


@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_batches_and_order_do_not_matter(statistic, order: list[int], sizes: list[int]) -> None:
    x = 100 * torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(0))
    cuts = [cut for cut in np.cumsum(sizes).tolist() if cut < 12]
    parts = torch.tensor_split(x[torch.tensor(order)], cuts)
    assert torch.equal(value(statistic, *parts), value(statistic, x))


@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
def test_merge_is_associative_and_commutative_with_init_as_its_unit(statistic) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (after(statistic, [torch.randint(-9, 90, (n, 3), generator=generator).float()]) for n in (1, 5, 8))
    merge, final = statistic.merge, statistic.value
    assert torch.equal(final(merge(a, merge(b, c))), final(merge(merge(a, b), c)))
    assert torch.equal(final(merge(a, b)), final(merge(b, a)))
    assert torch.equal(final(merge(a, statistic.init())), final(a))
    assert torch.equal(final(merge(statistic.init(), a)), final(a))


@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
def test_update_leaves_data_and_state_alone(statistic) -> None:
    x = torch.tensor([[-1.0, 2.0, -0.0], [4.0, -5.0, 6.0]])
    kept, state = x.clone(), after(statistic, [x])
    before = statistic.value(state).clone()
    statistic.update(state, x * 7)
    assert torch.equal(statistic.value(state), before)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(statistic, bad: float) -> None:
    x = torch.ones(3, 3)
    x[1, 1] = bad
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        statistic.update(statistic.init(), x)


@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
def test_nothing_seen_is_refused(statistic) -> None:
    for state in (statistic.init(), after(statistic, [torch.ones(0, 3)])):
        with pytest.raises(CalibrationError, match="no values"):
            statistic.value(state)


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s.per_channel], ids=str)
def test_channels_need_a_dimension(statistic) -> None:
    with pytest.raises(CalibrationError, match="channel"):
        statistic.update(statistic.init(), torch.ones(3))


def test_arguments_of_percentile_are_checked() -> None:
    for percentile in (0.0, -1.0, 100.1, math.nan):
        with pytest.raises(CalibrationError, match="percentile"):
            Percentile(percentile)
    for bits in (0, 17):
        with pytest.raises(CalibrationError, match="bits"):
            Percentile(99.0, bits=bits)
    with pytest.raises(CalibrationError, match="float32"):
        value(Percentile(50.0), torch.tensor([1e39], dtype=torch.float64))
