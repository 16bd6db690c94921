"""Max pooling of spikes: of each window, the growth of the largest sum passes."""

import torch
from torch import Tensor

from equispike.graph.ops import WinnerPool


def winners(op: WinnerPool, inputs: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """What passes in each of some steps (see ``ops.WinnerPool``).

    Sums are float64, so that spikes of one size, and currents that stay the same, add up exactly.

    Args:
        inputs: spikes or currents, (T', B, C, *space).
        total: their sums over all steps before, (B, C, *space), float64.
    Returns:
        what passes, (T', B, C, *windows), and the sums after the last step.
    """
    sums = torch.cat([total[None], inputs]).cumsum(0)
    largest = op(sums.flatten(0, 1))
    largest = largest.view(*sums.shape[:2], *largest.shape[1:])
    return largest.diff(dim=0).to(inputs.dtype), sums[-1]
