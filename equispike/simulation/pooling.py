"""Max pooling of spikes: of each window, what has added up to most so far passes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.graph.ops import WinnerPool


def winners(op: WinnerPool, inputs: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """What passes in each of some steps (see ``ops.WinnerPool``).

    Sums are float64, so that spikes of one size add up exactly in any order.

    Args:
        inputs: spikes or currents, (T', B, C, *space).
        total: their sums over all steps before, (B, C, *space), float64.
    Returns:
        what passes, (T', B, C, *windows), and the sums after the last step.
    """
    sums = torch.cat([total[None], inputs]).cumsum(0)[1:]
    pool = F.max_pool1d if sums.ndim == 4 else F.max_pool2d
    _, where = pool(sums.flatten(0, 1), op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode, True)
    passed = inputs.flatten(0, 1).flatten(2).gather(2, where.flatten(2))
    return passed.view(*inputs.shape[:2], *where.shape[1:]), sums[-1]
