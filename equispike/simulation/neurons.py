"""All neurons of a network in the course of a run: what a machine keeps of them, and how it is looked at."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from equispike.functional.integrate import Reset
from equispike.simulation.layout import layer_at, padded

SIGNS = "+", "-"
"""Endings of the names of two trains: those of the input, and of layers that take spikes back."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Features of layers, by name."""


@dataclass(frozen=True, eq=False)
class Driven:
    """The neurons of a layer, with numbers for its channels in whole slabs.

    Attributes:
        threshold: (channels,), infinite where there is no channel.
        reset: "subtract" or "zero".
        signed: spikes are taken back.
        drive: by step, (S, channels), S > 1; None where there is none, and where it is the same in every step: then it
            is a part of the bias.
    """

    threshold: Tensor
    reset: Reset
    signed: bool = False
    drive: Tensor | None = None

    def drive_in(self, steps: range) -> Tensor | None:
        """The drive in some steps, (T', channels)."""
        return None if self.drive is None else self.drive[[min(t, len(self.drive)) - 1 for t in steps]]


class Neurons(Protocol):
    """All neurons that run, laid out as the machine likes."""

    @property
    def v(self) -> Mapping[str, Tensor]:
        """Potentials by layer, (B, *features), views."""
        ...

    @property
    def counts(self) -> Mapping[str, Tensor]:
        """Spikes since the run began by layer, (B, *features), int32; negative ones count as well."""
        ...

    @property
    def negative(self) -> Mapping[str, Tensor]:
        """Of these, the negative ones of signed layers."""
        ...

    @property
    def sent(self) -> Mapping[str, Tensor]:
        """Of signed layers, the spikes since the first step less the negative ones, of the network's type."""
        ...

    def begin(self, sent: Mapping[str, Tensor]) -> None:
        """Signed layers go on from what they have sent."""
        ...

    @property
    def fired(self) -> Mapping[str, Tensor]:
        """Spikes by layer in each step, (T, B), int32, views."""
        ...


@dataclass(frozen=True, eq=False)
class ByLayer(Mapping[str, Tensor]):
    """Tensors by layer, made when they are looked at: all of a small network's would take as long as its spikes."""

    shapes: Shapes
    make: Callable[[str], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def extents(shapes: Shapes) -> list[tuple[int, int]]:
    """Positions of each layer, and its channels in whole slabs."""
    return [(prod(space), padded(channels)) for channels, *space in shapes.values()]


def by_layer(numbers: Any, images: int, shapes: Shapes, dtype: torch.dtype | None = None) -> ByLayer:
    """Features (B, *shape) of layers that lie one after the other, each (B, positions, channels in whole slabs).

    Views, unless another type is asked for.
    """
    return ByLayer(shapes, partial(_features, numbers, images, shapes, dtype))


def _features(numbers: Any, images: int, shapes: Shapes, dtype: torch.dtype | None, name: str) -> Tensor:
    first = 0
    for (positions, channels), (other, shape) in zip(extents(shapes), shapes.items()):
        if other == name:
            view = layer_at(torch.as_tensor(numbers), images, shape, first)
            return view.to(dtype or view.dtype)
        first += images * positions * channels
    raise KeyError(name)


def by_step(fired: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Spikes in each step, (T, B), of layers whose spikes by image and step are (layers, B, T); views."""
    return dict(zip(shapes, fired.transpose(1, 2).unbind()))
