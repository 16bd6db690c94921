"""Early exit, looked at in a run of all T steps: where each image would have stopped, and with which answer."""

from typing import NamedTuple

import torch
from torch import Tensor

from equispike.simulation.run import Run
from equispike.simulation.stop import Stop


class Exits(NamedTuple):
    """First step after which each image may stop, (B,), int64, and its prediction there, (B,)."""

    steps: Tensor
    predictions: Tensor


def exits(run: Run, stop: Stop) -> Exits:
    """Apply a rule to every step of a run, without running anything again.

    ``simulate(..., stop=...)`` looks every few steps only and may stop somewhat later.

    Args:
        run: of B images over T steps.
        stop: the rule.
    """
    settled = stop.settled(run.task.network, run.totals, run.timesteps)
    first = settled.to(torch.uint8).argmax(0)  # of equal values, the first: every image is settled at T
    return Exits(first + 1, run.predictions.gather(0, first[None])[0])
