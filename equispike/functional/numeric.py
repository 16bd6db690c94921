"""Numbers of torch as they should be: finite, and float32 products in full, on GPUs too."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def all_finite(x: Tensor) -> bool:
    """Tell whether no number is NaN or infinite.

    A finite sum says so, in one pass; one that is not may have overflowed on the way.
    """
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())


@contextmanager
def full_precision(device: torch.device) -> Generator[None]:
    """While this lasts, float32 convolutions and products of matrices on this device round no factor first.

    On GPUs torch rounds the factors of a convolution to 11 bits (TF32) unless told otherwise; then sums would be others
    than elsewhere, also on integer grids that need more bits. The setting is torch's own, for the whole process; it is
    put back afterwards.

    >>> with full_precision(torch.device("cuda")):
    ...     _precisions()
    ['ieee', 'ieee']
    """
    if device.type != "cuda":
        yield
        return
    before = _precisions()
    _set_precisions(["ieee", "ieee"])
    try:
        yield
    finally:
        _set_precisions(before)


def _places() -> list[Any]:
    return [getattr(torch.backends.cudnn, "conv", torch.backends.cudnn), torch.backends.cuda.matmul]


def _precisions() -> list[str]:
    """Precisions to which float32 factors of convolutions and of products of matrices are rounded."""
    return [
        place.fp32_precision if hasattr(place, "fp32_precision") else "tf32" if place.allow_tf32 else "ieee"
        for place in _places()
    ]


def _set_precisions(precisions: list[str]) -> None:
    for place, precision in zip(_places(), precisions):
        if hasattr(place, "fp32_precision"):
            place.fp32_precision = precision
        else:  # before torch 2.9
            place.allow_tf32 = precision == "tf32"
