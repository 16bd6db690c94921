"""Accuracy and spike rate against T for several ways to convert a network: what most tables and figures are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from equispike.analysis.accuracy import latency
from equispike.analysis.plots import Panel, Series
from equispike.experiments.entry import Figures, Line, Outcome
from equispike.experiments.networks import Ready, Setting, Wanted, ready
from equispike.experiments.rows import Row, Way, converter, mean, row

BELOW = 0.01
"""How far below the last accuracy of the first way the level lies at which ways are compared for speed."""


@dataclass(frozen=True)
class Case:
    """A network, the ways to convert it, and what the paper has for them.

    Fields:
        title: of the network, as the paper has it.
        ways: the first one is what the others are compared with.
        published: columns by label of the way.
    """

    title: str
    wanted: Wanted
    ways: tuple[Way, ...]
    published: Mapping[str, Figures] = field(default_factory=dict[str, Figures])


def compare(cases: Sequence[Case], columns: Sequence[str], setting: Setting, faster: bool = False) -> Outcome:
    """One line for each case and way, and curves of all of them.

    Args:
        columns: names in ``COLUMNS``, or "T=16" for the accuracy after 16 steps (left out if T is smaller).
        faster: add the step from which a way stays at a common level, and how many times sooner than the first.
    """
    lines: list[Line] = []
    labelled: dict[str, Row] = {}
    notes: list[str] = []
    remarks: list[str] = []
    conditions: dict[str, object] = {}
    for case in cases:
        network = ready(case.wanted, setting)
        before = f"{case.title}: " if len(cases) > 1 else ""
        labels = [before + way.label for way in case.ways]
        rows = rows_of(case.ways, network, setting)
        speed: list[Figures] = sooner(rows) if faster else [{}] * len(rows)
        for label, way, one, steps in zip(labels, case.ways, rows, speed, strict=True):
            ours = {name: value for name in columns if (value := column(name, one)) is not None}
            lines.append(Line(label, {**ours, **steps}, case.published.get(way.label, {})))
        labelled |= dict(zip(labels, rows, strict=True))
        notes.append(before + network.note)
        remarks += _remarks(labels, speed) if faster else []
        conditions[case.title] = told(network)
    note = "; ".join(notes)
    return Outcome(tuple(lines), curves(labelled), note, tuple(remarks), conditions, {"rows": labelled})


def rows_of(ways: Sequence[Way], network: Ready, setting: Setting) -> list[Row]:
    """The rows of all ways, from their files where they are there."""
    convert = converter(network)
    return [row(way, network, setting.out / "rows", convert) for way in ways]


def told(network: Ready) -> dict[str, object]:
    """What of a network and its data a result depends on."""
    amount = asdict(network.amount)
    known = {name: network.card[name] for name in ("seed", "test_accuracy", "recipe") if name in network.card}
    return {"network": network.name, "data": network.data.name, **amount, "training": known}


COLUMNS: dict[str, Callable[[Row], float]] = {
    "images": lambda one: one["images"],
    "trained": lambda one: 100 * one["trained_accuracy"],
    "spiking": lambda one: 100 * mean(one["accuracy"])[-1],
    "loss": lambda one: 100 * (one["trained_accuracy"] - mean(one["accuracy"])[-1]),
    "trained error": lambda one: 100 - 100 * one["trained_accuracy"],
    "spiking error": lambda one: 100 - 100 * mean(one["accuracy"])[-1],
    "spike rate": lambda one: mean(one["spike_rate"])[-1],
}
"""In percent, after the last step; loss in points; and the number of images."""


def column(name: str, one: Row) -> float | None:
    """A figure of a row; None for a step that was not run."""
    if name in COLUMNS:
        return COLUMNS[name](one)
    t = int(name.removeprefix("T="))
    return 100 * mean(one["accuracy"])[t - 1] if t <= one["timesteps"] else None


def sooner(rows: Sequence[Row]) -> list[Figures]:
    """From which step each row stays at a common level: BELOW the last accuracy of the first row."""
    level = mean(rows[0]["accuracy"])[-1] - BELOW
    steps = [latency(torch.tensor(mean(one["accuracy"])), level) for one in rows]
    name = f"steps to {100 * level:.1f} %"
    return [{name: here, "times sooner": steps[0] / here if here and steps[0] else None} for here in steps]


def curves(rows: Mapping[str, Row]) -> tuple[Panel, Panel]:
    """Accuracy and spike rate against T, by label; the trained network's accuracy if all rows share it."""
    steps = {label: range(1, one["timesteps"] + 1) for label, one in rows.items()}
    accuracy = tuple(
        Series(label, steps[label], [100 * a for a in mean(one["accuracy"])]) for label, one in rows.items()
    )
    rate = tuple(Series(label, steps[label], mean(one["spike_rate"])) for label, one in rows.items())
    trained = {one["trained_accuracy"] for one in rows.values()}
    ceiling = 100 * trained.pop()
    level = None if trained else (ceiling, f"trained network {ceiling:.2f} %")
    return (
        Panel("", "time-steps T", "accuracy (%)", accuracy, level=level, log_x=True),
        Panel("", "time-steps T", "spike rate (% of neurons per step)", rate, log_x=True),
    )


def _remarks(labels: Sequence[str], speed: Sequence[Figures]) -> list[str]:
    level = next(iter(speed[0]))
    times = {label: float(steps["times sooner"] or 0) for label, steps in zip(labels, speed, strict=True)}
    best = max(times, key=lambda label: times[label])
    if times[best] <= 1:
        return [f"No way is sooner than {labels[0]} ({level})."]
    return [f"{best} is {times[best]:.1f} times sooner than {labels[0]} ({level})."]
