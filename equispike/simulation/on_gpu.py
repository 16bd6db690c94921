"""Engine for GPUs: every layer is products of bytes on the tensor cores, with its neurons behind them.

Follows the same plans as the event-driven engine, with the same integers, so that a network spikes alike on both. Needs
an NVIDIA GPU (compute capability 8.0 or higher) and Triton, which torch brings along where it is built for CUDA.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.graph.network import Network
from equispike.simulation import planned
from equispike.simulation.layout import padded
from equispike.simulation.machine import Machine
from equispike.simulation.record import Moment, Record, Resume, Task

OLDEST = (8, 0)
"""Compute capability from which on the tensor cores multiply bytes as the kernels need it."""


def suits(network: Network) -> bool:
    """Whether the kernels can run this network: in float32, on an NVIDIA GPU that is not too old, with Triton."""
    plain = all((op.drive is None or len(op.drive) == 1) and not op.signed for op in network.neurons.values())
    return plain and network.dtype == torch.float32 and network.device.type == "cuda" and _able(network.device)


@cache
def _able(device: torch.device) -> bool:
    return (
        torch.version.hip is None
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= OLDEST
    )


@contextmanager
def _machine(task: Task) -> Generator[Machine]:
    if not suits(task.network):
        raise SimulationError(
            "engine: 'gpu' needs a network in float32 on an NVIDIA GPU (compute capability 8.0 or higher), and Triton; "
            "its neurons have no drive by step and no signed spikes. "
            "Choose 'auto' or 'layerwise', or move the network: network.to('cuda')"
        )
    _check_batch(task.network, len(task.images))
    machine: Any = import_module("equispike.simulation.gpu")
    with torch.cuda.device(task.network.device):
        yield machine


def _check_batch(network: Network, images: int) -> None:
    """Places within a step are numbers of 32 bits in the kernels."""
    widest = max(padded(shape[0]) * prod(shape[1:]) for shape in network.shapes.values())
    if images * widest >= 2**31:
        raise SimulationError(
            f"batch_size: {images} images of a layer with {widest:,} neurons are too many for the GPU's kernels. "
            f"Give at most {(2**31 - 1) // widest:,}"
        )


def gpu(task: Task, memory: int, start: Moment | None = None) -> tuple[Record, Resume]:
    """Run one batch up to step T, in chunks whose trains fit into ``memory`` bytes. The record is that of ``stepwise``.

    Raises:
        SimulationError: no GPU that can, or no Triton, or the network is not in float32; or the batch is too large.
    """
    with _machine(task) as machine:
        return planned.run(machine, task, memory, start)


def observe(
    task: Task,
    memory: int,
    visit: Callable[[Tensor], None],
    given: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
) -> None:
    """Show what the readout reads to ``visit``: see ``simulation.run.observe``; ``memory`` as in ``gpu``."""
    with _machine(task) as machine:
        planned.observe(machine, task, memory, visit, given, keep)
