"""Whether numbers are finite."""

import math

from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite.

    A finite sum says so, in one pass; one that is not may have overflowed on the way.
    """
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())
