"""Theorems about integrate-and-fire neurons. Integer currents in float64 make every equality exact."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equispike.functional.integrate import if_scan, if_step, signed_step

RESETS = "subtract", "zero"


def integers(*shape: int, low: int = -9, high: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).double()


def literal(currents: list[int], threshold: int, reset: str, v: int = 0) -> tuple[list[int], int]:
    """One neuron as the papers describe it."""
    spikes: list[int] = []
    for current in currents:
        v += current
        spikes.append(int(v >= threshold))
        if spikes[-1]:
            v = v - threshold if reset == "subtract" else 0
    return spikes, v


@given(
    currents=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    threshold=st.integers(1, 40),
    v=st.integers(-40, 40),
    reset=st.sampled_from(RESETS),
)
def test_scan_is_the_literal_loop(currents: list[int], threshold: int, v: int, reset: str) -> None:
    spikes, end = if_scan(torch.tensor(currents).double()[:, None], threshold, reset, v)  # type: ignore[arg-type]
    assert (spikes[:, 0].int().tolist(), int(end)) == literal(currents, threshold, reset, v)


@given(
    currents=st.lists(st.integers(-50, 50), min_size=1, max_size=60), threshold=st.integers(1, 40), v=st.integers(-9, 9)
)
def test_soft_reset_conserves_charge(currents: list[int], threshold: int, v: int) -> None:
    spikes, end = if_scan(torch.tensor(currents).double()[:, None], threshold, v_init=v)
    assert int(end) == v + sum(currents) - threshold * int(spikes.sum())


@given(current=st.integers(0, 100), threshold=st.integers(1, 60), steps=st.integers(1, 120))
def test_constant_current_gives_the_clipped_floor(current: int, threshold: int, steps: int) -> None:
    spikes, _ = if_scan(torch.full((steps, 1), float(current), dtype=torch.float64), threshold)
    assert int(spikes.sum()) == min(steps, steps * current // threshold)


@pytest.mark.parametrize(("reset", "expected"), [("subtract", [1, 1, 1]), ("zero", [1, 1, 0])])
def test_example_of_han(reset: str, expected: list[int]) -> None:
    """Han et al. (2020), section 3.2: 1.5, 1.2 and 0.3 thresholds are three thresholds; here in tenths."""
    spikes, _ = if_scan(torch.tensor([[15.0], [12.0], [3.0]]), 10.0, reset)  # type: ignore[arg-type]
    assert spikes[:, 0].int().tolist() == expected


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("threshold", [3.0, torch.tensor([2.0, 3.0, 5.0]).double()[:, None, None]])
def test_scan_is_the_step_repeated(reset, threshold) -> None:
    currents = integers(40, 2, 3, 4, 4)
    v = integers(2, 3, 4, 4, low=0, high=3, seed=1)
    amplitude = torch.tensor([0.5, 1.0, 4.0]).double()[:, None, None]
    scanned, end = if_scan(currents, threshold, reset, v, amplitude)
    for current, expected in zip(currents, scanned, strict=True):
        spikes, v = if_step(current, v, threshold, reset, amplitude)
        assert torch.equal(spikes, expected)
    assert torch.equal(v, end)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("cut", [1, 7, 39])
def test_chunks_of_a_scan_are_the_scan(reset, cut: int) -> None:
    currents = integers(40, 2, 5)
    whole, end = if_scan(currents, 3.0, reset)
    first, v = if_scan(currents[:cut], 3.0, reset)
    second, v = if_scan(currents[cut:], 3.0, reset, v)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, end)


def test_scan_leaves_its_arguments_alone() -> None:
    currents, v = integers(5, 2, 3), torch.ones(2, 3).double()
    kept = currents.clone()
    if_scan(currents, 2.0, "subtract", v, 3.0)
    assert torch.equal(currents, kept)
    assert torch.equal(v, torch.ones_like(v))


def test_amplitude_scales_spikes_and_nothing_else() -> None:
    currents = integers(20, 3, 4)
    unit, v_unit = if_scan(currents, 4.0)
    sized, v_sized = if_scan(currents, 4.0, amplitude=2.5)
    assert torch.equal(sized, unit * 2.5)
    assert torch.equal(v_sized, v_unit)


@pytest.mark.parametrize("reset", RESETS)
def test_channels_have_their_own_thresholds(reset) -> None:
    currents, thresholds = integers(30, 2, 3), torch.tensor([1.0, 4.0, 9.0]).double()
    spikes, v = if_scan(currents, thresholds, reset)
    for channel, threshold in enumerate(thresholds.tolist()):
        alone, v_alone = if_scan(currents[..., channel], threshold, reset)
        assert torch.equal(spikes[..., channel], alone)
        assert torch.equal(v[..., channel], v_alone)


@pytest.mark.parametrize("reset", RESETS)
def test_a_neuron_at_its_threshold_fires(reset) -> None:
    spikes, v = if_step(torch.tensor([4.0]), torch.tensor([3.0]), 7.0, reset)
    assert (float(spikes), float(v)) == (1.0, 0.0)


# Han et al. (2020), eq. 3 and 4: events of eta thresholds, on average in a fraction f_in of the N steps.
# With theta = the denominator and V_in = the numerator of eta, both formulas are checked in integers.
ETAS = [Fraction(n, d) for n, d in [(1, 5), (1, 4), (3, 10), (1, 3), (2, 5), (1, 2), (3, 5), (3, 4), (9, 10), (1, 1)]]
LARGE_ETAS = [Fraction(n, d) for n, d in [(11, 10), (4, 3), (3, 2), (2, 1), (5, 2), (3, 1), (4, 1), (7, 1)]]
PERIODS = 1, 2, 3, 4, 5
N = 60


def spikes_of(eta: Fraction, events: list[bool], reset) -> int:
    currents = torch.tensor(events).double()[:, None] * eta.numerator
    return int(if_scan(currents, eta.denominator, reset)[0].sum())


def spaced(period: int) -> list[bool]:
    """An event in the first step of each period: f_in = 1 / period."""
    return [step % period == 0 for step in range(N)]


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("eta", ETAS + LARGE_ETAS, ids=str)
def test_equation_3_of_han(eta: Fraction, period: int) -> None:
    """Hard reset: holds for every eta > 0, and wherever the events lie, since only events can make it fire."""
    expected = N // period if eta >= 1 else math.floor(Fraction(N, period) / math.ceil(1 / eta))
    bunched = sorted(spaced(period))
    assert spikes_of(eta, spaced(period), "zero") == expected
    assert spikes_of(eta, bunched, "zero") == expected


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("eta", ETAS, ids=str)
def test_equation_4_of_han_up_to_eta_one(eta: Fraction, period: int) -> None:
    """Soft reset: for eta <= 1 no event owes more than one spike, so the formula holds wherever the events lie."""
    expected = math.floor(eta * N / period)
    assert spikes_of(eta, spaced(period), "subtract") == expected
    assert spikes_of(eta, sorted(spaced(period)), "subtract") == expected


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("eta", LARGE_ETAS, ids=str)
def test_equation_4_of_han_above_eta_one(eta: Fraction, period: int) -> None:
    """Soft reset, eta > 1: spikes owed come later, so the formula is clipped at one spike a step, and needs room.

    With an event at the start of each period the neuron fires min(N, floor(eta f_in N)) times. With all events at the
    end it cannot pay its debt: one spike a step from the first event on, as long as the charge lasts.
    """
    formula = math.floor(eta * N / period)
    assert spikes_of(eta, spaced(period), "subtract") == min(N, formula)
    assert spikes_of(eta, sorted(spaced(period)), "subtract") == min(N // period, formula)


def test_equation_4_of_han_counts_whole_events() -> None:
    """Where f_in N is no integer, floor(eta f_in N) may promise a spike that no whole event has paid for."""
    eta, f_in, steps = Fraction(1, 2), Fraction(3, 4), 6
    events = [math.floor(f_in * (t + 1)) > math.floor(f_in * t) for t in range(steps)]
    assert sum(events) == math.floor(f_in * steps) == 4
    assert spikes_of(eta, events, "subtract") == math.floor(eta * 4) == math.floor(eta * f_in * steps)
    eta = Fraction(9, 10)
    assert spikes_of(eta, events, "subtract") == math.floor(eta * 4) == 3
    assert math.floor(eta * f_in * steps) == 4


# A drive, and spikes that are taken back


@given(current=st.integers(-40, 60), threshold=st.integers(1, 40), steps=st.integers(1, 40))
def test_half_a_threshold_may_come_as_a_drive_or_as_the_first_potential(
    current: int, threshold: int, steps: int
) -> None:
    """All in units of 1 / (2 T), so that theta / (2 T) is an integer."""
    currents = torch.full((steps, 1), 2.0 * steps * current, dtype=torch.float64)
    theta = 2.0 * steps * threshold
    driven, _ = if_scan(currents, theta, drive=torch.full((1, 1), float(threshold), dtype=torch.float64))
    started, _ = if_scan(currents, theta, v_init=theta / 2)
    assert int(driven.sum()) == int(started.sum())
    assert bool((started.cumsum(0) >= driven.cumsum(0)).all()), "with the potential no spike is later"


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), st.lists(st.integers(-9, 9), min_size=1, max_size=40))
def test_a_drive_is_added_to_the_current_of_its_step(currents: list[int], drive: list[int]) -> None:
    rows = torch.tensor([drive[min(t, len(drive) - 1)] for t in range(len(currents))]).double()[:, None]
    given_currents = torch.tensor(currents).double()[:, None]
    driven, summed = if_scan(given_currents, 7.0, drive=rows), if_scan(given_currents + rows, 7.0)
    assert all(torch.equal(a, b) for a, b in zip(driven, summed, strict=True))


def signed(currents: Tensor, threshold: float, v: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, potential and what was sent in all, of one neuron."""
    sent = torch.zeros_like(currents[0])
    spikes, end = if_scan(currents, threshold, v_init=v, sent=sent)
    return spikes, end, sent


