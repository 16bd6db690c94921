"""Spikes of each layer, and synaptic operations against those of the trained network: Sengupta et al. (2019).

Figure 5: spikes per neuron, over all steps and averaged over images, become fewer with depth. Section 7.4: additions of
the spiking network per multiplication of the trained one, in the layers that spikes drive. Published: the two ratios,
1.975 for VGG-16 after 500 steps and 2.4 for ResNet-34 after 2,000, both on ImageNet. Fan-out is exact here: at the
borders of an image a spike reaches fewer synapses.

Beside the spikes of figure 5 stand those that the trained network asks for, T times the mean rate clip(a / theta, 0, 1)
of its activations, and those of soft reset at the same thresholds: so one sees which layers are busy as trained, and
what hard reset loses.
"""

from dataclasses import replace
from functools import partial

import torch

import equispike as es
from equispike.analysis.energy import INT8_45NM
from equispike.analysis.fit import trained_rates
from equispike.analysis.operations import operations
from equispike.analysis.plots import Panel, Series
from experiments.compare import note
from experiments.entry import Conditions, Entry, Job, Line, Outcome
from experiments.networks import Trained, find
from experiments.rows import BATCH, Row, Way, coder_of, convert, row, test_images
from experiments.sengupta_tables import SPIKES, UNITY

NETWORKS: dict[str, tuple[str, Way, float]] = {
    "vgg": ("VGG", SPIKES, 1.975),
    "resnet": ("ResNet", UNITY, 2.4),
}
STEPS = {"vgg": 500, "resnet": 2000}


def sparsity(kind: str, job: Job) -> Outcome:
    """Figure 5: spikes of a neuron for an image, by layer."""
    (source,) = job.networks
    network = find(source, job.data, job.data_folder)
    way = NETWORKS[kind][1]
    rows = {way.label: row(way, network, job), "soft reset": row(replace(way, reset="subtract"), network, job)}
    hard, soft = map(per_neuron, rows.values())
    asked = asked_for(convert(way, network, job.conditions), network, job.conditions)
    columns = {"spikes per neuron": hard, "with soft reset": soft, "asked for": asked}
    lines = [Line(layer, {name: values[layer] for name, values in columns.items()}) for layer in hard]
    bars = tuple(Series(name, range(len(hard)), [v[layer] for layer in hard], "bars") for name, v in columns.items())
    panel = Panel(network.name, "", "spikes per neuron", bars, ticks=list(hard))
    told = {"rows": rows, "asked for": asked, **network.told}
    return Outcome(lines, (panel,), note(network, rows[way.label]), (), told)


def per_neuron(one: Row) -> dict[str, float]:
    """Spikes of a neuron for an image, by layer."""
    return {name: spikes / one["neurons"][name] for name, spikes in one["spikes_per_image"].items()}


def asked_for(spiking: es.Network, network: Trained, conditions: Conditions) -> dict[str, float]:
    """Spikes of a neuron for an image that the trained network's activations ask for, by layer."""
    totals = dict.fromkeys(spiking.neurons, 0.0)
    images = test_images(network, conditions)
    with torch.no_grad():
        for x, _ in images.batches(BATCH):
            rates = trained_rates(spiking, spiking.check_images(x))
            totals = {name: totals[name] + float(rate.flatten(1).mean(1).sum()) for name, rate in rates.items()}
    return {name: conditions.timesteps * total / len(images) for name, total in totals.items()}


def ratio(kind: str, job: Job) -> Outcome:
    """Section 7.4: additions of the spiking network for each MAC of the trained one."""
    title, way, published = NETWORKS[kind]
    (source,) = job.networks
    network = find(source, job.data, job.data_folder)
    spiking, coder, timesteps = (
        convert(way, network, job.conditions),
        coder_of(network, job.conditions),
        job.conditions.timesteps,
    )
    measured = es.evaluate(spiking, test_images(network, job.conditions).batches(BATCH), timesteps, coder, label=title)
    found = operations(spiking, measured.counts, timesteps, measured.inputs)
    ours = {
        "additions per MAC": found.ratio,
        "accuracy": 100 * float(measured.mean[-1]),
        "MACs (millions)": found.macs / 1e6,
        "MACs that remain (millions)": found.analog_macs / 1e6,
        "additions (millions)": found.additions / 1e6,
        "energy (times the trained network's)": found.energy() / found.trained_energy(),
        "of 8 bits (times)": found.energy() / found.trained_energy(INT8_45NM),
    }
    pair = (Series("here", (0,), (found.ratio or 0.0,), "bars"), Series("published", (0,), (published,), "bars"))
    panel = Panel("", "", "additions per MAC", pair, level=(1.0, "1"), ticks=[network.name])
    words = f"{network.name}, {measured.images:,} test images of {network.data.name}"
    remark = "Energy: 32-bit floating point at 45 nm, memory left out; an assumption, not a measurement."
    line = Line(network.name, ours, {"additions per MAC": published})
    return Outcome((line,), (panel,), words, (remark,), network.told)


def _entries(kind: str, network: str) -> tuple[Entry, Entry]:
    title = NETWORKS[kind][0]
    where = (Conditions("poisson", "spikes", STEPS[kind], images=256), (network,), "sengupta2019")
    return (
        Entry(f"sengupta-figure-5-{kind}", f"{title}: spikes by layer", partial(sparsity, kind), *where, "figure 5"),
        Entry(
            f"sengupta-operations-{kind}", f"{title}: additions per MAC", partial(ratio, kind), *where, "section 7.4"
        ),
    )


ENTRIES = (*_entries("vgg", "vgg16-imagenet"), *_entries("resnet", "resnet34-imagenet"))
