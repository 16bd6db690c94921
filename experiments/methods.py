"""Every method on one network, under the same conditions: accuracy and spike rate against T. No paper has these tables.

Constant input, soft reset but for SPIKE-NORM, the potential read out. "MNIST" is the constrained 7-layer network,
"CIFAR-10" the constrained ResNet-20; weights of both are in the package. "Mean errors taken away" is a control: what
hard reset loses in each layer, a constant drive for each channel gives back. "Blocks measured" is another:
thresholds of residual blocks as those of all layers, in place of unity.
"""

import equispike as es
from equispike.conversion import DEFAULT
from experiments.compare import Case, comparison
from experiments.entry import Conditions
from experiments.rows import Way

SHALLOW = (
    Way("the default: DataNorm(99, per_channel=True), half a threshold", DEFAULT, v_init=0.5),
    Way("the same, scores of the second half", DEFAULT, v_init=0.5, delay=0.5),
)
DEEP = (
    Way("the default: half a threshold, scores of the second half", DEFAULT, v_init=0.5, delay=0.5),
    Way("DataNorm(99, per_channel=True), half a threshold", DEFAULT, v_init=0.5),
)
WAYS = (
    Way("DataNorm(99.9)", es.DataNorm(99.9)),
    Way("DataNorm(99.9), half a threshold at the start", es.DataNorm(99.9), v_init=0.5),
    Way("DataNorm(99.9, per_channel=True)", es.DataNorm(99.9, per_channel=True)),
    Way("DataNorm(100)", es.DataNorm()),
    Way("ModelNorm", es.ModelNorm()),
    Way("SpikeNorm, hard reset", es.SpikeNorm()),
    Way("SpikeNorm, mean errors taken away", es.SpikeNorm(), correct=lambda timesteps: [es.Bias(timesteps)]),
    *(Way(f"RMP({scale})", es.RMP(scale)) for scale in (1.0, 0.8, 0.6, 0.4)),
    Way("RMP(0.8, after=True)", es.RMP(0.8, after=True)),
)
BLOCKS = Way("RMP(0.6), blocks measured", es.RMP(0.6, residual="measured"))
COLUMNS = ("trained", *(f"T={2**k}" for k in range(3, 10)), "spike rate")
CITES = ("diehl2015", "rueckauer2017", "kim2020", "sengupta2019", "han2020")
ENTRIES = tuple(
    comparison(
        f"{data.lower().replace('-1', '1')}-methods",
        f"{data}: every method on one network",
        [Case(network, network, ways)],
        COLUMNS,
        Conditions("constant", "potential", timesteps, observed_steps=256),
        cites=CITES,
    )
    for data, network, timesteps, ways in (
        ("MNIST", "mnist-cnn", 512, (*SHALLOW, *WAYS)),
        ("CIFAR-10", "resnet20-cifar10", 256, (*DEEP, *WAYS, BLOCKS)),
    )
)
