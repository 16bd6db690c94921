"""Accuracy at every time-step, and the step from which it is good enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import length_hint

import torch
from torch import Tensor

from equispike.batches import Batches, read
from equispike.errors import DataError, SimulationError
from equispike.functional.coding import Coder, Constant
from equispike.graph.network import Network
from equispike.progress import track
from equispike.simulation.early_exit import Stop
from equispike.simulation.run import BATCH, MEMORY, EngineName, Run, check_arguments, simulate, spike_rate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A network's accuracy on labelled images, with everything else that a table needs.

    Attributes:
        accuracy: share of images classified correctly after each step, one row per seed, (runs, T), float64.
        spike_rate: in percent, up to each step, (runs, T), float64 (Han et al., 2020, eq. 8).
        ties: share of images whose highest score several classes reach, after each step, (runs, T), float64.
        trained: accuracy of the trained network on the same images (as converted: with the changes that lossy passes
            made, if any).
        spikes: mean spikes of one image over all T steps, by layer.
        images: how many.
        seeds: of each run; one run only where nothing is drawn.
        seconds: spent simulating.
        steps: mean steps that an image was run for.
    """

    accuracy: Tensor
    spike_rate: Tensor
    ties: Tensor
    trained: float
    spikes: dict[str, float]
    images: int
    seeds: tuple[int, ...]
    seconds: float
    steps: float

    @property
    def mean(self) -> Tensor:
        """Mean accuracy over the seeds, (T,)."""
        return self.accuracy.mean(0)

    @property
    def std(self) -> Tensor:
        """Sample standard deviation of the accuracy over the seeds, (T,); zero for a single run."""
        return self.accuracy.std(0) if len(self.accuracy) > 1 else torch.zeros_like(self.accuracy[0])


def accuracy(run: Run, labels: Tensor | Sequence[int]) -> Tensor:
    """Share of images classified correctly after each step, (T,), float64.

    Args:
        run: of B images.
        labels: true class of each image, (B,).
    """
    labels = torch.as_tensor(labels, device=run.predictions.device)
    if labels.shape != (run.images,):
        raise SimulationError(f"labels: shape {tuple(labels.shape)} for {run.images} images. Give one per image")
    return (run.predictions == labels).double().mean(1)


def latency(accuracies: Tensor, target: float) -> int | None:
    """First step after which the accuracy, (T,), stays at or above the target; None if it ends below.

    >>> latency(torch.tensor([0.1, 0.9, 0.8, 0.9, 0.95]), 0.9)
    4
    """
    below = (accuracies < target).nonzero()
    last = int(below[-1]) + 1 if len(below) else 0
    return last + 1 if last < len(accuracies) else None


def evaluate(
    network: Network,
    batches: Batches,
    timesteps: int,
    coder: Coder | None = None,
    seed: int = 0,
    runs: int = 1,
    engine: EngineName = "auto",
    batch_size: int = BATCH,
    memory: int = MEMORY,
    label: str = "evaluating",
    stop: Stop | None = None,
) -> Evaluation:
    """Simulate labelled images and keep the accuracy of every step; memory does not grow with their number.

    Args:
        batches: (images, labels) pairs; image k of all batches draws as image k.
        runs: repeats with seeds seed, seed + 1, ... Where nothing is drawn (constant coding, no random initial
            potential), all repeats would be equal and one is made.
        label: what progress is reported as.
        others: as in ``simulate``.
    Raises:
        DataError: no images, no labels, or unusable ones.
        SimulationError: unusable arguments.
    """
    coder = Constant() if coder is None else coder
    check_arguments(network, timesteps, engine, batch_size, memory)
    if runs < 1:
        raise SimulationError(f"runs: {runs} is less than 1")
    drawn = not coder.constant or any(op.v_init == "uniform" for op in network.neurons.values())
    seeds = tuple(range(seed, seed + (runs if drawn else 1)))
    right, ties = (torch.zeros(len(seeds), timesteps, dtype=torch.float64) for _ in range(2))
    spikes = {name: torch.zeros(len(seeds), timesteps, dtype=torch.int64) for name in network.neurons}
    total = trained = steps = 0
    seconds = 0.0
    known = length_hint(batches) * len(seeds)  # 0 of what has no length
    work = ((batch, n) for batch in read(batches, network.input.shape, "test batch") for n in range(len(seeds)))
    for (images, labels), n in track(work, label, known):
        if labels is None:
            raise DataError("test batch: comes without labels. Pass (images, labels) pairs")
        labels = labels.cpu()
        indices = torch.arange(total, total + len(images))
        run = simulate(network, images, timesteps, coder, seeds[n], indices, engine, batch_size, memory, stop=stop)
        right[n] += (run.predictions.cpu() == labels).double().sum(1)
        ties[n] += (run.ties.cpu() * len(images)).round()
        for name, layer in run.spikes.items():
            spikes[name][n] += layer.sum(1, dtype=torch.int64).cpu()
        seconds += run.seconds
        steps += int(run.steps.sum())
        if n == len(seeds) - 1:
            with torch.no_grad():
                trained += int((network(network.check_images(images)).argmax(1).cpu() == labels).sum())
            total += len(images)
    neurons = sum(torch.Size(network.shapes[name]).numel() for name in spikes)
    per_step = torch.stack(list(spikes.values())).sum(0)
    rates = [spike_rate(steps, neurons, total) for steps in per_step]
    return Evaluation(
        right / total,
        torch.stack(rates),
        ties / total,
        trained / total,
        {name: float(layer.sum()) / len(seeds) / total for name, layer in spikes.items()},
        total,
        seeds,
        seconds,
        steps / len(seeds) / total,
    )
