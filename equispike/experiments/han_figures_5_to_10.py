"""Accuracy and spike rate against T, hard reset and soft reset at several scales: Han et al. (2020), figures 5 to 10.

And tables 1 to 3, which give the last points of these curves. Published figures: section 5 of the paper, and its
tables. The hard reset has SPIKE-NORM's thresholds, as the paper's baseline has. Unlike there, input is constant and the
score is read from the last layer's potential, so that some hundred steps do for what takes thousands with Poisson
input and counted output spikes. The last way is not the paper's: potentials start at half a threshold, which takes away
most of the rounding of rates. The paper does not name the scale of the curve by which it counts how many times sooner
soft reset is; that figure stands beside our smallest one.

Measured (torch 2.13.0, CPU, size small of figure 6: mnist-cnn, 200 digits, T = 128; trained 99.0 %): 98 % is kept from
step 48 on with hard reset, 20 with RMP(1.0), 10 with 0.8, 5 with 0.6, and 4 with 0.8 and half a threshold at the start.
"""

from collections.abc import Mapping
from functools import partial

import equispike as es
from equispike.experiments.compare import Case, compare
from equispike.experiments.entry import Entry, Figures
from equispike.experiments.networks import Amount, Wanted
from equispike.experiments.rows import CONSTANT, Way

HARD, SOFT, HALF = "IF, hard reset", "RMP, scale 1.0", "half a threshold at the start"
SCALES = {"ResNet": (0.95, 0.9), "VGG": (0.8, 0.6)}


def ways(title: str) -> tuple[Way, ...]:
    """What is compared. Rates grow by 1 / scale a layer, so a deep network bears less."""
    scales = SCALES["ResNet" if title.startswith("ResNet") else "VGG"]
    largest = f"RMP, scale {scales[0]}, {HALF}"
    return (
        Way(HARD, es.SpikeNorm(coder=CONSTANT), readout="potential"),
        *(Way(f"RMP, scale {s}", es.RMP(s, coder=CONSTANT), readout="potential") for s in (1.0, *scales)),
        Way(largest, es.RMP(scales[0], coder=CONSTANT), v_init=0.5, readout="potential"),
    )


COLUMNS = ("T=64", "T=256", "T=512", "trained", "spiking", "loss", "spike rate")
CIFAR = Amount(None, 2048, 256, 2500)
IMAGENET = Amount(None, 4096, 256, 2500)

NETWORKS = {  # by number of the figure
    5: ("ResNet-20 on CIFAR-10", Wanted("resnet20-cifar10", "resnet20-cifar10", CIFAR)),
    6: ("VGG-16 on CIFAR-10", Wanted("vgg16-cifar10", "mnist-cnn", CIFAR)),
    7: ("VGG-16 on CIFAR-100", Wanted("vgg16-cifar100", "mnist-cnn", CIFAR)),
    8: ("VGG-16 on ImageNet", Wanted("vgg16-imagenet", "mnist-cnn", IMAGENET)),
    9: ("ResNet-20 on CIFAR-100", Wanted("resnet20-cifar100", "resnet20-cifar10", CIFAR)),
    10: ("ResNet-34 on ImageNet", Wanted("resnet34-imagenet", "resnet20-cifar10", IMAGENET)),
}
FIGURES: Mapping[int, tuple[float, float, float, float, str]] = {
    # trained network; at the largest T hard reset, soft reset; times sooner with scaled thresholds, and where
    5: (91.47, 90.45, 91.36, 8, "above 85 % at T=64"),
    6: (93.63, 93.50, 93.63, 8, "above 90 % at T=64"),
    7: (71.22, 70.77, 70.93, 2, "68.34 % at T=256"),
    8: (73.49, 69.96, 73.09, 4.5, "68.93 % at T=512"),
    9: (68.72, 64.09, 67.82, 8, "64.06 % at T=256"),
    10: (70.64, 65.47, 69.89, 7, "60.08 % at T=512"),
}
TABLES: Mapping[int, Mapping[int, Mapping[str, tuple[float, float, float | str]]]] = {
    # by table, figure and way: trained, spiking, loss; the rows with hard reset are those of Sengupta et al. (2019)
    1: {
        5: {HARD: (89.1, 87.46, 1.64), SOFT: (91.47, 91.36, 0.11)},
        6: {HARD: (91.7, 91.55, 0.15), SOFT: (93.63, 93.63, "< 0.01")},
    },
    2: {
        9: {HARD: (68.72, 64.09, 4.63), SOFT: (68.72, 67.82, 0.9)},
        7: {HARD: (71.22, 70.77, 0.45), SOFT: (71.22, 70.93, 0.29)},
    },
    3: {
        10: {HARD: (70.69, 65.47, 5.22), SOFT: (70.64, 69.89, 0.75)},
        8: {HARD: (70.52, 69.96, 0.56), SOFT: (73.49, 73.09, 0.4)},
    },
}
DATA = {1: "CIFAR-10", 2: "CIFAR-100", 3: "ImageNet"}


def figure(number: int) -> Entry:
    """The entry of a figure: one network, every way."""
    title, wanted = NETWORKS[number]
    trained, hard, soft, times, where = FIGURES[number]
    published: dict[str, Figures] = {
        HARD: {"trained": trained, "spiking": hard},
        SOFT: {"trained": trained, "spiking": soft},
        ways(title)[-2].label: {"reached": where, "times sooner": times},
    }
    run = partial(compare, [Case(title, wanted, ways(title), published)], COLUMNS, faster=True)
    name, place = f"han-figure-{number}", f"figure {number} and section 5"
    return Entry(name, f"{title}: hard reset, soft reset, scaled thresholds", run, "han2020", place, ("sengupta2019",))


def table(number: int) -> Entry:
    """The entry of a table: its networks, hard and soft reset at scale 1."""
    cases = [
        Case(title, wanted, ways(title)[:2], {label: _columns(*row) for label, row in rows.items()})
        for (title, wanted), rows in ((NETWORKS[figure], rows) for figure, rows in TABLES[number].items())
    ]
    run = partial(compare, cases, ("trained", "spiking", "loss"))
    title = f"What conversion loses on {DATA[number]}"
    return Entry(f"han-table-{number}", title, run, "han2020", f"table {number}", ("sengupta2019",), len(cases))


def _columns(trained: float, spiking: float, loss: float | str) -> Figures:
    return {"trained": trained, "spiking": spiking, "loss": loss}


ENTRIES = (*map(figure, FIGURES), *map(table, TABLES))
