"""Pictures in folders, as ImageNet comes: train/CLASS/*.JPEG and val/CLASS/*.JPEG, decoded by worker processes."""
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# (fsspec and some of torch's own signatures lack types)

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from equispike.errors import DataError, one_line
from equispike.zoo.data.parts import Augmentation, Part, augment, normalised

SUFFIXES = (".jpeg", ".jpg", ".png")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pictures by channel, in units of [0, 1], as everyone states them."""

LARGEST_PICTURE = 2**26
"""Pictures of more pixels are not decoded: three bytes for each would be taken from memory."""


@dataclass(frozen=True)
class Pictures(Part):
    """One part of a data set of picture files, which are read when they are needed.

    Fields:
        name: e.g. "imagenet/train".
        folder: where the files lie: a path, or a URL that fsspec opens, as s3://bucket/imagenet/train.
        files: paths in it of the whole official split, sorted by class and name.
        labels: (N,) int64, of the pictures in this part.
        indices: (N,) int64, their numbers in `files`.
        classes: name of each label: its folder's.
        size: height and width of the images that come out, in pixels.
        workers: processes that decode; 0 decodes in this one. Results are the same for any number.
        mean, std: per channel, in units of [0, 1], subtracted and divided by.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]
    size: int
    workers: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: slice | Tensor) -> "Pictures":
        return replace(self, labels=self.labels[chosen], indices=self.indices[chosen])

    def alone(self, chosen: slice) -> "Pictures":
        """The chosen pictures without the paths of all others; whoever reads them decodes them."""
        part = self[chosen]
        files = tuple(self.files[i] for i in cast("list[int]", part.indices.tolist()))
        return replace(part, files=files, indices=torch.arange(len(part)), workers=0)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """ImageNet's mean and standard deviation, (3,) each; nothing is measured."""
        return MEAN, STD

    def floats(self) -> Tensor:
        """All pictures as they are evaluated, float32 (N, 3, size, size)."""
        images = [batch for batch, _ in self.batches(64)]
        return torch.cat(images) if images else torch.empty(0, 3, self.size, self.size)

    def read(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        if len(self):
            for images, labels in self.decoded(torch.split(torch.arange(len(self)), size), None):
                yield normalised(images, self.mean, self.std), labels

    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of picture numbers: random crops of those, changed further as `how` says, and their labels.

        A crop depends on one number, drawn here from torch's generator, and on the picture's own: neither on the
        number of workers nor on which is done first.
        """
        seed = int(torch.randint(2**62, ()))
        for images, labels in self.decoded(batches, seed):
            yield normalised(augment(images.to(device), how), self.mean, self.std), labels.to(device)

    def decoded(self, batches: Sequence[Tensor], seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images (B, 3, size, size) and labels (B,) of each batch; random crops where there is a seed.

        Raises:
            DataError: a file is missing, damaged or too large, with its path.
        """
        loader: DataLoader[tuple[Tensor, Tensor] | DataError] = DataLoader(
            _Decoder(self, batches, seed),
            batch_size=None,
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),  # of its own, so that torch's draws do not depend on it
        )
        for item in loader:
            if isinstance(item, DataError):
                raise item
            images, labels = item
            yield images, labels


@dataclass(frozen=True)
class _Decoder(Dataset["tuple[Tensor, Tensor] | DataError"]):
    """The work of a worker: an item is a batch, or the error that it met (raised, it would lose its one line)."""

    pictures: Pictures
    batches: Sequence[Tensor]
    seed: int | None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> "tuple[Tensor, Tensor] | DataError":
        part, chosen = self.pictures, self.batches[number]
        files, root = file_system(part.folder)
        try:
            images = [
                _read(files, f"{root}/{part.files[i]}", part.size, None if self.seed is None else (self.seed, i))
                for i in cast("list[int]", part.indices[chosen].tolist())
            ]
        except DataError as error:
            return error
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), part.labels[chosen]


def file_system(folder: str) -> tuple[Any, str]:
    """The file system that a folder lies in, and its path there."""
    return url_to_fs(folder) if "://" in folder else (LocalFileSystem(), folder)


