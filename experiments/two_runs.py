"""Two runs for one answer, on networks with levels: the first tells which neurons mislead. Rows to compare with.

Both methods look at what a neuron has left over after the first run, of ``first_steps`` steps, for each image anew.
SRP (Hao et al., 2023a): a neuron whose potential is not above zero is silent in the second run. COS (Hao et al.,
2023b): layer after layer, a neuron that ended below zero begins the second run so much lower that it gives one spike
less, one that ended at its threshold or above so much higher that it gives one more. Steps of both runs are executed,
so both count; that in COS each layer waits for those before it is not counted. Scores come from the second run.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

import equispike as es
from equispike.analysis.plots import Panel, Series
from equispike.files.store import Store
from equispike.graph.network import calibrated
from equispike.graph.ops import Input, Neuron, Node, WinnerPool
from equispike.graph.walk import interpret
from experiments.entry import Conditions, Entry, Job, Line, Outcome
from experiments.low_latency import LEVELS, STEPS, levelled
from experiments.networks import Trained, find
from experiments.rows import convert, test_images

Kind = Literal["one run", "SRP", "COS"]
Fire = Callable[[str, Neuron, Tensor], Tensor]
"""Name, neurons and their currents in each step, (T, B, *features) -> spikes in {0, 1}, likewise."""

BATCH = 20
SMALL = 1e-3
"""Thresholds above which SRP takes a potential for positive, and by which COS makes sure of a spike: their code's."""


def first_steps(timesteps: int) -> int:
    """Steps of the first run: half of all, at most four."""
    return min(4, timesteps // 2)


def integrated(op: Neuron, currents: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes in {0, 1} and potentials before the reset in each step, in thresholds, (T, B, *features); soft reset."""
    theta, v = calibrated("neurons", op)[0], start
    spikes, potentials = torch.empty_like(currents), torch.empty_like(currents)
    for t, current in enumerate(currents):
        potentials[t] = v + current / theta
        spikes[t] = potentials[t] >= 1
        v = potentials[t] - spikes[t]
    return spikes, potentials


def corrected_start(op: Neuron, currents: Tensor, start: Tensor) -> Tensor:
    """Potentials with which COS begins the second run, in thresholds, from the currents of the first one.

    Infinite where a neuron spiked in all steps and has another spike left over: it then always spikes.
    """
    spikes, potentials = integrated(op, currents, start)
    left = potentials[-1] - spikes[-1]
    lowest = potentials.masked_fill(spikes == 0, torch.inf).amin(0)
    highest = potentials.masked_fill(spikes == 1, -torch.inf).amax(0)
    lower = torch.where((left < 0) & (spikes.sum(0) > 0), (lowest - (1 - SMALL)).clamp(min=1), 0.0)
    higher = torch.where(left >= 1, (1 + SMALL - highest).clamp(min=1), 0.0)
    return start - lower + higher


def scores(network: es.Network, images: Tensor, timesteps: int, fire: Fire) -> Tensor:
    """Sum of the scores of so many steps of constant input, (B, classes)."""
    network.check_images(images)

    def enter(node: Node, op: Input) -> Tensor:
        return op(images).expand(timesteps, *images.shape)

    def spiked(node: Node, op: Neuron, currents: Tensor) -> Tensor:
        return fire(node.name, op, currents) * calibrated(node.name, op)[1]

    def through(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if isinstance(node.op, WinnerPool):
            raise es.EquispikeError(f"{node.name}: max pools keep sums of their own. Take a network with average pools")
        return node.op(*(x.flatten(0, 1) for x in inputs)).unflatten(0, (timesteps, len(images)))

    *_, (_, last) = interpret(network.nodes, enter, spiked, through)
    return last.sum(0)


def answer(kind: Kind, network: es.Network, images: Tensor, timesteps: int) -> Tensor:
    """Scores of the second run, (B, classes), or of all steps of the only one."""
    early = first_steps(timesteps)
    alive: dict[str, Tensor] = {}

    def start(op: Neuron, currents: Tensor) -> Tensor:
        return torch.full_like(currents[0], float(op.v_init))  # type: ignore[arg-type]

    def plain(name: str, op: Neuron, currents: Tensor) -> Tensor:
        return integrated(op, currents, start(op, currents))[0]

    def watched(name: str, op: Neuron, currents: Tensor) -> Tensor:
        spikes, potentials = integrated(op, currents, start(op, currents))
        alive[name] = potentials[-1] - spikes[-1] > SMALL
        return spikes

    def masked(name: str, op: Neuron, currents: Tensor) -> Tensor:
        return plain(name, op, currents) * alive.pop(name)

    def shifted(name: str, op: Neuron, currents: Tensor) -> Tensor:
        return integrated(op, currents, corrected_start(op, currents[:early], start(op, currents)))[0]

    if kind == "one run":
        return scores(network, images, timesteps, plain)
    if kind == "SRP":
        scores(network, images, early, watched)
        return scores(network, images, timesteps - early, masked)
    return scores(network, images, timesteps - early, shifted)


def accuracy(kind: Kind, network: Trained, job: Job) -> list[float]:
    """Accuracy for each number of steps, from the store in the job's folder if it is there."""
    test = test_images(network, job.conditions)

    def measure(timesteps: int) -> dict[str, Any]:
        spiking = convert(LEVELS[0], network, job.conditions)
        right = 0
        with torch.no_grad():
            for x, labels in test.batches(BATCH):
                right += int((answer(kind, spiking, spiking.check_images(x), timesteps).argmax(1) == labels).sum())
        return {"accuracy": right / len(test)}

    known = {name: network.told[name] for name in ("network", "weights")}
    asked = {**known, "data": test.name, "images": len(test), "two runs": kind}
    asked["calibration_images"] = job.conditions.calibration_images
    store = Store(job.out / "rows.sqlite")
    return [store.point({**asked, "timesteps": t}, partial(measure, t))["accuracy"] for t in STEPS]


def run(job: Job) -> Outcome:
    """One line for each method."""
    network = levelled(find(job.networks[0], job.data, job.data_folder))
    test = test_images(network, job.conditions)
    with torch.no_grad():
        right = sum(int((network.model(x).argmax(1) == labels).sum()) for x, labels in test.batches(100))
    trained = 100 * right / len(test)
    kinds: dict[str, Kind] = {"levels, one run": "one run", "SRP": "SRP", "COS": "COS"}
    found = {label: [100 * one for one in accuracy(kind, network, job)] for label, kind in kinds.items()}
    lines = [
        Line(label, {**{f"T={t}": one for t, one in zip(STEPS, own, strict=True)}, "trained": trained})
        for label, own in found.items()
    ]
    curves = tuple(Series(label, list(STEPS), own) for label, own in found.items())
    panel = Panel("", "time-steps T of both runs", "accuracy (%)", curves, level=(trained, "trained"), log_x=True)
    note = f"{network.name}, {len(test):,} {test.name.rpartition('/')[2]} images of {network.data.name}"
    return Outcome(lines, [panel], note, (), {"networks": [network.told], "accuracy": found})


ENTRIES = (
    Entry(
        "low-latency-two-runs",
        "Right answers after few steps, by two runs for each image",
        run,
        replace(Conditions("constant", "potential", STEPS[-1]), images=1000),
        ("vgg16-slim-rnl-cifar10",),
        cites=("bu2022", "hao2023a", "hao2023b"),
    ),
)
