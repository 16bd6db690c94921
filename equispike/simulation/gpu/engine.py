"""Engine for GPUs: every layer is products of bytes on the tensor cores, with its neurons behind them.

Follows the same plans as the event-driven engine, with the same integers, so that a network spikes alike on both. Needs
an NVIDIA GPU (compute capability 8.0 or higher) and Triton, which torch brings along where it is built for CUDA.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import torch

from equispike.errors import SimulationError
from equispike.graph.network import Network
from equispike.simulation.plan import ByPlan
from equispike.simulation.state import PlannedBatch
from equispike.simulation.task import Moment, Replay, Task, Visit
from equispike.simulation.trains import padded

OLDEST = (8, 0)
"""Compute capability from which on the tensor cores multiply bytes as the kernels need it."""


def able(network: Network) -> bool:
    """Tell whether the kernels can run this network: in float32, on an NVIDIA GPU that is not too old, with Triton."""
    plain = all((op.drive is None or len(op.drive) == 1) and not op.signed for op in network.neurons.values())
    return plain and network.dtype == torch.float32 and network.device.type == "cuda" and _able(network.device)


@cache
def _able(device: torch.device) -> bool:
    return (
        torch.version.hip is None
        and find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= OLDEST
    )


def _check_batch(network: Network, images: int) -> None:
    """Places within a step are numbers of 32 bits in the kernels."""
    widest = max(padded(shape[0]) * prod(shape[1:]) for shape in network.shapes.values())
    if images * widest >= 2**31:
        raise SimulationError(
            f"batch_size: {images} images of a layer with {widest:,} neurons are too many for the GPU's kernels. "
            f"Give at most {(2**31 - 1) // widest:,}"
        )


class Gpu:
    """The engine for GPUs; the record is that of ``stepwise``."""

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> PlannedBatch:
        """See ``task.Engine``.

        Raises:
            SimulationError: no GPU that can, or no Triton, or the network is not in float32; or the batch is too large.
        """
        if not able(task.network):
            raise SimulationError(
                "engine: 'gpu' needs a network in float32 on an NVIDIA GPU (compute capability 8.0 or higher), and "
                "Triton; its neurons have no drive by step and no signed spikes. "
                "Choose 'auto' or 'layerwise', or move the network: network.to('cuda')"
            )
        _check_batch(task.network, len(task.images))
        with torch.cuda.device(task.network.device):
            return _by_plan().begin(task, memory, start, replay)

    def advance(self, batch: PlannedBatch, visit: Visit | None = None) -> None:
        with torch.cuda.device(batch.network.device):
            _by_plan().advance(batch, visit)


@cache
def _by_plan() -> ByPlan:
    """Triton is imported when a GPU is asked for."""
    layers: Any = import_module("equispike.simulation.gpu.layers")
    return ByPlan(layers.TensorCores())
