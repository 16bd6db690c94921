r"""Synaptic operations of a spiking network, against the trained one's, and the energy that they stand for.

A spike that reaches a synapse costs one addition (AC) there; the trained network multiplies and adds (MAC) at each
synapse once for every image. Synapses are counted exactly: fewer at the borders of an image, and none where a kernel
reaches into the padding. A weight that happens to be zero counts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from equispike.analysis.energy import FLOAT32_45NM, Costs
from equispike.errors import ConversionError, SimulationError
from equispike.graph.network import Network, not_spiking
from equispike.graph.ops import Affine, AvgPool, Neuron, Node, Readout, Weighted, WinnerPool, map_tensors
from equispike.graph.walk import interpret, reweighted

NOT_COUNTED = (
    "biases, and the potential's comparison with the threshold and its reset, in every neuron and step",
    "divisions of average pools, which folding into weights removes, and pools of currents",
    "the coding of the input",
)
"""What no figure here includes."""


Kind = Literal["spikes", "constant", "changing"]
"""What a value is made of: spikes, or numbers that stay the same in all steps, or that do not."""


@dataclass(frozen=True, eq=False)
class Synapses:
    """Where spikes lead in a weighted layer, or in a layer of neurons that spikes reach without weights.

    Attributes:
        layer: the node's name.
        macs: multiplications of the trained network for one image; 0 where spikes only add up.
        fan_out: synapses of this layer that one spike reaches, by layer of origin, (*features), float64.
        analog: numbers that reach it too: "constant", "changing" or None. They are the input and, where no neurons are
            in between, another weighted layer's current.
    """

    layer: str
    macs: int
    fan_out: Mapping[str, Tensor]
    analog: Literal["constant", "changing"] | None


class OperationsRow(NamedTuple):
    """One layer and image: MACs of the trained network, and what the spiking network does in all its steps.

    ``sources`` are the additions by the layer whose spikes ask for them.
    """

    layer: str
    macs: int
    analog_macs: int
    additions: float
    sources: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Operations:
    r"""Operations of one image, the mean over those that were simulated.

    Attributes:
        rows: by layer, in the network's order.
        per_spike: additions per spike, by layer of origin, averaged over the spikes that there were.
        timesteps: T.
        entrance: name of the input if it spikes.
        not_counted: in words.
    """

    rows: tuple[OperationsRow, ...]
    per_spike: Mapping[str, float]
    timesteps: int
    entrance: str | None = None
    not_counted: tuple[str, ...] = field(default=NOT_COUNTED)

    @property
    def macs(self) -> int:
        """MACs of the trained network."""
        return sum(row.macs for row in self.rows)

    @property
    def analog_macs(self) -> int:
        """MACs that remain in the spiking network, since numbers come in there."""
        return sum(row.analog_macs for row in self.rows)

    @property
    def additions(self) -> float:
        """Synaptic operations of the spiking network."""
        return sum(row.additions for row in self.rows)

    @property
    def ratio(self) -> float:
        """Additions of the layers that neurons drive, per MAC of these layers (Sengupta et al., 2019, section 7.4)."""
        driven = [row for row in self.rows if not row.analog_macs and self.entrance not in row.sources]
        macs = sum(row.macs for row in driven)
        return sum(row.additions for row in driven) / macs if macs else math.nan

    def energy(self, costs: Costs = FLOAT32_45NM) -> float:
        """Joules for one image in the spiking network."""
        operations = self.analog_macs * costs.mac + self.additions * costs.add
        return operations + (self.analog_macs + self.additions) * costs.weight

    def trained_energy(self, costs: Costs = FLOAT32_45NM) -> float:
        """Joules for one image in the trained network."""
        return self.macs * (costs.mac + costs.weight)

    def energy_by_step(self, spikes: Mapping[str, Tensor], costs: Costs = FLOAT32_45NM) -> Tensor:
        """Joules for one image up to each step, (T,), float64.

        MACs are spent in the first step. The additions of a spike are those of its layer's average spike in this run.

        Args:
            spikes: of one image, the mean, in each step, by layer, (T,); of the input too, if it spikes.
        """
        total = torch.zeros(self.timesteps, dtype=torch.float64)
        for name, per_spike in self.per_spike.items():
            total += spikes[name].double().cumsum(0) * per_spike
        return total * (costs.add + costs.weight) + self.analog_macs * (costs.mac + costs.weight)

    def break_even(self, costs: Costs = FLOAT32_45NM, trained: Costs | None = None) -> float:
        """The factor by which spikes may increase until they cost what the trained network does: below 1, more.

        Multiplied with the run's spike rate it is the break-even spike rate.

        Args:
            trained: costs of the trained network's operations, e.g. ``INT8_45NM`` if quantized; default the same.
        Returns:
            0 if the MACs that remain alone cost more; infinity if there are no additions.
        """
        left = self.trained_energy(trained or costs) - self.analog_macs * (costs.mac + costs.weight)
        cost = self.additions * (costs.add + costs.weight)
        return max(left, 0.0) / cost if cost else math.inf


def operations(
    network: Network, counts: Mapping[str, Tensor], timesteps: int, inputs: Tensor | None = None
) -> Operations:
    r"""Operations of one image, from the spikes of every neuron (Sengupta et al., 2019, section 7.4).

    .. math:: \text{additions}_l = \sum_{k \to l} \sum_i n_{k,i} \, f_{k,i \to l}

    with n the spikes of neuron i in layer k and f its exact fan-out into layer l. Under constant coding, a layer that
    the input drives counts as MACs, once, since its current stays the same. A weighted layer that receives another
    one's current, with no neurons in between, multiplies in each step.

    Args:
        network: with thresholds, the one that was simulated.
        counts: spikes of each neuron over all T steps, mean over images, by layer, (*features); or of B images, as
            ``Run.counts`` has them, (B, *features).
        timesteps: T.
        inputs: where the input spikes (Poisson coding), spikes of each pixel over all T steps, likewise; their sign
            does not matter.
    Raises:
        SimulationError: counts of another network.
    """
    means: dict[str, Tensor] = {}
    entrance = network.nodes[0].name
    counts = counts if inputs is None else {entrance: inputs, **counts}
    for name in [entrance] * (inputs is not None) + list(network.neurons):
        shape = network.shapes[name]
        count = counts.get(name)
        if count is None or tuple(count.shape[-len(shape) :]) != shape:
            found = "missing" if count is None else f"of shape {tuple(count.shape)}"
            raise SimulationError(f"counts: {name} is {found}, expected (B, {', '.join(map(str, shape))})")
        means[name] = count.double().cpu().reshape(-1, *shape).mean(0)
    rows: list[OperationsRow] = []
    reached = dict.fromkeys(means, 0.0)
    for layer in synapses(network, inputs is not None):
        driven = {name: float((means[name] * fan_out).sum()) for name, fan_out in layer.fan_out.items()}
        for name, additions in driven.items():
            reached[name] += additions
        repeats = {None: 0, "constant": 1, "changing": timesteps}[layer.analog]
        rows.append(OperationsRow(layer.layer, layer.macs, layer.macs * repeats, sum(driven.values()), driven))
    spikes = {name: float(mean.sum()) for name, mean in means.items()}
    per_spike = {name: reached[name] / n if n else 0.0 for name, n in spikes.items()}
    return Operations(tuple(rows), per_spike, timesteps, None if inputs is None else entrance)


def synapses(network: Network, spiking_input: bool = False) -> list[Synapses]:
    """All synapses, by receiving layer; weights and thresholds do not matter.

    Args:
        network: converted.
        spiking_input: whether the input sends spikes rather than numbers.
    Raises:
        SimulationError: an operation that does not run on spikes.
    """
    origins: dict[str, Tensor] = {}
    kinds: dict[str, Kind] = {}
    found: list[Synapses] = []

    def begin(name: str, kind: Kind) -> Tensor:
        kinds[name] = kind
        origins[name] = torch.zeros(1, *network.shapes[name], dtype=torch.float64, requires_grad=True)
        return origins[name]

    def fire(node: Node, op: Neuron, x: Tensor) -> Tensor:
        here = _into(node, x, origins, kinds)
        found.extend([here] if here.fan_out else [])
        return begin(node.name, "spikes")

    def through(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if isinstance(node.op, Readout):
            return inputs[0]
        if not isinstance(node.op, Weighted):
            return _counting(node)(*inputs)
        here = _into(node, inputs[0], origins, kinds)
        found.append(here)
        return begin(node.name, "constant" if not here.fan_out and here.analog == "constant" else "changing")

    kind: Kind = "spikes" if spiking_input else "constant"
    for _ in interpret(network.nodes, lambda node, op: begin(node.name, kind), fire, through):
        pass
    return found


def _into(node: Node, x: Tensor, origins: Mapping[str, Tensor], kinds: Mapping[str, Kind]) -> Synapses:
    """The synapses of a node with input x, followed back to where spikes and numbers come from.

    With all weights 1, the gradient of the sum of a layer's outputs says for each input how many of them it reaches.
    """
    synapses_of_x = torch.ones_like(x)
    if not isinstance(node.op, Neuron):
        start = torch.zeros_like(x, requires_grad=True)
        (synapses_of_x,) = torch.autograd.grad(_counting(node)(start).sum(), start)
    names = list(origins)
    followed = torch.autograd.grad(
        x, [origins[name] for name in names], synapses_of_x, retain_graph=True, allow_unused=True
    )
    gradients = cast("Sequence[Tensor | None]", followed)
    reached = {name: g[0] for name, g in zip(names, gradients, strict=True) if g is not None and bool(g.any())}
    fan_out = {name: g for name, g in reached.items() if kinds[name] == "spikes"}
    if isinstance(node.op, Neuron):
        return Synapses(node.name, 0, fan_out, None)
    numbers = {kinds[name] for name in reached} - {"spikes"}
    analog = "changing" if "changing" in numbers else "constant" if numbers else None
    return Synapses(node.name, int(synapses_of_x.sum()), fan_out, analog)


def _counting(node: Node) -> Callable[..., Tensor]:
    """The operation with weights of one, so that it adds up how often each input counts."""
    op = node.op
    if isinstance(op, WinnerPool) and all(d == 1 for d in op.dilation):  # as if every spike passed: an upper bound
        op = AvgPool(op.kernel, op.stride, op.padding, op.ceil_mode)
    if isinstance(op, WinnerPool | Affine):
        raise SimulationError(not_spiking(node))
    try:
        return reweighted(map_tensors(op, lambda t: t.double().cpu()), torch.ones_like)
    except ConversionError as error:
        raise SimulationError(not_spiking(node)) from error
