"""Rows: one network, converted in one way and simulated on test images. Each is kept in a store and never run twice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import equispike as es
from equispike.calibrate.corrections import AnyCorrection
from equispike.calibrate.method import Method
from equispike.conversion import SpikeKind
from equispike.files.store import Store
from equispike.functional.coding import Coder
from equispike.functional.integrate import Reset
from equispike.provenance import as_data, versions
from experiments.entry import CODERS, CONSTANT, Conditions, Job, numbers
from experiments.networks import Trained

BATCH = 100

Row = dict[str, Any]
"""A stored point: accuracy and spike rate after each step, means over the seeds, and all that they depend on."""


@dataclass(frozen=True)
class Way:
    """A way to convert a network, with the name that its row has in tables.

    Fields:
        method: it observes for the table's number of steps, under the table's coder.
        reset: other than the method's own.
        v_init: initial potential, as in ``convert``.
        delay: share of the steps that scores leave out, as in ``convert``.
        spikes: "binary" or "signed".
        chosen: percentile, correction and delay are chosen for the table's T, in place of the method.
        correct: T -> corrections, set for the table's T; None for none.
    """

    label: str
    method: Method = field(default_factory=es.DataNorm)
    reset: Reset | None = None
    v_init: float = 0.0
    delay: float = 0.0
    spikes: SpikeKind = "binary"
    chosen: bool = False
    correct: Callable[[int], Sequence[AnyCorrection]] | None = None

    def corrections(self, timesteps: int) -> Sequence[AnyCorrection]:
        """Corrections of this way for T steps."""
        return () if self.correct is None else self.correct(timesteps)


def coder_of(network: Trained, conditions: Conditions) -> Coder:
    """The conditions' coder; Poisson with a scale where inputs exceed 1, which p = |x| would cut off."""
    coder = CODERS[conditions.coder]
    if coder is CONSTANT or largest(network, conditions) <= 1:
        return coder
    return es.Poisson()


def largest(network: Trained, conditions: Conditions) -> float:
    """The largest |x| of the calibration images."""
    return max(float(x.abs().max()) for x, _ in calibration(network, conditions))


def calibration(network: Trained, conditions: Conditions) -> Iterable[tuple[Tensor, Tensor]]:
    """The calibration images, in batches."""
    train = network.data.train
    return train.take(min(conditions.calibration_images, len(train))).batches(BATCH)


def test_images(network: Trained, conditions: Conditions) -> Any:
    """The test images that count, as a part of the data set."""
    return network.data.test.take(min(conditions.images, len(network.data.test)))


def convert(way: Way, network: Trained, conditions: Conditions) -> es.Network:
    """The spiking network."""
    device = torch.device(conditions.device)
    model: nn.Module = network.model.to(device)
    batches = list(to(device, calibration(network, conditions)))
    if way.chosen:
        return es.convert(model, batches, timesteps=conditions.timesteps, readout=conditions.readout, spikes=way.spikes)
    return es.convert(
        model, batches, method_of(way, network, conditions), reset=way.reset, readout=conditions.readout,
        v_init=way.v_init, delay=way.delay, spikes=way.spikes, correct=way.corrections(conditions.timesteps),
    )  # fmt: skip


def method_of(way: Way, network: Trained, conditions: Conditions) -> Method:
    """The way's method, which observes as the conditions say if it observes at all."""
    method: Any = way.method
    if not hasattr(method, "coder"):
        return method
    return replace(method, timesteps=conditions.observed_steps, coder=coder_of(network, conditions))


def to(device: torch.device, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches on a device."""
    return ((x.to(device), labels.to(device)) for x, labels in batches)


def row(way: Way, network: Trained, job: Job) -> Row:
    """The row from the store in the job's folder; converted, simulated and stored first if it is not there."""
    conditions = job.conditions
    test, coder = test_images(network, conditions), coder_of(network, conditions)
    known = network.told
    asked: dict[str, Any] = {
        **{name: known[name] for name in ("network", "weights")},
        "data": test.name,
        "images": len(test),
        "method": "chosen for T" if way.chosen else as_data(method_of(way, network, conditions)),
        "reset": way.reset or way.method.reset,
        "v_init": way.v_init,
        "spikes": way.spikes,
        "coder": as_data(coder),
        "readout": conditions.readout,
        "calibration_images": min(conditions.calibration_images, len(network.data.train)),
        "observed_steps": conditions.observed_steps if hasattr(way.method, "coder") else None,
        "timesteps": conditions.timesteps,
        "runs": 1 if coder is CONSTANT else conditions.seeds,
        "device": conditions.device,
    }
    if way.chosen or way.delay:
        asked["delay"] = "chosen for T" if way.chosen else way.delay
    if way.correct is not None:
        asked["corrections"] = as_data(list(way.corrections(conditions.timesteps)))
    return {**asked, **Store(job.out / "rows.sqlite").point(asked, lambda: measure(way, network, job))}


def measure(way: Way, network: Trained, job: Job) -> Row:
    """Convert and simulate: what a row holds besides what was asked."""
    conditions = job.conditions
    test, coder = test_images(network, conditions), coder_of(network, conditions)
    spiking = convert(way, network, conditions)
    batches: Any = test.batches(BATCH)  # workers read their own
    if spiking.device.type != "cpu":
        batches = list(to(spiking.device, batches))
    label = f"{network.name}, {way.label}"
    e = es.evaluate(spiking, batches, conditions.timesteps, coder, runs=conditions.seeds, label=label, on=job.on)
    right, among_five = trained_accuracies(network, batches)
    return {
        "seeds": list(e.seeds),
        "chosen": spiking.provenance.get("chosen"),
        "trained_accuracy": right,
        "accuracy": [round(a, 6) for a in numbers(e.mean)],
        "accuracy_std": [round(a, 6) for a in numbers(e.std)],
        "spike_rate": [round(r, 5) for r in numbers(e.spike_rate.mean(0))],
        "ties": round(float(e.ties[:, -1].mean()), 6),
        "top5": None if e.top5 is None else [round(a, 6) for a in numbers(e.top5[:, -1])],
        "trained_top5": None if e.top5 is None else among_five,
        "spikes_per_image": {name: round(count, 3) for name, count in e.spikes.items()},
        "neurons": {name: torch.Size(spiking.shapes[name]).numel() for name in spiking.neurons},
        "thresholds": {name: float(value.max()) for name, value in spiking.thresholds.items()},
        "seconds": round(e.seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def trained_accuracies(network: Trained, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Shares of the images whose class has the model's highest score, and is among the five highest.

    The model's own: what was converted may compute something else before it spikes, as with ``sums="plain"``.
    """
    right = among_five = images = 0
    with torch.no_grad():
        for x, labels in batches:
            scores: Tensor = network.model(x)
            found = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
            right += int(found[:, 0].sum())
            among_five += int(found.sum())
            images += len(x)
    return right / images, among_five / images


def note_of_calibration(network: Trained, conditions: Conditions) -> str:
    """The network and its calibration, where nothing else counts."""
    images = min(conditions.calibration_images, len(network.data.train))
    how = f"{coder_of(network, conditions)}, {conditions.observed_steps:,} steps"
    return f"{network.name}: {images:,} training images of {network.data.name}, {how}"
