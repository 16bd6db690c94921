"""Parts of data sets: images with labels, of which training, validation and test are three separate ones.

In training, images are changed at random, a whole batch at once, on the images' device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from equispike.batches import read_labelled
from equispike.errors import DataError


class Augmentation(Protocol):
    """The way images are changed in training; a Recipe says so."""

    @property
    def shift(self) -> int:
        """Largest move in pixels, in both directions; what comes in from the border is 0 (crop of a padded image)."""
        ...

    @property
    def flip(self) -> bool:
        """Half of the images are mirrored, left to right."""
        ...

    @property
    def cutout(self) -> int:
        """Side in pixels of a square set to 0 at a random place (DeVries and Taylor, 2017); 0 for none."""
        ...


class Part(ABC):
    """One part of a data set, in memory (:class:`Split`) or in files (``folder.Pictures``).

    Attributes:
        name: e.g. "mnist/test".
        labels: (N,) int64.
        indices: (N,) int64, the images' numbers in the official split that they come from.
        classes: name of each label.
    """

    name: str
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, chosen: slice | Tensor) -> Self:
        """The chosen images, in that order, as a part of the same name."""

    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in units of [0, 1]."""

    @abstractmethod
    def floats(self) -> Tensor:
        """All images as they are evaluated, float32 (N, C, H, W)."""

    @abstractmethod
    def read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read float images (B, C, H, W) and labels (B,) in order, so many at a time."""

    @abstractmethod
    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of image numbers a batch on the device, randomly changed."""

    def batches(self, size: int) -> "PartBatches":
        """The images in order, as float batches that can be gone through any number of times."""
        return PartBatches(self, size)

    def alone(self, chosen: slice) -> Self:
        """The chosen images without anything that only others need, to be sent to another process."""
        return self[chosen]

    def take(self, n: int) -> Self:
        """The first n images. DataError if there are fewer."""
        self._check_size(n)
        return self[:n]

    def sample(self, n: int, seed: int = 0) -> Self:
        """n images drawn without replacement and regardless of class, in random order. DataError if there are fewer."""
        self._check_size(n)
        return self[_permutation(len(self), seed)[:n]]

    def _check_size(self, n: int) -> None:
        if not 0 <= n <= len(self):
            raise DataError(f"{self.name}: asked for {n:,} images of {len(self):,}")


@dataclass(frozen=True)
class Split(Part):
    """Images and labels of one part of a data set, in memory.

    Fields:
        name, labels, indices, classes: see :class:`Part`.
        images: (N, C, H, W) uint8, as distributed.
        mean, std: per channel, in units of [0, 1]; what `floats` subtracts and divides by.
    """

    name: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"{self.name}: images must be uint8 (N, C, H, W), not {_describe(self.images)}")
        for field in ("labels", "indices"):
            value: Tensor = getattr(self, field)
            if value.dtype != torch.int64 or value.shape != (n,):
                raise DataError(f"{self.name}: {field} must be int64 ({n},) like the images, not {_describe(value)}")
        if n and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(f"{self.name}: labels must lie between 0 and {len(self.classes) - 1}")
        if {len(self.mean), len(self.std)} - {1, self.images.shape[1]}:
            raise DataError(f"{self.name}: mean and std must have one number per channel, {self.images.shape[1]}")
        if not (all(map(math.isfinite, (*self.mean, *self.std))) and min(self.std) > 0):
            raise DataError(f"{self.name}: mean and std must be finite, and std must be positive")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Tensor) -> Self:
        parts = {field: getattr(self, field)[chosen] for field in ("images", "labels", "indices")}
        return replace(self, **parts)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in units of [0, 1]. DataError if one is constant."""
        # Counts of the 256 values are exact and need no float copy of the images.
        counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in self.images.transpose(0, 1)])
        p = counts.double() / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = p @ values
        std = (p @ values.square() - mean.square()).sqrt()
        if not bool((std > 0).all()):
            raise DataError(f"{self.name}: a channel is constant, so it cannot be normalised")
        return tuple(map(float, mean)), tuple(map(float, std))

    def floats(self) -> Tensor:
        """All images as float32 (N, C, H, W): in [0, 1], less `mean`, over `std`."""
        return normalised(self.images, self.mean, self.std)

    def read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), size):
            part = self[start : start + size]
            yield part.floats(), part.labels

    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of image numbers: those images, randomly changed, as floats on the device, and their labels.

        On a GPU the images are moved there whole, once for each call, and changed there.
        """
        images, labels = self.images.to(device), self.labels.to(device)
        for chosen in batches:
            numbers = chosen.to(device)
            yield normalised(augment(images[numbers], how), self.mean, self.std), labels[numbers]


