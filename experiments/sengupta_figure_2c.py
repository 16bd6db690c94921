"""The largest weighted spike input of each layer of a residual network: figure 2(c) of Sengupta et al. (2019).

Thresholds as SPIKE-NORM measures them, without the constraint of unity. The paper's spikes have size 1, and section 6.2
says that its maxima decay to about 1 after a few layers, since the shortcut hands on a spike of size 1 whatever else
comes in. So a junction counts here in the spikes of its shortcut, any other layer in the spikes of the layer before.
"""

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.graph.ops import Add, Input, Neuron
from experiments.entry import Conditions, Entry, Job, Line, Outcome
from experiments.networks import find
from experiments.rows import Way, convert, note_of_calibration

WAY = Way("SPIKE-NORM", es.SpikeNorm(residual="measured"))
CONDITIONS = Conditions("poisson", "spikes", 1)  # T: nothing is simulated but for the thresholds
COLUMN = "largest spike input"
AROUND_ONE = "about 1 after a few layers"


def unit(network: es.Network, name: str) -> float:
    """Size of the spikes that enter a neuron layer; of those that meet in a sum, the ones that took the shorter way."""
    node = network[network[name].inputs[0]]
    found: list[tuple[int, float]] = []
    waiting = [(source, 1) for source in (node.inputs if isinstance(node.op, Add) else (node.name,))]
    for source, length in waiting:
        op = network[source].op
        if isinstance(op, Input | Neuron):
            found.append((length, float(op.amplitude if op.amplitude is not None else 1.0)))
        else:
            waiting += [(before, length + 1) for before in network[source].inputs]
    return min(found)[1]


def run(job: Job) -> Outcome:
    """Thresholds by layer, in units of the spikes that enter the layer."""
    (source,) = job.networks
    network = find(source, job.data, job.data_folder)
    spiking = convert(WAY, network, job.conditions)
    values = {name: float(value.max()) / unit(spiking, name) for name, value in spiking.thresholds.items()}
    junctions = [name for name in values if isinstance(spiking[spiking[name].inputs[0]].op, Add)]
    middle = junctions[len(junctions) // 2 :]
    lines = [Line(name, {COLUMN: value}) for name, value in values.items()]
    mean = sum(values[name] for name in middle) / max(len(middle), 1)
    lines.append(Line("mean of the later junctions", {COLUMN: mean}, {COLUMN: AROUND_ONE}))
    dots = Series("SPIKE-NORM", range(len(values)), list(values.values()), "dots")
    up = "largest spike input (spikes of size 1)"
    panel = Panel(network.name, "", up, (dots,), level=(1.0, "1"), ticks=list(values))
    found = {"thresholds": values, "junctions": junctions, "later junctions": mean}
    return Outcome(lines, (panel,), note_of_calibration(network, job.conditions), (), {**found, **network.told})


ENTRIES = (
    Entry(
        *("sengupta-figure-2c", "Largest spike input by layer", run, CONDITIONS, ("resnet20-cifar10",)),
        *("sengupta2019", "figure 2(c) and section 6.2"),
    ),
)
