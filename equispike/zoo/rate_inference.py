"""The second stage of Rate Norm training (Ding 2021): weights rest, thresholds are lowered for earlier answers.

``train`` with ``nn.RateNorm`` layers is the first stage; this one takes its result.
"""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from equispike.errors import DataError, EquispikeError
from equispike.functional.rate import omega, rate_inference_loss
from equispike.nn import rate_norms
from equispike.nn.replace import readers_of
from equispike.progress import track
from equispike.zoo.data import Part
from equispike.zoo.recipes import Recipe

UNCHANGED = Recipe(epochs=1)
"""Images are shown as they are: the weights no longer learn, so there is nothing to make robust."""


@dataclass(frozen=True)
class Settings:
    """How thresholds are learnt: by Adam, its rate falling to zero along half a cosine.

    Fields:
        steps: with one batch each, in random order, over as many epochs as it takes.
        batch: images per step.
        lr: of Adam, on p'.
        start: p' at the start; p = sigmoid(p').
        shared: one p for all layers, else one for each.
        rescale: the layers that read a rate take p into their weights, so that lower thresholds clip and change nothing
            else. Without, weights rest, as in the paper, and what the next layer receives grows as p falls.
    """

    steps: int = 200
    batch: int = 128
    lr: float = 0.1
    start: float = 2.5
    shared: bool = True
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise EquispikeError(f"Settings: steps {self.steps} and batch {self.batch} must both be at least 1")
        if not (self.lr > 0 and math.isfinite(self.lr) and math.isfinite(self.start)):
            raise EquispikeError(f"Settings: lr {self.lr} must be above 0, and start {self.start} finite")


@dataclass(frozen=True)
class Point:
    """What one lambda leads to.

    Fields:
        lambda_: weight of the rate inference loss; 0 for the network as trained.
        p: by layer; 1 as trained. Thresholds are p times the layer's largest input.
        validation_accuracy: of the trained network with these thresholds, between 0 and 1.
        omega: mean over validation images and layers; K < 2 omega / t.
    """

    lambda_: float
    p: Mapping[str, float]
    validation_accuracy: float
    omega: float


@dataclass(frozen=True)
class TradeOff:
    """Accuracy against time: the network as trained, and a point for each lambda, in the order given.

    Fields:
        rescale: as in the settings.
    """

    model: nn.Module
    trained: Point
    points: tuple[Point, ...]
    rescale: bool = False

    def choose(self, tolerance: float = 0.005) -> Point:
        """The smallest Omega whose validation accuracy is at most ``tolerance`` below that of the trained network."""
        least = self.trained.validation_accuracy - tolerance - 1e-9
        within = [point for point in (self.trained, *self.points) if point.validation_accuracy >= least]
        if not within:
            raise EquispikeError(f"tolerance: {tolerance} is less than 0. Give a share of images, e.g. 0.005")
        return min(within, key=lambda point: point.omega)

    def at(self, point: Point) -> nn.Module:
        """A copy of the trained network with the point's thresholds, in eval mode; ready for ``es.convert``.

        Where weights were rescaled, the maxima are lowered and p is 1: the function is that of a network so trained.
        """
        return _lowered(self.model, point.p, self.rescale)


def lower_thresholds(
    model: nn.Module,
    train: Part,
    validation: Part,
    lambdas: Sequence[float] = (0.003, 0.01, 0.03, 0.1),
    settings: Settings = Settings(),
    seed: int = 0,
) -> TradeOff:
    r"""Learn :math:`p = \sigma(p')` in :math:`\theta_l = p_l \, r_{max,l}` for each lambda.

    .. math:: \min_{p'} \; 1 - \cos(y^*, y) + \lambda \, \frac{1}{L} \sum_l \Omega_l

    The teacher y* is the same network with p = 1. All else rests: batch norm and maxima (eval mode), and weights, but
    for ``Settings.rescale``. Nothing decays p'. On the model's device; the model and the caller's random state stay as
    they are; the same seed gives the same result.

    Args:
        model: trained with ``nn.RateNorm`` in place of every ReLU.
        train: images to learn on, without labels. validation: labelled images for the points, not for learning.
        lambdas: larger ones give lower thresholds.
        seed: of the order of the images, the same in each run.
    Raises:
        EquispikeError: the model has no Rate Norm layer, or a ReLU beside them; a lambda is negative or not finite;
            the loss is not finite; weights are to be rescaled, and a rate reaches an operation without any.
        DataError: an empty split.
    """
    _check(model, train, validation, lambdas)
    paths = [path for path, _ in rate_norms(model)]
    teacher = _with_p(model, dict.fromkeys(paths, 1.0)).requires_grad_(False)
    teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    device = next(teacher.parameters()).device
    readers = _readers(teacher) if settings.rescale else {}
    order = _order(len(train), settings, seed)
    points: list[Point] = []
    for lambda_ in track(lambdas, "lambdas", len(lambdas)):
        raw = torch.full((1 if settings.shared else len(paths),), settings.start, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=settings.lr)
        batches = track(train.shuffled(order, UNCHANGED, device), f"lambda {lambda_:g}", len(order))
        for step, (images, _) in enumerate(batches, start=1):
            optimizer.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * (step - 0.5) / len(order)))
            images = images.to(memory_format=torch.channels_last)
            p = dict(zip(paths, raw.sigmoid().expand(len(paths)), strict=True))
            loss = _loss(teacher, images, p, readers, lambda_)
            value = loss.item()
            if not math.isfinite(value):
                raise EquispikeError(f"lambda {lambda_:g}: the loss is {value} in step {step}. Train the model again")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learnt = dict(zip(paths, map(float, raw.detach().sigmoid().expand(len(paths))), strict=True))
        lowered = _lowered(teacher, learnt, settings.rescale)
        points.append(_point(lowered, validation, lambda_, learnt, settings.batch))
    trained = _point(teacher, validation, 0.0, dict.fromkeys(paths, 1.0), settings.batch)
    return TradeOff(_with_p(model, dict.fromkeys(paths, 1.0)), trained, tuple(points), settings.rescale)


