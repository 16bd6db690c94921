"""What lowered thresholds do: K, accuracy, thresholds and Omega by layer: figure 6 of Ding et al. (2021).

Published: section 3.3, for VGG-16 on CIFAR-10: accuracy after 32 steps, and the first step from which 90 % is kept, 52
against 446 with Max Norm. Our level is as far below the trained network's accuracy as LEVEL says. (The text has 63.30 %
for RMP-SNN after 32 steps, the paper's table 2 60.30 %.)
"""

import torch

from equispike.analysis.accuracy import latency
from equispike.analysis.fit import RateFit, rate_fit
from equispike.analysis.plots import Panel, Series
from equispike.experiments.compare import column, curves, told
from equispike.experiments.ding import LOCKED, MAX_NORM, RMP_STYLE, ROBUST_NORM, STAGE_2, VGG, stages
from equispike.experiments.entry import Entry, Figures, Line, Outcome, numbers
from equispike.experiments.networks import Setting
from equispike.experiments.rows import BATCH, converted, mean

WAYS = (MAX_NORM, ROBUST_NORM, RMP_STYLE, STAGE_2, LOCKED)
LEVEL = 0.03
IMAGES = 16  # for K and Omega
SHOWN = 4  # layers whose K is drawn
PUBLISHED: dict[str, Figures] = {
    MAX_NORM.label: {"T=32": 10.00, "steps": 446},
    ROBUST_NORM.label: {"T=32": 43.03},
    RMP_STYLE.label: {"T=32": 63.30},
    STAGE_2.label: {"T=32": 85.40, "steps": 52, "times sooner": 8.6},
}


def run(setting: Setting) -> Outcome:
    """K, accuracy, thresholds and Omega, before and after the thresholds were lowered."""
    both = stages(VGG, WAYS, setting)
    rows = both.rows(WAYS, setting)
    level = rows[MAX_NORM.label]["trained_accuracy"] - LEVEL
    steps = {label: latency(torch.tensor(mean(one["accuracy"])), level) for label, one in rows.items()}
    slow = steps[MAX_NORM.label]
    lines = [
        Line(
            label,
            {
                "T=32": column("T=32", one),
                "steps": here if here is not None else "not reached",
                "times sooner": slow / here if here and slow else None,
            },
            PUBLISHED.get(label, {}),
        )
        for label, here, one in ((label, steps[label], one) for label, one in rows.items())
    ]
    measured = {
        way.label: (network, converted(way, network))
        for way, network in ((MAX_NORM, both.trained), (STAGE_2, both.lowered[STAGE_2.label].network))
    }
    test = both.trained.data.test.take(IMAGES)
    timesteps = both.trained.amount.timesteps
    fits = {label: rate_fit(spiking, test.batches(BATCH), timesteps) for label, (_, spiking) in measured.items()}
    thresholds = {
        label: [float(value.max()) for value in spiking.thresholds.values()] for label, (_, spiking) in measured.items()
    }
    names = list(fits[MAX_NORM.label].k)
    note = f"{both.trained.note}; steps from which {100 * level:.1f} % is kept; K and Omega: {IMAGES} images"
    conditions = {**told(both.trained), **both.told}
    omegas = {label: _omegas(fit) for label, fit in fits.items()}
    kept = {"rows": rows, "thresholds": thresholds, "omega": omegas, "layers": names}
    bars = (("threshold", thresholds), ("mean Omega", omegas))
    figure = (
        _k(fits, names),
        *curves(rows),
        *(
            Panel(
                "",
                "",
                what,
                tuple(Series(f"{label}", range(len(v)), v, "bars") for label, v in by.items()),
                ticks=names,
            )
            for what, by in bars
        ),
    )
    remarks = tuple(
        f"{label}: lambda {lowered.chosen.lambda_:g} taken, mean Omega {lowered.points[0].omega:.2f} before and "
        f"{lowered.chosen.omega:.2f} after."
        for label, lowered in both.lowered.items()
    )
    return Outcome(tuple(lines), figure, note, remarks, conditions, kept)


def _omegas(fit: RateFit) -> list[float]:
    return [float(values[values > 0].double().mean()) for values in fit.omega.values()]


def _k(fits: dict[str, RateFit], names: list[str]) -> Panel:
    """K of a few layers, from first to last; dashed for the second fit."""
    chosen = [names[round(i * (len(names) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    series: list[Series] = []
    for number, (label, fit) in enumerate(fits.items()):
        for place, name in enumerate(dict.fromkeys(chosen)):
            k = numbers(fit.k[name])
            series.append(Series(f"K, {name}, {label}", range(1, len(k) + 1), k, like=place if number else None))
    return Panel("", "time-steps T", "K", tuple(series))


ENTRIES = (
    Entry(
        "ding-figure-6",
        "VGG-16 on CIFAR-10: what lowered thresholds do",
        run,
        "ding2021",
        "figure 6 and section 3.3",
        ("rueckauer2017", "han2020"),
    ),
)
