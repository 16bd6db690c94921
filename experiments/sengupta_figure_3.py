"""The needs of a residual network that is to be converted, one after another: figure 3 of Sengupta et al. (2019).

The basic network has no ReLU where path and shortcut meet; constraint 1 puts one there; constraint 2 sets all
thresholds of the blocks to one; constraint 3 puts two plain layers in front. Without constraint 2, unit spikes of
layers with different thresholds are added as they are: the defect that it cures. Each step from architecture to
architecture is another training. Published: the error of the last, section 7.3; of the others there are curves only.
Table 3 has constraint 2 alone, on one network.
"""

import equispike as es
from experiments.compare import Case, comparison
from experiments.rows import Way
from experiments.sengupta_tables import CIFAR

MEASURED = Way("measured thresholds", es.SpikeNorm(residual="measured", sums="plain"))
UNITY = Way("unity thresholds", es.SpikeNorm())
CASES = (
    Case("basic", "resnet20-basic-cifar10", (MEASURED,)),
    Case("constraint 1", "resnet20-junctions-cifar10", (MEASURED,)),
    Case("constraints 1 and 2", "resnet20-junctions-cifar10", (UNITY,)),
    Case(
        *("constraints 1 to 3", "resnet20-cifar10", (UNITY,)),
        {UNITY.label: {"trained error": 10.9, "spiking error": 12.54}},
    ),
)
COLUMNS = ("T=32", "T=128", "trained error", "spiking error", "loss")
ENTRIES = (
    comparison(
        *("sengupta-figure-3", "Constraints on residual networks", CASES, COLUMNS, CIFAR),
        paper="sengupta2019",
        place="figure 3 and section 7.3",
    ),
)