@dataclass(frozen=True)
class PartBatches:
    """Float batches of a part: pairs of images (B, C, H, W) float32 and labels (B,); the last one may be smaller."""

    part: Part
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"{self.part.name}: batches of {self.size} images. Use 1 or more")

    def __len__(self) -> int:
        return -(-len(self.part) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.part.read(self.size)

    def shards(self) -> "Iterator[Shard]":
        """The same batches, each to be read where it is needed."""
        starts = range(0, len(self.part), self.size)
        return (Shard(self.part.alone(slice(start, start + self.size))) for start in starts)


@dataclass(frozen=True)
class Shard:
    """A batch of a data set that is read where it is needed: batches of which there is one."""

    part: Part

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.part.batches(len(self.part)))

    def read(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images of that shape, and labels. DataError if they are unusable."""
        return next(read_labelled(self, shape, self.part.name))


@dataclass(frozen=True)
class Dataset:
    """Three splits, three objects. `validation` is cut from the official training split, `test` is the official one."""

    name: str
    train: Part
    validation: Part
    test: Part

    def normalised(self) -> "Dataset":
        """The same images, with each channel's mean subtracted and divided by its standard deviation.

        Both are those of the training part (without validation), or the known ones of ImageNet. The papers' CIFAR
        networks take such inputs; signed Poisson coding carries the negative values.
        """
        mean, std = self.train.statistics()
        parts = {part: replace(getattr(self, part), mean=mean, std=std) for part in ("train", "validation", "test")}
        return replace(self, **parts)


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, C, H, W) -> float32: images / 255, less mean, over std, per channel."""
    shift, scale = (torch.tensor(v, device=images.device).reshape(-1, 1, 1) for v in (mean, std))
    return images.float().div_(255).sub_(shift).div_(scale)


def cut_validation(name: str, train: Part, test: Part, size: int) -> Dataset:
    """`size` images drawn from a fixed seed leave `train` and become `validation`; both keep the official order."""
    if len(train) < size:
        raise DataError(f"{train.name}: {len(train):,} images, too few for a validation part of {size:,}")
    order = _permutation(len(train), seed=0)
    validation = replace(cast("Any", train[order[:size].sort().values]), name=f"{name}/validation")
    return Dataset(name, train[order[size:].sort().values], validation, test)


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def augment(images: Tensor, how: Augmentation) -> Tensor:
    """Move each image, mirror half of them, cut a square out of each, as far as ``how`` says.

    Draws come from torch's own generator for the images' device.

    Args:
        images: (B, C, H, W), of any type.
    Returns:
        the same shape, type and device.
    """
    if how.shift or how.flip:
        images = _moved(images, how.shift, how.flip)
    return _cut(images, how.cutout) if how.cutout else images


def _moved(images: Tensor, shift: int, flip: bool) -> Tensor:
    b, _, h, w = images.shape
    padded = F.pad(images, (shift, shift, shift, shift))
    dy, dx = torch.randint(0, 2 * shift + 1, (2, b, 1), device=images.device)
    rows = dy + torch.arange(h, device=images.device)
    columns = dx + torch.arange(w, device=images.device)
    if flip:
        mirrored = torch.rand(b, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(b, device=images.device)[:, None, None]
    # Index tensors around the channel axis put it last: (B, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut(images: Tensor, side: int) -> Tensor:
    """The square's centre lies anywhere in the image, so that near the border less than all of it is cut."""
    b, _, h, w = images.shape
    inside: list[Tensor] = []
    for length in (h, w):
        first = torch.randint(0, length, (b, 1), device=images.device) - side // 2
        position = torch.arange(length, device=images.device)
        inside.append((position >= first) & (position < first + side))
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
