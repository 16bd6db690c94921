"""Data sets as three separate splits; a sample of MNIST comes with the package, the full sets from a data folder.

The folder is the argument, else the environment variable EQUISPIKE_DATA, else ~/.cache/equispike, in the layout of
torchvision.datasets. What is missing there is downloaded from the official addresses and verified.
"""

import hashlib
import io
import lzma
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from equispike.errors import DataError
from equispike.zoo.augment import Augmentation, augment
from equispike.zoo.download import ensure
from equispike.zoo.formats import read_idx, read_pickle

SAMPLE = "data/mnist_sample.npz.xz"
SAMPLE_SHA256 = "74f23f339563fced174781b5e860954953c636a658a9cc3caed990c2e69d7627"


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
    def batches(self, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Float images (B, C, H, W) and labels (B,), in order; to be gone through any number of times."""

    @abstractmethod
    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of image numbers a batch on the device, randomly changed."""

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
        name: e.g. "mnist/test".
        images: (N, C, H, W) uint8, as distributed.
        labels: (N,) int64.
        indices: (N,) int64, the images' numbers in the official split that they come from.
        classes: name of each label.
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
        """The chosen images, in that order, as a Split of the same name."""
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

    def batches(self, size: int) -> "Batches":
        """The images in order, as float batches that can be gone through any number of times."""
        return Batches(self, size)

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
class Batches:
    """Float batches of a split: pairs of images (B, C, H, W) float32 and labels (B,); the last one may be smaller."""

    split: Split
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"{self.split.name}: batches of {self.size} images. Use 1 or more")

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.split), self.size):
            part = self.split[start : start + self.size]
            yield part.floats(), part.labels


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


def load(name: str, folder: str | Path | None = None, normalised: bool = False) -> Dataset:
    """The data set of that name: "mnist-sample" (in the package), "mnist", "cifar10", "cifar100" or "imagenet".

    Args:
        name: of the data set. mnist-sample has 6,000 training digits, every 10th of MNIST's, of which 600 become the
            validation part, and 2,000 test digits, every 5th. From the full sets, 5,000 training images become the
            validation part. Which ones is drawn from a fixed seed. imagenet is any folder of pictures in train/CLASS/
            and val/CLASS/ (``folder.py``): val is the test part, and a tenth of train, at most 10,000, the validation
            part; nothing is downloaded.
        folder: where the full sets are or shall be downloaded to; see the top of this module.
        normalised: as :meth:`Dataset.normalised` gives it.
    Raises:
        DataError: unknown name, damaged file, or files that are missing and cannot be downloaded.
    """
    if name not in _LOADERS:
        raise DataError(f"data set {name!r}: unknown name. Known names: {', '.join(_LOADERS)}")
    dataset = _LOADERS[name](Path(folder) if folder is not None else default_folder())
    return dataset.normalised() if normalised else dataset


def default_folder() -> Path:
    """The environment variable EQUISPIKE_DATA, else ~/.cache/equispike."""
    return Path(os.environ.get("EQUISPIKE_DATA") or Path.home() / ".cache" / "equispike").expanduser()


