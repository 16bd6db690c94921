"""Train a network on a training part, and choose the epoch on a validation part. Test images have no way in."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equispike.errors import DataError, EquispikeError
from equispike.zoo.data import Split, normalised
from equispike.zoo.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training part gave.

    Fields:
        number: 1, 2, ...
        loss, train_accuracy: means over the images seen, augmented and with dropout, while the weights move.
        validation_accuracy: at its end, in eval mode; None before.
        lr: learning rate at its last step.
        seconds: training and validation; images_per_second: training alone.
    """

    number: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    lr: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Progress:
    """State of a training: after every step, and at the end of each epoch (with its validation accuracy)."""

    epoch: Epoch
    epochs: int
    step: int
    steps: int
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """The weights that were best on the validation part, in eval mode, and how they came about.

    Fields:
        best: the epoch whose weights these are; the later one of equals.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    best: Epoch


def train(
    model: nn.Module,
    train: Split,
    validation: Split,
    recipe: Recipe,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a copy of `model` on its device; the model given and the caller's random state stay as they are.

    The same seed gives the same weights bit for bit, on the same device with the same number of threads.

    Args:
        seed: of order, augmentation and dropout (initial weights are the model's own).
        report: called after every step.
    Raises:
        DataError: an empty split, or other classes than the model has scores.
        EquispikeError: the model's scores are not finite, or the loss is no longer.
    """
    keep_freed_memory()
    model = copy.deepcopy(model)
    device = next(model.parameters()).device
    _check(model, train, validation, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _train(model, train, validation, recipe, report or (lambda _: None))


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse freed blocks of up to 32 MiB, for the rest of the process; elsewhere no effect.

    By default each activation of some MB is mapped from the system and given back, and its pages are zeroed anew.
    Freeing one block just below the limit raises the allocator's own threshold. The MNIST CNN then trains 1.5 to 2
    times as fast (one thread, batches of 64 and 128).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def accuracy(model: nn.Module, split: Split, batch: int = 500) -> float:
    """Share of images, between 0 and 1, whose highest score is their label's. In eval mode, on the model's device."""
    if not len(split):
        raise DataError(f"{split.name}: no images to measure an accuracy on")
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            hits = (_hits(model(images.to(device)), labels.to(device)) for images, labels in split.batches(batch))
            return sum(hits) / len(split)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _train(
    model: nn.Module, train: Split, validation: Split, recipe: Recipe, report: Callable[[Progress], None]
) -> Trained:
    # A third faster on a CPU (MNIST CNN, batch 128) than channels first.
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = _optimizer(model, recipe)
    per_epoch = math.ceil(len(train) / recipe.batch)
    steps = per_epoch * recipe.epochs
    history: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    best = Epoch(0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0)
    start = time.perf_counter()

    def tell(epoch: Epoch, step: int) -> None:
        left = (time.perf_counter() - start) / step * (steps - step)
        report(Progress(epoch, recipe.epochs, step, steps, left))

    for number in range(1, recipe.epochs + 1):
        began = (number - 1) * per_epoch
        epoch = _one_epoch(model, train, recipe, optimizer, number, lambda e, k, s=began: tell(e, s + k))
        measured = time.perf_counter()
        epoch = replace(epoch, validation_accuracy=accuracy(model, validation))
        epoch = replace(epoch, seconds=epoch.seconds + time.perf_counter() - measured)
        history.append(epoch)
        if (epoch.validation_accuracy or 0.0) >= (best.validation_accuracy or 0.0):
            best, best_weights = epoch, {name: value.clone() for name, value in model.state_dict().items()}
        tell(epoch, number * per_epoch)
    model.load_state_dict(best_weights)
    model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    return Trained(model.eval(), tuple(history), best)


def _one_epoch(
    model: nn.Module,
    train: Split,
    recipe: Recipe,
    optimizer: torch.optim.SGD,
    number: int,
    tell: Callable[[Epoch, int], None],
) -> Epoch:
    """One pass in random order. `tell` gets the epoch so far and the number of steps done in it."""
    model.train()
    device = next(model.parameters()).device
    start, total, hits, seen = time.perf_counter(), 0.0, 0, 0
    epoch = Epoch(number, 0.0, 0.0, None, 0.0, 0.0, 0.0)
    batches = torch.split(torch.randperm(len(train)), recipe.batch)
    for k, chosen in enumerate(batches, start=1):
        lr = recipe.lr * recipe.schedule(number - 1 + (k - 0.5) / len(batches), recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = normalised(augment(train.images[chosen], recipe), train.mean, train.std)
        images = images.to(device, memory_format=torch.channels_last)
        labels = train.labels[chosen].to(device)
        scores = model(images)
        loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise EquispikeError(f"training: the loss is {value} in epoch {number}, step {k}. Lower lr ({recipe.lr})")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(chosen)
        total += value * len(chosen)
        hits += _hits(scores, labels)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, total / seen, hits / seen, None, lr, seconds, seen / seconds)
        tell(epoch, k)
    return epoch


def augment(images: Tensor, recipe: Recipe) -> Tensor:
    """Move each image by up to `recipe.shift` pixels in both directions, and mirror half of them if `recipe.flip`.

    Args:
        images: (B, C, H, W), of any type.
    Returns:
        the same shape; what comes in from the border is 0.
    """
    b, _, h, w = images.shape
    if not recipe.shift and not recipe.flip:
        return images
    p = recipe.shift
    padded = F.pad(images, (p, p, p, p))
    dy, dx = torch.randint(0, 2 * p + 1, (2, b, 1), device=images.device)
    rows = dy + torch.arange(h, device=images.device)
    columns = dx + torch.arange(w, device=images.device)
    if recipe.flip:
        mirrored = torch.rand(b, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(b, device=images.device)[:, None, None]
    # Index tensors around the channel axis put it last: (B, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


def _check(model: nn.Module, train: Split, validation: Split, device: torch.device) -> None:
    for split in (train, validation):
        if not len(split):
            raise DataError(f"{split.name}: no images to train with")
    model.eval()
    with torch.inference_mode():
        scores: Tensor = model(train[:1].floats().to(device))
    if scores.shape != (1, len(train.classes)):
        shape = tuple(scores.shape)
        raise DataError(f"{train.name}: has {len(train.classes)} classes, but the model gives scores of shape {shape}")
    if not bool(scores.isfinite().all()):
        raise EquispikeError("training: the model's scores are not finite before training. Build it anew")


def _hits(scores: Tensor, labels: Tensor) -> int:
    return int((scores.argmax(1) == labels).sum())
