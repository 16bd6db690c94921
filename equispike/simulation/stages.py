"""The same simulation after fewer steps, and after more: a run for each T, at the cost of the longest."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.functional.coding import Coder, Constant
from equispike.functional.precision import full_precision
from equispike.graph.network import Network
from equispike.simulation.record import Moment, Task, negative_spikes
from equispike.simulation.run import Run, automatic, check_arguments, default_memory


def stages(
    network: Network,
    images: Tensor,
    steps: Sequence[int],
    coder: Coder | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Iterator[Run]:
    """For each T in ``steps`` the run that ``simulate`` gives; each goes on where the one before stopped.

    All images are one batch, so pass some dozens at most.

    Args:
        steps: increasing, each at least 1.
        network, images, coder, seed, indices: as in ``simulate``.
    Raises:
        SimulationError, ConversionError: as ``simulate``.
    """
    if not steps or any(a >= b for a, b in pairwise(steps)):
        raise SimulationError(f"steps: {list(steps)} do not increase. Give at least one number of steps, in order")
    check_arguments(network, steps[0], "auto")
    images = network.check_images(images)
    indices = torch.arange(len(images)) if indices is None else indices
    indices = indices.to(images.device, torch.int64)
    neurons = {name: math.prod(network.shapes[name]) for name in network.neurons}
    task = Task(network, images, indices, steps[-1], Constant() if coder is None else coder, seed)
    (engine, _), seconds = automatic(network), 0.0
    readout, spikes = list[Tensor](), {name: list[Tensor]() for name in neurons}
    start: Moment | None = None
    total = {name: images.new_zeros(len(images), *network.shapes[name], dtype=torch.int32) for name in neurons}
    for end in steps:
        began = time.perf_counter()
        with torch.no_grad(), full_precision(network.device):
            record, moment = engine(task.until(end), default_memory(network), start)
            start = moment()
        readout.append(record.readout)
        for name in neurons:
            total[name] += record.counts[name]
            spikes[name].append(record.spikes[name])
        seconds += time.perf_counter() - began
        yield Run(
            torch.cat(readout),
            {name: counts.clone() for name, counts in total.items()},
            {name: torch.cat(layer) for name, layer in spikes.items()},
            neurons,
            torch.full_like(indices, end),
            seconds,
            negative=negative_spikes(total, dict.fromkeys(start.sent, torch.zeros(())), start.sent),
        )