def make_sample(folder: Path, path: Path) -> str:
    """Write the sample that the package carries, from the full MNIST in `folder`; returns its SHA-256.

    Every 10th training digit and every 5th test digit, from number 0 on, so that the official numbers are known.
    """
    arrays: dict[str, np.ndarray] = {}
    for part, step in _SAMPLE_STEPS.items():
        images, labels = _mnist_files(folder, part)
        arrays |= {f"{part}_images": images[::step], f"{part}_labels": labels[::step]}
    archive = io.BytesIO()
    np.savez(archive, **arrays)  # pyright: ignore[reportArgumentType] (its last keyword is a flag)
    packed = lzma.compress(archive.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    path.write_bytes(packed)
    return hashlib.sha256(packed).hexdigest()


_SAMPLE_STEPS = {"train": 10, "test": 5}
_MNIST_FILES = {"train": "train", "test": "t10k"}
_DIGITS = tuple("0123456789")


def _mnist_sample(_: Path) -> Dataset:
    packed = resources.files("equispike.zoo").joinpath(SAMPLE).read_bytes()
    if hashlib.sha256(packed).hexdigest() != SAMPLE_SHA256:
        raise DataError(f"equispike/zoo/{SAMPLE}: altered (SHA-256 differs). Reinstall equispike")
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as arrays:
        splits = {
            part: _split(f"mnist-sample/{part}", arrays[f"{part}_images"], arrays[f"{part}_labels"], _DIGITS, step)
            for part, step in _SAMPLE_STEPS.items()
        }
    return cut_validation("mnist-sample", **splits, size=600)


def _mnist(folder: Path) -> Dataset:
    ensure("mnist", folder)
    splits: dict[str, Split] = {}
    for part in _MNIST_FILES:
        images, labels = _mnist_files(folder, part)
        splits[part] = _split(f"mnist/{part}", images, labels, _DIGITS)
    return cut_validation("mnist", **splits, size=5000)


def _mnist_files(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    stem = folder / "MNIST" / "raw" / _MNIST_FILES[part]
    images, labels = read_idx(Path(f"{stem}-images-idx3-ubyte"), 3), read_idx(Path(f"{stem}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{stem}-images-idx3-ubyte: images of {images.shape[1:]}, not (28, 28)")
    return images, labels


def _cifar10(folder: Path) -> Dataset:
    ensure("cifar10", folder)
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    return _cifar("cifar10", folder / "cifar-10-batches-py", files, "batches.meta", "labels", "label_names")


def _cifar100(folder: Path) -> Dataset:
    ensure("cifar100", folder)
    files = {"train": ["train"], "test": ["test"]}
    return _cifar("cifar100", folder / "cifar-100-python", files, "meta", "fine_labels", "fine_label_names")


def _cifar(name: str, folder: Path, files: dict[str, list[str]], meta: str, labels: str, names: str) -> Dataset:
    classes = _entry(folder / meta, read_pickle(folder / meta), names, list)
    splits: dict[str, Split] = {}
    for part, parts in files.items():
        content = [(folder / file, read_pickle(folder / file)) for file in parts]
        images = np.concatenate([_cifar_images(path, _entry(path, c, "data", np.ndarray)) for path, c in content])
        numbers = [_whole_numbers(path, _entry(path, c, labels, list)) for path, c in content]
        splits[part] = _split(f"{name}/{part}", images, np.concatenate(numbers), tuple(map(str, classes)))
    return cut_validation(name, **splits, size=5000)


def _entry(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(content.get(key), kind):
        raise DataError(f"{path}: has no {kind.__name__} {key!r}, so it is not the file that this data set has here")
    return content[key]


def _cifar_images(path: Path, data: np.ndarray) -> np.ndarray:
    if data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise DataError(f"{path}: 'data' has shape {data.shape}, not (N, 3072)")
    return data.reshape(-1, 3, 32, 32)


def _whole_numbers(path: Path, labels: list[Any]) -> np.ndarray:
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError(f"{path}: labels that are not class numbers")
    return np.array(labels, np.int64)


def _split(name: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], step: int = 1) -> Split:
    indices = torch.arange(0, step * len(images), step)
    images = images[:, None] if images.ndim == 3 else images
    return Split(name, torch.tensor(images), torch.tensor(labels.astype(np.int64)), indices, classes)


def _imagenet(folder: Path) -> Dataset:
    from equispike.zoo.folder import read_folder  # late, since it imports this module

    train, test = read_folder(folder, "imagenet")
    return cut_validation("imagenet", train, test, size=min(max(len(train) // 10, 1), 10_000))


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


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist-sample": _mnist_sample,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet": _imagenet,
}
NAMES = tuple(_LOADERS)
"""Data sets that ``load`` knows."""