def read_folder(
    folder: str | Path, name: str, size: int = 224, workers: int | None = None
) -> tuple[Pictures, Pictures]:
    """The official training and test part: ``folder/train/CLASS/*`` and ``folder/val/CLASS/*``.

    Args:
        folder: of pictures that end in .jpeg, .jpg or .png, in any case; other files are passed over. A path, or a URL
            (file://, s3://, gs://, ...) for which fsspec (https://filesystem-spec.readthedocs.io) has a package.
        name: of the data set.
        size: height and width of the images that come out, in pixels.
        workers: processes that decode; default one per core, shared by the processes of torchrun on this machine.
    Raises:
        DataError: a folder is missing, cannot be listed or has no pictures, or the two have other classes.
    """
    if workers is None:
        workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        train, test = (_read_part(f"{folder}/{part}", f"{name}/{part}", size, workers) for part in ("train", "val"))
    except DataError:
        raise
    except Exception as error:  # packages for file systems raise errors of many types
        raise DataError(f"{folder}: cannot be listed: {type(error).__name__}: {one_line(error, 200)}") from error
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{folder}: train and val have other classes, e.g. {odd[0]!r} in one of them alone ({len(odd)} in all). "
            "Give both a folder for each class"
        )
    return train, replace(test, name=f"{name}/test")


def _read_part(folder: str, name: str, size: int, workers: int) -> Pictures:
    system, root = file_system(folder)
    if not system.isdir(root):
        raise DataError(f"{folder}: no such folder. Pictures belong in train/CLASS/ and val/CLASS/")
    inside: list[dict[str, Any]] = system.ls(root, detail=True)
    kinds = (one["name"] for one in inside if one["type"] == "directory" or system.isdir(one["name"]))
    classes = tuple(sorted(os.path.basename(kind) for kind in kinds))
    files: list[str] = []
    labels: list[int] = []
    for label, kind in enumerate(classes):
        paths: list[str] = system.ls(f"{root}/{kind}", detail=False)
        found = sorted(os.path.basename(path) for path in paths if path.lower().endswith(SUFFIXES))
        if not found:
            raise DataError(f"{folder}/{kind}: no pictures (.jpeg, .jpg, .png). Add some, or remove the folder")
        files += [f"{kind}/{file}" for file in found]
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{folder}: no folder of a class. Pictures belong in {os.path.basename(folder)}/CLASS/")
    return Pictures(name, folder, tuple(files), torch.tensor(labels), torch.arange(len(files)), classes, size, workers)


def _read(files: Any, path: str, size: int, key: tuple[int, int] | None) -> np.ndarray:
    """The picture in RGB, uint8 (size, size, 3): its centre, or a crop that the key draws."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            files.open(path) as file,
            Image.open(file, formats=("JPEG", "PNG")) as picture,
        ):
            if picture.width * picture.height > LARGEST_PICTURE:
                raise DataError(f"{path}: {picture.width} x {picture.height} pixels, too many to decode. Remove it")
            if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            rgb = picture.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types
        reason = one_line(error, 200)
        raise DataError(f"{path}: cannot be decoded: {type(error).__name__}: {reason}. Replace or remove it") from error
    box = (
        centre(rgb.width, rgb.height, size)
        if key is None
        else crop(rgb.width, rgb.height, np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))))
    )
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))


def centre(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """The box that a centre crop of `size` pixels takes, once the shorter side is resized to 256 / 224 of that."""
    side = min(width, height) * size / round(size * 256 / 224)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def crop(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box (left, upper, right, lower), as ImageNet networks are trained (Szegedy et al., 2015).

    Its area is a uniform share of 8 to 100 % of the picture's, the logarithm of its aspect ratio uniform between 3/4
    and 4/3. If ten draws do not fit, the largest centred box of such a ratio is taken.
    """
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, upper, left + w, upper + h
    w, h = min(width, max(1, height * 4 // 3)), min(height, max(1, width * 4 // 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h
