"""Images as users bring them: what is accepted, in which order, and how the rest is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from equispike.batches import hold, read, read_labelled
from equispike.errors import DataError

IMAGES, LABELS = torch.arange(20).reshape(10, 2).float(), torch.arange(10)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any), st.booleans())
def test_images_keep_their_order_and_empty_batches_are_left_out(sizes: list[int], labelled: bool) -> None:
    images, labels = torch.arange(2.0 * sum(sizes)).reshape(-1, 2), torch.arange(sum(sizes))
    parts: list[Any] = list(images.split(sizes))
    if labelled:
        parts = list(zip(parts, labels.split(sizes)))
    batches = list(read(iter(parts)))
    assert [len(batch.images) for batch in batches] == [size for size in sizes if size]
    assert torch.equal(torch.cat([batch.images for batch in batches]), images)
    found = [batch.labels for batch in batches]
    if labelled:
        assert torch.equal(torch.cat([part for part in found if part is not None]), labels)
    else:
        assert set(found) == {None}


@pytest.mark.parametrize(
    "batches",
    [
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
        [[IMAGES, LABELS.tolist()]],
        [(IMAGES, np.arange(10))],
        ((x[None], y[None]) for x, y in zip(IMAGES, LABELS)),
    ],
)
def test_pairs_of_images_and_labels_may_come_in_any_iterable(batches: Any) -> None:
    held = hold(batches, (2,))
    assert torch.equal(torch.cat([batch.images for batch in held]), IMAGES)
    assert torch.equal(torch.cat([torch.as_tensor(batch.labels) for batch in held]), LABELS)


def test_a_tensor_is_one_batch_and_what_was_read_can_be_read_again() -> None:
    held = hold(IMAGES.requires_grad_())
    IMAGES.requires_grad_(False)
    assert len(held) == 1
    assert not held[0].images.requires_grad
    assert torch.equal(hold(held)[0].images, held[0].images)


def test_batches_are_read_one_by_one() -> None:
    """A stream need not fit into memory."""
    drawn: list[int] = []

    def stream() -> Any:
        for number in range(3):
            drawn.append(number)
            yield IMAGES

    batches = read(stream())
    assert drawn == []
    next(batches)
    assert drawn == [0]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batch: there are no images. Pass at least one batch"),
        ([IMAGES[:0], IMAGES[:0]], "batch: there are no images"),
        (3, "batches: a int. Pass tensors"),
        (None, "batches: a NoneType"),
        ("abc", "batches: a str"),
        ([()], "batch 0: holds a NoneType"),
        ([(IMAGES, LABELS), LABELS], "batch 1: images of type torch.int64. Preprocess"),
        ([IMAGES > 3], "batch 0: images of type torch.bool"),
        ([IMAGES + 1j], "batch 0: images of type torch.complex64"),
        ([IMAGES, LABELS], "batch 1: images of type torch.int64"),
        ([torch.tensor(1.0)], "batch 0: shape (), expected (B, 2)"),
        ([torch.ones(2)], "batch 0: shape (2,), expected (B, 2)"),
        ([IMAGES, IMAGES[:, :1]], "batch 1: shape (10, 1), expected (B, 2)"),
        ([IMAGES[:, None]], "batch 0: shape (10, 1, 2), expected (B, 2)"),
        ([IMAGES / 0], "batch 0: holds NaN or infinity"),
        ([{"pictures": IMAGES}], "batch 0: a dict without pixel_values"),
        ("mnist", "batches: a str"),
        (torch.nn.Linear(2, 2), "batches: a Linear"),
        ([["a", "b"]], "batch 0: holds a str"),
    ],
)
def test_what_is_wrong_is_named_with_its_batch(batches: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read(batches, (2,)))
    assert str(caught.value).startswith(message)


def test_without_a_known_shape_only_batches_of_features_are_refused() -> None:
    assert len(list(read([torch.ones(2, 3), torch.ones(2, 1, 5)]))) == 2
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(B, features\)"):
        list(read([torch.ones(3)]))


def test_the_purpose_names_the_batches() -> None:
    with pytest.raises(DataError, match="calibration batch 0: holds NaN"):
        hold([torch.full((2, 2), torch.nan)])
    with pytest.raises(DataError, match="calibration batch: there are no images"):
        hold([])


def test_images_are_checked_as_they_come() -> None:
    """The good batches before a bad one are handed on."""
    seen: list[Tensor] = []
    with pytest.raises(DataError, match="batch 1"):
        seen.extend(batch.images for batch in read([IMAGES, IMAGES * torch.nan]))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(IMAGES, LABELS[:3])], "batch 0: (3,) labels for 10 images"),
        ([(IMAGES, LABELS[:, None])], "batch 0: (10, 1) labels for 10 images"),
        ([(IMAGES, 3)], "batch 0: () labels for 10 images"),
        ([(IMAGES, ["cat"] * 10)], "batch 0: labels"),
        ([(IMAGES, {"label": 1})], "batch 0: labels"),
        ([(IMAGES, torch.rand(10))], "batch 0: labels of type torch.float32 that are no class numbers"),
    ],
)
def test_labels_matter_only_where_they_are_needed(batches: Any, message: str) -> None:
    (batch,) = read(batches, (2,))
    assert torch.equal(batch.images, IMAGES)
    assert batch.labels is None
    with pytest.raises(DataError) as caught:
        list(read_labelled(batches, (2,), "batch"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "batches",
    [
        (IMAGES, LABELS),
        [(IMAGES.numpy(), LABELS.numpy())],
        [{"pixel_values": IMAGES, "labels": LABELS}],
        {"image": IMAGES.numpy(), "label": LABELS.tolist()},
        TensorDataset(IMAGES, LABELS),
        [(IMAGES, LABELS.float())],
    ],
)
def test_what_people_have_is_read(batches: Any) -> None:
    ((images, labels),) = read_labelled(batches, (2,))
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert labels.dtype == torch.int64


def test_an_array_is_one_batch() -> None:
    (batch,) = read(IMAGES.numpy())
    assert torch.equal(batch.images, IMAGES)


def test_labels_of_places_are_kept() -> None:
    images, masks = torch.rand(4, 3, 5, 5), torch.randint(0, 2, (4, 5, 5))
    ((_, labels),) = read_labelled([(images, masks)])
    assert torch.equal(labels, masks)
