"""Best accuracy, and accuracy after few steps: tables 1 and 2 of Ding et al. (2021).

Table 1: its seven rows of learnt thresholds; published figures where the text that we have tells them. The paper's best
accuracy is that of the best step, judged on the test images; so is ours. Table 2: RMP-SNN converts the network with
ReLUs; the paper prints what Han et al. (2020) had with theirs.
"""

from collections.abc import Mapping
from functools import partial

from experiments.compare import Case, column, comparison, curves
from experiments.ding import (
    CONDITIONS,
    CONTROLS,
    MAX_NORM,
    OWN,
    PREACT,
    RESTING,
    RMP,
    ROBUST_NORM,
    STAGE_1,
    STAGE_2,
    VGG,
    both,
    remarks,
    stages,
)
from experiments.entry import Entry, Job, Line, Outcome, Value

WAYS = (MAX_NORM, ROBUST_NORM, RMP, *CONTROLS, STAGE_1, STAGE_2, OWN, RESTING)
STEPS = ("T=16", "T=32", "T=64", "T=128", "T=256")

TABLE_1: Mapping[str, tuple[str, str, float | None]] = {  # suffix of the name: network, in the zoo, best accuracy
    "": ("7-layered CNN on MNIST", "mnist-cnn-rnl", 96.51),
    "-alexnet": ("AlexNet on MNIST", "mnist-alexnet-rnl", 99.46),
    "-vgg16-cifar10": ("VGG-16 on CIFAR-10", VGG[0], None),
    "-preact18-cifar10": ("PreActResNet-18 on CIFAR-10", PREACT[0], None),
    "-vgg16-cifar100": ("VGG-16 on CIFAR-100", "vgg16-rnl-cifar100", 75.02),
    "-preact18-cifar100": ("PreActResNet-18 on CIFAR-100", "preact18-rnl-cifar100", None),
    "-preact34-cifar100": ("PreActResNet-34 on CIFAR-100", "preact34-rnl-cifar100", None),
}
TABLE_2: Mapping[tuple[str, str], Mapping[str, tuple[float | None, ...]]] = {  # accuracy after STEPS
    VGG: {
        MAX_NORM.label: (10.07, 10.00, 12.17, 50.37, 81.85),
        ROBUST_NORM.label: (10.11, 43.03, 81.52, 90.80, 92.75),
        RMP.label: (None, 60.30, 90.35, 92.41, 93.04),
        STAGE_2.label: (57.90, 85.40, 91.15, 92.51, 92.95),
    },
    PREACT: {
        MAX_NORM.label: (11.75, 11.75, 21.08, 55.25, 78.33),
        ROBUST_NORM.label: (13.50, 13.00, 23.50, 59.50, 80.50),
        STAGE_2.label: (47.63, 83.95, 91.96, 93.27, 93.41),
    },
}


def fast(published: Mapping[str, tuple[float | None, ...]], job: Job) -> Outcome:
    """Table 2: learnt and lowered thresholds against those from activations and spikes."""
    trained, relus, rows, told = stages(WAYS, job)
    lines: list[Line] = []
    for label, one in rows.items():
        ours: dict[str, Value] = {"trained": column("trained", one)}
        ours |= {name: value for name in STEPS if (value := column(name, one)) is not None}
        lines.append(Line(label, ours, dict(zip(STEPS, published.get(label, ())))))
    words = both(trained, relus, rows[MAX_NORM.label])
    return Outcome(lines, curves(rows), words, remarks(told), {**told, "rows": rows})


def _table_1(suffix: str) -> Entry:
    title, network, best = TABLE_1[suffix]
    case = Case(title, network, (STAGE_1,), {STAGE_1.label: {"best": best} if best else {}})
    words = f"{title}: best accuracy with learnt thresholds"
    columns = ("trained", "spiking", "loss", "best")
    return comparison(f"ding-table-1{suffix}", words, [case], columns, CONDITIONS, paper="ding2021", place="table 1")


def _table_2(name: str, title: str, networks: tuple[str, str]) -> Entry:
    words = f"{title} on CIFAR-10: accuracy after few steps"
    about = ("ding2021", "table 2", ("rueckauer2017", "han2020"))
    return Entry(name, words, partial(fast, TABLE_2[networks]), CONDITIONS, networks, *about)


ENTRIES = (
    *map(_table_1, TABLE_1),
    _table_2("ding-table-2", "VGG-16", VGG),
    _table_2("ding-table-2-preact", "PreActResNet-18", PREACT),
)
