"""How far rates are from the trained network's after each step: figure 4 and theorem 2 of Ding et al. (2021).

Figure 4: K by layer, with the largest activation as threshold (Max Norm) and with 0.8 of it in all layers. Theorem 2:
K < 2 Omega / t under constant input. It holds for the first layer, which receives the same current in every step; the
paper's figures use it for all. K is taken for each image, then averaged.

Measured (torch 2.13, CPU, size small: mnist-cnn, 16 digits, T = 128): K after 16 steps is 0.016 in the first layer and
0.133 in the last, with thresholds of 0.8 of the maximum 0.010 and 0.056. All images are below the bound in the first
layer in every step; in the last 14 of 16 after 8 steps, and all after 32.
"""

import equispike as es
from equispike.analysis.fit import RateFit, rate_fit
from equispike.analysis.plots import Panel, Series
from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.calibrate.spike_norm import scaled
from equispike.experiments.compare import told
from equispike.experiments.entry import Entry, Line, Outcome, numbers
from equispike.experiments.networks import Amount, Ready, Setting, Wanted, ready
from equispike.experiments.rows import BATCH, Way, converted
from equispike.graph.network import Network

SCALE = 0.8
WANTED = Wanted("vgg16-cifar10", "mnist-cnn", Amount(16, 256, 256, 256))
MAX_NORM = Way("Max Norm", es.DataNorm())
IMAGES = 16


def fit(network: Ready, spiking: Network, setting: Setting) -> RateFit:
    """K and Omega on the first images."""
    test = network.data.test.take(setting.images or IMAGES)
    return rate_fit(spiking, test.batches(BATCH), network.amount.timesteps)


def layers(setting: Setting) -> Outcome:
    """Figure 4: K of each layer against T, with thresholds as they are and smaller."""
    network = ready(WANTED, setting)
    spiking = converted(MAX_NORM, network)
    smaller = with_thresholds(spiking, scaled(Thresholds(spiking.thresholds), SCALE))
    steps = range(1, network.amount.timesteps + 1)
    lines: list[Line] = []
    parts: list[Panel] = []
    for title, here in ((MAX_NORM.label, spiking), (f"thresholds x {SCALE}", smaller)):
        found = fit(network, here, setting)
        lines += [
            Line(f"{title}: {name}", {f"K at T={t}": float(k[t - 1]) for t in (16, 64, 256) if t <= len(k)})
            for name, k in found.k.items()
        ]
        series = tuple(Series(name, steps, numbers(k)) for name, k in found.k.items())
        parts.append(Panel(title, "time-steps T", "K", series))
    return Outcome(tuple(lines), tuple(parts), _note(network, setting), (), told(network))


def bound(setting: Setting) -> Outcome:
    """Theorem 2: K of each layer beside 2 Omega / t."""
    network = ready(WANTED, setting)
    found = fit(network, converted(MAX_NORM, network), setting)
    chosen = [t for t in (8, 32, 128) if t <= network.amount.timesteps]
    lines = [
        Line(f"{row.layer}, T={row.step}", {"K": row.k, "2 Omega / t": row.bound, "images below (%)": 100 * row.within})
        for row in found.table(chosen)
    ]
    steps = range(1, network.amount.timesteps + 1)
    names = list(found.k)
    parts: list[Panel] = []
    for name in (names[0], names[-1]):
        driven = found.omega[name][found.omega[name] > 0].double().mean()
        limits = [2 * float(driven) / t for t in steps]
        series = (Series("K", steps, numbers(found.k[name])), Series("2 Omega / t", steps, limits))
        parts.append(Panel(name, "time-steps T", "K", series, log_x=True, log_y=True))
    first = 100 * float(found.within[names[0]].min())
    remark = f"In {names[0]}, which the input drives, {first:.0f} % of the images are below the bound in every step."
    return Outcome(tuple(lines), tuple(parts), _note(network, setting), (remark,), told(network))


def _note(network: Ready, setting: Setting) -> str:
    images = setting.images or IMAGES
    return (
        f"{network.name}: {images} test images of {network.data.name}, T = {network.amount.timesteps:,}, constant input"
    )


ENTRIES = (
    Entry("ding-figure-4", "Fit of rates by layer", layers, "ding2021", "figure 4", ("rueckauer2017", "han2020")),
    Entry("ding-theorem-2", "Fit of rates and its bound", bound, "ding2021", "theorem 2"),
)
