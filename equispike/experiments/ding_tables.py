"""Best accuracy, and accuracy after few steps: tables 1 and 2 of Ding et al. (2021).

Table 2's "rescaled" row is the second stage with weights that follow the thresholds, which is not in the paper. The
"RMP-style" row takes thresholds by RMP on the same network; the paper prints what Han et al. (2020) had with theirs.
The paper's best accuracy is that of the best step, judged on the test images; ours is too, where it is so called. Of
table 1, the rows of MNIST and of VGG-16 on CIFAR-100 are here.

Measured (torch 2.13, CPU, table 1 at full size with 2,000 digits, T = 256): mnist-cnn-rnl has 98.95 % trained, 99.00 %
as spikes after all steps and 99.30 % after its best.
"""

from collections.abc import Mapping
from functools import partial

from equispike.experiments.compare import column, curves, rows_of, told
from equispike.experiments.ding import (
    AMOUNT,
    LOCKED,
    MAX_NORM,
    PREACT,
    RMP_STYLE,
    ROBUST_NORM,
    SMALL_NETWORK,
    STAGE_1,
    STAGE_2,
    VGG,
    stages,
)
from equispike.experiments.entry import Entry, Figures, Line, Outcome
from equispike.experiments.networks import Setting, Wanted, ready
from equispike.experiments.rows import mean

WAYS = (MAX_NORM, ROBUST_NORM, RMP_STYLE, STAGE_1, STAGE_2, LOCKED)
STEPS = (16, 32, 64, 128, 256)

TABLE_1: Mapping[str, tuple[str, str, float]] = {  # suffix of the name: network, its name in the zoo, best accuracy
    "": ("7-layered CNN on MNIST", "mnist-cnn-rnl", 96.51),
    "-alexnet": ("AlexNet on MNIST", "mnist-alexnet-rnl", 99.46),
    "-vgg16": ("VGG-16 on CIFAR-100", "vgg16-rnl-cifar100", 75.02),
}
TABLE_2: Mapping[str, Mapping[str, tuple[float | None, ...]]] = {  # accuracy after STEPS
    "VGG-16": {
        MAX_NORM.label: (10.07, 10.00, 12.17, 50.37, 81.85),
        ROBUST_NORM.label: (10.11, 43.03, 81.52, 90.80, 92.75),
        RMP_STYLE.label: (None, 60.30, 90.35, 92.41, 93.04),
        STAGE_2.label: (57.90, 85.40, 91.15, 92.51, 92.95),
    },
    "PreActResNet-18": {
        MAX_NORM.label: (11.75, 11.75, 21.08, 55.25, 78.33),
        ROBUST_NORM.label: (13.50, 13.00, 23.50, 59.50, 80.50),
        STAGE_2.label: (47.63, 83.95, 91.96, 93.27, 93.41),
    },
}


def best(wanted: Wanted, published: float, setting: Setting) -> Outcome:
    """Table 1: a network with learnt thresholds."""
    network = ready(wanted, setting)
    (one,) = rows_of((STAGE_1,), network, setting)
    ours = {
        "trained": column("trained", one),
        "spiking": column("spiking", one),
        "loss": column("loss", one),
        "best": 100 * max(mean(one["accuracy"])),
    }
    line = Line(STAGE_1.label, ours, {"best": published})
    rows = {STAGE_1.label: one}
    return Outcome((line,), curves(rows), network.note, (), told(network), {"rows": rows})


def fast(wanted: Wanted, published: Mapping[str, tuple[float | None, ...]], setting: Setting) -> Outcome:
    """Table 2: learnt and lowered thresholds against those from activations and spikes."""
    ways = list(WAYS)
    both = stages(wanted, ways, setting)
    rows = both.rows(ways, setting)
    names = [f"T={t}" for t in STEPS]
    lines: list[Line] = []
    for label, one in rows.items():
        ours: dict[str, float | None] = {"trained": column("trained", one)}
        ours |= {name: value for name in names if (value := column(name, one)) is not None}
        theirs: Figures = dict(zip(names, published.get(label, ()), strict=False))
        lines.append(Line(label, ours, theirs))
    conditions = {**told(both.trained), **both.told}
    return Outcome(tuple(lines), curves(rows), both.trained.note, (), conditions, {"rows": rows})


ENTRIES = (
    *(
        Entry(
            f"ding-table-1{suffix}",
            f"{title}: best accuracy with learnt thresholds",
            partial(best, Wanted(name, SMALL_NETWORK, AMOUNT), published),
            "ding2021",
            "table 1",
        )
        for suffix, (title, name, published) in TABLE_1.items()
    ),
    *(
        Entry(
            f"ding-table-2{suffix}",
            f"{title} on CIFAR-10: accuracy after few steps",
            partial(fast, wanted, TABLE_2[title]),
            "ding2021",
            "table 2",
            ("rueckauer2017", "han2020"),
        )
        for suffix, title, wanted in (("", "VGG-16", VGG), ("-preact", "PreActResNet-18", PREACT))
    ),
)
