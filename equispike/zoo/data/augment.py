"""Random changes of training images, for a whole batch at once, on the images' device."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


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