@given(
    currents=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    threshold=st.integers(1, 40),
    v=st.integers(-40, 40),
)
def test_signed_neurons_are_the_literal_loop_and_conserve_charge(currents: list[int], threshold: int, v: int) -> None:
    spikes, end, sent = signed(torch.tensor(currents).double()[:, None], threshold, v)
    u, n, expected, one = v, 0, list[int](), (torch.tensor([float(v)]).double(), torch.zeros(1).double())
    for current in currents:
        u += current
        z = int(u >= threshold) - int(u < 0 < n)
        u, n = u - threshold * z, n + z
        expected.append(z)
        _, *one = signed_step(torch.tensor([float(current)]).double(), *one, float(threshold))
    assert spikes[:, 0].int().tolist() == expected
    assert (int(end), int(sent)) == (u, n) == (int(one[0]), int(one[1]))
    assert int(end) == v + sum(currents) - threshold * sum(expected)


@given(current=st.integers(0, 100), threshold=st.integers(1, 60), steps=st.integers(1, 120), v=st.integers(0, 59))
def test_signed_neurons_under_constant_current_take_nothing_back(
    current: int, threshold: int, steps: int, v: int
) -> None:
    currents = torch.full((steps, 1), float(current), dtype=torch.float64)
    spikes, end, _ = signed(currents, threshold, v)
    plain = if_scan(currents, threshold, v_init=v)
    assert torch.equal(spikes, plain[0])
    assert torch.equal(end, plain[1])


@given(
    currents=st.lists(st.integers(-50, 50), min_size=1, max_size=30),
    threshold=st.integers(1, 40),
    order=st.randoms(use_true_random=False),
)
def test_after_silence_signed_neurons_have_sent_what_came_in_any_order(
    currents: list[int], threshold: int, order: random.Random
) -> None:
    silence = [0] * (len(currents) + sum(map(abs, currents)) // threshold + 1)
    shuffled = order.sample(currents, len(currents))
    for came in (currents, shuffled):
        _, _, sent = signed(torch.tensor(came + silence).double()[:, None], threshold)
        assert int(sent) == max(0, sum(currents) // threshold)
