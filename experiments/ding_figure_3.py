"""A rate as it comes about under constant and under Poisson input: figure 3 of Ding et al. (2021).

The rate of one output neuron, that of the image's class, from four random initial potentials of all neurons. With
Poisson input, the draws differ too. Dashed: the rate that the trained network asks for. The paper has curves only.
"""

import torch

import equispike as es
from equispike.analysis.fit import trained_rates
from equispike.analysis.plots import Panel, Series
from experiments.entry import CODERS, Conditions, Entry, Job, Line, Outcome, numbers
from experiments.networks import find
from experiments.rows import calibration

IMAGE = 0  # number in the test set
SAMPLINGS = 4
STEPS = (10, 25, 50, 100, 200)
CONDITIONS = Conditions("constant", "spikes", 200, images=1, seeds=SAMPLINGS)


def run(job: Job) -> Outcome:
    """Rates of the output neuron against T, for both codings."""
    network = find(job.networks[0], job.data, job.data_folder)
    timesteps = job.conditions.timesteps
    held = list(calibration(network, job.conditions))
    spiking = es.convert(network.model, held, es.DataNorm(), readout="spikes", v_init="uniform")
    ((image, label),) = network.data.test[IMAGE : IMAGE + 1].batches(1)
    output, kind = list(spiking.neurons)[-1], int(label)
    wanted = float(trained_rates(spiking, spiking.check_images(image))[output][0, kind])
    size = float(spiking.neurons[output].amplitude or 1.0)
    t = torch.arange(1, timesteps + 1)
    lines: list[Line] = []
    parts: list[Panel] = []
    rates: dict[str, object] = {}
    for name, coder in CODERS.items():
        runs = [es.simulate(spiking, image, timesteps, coder, seed).readout[:, 0, kind] for seed in range(SAMPLINGS)]
        found = torch.stack([scores.double() / size / t for scores in runs])
        off = (found - wanted).abs().mean(0)
        errors = {f"mean error, T={n}": round(float(off[n - 1]), 3) for n in STEPS if n <= timesteps}
        lines.append(Line(f"{name} input", errors))
        series = tuple(Series(f"sampling {n}", range(1, timesteps + 1), numbers(row)) for n, row in enumerate(found, 1))
        level = (wanted, "trained network")
        parts.append(Panel(f"{name} input", "time-steps T", "spikes per step", series, level=level))
        rates[name] = [numbers(row) for row in found]
    note = f"{network.name}: output neuron {kind} for test image {IMAGE} of {network.data.name}, seeds 0 to 3"
    found = {"rates": rates, "trained rate": wanted, **network.told}
    shared = (
        f"largest activations of {sum(len(x) for x, _ in held)} training images as thresholds, T = {timesteps:,}, cpu"
    )
    return Outcome(lines, parts, note, (), found, shared)


ENTRIES = (
    Entry(
        *("ding-figure-3", "The rate of an output neuron under both codings", run, CONDITIONS, ("mnist-cnn",)),
        *("ding2021", "figure 3"),
    ),
)
