"""Accuracy at every time-step, and the step from which it is good enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import length_hint
from typing import Any

import torch
from torch import Tensor

from equispike.analysis.evaluation import UNITS, Evaluation, Tally
from equispike.arguments import checked
from equispike.batches import Batches, Labelled, check_labels, numbered
from equispike.errors import DataError, SimulationError, warn
from equispike.functional.coding import Coder, Constant, Poisson, by_image, predict
from equispike.graph.network import Network, without_output_neurons
from equispike.progress import track
from equispike.simulation.run import EngineName, Run, check_arguments, simulate
from equispike.simulation.stop import Stop
from equispike.simulation.task import joined_by
from equispike.workers import Workers, done_by

MANY_CLASSES = 20
"""From so many on, top-5 accuracy says something."""

UNHEARD = 0.005
"""Share of images that may go unheard without a word."""


@checked
def accuracy(run: Run, labels: Tensor | Sequence[int], top: int = 1) -> Tensor:
    """Share of images (or of places in them) classified correctly after each step, (T,), float64.

    Args:
        run: of B images.
        labels: true class of each image, (B,); of scores in space, of each place, (B, *space).
        top: how many of the classes with the highest scores count as an answer; of equal scores the lower class first.
    """
    labels = torch.as_tensor(labels, device=run.predictions.device)
    if labels.shape != run.predictions.shape[1:]:
        raise SimulationError(
            f"labels: shape {tuple(labels.shape)} for {run.images} images. Give one per image, or per place of scores "
            f"in space, {tuple(run.predictions.shape[1:])}"
        )
    if top < 1:
        raise SimulationError(f"top: {top} is less than 1")
    scores = run.readout.movedim(2, -1)
    check_labels(labels, scores.shape[-1])
    if scores.shape[-1] == 1:
        return (run.predictions == labels).double().flatten(1).mean(1)
    own = scores.gather(-1, labels.expand(run.timesteps, *labels.shape)[..., None])
    classes = torch.arange(scores.shape[-1], device=labels.device)
    ahead = (scores > own) | ((scores == own) & (classes < labels[..., None]))
    return (ahead.sum(-1) < top).double().flatten(1).mean(1)


@checked
def latency(accuracies: Tensor, target: float) -> int | None:
    """First step after which the accuracy, (T,), stays at or above the target; None if it ends below.

    >>> latency(torch.tensor([0.1, 0.9, 0.8, 0.9, 0.95]), 0.9)
    4
    """
    below = (accuracies < target).nonzero()
    last = int(below[-1]) + 1 if len(below) else 0
    return last + 1 if last < len(accuracies) else None


def speed_up(accuracies: Tensor, others: Tensor, target: float) -> float | None:
    """The factor by which a run needs fewer steps than another to reach an accuracy for good; None if one does not.

    Args:
        accuracies, others: of the run and of the other one, (T,), not necessarily of the same T.
        target: in the unit of the accuracies.

    >>> speed_up(torch.tensor([0.1, 0.9]), torch.tensor([0.1, 0.2, 0.3, 0.9]), 0.9)
    2.0
    """
    own, other = latency(accuracies, target), latency(others, target)
    return None if own is None or other is None else other / own


@checked
def evaluate(
    network: Network,
    batches: Batches,
    timesteps: int,
    coder: Coder | None = None,
    seed: int = 0,
    runs: int = 1,
    engine: EngineName = "auto",
    batch_size: int | None = None,
    memory: int | None = None,
    label: str = "evaluating",
    stop: Stop | None = None,
    on: Workers | None = None,
    first: int = 0,
) -> Evaluation:
    """Simulate labelled images and keep the accuracy of every step; memory does not grow with their number.

    Args:
        batches: (images, labels) pairs; image k of all batches draws as image ``first`` + k. With ``coder=Frames()``
            images are (T, B, *features), and the trained network is asked for its answer to their mean. Labels are
            class numbers, one per image, or of scores in space one per place, as for :func:`accuracy`; of one score
            per image, 1 stands for scores above zero and 0 for the others.
        runs: repeats with seeds seed, seed + 1, ... Where nothing is drawn (constant coding, no random initial
            potential), all repeats would be equal and one is made.
        label: what progress is reported as.
        on: who simulates the batches: ``Processes(4)`` of this machine, or a cluster, ``Ray("auto")``; default this
            process. What is found does not depend on it, nor on the size of batches. Data sets of ``zoo.data`` are read
            where they are simulated.
        first: number of the first image in its data set, for a part whose evaluation is merged with others.
        others: as in ``simulate``.
    Raises:
        DataError: no images, no labels, or unusable ones, such as a class that the network does not have.
        SimulationError: unusable arguments.
    Warns:
        of images that output neurons never answer for, since the trained network scores no class above zero.
    """
    coder = Constant() if coder is None else coder
    check_arguments(network, timesteps, engine, batch_size, memory)
    if runs < 1:
        raise SimulationError(f"runs: {runs} is less than 1")
    if first < 0:
        raise SimulationError(f"first: {first} is less than 0. Images are numbered from 0 on")
    drawn = not coder.constant or any(op.v_init == "uniform" for op in network.neurons.values())
    seeds = tuple(range(seed, seed + (runs if drawn else 1)))
    how = {"timesteps": timesteps, "coder": by_image(coder), "engine": engine, "batch_size": batch_size}
    work = _Work(network, seeds, {**how, "memory": memory, "stop": stop})
    join = joined_by(coder, network, timesteps)
    items = numbered(batches, network.input.shape, first, elsewhere=on is not None, join=join)
    parts = done_by(on, work, items)
    found = reduce(Evaluation.merge, (part for _, part in track(parts, label, length_hint(batches))))
    if found.unheard > UNHEARD * found.images:
        warn(
            f"{found.unheard} of {found.images} images have no class score above zero, and output neurons that count "
            'spikes never answer for them. Convert with readout="potential"'
        )
    return found


@dataclass(frozen=True)
class _Work:
    """The simulation of one batch, with all that it needs."""

    network: Network
    seeds: tuple[int, ...]
    how: Mapping[str, Any]

    def __call__(self, part: tuple[int, Labelled]) -> Evaluation:
        network, (first, batch) = self.network, part
        images, labels = batch.read(network.input.shape)
        labels = _fitting(labels.cpu(), network.shapes[network.nodes[-1].name])
        indices = torch.arange(first, first + len(images))
        tallies: list[Tally] = []
        still = images
        for seed in self.seeds:
            run = simulate(network, images, seed=seed, indices=indices, **self.how)
            tallies.append(_counted(run, labels, first))
            still = run.task.still
        images, scores = still, without_output_neurons(network)
        with torch.no_grad():
            own = scores(images).cpu()
        classes = predict(own.movedim(1, -1))[0]
        return Evaluation(
            self.seeds,
            tuple(tallies),
            len(images),
            labels.numel(),
            int((classes == labels).sum()),
            {first: classes},
            _expected(network, images, self.how["coder"]),
            0 if scores is network else int((own.flatten(1) <= 0).all(1).sum()),
            own.shape[1] >= MANY_CLASSES,
        )


def _expected(network: Network, images: Tensor, coder: Coder) -> Tensor | None:
    if not isinstance(coder, Poisson):
        return None
    probability = coder.probability(images, network.input.scale).double()
    return (probability * UNITS).round().to(torch.int64).sum(0).cpu()


def _counted(run: Run, labels: Tensor, first: int) -> Tally:
    """A run's counts, with these labels."""
    places = labels.numel()
    right = run.predictions.cpu() == labels
    among = accuracy(run, labels, top=5).cpu() * places if run.readout.shape[2] >= MANY_CLASSES else torch.zeros(1)
    return Tally(
        right.flatten(1).sum(1),
        (run.ties.cpu() * places).round().long(),
        among.round().long().expand(run.timesteps),
        {name: layer.sum(1, dtype=torch.int64).cpu() for name, layer in run.spikes.items()},
        {name: layer.sum(0, dtype=torch.int64).cpu() for name, layer in run.counts.items()},
        {first: run.predictions[-1].cpu().clone()},
        run.seconds,
        int(run.steps.sum()),
    )


def _fitting(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The labels, if they are one class per image, or per place of scores of this shape, (classes, *space)."""
    if labels.shape[1:] != shape[1:]:
        wanted = f"one per place, (B, {', '.join(map(str, shape[1:]))})" if shape[1:] else "one per image, (B,)"
        raise DataError(f"test batch: labels of shape {tuple(labels.shape)}. Give {wanted}")
    check_labels(labels, shape[0], "test batch")
    return labels
