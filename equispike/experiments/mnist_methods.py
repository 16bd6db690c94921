"""Every method on MNIST: accuracy and spike rate against the number of time-steps. No paper has this table.

The constrained 7-layer network (mnist-cnn, weights in the package: 55,000 training images, seed 0).

Measured (CPU, torch 2.13, size full, calibrated with 256 training images, 512 steps observed; the trained network has
99.42 % of 10,000 test images and 99.20 % of the first 2,000): DataNorm(99.9) and RMP(0.8), constant coding, 10,000
images: 99.42 % each at T = 128. SpikeNorm, hard reset, Poisson, 2,000 images, 5 seeds: 98.25, 99.08, 99.20 and 99.26 %
at T = 64, 128, 256 and 512. RMP(0.4) loses 1.9 points for good, ModelNorm stays at chance.
"""

from functools import partial

import equispike as es
from equispike.experiments.compare import Case, compare
from equispike.experiments.entry import Entry
from equispike.experiments.networks import Amount, Wanted
from equispike.experiments.rows import POISSON, Way

WANTED = Wanted("mnist-cnn", "mnist-cnn", Amount(None, 512, 256, 512, 5))
WAYS = (
    Way("DataNorm(99.9)", es.DataNorm(99.9)),
    Way("RMP(0.8)", es.RMP(0.8)),
    Way("RMP(0.6)", es.RMP(0.6)),
    Way("SpikeNorm, Poisson, hard reset", es.SpikeNorm(), POISSON),
    Way("RMP(0.8), Poisson", es.RMP(0.8), POISSON),
    Way("DataNorm(100)", es.DataNorm()),
    Way("DataNorm(99.9, per_channel=True)", es.DataNorm(99.9, per_channel=True)),
    Way("RMP(1.0)", es.RMP(1.0)),
    Way("RMP(0.4)", es.RMP(0.4)),
    Way("ModelNorm", es.ModelNorm()),
)
COLUMNS = ("trained", *(f"T={2**k}" for k in range(3, 10)), "spike rate")

ENTRIES = (
    Entry(
        "mnist-methods",
        "MNIST: every method on the constrained 7-layer network",
        partial(compare, [Case("mnist-cnn", WANTED, WAYS)], COLUMNS),
        cites=("diehl2015", "rueckauer2017", "kim2020", "sengupta2019", "han2020"),
    ),
)
