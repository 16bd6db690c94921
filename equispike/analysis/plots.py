"""Figures. The only file that imports matplotlib, of which it takes no backend: notebooks and scripts keep theirs.

Each function returns a ``Figure``: as the last line of a cell it shows itself; ``figure.savefig("a.png")`` writes it.
With ``ax`` it draws into axes that are there already.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure

from equispike.errors import FileError, SimulationError

if TYPE_CHECKING:
    from equispike.analysis.accuracy import Evaluation
    from equispike.simulation.run import Run

# Okabe and Ito (2008): told apart with any colour vision; dashes repeat the order for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
BLACK = COLOURS.index("#000000")
DASHES = ("-", "--", "-.", ":")


class Drawing(Figure):
    """A figure that shows itself in a notebook, whatever was imported there."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        figure: Any = self
        figure.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


@dataclass(frozen=True)
class Curve:
    """One method's line: accuracy in [0, 1] and spike rate in percent after each of the steps."""

    label: str
    timesteps: Sequence[int]
    accuracy: Sequence[float]
    spike_rate: Sequence[float]


def accuracy_curves(results: "Evaluation | Mapping[str, Evaluation]", ax: Any = None) -> Figure:
    """Draw accuracy against time-steps, a line for each result, below the trained network's.

    Args:
        results: what ``es.evaluate`` returned; or several by name, of one trained network and the same images.
        ax: matplotlib axes to draw into; default a new figure.
    Returns:
        the figure.
    """
    named = _named(results)
    figure, axes = _room(ax)
    _accuracies(axes, [line_of(name, result) for name, result in named.items()], next(iter(named.values())).trained)
    _legend(axes, named)
    return figure


def spike_rate_curves(results: "Evaluation | Mapping[str, Evaluation]", ax: Any = None) -> Figure:
    """Draw the spike rate up to each time-step, a line for each result: see :func:`accuracy_curves`."""
    named = _named(results)
    figure, axes = _room(ax)
    _spike_rates(axes, [line_of(name, result) for name, result in named.items()])
    _legend(axes, named)
    return figure


def line_of(label: str, result: "Evaluation") -> Curve:
    """The line that an evaluation draws."""
    rates = result.spike_rate.mean(0)
    return Curve(label, range(1, len(rates) + 1), [float(a) for a in result.mean], [float(rate) for rate in rates])


def _named(results: Any) -> "Mapping[str, Evaluation]":
    named: dict[str, Any] = {**results} if isinstance(results, Mapping) else {"": results}
    if not named or not all(hasattr(result, "spike_rate") and hasattr(result, "trained") for result in named.values()):
        raise SimulationError("results: give what es.evaluate returned, or a dict of such results by name")
    return named


def _room(ax: Any) -> tuple[Any, Any]:
    """Figure and axes to draw into."""
    if ax is None:
        figure: Any = Drawing(figsize=(6.4, 4.4), layout="constrained")
        return figure, figure.subplots()
    if not hasattr(ax, "plot"):
        raise SimulationError(f"ax: a {type(ax).__name__}. Give matplotlib axes, such as figure.subplots()")
    return ax.figure, ax


def _legend(axes: Any, named: Mapping[str, object]) -> None:
    if any(named):
        axes.legend(frameon=False)


def _accuracies(axes: Any, curves: Sequence[Curve], trained: float) -> None:
    axes.axhline(100 * trained, color="0.4", linewidth=1, linestyle=(0, (6, 3)))
    axes.annotate(
        f"trained network {100 * trained:.1f} %", (1, 100 * trained), xytext=(2, 3), textcoords="offset points",
        color="0.3", fontsize=9,
    )  # fmt: skip
    for number, one in enumerate(curves):
        axes.plot(one.timesteps, [100 * a for a in one.accuracy], label=one.label, **_style(number))
    _against_steps(axes, curves, "accuracy (%)")
    axes.set_ylim(0, 104)


def _spike_rates(axes: Any, curves: Sequence[Curve]) -> None:
    for number, one in enumerate(curves):
        axes.plot(one.timesteps, one.spike_rate, label=one.label, **_style(number))
    _against_steps(axes, curves, "spike rate (% of neurons per step)")


