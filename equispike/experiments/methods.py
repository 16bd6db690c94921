"""Every method on MNIST, and some on CIFAR-10: accuracy and spike rate against T. No paper has these tables.

mnist-methods: the constrained 7-layer network (mnist-cnn, weights in the package: 55,000 training images, seed 0).
cifar10-methods: the constrained ResNet-20 (weights in the package: 45,000 training images, seed 0). 256 training images
to calibrate; SPIKE-NORM and RMP observe each layer for 512 and 256 steps.

Measured (CPU, torch 2.13, size full). mnist-cnn has 99.42 % of 10,000 test images and 99.20 % of the first 2,000:
DataNorm(99.9) and RMP(0.8), constant input, 10,000 images: 99.42 % each at T = 128. SpikeNorm, hard reset, Poisson,
2,000 images, 5 seeds: 98.25, 99.08, 99.20 and 99.26 % at T = 64, 128, 256 and 512. RMP(0.4) loses 1.9 points for good,
ModelNorm stays at chance. ResNet-20 has 88.00 % of the first 500: DataNorm(99.9) 87.6, 88.8 and 88.2 % at T = 64, 128
and 256; RMP(0.8) stays at 25 %, since its rates grow by 1.25 a layer and are clipped.
"""

from functools import partial

import equispike as es
from equispike.experiments.compare import Case, compare
from equispike.experiments.entry import Entry
from equispike.experiments.networks import Amount, Wanted
from equispike.experiments.rows import POISSON, Way

FEW = 2000  # images where a row takes long, or says little
MNIST = Case(
    "mnist-cnn",
    Wanted("mnist-cnn", "mnist-cnn", Amount(None, 512, 256, 512, 5)),
    (
        Way("DataNorm(99.9)", es.DataNorm(99.9)),
        Way("RMP(0.8)", es.RMP(0.8)),
        Way("RMP(0.6)", es.RMP(0.6), images=FEW),
        Way("SpikeNorm, Poisson, hard reset", es.SpikeNorm(), POISSON, images=FEW),
        Way("RMP(0.8), Poisson", es.RMP(0.8), POISSON, images=FEW),
        Way("DataNorm(100)", es.DataNorm(), images=FEW),
        Way("DataNorm(99.9, per_channel=True)", es.DataNorm(99.9, per_channel=True), images=FEW),
        Way("RMP(1.0)", es.RMP(1.0), images=FEW),
        Way("RMP(0.4)", es.RMP(0.4), images=FEW),
        Way("ModelNorm", es.ModelNorm(), images=FEW),
    ),
)
CIFAR = Case(
    "resnet20-cifar10",
    Wanted("resnet20-cifar10", "resnet20-cifar10", Amount(500, 256, 256, 256)),
    (
        Way("DataNorm(99.9)", es.DataNorm(99.9)),
        Way("DataNorm(100)", es.DataNorm()),
        Way("RMP(0.9)", es.RMP(0.9)),
        Way("RMP(0.8)", es.RMP(0.8)),
    ),
)
STEPS = tuple(f"T={2**k}" for k in range(3, 10))
PAPERS = ("diehl2015", "rueckauer2017", "kim2020", "sengupta2019", "han2020")

ENTRIES = tuple(
    Entry(name, title, partial(compare, [case], ("images", "trained", *STEPS, "spike rate")), cites=PAPERS)
    for name, title, case in (
        ("mnist-methods", "MNIST: every method on the constrained 7-layer network", MNIST),
        ("cifar10-methods", "CIFAR-10: methods on the constrained ResNet-20", CIFAR),
    )
)
