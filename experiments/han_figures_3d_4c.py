"""Output rate against input amplitude, hard and soft reset: figures 3(d) and 4(c) of Han et al. (2020), eq. 3 and 4.

A neuron receives events of V_in = eta V_th in a fraction f_in of N steps, as evenly spaced as steps allow, the first
one in step 1. Lines are the paper's formulas for large N, eq. 4 cut at one spike per step; dots are simulated.

Measured (torch 2.13.0, CPU, float64 with integer potentials; N = 1,000; f_in = 0.1, 0.25, 0.5 and 1; eta from 0 to 2.5
in steps of 0.01): at all 1,004 points of either reset the number of spikes is the formula's. Hard reset is a staircase,
and flat above eta = 1; soft reset is linear up to one spike per step. It needs the cut, and evenly spaced events:
with eta > 1 and all events in the last steps, the spikes that they owe come too late (tests/test_integrate.py).
"""

import math

import torch

from equispike.analysis.plots import Panel, Series
from equispike.functional.integrate import Reset, if_scan
from experiments.entry import Conditions, Entry, Job, Line, Outcome, numbers

N = 1000
RATES = (0.1, 0.25, 0.5, 1.0)  # f_in; N f_in must be an integer
CONDITIONS = Conditions("constant", "spikes", N)
THRESHOLD = 100  # so that eta = V_in / V_th has two decimals and every potential is an integer
AMPLITUDES = range(251)
ETA = [amplitude / THRESHOLD for amplitude in AMPLITUDES]
EVERY = 5  # one dot for so many amplitudes
RESETS: tuple[tuple[Reset, str], ...] = (
    ("zero", "hard reset: eq. 3, figure 3(d)"),
    ("subtract", "soft reset: eq. 4, figure 4(c)"),
)


def events(rate: float) -> torch.Tensor:
    """(N,) of 0 and 1: a one where the number of events due, rate t, exceeds those that have come."""
    due = [math.ceil(round(rate * t, 9)) for t in range(N + 1)]
    return torch.tensor(due).diff().double()


def simulate(reset: Reset) -> torch.Tensor:
    """Spikes in N steps, (rates, amplitudes)."""
    trains = torch.stack([events(rate) for rate in RATES], dim=1)  # (N, rates)
    currents = trains[:, :, None] * torch.tensor(AMPLITUDES).double()
    return if_scan(currents, THRESHOLD, reset)[0].sum(0).long()


def formula(reset: Reset, rate: float, amplitude: int) -> int:
    """Spikes in N steps by eq. 3 (hard) or 4 (soft, at most one a step), in integers."""
    count = round(rate * N)
    if reset == "subtract":
        return min(N, count * amplitude // THRESHOLD)
    if amplitude == 0:
        return 0
    return count // -(-THRESHOLD // amplitude)


def line(reset: Reset, rate: float) -> list[float]:
    """The formula for large N."""
    if reset == "subtract":
        return [min(1.0, rate * eta) for eta in ETA]
    return [rate / math.ceil(1 / eta) if 0 < eta < 1 else rate * (eta >= 1) for eta in ETA]


def run(_: Job) -> Outcome:
    """Figures 3(d) and 4(c): one neuron, simulated, beside the formulas."""
    lines: list[Line] = []
    parts: list[Panel] = []
    spikes: dict[str, object] = {}
    for reset, title in RESETS:
        simulated = simulate(reset)
        expected = torch.tensor([[formula(reset, rate, a) for a in AMPLITUDES] for rate in RATES])
        differing = int((simulated != expected).sum())
        largest = int((simulated - expected).abs().max())
        lines.append(
            Line(title, {"points": expected.numel(), "unlike the formula": differing, "by up to (spikes)": largest})
        )
        kind = "line" if reset == "subtract" else "steps"
        parts.append(
            Panel(
                title,
                "eta = V_in / V_th",
                "f_out (spikes per step)",
                tuple(Series(f"f_in = {rate:g}, formula", ETA, line(reset, rate), kind) for rate in RATES)
                + tuple(
                    Series("simulated", ETA[::EVERY], [n / N for n in numbers(row)], "dots", like=number)
                    for number, row in enumerate(simulated[:, ::EVERY])
                ),
            )
        )
        spikes[reset] = [numbers(row) for row in simulated]
    note = f"one neuron, {N:,} steps; formulas for large N, eq. 4 cut at one spike per step"
    kept = {"N": N, "rates": RATES, "eta": ETA, "spikes": spikes}
    return Outcome(tuple(lines), tuple(parts), note, numbers=kept)


ENTRIES = (
    Entry(
        *("han-figures-3d-4c", "Output rate of a neuron against input amplitude", run, CONDITIONS, ()),
        *("han2020", "figures 3(d) and 4(c), eq. 3 and 4"),
    ),
)
