"""The test for numbers that are not finite."""

import math

from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Tell whether no number is NaN or infinite.

    A finite sum says so, in one pass; one that is not may have overflowed on the way.
    """
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())
