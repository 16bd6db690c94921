"""Data sets of the user's own: folders of pictures, and whatever gives batches of images and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from equispike.arguments import told
from equispike.batches import read_labelled
from equispike.errors import DataError
from equispike.zoo.data.folder import read_folder
from equispike.zoo.data.parts import Augmentation, Dataset, Part, cut_validation

PARTS = "Give (train, test): two Datasets or DataLoaders of (image, label) pairs"


@dataclass(frozen=True)
class Ready(Part):
    """Images in memory, preprocessed already.

    Fields:
        name, labels, indices, classes: see :class:`Part`.
        images: (N, *features), floating point.
    """

    name: str
    images: Tensor
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Tensor) -> "Ready":
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], indices=self.indices[chosen])

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Refuse: the images are preprocessed already."""
        raise DataError(f"{self.name}: comes preprocessed. Leave out the normalisation")

    def floats(self) -> Tensor:
        return self.images

    def read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.images[at : at + size], self.labels[at : at + size]) for at in range(0, len(self), size))

    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of image numbers those images and labels on the device, as they are."""
        for chosen in batches:
            yield self.images[chosen].to(device), self.labels[chosen].to(device)


@dataclass(frozen=True)
class ChannelsLast(Part):
    """A part whose images are given as (height, width, channels), as networks of Keras take them."""

    part: Part
    name: str
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, part: Part) -> "ChannelsLast":
        """The part with its images turned round."""
        return cls(part, part.name, part.labels, part.indices, part.classes)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, chosen: slice | Tensor) -> "ChannelsLast":
        return ChannelsLast.of(self.part[chosen])

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.part.statistics()

    def floats(self) -> Tensor:
        return self.part.floats().movedim(1, -1).contiguous()

    def read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((images.movedim(1, -1).contiguous(), labels) for images, labels in self.part.read(size))

    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        changed = self.part.shuffled(batches, how, device)
        return ((images.movedim(1, -1).contiguous(), labels) for images, labels in changed)


def channels_last(dataset: Dataset) -> Dataset:
    """The same data set with images as (height, width, channels)."""
    parts = {name: ChannelsLast.of(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return replace(dataset, **parts)


def from_folder(folder: str | Path, size: int) -> Dataset:
    """The pictures in train/CLASS/ and val/CLASS/ of a folder; a tenth of train becomes the validation part.

    Args:
        folder: see ``read_folder``.
        size: height and width of the images that come out, in pixels.
    """
    name = Path(folder).resolve().name
    train, test = read_folder(folder, name, size)
    return cut_validation(name, train, test, min(max(len(train) // 10, 1), 10_000))


def from_loaders(name: str, given: object) -> Dataset:
    """Data that a function of the user's gave: a :class:`Dataset`, or (train, test), each a Dataset or a DataLoader.

    Everything is read into memory. A tenth of the training images becomes the validation part.

    Raises:
        DataError: it is something else, or holds unusable images or labels.
    """
    if isinstance(given, Dataset):
        return given
    parts = cast("Sequence[Any]", given) if isinstance(given, tuple | list) else ()
    if len(parts) != 2:
        raise DataError(f"{name}: gave {told(given)}. {PARTS}")
    train, test = (_read(f"{name}/{part}", one) for part, one in zip(("train", "test"), parts, strict=True))
    classes = max(len(train.classes), len(test.classes))
    names = tuple(map(str, range(classes)))
    train, test = replace(train, classes=names), replace(test, classes=names)
    return cut_validation(name, train, test, max(len(train) // 10, 1))


def _read(name: str, given: Any) -> Ready:
    pairs = list(read_labelled(given, purpose=f"{name}: batch"))
    images, labels = (torch.cat(side) for side in zip(*pairs, strict=True))
    if labels.ndim > 1:
        raise DataError(f"{name}: labels of shape {tuple(labels.shape)}. Give one class number per image")
    count = int(labels.max()) + 1
    return Ready(name, images, labels.long(), torch.arange(len(images)), tuple(map(str, range(count))))
