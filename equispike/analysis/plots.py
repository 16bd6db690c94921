"""Figures. The only file that imports matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from equispike.errors import FileError, SimulationError

if TYPE_CHECKING:
    from equispike.simulation.run import Run

# Okabe and Ito (2008): told apart with any colour vision; dashes repeat the order for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
BLACK = COLOURS.index("#000000")
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """One method's line: accuracy in [0, 1] and spike rate in percent after each of the steps."""

    label: str
    timesteps: Sequence[int]
    accuracy: Sequence[float]
    spike_rate: Sequence[float]


def accuracy_and_spike_rate(curves: Sequence[Curve], trained: float, title: str, path: Path) -> None:
    """Draw accuracy (left) and spike rate (right) against time-steps, one line per method, as a PNG.

    Args:
        trained: accuracy of the trained network, in [0, 1]: the ceiling.
        path: of the PNG; replaced if it exists.
    Raises:
        FileError: the file cannot be written.
    """
    figure: Any
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    left.axhline(100 * trained, color="0.4", linewidth=1, linestyle=(0, (6, 3)))
    left.annotate(
        f"trained network {100 * trained:.1f} %", (1, 100 * trained), xytext=(2, 3), textcoords="offset points",
        color="0.3", fontsize=9,
    )  # fmt: skip
    for number, curve in enumerate(curves):
        style = _style(number)
        left.plot(curve.timesteps, [100 * a for a in curve.accuracy], label=curve.label, **style)
        right.plot(curve.timesteps, curve.spike_rate, **style)
    longest = max(max(curve.timesteps) for curve in curves)
    for axes, quantity in ((left, "accuracy (%)"), (right, "spike rate (% of neurons per step)")):
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, longest)
        _label(axes, "time-steps T", quantity)
    left.set_ylim(0, 104)
    figure.legend(loc="outside right center", frameon=False, title="method")
    _save(figure, title, [path])


