"""Random changes of images: each result is one that was allowed, and all that are allowed turn up."""

import pytest
import torch
from torch.nn import functional as F

from equispike.zoo.data.parts import augment
from equispike.zoo.recipes import Recipe


def test_nothing_asked_for_is_the_same_tensor():
    images = torch.rand(2, 3, 4, 4)
    assert augment(images, Recipe(epochs=1)) is images


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_moves_and_mirrors(channels, flip):
    """Each result is one of the (2 p + 1)^2 shifts, mirrored or not, of its own image; all of them turn up."""
    torch.manual_seed(0)
    p, image = 1, torch.arange(1, channels * 30 + 1, dtype=torch.uint8).reshape(channels, 5, 6)
    results = augment(image.expand(500, -1, -1, -1), Recipe(epochs=1, shift=p, flip=flip))
    assert results.shape == (500, channels, 5, 6)
    padded = F.pad(image, (p, p, p, p))
    crops = [padded[:, y : y + 5, x : x + 6] for y in range(3) for x in range(3)]
    crops += [crop.flip(-1) for crop in crops] if flip else []
    found = [[i for i, crop in enumerate(crops) if torch.equal(crop, result)] for result in results]
    assert all(len(matches) == 1 for matches in found)
    assert {matches[0] for matches in found} == set(range(len(crops)))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_cutout_sets_one_square_to_zero_and_nothing_else(side, dtype):
    """The square has that side, less what lies outside; its place is drawn for each image on its own."""
    torch.manual_seed(0)
    h, w, n = 5, 7, 4000
    images = torch.randint(1, 256, (n, 3, h, w)).to(dtype)
    kept = images.clone()
    results = augment(images, Recipe(epochs=1, cutout=side))
    assert torch.equal(images, kept)
    assert results.dtype == dtype
    gone = results == 0
    assert torch.equal(gone[:, :1].expand(-1, 3, -1, -1), gone)
    assert torch.equal(results[~gone], images[~gone])
    places = {}
    for y in range(h):
        for x in range(w):
            square = torch.zeros(h, w, dtype=torch.bool)
            top, left = y - side // 2, x - side // 2
            square[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = True
            places.setdefault(tuple(square.flatten().tolist()), 0)
            places[tuple(square.flatten().tolist())] += 1
    counts = dict.fromkeys(places, 0)
    for image in gone[:, 0]:
        counts[tuple(image.flatten().tolist())] += 1  # a KeyError here is a hole of another form
    # every centre is equally likely: 6 standard deviations of a binomial count
    for place, centres in places.items():
        p = centres / (h * w)
        assert abs(counts[place] - n * p) < 6 * (n * p * (1 - p)) ** 0.5


def test_all_changes_at_once_keep_shape_and_follow_torchs_generator():
    images = torch.randint(1, 256, (50, 3, 8, 9), dtype=torch.uint8)
    recipe = Recipe(epochs=1, shift=2, flip=True, cutout=3)
    torch.manual_seed(3)
    first, second = augment(images, recipe), augment(images, recipe)
    torch.manual_seed(3)
    assert torch.equal(augment(images, recipe), first)
    assert not torch.equal(first, second)
    assert first.shape == images.shape


def test_everything_happens_on_the_images_device():
    """The meta device computes nothing, and refuses to mix with tensors of the CPU."""
    images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    assert augment(images, Recipe(epochs=1, shift=2, flip=True, cutout=3)).device.type == "meta"
