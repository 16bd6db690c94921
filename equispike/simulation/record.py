"""What an engine hands back for one batch of images, how batches join, and what a record of spikes saves."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equispike.graph.network import Network


@dataclass(frozen=True, eq=False)
class Record:
    """Spikes and scores of one batch.

    Attributes:
        readout: cumulative class score after each step, (T, B, classes).
        counts: spikes of each neuron over all steps, by layer, (B, *features), int32.
        spikes: spikes of each layer in each step, by layer, (T, B), int32.
    """

    readout: Tensor
    counts: Mapping[str, Tensor]
    spikes: Mapping[str, Tensor]


def join(records: Sequence[Record]) -> Record:
    """One record of several batches, images in the order of the batches."""
    if len(records) == 1:
        return records[0]
    first = records[0]
    return Record(
        torch.cat([record.readout for record in records], dim=1),
        {name: torch.cat([record.counts[name] for record in records]) for name in first.counts},
        {name: torch.cat([record.spikes[name] for record in records], dim=1) for name in first.spikes},
    )


def upstream(network: Network, given: Collection[str]) -> set[str]:
    """Nodes that have to be known for the readout if the spikes of the ``given`` layers are; these among them."""
    needed = {network.nodes[-1].name}
    for node in reversed(network.nodes):
        if node.name in needed and node.name not in given:
            needed.update(node.inputs)
    return needed
