"""A closer look at a few images: each layer's error by cause, fit and silence, and how decisions come about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from equispike.analysis.causes import Causes, causes, error_parts
from equispike.analysis.evaluation import Evaluation, steps_looked_at
from equispike.analysis.fit import misfit, rate_counts
from equispike.functional.coding import Coder
from equispike.graph.network import Network
from equispike.progress import track
from equispike.simulation.run import stages

LOOKED_AT = 32
"""Images by which layers are judged."""

EXAMPLES = 3
"""Images that are shown, of those that end right and of those that end wrong."""

MOST_SCORES = 10
"""Classes of which an example keeps the score."""


PAIRS = 150
"""Neurons of a layer whose activation and rate are kept."""


class LabelledImages(Protocol):
    """Test images: a part of a data set, for instance."""

    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def __getitem__(self, chosen: Tensor) -> "LabelledImages": ...
    def floats(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class LayerLook:
    """One layer at each of the S steps looked at, means over the images.

    Attributes:
        causes: its error by cause.
        k, bound: mean K and mean 2 Omega / t (see ``analysis.fit``); NaN if no image drives the layer.
        silent: share of the neurons that have not spiked yet.
        pairs: of some neurons and images the trained activation, in units of the threshold, and the rate after T steps.
    """

    causes: tuple[Causes, ...]
    k: tuple[float, ...]
    bound: tuple[float, ...]
    silent: tuple[float, ...]
    pairs: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class Example:
    """One image, and what the network makes of it at each of the S steps looked at.

    Attributes:
        index: its number among the test images.
        label, trained: its class, and what the trained network takes it for.
        image: (*features).
        classes: those whose scores are kept, the true one among them.
        scores: cumulative, (S, classes kept).
        predictions: (S,), of all classes.
        inputs: mean of the input up to each step, (S, *features); None if it is the image in every step.
        first: spikes of the first layer up to each step, summed over its channels, (S, height, width); None if that
            layer has no two dimensions.
    """

    index: int
    label: int
    trained: int
    image: Tensor
    classes: Tensor
    scores: Tensor
    predictions: Tensor
    inputs: Tensor | None
    first: Tensor | None


@dataclass(frozen=True, eq=False)
class CloserLook:
    """Steps looked at; images that layers were judged by; layers by name; examples, right ones first."""

    steps: tuple[int, ...]
    images: int
    layers: Mapping[str, LayerLook]
    examples: tuple[Example, ...]


def look_closer(
    network: Network, evaluation: Evaluation, test: LabelledImages, coder: Coder, seed: int = 0
) -> CloserLook:
    """Simulate some of the images that were evaluated again, stopping at several steps to look.

    Args:
        network, coder, seed: as evaluated, without early exit.
        evaluation: of these images; it says which end right and which wrong.
        test: the images, image k of which was drawn as image k.
    """
    steps = steps_looked_at(evaluation.accuracy.shape[1])
    few = torch.arange(min(LOOKED_AT, len(test)))
    images = test[few].floats()
    names = list(network.neurons)
    pairs: dict[str, tuple[tuple[float, float], ...]] = {}
    errors: dict[str, list[Causes]] = {name: [] for name in names}
    k, bound, silent = ({name: list[float]() for name in names} for _ in range(3))
    for run in track(stages(network, images, steps, coder, seed, few), "looking closer", len(steps)):
        for row in causes(run):
            errors[row.layer].append(row)
        for name, fit in misfit(run).items():
            k[name].append(float(fit.k.nanmean()))
            bound[name].append(2 * float(fit.omega[fit.omega > 0].mean()) / run.timesteps)
        for name, counted in rate_counts(run).items():
            silent[name].append(float(counted[0] / counted.sum()))
        if run.timesteps == steps[-1]:
            pairs = {
                name: _pairs(part.trained, run.sent(name) / run.timesteps) for name, part in error_parts(run).items()
            }
    layers = {
        name: LayerLook(tuple(errors[name]), tuple(k[name]), tuple(bound[name]), tuple(silent[name]), pairs[name])
        for name in names
    }
    return CloserLook(steps, len(few), layers, _examples(network, evaluation, test, steps, coder, seed))


def _pairs(trained: Tensor, rates: Tensor) -> tuple[tuple[float, float], ...]:
    """Activation and rate of neurons that are active in either, of all sizes of the activation alike."""
    both = torch.stack([trained.double().flatten(), rates.double().flatten()], 1)
    active = both[(both != 0).any(1)]
    ranked = active[active[:, 0].argsort(stable=True)]
    chosen = ranked[torch.linspace(0, len(ranked) - 1, min(len(ranked), PAIRS)).long()]
    return tuple((float(wanted), float(rate)) for wanted, rate in chosen)


def _examples(
    network: Network, evaluation: Evaluation, test: LabelledImages, steps: Sequence[int], coder: Coder, seed: int
) -> tuple[Example, ...]:
    labels, said = test.labels[: evaluation.images], evaluation.predictions[0]
    right = said == labels
    lost = ~right & (evaluation.trained_predictions == labels)  # what conversion cost: shown before the other errors
    wrong = torch.cat([lost.nonzero(), (~right & ~lost).nonzero()]).flatten()
    chosen = torch.cat([right.nonzero().flatten()[:EXAMPLES], wrong[:EXAMPLES]])
    images = network.check_images(test[chosen].floats())
    entrance, *_ = network.neurons
    scores, predictions, maps = list[Tensor](), list[Tensor](), list[Tensor]()
    for run in stages(network, images, steps, coder, seed, chosen):
        scores.append(run.readout[-1].double().cpu())
        predictions.append(run.predictions[-1].cpu())
        if len(network.shapes[entrance]) == 3:
            maps.append(run.counts[entrance].sum(1).cpu())
    inputs = None if coder.constant else _mean_inputs(network, images, steps, coder, seed, chosen)
    found: list[Example] = []
    for n in range(len(chosen)):
        index = int(chosen[n])
        label = int(labels[index])
        ranked = scores[-1][n].argsort(descending=True)[:MOST_SCORES]
        classes = ranked if label in ranked else torch.cat([ranked[:-1], torch.tensor([label])])
        found.append(
            Example(
                index,
                label,
                int(evaluation.trained_predictions[index]),
                images[n].cpu(),
                classes,
                torch.stack(scores)[:, n, classes],
                torch.stack(predictions)[:, n],
                None if inputs is None else inputs[:, n],
                torch.stack(maps)[:, n] if maps else None,
            )
        )
    return tuple(found)


def _mean_inputs(
    network: Network, images: Tensor, steps: Sequence[int], coder: Coder, seed: int, indices: Tensor
) -> Tensor:
    """Mean of the input up to each step, in units of the images, (S, B, *features)."""
    scale, total, means = network.input.scale, torch.zeros_like(images), list[Tensor]()
    for before, end in zip((0, *steps), steps):
        total = total + coder.encode(images, indices, range(before + 1, end + 1), seed, scale, scale).sum(0)
        means.append(total.cpu() / end)
    return torch.stack(means)
