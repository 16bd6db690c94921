"""Thresholds that are lowered for earlier answers, by the rate inference loss (Ding 2021).

``train`` with ``nn.RateNorm`` layers is the first stage; :func:`lower_thresholds`, the second, takes its result, and
weights rest. Both at once is ``train`` with ``Recipe.rate_inference``, by :func:`learning_p`.
"""
# pyright: reportUnknownMemberType=false
# (some of torch's own signatures lack types)

import copy
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils import parametrize

from equispike.errors import DataError, EquispikeError
from equispike.functional.rate import expected_maximum, omega, rate_inference_loss
from equispike.nn import RateNorm, rate_norms
from equispike.progress import track
from equispike.zoo.data import Part
from equispike.zoo.recipes import Recipe

UNCHANGED = Recipe(epochs=1)
"""Images are shown as they are."""
MOST_RAW = 4.0
"""Where p' starts where weights learn as well: sigmoid(4) = 0.98."""


@dataclass(frozen=True)
class Settings:
    """Settings by which thresholds are learnt: by Adam, its rate falling to zero along half a cosine.

    Fields:
        steps: with one batch each, in random order, over as many epochs as it takes.
        batch: images per step.
        lr: of Adam, on p'.
        start: p' at the start; p = sigmoid(p').
        shared: one p for all layers, as in the paper, else one for each.
        maxima_move: the layers' running maxima follow the batches, as in algorithm 1 (lines 22 and 27); else they stay
            what they were as trained.
        batch_norm_moves: batch norm normalises by the batch, as in the authors' code, and takes out what lowered
            thresholds add to the rates; else it rests, and biases lose their weight layer after layer.
        measured: training images on which, once p is learnt, all that moved is measured.
        recipe: with which the network was trained, see :func:`recipe_of`; images are moved, mirrored and cut as there.
            The maxima and batch norm's statistics are of such images.
    """

    steps: int = 200
    batch: int = 128
    lr: float = 0.1
    start: float = 2.5
    shared: bool = True
    maxima_move: bool = True
    batch_norm_moves: bool = True
    measured: int = 512
    recipe: Recipe = UNCHANGED

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "measured"):
            if getattr(self, name) < 1:
                raise EquispikeError(f"Settings: {name} {getattr(self, name)} must be at least 1")
        if not (self.lr > 0 and math.isfinite(self.lr) and math.isfinite(self.start)):
            raise EquispikeError(f"Settings: lr {self.lr} must be above 0, and start {self.start} finite")


@dataclass(frozen=True)
class LearntPoint:
    """Where one lambda leads.

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
        images: of the training part, (N, *features), on which all is measured that moves with p
            (:func:`images_to_measure`).
        settings: with which p was learnt.
    """

    model: nn.Module
    trained: LearntPoint
    points: tuple[LearntPoint, ...]
    images: Tensor
    settings: Settings = Settings()

    def choose(self, tolerance: float = 0.005) -> LearntPoint:
        """The smallest Omega whose validation accuracy is at most ``tolerance`` below that of the trained network."""
        least = self.trained.validation_accuracy - tolerance - 1e-9
        within = [point for point in (self.trained, *self.points) if point.validation_accuracy >= least]
        if not within:
            raise EquispikeError(f"tolerance: {tolerance} is less than 0. Give a share of images, e.g. 0.005")
        return min(within, key=lambda point: point.omega)

    def at(self, point: LearntPoint) -> nn.Module:
        """A copy of the trained network with the point's thresholds, in eval mode; ready for ``es.convert``."""
        return with_p(self.model, point.p, self.images, self.settings)


