"""Train a network on a training part, and choose the epoch on a validation part. Test images have no way in."""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equispike.errors import DataError, EquispikeError, FileError
from equispike.export.checkpoint import read, write, write_bytes
from equispike.nn import restart_maxima
from equispike.zoo.augment import Augmentation
from equispike.zoo.parallel import from_first, rank, total, world, wrapped
from equispike.zoo.recipes import Recipe
from equispike.zoo.standardise import plain, standardised


class Images(Protocol):
    """Labelled images to train or validate with, in memory (``data.Split``) or in a folder (``folder.Pictures``)."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Tensor, /) -> "Images": ...

    def batches(self, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Float images (B, C, H, W) and labels (B,), in order, as they are evaluated."""
        ...

    def shuffled(
        self, batches: Sequence[Tensor], how: Augmentation, device: torch.device
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """For each tensor of image numbers a batch on the device, randomly changed."""
        ...


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


@dataclass(frozen=True)
class Machine:
    """How the arithmetic is done: what may change a result in its last digits, and its speed.

    Fields:
        bfloat16: forward and backward pass in mixed precision (autocast); weights and their updates stay float32.
        compile: let ``torch.compile`` fuse the model; needs a C++ compiler.
    """

    bfloat16: bool = False
    compile: bool = False


def train(
    model: nn.Module,
    train: Images,
    validation: Images,
    recipe: Recipe,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    machine: Machine = Machine(),
) -> Trained:
    """Train a copy of `model` on its device; the model given and the caller's random state stay as they are.

    The same seed gives the same weights bit for bit, on the same device with the same number of threads, whether the
    training was interrupted or not. Started by torchrun, all processes share each batch.

    Args:
        seed: of order, augmentation and dropout (initial weights are the model's own).
        report: called after every step.
        checkpoint: file that holds the whole state, replaced after every epoch; beside it, with the suffix
            ``.jsonl``, one line of JSON per epoch.
        resume: continue from the checkpoint if there is one.
    Raises:
        DataError: an empty split, or other classes than the model has scores.
        FileError: there is a checkpoint and `resume` is not set, or it is of another training.
        EquispikeError: the model's scores are not finite, or the loss is no longer.
    """
    keep_freed_memory()
    original, model = model, standardised(model) if recipe.standardise else copy.deepcopy(model)
    if recipe.dropout is not None:
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = recipe.dropout
    device = next(model.parameters()).device
    _check(model, train, validation, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(model, recipe, f"{train.name} ({len(train):,}), {validation.name} ({len(validation):,})", seed)
        if checkpoint is not None and checkpoint.exists():
            if not resume:
                raise FileError(f"{checkpoint}: holds a training that was begun. Resume it, or remove it")
            run.restore(checkpoint)
        elif rank():
            torch.manual_seed(seed + rank())
        _train(run, train, validation, machine, report or (lambda _: None), checkpoint)
    # not the model itself, which synchronised batch norm and memory formats have changed
    trained = standardised(original) if recipe.standardise else copy.deepcopy(original)
    trained.load_state_dict(run.best_weights)
    trained = plain(trained) if recipe.standardise else trained
    assert run.best is not None
    return Trained(trained.eval(), tuple(run.history), run.best)


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse freed blocks of up to 32 MiB, for the rest of the process; elsewhere no effect.

    By default each activation of some MB is mapped from the system and given back, and its pages are zeroed anew.
    Freeing one block just below the limit raises the allocator's own threshold. The MNIST CNN then trains 1.5 to 2
    times as fast (one thread, batches of 64 and 128).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def accuracy(model: nn.Module, images: Images, batch: int = 500) -> float:
    """Share of images, between 0 and 1, whose highest score is their label's. In eval mode, on the model's device."""
    if not len(images):
        raise DataError(f"{images.name}: no images to measure an accuracy on")
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            mine = images[torch.arange(rank(), len(images), world())] if world() > 1 else images
            hits = sum(_hits(model(x.to(device)), labels.to(device)) for x, labels in mine.batches(batch))
            return total([hits], device)[0] / len(images)
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Run:
    """A training between two epochs: all that has to survive an interruption."""

    def __init__(self, model: nn.Module, recipe: Recipe, data: str, seed: int) -> None:
        # A third faster on a CPU (MNIST CNN, batch 128) than channels first.
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.model, self.recipe, self.optimizer = model, recipe, _optimizer(model, recipe)
        self.identity = {"recipe": repr(recipe), "data": data, "seed": seed}
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_weights: dict[str, Tensor] = {}

    def add(self, epoch: Epoch) -> None:
        """Enter a finished epoch, and keep its weights if none were better."""
        self.history.append(epoch)
        if self.best is None or (epoch.validation_accuracy or 0.0) >= (self.best.validation_accuracy or 0.0):
            self.best = epoch
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        assert self.best is not None
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"momentum.{i}": value for i, value in enumerate(self._momenta())}
        tensors["random.cpu"] = torch.get_rng_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        description = {**self.identity, "history": [asdict(e) for e in self.history], "best": self.best.number}
        lines = "".join(json.dumps(asdict(epoch)) + "\n" for epoch in self.history)
        write(path, "equispike.training", description, tensors)
        write_bytes(path.with_suffix(".jsonl"), lines.encode())

    def restore(self, path: Path) -> None:
        description, tensors = read(path, "equispike.training")
        for what, value in self.identity.items():
            if description.get(what) != value:
                raise FileError(
                    f"{path}: is of a training with another {what}: {description.get(what)}, not {value}. "
                    "Resume with the same settings, or remove the file"
                )
        try:
            self.model.load_state_dict(_part(tensors, "model."))
            self.best_weights = _part(tensors, "best.")
            self.history = [Epoch(**epoch) for epoch in description["history"]]
            self.best = self.history[description["best"] - 1]
            device = next(self.model.parameters()).device
            momenta = _part(tensors, "momentum.")
            for i, parameter in enumerate(self._parameters()):
                # in the parameter's own memory format, as if it had never been away
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momenta[str(i)])
            if rank():  # the state is the first process's
                torch.manual_seed(description["seed"] + rank() + world() * len(self.history))
                return
            torch.set_rng_state(tensors["random.cpu"])
            if device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], device)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FileError(f"{path}: is not of a training of this model: {reason}. Remove it") from error

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _momenta(self) -> Iterator[Tensor]:
        for parameter in self._parameters():
            buffer: Tensor | None = self.optimizer.state[parameter].get("momentum_buffer")
            yield torch.zeros_like(parameter) if buffer is None else buffer


