"""Figures. The only file that imports matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from equispike.errors import FileError

# Okabe and Ito (2008): told apart with any colour vision; dashes repeat the order for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
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
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number // 2 % len(DASHES)],
            "linewidth": 1.8,
        }
        left.plot(curve.timesteps, [100 * a for a in curve.accuracy], label=curve.label, **style)
        right.plot(curve.timesteps, curve.spike_rate, **style)
    longest = max(max(curve.timesteps) for curve in curves)
    for axes, quantity in ((left, "accuracy (%)"), (right, "spike rate (% of neurons per step)")):
        axes.set_xscale("log", base=2)
        axes.set_xlim(1, longest)
        _label(axes, "time-steps T", quantity)
    left.set_ylim(0, 104)
    figure.legend(loc="outside right center", frameon=False, title="method")
    _save(figure, title, path)


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
    _save(figure, title, path)


def _label(axes: Any, across: str, up: str) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, title: str, path: Path) -> None:
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}. Choose another place") from error
    finally:
        plt.close(figure)