def training(loss: Sequence[float], accuracy: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Draw accuracy (left) and loss (right) against epochs, as a PNG.

    Args:
        loss: after each epoch.
        accuracy: in [0, 1], after each epoch, by what it was measured on.
        path: of the PNG; replaced if it exists.
    Raises:
        FileError: the file cannot be written.
    """
    figure: Any
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = range(1, len(loss) + 1)
    for (label, values), colour, dash in zip(accuracy.items(), COLOURS, DASHES, strict=False):
        left.plot(epochs, [100 * value for value in values], color=colour, linestyle=dash, label=label)
    left.legend(frameon=False, loc="lower right")
    right.plot(epochs, loss, color=COLOURS[0])
    for axes, quantity in ((left, "accuracy (%)"), (right, "loss")):
        _label(axes, "epoch", quantity)
    _save(figure, title, [path])


@dataclass(frozen=True)
class Series:
    """Numbers drawn as one thing: "line", "steps" (held until the next x), "dots" or "bars".

    ``like`` takes the colour of the series of that number in its panel, and a thin dashed line.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["line", "steps", "dots", "bars"] = "line"
    like: int | None = None


@dataclass(frozen=True)
class Panel:
    """One part of a figure: series in axes, or a picture, (H, W, 3) in [0, 1].

    ``level`` is a horizontal line with its label; ``ticks`` are words for the numbers 0, 1, ... on the x-axis.
    """

    title: str
    across: str
    up: str = ""
    series: tuple[Series, ...] = ()
    picture: Any = None
    level: tuple[float, str] | None = None
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[str] = ()


def panels(parts: Sequence[Panel], title: str, paths: Sequence[Path]) -> None:
    """Draw panels beside each other, at most three in a row, with one legend for the labels of all.

    Args:
        paths: files to write, their suffix naming the format: .png, .pdf, .svg.
    Raises:
        FileError: a file cannot be written.
    """
    across = min(len(parts), 3)
    down = -(-len(parts) // across)
    figure: Any
    axes: Any
    labels = [label for label in dict.fromkeys(s.label for part in parts for s in part.series) if label]
    width = 4.6 * across + (3.0 if labels else 0.0)
    figure, axes = plt.subplots(down, across, figsize=(width, 3.9 * down), layout="constrained", squeeze=False)
    for place in axes.flat[len(parts) :]:
        place.set_visible(False)
    styles = {label: _style(number) for number, label in enumerate(labels)} | {"": _style(BLACK)}
    drawn: dict[str, Any] = {}
    for part, place in zip(parts, axes.flat, strict=False):
        drawn = _panel(part, place, styles) | drawn
    if labels:
        handles = [drawn[label] for label in labels]
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    _save(figure, title, paths)


def trains(run: "Run", layer: str, path: Path | str, image: int = 0, most: int = 40) -> None:
    """Draw when neurons of a layer spike, a row each, and the potentials of three of them if they were kept.

    Neurons are those that spike at all, busiest first; where they are too many, some of all ranks.

    Args:
        run: simulated with ``trains=[layer]``, and with ``potentials=[layer]`` for the right half.
        path: of the file; its suffix names the format: .png, .pdf, .svg.
        image: which of the run's images.
        most: rows at most.
    Raises:
        SimulationError: the trains of this layer were not kept.
        FileError: the file cannot be written.
    """
    if layer not in run.trains:
        raise SimulationError(f"{layer}: its trains were not kept. Simulate with trains=[{layer!r}]")
    spikes: Any = run.trains[layer][:, image].flatten(1).cpu()
    counts = spikes.sum(0)
    ranked: list[int] = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())].tolist()
    chosen = [ranked[row * len(ranked) // most] for row in range(most)] if len(ranked) > most else ranked
    followed = chosen[:: -(-len(chosen) // 3) or 1] if layer in run.potentials else []
    rows: list[Series] = []
    for row, place in enumerate(chosen, start=1):
        steps = (spikes[:, place].nonzero()[:, 0] + 1).tolist()
        rows.append(Series(_name(place) if place in followed else "", steps, [row] * len(steps), "dots"))
    found = f"{len(rows)} of {len(ranked):,} neurons that spike, of {len(counts):,}"
    parts = [Panel(found, "time-step", "neuron", tuple(rows))]
    if followed:
        v: Any = run.potentials[layer][:, image].flatten(1).cpu()
        lines = tuple(Series(_name(place), range(1, len(v) + 1), v[:, place].tolist()) for place in followed)
        parts.append(Panel("potential after each step", "time-step", "potential", lines))
    panels(parts, f"{layer}, image {image}", [Path(path)])


def _name(place: int) -> str:
    return f"neuron {place:,}"


def _panel(part: Panel, axes: Any, styles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One panel; what was drawn, by label."""
    axes.set_title(part.title, fontsize=10)
    if part.picture is not None:
        axes.imshow(part.picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[], xlabel=part.across)
        return {}
    drawn: dict[str, Any] = {}
    bars = [s.label for s in part.series if s.kind == "bars"]
    for series in part.series:
        style = dict(styles[series.label])
        if series.like is not None:
            style |= {"color": styles[part.series[series.like].label]["color"], "linestyle": ":", "linewidth": 1.2}
        if series.kind == "bars":
            wide = 0.8 / len(bars)
            shift = (bars.index(series.label) - (len(bars) - 1) / 2) * wide
            drawn[series.label] = axes.bar([x + shift for x in series.x], series.y, wide, color=style["color"])
        elif series.kind == "dots":
            style |= {"linestyle": "", "marker": "o", "markersize": 3.5}
            (drawn[series.label],) = axes.plot(series.x, series.y, **style)
        else:
            held = "steps-post" if series.kind == "steps" else "default"
            (drawn[series.label],) = axes.plot(series.x, series.y, drawstyle=held, **style)
    if part.level is not None:
        height, words = part.level
        axes.axhline(height, color="0.4", linewidth=1, linestyle=(0, (6, 3)))
        x, side = (0.02, "left") if part.log_x else (0.98, "right")  # where lines are farthest from it, as a rule
        axes.annotate(
            words, (x, height), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            color="0.3", fontsize=9, ha=side,
        )  # fmt: skip
    signed = min((y for series in part.series for y in series.y), default=0) < 0
    _label(axes, part.across, part.up, bottom=None if part.log_y or signed else 0)
    if part.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if part.log_y:
        axes.set_yscale("log")
    if part.ticks:
        axes.set_xticks(range(len(part.ticks)), part.ticks, rotation=90, fontsize=7)
    return drawn


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number // 2 + number // len(COLOURS)) % len(DASHES)],
        "linewidth": 1.8,
    }


def _label(axes: Any, across: str, up: str, bottom: float | None = 0) -> None:
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, title: str, paths: Sequence[Path]) -> None:
    figure.suptitle(title, fontsize="large" if "\n" not in title else "medium")
    try:
        for path in paths:
            figure.savefig(path, dpi=110)
    except OSError as error:
        raise FileError(f"{paths[0]}: cannot be written: {error.strerror}. Choose another place") from error
    finally:
        plt.close(figure)