def _train(
    run: _Run,
    train: Images,
    validation: Images,
    machine: Machine,
    report: Callable[[Progress], None],
    checkpoint: Path | None,
) -> None:
    forward = wrapped(run.model)
    if machine.compile:
        forward = torch.compile(forward)
    recipe = run.recipe
    per_epoch = math.ceil(len(train) / recipe.batch)
    steps, before = per_epoch * recipe.epochs, per_epoch * len(run.history)
    start = time.perf_counter()

    def tell(epoch: Epoch, step: int) -> None:
        left = (time.perf_counter() - start) / (step - before) * (steps - step)
        report(Progress(epoch, recipe.epochs, step, steps, left))

    for number in range(len(run.history) + 1, recipe.epochs + 1):
        began = (number - 1) * per_epoch
        epoch = _one_epoch(run, forward, train, machine, number, lambda e, k, s=began: tell(e, s + k))
        measured = time.perf_counter()
        epoch = replace(epoch, validation_accuracy=accuracy(run.model, validation))
        epoch = replace(epoch, seconds=epoch.seconds + time.perf_counter() - measured)
        run.add(epoch)
        if checkpoint is not None and not rank():
            run.save(checkpoint)
        tell(epoch, number * per_epoch)


def _one_epoch(
    run: _Run,
    forward: Callable[[Tensor], Tensor],
    train: Images,
    machine: Machine,
    number: int,
    tell: Callable[[Epoch, int], None],
) -> Epoch:
    """One pass in random order. `tell` gets the epoch so far and the number of steps done in it."""
    model, recipe, optimizer = run.model, run.recipe, run.optimizer
    model.train()
    restart_maxima(model)
    device = next(model.parameters()).device
    start, loss_sum, hits, seen = time.perf_counter(), 0.0, 0, 0
    epoch = Epoch(number, 0.0, 0.0, None, 0.0, 0.0, 0.0)
    batches = torch.split(from_first(torch.randperm(len(train))), recipe.batch)
    mine = [batch[rank() :: world()] for batch in batches]
    for k, (images, labels) in enumerate(train.shuffled(mine, recipe, device), start=1):
        lr = recipe.lr * recipe.schedule(number - 1 + (k - 0.5) / len(batches), recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=machine.bfloat16):
            scores = forward(images)
            loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise EquispikeError(f"training: the loss is {value} in epoch {number}, step {k}. Lower lr ({recipe.lr})")
        optimizer.zero_grad()
        # processes have equal say in the mean gradient, whatever their share of a last, smaller batch
        (loss * (world() * len(labels) / len(batches[k - 1]))).backward() if world() > 1 else loss.backward()
        optimizer.step()
        seen += len(labels)
        loss_sum += value * len(labels)
        hits += _hits(scores, labels)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, loss_sum / seen, hits / seen, None, lr, seconds, seen * world() / seconds)
        tell(epoch, k)
    loss_sum, hits, seen = total([loss_sum, hits, seen], device)
    return replace(epoch, loss=loss_sum / seen, train_accuracy=hits / seen)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [g for g in groups if g["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def _check(model: nn.Module, train: Images, validation: Images, device: torch.device) -> None:
    for images in (train, validation):
        if not len(images):
            raise DataError(f"{images.name}: no images to train with")
    model.eval()
    with torch.inference_mode():
        example = next(iter(train[torch.tensor([0])].batches(1)))[0]
        scores: Tensor = model(example.to(device))
    if scores.shape != (1, len(train.classes)):
        shape = tuple(scores.shape)
        raise DataError(f"{train.name}: has {len(train.classes)} classes, but the model gives scores of shape {shape}")
    if not bool(scores.isfinite().all()):
        raise EquispikeError("training: the model's scores are not finite before training. Build it anew")


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _hits(scores: Tensor, labels: Tensor) -> int:
    return int((scores.argmax(1) == labels).sum())
