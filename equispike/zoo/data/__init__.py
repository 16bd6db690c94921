"""Data sets as three separate splits; a sample of MNIST comes with the package, the full sets from a data folder.

The folder is the argument, else the environment variable EQUISPIKE_DATA, else ~/.cache/equispike, in the layout of
torchvision.datasets. What is missing there is downloaded from the official addresses and verified.
"""

import hashlib
import io
import lzma
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equispike.errors import DataError
from equispike.zoo.data.download import ensure
from equispike.zoo.data.folder import read_folder
from equispike.zoo.data.formats import read_idx, read_pickle
from equispike.zoo.data.parts import Dataset, Split, cut_validation
from equispike.zoo.data.parts import Part as Part

SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("mnist-sample", "mnist"), (1, 28, 28)),
    **dict.fromkeys(("cifar10", "cifar100"), (3, 32, 32)),
    "imagenet": (3, 224, 224),
}
"""What one image is, before any is read."""
SAMPLE = "mnist_sample.npz.xz"
SAMPLE_SHA256 = "74f23f339563fced174781b5e860954953c636a658a9cc3caed990c2e69d7627"


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
    packed = resources.files(__name__).joinpath(SAMPLE).read_bytes()
    if hashlib.sha256(packed).hexdigest() != SAMPLE_SHA256:
        raise DataError(f"equispike/zoo/data/{SAMPLE}: altered (SHA-256 differs). Reinstall equispike")
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
    train, test = read_folder(folder, "imagenet")
    return cut_validation("imagenet", train, test, size=min(max(len(train) // 10, 1), 10_000))


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist-sample": _mnist_sample,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "imagenet": _imagenet,
}
NAMES = tuple(_LOADERS)
"""Data sets that ``load`` knows."""
