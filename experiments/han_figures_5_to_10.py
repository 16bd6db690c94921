"""Accuracy and spike rate against T, hard reset and soft reset at all scales: Han et al. (2020), figures 5 to 10.

And tables 1 to 3, which give the last points of these curves. Published figures: section 5 of the paper and its tables.
Poisson input, spikes counted at output neurons; ``--coder constant --readout potential`` needs fewer steps. The hard
reset has SPIKE-NORM's thresholds, as the paper's baseline has. The paper reads in two ways: thresholds scaled in the
loop, each layer measured behind layers with scaled thresholds (the default), or all measured first and then scaled;
``han-readings`` sets the two side by side. Behind neurons with soft reset, which lose nothing, the largest inputs are
larger, and so are RMP's thresholds: ``han-same-thresholds`` tells the reset from them. The paper does not name the
scale of the curve by which it counts how many times sooner soft reset is; that figure stands beside 0.6, the smallest
that section 4.1 says loses nothing.
"""

from collections.abc import Mapping

import equispike as es
from experiments.compare import Case, comparison
from experiments.entry import Conditions, Entry, Figures
from experiments.rows import Way

SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)
HARD, SOFT, FAST = "IF, hard reset", "RMP, scale 1.0", "RMP, scale 0.6"
IN_THE_LOOP = tuple(Way(f"RMP, scale {scale}", es.RMP(scale)) for scale in SCALES)
AFTERWARDS = tuple(
    Way(f"RMP, scale {scale}, scaled after measuring", es.RMP(scale, after=True)) for scale in SCALES[1:]
)
AVERAGE = Way("RMP, mean input as threshold", es.RMP(1.0, statistic="average"))
THRESHOLDS_OF_HARD = Way("soft reset, thresholds of hard reset", es.SpikeNorm(), reset="subtract")
WAYS = (Way(HARD, es.SpikeNorm()), *IN_THE_LOOP)
COLUMNS = ("T=32", "T=64", "T=128", "T=256", "T=512", "trained", "spiking", "loss", "spike rate")
CIFAR = Conditions("poisson", "spikes", 2048, seeds=5)
IMAGENET = Conditions("poisson", "spikes", 4096, images=50_000)

NETWORKS = {  # by number of the figure
    5: ("ResNet-20 on CIFAR-10", "resnet20-cifar10", CIFAR),
    6: ("VGG-16 on CIFAR-10", "vgg16-cifar10", CIFAR),
    7: ("VGG-16 on CIFAR-100", "vgg16-cifar100", CIFAR),
    8: ("VGG-16 on ImageNet", "vgg16-imagenet", IMAGENET),
    9: ("ResNet-20 on CIFAR-100", "resnet20-cifar100", CIFAR),
    10: ("ResNet-34 on ImageNet", "resnet34-imagenet", IMAGENET),
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
CITES = ("sengupta2019",)


def figure(number: int) -> Entry:
    """The entry of a figure: one network, hard reset and every scale."""
    title, network, conditions = NETWORKS[number]
    trained, hard, soft, times, where = FIGURES[number]
    published: dict[str, Figures] = {
        HARD: {"trained": trained, "spiking": hard},
        SOFT: {"trained": trained, "spiking": soft},
        FAST: {"reached": where, "times sooner": times},
    }
    words = f"{title}: hard reset, soft reset, scaled thresholds"
    about = {"paper": "han2020", "place": f"figure {number} and section 5", "cites": CITES}
    case = Case(title, network, WAYS, published)
    return comparison(f"han-figure-{number}", words, [case], COLUMNS, conditions, faster=True, **about)


def table(number: int) -> Entry:
    """The entry of a table: its networks, hard and soft reset at scale 1."""
    columns = ("trained", "spiking", "loss")
    cases = [
        Case(NETWORKS[n][0], NETWORKS[n][1], WAYS[:2], {label: dict(zip(columns, row)) for label, row in rows.items()})
        for n, rows in TABLES[number].items()
    ]
    words = f"{DATA[number]}: what conversion loses"
    conditions = IMAGENET if number == 3 else CIFAR
    about = {"paper": "han2020", "place": f"table {number}", "cites": CITES}
    return comparison(f"han-table-{number}", words, cases, columns, conditions, **about)


READINGS = comparison(
    "han-readings",
    "Thresholds scaled in the loop, and after measuring",
    [Case(*NETWORKS[5][:2], (*IN_THE_LOOP, *AFTERWARDS, AVERAGE))],
    COLUMNS,
    CIFAR,
    paper="han2020",
    place="figure 5, section 4.1 read in two ways",
)
SAME_THRESHOLDS = comparison(
    "han-same-thresholds",
    "Soft reset at its own thresholds, and at hard reset's",
    [Case(*NETWORKS[6][:2], (*WAYS[:2], THRESHOLDS_OF_HARD))],
    COLUMNS,
    CIFAR,
    faster=True,
    paper="han2020",
    place="figure 6, a control",
)
ENTRIES = (*map(figure, FIGURES), READINGS, SAME_THRESHOLDS, *map(table, TABLES))
