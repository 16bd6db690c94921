"""Output rate against input amplitude, hard and soft reset: figures 3(d) and 4(c) of Han et al. (2020), eq. 3 and 4.

A neuron receives events of V_in = eta V_th in a fraction f_in of N steps, as evenly spaced as steps allow, the first
one in step 1. Lines are the paper's formulas for large N, eq. 4 cut at one spike per step; dots are simulated.

    python experiments/han_figures_3d_4c.py --out FOLDER

Measured (torch 2.13.0, CPU, float64 with integer potentials; N = 1,000; f_in = 0.1, 0.25, 0.5 and 1; eta from 0 to 2.5
in steps of 0.01): at all 1,004 points of either reset the number of spikes is the formula's. Hard reset is a staircase,
and flat above eta = 1; soft reset is linear up to one spike per step. It needs the cut, and evenly spaced events:
with eta > 1 and all events in the last steps, the spikes that they owe come too late (tests/test_integrate.py).
"""

import argparse
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from equispike.functional.integrate import Reset, if_scan

N = 1000
RATES = (0.1, 0.25, 0.5, 1.0)  # f_in; N f_in must be an integer
THRESHOLD = 100  # so that eta = V_in / V_th has two decimals and every potential is an integer
AMPLITUDES = range(251)
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito
EVERY = 5  # one dot for so many amplitudes


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


def draw(axes: Axes, reset: Reset, simulated: torch.Tensor, title: str) -> None:
    eta = np.array(AMPLITUDES) / THRESHOLD
    for rate, colour, spikes in zip(RATES, COLOURS, simulated, strict=True):
        if reset == "subtract":
            line = np.minimum(1.0, rate * eta)
        else:
            line = np.array([rate / math.ceil(1 / e) if 0 < e < 1 else rate * (e >= 1) for e in eta])
        axes.plot(eta, line, color=colour, lw=1.5, drawstyle="default" if reset == "subtract" else "steps-post")
        dots = slice(None, None, EVERY)
        axes.plot(eta[dots], spikes[dots] / N, "o", ms=3.5, color=colour, mec="white", mew=0.4)
        # Lines that meet at one spike per step have their labels above and below it.
        shift = (5, 0) if line[-1] < 1 else (5, 5 if rate == 1 else -7)
        axes.annotate(f"{rate:g}", (eta[-1], line[-1]), shift, textcoords="offset points", va="center", color=colour)
    axes.annotate(r"$f_{in}$", (1.015, 1.07), xycoords="axes fraction")
    axes.axvline(1.0, color="0.75", lw=0.8, zorder=0)
    axes.set(title=title, xlabel=r"$\eta = V_{in} / V_{th}$", xlim=(0, 2.5), ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", lw=0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for han_3d_4c.png and han_3d_4c.json")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    result: dict[str, object] = {"N": N, "rates": RATES, "torch": torch.__version__, "device": "cpu"}
    resets: list[tuple[Reset, str, str]] = [
        ("zero", "hard reset: equation 3, figure 3(d)", "hard"),
        ("subtract", "soft reset: equation 4, figure 4(c)", "soft"),
    ]
    for axes, (reset, title, key) in zip(panels, resets, strict=True):
        simulated = simulate(reset)
        expected = torch.tensor([[formula(reset, rate, a) for a in AMPLITUDES] for rate in RATES])
        differing, points = int((simulated != expected).sum()), expected.numel()
        largest = int((simulated - expected).abs().max())
        print(f"{key} reset: {differing} of {points} points differ from the formula, by up to {largest} of {N} spikes")
        result[key] = {"points": points, "differing": differing, "largest": largest, "spikes": simulated.tolist()}
        draw(axes, reset, simulated, title)
    panels[0].set_ylabel(r"$f_{out}$ (spikes per step)")
    panels[0].plot([], [], color="0.3", label="formula, large $N$")
    panels[0].plot([], [], "o", ms=3.5, color="0.3", label=f"simulated, $N$ = {N}")
    panels[0].legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.75))
    figure.savefig(out / "han_3d_4c.png", dpi=110, facecolor="white")
    (out / "han_3d_4c.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