def scores_and_rates(
    model: nn.Module, images: Tensor, values: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """One pass: scores (B, classes), and the rates of each Rate Norm layer in the order in which they run.

    Args:
        values: parameters and buffers by path, in place of the model's own.
    """
    rates: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, rate: Tensor) -> None:
        rates.append(rate)

    hooks = [layer.register_forward_hook(keep) for _, layer in rate_norms(model)]
    try:
        scores: Tensor = functional_call(model, dict(values or {}), (images,))
    finally:
        for hook in hooks:
            hook.remove()
    return scores, rates


def _loss(
    teacher: nn.Module, images: Tensor, p: Mapping[str, Tensor], readers: Mapping[str, str], lambda_: float
) -> Tensor:
    with torch.no_grad():
        expected: Tensor = teacher(images)
    values = {f"{path}.p": value for path, value in p.items()}
    values |= {weight: teacher.get_parameter(weight) * p[path] for weight, path in readers.items()}
    scores, rates = scores_and_rates(teacher, images, values)
    return rate_inference_loss(expected, scores, rates, lambda_)


def _point(model: nn.Module, validation: Part, lambda_: float, p: Mapping[str, float], batch: int) -> Point:
    device = next(model.parameters()).device
    hits, total = 0, 0.0
    with torch.no_grad():
        for images, labels in validation.batches(batch):
            scores, rates = scores_and_rates(model, images.to(device))
            hits += int((scores.argmax(1).cpu() == labels).sum())
            total += sum(float(omega(rate).double().sum()) for rate in rates) / len(rates)
    return Point(lambda_, p, hits / len(validation), total / len(validation))


def _with_p(model: nn.Module, p: Mapping[str, float]) -> nn.Module:
    model = copy.deepcopy(model).eval()
    for path, layer in rate_norms(model):
        layer.p.fill_(p[path])
    return model


def _lowered(model: nn.Module, p: Mapping[str, float], rescale: bool) -> nn.Module:
    """A copy with thresholds times p; rescaled, p goes into the maxima and into the weights that read the rates."""
    if not rescale:
        return _with_p(model, p)
    model = copy.deepcopy(model).eval()
    for path, layer in rate_norms(model):
        layer.running_max *= p[path]
    for weight, path in _readers(model).items():
        model.get_parameter(weight).data *= p[path]
    return model


def _readers(model: nn.Module) -> dict[str, str]:
    """The weights that read rates, and the Rate Norm layer of these, by path."""
    paths = {module: path for path, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())}
    found = readers_of(model)
    return {f"{paths[reader]}.weight": path for path, layer in rate_norms(model) for reader in found[layer]}


def _order(images: int, settings: Settings, seed: int) -> list[Tensor]:
    """Numbers of the images of each step: one random order of all images after another."""
    generator = torch.Generator().manual_seed(seed)
    needed = settings.steps * settings.batch
    orders = [torch.randperm(images, generator=generator) for _ in range(math.ceil(needed / images))]
    return list(torch.split(torch.cat(orders)[:needed], settings.batch))


def _check(model: nn.Module, train: Part, validation: Part, lambdas: Sequence[float]) -> None:
    if not rate_norms(model):
        raise EquispikeError(
            f"{type(model).__name__}: has no equispike.nn.RateNorm layer. Make it with nn.with_rate_norm, and train it"
        )
    for path, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        if isinstance(module, nn.ReLU):
            raise EquispikeError(f"{path} (ReLU): has no threshold to lower. Train with nn.RateNorm in place of it")
    if not lambdas or not all(value >= 0 and math.isfinite(value) for value in lambdas):
        raise EquispikeError(f"lambdas: {tuple(lambdas)}: give one or more numbers from 0 on")
    for images in (train, validation):
        if not len(images):
            raise DataError(f"{images.name}: no images to learn thresholds with")
