"""Figures are drawn into axes or into a figure of their own, and leave matplotlib's backend alone."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import equispike as es
from equispike.analysis import plots

OWN_BACKEND = """
import matplotlib
matplotlib.use("svg")
from matplotlib import pyplot
from equispike.analysis import plots
plots.panels([plots.Panel("a", "x", "y", (plots.Series("s", [1, 2], [3, 4]),))], "title")._repr_png_()
assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
assert pyplot.get_fignums() == []
"""


@cache
def evaluated() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3))
    images, labels = torch.rand(20, 4), torch.arange(20) % 3
    return {
        str(p): es.evaluate(es.convert(model, images, es.DataNorm(p)), [(images, labels)], 8) for p in (90.0, 100.0)
    }


def test_a_backend_that_was_chosen_stays_and_no_figure_stays_open() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OWN_BACKEND], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("draw", [plots.accuracy_curves, plots.spike_rate_curves])
def test_results_are_drawn_by_name_and_shown_by_themselves(draw: Any) -> None:
    figure = draw(evaluated())
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["90.0", "100.0"]
    alone = draw(evaluated()["90.0"])
    assert alone.axes[0].get_legend() is None
    drawn = next(line for line in alone.axes[0].lines if len(line.get_xdata()) == 8)
    first = evaluated()["90.0"]
    wanted = 100 * first.mean if draw is plots.accuracy_curves else first.spike_rate[0]
    assert torch.equal(torch.tensor(drawn.get_ydata(), dtype=torch.float64), wanted)


def test_axes_that_are_given_are_drawn_into() -> None:
    figure: Any = Figure()
    left, middle, right = figure.subplots(1, 3)
    torch.manual_seed(0)
    network = es.convert(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3)), torch.rand(9, 4))
    run = es.simulate(network, torch.rand(2, 4), 8, trains=["1"])
    assert plots.accuracy_curves(evaluated(), ax=left) is figure
    assert plots.spike_rate_curves(evaluated(), ax=middle) is figure
    assert plots.trains(run, "1", ax=right) is figure
    assert all(axes.lines for axes in (left, middle, right))


@pytest.mark.parametrize("wrong", [None, 3, {}, {"a": 1}, "x", [1]])
def test_other_things_than_results_and_axes_are_refused(wrong: Any) -> None:
    with pytest.raises(es.SimulationError, match=r"Give what es.evaluate returned|give what es.evaluate returned"):
        plots.accuracy_curves(wrong)
    if wrong is not None:
        with pytest.raises(es.SimulationError, match="Give matplotlib axes"):
            plots.accuracy_curves(evaluated(), ax=wrong)


def test_bars_of_one_colour_are_told_apart() -> None:
    lines = tuple(plots.Series(f"line {number}", [0, 1], [1, 2]) for number in range(len(plots.COLOURS)))
    bars = tuple(plots.Series(label, [0], [1], "bars") for label in ("line 0", "another", "line 1"))
    figure: Any = plots.panels([plots.Panel("", "x", "y", lines), plots.Panel("", "x", "y", bars)], "")
    drawn = [(patch.get_facecolor(), patch.get_hatch()) for patch in figure.axes[1].patches]
    assert drawn[0][0] == drawn[1][0]  # colours come again after the last
    assert len(set(drawn)) == len(bars)