def lower_thresholds(
    model: nn.Module,
    train: Part,
    validation: Part,
    lambdas: Sequence[float] = (0.03, 0.1, 0.5),
    settings: Settings = Settings(),
    seed: int = 0,
    bfloat16: bool = False,
) -> TradeOff:
    r"""Learn :math:`p = \sigma(p')` in :math:`\theta_l = p_l \, r_{max,l}` for each lambda (algorithm 1, stage 2).

    .. math:: \min_{p'} \; 1 - \cos(y^*, y) + \lambda \, \frac{1}{L} \sum_l \Omega_l

    The teacher y* is the network as trained, with p = 1. In the network that learns, weights rest, and maxima and batch
    norm move or rest as the settings say. Nothing decays p'. What a point is worth is measured afterwards, by
    :func:`with_p`. On the model's device; the model and the caller's random state stay as they are; the same seed gives
    the same result.

    Args:
        model: trained with ``nn.RateNorm`` in place of every ReLU.
        train: images to learn on, without labels. validation: labelled images for the points, not for learning.
        lambdas: larger ones give lower thresholds; the paper has 0.5.
        seed: of the order of the images and of their changes.
        bfloat16: learn in mixed precision (autocast); what is measured afterwards is not.
    Raises:
        EquispikeError: the model has no Rate Norm layer, or a ReLU beside them; a lambda is negative or not finite;
            the loss is not finite.
        DataError: an empty split.
    """
    _check(model, train, validation, lambdas)
    paths = [path for path, _ in rate_norms(model)]
    as_trained = dict.fromkeys(paths, 1.0)
    device = next(model.parameters()).device
    images = images_to_measure(train, settings, device)
    teacher = with_p(model, as_trained, images, settings).requires_grad_(False)
    teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    points: list[LearntPoint] = []
    for lambda_ in track(lambdas, "lambdas", len(lambdas)):
        learnt = _learn(teacher, train, lambda_, settings, seed, bfloat16)
        points.append(_point(with_p(teacher, learnt, images, settings), validation, lambda_, learnt, settings.batch))
    trained = _point(teacher, validation, 0.0, as_trained, settings.batch)
    return TradeOff(with_p(model, as_trained, images, settings), trained, tuple(points), images, settings)


def with_p(model: nn.Module, p: Mapping[str, float], images: Tensor, settings: Settings = Settings()) -> nn.Module:
    r"""A copy of the trained network with thresholds :math:`\theta_l = p_l \, r_{max,l}`, in eval mode.

    What the settings let move is measured on all images at once, layer after layer behind layers that have their new
    thresholds already, so neither order nor batches matter: the statistics of batch norm, and of the maxima what a
    batch of ``settings.batch`` images has on average (:func:`~equispike.functional.rate.expected_maximum`), which is
    what a running maximum is an estimate of. With all p = 1 nothing is measured: that is the network as trained.
    """
    model = copy.deepcopy(model).eval()
    for path, layer in rate_norms(model):
        layer.p.fill_(p[path])
    if all(value == 1 for value in p.values()):
        return model

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = expected_maximum(inputs[0].flatten(1).amax(1), settings.batch)
        cast("RateNorm", layer).running_max.copy_(largest.clamp(min=0))

    hooks = [layer.register_forward_pre_hook(measure) for _, layer in rate_norms(model) if settings.maxima_move]
    norms = [layer for layer in _batch_norms(model) if settings.batch_norm_moves]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the mean of all batches, of which there is one
    if hooks or norms:
        with torch.no_grad():
            model(images)
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def recipe_of(card: Mapping[str, Any]) -> Recipe:
    """A recipe that changes images as the training did of which that card tells; UNCHANGED where it tells nothing."""
    return replace(UNCHANGED, **card.get("augmentation", {}))


def images_to_measure(train: Part, settings: Settings, device: torch.device | None = None) -> Tensor:
    """Training images on which is measured what moves with p, (N, *features); changed as in training, always alike."""
    size = min(settings.measured, len(train))
    device = device or torch.device("cpu")
    with _draws(0, device):
        images, _ = next(iter(train.shuffled(_order(len(train), 1, size, 0), settings.recipe, device)))
    return images


def scores_and_rates(
    model: nn.Module, images: Tensor, values: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """One pass: scores (B, classes), and the rates of each Rate Norm layer in the order in which they run.

    Args:
        values: parameters and buffers by path, in place of the model's own.
    """
    with rates_of(model) as rates:
        scores: Tensor = functional_call(model, dict(values or {}), (images,))
    return scores, rates


@contextmanager
def rates_of(model: nn.Module) -> Generator[list[Tensor]]:
    """The list to which each Rate Norm layer adds its rates while the context lasts."""
    rates: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, rate: Tensor) -> None:
        rates.append(rate)

    hooks = [layer.register_forward_hook(keep) for _, layer in rate_norms(model)]
    try:
        yield rates
    finally:
        for hook in hooks:
            hook.remove()


class Squashed(nn.Module):
    """p as sigmoid(p'), which stays between 0 and 1 wherever p' goes."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def right_inverse(self, p: Tensor) -> Tensor:
        """p' of a p, at most MOST_RAW, from where it still has a gradient."""
        return p.logit().clamp(max=MOST_RAW)


def learning_p(model: nn.Module) -> nn.Module:
    """A copy whose Rate Norm layers share one p = sigmoid(p'), a parameter; it starts at the first layer's.

    Raises:
        EquispikeError: the model has no Rate Norm layer, or a ReLU beside them.
    """
    _check_layers(model)
    model = copy.deepcopy(model)
    layers = [layer for _, layer in rate_norms(model)]
    shared = nn.Parameter(Squashed().right_inverse(layers[0].p))
    for layer in layers:
        del layer.p
        layer.p = nn.Parameter(shared.detach().sigmoid())
        parametrize.register_parametrization(layer, "p", Squashed())
        cast("Any", layer).parametrizations.p.original = shared
    return model


