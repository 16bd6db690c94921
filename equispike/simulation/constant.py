"""Values that are the same in every step: under constant coding, all up to the first neurons."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, Neuron, Readout, map_tensors
from equispike.simulation.task import Task
from equispike.simulation.trains import ISA, LANES, core, extent, fastest, layer_at, padded, widen

Compute = Callable[..., Tensor]


def fixed_values(task: Task) -> dict[str, Tensor]:
    """Values that do not change in time, by node, (1, B, *features).

    Computed in float64, then rounded once. How sums are ordered then leaves no trace, but for one in a hundred million:
    torch orders them by batch and device, the compiled core, which convolves on CPUs, always alike.
    """
    if not task.coder.constant:
        return {}
    first, op = task.network.nodes[0].name, task.network.input
    current = task.coder.encode(task.images, task.indices, range(1, 2), task.seed, op.scale, op.amplitude)
    exact, fixed = {first: current.squeeze(0).double()}, {first: current}
    for node, compute in _steps(task.network):
        value = exact[node.name] = compute(*(exact[name] for name in node.inputs))
        fixed[node.name] = value.to(task.images.dtype, memory_format=fastest(value)).unsqueeze(0)
    return fixed


@lru_cache(maxsize=4)
def _steps(network: Network) -> tuple[tuple[Node, Compute], ...]:
    """Nodes between the input and the first neurons, and what computes their values, (B, *features), from float64."""
    found = {network.nodes[0].name: network.nodes[0]}
    for node in network.nodes:
        if node.inputs and not isinstance(node.op, Neuron | Readout) and all(name in found for name in node.inputs):
            found[node.name] = node
    read = {name for node in found.values() for name in node.inputs}
    return tuple((node, _exact(network, node, node.name in read)) for node in found.values() if node.inputs)


def _exact(network: Network, node: Node, read: bool) -> Compute:
    """A linear operation in float64; of one that is not ``read`` further, perhaps in the network's type already."""
    op = node.op
    if core is not None and isinstance(op, Conv) and op.groups == 1 and network.device.type == "cpu":
        return _convolution(op, network.shapes[node.name], torch.float64 if read else network.dtype)
    return map_tensors(op, lambda x: x.double().contiguous(memory_format=fastest(x)))


def _convolution(op: Conv, shape: tuple[int, ...], dtype: torch.dtype) -> Compute:
    """A convolution in the core, in float64, rounded to this type; features of ``shape``."""
    channels, rows, cols = extent(shape)
    wide = padded(channels)
    height, width = [1, *op.weight.shape[2:]][-2:]
    kernel = widen(op.weight.double().reshape(channels, -1, height, width).permute(1, 2, 3, 0), wide)
    slabs = kernel.view(*kernel.shape[:3], wide // LANES, LANES).permute(3, 0, 1, 2, 4)
    weights = slabs.contiguous().numpy()
    bias = torch.zeros(channels) if op.bias is None else op.bias
    biases = widen(bias.double(), wide).numpy()
    slides = [(1, 0, 1), *zip(op.stride, op.padding, op.dilation)][-2:]

    def compute(x: Tensor) -> Tensor:
        assert core is not None
        images, out = x.shape[0], x.new_empty(x.shape[0], rows, cols, wide, dtype=dtype)
        given = x if x.ndim == 4 else x[:, :, None]
        core.convolve(given.contiguous().numpy(), weights, biases, *slides, out.numpy(), torch.get_num_threads(), ISA)
        return layer_at(out, images, shape)

    return compute
