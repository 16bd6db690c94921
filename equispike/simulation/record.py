"""What an engine hands back for one batch of images, and how batches join."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
