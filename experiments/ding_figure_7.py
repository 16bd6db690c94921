"""Power in each step, and energy against speed: figure 7 of Ding et al. (2021).

(a) P = spikes of a step / 1 ms x alpha (eq. 14), for one image, with alpha the energy of a spike; means over a few
steps, since constant input makes neurons spike together. (b) At levels 2 points apart, up to the highest that both
reach: log2 of how many times sooner lowered thresholds reach it than Max Norm, and of their spikes until then against
those of Max Norm. Published, section 3.4: at 90 % 8.6 times sooner with 0.265 of the energy; they stand beside our
highest level, which is chosen as in all tables.
"""

import math

import torch

import equispike as es
from equispike.analysis.energy import energy_until, power
from equispike.analysis.plots import Panel, Series
from experiments.compare import level_of
from experiments.ding import CONDITIONS, MAX_NORM, OWN, STAGE_1, STAGE_2, VGG, both, remarks, stages
from experiments.entry import Entry, Job, Line, Outcome, numbers
from experiments.rows import Row

WAYS = (MAX_NORM, STAGE_1, STAGE_2, OWN)
APART, LEVELS = 0.02, 6
WINDOW = 16  # steps of a mean of the power
EQUAL = (0.0, "equal")
PUBLISHED = {"times sooner": 8.6, "energy": 0.265}


def spikes(one: Row) -> torch.Tensor:
    """Spikes of one image in each step, (T,), float64."""
    rate = torch.tensor(one["spike_rate"], dtype=torch.float64) / 100
    total = rate * torch.arange(1, len(rate) + 1) * sum(one["neurons"].values())
    return torch.cat([total[:1], total.diff()])


def run(job: Job) -> Outcome:
    """Figure 7: power, and how much sooner than Max Norm, and at what energy, an accuracy is reached."""
    trained, relus, rows, told = stages(WAYS, job)
    slow = rows[MAX_NORM.label]
    lines: list[Line] = []
    compared: list[Panel] = []
    for label, fast in rows.items():
        if fast is slow:
            continue
        points, found = _against(slow, fast, label)
        lines += found
        x, sooner, energy = ([point[i] for point in points] for i in range(3))
        ratios = (Series("times sooner", x, sooner), Series("energy", x, energy))
        compared.append(Panel(f"{label} against Max Norm", "accuracy (%)", "log2 of the ratio", ratios, level=EQUAL))
    powers = tuple(_power(label, one) for label, one in rows.items())
    figure = (Panel("", "time-steps T", f"alpha / s for one image, mean of {WINDOW} steps", powers), *compared)
    return Outcome(lines, figure, both(trained, relus, slow), remarks(told), {**told, "rows": rows})


def _power(label: str, one: Row) -> Series:
    """Power in each step, as the mean of the last WINDOW steps, from the first full window on."""
    means = power(spikes(one)).unfold(0, min(WINDOW, one["timesteps"]), 1).mean(1)
    return Series(label, range(one["timesteps"] - len(means) + 1, one["timesteps"] + 1), numbers(means))


def _against(slow: Row, fast: Row, label: str) -> tuple[list[tuple[float, float, float]], list[Line]]:
    """Log2 of both ratios at each level, and the lines of the table."""
    highest = level_of(slow, fast)
    if highest is None:  # one of them stays below half the trained accuracy
        return [], [Line(f"{label}: not reached", {"times sooner": None, "energy": None}, PUBLISHED)]
    points: list[tuple[float, float, float]] = []
    lines: list[Line] = []
    for level in (highest - n * APART for n in reversed(range(LEVELS))):
        (late, most), (soon, few) = (_until(one, level - 1e-9) for one in (slow, fast))
        ours = {"Max Norm (steps)": late, "steps": soon, "times sooner": late / soon, "energy": few / most}
        lines.append(Line(f"{label}: {100 * level:.1f} %", ours, PUBLISHED if level == highest else {}))
        points.append((100 * level, math.log2(late / soon), math.log2(few / most)))
    return points, lines


def _until(one: Row, level: float) -> tuple[int, float]:
    """Steps and spikes until the level is kept."""
    accuracy = torch.tensor(one["accuracy"], dtype=torch.float64)
    steps, used = es.latency(accuracy, level), energy_until(spikes(one).cumsum(0), accuracy, level)
    return int(steps or 0), float(used or 0)


ENTRIES = (
    Entry(
        *("ding-figure-7", "VGG-16 on CIFAR-10: power, and speed against energy", run, CONDITIONS, VGG),
        *("ding2021", "figure 7 and section 3.4", ("rueckauer2017",)),
    ),
)
