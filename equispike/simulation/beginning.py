"""All that is known before the first step: potentials, and under constant coding the values up to the first neurons."""

from collections.abc import Callable, Collection
from functools import lru_cache

import torch
from torch import Tensor

from equispike.functional.coding import uniform
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Conv, Neuron, Readout, WinnerPool, map_tensors
from equispike.simulation.task import Moment, Task
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


def beginning(task: Task) -> Moment:
    """The moment before the first step."""
    network, indices = task.network, task.indices
    classes = network.shapes[network.nodes[-1].name]
    scores = torch.zeros(len(indices), *classes, dtype=torch.float64, device=network.device)
    return Moment(0, initial_potentials(network, indices, task.seed), scores, nothing_sent(network, len(indices)))


def nothing_sent(network: Network, images: int) -> dict[str, Tensor]:
    """Zeros (B, *features) for signed neuron layers: what they have sent before the first step."""
    dtype = torch.promote_types(network.dtype, torch.float32)
    signed = (name for name, op in network.neurons.items() if op.signed)
    return {name: torch.zeros(images, *network.shapes[name], dtype=dtype, device=network.device) for name in signed}


def initial_potentials(network: Network, indices: Tensor, seed: int) -> dict[str, Tensor]:
    """Potential V(0) of every neuron layer, (B, *features): a fraction of the threshold, uniform below it, or given.

    A uniform draw of the n-th neuron layer (n = 1, 2, ...) comes from stream n of the seed. Of winner pools the sums of
    their inputs so far: zeros, float64.
    """
    potentials: dict[str, Tensor] = {}
    for n, (name, op) in enumerate(network.neurons.items(), start=1):
        threshold, _ = calibrated(name, op)
        shape = network.shapes[name]
        if isinstance(op.v_init, Tensor):
            potentials[name] = op.v_init.expand(len(indices), *shape).contiguous()
            continue
        if op.v_init == "uniform":
            fraction = uniform(seed, indices, n, shape).to(threshold.dtype)
        else:
            fraction = threshold.new_full((len(indices), *shape), op.v_init)
        potentials[name] = fraction * threshold
    return potentials | sums_of_pools(network, len(indices), {node.name for node in network.nodes})


def sums_of_pools(network: Network, images: int, wanted: Collection[str]) -> dict[str, Tensor]:
    """Zeros (B, *features), float64: what winner pools were given before the first step."""
    return {
        node.name: torch.zeros(images, *network.shapes[node.inputs[0]], dtype=torch.float64, device=network.device)
        for node in network.nodes
        if isinstance(node.op, WinnerPool) and node.name in wanted
    }


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
