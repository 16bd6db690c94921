"""Evaluations: what is counted over labelled images, and the shares and means that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.shown import frame, html_table
from equispike.simulation.run import spike_rate

UNITS = 2**40
"""In which probabilities are summed as whole numbers: exact sums, whatever the order, of up to 8 million images."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts over the images of one seed. Whole numbers: the sum of parts is the same in any order.

    Attributes:
        right, ties, among: places classified correctly, with equal highest scores, and with their class among the five
            highest, after each step, (T,), int64. An image is one place, but for scores in space.
        spikes: of all neurons of a layer in each step, (T,), int64, by layer.
        counts: of each neuron over all steps, (*features), int64, by layer.
        predictions: class of each image after the last step, by the number of the first image of a part.
        seconds, steps: spent simulating, and simulated.
    """

    right: Tensor
    ties: Tensor
    among: Tensor
    spikes: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    predictions: Mapping[int, Tensor]
    seconds: float
    steps: int

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.right + other.right,
            self.ties + other.ties,
            self.among + other.among,
            {name: count + other.spikes[name] for name, count in self.spikes.items()},
            {name: count + other.counts[name] for name, count in self.counts.items()},
            _joined(self.predictions, other.predictions),
            self.seconds + other.seconds,
            self.steps + other.steps,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A network's accuracy on labelled images, with everything else that a table needs.

    Fields:
        seeds: of each run; one run only where nothing is drawn.
        tallies: of each run.
        images: how many.
        places: in all images that have a class: one in each, but for scores in space.
        right: of these places, those that the trained network classifies correctly.
        own: class that the trained network gives each image, by the number of the first image of a part.
        expected: spikes of each input in one step that Poisson coding expects, over all images, in units of 2**-40,
            (*features), int64; None where numbers come in.
        unheard: images for which the trained network scores no class above zero, where output neurons count spikes.
        many: there are so many classes that top-5 accuracy says something.
    """

    seeds: tuple[int, ...]
    tallies: tuple[Tally, ...]
    images: int
    places: int
    right: int
    own: Mapping[int, Tensor]
    expected: Tensor | None
    unheard: int
    many: bool

    @property
    def accuracy(self) -> Tensor:
        """Share of images classified correctly after each step, one row per seed, (runs, T), float64."""
        return self._shares("right")

    @property
    def ties(self) -> Tensor:
        """Share of images whose highest score several classes reach, after each step, (runs, T), float64."""
        return self._shares("ties")

    @property
    def top5(self) -> Tensor | None:
        """Share of images whose class is among the five with the highest scores, (runs, T); None of few classes."""
        return self._shares("among") if self.many else None

    @property
    def spike_rate(self) -> Tensor:
        """Spike rate in percent, up to each step, (runs, T), float64 (Han et al., 2020, eq. 8)."""
        neurons = sum(count.numel() for count in self.tallies[0].counts.values())
        totals = (torch.stack([*tally.spikes.values()]).sum(0) for tally in self.tallies)
        return torch.stack([spike_rate(total, neurons, self.images) for total in totals])

    @property
    def trained(self) -> float:
        """Accuracy of the trained network on the same images, as converted: lossy passes have changed it."""
        return self.right / self.places

    @property
    def counts(self) -> dict[str, Tensor]:
        """Spikes of each neuron over all T steps, mean over images and runs, by layer, (*features), float64."""
        return self._means("counts")

    @property
    def spikes_by_step(self) -> dict[str, Tensor]:
        """Spikes of a layer in each step, mean over images and runs, by layer, (T,), float64."""
        return self._means("spikes")

    @property
    def inputs(self) -> Tensor | None:
        """Spikes of each input that Poisson coding expects over all T steps, mean over images; None without it."""
        return None if self.expected is None else self.expected.double() * (self.timesteps / UNITS / self.images)

    @property
    def predictions(self) -> Tensor:
        """Class of each image after the last step, (runs, images), int64."""
        return torch.stack([_in_order(tally.predictions) for tally in self.tallies])

    @property
    def trained_predictions(self) -> Tensor:
        """Class of each image in the trained network, (images,), int64."""
        return _in_order(self.own)

    @property
    def timesteps(self) -> int:
        return len(self.tallies[0].right)

    @property
    def seconds(self) -> float:
        """Spent simulating, by all who did."""
        return sum(tally.seconds for tally in self.tallies)

    @property
    def steps(self) -> float:
        """Mean steps that an image was run for."""
        return sum(tally.steps for tally in self.tallies) / self.images / len(self.tallies)

    def merge(self, other: "Evaluation") -> "Evaluation":
        """The evaluation of both parts of a data set, exact, whichever comes first.

        Raises:
            SimulationError: the two are of other seeds, steps or layers, or share images.
        """
        alike = (self.seeds, self.timesteps, *self.tallies[0].counts)
        if alike != (other.seeds, other.timesteps, *other.tallies[0].counts):
            raise SimulationError("merge: the evaluations differ in seeds, steps or layers. Merge parts of one")
        own = _joined(self.own, other.own)
        both = (self.expected, other.expected)
        return Evaluation(
            self.seeds,
            tuple(a + b for a, b in zip(self.tallies, other.tallies, strict=True)),
            self.images + other.images,
            self.places + other.places,
            self.right + other.right,
            own,
            None if both[0] is None or both[1] is None else both[0] + both[1],
            self.unheard + other.unheard,
            self.many,
        )

    def _shares(self, of: str) -> Tensor:
        return torch.stack([getattr(tally, of) for tally in self.tallies]).double() / self.places

    def _means(self, of: str) -> dict[str, Tensor]:
        runs = self.images * len(self.tallies)
        by_seed: list[Mapping[str, Tensor]] = [getattr(tally, of) for tally in self.tallies]
        return {name: torch.stack([each[name] for each in by_seed]).sum(0).double() / runs for name in by_seed[0]}

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.images} images, T = {self.timesteps}, accuracy {float(self.mean[-1]):.2%}, "
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


def _joined(ours: Mapping[int, Tensor], others: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The classes of both; images that follow each other become one part, so that there stay few to compare."""
    joined, first, end = dict[int, Tensor](), 0, -1
    for start, part in sorted((*ours.items(), *others.items()), key=lambda item: item[0]):
        if start < end:
            raise SimulationError("merge: the parts share images. Give each part's first number: evaluate(..., first=)")
        first = first if start == end else start
        joined[first] = torch.cat([joined[first], part]) if start == end else part
        end = start + len(part)
    return joined


def _in_order(parts: Mapping[int, Tensor]) -> Tensor:
    return torch.cat([parts[first] for first in sorted(parts)])


def steps_looked_at(timesteps: int) -> tuple[int, ...]:
    """All up to 8, then four to each doubling, and T.

    >>> steps_looked_at(35)
    (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 35)
    """
    steps = list(range(1, min(timesteps, 8) + 1))
    while steps[-1] < timesteps:
        steps.append(steps[-1] + 2 ** (steps[-1].bit_length() - 3))
    return (*(t for t in steps if t < timesteps), timesteps)
