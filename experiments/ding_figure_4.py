"""The distance of rates from the trained network's after each step: figure 4 and theorem 2 of Ding et al. (2021).

Figure 4: K by layer, with the largest activation as threshold (Max Norm) and with 0.8 of it in all layers. Theorem 2:
K < 2 Omega / t under constant input. It holds for the first layer, which receives the same current in every step; the
paper's figures use it for all. K is taken for each image, then averaged.
"""

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.calibrate.method import Thresholds, with_thresholds
from experiments.ding import MAX_NORM
from experiments.entry import Conditions, Entry, Job, Line, Outcome, numbers
from experiments.networks import Trained, find
from experiments.rows import BATCH, convert, test_images

SCALE = 0.8
CONDITIONS = Conditions("constant", "potential", 256, images=16)


def scaled(network: es.Network) -> es.Network:
    """The network with SCALE of its thresholds; spikes stay as large as their thresholds are."""
    return with_thresholds(network, Thresholds({name: SCALE * value for name, value in network.thresholds.items()}))


def _networks(job: Job) -> tuple[Trained, es.Network]:
    network = find(job.networks[0], job.data, job.data_folder)
    return network, convert(MAX_NORM, network, job.conditions)


def _note(network: Trained, job: Job) -> str:
    return f"{network.name}: {job.conditions.images} test images of {network.data.name}"


def layers(job: Job) -> Outcome:
    """Figure 4: K of each layer against T, with thresholds as they are and smaller."""
    network, spiking = _networks(job)
    steps = range(1, job.conditions.timesteps + 1)
    lines: list[Line] = []
    parts: list[Panel] = []
    for title, here in ((MAX_NORM.label, spiking), (f"thresholds x {SCALE}", scaled(spiking))):
        k = es.rate_fit(here, test_images(network, job.conditions).batches(BATCH), len(steps)).k
        for name, values in k.items():
            at = {f"K at T={t}": float(values[t - 1]) for t in (16, 64, 256) if t in steps}
            lines.append(Line(f"{title}: {name}", at))
        series = tuple(Series(name, steps, numbers(values)) for name, values in k.items())
        parts.append(Panel(title, "time-steps T", "K", series))
    return Outcome(lines, parts, _note(network, job), (), network.told)


def bound(job: Job) -> Outcome:
    """Theorem 2: K of each layer beside 2 Omega / t."""
    network, spiking = _networks(job)
    steps = range(1, job.conditions.timesteps + 1)
    found = es.rate_fit(spiking, test_images(network, job.conditions).batches(BATCH), len(steps))
    lines = [
        Line(f"{row.layer}, T={row.step}", {"K": row.k, "2 Omega / t": row.bound, "images below (%)": 100 * row.within})
        for row in found.table([t for t in (8, 32, 128) if t in steps])
    ]
    names = list(found.k)
    parts: list[Panel] = []
    for name in (names[0], names[-1]):
        driven = found.omega[name][found.omega[name] > 0].double().mean()
        limits = [2 * float(driven) / t for t in steps]
        series = (Series("K", steps, numbers(found.k[name])), Series("2 Omega / t", steps, limits))
        parts.append(Panel(name, "time-steps T", "K", series, log_x=True, log_y=True))
    first = 100 * float(found.within[names[0]].min())
    remark = f"In {names[0]}, which the input drives, {first:.0f} % of the images are below the bound in every step."
    return Outcome(lines, parts, _note(network, job), (remark,), {"first layer within": first, **network.told})


WHERE = (CONDITIONS, ("vgg16-cifar10",), "ding2021")
ENTRIES = (
    Entry("ding-figure-4", "Fit of rates by layer", layers, *WHERE, "figure 4", ("rueckauer2017", "han2020")),
    Entry("ding-theorem-2", "Fit of rates and its bound", bound, *WHERE, "theorem 2"),
)
