"""Accuracy after 4, 8, 16 and 32 steps, without training: networks set for each T beside one network for every T.

"One network" is read after each T; that of LTB (Bu et al., 2025) has thresholds of its own and begins at half of them,
as that of SpikingJelly's converter does. "Set for T" is converted anew for each T: by ``convert(..., timesteps=T)``,
which chooses percentile and correction on calibration images, without labels, or as others do. SNN Calibration (Li et
al., 2021, "light pipeline") has thresholds that round best to T steps and a constant drive; FTBC (Wu et al., 2024) a
drive by step, here on the thresholds of the default. No paper has this table. ``low-latency-readout`` is what the
choice of ``RidgeReadout`` as a candidate rests on: images that the network was not trained on, and no test images.
``low-latency-levels`` is about a network that was trained on with levels (QCFS; Bu et al., 2022).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.nn import rate_norms
from experiments.compare import note
from experiments.default_method import on_validation
from experiments.entry import Conditions, Entry, Job, Line, Outcome, Value
from experiments.local_balancing import LocalThresholdBalancing
from experiments.nearest_steps import NearestSteps
from experiments.networks import Trained, find
from experiments.rows import Row, Way, row

STEPS = (4, 8, 16, 32)
ONE = (
    Way("DataNorm(99.9)", es.DataNorm(99.9)),
    Way("DataNorm(99.9), half a threshold at the start", es.DataNorm(99.9), v_init=0.5),
    Way("LTB", LocalThresholdBalancing(), v_init=0.5),
    Way("LTB, scores of the second half", LocalThresholdBalancing(), v_init=0.5, delay=0.5),
    Way("DataNorm(99, per_channel=True), half a threshold", es.DataNorm(99, per_channel=True), v_init=0.5),
    Way("the same, scores of the second half", es.DataNorm(99, per_channel=True), v_init=0.5, delay=0.5),
)
SET = (
    Way("set for T: SNN Calibration, light", NearestSteps(STEPS[0]), v_init=0.5, correct=lambda t: [es.Bias(t)]),
    Way("set for T: FTBC", es.DataNorm(99, per_channel=True), v_init=0.5, correct=lambda t: [es.StepBias(t)]),
    Way("set for T, binary", chosen=True),
    Way("set for T, signed", chosen=True, spikes="signed"),
)
FITTED = tuple(
    Way(
        f"DataNorm({percentile:g}, per_channel=True), {' and '.join(kind.__name__ for kind in kinds)}",
        es.DataNorm(percentile, per_channel=True),
        v_init=0.5,
        correct=lambda t, kinds=kinds: [kind(t) for kind in kinds],
    )
    for percentile in (95.0, 99.0)
    for kinds in ((es.Bias,), (es.Bias, es.RidgeReadout), (es.StepBias,), (es.StepBias, es.RidgeReadout))
)
"""Ways with and without a fitted readout."""


def run(one: Sequence[Way], set_anew: Sequence[Way], prepare: Callable[[Trained], Trained], job: Job) -> Outcome:
    """One line for each network and way."""
    lines: list[Line] = []
    notes: list[str] = []
    panels: list[Panel] = []
    kept: dict[str, list[Row]] = {}
    for source in job.networks:
        network = prepare(find(source, job.data, job.data_folder))
        series: list[Series] = []
        for way in (*one, *set_anew):
            anew = way in set_anew
            steps = STEPS if anew else STEPS[-1:]
            jobs = [replace(job, conditions=replace(job.conditions, timesteps=t)) for t in steps]
            rows = [row(set_for(way, t), network, at) for t, at in zip(steps, jobs, strict=True)]
            accuracy = [100 * (rows[STEPS.index(t) if anew else 0]["accuracy"][t - 1]) for t in STEPS]
            rate: dict[str, Value] = {"spike rate at T=8": rows[1 if anew else 0]["spike_rate"][7]}
            figures: dict[str, Value] = {f"T={t}": one for t, one in zip(STEPS, accuracy, strict=True)}
            trained: dict[str, Value] = {"trained": 100 * rows[0]["trained_accuracy"]}
            lines.append(Line(f"{network.name}: {way.label}", figures | trained | rate))
            kept[f"{network.name}: {way.label}"] = rows
            series.append(Series(way.label, list(STEPS), accuracy))
        first = kept[f"{network.name}: {(*one, *set_anew)[0].label}"][0]
        notes.append(note(network, first))
        level = (100 * first["trained_accuracy"], "trained")
        panels.append(Panel(network.name, "time-steps T", "accuracy (%)", tuple(series), level=level, log_x=True))
    return Outcome(lines, panels, "; ".join(notes), (), {"rows": kept})


def set_for(way: Way, timesteps: int) -> Way:
    """The way with a method that is set for T, if it has one."""
    method = way.method
    return replace(way, method=replace(method, timesteps=timesteps)) if isinstance(method, NearestSteps) else way


LEVELS = (
    Way("levels", es.RateNorm(), v_init=0.5),
    Way("levels, signed", es.RateNorm(), v_init=0.5, spikes="signed"),
)
LEVELS_SET = tuple(
    replace(
        way, label=f"levels, set for T: StepBias{way.label.removeprefix('levels')}", correct=lambda t: [es.StepBias(t)]
    )
    for way in LEVELS
)
"""A network that was trained with levels: its own thresholds, with and without a drive."""

TRAIN_ON = "--levels 4 --data cifar10 --recipe cifar-again --epochs 3 --bfloat16 --out levels.safetensors"


def levelled(network: Trained) -> Trained:
    """The network, if its neurons have levels. EquispikeError otherwise, with the way to them."""
    if any(layer.levels for _, layer in rate_norms(network.model)):
        return network
    raise es.EquispikeError(
        f"{network.name}: its neurons have no levels. Train it on: equispike train --start {network.name} {TRAIN_ON}; "
        "then add --network levels.safetensors"
    )


CONDITIONS = Conditions("constant", "potential", STEPS[-1])
ENTRIES = (
    Entry(
        "low-latency",
        "Right answers after few steps, without training",
        partial(run, ONE, SET, lambda network: network),
        CONDITIONS,
        ("he-resnet20",),
        cites=("rueckauer2017", "kim2020", "li2021", "wu2024", "bu2025"),
    ),
    Entry(
        "low-latency-readout",
        "A readout fitted by ridge regression, on validation images",
        partial(run, (), FITTED, on_validation),
        replace(CONDITIONS, images=1000),
        ("resnet20-bn-cifar10",),
        cites=("hoerl1970", "li2021", "wu2024"),
    ),
    Entry(
        "low-latency-levels",
        "Right answers after few steps, trained on with levels",
        partial(run, LEVELS, LEVELS_SET, levelled),
        CONDITIONS,
        ("vgg16-slim-rnl-cifar10",),
        cites=("bu2022", "wu2024"),
    ),
)
