"""Images as users bring them, in batches, checked where they enter."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from equispike.errors import DataError
from equispike.functional.finite import all_finite
from equispike.functional.inputs import Images, Shape, inputs_of, join_inputs, split_inputs


class Batch(NamedTuple):
    """Images (B, *features), or several inputs joined; where known, labels (B,); the features of each input."""

    images: Tensor
    labels: Tensor | None
    shapes: tuple[Shape, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the model's ``forward`` takes."""
        return split_inputs(self.images, self.shapes)


Batches = Iterable[Tensor | Batch | tuple[Images, Tensor | None] | Sequence[Tensor | Sequence[Tensor]]]
"""What users pass: any iterable of image tensors, or of (images, labels) pairs; a DataLoader, say.

For a model of several inputs, pairs whose images are a tuple or list of tensors; None may stand for the labels.
"""


def read(batches: Batches | Tensor, shape: tuple[int, ...] | None = None, purpose: str = "batch") -> Iterator[Batch]:
    """The batches in the order given, each checked before it is handed on; empty ones are left out.

    Args:
        batches: see ``Batches``; a single tensor is one batch.
        shape: features that an image must have, if known.
        purpose: what an error calls a batch.
    Raises:
        DataError: a batch of wrong shape, type or value, which is named; at the end, if there was no image.
    """
    source: Iterable[object] = [batches] if isinstance(batches, Tensor) else batches
    if not isinstance(cast("object", source), Iterable):
        raise DataError(f"batches: a {type(batches).__name__}. Pass tensors or (images, labels) pairs")
    empty = True
    for number, item in enumerate(source):
        batch = _batch(f"{purpose} {number}", item, shape)
        if len(batch.images):
            empty = False
            yield batch
    if empty:
        raise DataError(f"{purpose}: there are no images. Pass at least one batch")


def read_labelled(
    batches: Batches | Tensor, shape: tuple[int, ...] | None = None, purpose: str = "test batch"
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same of batches whose labels are needed: pairs. DataError also for a batch without."""
    for images, labels, _ in read(batches, shape, purpose):
        if labels is None:
            raise DataError(f"{purpose}: comes without labels. Pass (images, labels) pairs")
        yield images, labels


def hold(batches: Batches | Tensor, shape: tuple[int, ...] | None = None) -> list[Batch]:
    """Calibration images, read once and held: methods need them more than once, in one order.

    Image k of all batches draws its Poisson spikes as image k, so thresholds do not depend on the batches' sizes.
    """
    return list(read(batches, shape, "calibration batch"))


def _batch(where: str, item: object, shape: tuple[int, ...] | None) -> Batch:
    parts = inputs_of(item)
    images, labels = parts[0] if parts else None, parts[1] if len(parts) > 1 else None
    inputs = inputs_of(images)
    tensors = tuple(x for x in inputs if isinstance(x, Tensor))
    if not inputs or len(tensors) < len(inputs):
        wrong = next((type(x) for x in inputs if not isinstance(x, Tensor)), tuple)
        raise DataError(f"{where}: holds a {wrong.__name__}. Pass tensors or (images, labels) pairs")
    if odd := [x.dtype for x in tensors if not x.is_floating_point()]:
        raise DataError(f"{where}: images of type {odd[0]}. Preprocess them as in training (floats)")
    shapes = item.shapes if isinstance(item, Batch) else tuple(tuple(x.shape[1:]) for x in tensors)
    try:
        images = join_inputs(tensors)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if images.ndim < 2 or (shape is not None and tuple(images.shape[1:]) != shape):
        expected = "(B, features)" if shape is None else f"(B, {', '.join(map(str, shape))})"
        raise DataError(f"{where}: shape {tuple(images.shape)}, expected {expected}. Reshape the images")
    if not all_finite(images):
        raise DataError(f"{where}: holds NaN or infinity. Check the loading and the normalisation")
    if labels is None:
        return Batch(images.detach(), None, shapes)
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: labels of type {type(labels).__name__}. Give one class number per image") from error
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{where}: {tuple(labels.shape)} labels for {len(images)} images. Give one per image; several inputs of a "
            "model belong into a tuple of their own, ((first, second), labels)"
        )
    return Batch(images.detach(), labels, shapes)
