"""Power in each step, and energy against speed: figure 7 of Ding et al. (2021).

(a) P = spikes of a step / 1 ms x alpha (eq. 14), for one image, with alpha the energy of a spike. (b) At levels 2
points apart, up to the highest that both reach: log2 of how many times sooner lowered thresholds reach it than Max
Norm, and of their spikes until then against those of Max Norm. Published, section 3.4: at 90 % 8.6 times sooner with
0.265 of the energy; they stand beside our highest level.
"""

import math

import torch

import equispike as es
from equispike.analysis.energy import energy_until, power
from equispike.analysis.plots import Panel, Series
from experiments.compare import level_of, note
from experiments.ding import CONDITIONS, MAX_NORM, STAGE_2, VGG, remarks, stages
from experiments.entry import Entry, Job, Line, Outcome, numbers
from experiments.rows import Row

WAYS = (MAX_NORM, STAGE_2)
APART, LEVELS = 0.02, 6
PUBLISHED = {"times sooner": 8.6, "energy": 0.265}


def spikes(one: Row) -> torch.Tensor:
    """Spikes of one image in each step, (T,), float64."""
    rate = torch.tensor(one["spike_rate"], dtype=torch.float64) / 100
    total = rate * torch.arange(1, len(rate) + 1) * sum(one["neurons"].values())
    return torch.cat([total[:1], total.diff()])


def run(job: Job) -> Outcome:
    """Figure 7: power of both ways, and how much sooner and at what energy the second reaches an accuracy."""
    trained, rows, told = stages(WAYS, job)
    highest = level_of(*rows.values())
    levels = [] if highest is None else [highest - n * APART for n in reversed(range(LEVELS))]
    points: list[tuple[float, float, float]] = []
    lines: list[Line] = []
    for level in levels:
        found = [_until(one, level - 1e-9) for one in rows.values()]
        (slow, most), (fast, few) = found
        ours = {"Max Norm (steps)": slow, "RNL + RIL (steps)": fast, "times sooner": slow / fast, "energy": few / most}
        lines.append(Line(f"{100 * level:.1f} %", ours, PUBLISHED if level == highest else {}))
        points.append((100 * level, math.log2(slow / fast), math.log2(few / most)))
    words = () if lines else ("Within these steps one of the two stays below half the trained accuracy.",)
    lines = lines or [Line("not reached", {"times sooner": None, "energy": None}, PUBLISHED)]
    x, sooner, energy = ([point[i] for point in points] for i in range(3))
    steps = range(1, job.conditions.timesteps + 1)
    powers = tuple(Series(label, steps, numbers(power(spikes(one)))) for label, one in rows.items())
    ratios = (Series("times sooner", x, sooner), Series("energy", x, energy))
    figure = (
        Panel("", "time-steps T", "alpha / s for one image", powers),
        Panel("RNL + RIL against Max Norm", "accuracy (%)", "log2 of the ratio", ratios, level=(0.0, "equal")),
    )
    return Outcome(lines, figure, note(trained, rows[MAX_NORM.label]), (*words, *remarks(told)), {**told, "rows": rows})


def _until(one: Row, level: float) -> tuple[int, float]:
    """Steps and spikes until the level is kept."""
    accuracy = torch.tensor(one["accuracy"], dtype=torch.float64)
    steps, used = es.latency(accuracy, level), energy_until(spikes(one).cumsum(0), accuracy, level)
    return int(steps or 0), float(used or 0)


ENTRIES = (
    Entry(
        *("ding-figure-7", "VGG-16 on CIFAR-10: power, and speed against energy", run, CONDITIONS, (VGG,)),
        *("ding2021", "figure 7 and section 3.4", ("rueckauer2017",)),
    ),
)
