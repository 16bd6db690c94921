"""How a rate comes about under constant and under Poisson input: figure 3 of Ding et al. (2021).

The rate of one output neuron, that of the image's class, from four random initial potentials of all neurons. With
Poisson input, the draws differ too. Dashed: the rate that the trained network asks for. The paper has curves only.

Measured (torch 2.13.0, CPU, mnist-cnn, one digit, seeds 0 to 3): mean distance from the trained rate of 0.60 after 10,
50 and 200 steps 0.050, 0.010 and 0.002 with constant, 0.025, 0.006 and 0.002 with Poisson input.
"""

import torch

import equispike as es
from equispike.analysis.fit import trained_rates
from equispike.analysis.plots import Panel, Series
from equispike.conversion import convert
from equispike.experiments.compare import told
from equispike.experiments.entry import Entry, Line, Outcome, numbers
from equispike.experiments.networks import Amount, Setting, Wanted, ready
from equispike.experiments.rows import BATCH, POISSON
from equispike.simulation.run import simulate

IMAGE = 0  # number in the test set
SAMPLINGS = 4
TIMESTEPS = 200
STEPS = (10, 25, 50, 100, 200)
WANTED = Wanted("mnist-cnn", "mnist-cnn", Amount(1, TIMESTEPS, 256, 256))


def run(setting: Setting) -> Outcome:
    """Rates of the output neuron against T, for both codings."""
    network = ready(WANTED, setting)
    timesteps = setting.timesteps or TIMESTEPS
    calibration = network.data.train.take(network.amount.calibration).batches(BATCH)
    spiking = convert(network.model, calibration, es.DataNorm(), readout="spikes", v_init="uniform")
    ((image, label),) = network.data.test[IMAGE : IMAGE + 1].batches(1)
    output = list(spiking.neurons)[-1]
    kind = int(label)
    wanted = float(trained_rates(spiking, spiking.check_images(image))[output][0, kind])
    size = float(spiking.neurons[output].amplitude or 1.0)
    t = torch.arange(1, timesteps + 1)
    lines: list[Line] = []
    parts: list[Panel] = []
    rates: dict[str, object] = {}
    for name, coder in (("constant", es.Constant()), ("Poisson", POISSON)):
        runs = [simulate(spiking, image, timesteps, coder, seed).readout[:, 0, kind] for seed in range(SAMPLINGS)]
        found = torch.stack([scores.double() / size / t for scores in runs])
        off = (found - wanted).abs().mean(0)
        lines.append(
            Line(f"{name} input", {f"mean error, T={n}": round(float(off[n - 1]), 3) for n in STEPS if n <= timesteps})
        )
        series = tuple(Series(f"sampling {n}", range(1, timesteps + 1), numbers(row)) for n, row in enumerate(found, 1))
        parts.append(
            Panel(f"{name} input", "time-steps T", "spikes per step", series, level=(wanted, "trained network"))
        )
        rates[name] = [numbers(row) for row in found]
    note = f"{network.name}: output neuron {kind} for test image {IMAGE} of {network.data.name}, seeds 0 to 3"
    return Outcome(tuple(lines), tuple(parts), note, (), told(network), {"rates": rates, "trained rate": wanted})


ENTRIES = (Entry("ding-figure-3", "The rate of an output neuron under both codings", run, "ding2021", "figure 3"),)
