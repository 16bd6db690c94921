"""Train a network on a training part, and choose the epoch on a validation part. Test images have no way in."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equispike.errors import DataError, EquispikeError, FileError, one_line
from equispike.functional.inputs import all_finite
from equispike.functional.rate import rate_inference
from equispike.nn.replace import in_eval_mode, restart_maxima
from equispike.zoo.data import Dataset, Part
from equispike.zoo.parallel import from_first, rank, share_buffers, total, world, wrapped
from equispike.zoo.rate_inference import learning_p, learnt_p, rates_of
from equispike.zoo.recipes import Recipe
from equispike.zoo.standardise import standardised, with_plain_weights
from equispike.zoo.training_state import Epoch, TrainingState
from equispike.zoo.unbias import first_without, shrink, shrinking, without_biases


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


@dataclass(frozen=True)
class Acceleration:
    """The kind of arithmetic: what may change a result in its last digits, and its speed.

    Fields:
        bfloat16: forward and backward pass in mixed precision (autocast); weights and their updates stay float32.
        compile: let ``torch.compile`` fuse the model; needs a C++ compiler.
    """

    bfloat16: bool = False
    compile: bool = False


def train(
    model: nn.Module,
    train: Part,
    validation: Part,
    recipe: Recipe,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    machine: Acceleration = Acceleration(),
) -> Trained:
    """Train a copy of `model` on its device; the model given and the caller's random state stay as they are.

    The same seed gives the same weights bit for bit, on the same device with the same number of threads and processes,
    whether the training was interrupted or not. Started by torchrun, all processes share each batch; a last batch with
    fewer images than there are processes is left out.

    Args:
        seed: of order, augmentation and dropout (initial weights are the model's own).
        report: called after every step.
        checkpoint: file that holds the whole state, replaced after every epoch; beside it, with the suffix
            ``.jsonl``, one line of JSON per epoch.
        resume: continue from the checkpoint if there is one.
    Raises:
        DataError: an empty split, images or classes that do not fit the model, or fewer in a batch than processes.
        FileError: there is a checkpoint and `resume` is not set, or it is of another training.
        EquispikeError: the model's scores are not finite, or the loss is no longer; no compiler to compile with.
    """
    keep_freed_memory()
    moving = _prepared(model, recipe)
    device = next(model.parameters()).device
    _check(moving, train, validation, recipe, device)
    # A third faster on a CPU (MNIST CNN, batch 128) than channels first.
    moving.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    data = f"{train.name} ({len(train):,}), {validation.name} ({len(validation):,})"
    state = TrainingState(moving, recipe, {"recipe": repr(recipe), "data": data, "seed": seed})
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if checkpoint is not None and checkpoint.exists():
            if not resume:
                raise FileError(f"{checkpoint}: holds a training that was begun. Resume it, or remove it")
            state.restore(checkpoint)
        _train(state, recipe, seed, train, validation, machine, report or (lambda _: None), checkpoint)
    # not the model that moved, which synchronised batch norm and memory formats have changed
    trained = _parametrised(model, recipe)
    trained.load_state_dict(state.best_weights)
    trained = with_plain_weights(trained) if recipe.standardise else trained
    trained = learnt_p(trained) if recipe.rate_inference else trained
    trained = without_biases(trained) if recipe.unbias else trained
    assert state.best is not None
    return Trained(trained.eval(), tuple(state.history), state.best)


def card(trained: Trained, data: Dataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Facts for ``save_model`` about a network that was trained so. The test images are read here, once."""
    return {
        "data": data.name,
        "normalised": recipe.normalise,
        "training_images": len(data.train),
        "recipe": repr(recipe),
        "augmentation": {"shift": recipe.shift, "flip": recipe.flip, "cutout": recipe.cutout},
        "seed": seed,
        "best": asdict(trained.best),
        "test_accuracy": accuracy_of(trained.model, data.test),
        "test_images": len(data.test),
    }


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse freed blocks of up to 32 MiB, for the rest of the process; elsewhere no effect.

    By default each activation of some MB is mapped from the system and given back, and its pages are zeroed anew.
    Freeing one block just below the limit raises the allocator's own threshold. The MNIST CNN then trains 1.5 to 2
    times as fast (one thread, batches of 64 and 128).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def accuracy_of(model: nn.Module, images: Part, batch: int = 500) -> float:
    """Share of images, between 0 and 1, whose highest score is their label's. In eval mode, on the model's device."""
    if not len(images):
        raise DataError(f"{images.name}: no images to measure an accuracy on")
    device = next(model.parameters()).device
    with in_eval_mode(model), torch.inference_mode():
        mine = images[torch.arange(rank(), len(images), world())] if world() > 1 else images
        hits = sum(_hits(model(x.to(device)), labels.to(device)) for x, labels in mine.batches(batch))
        return total([hits], device)[0] / len(images)


def _prepared(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of the model, to be trained as the recipe says."""
    copied = _parametrised(model, recipe)
    for layer in copied.modules():
        if isinstance(layer, nn.Dropout) and recipe.dropout is not None:
            layer.p = recipe.dropout
    return copied


def _parametrised(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of the model that learns what the recipe says, by the names that a state has."""
    copied = standardised(model) if recipe.standardise else copy.deepcopy(model)
    copied = shrinking(copied) if recipe.unbias else copied
    return learning_p(copied) if recipe.rate_inference else copied


def _train(
    state: TrainingState,
    recipe: Recipe,
    seed: int,
    train: Part,
    validation: Part,
    machine: Acceleration,
    report: Callable[[Progress], None],
    checkpoint: Path | None,
) -> None:
    forward = wrapped(state.model)
    if machine.compile:
        if recipe.rate_inference:
            raise EquispikeError("rate_inference: rates are read on the way, which torch.compile does not see")
        _require_compiler()
        forward = torch.compile(forward)
    per_epoch = _steps(len(train), recipe)
    steps, before = per_epoch * recipe.epochs, per_epoch * len(state.history)
    start = time.perf_counter()

    def tell(epoch: Epoch, step: int) -> None:
        left = (time.perf_counter() - start) / (step - before) * (steps - step)
        report(Progress(epoch, recipe.epochs, step, steps, left))

    for number in range(len(state.history) + 1, recipe.epochs + 1):
        if rank():  # the first process draws on, as if it were alone; the state of the others is kept nowhere
            torch.manual_seed(seed + 1_000_003 * (number * world() + rank()))
        began = (number - 1) * per_epoch
        epoch = _one_epoch(state, recipe, forward, train, machine, number, lambda e, k, s=began: tell(e, s + k))
        share_buffers(state.model)
        measured = time.perf_counter()
        epoch = replace(epoch, validation_accuracy=accuracy_of(state.model, validation))
        epoch = replace(epoch, seconds=epoch.seconds + time.perf_counter() - measured)
        state.add(epoch, first_without(recipe.unbias))
        if checkpoint is not None and not rank():
            state.save(checkpoint)
        tell(epoch, number * per_epoch)


def _one_epoch(
    state: TrainingState,
    recipe: Recipe,
    forward: Callable[[Tensor], Tensor],
    train: Part,
    machine: Acceleration,
    number: int,
    tell: Callable[[Epoch, int], None],
) -> Epoch:
    """One pass in random order. `tell` gets the epoch so far and the number of steps done in it."""
    state.model.train()
    restart_maxima(state.model)
    device, optimizer = state.device, state.optimizer
    start, loss_sum, hits, seen = time.perf_counter(), 0.0, 0, 0
    epoch = Epoch(number, 0.0, 0.0, None, 0.0, 0.0, 0.0)
    batches = torch.split(from_first(torch.randperm(len(train))), recipe.batch)[: _steps(len(train), recipe)]
    mine = [batch[rank() :: world()] for batch in batches]
    for k, (images, labels) in enumerate(train.shuffled(mine, recipe, device), start=1):
        lr = recipe.lr * recipe.schedule(number - 1 + (k - 0.5) / len(batches), recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if recipe.unbias:
            shrink(state.model, (number - 1) * len(batches) + k, recipe.unbias * len(batches))
        if (side := recipe.pixels(number)) is not None:
            images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=machine.bfloat16):
            scores, loss = _scores_and_loss(state.model, forward, images, labels, recipe)
        value = loss.item()
        if not math.isfinite(value):
            raise EquispikeError(f"training: the loss is {value} in epoch {number}, step {k}. Lower lr ({recipe.lr})")
        optimizer.zero_grad()
        # the mean over processes of the gradients becomes the mean over images, however these are shared
        (loss * (world() * len(labels) / len(batches[k - 1]))).backward() if world() > 1 else loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
        optimizer.step()
        seen += len(labels)
        loss_sum += value * len(labels)
        hits += _hits(scores, labels)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, loss_sum / seen, hits / seen, None, lr, seconds, seen * world() / seconds)
        tell(epoch, k)
    loss_sum, hits, seen = total([loss_sum, hits, seen], device)
    return replace(epoch, loss=loss_sum / seen, train_accuracy=hits / seen)


def _scores_and_loss(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and what early answers count beside it (Ding et al., 2021, eq. 11)."""
    if not recipe.rate_inference:
        scores = forward(images)
        return scores, F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    with rates_of(model) as rates:
        scores = forward(images)
    loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    return scores, loss + recipe.rate_inference * rate_inference(rates)


def _steps(images: int, recipe: Recipe) -> int:
    """Batches in one pass that have an image for every process."""
    return math.ceil((images - world() + 1) / recipe.batch)


def _require_compiler() -> None:
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl")):
        raise EquispikeError("torch.compile: there is no C++ compiler (g++, clang++). Install one or do not compile")


def _check(model: nn.Module, train: Part, validation: Part, recipe: Recipe, device: torch.device) -> None:
    if recipe.unbias > recipe.epochs:
        raise EquispikeError(f"unbias: biases shrink for {recipe.unbias:g} epochs, and there are {recipe.epochs}")
    for images in (train, validation):
        if not len(images):
            raise DataError(f"{images.name}: no images to train with")
    if (fewest := min(len(train), recipe.batch)) < world():
        raise DataError(f"{train.name}: batches of {fewest} for {world()} processes. Start fewer processes")
    model.eval()
    example = next(iter(train[torch.tensor([0])].batches(1)))[0]
    try:
        with torch.inference_mode():
            scores: Tensor = model(example.to(device))
    except RuntimeError as error:
        shape, reason = tuple(example.shape[1:]), one_line(error, 200)
        raise DataError(f"{train.name}: images of shape {shape} do not fit the model: {reason}") from error
    if scores.shape != (1, len(train.classes)):
        shape = tuple(scores.shape)
        raise DataError(f"{train.name}: has {len(train.classes)} classes, but the model gives scores of shape {shape}")
    if not all_finite(scores):
        raise EquispikeError("training: the model's scores are not finite before training. Build it anew")


def _hits(scores: Tensor, labels: Tensor) -> int:
    return int((scores.argmax(1) == labels).sum())
