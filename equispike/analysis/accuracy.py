"""Accuracy at every time-step, and the step from which it is good enough."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from operator import length_hint
from typing import Any

import torch
from torch import Tensor

from equispike.arguments import checked
from equispike.batches import Batches, check_labels, read_labelled
from equispike.errors import DataError, SimulationError
from equispike.functional.coding import Coder, Constant, Poisson, by_image, predict
from equispike.graph.network import Network, without_output_neurons
from equispike.progress import track
from equispike.shown import frame, html_table
from equispike.simulation.run import EngineName, Run, check_arguments, simulate, spike_rate
from equispike.simulation.stop import Stop
from equispike.simulation.task import joined_by

MANY_CLASSES = 20
"""From so many on, top-5 accuracy says something."""

UNHEARD = 0.005
"""Share of images that may go unheard without a word."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A network's accuracy on labelled images, with everything else that a table needs.

    Attributes:
        accuracy: share of images classified correctly after each step, one row per seed, (runs, T), float64.
        spike_rate: in percent, up to each step, (runs, T), float64 (Han et al., 2020, eq. 8).
        ties: share of images whose highest score several classes reach, after each step, (runs, T), float64.
        trained: accuracy of the trained network on the same images (as converted: with the changes that lossy passes
            made, if any).
        top5: share of images whose class is among the five with the highest scores, (runs, T); None of fewer than 20
            classes.
        counts: spikes of each neuron over all T steps, mean over images and runs, by layer, (*features), float64.
        spikes_by_step: spikes of a layer in each step, mean over images and runs, by layer, (T,), float64.
        inputs: spikes of each input over all T steps that Poisson coding expects, mean over images, (*features); None
            where numbers come in.
        predictions: class of each image after the last step, (runs, images), int64.
        trained_predictions: that of the trained network, (images,), int64.
        images: how many.
        seeds: of each run; one run only where nothing is drawn.
        seconds: spent simulating.
        steps: mean steps that an image was run for.
    """

    accuracy: Tensor
    spike_rate: Tensor
    ties: Tensor
    trained: float
    top5: Tensor | None
    counts: dict[str, Tensor]
    spikes_by_step: dict[str, Tensor]
    inputs: Tensor | None
    predictions: Tensor
    trained_predictions: Tensor
    images: int
    seeds: tuple[int, ...]
    seconds: float
    steps: float

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.images} images, T = {self.accuracy.shape[1]}, accuracy {float(self.mean[-1]):.2%}, "
            f"trained {self.trained:.2%}, spike rate {float(self.spike_rate[:, -1].mean()):.2f} %)"
        )

    def _repr_html_(self) -> str:
        last = self.accuracy.shape[1]
        steps = [*(2**k for k in range(last.bit_length()) if 2**k < last), last]
        rate = self.spike_rate.mean(0)
        rows = [(t, f"{100 * float(self.mean[t - 1]):.2f}", f"{float(rate[t - 1]):.2f}") for t in steps]
        return html_table(repr(self), ("T", "accuracy, %", "spike rate, %"), rows)

    def to_frame(self) -> Any:
        """One row per seed and step, as a pandas data frame."""
        runs, last = self.accuracy.shape
        return frame(
            {
                "seed": [seed for seed in self.seeds for _ in range(last)],
                "t": list(range(1, last + 1)) * runs,
                "accuracy": [float(value) for value in self.accuracy.flatten()],
                "spike_rate_percent": [float(value) for value in self.spike_rate.flatten()],
                "ties": [float(value) for value in self.ties.flatten()],
            }
        )

    @property
    def mean(self) -> Tensor:
        """Mean accuracy over the seeds, (T,)."""
        return self.accuracy.mean(0)

    @property
    def std(self) -> Tensor:
        """Sample standard deviation of the accuracy over the seeds, (T,); zero for a single run."""
        return self.accuracy.std(0) if len(self.accuracy) > 1 else torch.zeros_like(self.accuracy[0])

    @property
    def spikes(self) -> dict[str, float]:
        """Spikes over all T steps, mean over images and runs, by layer."""
        return {name: float(steps.sum()) for name, steps in self.spikes_by_step.items()}


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
    """How many times fewer steps a run needs than another to reach an accuracy for good; None if one does not.

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
) -> Evaluation:
    """Simulate labelled images and keep the accuracy of every step; memory does not grow with their number.

    Args:
        batches: (images, labels) pairs; image k of all batches draws as image k. With ``coder=Frames()`` images are
            (T, B, *features), and the trained network is asked for its answer to their mean. Labels are class numbers,
            one per image, or of scores in space one per place, as for :func:`accuracy`; of one score per image, 1
            stands for scores above zero and 0 for the others.
        runs: repeats with seeds seed, seed + 1, ... Where nothing is drawn (constant coding, no random initial
            potential), all repeats would be equal and one is made.
        label: what progress is reported as.
        others: as in ``simulate``.
    Raises:
        DataError: no images, no labels, or unusable ones, such as a class that the network does not have.
    Warns:
        of images that output neurons never answer for, since the trained network scores no class above zero.
        SimulationError: unusable arguments.
    """
    coder = Constant() if coder is None else coder
    check_arguments(network, timesteps, engine, batch_size, memory)
    if runs < 1:
        raise SimulationError(f"runs: {runs} is less than 1")
    drawn = not coder.constant or any(op.v_init == "uniform" for op in network.neurons.values())
    seeds = tuple(range(seed, seed + (runs if drawn else 1)))
    tallies = [_Tally(network, timesteps) for _ in seeds]
    inputs = torch.zeros(network.input.shape, dtype=torch.float64) if isinstance(coder, Poisson) else None
    trained: list[Tensor] = []
    truth: list[Tensor] = []
    total = 0
    known = length_hint(batches) * len(seeds)  # 0 of what has no length
    shape, scores = network.shapes[network.nodes[-1].name], without_output_neurons(network)
    unheard = 0
    found = read_labelled(batches, network.input.shape, join=joined_by(coder, network, timesteps))
    coder = by_image(coder)
    work = ((batch, n) for batch in found for n in range(len(seeds)))
    for (images, labels), n in track(work, label, known):
        labels = _fitting(labels.cpu(), shape)
        indices = torch.arange(total, total + len(images))
        run = simulate(network, images, timesteps, coder, seeds[n], indices, engine, batch_size, memory, stop=stop)
        tallies[n].add(run, labels)
        if n == len(seeds) - 1:
            images = run.task.still
            with torch.no_grad():
                own = scores(images)
            trained.append(predict(own.movedim(1, -1))[0].cpu())
            unheard += 0 if scores is network else int((own.flatten(1) <= 0).all(1).sum())
            if isinstance(coder, Poisson) and inputs is not None:
                inputs += timesteps * coder.probability(images, network.input.scale).sum(0).cpu()
            truth.append(labels)
            total += len(images)
    neurons = sum(count.numel() for count in tallies[0].counts.values())
    rates = [spike_rate(torch.stack([*tally.spikes.values()]).sum(0), neurons, total) for tally in tallies]
    runs = len(tallies) * total
    if unheard > UNHEARD * total:
        warnings.warn(
            f"{unheard} of {total} images have no class score above zero, and output neurons that count spikes never "
            'answer for them. Convert with readout="potential"',
            stacklevel=2,
        )
    return Evaluation(
        torch.stack([tally.right for tally in tallies]) / total,
        torch.stack(rates),
        torch.stack([tally.ties for tally in tallies]) / total,
        float((torch.cat(trained) == torch.cat(truth)).double().mean()),
        torch.stack([tally.among for tally in tallies]) / total if tallies[0].many else None,
        {
            name: torch.stack([tally.counts[name] for tally in tallies]).sum(0).double() / runs
            for name in network.neurons
        },
        {
            name: torch.stack([tally.spikes[name] for tally in tallies]).sum(0).double() / runs
            for name in network.neurons
        },
        None if inputs is None else inputs / total,
        torch.stack([torch.cat(tally.predictions) for tally in tallies]),
        torch.cat(trained),
        total,
        seeds,
        sum(tally.seconds for tally in tallies),
        sum(tally.steps for tally in tallies) / runs,
    )


