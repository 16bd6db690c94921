"""The method that `convert` takes if none is named: loss of accuracy over T = 8 ... 256 on six networks.

Candidates are compared on validation images, cut from the training split, since a default is a choice. (Others trained
the ResNets of He et al. on those images too.) RateNorm is compared on networks that have learnt thresholds.

100 validation images and 256 calibration images of each network, one run on a CPU, torch 2.13: mean loss over all T and
networks 24.9 points with DataNorm(99.9), 12.3 with half a threshold at the start, 6.6 with DataNorm(99,
per_channel=True), 4.6 where scores leave out the first half of the steps as well; 10.6 with DataNorm(99.9,
per_channel=True). Of the two with learnt thresholds RateNorm loses 32.1 and 22.0.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import equispike as es
from equispike.analysis.plots import Panel, Series
from experiments.compare import images_of
from experiments.entry import Conditions, Entry, Job, Line, Outcome, Value
from experiments.networks import Trained, find
from experiments.rows import Row, Way, row

NETWORKS = (
    *("mnist-cnn", "mnist-cnn-rnl", "resnet20-cifar10"),
    *("he-resnet20", "he-resnet56", "vgg16-slim-rnl-cifar10"),
)
CANDIDATES = (
    Way("DataNorm(99.9)", es.DataNorm(99.9)),
    Way("DataNorm(99.9), half a threshold", es.DataNorm(99.9), v_init=0.5),
    Way("DataNorm(99, per_channel=True), half a threshold", es.DataNorm(99, per_channel=True), v_init=0.5),
    *(
        Way(f"the same, scores without the first {share}", es.DataNorm(99, per_channel=True), v_init=0.5, delay=delay)
        for share, delay in (("quarter", 0.25), ("half", 0.5), ("three quarters", 0.75))
    ),
    Way("DataNorm(99.9, per_channel=True), half a threshold", es.DataNorm(99.9, per_channel=True), v_init=0.5),
)
LEARNT = (
    Way("RateNorm", es.RateNorm()),
    Way("RateNorm, half a threshold", es.RateNorm(), v_init=0.5),
)


def run(job: Job) -> Outcome:
    """One line for each candidate and network, and one with the mean over all networks."""
    steps = [t for t in (8, 16, 32, 64, 128, 256) if t <= job.conditions.timesteps]
    found: dict[str, dict[str, Row]] = {way.label: {} for way in (*CANDIDATES, *LEARNT)}
    images: dict[str, list[str]] = {}
    for source in job.networks:
        network = on_validation(find(source, job.data, job.data_folder))
        learnt = any(isinstance(module, es.nn.RateNorm) for module in network.model.modules())
        for way in (*CANDIDATES, *LEARNT * learnt):
            found[way.label][network.name] = row(way, network, job)
        images.setdefault(images_of(network, found[CANDIDATES[0].label][network.name]), []).append(network.name)
    lines = [Line(f"{label}: all", means(list(rows.values()), steps)) for label, rows in found.items() if rows]
    lines += [
        Line(f"{label}: {name}", means([one], steps)) for label, rows in found.items() for name, one in rows.items()
    ]
    curves = tuple(
        Series(way.label, steps, [fmean(lost(one, t) for one in found[way.label].values()) for t in steps])
        for way in CANDIDATES
    )
    panel = Panel("mean of all networks", "time-steps T", "loss of accuracy (points)", curves, log_x=True)
    note = "; ".join(f"{', '.join(names)}: {which}" for which, names in images.items())
    shared = str(job.conditions).replace("test images", "validation images")
    return Outcome(lines, [panel], note, (), {"rows": found}, shared)


def on_validation(network: Trained) -> Trained:
    """The network with its validation images in place of test images."""
    return replace(network, data=replace(network.data, test=network.data.validation))


def means(rows: Sequence[Row], steps: Sequence[int]) -> dict[str, Value]:
    """Loss in points after each T, its mean over them, and the spike rate after the last."""
    losses: dict[str, Value] = {f"T={t}": fmean(lost(one, t) for one in rows) for t in steps}
    mean = fmean(lost(one, t) for one in rows for t in steps)
    return {**losses, "mean": mean, "spike rate": fmean(one["spike_rate"][-1] for one in rows)}


def lost(one: Row, timesteps: int) -> float:
    """Points of accuracy that the trained network has more."""
    return 100 * (one["trained_accuracy"] - one["accuracy"][timesteps - 1])


ENTRIES = (
    Entry(
        "default-method",
        "Loss of accuracy by method, over all numbers of steps",
        run,
        Conditions("constant", "potential", 256, images=100),
        NETWORKS,
        cites=("rueckauer2017", "kim2020", "ding2021"),
    ),
)