def learnt_p(model: nn.Module) -> nn.Module:
    """A copy of such a model with ordinary Rate Norm layers, whose p is what was learnt."""
    model = copy.deepcopy(model)
    for _, layer in rate_norms(model):
        p = layer.p.detach().clone()
        # not remove_parametrizations, which alters the class, and the model given is of that class too
        layer.__class__ = cast("type[RateNorm]", parametrize.type_before_parametrizations(layer))
        del layer.parametrizations
        layer.register_buffer("p", p)
    return model


def _learn(
    teacher: nn.Module, train: Part, lambda_: float, settings: Settings, seed: int, bfloat16: bool
) -> dict[str, float]:
    """p of each layer, learnt with one lambda."""
    paths = [path for path, _ in rate_norms(teacher)]
    device = next(teacher.parameters()).device
    student = _student(teacher, settings)
    raw = torch.full((1 if settings.shared else len(paths),), settings.start, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=settings.lr)
    order = _order(len(train), settings.steps, settings.batch, seed)
    with _draws(seed, device):
        batches = track(train.shuffled(order, settings.recipe, device), f"lambda {lambda_:g}", len(order))
        for step, (batch, _) in enumerate(batches, start=1):
            optimizer.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * (step - 0.5) / len(order)))
            p = {f"{path}.p": value for path, value in zip(paths, raw.sigmoid().expand(len(paths)), strict=True)}
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                loss = _loss(teacher, student, batch.to(memory_format=torch.channels_last), p, lambda_)
            value = loss.item()
            if not math.isfinite(value):
                raise EquispikeError(f"lambda {lambda_:g}: the loss is {value} in step {step}. Train the model again")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return dict(zip(paths, map(float, raw.detach().sigmoid().expand(len(paths))), strict=True))


def _student(teacher: nn.Module, settings: Settings) -> nn.Module:
    """A copy in which maxima and batch norm move as the settings say, and all else rests."""
    student = copy.deepcopy(teacher).eval()
    for _, layer in rate_norms(student):
        layer.train(settings.maxima_move)
    for norm in _batch_norms(student):
        norm.train(settings.batch_norm_moves)
    return student


def _loss(teacher: nn.Module, student: nn.Module, images: Tensor, p: Mapping[str, Tensor], lambda_: float) -> Tensor:
    with torch.no_grad():
        expected: Tensor = teacher(images)
    scores, rates = scores_and_rates(student, images, p)
    return rate_inference_loss(expected, scores, rates, lambda_)


def _point(model: nn.Module, validation: Part, lambda_: float, p: Mapping[str, float], batch: int) -> LearntPoint:
    device = next(model.parameters()).device
    hits, total = 0, 0.0
    with torch.no_grad():
        for images, labels in validation.batches(batch):
            scores, rates = scores_and_rates(model, images.to(device))
            hits += int((scores.argmax(1).cpu() == labels).sum())
            total += sum(float(omega(rate).double().sum()) for rate in rates) / len(rates)
    return LearntPoint(lambda_, p, hits / len(validation), total / len(validation))


def _batch_norms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def _order(images: int, steps: int, batch: int, seed: int) -> list[Tensor]:
    """Numbers of the images of each step: one random order of all images after another."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(images, generator=generator) for _ in range(math.ceil(steps * batch / images))]
    return list(torch.split(torch.cat(orders)[: steps * batch], batch))


@contextmanager
def _draws(seed: int, device: torch.device) -> Generator[None]:
    """Random numbers from that seed while the context lasts; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _check(model: nn.Module, train: Part, validation: Part, lambdas: Sequence[float]) -> None:
    _check_layers(model)
    if not lambdas or not all(value >= 0 and math.isfinite(value) for value in lambdas):
        raise EquispikeError(f"lambdas: {tuple(lambdas)}: give one or more numbers from 0 on")
    for images in (train, validation):
        if not len(images):
            raise DataError(f"{images.name}: no images to learn thresholds with")


def _check_layers(model: nn.Module) -> None:
    if not rate_norms(model):
        raise EquispikeError(
            f"{type(model).__name__}: has no equispike.nn.RateNorm layer. Make it with nn.with_rate_norm, and train it"
        )
    for path, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        if isinstance(module, RateNorm) and module.levels is not None:
            raise EquispikeError(f"{path} (RateNorm): has levels, so its threshold is learnt with the weights already")
        if isinstance(module, nn.ReLU):
            raise EquispikeError(f"{path} (ReLU): has no threshold to lower. Train with nn.RateNorm in place of it")