def _against_steps(axes: Any, curves: Sequence[Curve], quantity: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(2, *(max(one.timesteps) for one in curves)))
    _label(axes, "time-steps T", quantity)


def accuracy_and_spike_rate(curves: Sequence[Curve], trained: float, title: str, path: Path) -> None:
    """Draw accuracy (left) and spike rate (right) against time-steps, one line per method, as a PNG.

    Args:
        trained: accuracy of the trained network, in [0, 1]: the ceiling.
        path: of the PNG; replaced if it exists.
    Raises:
        FileError: the file cannot be written.
    """
    figure: Any = Drawing(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _accuracies(left, curves, trained)
    _spike_rates(right, curves)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False, title="method")
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
    figure: Any = Drawing(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
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


def panels(parts: Sequence[Panel], title: str, paths: Sequence[Path] = ()) -> Figure:
    """Draw panels beside each other, at most three in a row, with one legend for the labels of all.

    Args:
        paths: files to write, their suffix naming the format: .png, .pdf, .svg.
    Returns:
        the figure.
    Raises:
        FileError: a file cannot be written.
    """
    across = min(len(parts), 3)
    down = -(-len(parts) // across)
    labels = [label for label in dict.fromkeys(s.label for part in parts for s in part.series) if label]
    width = 4.6 * across + (3.0 if labels else 0.0)
    figure: Any = Drawing(figsize=(width, 3.9 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for place in axes.flat[len(parts) :]:
        place.set_visible(False)
    styles = {label: _style(number) for number, label in enumerate(labels)} | {"": _style(BLACK)}
    drawn: dict[str, Any] = {}
    for part, place in zip(parts, axes.flat, strict=False):
        drawn = _panel(part, place, styles) | drawn
    if labels:
        handles = [drawn[label] for label in labels]
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    return _save(figure, title, paths)


def trains(run: "Run", layer: str, image: int = 0, most: int = 40, ax: Any = None) -> Figure:
    """Draw when neurons of a layer spike, a row each, and the potentials of three of them if they were kept.

    Neurons are those that spike at all, busiest first; where they are too many, some of all ranks.

    Args:
        run: simulated with ``trains=[layer]``, and with ``potentials=[layer]`` for the right half.
        image: which of the run's images.
        most: rows at most.
        ax: matplotlib axes to draw the spikes into, without the potentials; default a new figure.
    Returns:
        the figure.
    Raises:
        SimulationError: the trains of this layer were not kept, or the run has no such image.
    """
    if layer not in run.trains:
        raise SimulationError(f"{layer}: its trains were not kept. Simulate with trains=[{layer!r}]")
    if not 0 <= image < run.images:
        raise SimulationError(f"image: {image} is none of the run's {run.images} images, 0 to {run.images - 1}")
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
    if ax is not None:
        figure, axes = _room(ax)
        _panel(parts[0], axes, {series.label: _style(BLACK) for series in rows})
        return figure
    if followed:
        v: Any = run.potentials[layer][:, image].flatten(1).cpu()
        lines = tuple(Series(_name(place), range(1, len(v) + 1), v[:, place].tolist()) for place in followed)
        parts.append(Panel("potential after each step", "time-step", "potential", lines))
    return panels(parts, f"{layer}, image {image}")


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
    taken: set[str] = set()  # colours of bars so far
    for series in part.series:
        style = dict(styles[series.label])
        if series.like is not None:
            style |= {"color": styles[part.series[series.like].label]["color"], "linestyle": ":", "linewidth": 1.2}
        if series.kind == "bars":
            wide = 0.8 / len(bars)
            shift = (bars.index(series.label) - (len(bars) - 1) / 2) * wide
            look = {"color": style["color"], "hatch": "//" if style["color"] in taken else "", "edgecolor": "white"}
            drawn[series.label] = axes.bar([x + shift for x in series.x], series.y, wide, linewidth=0, **look)
            taken.add(style["color"])
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


def _save(figure: Any, title: str, paths: Sequence[Path]) -> Figure:
    figure.suptitle(title, fontsize="large" if "\n" not in title else "medium")
    try:
        for path in paths:
            figure.savefig(path, dpi=110)
    except OSError as error:
        raise FileError(f"{paths[0]}: cannot be written: {error.strerror}. Choose another place") from error
    return figure
