"""Errors after conversion, SPIKE-NORM against thresholds from activations: Sengupta et al. (2019), tables 1 to 3.

And figure 4, the way there. Hard reset and Poisson input, as in the paper; ResNets are converted under all its
constraints: junctions, unity thresholds in residual blocks, plain layers in front. Rows of the tables that cite other
work are left out. Of ImageNet, top-5 errors are published and not computed here.
"""

from functools import partial

import equispike as es
from equispike.experiments.compare import Case, compare
from equispike.experiments.entry import Entry
from equispike.experiments.networks import Amount, Wanted
from equispike.experiments.rows import POISSON, Way

AMOUNT = Amount(None, 2500, 256, 2500, 5)
IMAGENET = Amount(None, 2500, 256, 2500)
VGG = Wanted("vgg16-cifar10", "mnist-cnn", AMOUNT)
VGG_IMAGENET = Wanted("vgg16-imagenet", "mnist-cnn", IMAGENET)
RESNET = Wanted("resnet20-cifar10", "resnet20-cifar10", AMOUNT)
RESNET_IMAGENET = Wanted("resnet34-imagenet", "resnet20-cifar10", IMAGENET)

ACTIVATIONS = Way("thresholds from activations", es.DataNorm(), POISSON, reset="zero", readout="spikes")
SPIKES = Way("SPIKE-NORM", es.SpikeNorm(), POISSON)
UNITY = Way("SPIKE-NORM, all constraints", es.SpikeNorm(residual="unity"), POISSON)
ERRORS = ("trained error", "spiking error", "loss")


def table(name: str, place: str, case: Case) -> Entry:
    """The entry of a table: errors of one network."""
    title = f"{case.title}: what conversion adds to the error"
    return Entry(name, title, partial(compare, [case], ERRORS), "sengupta2019", place, ("diehl2015",))


def convergence(name: str, data: str, cases: list[Case]) -> Entry:
    """The entry of a panel of figure 4: accuracy against T."""
    run = partial(compare, cases, ("T=64", "T=128", "T=256", "T=500", "T=1000", "trained", "spiking"))
    return Entry(name, f"{data}: accuracy against T", run, "sengupta2019", "figure 4", networks=len(cases))


ENTRIES = (
    table(
        "sengupta-table-1",
        "table 1",
        Case(
            "VGG-16 on CIFAR-10",
            VGG,
            (ACTIVATIONS, SPIKES),
            {
                ACTIVATIONS.label: {"trained error": 8.3, "spiking error": 8.54, "loss": 0.24},
                SPIKES.label: {"trained error": 8.3, "spiking error": 8.45, "loss": 0.15},
            },
        ),
    ),
    table(
        "sengupta-table-2",
        "table 2",
        Case(
            "VGG-16 on ImageNet",
            VGG_IMAGENET,
            (ACTIVATIONS, SPIKES),
            {
                ACTIVATIONS.label: {
                    "trained error": 29.48,
                    "spiking error": 30.61,
                    "loss": 1.13,
                    "trained top-5 error": 10.61,
                    "spiking top-5 error": 11.21,
                    "top-5 loss": 0.6,
                },
                SPIKES.label: {
                    "trained error": 29.48,
                    "spiking error": 30.04,
                    "loss": 0.56,
                    "trained top-5 error": 10.61,
                    "spiking top-5 error": 10.99,
                    "top-5 loss": 0.38,
                },
            },
        ),
    ),
    table(
        "sengupta-table-3",
        "table 3",
        Case("ResNet-20 on CIFAR-10", RESNET, (UNITY,), {UNITY.label: {"trained error": 10.9, "spiking error": 12.54}}),
    ),
    table(
        "sengupta-table-3-imagenet",
        "table 3",
        Case(
            "ResNet-34 on ImageNet",
            RESNET_IMAGENET,
            (UNITY,),
            {
                UNITY.label: {
                    "trained error": 29.31,
                    "spiking error": 34.53,
                    "trained top-5 error": 10.31,
                    "spiking top-5 error": 13.67,
                }
            },
        ),
    ),
    convergence(
        "sengupta-figure-4",
        "CIFAR-10",
        [Case("VGG-16", VGG, (SPIKES,)), Case("ResNet-20", RESNET, (UNITY,))],
    ),
    convergence(
        "sengupta-figure-4-imagenet",
        "ImageNet",
        [Case("VGG-16", VGG_IMAGENET, (SPIKES,)), Case("ResNet-34", RESNET_IMAGENET, (UNITY,))],
    ),
)