def _fitting(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The labels, if they are one class per image, or per place of scores of this shape, (classes, *space)."""
    if labels.shape[1:] != shape[1:]:
        wanted = f"one per place, (B, {', '.join(map(str, shape[1:]))})" if shape[1:] else "one per image, (B,)"
        raise DataError(f"test batch: labels of shape {tuple(labels.shape)}. Give {wanted}")
    check_labels(labels, shape[0], "test batch")
    return labels


class _Tally:
    """What is summed over the images of one seed."""

    def __init__(self, network: Network, timesteps: int) -> None:
        self.many = network.shapes[network.nodes[-1].name][0] >= MANY_CLASSES
        self.right, self.ties, self.among = (torch.zeros(timesteps, dtype=torch.float64) for _ in range(3))
        self.spikes = {name: torch.zeros(timesteps, dtype=torch.int64) for name in network.neurons}
        self.counts = {name: torch.zeros(network.shapes[name], dtype=torch.int64) for name in network.neurons}
        self.predictions: list[Tensor] = []
        self.seconds, self.steps = 0.0, 0

    def add(self, run: Run, labels: Tensor) -> None:
        """The run of some images with these labels."""
        right = (run.predictions.cpu() == labels).double()
        self.right += right.reshape(*right.shape[:2], -1).mean(2).sum(1)
        self.ties += (run.ties.cpu() * run.images).round()
        if self.many:
            self.among += (accuracy(run, labels, top=5).cpu() * run.images).round()
        for name, layer in run.spikes.items():
            self.spikes[name] += layer.sum(1, dtype=torch.int64).cpu()
            self.counts[name] += run.counts[name].sum(0, dtype=torch.int64).cpu()
        self.predictions.append(run.predictions[-1].cpu())
        self.seconds += run.seconds
        self.steps += int(run.steps.sum())
