"""Passes that change the network's function: off unless asked for, and each says what it changed."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from equispike.errors import ConversionError
from equispike.graph.network import Network
from equispike.graph.ops import AvgPool, MaxPool, Op


class Change(NamedTuple):
    """What a lossy pass did to one layer."""

    layer: str
    text: str


LossyPass = Callable[[Network], tuple[Network, list[Change]]]


def max_pool_to_avg(network: Network) -> tuple[Network, list[Change]]:
    """Replace every max pool by an average pool of the same windows.

    The average is never above the maximum, so activations behind it shrink; thresholds are calibrated afterwards, on
    the changed network. Accuracy can fall a lot without training again.

    Raises:
        ConversionError: a max pool is dilated, which average pools cannot be.
    """
    ops: dict[str, Op] = {}
    for node in network.nodes:
        op = node.op
        if isinstance(op, MaxPool):
            if any(d != 1 for d in op.dilation):
                raise ConversionError(f"{node.name} (MaxPool): is dilated, and average pools cannot be. Replace it")
            ops[node.name] = AvgPool(op.kernel, op.stride, op.padding, op.ceil_mode, count_include_pad=False)
    changes = [Change(name, f"max pool became average pool of {_size(op)} windows") for name, op in ops.items()]
    return dataclasses.replace(network.replace_ops(ops)), changes


def _size(op: Op) -> str:
    assert isinstance(op, AvgPool)
    return " x ".join(map(str, op.kernel))
