"""What a residual network needs to be converted, one constraint after another: figure 3 of Sengupta et al. (2019).

The basic network has no ReLU where path and shortcut meet; constraint 1 puts one there; constraint 2 sets all
thresholds of the blocks to one; constraint 3 puts two plain layers in front. Each step from architecture to
architecture is another training. At size small: ResNets of depth 8 and half width, trained on the digits in the
package. Published: the error of the last, section 7.3; of the others there are curves only.
"""

from functools import partial

import equispike as es
from equispike.experiments.compare import Case, compare
from equispike.experiments.entry import Entry
from equispike.experiments.networks import Amount, Wanted
from equispike.experiments.rows import POISSON, Way

AMOUNT = Amount(None, 2500, 256, 2500)
MEASURED = Way("measured thresholds", es.SpikeNorm(), POISSON)
UNITY = Way("unity thresholds", es.SpikeNorm(residual="unity"), POISSON)
BASIC, JUNCTIONS, FRONT = (
    Wanted(f"resnet20{kind}-cifar10", f"mnist-resnet8{kind}", AMOUNT) for kind in ("-basic", "-junctions", "")
)
CASES = (
    Case("basic", BASIC, (MEASURED,)),
    Case("constraint 1", JUNCTIONS, (MEASURED,)),
    Case("constraints 1 and 2", JUNCTIONS, (UNITY,)),
    Case("constraints 1 to 3", FRONT, (UNITY,), {UNITY.label: {"trained error": 10.9, "spiking error": 12.54}}),
)
COLUMNS = ("T=32", "T=128", "trained error", "spiking error", "loss")

ENTRIES = (
    Entry(
        "sengupta-figure-3",
        "Constraints on residual networks",
        partial(compare, CASES, COLUMNS),
        "sengupta2019",
        "figure 3 and section 7.3",
        networks=len(CASES),
    ),
)
