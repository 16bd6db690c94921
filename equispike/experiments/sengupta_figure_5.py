"""Spikes of each layer, and synaptic operations against those of the trained network: Sengupta et al. (2019).

Figure 5: spikes per neuron, over all steps and averaged over images, become fewer with depth. Section 7.4: additions of
the spiking network per multiplication of the trained one, in the layers that spikes drive. Published: the two ratios,
1.975 for VGG-16 and 2.4 for ResNet-34 on ImageNet. Fan-out is exact here: at the borders of an image a spike reaches
fewer synapses.
"""

from equispike.analysis.accuracy import evaluate
from equispike.analysis.energy import INT8_45NM
from equispike.analysis.operations import operations
from equispike.analysis.plots import Panel, Series
from equispike.experiments.compare import rows_of, told
from equispike.experiments.entry import Entry, Line, Outcome
from equispike.experiments.networks import Amount, Setting, Wanted, ready
from equispike.experiments.rows import BATCH, converted
from equispike.experiments.sengupta_tables import SPIKES, UNITY

NETWORKS = (
    ("VGG-16 on ImageNet", Wanted("vgg16-imagenet", "mnist-cnn", Amount(256, 500, 256, 2500)), SPIKES, 1.975),
    (
        "ResNet-34 on ImageNet",
        Wanted("resnet34-imagenet", "resnet20-cifar10", Amount(256, 2000, 256, 2500)),
        UNITY,
        2.4,
    ),
)


def sparsity(setting: Setting) -> Outcome:
    """Figure 5: spikes of a neuron for an image, by layer."""
    lines: list[Line] = []
    parts: list[Panel] = []
    notes: list[str] = []
    conditions: dict[str, object] = {}
    for title, wanted, way, _ in NETWORKS:
        network = ready(wanted, setting)
        (one,) = rows_of((way,), network, setting)
        per_neuron = {name: spikes / one["neurons"][name] for name, spikes in one["spikes_per_image"].items()}
        lines += [Line(f"{title}: {name}", {"spikes per neuron": value}) for name, value in per_neuron.items()]
        bars = Series("spikes per neuron", range(len(per_neuron)), list(per_neuron.values()), "bars")
        parts.append(Panel(network.name, "", "spikes per neuron", (bars,), ticks=list(per_neuron)))
        notes.append(f"{title}: {network.note}")
        conditions[title] = told(network)
    return Outcome(tuple(lines), tuple(parts), "; ".join(notes), conditions=conditions)


def ratios(setting: Setting) -> Outcome:
    """Section 7.4: additions of the spiking network for each MAC of the trained one."""
    lines: list[Line] = []
    notes: list[str] = []
    conditions: dict[str, object] = {}
    for title, wanted, way, published in NETWORKS:
        network = ready(wanted, setting)
        spiking, timesteps = converted(way, network), network.amount.timesteps
        test = network.data.test.take(network.amount.images or len(network.data.test))
        measured = evaluate(spiking, test.batches(BATCH), timesteps, way.coder, label=title)
        found = operations(spiking, measured.counts, timesteps, measured.inputs)
        ours = {
            "additions per MAC": found.ratio,
            "MACs (millions)": found.macs / 1e6,
            "MACs that remain (millions)": found.analog_macs / 1e6,
            "additions (millions)": found.additions / 1e6,
            "energy (times the trained network's)": found.energy() / found.trained_energy(),
            "of 8 bits (times)": found.energy() / found.trained_energy(INT8_45NM),
        }
        lines.append(Line(title, ours, {"additions per MAC": published}))
        notes.append(f"{title}: {network.note}")
        conditions[title] = told(network)
    bars = Series("here", range(len(lines)), [float(line.ours["additions per MAC"] or 0) for line in lines], "bars")
    paper = Series("published", range(len(lines)), [ratio for *_, ratio in NETWORKS], "bars")
    figure = Panel(
        "", "", "additions per MAC", (bars, paper), level=(1.0, "1"), ticks=[title for title, *_ in NETWORKS]
    )
    remark = "Energy: 32-bit floating point at 45 nm, memory left out; an assumption, not a measurement."
    return Outcome(tuple(lines), (figure,), "; ".join(notes), (remark,), conditions)


ENTRIES = (
    Entry("sengupta-figure-5", "Spikes by layer", sparsity, "sengupta2019", "figure 5", networks=len(NETWORKS)),
    Entry(
        "sengupta-operations",
        "Additions of the spiking network per multiplication of the trained one",
        ratios,
        "sengupta2019",
        "section 7.4",
        networks=len(NETWORKS),
    ),
)
