"""Errors after conversion, SPIKE-NORM against thresholds from activations: Sengupta et al. (2019), tables 1 to 3.

And figure 4, the way there. Hard reset, Poisson input, spikes counted at output neurons, as in the paper. ResNets: all
constraints (junctions, unity thresholds in the blocks, plain layers in front); then with the thresholds of the front
layers from activations (section 7.3); without unity, unit spikes added as they are, which is the defect that unity is
to cure (section 6.1); and without unity but with spikes weighted by their thresholds, which is not the paper's. Rows of
the tables that cite other work are left out.

``sengupta-biases`` is a control, since the paper's networks have neither bias nor batch norm: the VGG-16 without them,
the trained one from which it was made (batch norm folded, ReLUs), and that one with its Rate Norm layers.
"""

import equispike as es
from experiments.compare import Case, comparison
from experiments.entry import Conditions, Entry, Figures
from experiments.rows import Way

CIFAR = Conditions("poisson", "spikes", 2500, seeds=5)
IMAGENET = Conditions("poisson", "spikes", 2500, images=50_000)

ACTIVATIONS = Way("thresholds from activations", es.DataNorm(), reset="zero")
SPIKES = Way("SPIKE-NORM", es.SpikeNorm())
UNITY = Way("SPIKE-NORM, all constraints", es.SpikeNorm())
FRONT = Way("all constraints, front from activations", es.SpikeNorm(front=es.DataNorm()))
PLAIN = Way("SPIKE-NORM, unit spikes added as they are", es.SpikeNorm(residual="measured", sums="plain"))
WEIGHTED = Way("SPIKE-NORM, spikes weighted", es.SpikeNorm(residual="measured"))
RESIDUAL = (UNITY, FRONT, PLAIN, WEIGHTED)
ERRORS = ("trained error", "spiking error", "loss", "trained top-5 error", "spiking top-5 error")


def _errors(trained: float, spiking: float, *top5: float) -> Figures:
    known = {"trained error": trained, "spiking error": spiking, "loss": round(spiking - trained, 2)}
    return {**known, **dict(zip(("trained top-5 error", "spiking top-5 error"), top5))}


TABLES = (
    (
        "1",
        "",
        CIFAR,
        "VGG-16 on CIFAR-10",
        "vgg16-cifar10",
        (ACTIVATIONS, SPIKES),
        (_errors(8.3, 8.54), _errors(8.3, 8.45)),
    ),
    (
        *("2", "", IMAGENET, "VGG-16 on ImageNet", "vgg16-imagenet", (ACTIVATIONS, SPIKES)),
        (_errors(29.48, 30.61, 10.61, 11.21), _errors(29.48, 30.04, 10.61, 10.99)),
    ),
    (
        *("3", "", CIFAR, "ResNet-20 on CIFAR-10", "resnet20-cifar10", RESIDUAL),
        (_errors(10.9, 12.54), _errors(10.9, 12.87)),
    ),
    (
        *("3", "-imagenet", IMAGENET, "ResNet-34 on ImageNet", "resnet34-imagenet", (UNITY,)),
        (_errors(29.31, 34.53, 10.31, 13.67),),
    ),
)
CONVERGENCE = {
    "": ("CIFAR-10", CIFAR, "cifar10", "ResNet-20", "resnet20"),
    "-imagenet": ("ImageNet", IMAGENET, "imagenet", "ResNet-34", "resnet34"),
}
STEPS = ("T=64", "T=128", "T=256", "T=500", "T=1000", "trained", "spiking")


def _tables() -> list[Entry]:
    entries: list[Entry] = []
    for number, suffix, conditions, title, network, ways, errors in TABLES:
        case = Case(title, network, ways, {way.label: figures for way, figures in zip(ways, errors)})
        words = f"{title}: what conversion adds to the error"
        about = {"paper": "sengupta2019", "place": f"table {number}", "cites": ("diehl2015",)}
        entries.append(comparison(f"sengupta-table-{number}{suffix}", words, [case], ERRORS, conditions, **about))
    for suffix, (title, conditions, data, resnet, short) in CONVERGENCE.items():
        cases = [Case("VGG-16", f"vgg16-{data}", (SPIKES,)), Case(resnet, f"{short}-{data}", (UNITY,))]
        words = f"{title}: accuracy against T"
        about = {"paper": "sengupta2019", "place": "figure 4"}
        entries.append(comparison(f"sengupta-figure-4{suffix}", words, cases, STEPS, conditions, **about))
    return entries


BIASES = comparison(
    "sengupta-biases",
    "VGG-16: SPIKE-NORM with and without biases and ceilings",
    [
        Case("without biases", "vgg16-cifar10", (SPIKES,)),
        Case("with biases", "vgg16-biased-cifar10", (SPIKES,)),
        Case("with biases and ceilings", "vgg16-slim-rnl-cifar10", (SPIKES,)),
    ],
    (*STEPS, "loss"),
    CIFAR,
    paper="sengupta2019",
    place="section 4.3, a control",
)
ENTRIES = (*_tables(), BIASES)
