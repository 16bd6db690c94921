"""Images as users bring them, in batches, checked where they enter."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from equispike.arguments import tensor_of
from equispike.errors import CalibrationError, DataError, EquispikeError
from equispike.functional.inputs import Shape, all_finite, inputs_of, join_inputs, reshaping, split_inputs
from equispike.workers import Workers


class Batch(NamedTuple):
    """Images (B, *features), or several inputs joined; where known, labels (B,); the features of each input."""

    images: Tensor
    labels: Tensor | None
    shapes: tuple[Shape, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the model's ``forward``."""
        return split_inputs(self.images, self.shapes)


class Labelled(Protocol):
    """Images and labels that can be read, here or in another process."""

    def __len__(self) -> int: ...

    def read(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images (B, *shape) and labels. DataError if they are unusable."""
        ...


@dataclass(frozen=True)
class Pair:
    """Images and labels that were read and checked."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def read(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Both, as they are."""
        return self.images, self.labels


Batches = Iterable[Any]
"""What users pass: any iterable of image tensors or NumPy arrays, of (images, labels) pairs, or of dicts with both (as
``pixel_values`` and ``labels``, say): a DataLoader, for instance; or a Dataset, a pair, or one tensor or array.

For a model of several inputs, pairs whose images are a tuple or list of tensors; None may stand for the labels.
"""

Join = Callable[[tuple[Tensor, ...]], Tensor]
"""Makes one tensor of the inputs in a batch, images first, and refuses what does not go together."""

IMAGES = "pixel_values", "images", "image", "img", "inputs", "input", "x"
LABELS = "labels", "label", "targets", "target", "y"
"""Names that images and labels have in batches that are dicts."""
ACCEPTED = "Pass tensors or NumPy arrays of images, (images, labels) pairs, or a DataLoader of them"


def read(
    batches: Batches | Tensor,
    shape: tuple[int, ...] | None = None,
    purpose: str = "batch",
    labelled: bool = False,
    join: Join = join_inputs,
) -> Iterator[Batch]:
    """The batches in the order given, each checked before it is handed on; empty ones are left out.

    Args:
        batches: see ``Batches``; a single tensor is one batch.
        shape: features that an image must have, if known.
        purpose: what an error calls a batch.
        labelled: labels are needed; else those that are no class numbers are left out without a word.
        join: makes one tensor of a batch's inputs, images first.
    Raises:
        DataError: a batch of wrong shape, type or value, which is named; at the end, if there was no image.
    """
    empty = True
    for number, item in enumerate(_items(batches)):
        batch = _batch(f"{purpose} {number}", item, shape, labelled, join)
        if len(batch.images):
            empty = False
            yield batch
    if empty:
        raise DataError(f"{purpose}: there are no images. Pass at least one batch")


def read_labelled(
    batches: Batches | Tensor,
    shape: tuple[int, ...] | None = None,
    purpose: str = "test batch",
    join: Join = join_inputs,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of batches whose labels are needed: pairs. DataError also for a batch without.

    Labels are int64: one class number per image, (B,), or of scores in space one per place, (B, *space).
    """
    for images, labels, _ in read(batches, shape, purpose, True, join):
        if labels is None:
            raise DataError(f"{purpose}: comes without labels. Pass (images, labels) pairs")
        yield images, labels


def numbered(
    batches: Batches | Tensor,
    shape: tuple[int, ...],
    first: int = 0,
    elsewhere: bool = False,
    join: Join = join_inputs,
) -> Iterator[tuple[int, Labelled]]:
    """Labelled batches in order, each with the number of its first image.

    Args:
        batches, shape, join: as for :func:`read_labelled`, which reads and checks them here.
        first: number of the very first image.
        elsewhere: another process works on them, and reads them itself where they know how (``shards``).
    """
    shards: Iterator[Labelled] | None = _shards(batches) if elsewhere else None
    for batch in shards or (Pair(*pair) for pair in read_labelled(batches, shape, join=join)):
        yield first, batch
        first += len(batch)


def hold(batches: Batches | Tensor, shape: tuple[int, ...] | None = None) -> list[Batch]:
    """Calibration images, read once and held: methods need them more than once, in one order.

    Image k of all batches draws its Poisson spikes as image k, so thresholds do not depend on the batches' sizes.
    """
    return list(read(batches, shape, "calibration batch"))


def in_pieces(batches: Batches, shape: tuple[int, ...] | None = None) -> Iterator[Batches]:
    """Calibration batches one by one, each to be read where it is needed if they know how (``shards``)."""
    return _shards(batches) or ([batch] for batch in hold(batches, shape))


def input_extent(
    batches: Batches, shape: tuple[int, ...] | None = None, on: Workers | None = None
) -> tuple[float, int]:
    """Largest |x| of calibration images, and their number. CalibrationError if all are zero."""
    extent, pieces = partial(_extent, shape), in_pieces(batches, shape)
    found = [*map(extent, pieces)] if on is None else [one for _, one in on.map(extent, pieces)]
    scale = max(largest for largest, _ in found)
    if scale == 0:
        raise CalibrationError("batches: every pixel is zero. Check the loading of the images")
    return scale, sum(count for _, count in found)


def _extent(shape: tuple[int, ...] | None, batches: Batches) -> tuple[float, int]:
    held = hold(batches, shape)
    return max(float(batch.images.abs().max()) for batch in held), sum(len(batch.images) for batch in held)


def check_labels(labels: Tensor, classes: int, purpose: str = "labels") -> None:
    """DataError for a label that is none of so many classes; one score per image stands for two."""
    classes = max(classes, 2)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"{purpose}: label {int(wrong[0])}, but the network has {classes} classes, 0 to {classes - 1}. Check the "
            "labels, and the network's last layer"
        )


def _shards(batches: Any) -> Iterator[Any] | None:
    """Batches that can be read elsewhere, if these can and there are any."""
    return batches.shards() if hasattr(batches, "shards") and len(batches) else None


def _items(batches: object) -> Iterable[object]:
    """The batches one by one."""
    if isinstance(batches, Tensor | np.ndarray | Mapping) or _is_pair(batches):
        return [cast("object", batches)]
    if isinstance(batches, Dataset):
        return cast("Iterable[object]", DataLoader(cast("Dataset[object]", batches), 100))
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes | nn.Module):
        raise DataError(f"batches: a {type(batches).__name__}. {ACCEPTED}")
    return cast("Iterable[object]", batches)


def _is_pair(batches: object) -> bool:
    """Tell (images, labels) from a tuple of batches: images are never whole numbers."""
    if not isinstance(batches, tuple) or len(cast("tuple[object, ...]", batches)) != 2:
        return False
    images, labels = map(tensor_of, cast("tuple[object, object]", batches))
    return isinstance(images, Tensor) and isinstance(labels, Tensor) and not labels.is_floating_point()


def _parts(where: str, item: object) -> tuple[object, object]:
    """Images and labels of a batch, as they came."""
    if isinstance(item, Mapping):
        named = cast("Mapping[object, object]", item)
        found = next((key for key in IMAGES if key in named), None)
        if found is None:
            raise DataError(f"{where}: a dict without {', '.join(IMAGES[:-1])} or x. Pass (images, labels) pairs")
        return named[found], next((named[key] for key in LABELS if key in named), None)
    parts = inputs_of(item)
    return parts[0] if parts else None, parts[1] if len(parts) > 1 else None


def _batch(where: str, item: object, shape: tuple[int, ...] | None, labelled: bool, join: Join) -> Batch:
    images, labels = _parts(where, item)
    inputs = tuple(map(tensor_of, inputs_of(images)))
    tensors = tuple(x for x in inputs if isinstance(x, Tensor))
    if not inputs or len(tensors) < len(inputs):
        wrong = next((type(cast("object", x)) for x in inputs if not isinstance(x, Tensor)), tuple)
        raise DataError(f"{where}: holds a {wrong.__name__}. {ACCEPTED}")
    if odd := [x.dtype for x in tensors if not x.is_floating_point()]:
        raise DataError(f"{where}: images of type {odd[0]}. Preprocess them as in training (floats)")
    shapes = item.shapes if isinstance(item, Batch) else tuple(tuple(x.shape[1:]) for x in tensors)
    try:
        images = join(tensors)
    except EquispikeError as error:
        raise DataError(f"{where}: {error}") from error
    if images.ndim < 2 or (join is join_inputs and shape is not None and tuple(images.shape[1:]) != shape):
        expected = "(B, features)" if shape is None else f"(B, {', '.join(map(str, shape))})"
        how = reshaping(tuple(images.shape), shape or ())
        raise DataError(f"{where}: shape {tuple(images.shape)}, expected {expected}. {how}")
    if not all_finite(images):
        raise DataError(f"{where}: holds NaN or infinity. Check the loading and the normalisation")
    return Batch(images.detach(), _labels(where, labels, images, labelled), shapes)


def _labels(where: str, given: object, images: Tensor, needed: bool) -> Tensor | None:
    """Class numbers, int64; None where there are none, or other targets that nobody needs."""
    if given is None:
        return None
    try:
        labels = torch.as_tensor(cast("Any", given)).detach()
        whole = labels.long()
        reason = "" if bool((whole == labels).all()) else f"labels of type {labels.dtype} that are no class numbers"
    except (TypeError, ValueError, RuntimeError):
        whole, reason = torch.empty(0), f"labels of type {type(given).__name__}"
    places = whole.ndim == images.ndim - 1 > 1 and whole.shape[0] == len(images)
    if not reason and whole.shape != images.shape[:1] and not places:
        reason = f"{tuple(whole.shape)} labels for {len(images)} images"
    if reason and needed:
        raise DataError(
            f"{where}: {reason}. Give one class number per image; several inputs of a model belong into a tuple of "
            "their own, ((first, second), labels)"
        )
    return None if reason else whole
