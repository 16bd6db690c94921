"""The largest weighted spike input of each layer of a residual network: figure 2(c) of Sengupta et al. (2019).

Thresholds as SPIKE-NORM measures them, without the constraint of unity, in units of the spikes that enter the layer:
what the paper plots, since its spikes have size 1. Published: section 6.2, which says that they decay to about 1 after
a few layers, because the shortcut hands on a spike of size 1 whatever else comes in.

Measured (torch 2.13.0, CPU, resnet20-cifar10, 32 training images, 1,024 steps observed): 5.9, 3.3 and 2.9 in the plain
layers in front, then 0.8 to 1.7 in the first six blocks; 0.4 to 0.8 in the paths and 1.5 to 2.7 at the junctions of the
last three.
"""

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.experiments.compare import told
from equispike.experiments.entry import Entry, Line, Outcome
from equispike.experiments.networks import Amount, Setting, Wanted, ready
from equispike.experiments.rows import POISSON, Way, converted
from equispike.graph.exact import rescale

WANTED = Wanted("resnet20-cifar10", "resnet20-cifar10", Amount(None, 2500, 256, 2500))
WAY = Way("SPIKE-NORM", es.SpikeNorm(), POISSON)
AROUND_ONE = "about 1 after a few layers"


def run(setting: Setting) -> Outcome:
    """Thresholds by layer, in units of the spikes that enter the layer."""
    network = ready(WANTED, setting)
    balanced = rescale(converted(WAY, network), "balanced")
    thresholds = {name: float(value.max()) for name, value in balanced.thresholds.items()}
    names, values = list(thresholds), list(thresholds.values())
    later = sorted(values[len(values) // 2 :])
    lines = [Line(name, {"largest spike input": value}) for name, value in thresholds.items()]
    lines.append(
        Line(
            "median of the later half",
            {"largest spike input": later[len(later) // 2]},
            {"largest spike input": AROUND_ONE},
        )
    )
    panel = Panel(
        network.name,
        "",
        "largest spike input (spikes of size 1)",
        (Series("SPIKE-NORM", range(len(values)), values, "dots"),),
        level=(1.0, "1"),
        ticks=names,
    )
    amount = network.amount
    note = f"{network.name}: {amount.calibration:,} training images, each layer observed for {amount.observe:,} steps"
    return Outcome(tuple(lines), (panel,), note, conditions=told(network), numbers={"thresholds": thresholds})


ENTRIES = (
    Entry("sengupta-figure-2c", "Largest spike input by layer", run, "sengupta2019", "figure 2(c) and section 6.2"),
)
