"""The effects of lowered thresholds on K, accuracy, thresholds and Omega by layer: figure 6 of Ding et al. (2021).

Published: section 3.3, for VGG-16 on CIFAR-10: accuracy after 32 steps, and the first step from which 90 % is kept, 52
against 446 with Max Norm. Each row is compared with Max Norm at an accuracy that both reach. (The text has 63.30 % for
RMP-SNN after 32 steps, the paper's table 2 60.30 %.) The last row has 0.8 of all Max Norm thresholds.
"""

from torch import Tensor

import equispike as es
from equispike.analysis.fit import RateFit
from equispike.analysis.plots import Panel, Series
from experiments.compare import column, curves, sooner
from experiments.ding import (
    CONDITIONS,
    CONTROLS,
    LOCKED,
    MAX_NORM,
    RMP,
    ROBUST_NORM,
    STAGE_1,
    STAGE_2,
    VGG,
    both,
    lowered,
    stages,
)
from experiments.ding_figure_4 import SCALE, scaled
from experiments.entry import Entry, Figures, Job, Line, Outcome, numbers
from experiments.rows import BATCH, convert

WAYS = (MAX_NORM, ROBUST_NORM, RMP, *CONTROLS, STAGE_1, STAGE_2, LOCKED)
IMAGES = 16  # for K and Omega
SHOWN = 4  # layers whose K is drawn
PUBLISHED: dict[str, Figures] = {
    MAX_NORM.label: {"T=32": 10.00, "steps": 446},
    ROBUST_NORM.label: {"T=32": 43.03},
    RMP.label: {"T=32": 63.30},
    STAGE_2.label: {"T=32": 85.40, "steps": 52, "times sooner": 8.6},
}


def run(job: Job) -> Outcome:
    """K, accuracy, thresholds and Omega, before and after the thresholds were lowered."""
    trained, relus, rows, told = stages(WAYS, job)
    slow = rows[MAX_NORM.label]
    lines: list[Line] = []
    for label, one in rows.items():
        speed = sooner(one, slow) if one is not slow else {}
        lines.append(Line(label, {"T=32": column("T=32", one), **speed}, PUBLISHED.get(label, {})))
    before = convert(MAX_NORM, relus, job.conditions)
    spiking = {
        MAX_NORM.label: before,
        f"thresholds x {SCALE}": scaled(before),
        STAGE_2.label: convert(STAGE_2, lowered(trained, STAGE_2, job)[0], job.conditions),
    }
    test = list(trained.data.test.take(IMAGES).batches(BATCH))
    fits = {label: es.rate_fit(here, test, job.conditions.timesteps) for label, here in spiking.items()}
    thresholds = {label: [float(v.max()) for v in here.thresholds.values()] for label, here in spiking.items()}
    omegas = {label: [_mean(values) for values in fit.omega.values()] for label, fit in fits.items()}
    names = list(before.neurons)
    figure = [_k({label: fits[label] for label in (MAX_NORM.label, STAGE_2.label)}, names), *curves(rows)]
    for what, by in (("threshold", thresholds), ("mean Omega", omegas)):
        bars = tuple(Series(label, range(len(v)), v, "bars") for label, v in by.items())
        figure.append(Panel("", "", what, bars, ticks=names))
    kept = {**told, "rows": rows, "thresholds": thresholds, "omega": omegas, "layers": names}
    words = f"{both(trained, relus, slow)}; K and Omega: {IMAGES} images"
    return Outcome(lines, figure, words, (), kept)


def _mean(omega: Tensor) -> float:
    return float(omega[omega > 0].double().mean())


def _k(fits: dict[str, RateFit], names: list[str]) -> Panel:
    """K of a few layers, from first to last; dashed for the second fit."""
    chosen = dict.fromkeys(names[round(i * (len(names) - 1) / (SHOWN - 1))] for i in range(SHOWN))
    series: list[Series] = []
    for number, (label, fit) in enumerate(fits.items()):
        for place, name in enumerate(chosen):
            k = numbers(fit.k[name])
            series.append(Series(f"K, {name}, {label}", range(1, len(k) + 1), k, like=place if number else None))
    return Panel("", "time-steps T", "K", tuple(series))


ENTRIES = (
    Entry(
        *("ding-figure-6", "VGG-16 on CIFAR-10: what lowered thresholds do", run, CONDITIONS, VGG),
        *("ding2021", "figure 6 and section 3.3", ("rueckauer2017", "han2020")),
    ),
)
