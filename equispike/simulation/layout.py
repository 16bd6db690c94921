"""Features as the core lays them out: positions, then steps, then channels; spikes as bits.

A *train* holds the spikes of a layer in some steps, (B, positions, T', bytes), uint8: the channels of one position and
step are the bits of whole 64-bit words, the first channel lowest.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_WORD = 64
_LANES = 16
"""Channels of the narrowest slab of the core."""


def extent(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns of features; vectors and 1d images have one row."""
    channels, *space = shape
    rows, cols = [1, 1, *space][-2:]
    return channels, rows, cols


def padded(channels: int) -> int:
    """Channels in whole slabs."""
    return -(-channels // _LANES) * _LANES


def train_bytes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Positions of features, and bytes of each in one step of a train."""
    channels, rows, cols = extent(shape)
    return rows * cols, -(-channels // _WORD) * _WORD // 8


def widen(x: Tensor, channels: int, value: float = 0.0) -> Tensor:
    """Filled up to so many channels, the last axis."""
    return F.pad(x, (0, channels - x.shape[-1]), value=value).contiguous()


def as_integers(weight: Tensor, largest: int) -> tuple[Tensor, float] | None:
    """Weights as integers, int16, and the unit that they count: the largest power of two that divides all of them.

    None if there is no such unit, or an integer's magnitude is more than ``largest`` (below 2**15).

    >>> as_integers(torch.tensor([0.5, -0.75]), largest=3)
    (tensor([ 2, -3], dtype=torch.int16), 0.25)
    >>> as_integers(torch.tensor([0.5, -0.75]), largest=2)
    """
    most = float(weight.abs().max()) if weight.numel() else 0.0
    exponent = math.frexp(most)[1] - 15
    scaled = weight * 2.0**-exponent  # of magnitudes below 2**15
    integers = scaled.to(torch.int16)
    if not torch.equal(integers.to(weight.dtype), scaled):
        return None
    digits = int(np.bitwise_or.reduce(integers.numpy(), axis=None))
    unit = digits & -digits or 1
    if most * 2.0**-exponent > unit * largest:
        return None
    return integers // unit, unit * 2.0**exponent


def to_positions(value: Tensor, channels: int) -> Tensor:
    """From (T', B, C, *space) to (B, positions, T', channels), filled up with zeros; a view where it can be."""
    time, batch, own = value.shape[:3]
    moved = value.reshape(time, batch, own, -1).permute(1, 3, 0, 2)
    return moved if own == channels else F.pad(moved, (0, channels - own))


def to_features(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """From (B, positions, T', channels) to (T', B, *shape); a view."""
    batch, _, time, _ = value.shape
    return value[..., : shape[0]].permute(2, 0, 3, 1).view(time, batch, *shape)


def pack(fires: Tensor) -> Tensor:
    """The train of spikes (T', B, *shape), bool."""
    time, batch, *shape = fires.shape
    positions, size = train_bytes(tuple(shape))
    bits = fires.reshape(time, batch, shape[0], positions).permute(1, 3, 0, 2).to(torch.uint8).contiguous()
    train = bits.new_zeros(batch, positions, time, size)
    for place in range(8):
        own = bits[..., place::8]
        train[..., : own.shape[-1]] |= own << place
    return train


def unpack(train: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Spikes in {0, 1} of a train, (T', B, *shape)."""
    bits = (train[..., None] >> torch.arange(8, dtype=torch.uint8, device=train.device)) & 1
    return to_features(bits.flatten(-2), shape).to(dtype)
