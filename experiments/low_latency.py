"""Accuracy after 4, 8, 16 and 32 steps, without training: networks set for each T beside one network for every T.

"One network" is read after each T. "Set for T" is converted anew for each T by ``convert(..., timesteps=T)``, which
chooses percentile and correction on calibration images, without labels. No paper has this table.
"""

from dataclasses import replace

import equispike as es
from equispike.analysis.plots import Panel, Series
from experiments.compare import note
from experiments.entry import Conditions, Entry, Job, Line, Outcome, Value
from experiments.networks import find
from experiments.rows import Row, Way, row

STEPS = (4, 8, 16, 32)
ONE = (
    Way("DataNorm(99.9)", es.DataNorm(99.9)),
    Way("DataNorm(99.9), half a threshold at the start", es.DataNorm(99.9), v_init=0.5),
    Way("DataNorm(99, per_channel=True), half a threshold", es.DataNorm(99, per_channel=True), v_init=0.5),
)
SET = (Way("set for T, binary", chosen=True), Way("set for T, signed", chosen=True, spikes="signed"))
NETWORK = "he-resnet20"


def run(job: Job) -> Outcome:
    """One line for each network and way."""
    lines: list[Line] = []
    notes: list[str] = []
    panels: list[Panel] = []
    kept: dict[str, list[Row]] = {}
    for source in job.networks:
        network = find(source, job.data, job.data_folder)
        series: list[Series] = []
        for way in (*ONE, *SET):
            steps = STEPS if way.chosen else STEPS[-1:]
            rows = [row(way, network, replace(job.conditions, timesteps=t), job.out) for t in steps]
            accuracy = [100 * (rows[STEPS.index(t) if way.chosen else 0]["accuracy"][t - 1]) for t in STEPS]
            rate: dict[str, Value] = {"spike rate at T=8": rows[1 if way.chosen else 0]["spike_rate"][7]}
            figures: dict[str, Value] = {f"T={t}": one for t, one in zip(STEPS, accuracy, strict=True)}
            trained: dict[str, Value] = {"trained": 100 * rows[0]["trained_accuracy"]}
            lines.append(Line(f"{network.name}: {way.label}", figures | trained | rate))
            kept[f"{network.name}: {way.label}"] = rows
            series.append(Series(way.label, list(STEPS), accuracy))
        notes.append(note(network, rows[0]))
        level = (100 * rows[0]["trained_accuracy"], "trained")
        panels.append(Panel(network.name, "time-steps T", "accuracy (%)", tuple(series), level=level, log_x=True))
    return Outcome(lines, panels, "; ".join(notes), (), {"rows": kept})


ENTRIES = (
    Entry(
        "low-latency",
        "Right answers after few steps, without training",
        run,
        Conditions("constant", "potential", STEPS[-1]),
        (NETWORK,),
        cites=("rueckauer2017", "kim2020"),
    ),
)
