"""Accuracy and spike rate against T for several ways to convert a network: what most tables and figures are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.provenance import in_words
from experiments.entry import Conditions, Entry, Figures, Job, Line, Outcome, Value
from experiments.networks import Trained, find
from experiments.rows import Row, Way, row

SHARES = (0.95, 0.9, 0.8, 0.5)
"""Ways are compared for speed at the highest of these shares of the trained accuracy that both keep. The first is near
the levels of Han et al. (2020): 85 of 91.47 %, 90 of 93.63, 68.34 of 71.22, 64.06 of 68.72."""


@dataclass(frozen=True)
class Case:
    """A network and the ways to convert it, with what the paper has for them.

    Fields:
        title: of the network, as the paper has it.
        network: its name in the zoo.
        ways: the first one is what the others are compared with.
        published: columns by label of the way.
    """

    title: str
    network: str
    ways: tuple[Way, ...]
    published: Mapping[str, Figures] = field(default_factory=dict[str, Figures])


def comparison(
    name: str,
    title: str,
    cases: Sequence[Case],
    columns: Sequence[str],
    conditions: Conditions,
    faster: bool = False,
    **about: Any,
) -> Entry:
    """An entry with one line for each case and way, all under the same conditions, and curves of all of them.

    Args:
        columns: names in ``COLUMNS``, or "T=16" for the accuracy after 16 steps (left out if T is smaller).
        faster: add how many times sooner a way reaches an accuracy than the first way.
        about: paper, place and cites of the entry.
    """
    run = partial(compare, tuple(cases), tuple(columns), faster)
    return Entry(name, title, run, conditions, tuple(case.network for case in cases), **about)


def compare(cases: Sequence[Case], columns: Sequence[str], faster: bool, job: Job) -> Outcome:
    """The outcome of such an entry."""
    lines: list[Line] = []
    labelled: dict[str, Row] = {}
    notes: list[tuple[str, str]] = []
    told: list[object] = []
    for case, source in zip(cases, job.networks, strict=True):
        network = find(source, job.data, job.data_folder)
        before = f"{case.title}: " if len(cases) > 1 else ""
        rows = rows_of(case.ways, network, job)
        first = next(iter(rows.values()))
        for label, one in rows.items():
            ours: dict[str, Value] = {name: value for name in columns if (value := column(name, one)) is not None}
            speed = sooner(one, first) if faster and one is not first else {}
            lines.append(Line(before + label, {**ours, **speed}, case.published.get(label, {})))
            labelled[before + label] = one
        notes.append((before + network.name, images_of(network, first)))
        told.append(network.told)
    return Outcome(lines, curves(labelled), together(notes), (), {"networks": told, "rows": labelled})


def rows_of(ways: Sequence[Way], network: Trained, job: Job) -> dict[str, Row]:
    """The rows of all ways by label, from their files where they are there."""
    return {way.label: row(way, network, job) for way in ways}


def note(network: Trained, one: Row) -> str:
    """The network and the images."""
    return f"{network.name}, {images_of(network, one)}"


def together(notes: Sequence[tuple[str, str]]) -> str:
    """Networks, each with its images; images that all of them have are said once.

    >>> together([("a", "5 images"), ("b", "5 images")]), together([("a", "5 images"), ("b", "6 images")])
    ('a; b, 5 images', 'a, 5 images; b, 6 images')
    """
    shared = {images for _, images in notes}
    if len(shared) == 1:
        return f"{'; '.join(name for name, _ in notes)}, {shared.pop()}"
    return "; ".join(map(", ".join, notes))


def images_of(network: Trained, one: Row) -> str:
    """The number of images, their part and data set, and the coder if it draws."""
    available = len(network.data.test)
    coder = f", {in_words(one['coder'])}" if one["coder"]["name"] != "Constant" else ""
    part = one["data"].rpartition("/")[2]
    return f"{one['images']:,} of {available:,} {part} images of {network.data.name}{coder}"


def _spread(one: Row, mean: float, sign: int = 1) -> Value:
    """A percentage after the last step, with its deviation over the seeds if there are several."""
    return (sign * mean, 100 * one["accuracy_std"][-1]) if one["runs"] > 1 else sign * mean


def _top5(one: Row) -> Value:
    return None if one["top5"] is None else 100 - 100 * sum(one["top5"]) / len(one["top5"])


COLUMNS: dict[str, Callable[[Row], Value]] = {
    "trained": lambda one: 100 * one["trained_accuracy"],
    "spiking": lambda one: _spread(one, 100 * one["accuracy"][-1]),
    "best": lambda one: 100 * max(one["accuracy"]),
    "loss": lambda one: 100 * (one["trained_accuracy"] - one["accuracy"][-1]),
    "trained error": lambda one: 100 - 100 * one["trained_accuracy"],
    "spiking error": lambda one: _spread(one, 100 - 100 * one["accuracy"][-1]),
    "trained top-5 error": lambda one: None if one["top5"] is None else 100 - 100 * one["trained_top5"],
    "spiking top-5 error": _top5,
    "spike rate": lambda one: one["spike_rate"][-1],
}
"""In percent, after the last step; loss in points."""


def column(name: str, one: Row) -> Value:
    """A figure of a row; None for a step that was not run."""
    if name in COLUMNS:
        return COLUMNS[name](one)
    t = int(name.removeprefix("T="))
    return 100 * one["accuracy"][t - 1] if t <= one["timesteps"] else None


def level_of(one: Row, other: Row) -> float | None:
    """The highest of SHARES of the trained accuracy that both rows have at the end; None below the last of them.

    Of two networks the less accurate one counts.
    """
    lowest = min(one["accuracy"][-1], other["accuracy"][-1])
    trained = min(one["trained_accuracy"], other["trained_accuracy"])
    return next((share * trained for share in SHARES if share * trained <= lowest + 1e-9), None)


def sooner(one: Row, first: Row) -> Figures:
    """From which step two rows stay at or above a level that both reach, and how many times sooner that one is."""
    level = level_of(one, first)
    if level is None:
        return {"level": "one stays below half", "steps": None, "steps of the first": None, "times sooner": None}
    steps, others = (es.latency(torch.tensor(each["accuracy"]), level - 1e-9) for each in (one, first))
    times = others / steps if steps and others else None
    return {"level": f"{100 * level:.1f} %", "steps": steps, "steps of the first": others, "times sooner": times}


def curves(rows: Mapping[str, Row]) -> tuple[Panel, Panel]:
    """Accuracy and spike rate against T, by label; the trained network's accuracy if all rows share it."""
    steps = {label: range(1, one["timesteps"] + 1) for label, one in rows.items()}
    accuracy = tuple(Series(label, steps[label], [100 * a for a in one["accuracy"]]) for label, one in rows.items())
    rate = tuple(Series(label, steps[label], one["spike_rate"]) for label, one in rows.items())
    trained = {one["trained_accuracy"] for one in rows.values()}
    ceiling = 100 * trained.pop()
    level = None if trained else (ceiling, f"trained network {ceiling:.2f} %")
    return (
        Panel("", "time-steps T", "accuracy (%)", accuracy, level=level, log_x=True),
        Panel("", "time-steps T", "spike rate (% of neurons per step)", rate, log_x=True),
    )
