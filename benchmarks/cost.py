"""Growth of the time of a simulation with steps, batch, spike rate, width and depth.

One thing is varied at a time around batch 8, T = 64, 3.5 %, and the plain loop runs in turn with the package's engines.
Draws cost.png and prints one JSON line.

    python -m benchmarks.cost --out cost.png
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from benchmarks import timing
from equispike.calibrate.data_norm import DataNorm
from equispike.conversion import convert
from equispike.graph.network import Network
from equispike.provenance import versions
from equispike.zoo.data import load
from equispike.zoo.models import vgg

START = {"steps": 64, "batch": 8, "spike rate": 3.5, "width": 0.25, "depth": 11}
VARIED: dict[str, tuple[float, ...]] = {
    "steps": (16, 32, 64, 128, 256),
    "batch": (1, 2, 8, 32),
    "spike rate": (1, 2, 3.5, 7, 15, 30),
    "width": (0.125, 0.25, 0.5),
    "depth": (11, 13, 16, 19),
}


def cases() -> Iterator[tuple[str, float, Network, Tensor, int]]:
    """Cases: what is varied, its value, and the network, images and steps."""
    data = load("cifar10")
    calibration = data.train.take(16).floats()
    for quantity, values in VARIED.items():
        for value in values:
            case = {**START, quantity: value}
            model = vgg(int(case["depth"]), width=case["width"])
            network = convert(model, calibration, DataNorm(99.9))
            network = timing.with_spike_rate(network, calibration[:4], case["spike rate"])
            yield quantity, value, network, data.test.take(int(case["batch"])).floats(), int(case["steps"])


def draw(found: Mapping[str, Mapping[float, Mapping[str, float]]], path: Path) -> None:
    """A panel for each quantity; both axes logarithmic, so that a straight line at 45 degrees is proportional."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, grid = pyplot.subplots(2, 3, figsize=(9, 5.5), layout="constrained", sharey=True)
    *panels, corner = grid.flat
    seconds = FuncFormatter(lambda value, _: f"{value:g}")
    for axis, (quantity, points) in zip(panels, found.items(), strict=True):
        for name, dash in zip(next(iter(points.values())), ("-", "--", ":"), strict=True):
            axis.loglog(list(points), [times[name] for times in points.values()], f"o{dash}", label=name)
        axis.set_xticks(list(points), [f"{value:g}" for value in points])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(seconds)
        axis.set_xlabel(
            {"spike rate": "spike rate of each layer (%)", "width": "width (of VGG's channels)"}.get(quantity, quantity)
        )
        axis.grid(alpha=0.3)
    for left in grid[:, 0]:
        left.set_ylabel("seconds")
    corner.axis("off")
    corner.legend(*panels[0].get_legend_handles_labels(), loc="center")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cost.png"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, dict[float, dict[str, float]]] = {}
    for quantity, value, network, images, steps in cases():
        contenders = {
            "plain torch loop": timing.plain_loop(network, images, steps),
            "layerwise": timing.ours(network, images, steps, "layerwise"),
            "auto": timing.ours(network, images, steps, "auto"),
        }
        timings = timing.in_turns(contenders, arguments.repeats, tolerance=0.02)
        found.setdefault(quantity, {})[value] = {name: timing.median for name, timing in timings.items()}
        print(
            f"{quantity} {value:g}: " + ", ".join(f"{name} {t.median:.3f} s" for name, t in timings.items()), flush=True
        )
    draw(found, arguments.out)
    conditions = {"threads": torch.get_num_threads(), "processor": timing.processor(), "versions": versions()}
    print(json.dumps({"start": START, "cost": found, "n": arguments.repeats, **conditions}))


if __name__ == "__main__":
    main()
