"""Verdicts on how operations of a model convert, and the reasons for them."""

from typing import Literal, NamedTuple

from equispike.graph import ops

Verdict = Literal["exact", "approximate", "refused"]
"""Whether spikes do what an operation does: in every step, the better the more steps there are, or not at all."""


class Finding(NamedTuple):
    """One operation of a model: where, what, how it converts and why, and what to do about it (empty for nothing)."""

    layer: str
    operation: str
    verdict: Verdict
    why: str
    remedy: str = ""


VERDICTS: dict[type, tuple[Verdict, str, str]] = {
    ops.Conv: ("exact", "weights carry over", ""),
    ops.Linear: ("exact", "weights carry over", ""),
    ops.AvgPool: ("exact", "averages spikes", ""),
    ops.Affine: ("exact", "folded into the weights", ""),
    ops.Flatten: ("exact", "reorders spikes", ""),
    ops.Pad: ("exact", "zeros around or between spikes, or fewer of them", ""),
    ops.Sparse: ("exact", "spikes moved or summed up with fixed weights", ""),
    ops.Add: ("exact", "currents add up", ""),
    ops.Concat: ("exact", "spikes side by side", ""),
    ops.Neuron: ("approximate", "neurons: rates are multiples of 1/T, at most 1", "More time-steps T"),
    ops.MaxPool: (
        "refused",
        "a maximum of spikes is not the maximum of rates",
        "Train with average pooling, or pass lossy=[es.max_pool_to_avg] or [es.max_pool_to_winner]",
    ),
    ops.WinnerPool: (
        "approximate",
        "of each window, the growth of the largest count passes",
        "More time-steps T",
    ),
    ops.LeakyReLU: (
        "refused",
        "spikes have one sign, so the negative side is lost",
        "Train with ReLU, or pass lossy=[es.leaky_relu_to_pairs]",
    ),
}
"""How each operation of a Network converts, why, and what to do."""

SPOKEN: dict[type, str] = {ops.Neuron: "Relu", ops.Affine: "Mul, Add", ops.Sparse: "fixed map"}
"""What to call the operations of a network that was read from a file, where their names are of this package alone."""


def verdict(op: object) -> tuple[Verdict, str, str]:
    """Judge an operation of a Network: does it convert, why, and what to do."""
    if isinstance(op, ops.AvgPool) and set(op.kernel) == {1}:
        return "exact", "nothing to do" if set(op.stride) == {1} else "leaves spikes out", ""
    return VERDICTS[type(op)]
