"""Power in each step, and energy against speed: figure 7 of Ding et al. (2021).

(a) P = spikes of a step / 1 ms x alpha (eq. 14), for one image, with alpha the energy of a spike. (b) For accuracies up
to that of the trained network: log2 of how many times sooner lowered thresholds reach it than Max Norm, and of their
spikes until then against those of Max Norm. Published, section 3.4: at 90 % 8.6 times sooner with 0.265 of the energy.
"""

import math

import torch

from equispike.analysis.accuracy import latency
from equispike.analysis.energy import energy_until, power
from equispike.analysis.plots import Panel, Series
from equispike.experiments.compare import told
from equispike.experiments.ding import MAX_NORM, STAGE_2, VGG, stages
from equispike.experiments.entry import Entry, Line, Outcome, numbers
from equispike.experiments.networks import Setting
from equispike.experiments.rows import Row, mean

WAYS = (MAX_NORM, STAGE_2)
BELOW = (0.12, 0.10, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01)  # the trained network's accuracy
CHOSEN = 0.03
PUBLISHED = {"times sooner": 8.6, "energy": 0.265}


def spikes(one: Row) -> torch.Tensor:
    """Spikes of one image in each step, (T,), float64."""
    rate = torch.tensor(mean(one["spike_rate"]), dtype=torch.float64) / 100
    total = rate * torch.arange(1, len(rate) + 1) * sum(one["neurons"].values())
    return torch.cat([total[:1], total.diff()])


def run(setting: Setting) -> Outcome:
    """Figure 7: power of both ways, and how much sooner and at what energy the second reaches an accuracy."""
    both = stages(VGG, WAYS, setting)
    rows = both.rows(WAYS, setting)
    slow, _ = rows.values()
    each = {label: spikes(one) for label, one in rows.items()}
    accuracies = [torch.tensor(mean(one["accuracy"])) for one in rows.values()]
    trained = float(slow["trained_accuracy"])
    points: list[tuple[float, float, float]] = []
    lines: list[Line] = []
    for below in BELOW:
        steps = [latency(accuracy, trained - below) for accuracy in accuracies]
        used = [energy_until(s.cumsum(0), a, trained - below) for s, a in zip(each.values(), accuracies, strict=True)]
        if not (steps[0] and steps[1] and used[0] and used[1]):  # not reached, or chance, without a spike
            continue
        ours = {"Max Norm (steps)": steps[0], "RNL + RIL (steps)": steps[1]}
        ratios = {"times sooner": steps[0] / steps[1], "energy": used[1] / used[0]}
        lines.append(Line(f"{100 * (trained - below):.1f} %", {**ours, **ratios}, PUBLISHED if below == CHOSEN else {}))
        points.append((100 * (trained - below), math.log2(ratios["times sooner"]), math.log2(ratios["energy"])))
    levels, sooner, energy = ([point[i] for point in points] for i in range(3))
    t = range(1, slow["timesteps"] + 1)
    figure = (
        Panel(
            "",
            "time-steps T",
            "alpha / s for one image",
            tuple(Series(k, t, numbers(power(s))) for k, s in each.items()),
        ),
        Panel(
            "RNL + RIL against Max Norm",
            "accuracy (%)",
            "log2 of the ratio",
            (Series("times sooner", levels, sooner), Series("energy", levels, energy)),
            level=(0.0, "equal"),
        ),
    )
    remarks = () if lines else ("Within these steps Max Norm comes near no accuracy of the table; choose more steps.",)
    if not lines:
        lines.append(Line("not reached", {"times sooner": None, "energy": None}, PUBLISHED))
    conditions = {**told(both.trained), **both.told}
    return Outcome(tuple(lines), figure, both.trained.note, remarks, conditions, {"rows": rows})


ENTRIES = (
    Entry(
        "ding-figure-7",
        "VGG-16 on CIFAR-10: power, and speed against energy",
        run,
        "ding2021",
        "figure 7 and section 3.4",
        ("rueckauer2017",),
    ),
)
