"""The compiled core, and features as it lays them out: positions, then steps, then channels; spikes as bits.

A *train* holds the spikes of a layer in some steps, (B, positions, T', bytes), uint8: the channels of one position and
step are the bits of whole 64-bit words, the first channel lowest.
"""

from dataclasses import dataclass
from importlib import import_module
from math import frexp, prod
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.errors import SimulationError

INTERFACE = 2
"""The core that belongs to this package says this number."""


def _load() -> ModuleType | None:
    try:
        found = import_module("equispike.simulation._core")
    except ImportError:  # installed without a compiler
        return None
    if (number := getattr(found, "interface", 1)) != INTERFACE:
        raise SimulationError(
            f"{found.__file__}: a compiled core of interface {number}, where {INTERFACE} is needed. "
            "Install equispike again"
        )
    return found


core = _load()

ISA: str = core.instruction_sets()[-1] if core else ""
"""Instruction set that the core uses: the widest of this machine."""

_WORD = 64
MOST_DIGITS = 4
"""Of a weight, to the base 256, in products: their sums are made modulo 2**32, and have 31 bits."""

LANES = 16
"""Channels of the narrowest slab of the core."""

_WHOLE = {torch.float32: (torch.int32, 31), torch.float64: (torch.int64, 62)}
"""Integers in which the core adds up weights, by their type, and the bits that sums may take."""


def fastest(x: Tensor) -> torch.memory_format:
    """The memory format of weights with which torch's convolutions run fastest, and of what they give."""
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format


def extent(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns of features; vectors and 1d images have one row."""
    channels, *space = shape
    rows, cols = [1, 1, *space][-2:]
    return channels, rows, cols


def padded(channels: int) -> int:
    """Channels in whole slabs."""
    return -(-channels // LANES) * LANES


def train_bytes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Positions of features, and bytes of each in one step of a train."""
    channels, rows, cols = extent(shape)
    return rows * cols, -(-channels // _WORD) * _WORD // 8


def widen(x: Tensor, channels: int, value: float = 0.0) -> Tensor:
    """Filled up to so many channels, the last axis."""
    return F.pad(x, (0, channels - x.shape[-1]), value=value).contiguous()


@dataclass(frozen=True, eq=False)
class Integers:
    """Weights as integers times a unit of their channel, a power of two.

    Attributes:
        whole: (depth, channels), int32 for float32 and int64 for float64 weights.
        unit: (channels,).
        largest: magnitude in ``whole``.
    """

    whole: Tensor
    unit: Tensor
    largest: int

    @property
    def digits(self) -> int:
        """Digits to the base 256, -128 to 127, that hold each of them; 5 where four do not."""
        return 1 + sum(self.largest > 127 * (256**n - 1) // 255 for n in range(1, 5))


def as_integers(weight: Tensor, spikes: Tensor) -> Integers:
    """Weights as integers, no sum of which leaves 31 bits (of float64 weights: 62), whichever neurons spike.

    So sums are exact, in any order. Units are as fine as that, and the range of the type, allow: what rounds off is of
    the order of float32's own rounding of such sums. Weights on a grid stay what they are, as small integers.

    Args:
        weight: (depth, channels), float32 or float64.
        spikes: most that arrive in one step at each input, (depth,).

    >>> found = as_integers(torch.tensor([[0.5, 96.0], [-0.75, 1024.0]]), torch.ones(2))
    >>> found.whole, found.unit, found.digits
    (tensor([[ 2,  3],
            [-3, 32]], dtype=torch.int32), tensor([ 0.2500, 32.0000]), 1)
    """
    whole, bits = _WHOLE[weight.dtype]
    wide, finest = weight.double(), frexp(torch.finfo(weight.dtype).tiny)[1]
    most = torch.maximum(spikes.double() @ wide.clamp(min=0), spikes.double() @ (-wide).clamp(min=0))
    most = most * (1 + float(spikes.sum()) * 2.0**-bits)  # each of them may be rounded up
    unit = torch.exp2((torch.frexp(most).exponent - bits).clamp(min=finest).double())
    integers = (wide / unit).round()
    present = torch.as_tensor(np.bitwise_or.reduce(integers.long().numpy(), axis=0))
    common = torch.where(present == 0, 1, present & -present)
    integers, unit = integers / common, unit * common
    largest = int(integers.abs().max()) if len(integers) else 0
    return Integers(integers.to(whole), unit.to(weight.dtype), largest)


def to_positions(value: Tensor, channels: int) -> Tensor:
    """From (T', B, C, *space) to (B, positions, T', channels), filled up with zeros; a view where it can be."""
    time, batch, own = value.shape[:3]
    moved = value.reshape(time, batch, own, -1).permute(1, 3, 0, 2)
    return moved if own == channels else F.pad(moved, (0, channels - own))


def to_features(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """From (B, positions, T', channels) to (T', B, *shape); a view."""
    (batch, _, time, _), (image, position, step, channel) = value.shape, value.stride()
    space = (prod(shape[axis:]) * position for axis in range(2, len(shape) + 1))
    return value.as_strided((time, batch, *shape), (step, image, channel, *space))


def layer_at(memory: Tensor, images: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """Features (B, *shape) that lie in memory as (B, positions, channels in whole slabs), from there on; a view."""
    wide = padded(shape[0])
    image, *space = (prod(shape[axis:]) * wide for axis in range(1, len(shape) + 1))
    return memory.as_strided((images, *shape), (image, 1, *space), first)


def pack(fires: Tensor) -> Tensor:
    """The train of spikes (T', B, *shape), bool."""
    time, batch, *shape = fires.shape
    positions, size = train_bytes(tuple(shape))
    bits = fires.reshape(time, batch, shape[0], positions).permute(1, 3, 0, 2).to(torch.uint8).contiguous()
    return to_bits(bits, size)


def unpack(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Spikes in {0, 1}, (T', B, *shape), of the bits of a train, (T', B, positions, bytes)."""
    spikes = from_bits(bits[..., : -(-shape[0] // 8)])
    return to_features(spikes.permute(1, 2, 0, 3), shape).to(dtype)


def to_bits(spikes: Tensor, size: int) -> Tensor:
    """Spikes in {0, 1}, one byte each along the last axis, as bits in so many bytes, uint8."""
    bits = spikes.new_zeros(*spikes.shape[:-1], size, dtype=torch.uint8)
    for place in range(8):
        own = spikes[..., place::8]
        bits[..., : own.shape[-1]] |= own.to(torch.uint8) << place
    return bits


def from_bits(bits: Tensor) -> Tensor:
    """Each bit along the last axis as a byte in {0, 1}, uint8: eight times as many."""
    if bits.device.type == "cpu":
        return torch.as_tensor(np.unpackbits(bits.numpy(), axis=-1, bitorder="little"))
    return ((bits[..., None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1).flatten(-2)
