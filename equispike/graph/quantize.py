"""Integer grids: a network's numbers rounded so that its sums are exact, and the proof that they are.

Every node counts in a unit of its own: what the trained network's value means is unit x value. Weights become integers,
their units travel to whoever reads them, and end in thresholds, the weights of sums and the scale of the readout.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equispike.arguments import checked
from equispike.errors import ConversionError
from equispike.graph.linear import pooled
from equispike.graph.network import Network, Node, calibrated, not_spiking
from equispike.graph.ops import (
    Add,
    AvgPool,
    Input,
    Move,
    Neuron,
    Op,
    Readout,
    Sparse,
    Sum,
    Weighted,
    Weights,
    WinnerPool,
    map_tensors,
)
from equispike.graph.units import fold_amplitudes, fold_thresholds
from equispike.graph.walk import interpret

PIXELS = 256
"""An analog image is rounded to multiples of 1/256 of the power of two at or above its largest value."""

STARTS = 16
"""Potentials start at multiples of 1/16 of the threshold."""

SCORE_BITS = 12
"""Bits of the readout's scale: the scores of 2**16 steps are then exact in float64 wherever currents have 24 bits."""

UNIFORM_BITS = 24
"""Bits of a potential drawn in [0, threshold), see ``functional.coding.uniform``."""

_ANY = 1074
"""Grain of any float64."""


def check_bits(bits: int) -> None:
    """ConversionError for a number of bits that :func:`quantize` does not take."""
    if not 4 <= bits <= 16:
        raise ConversionError(f"bits: {bits} is not between 4 and 16. 12 keep the accuracy of most networks")


@checked
def quantize(network: Network, bits: int = 12, timesteps: int = 1, per_channel: bool = True) -> Network:
    r"""The network on integer grids, where every engine gives the same spikes and scores to the last bit.

    Spikes get size 1 (:func:`fold_amplitudes`). With :math:`2^{k-1} \le \max |w| < 2^k` over a channel whose currents
    neurons alone read, else over the layer, :math:`e = b - 1 - k` and b bits,

    .. math:: w' = \mathrm{round}(2^e w), \quad |w'| < 2^{b-1}, \qquad \beta' = \mathrm{round}(2^e \beta), \qquad
        \theta' \approx 2^e \theta

    The factors go into the thresholds, the weights of sums (integers too) and the scale of the readout, so that they
    move no spike; only rounding does. Thresholds are integers, or keep b bits where they would be small ones; average
    pools of a power of two elements stay, others become sums whose divisor goes into what reads them. Images are
    rounded to 1/256 of the power of two at or above the largest pixel of the calibration, and saturate at that pixel;
    a fixed initial potential becomes a multiple of 1/16 of the threshold. A network that is on such grids already
    keeps every spike.

    All sums of one step are then exact in any order. That is proved from the numbers (``sum_bits``) and decides
    the type: float32 where 24 bits hold every sum, else float64.

    Args:
        network: calibrated.
        bits: of a weight with its sign, 4 to 16.
        timesteps: steps T for which potentials are proved exact too, whatever the spikes; that often takes float64.
            Past it, potentials of more than 2**24 grid steps, thousands of thresholds from firing, could be rounded.
        per_channel: channels have grids of their own, which is finer. False gives one threshold per layer
            (:func:`fold_thresholds`), which many tools and chips need.
    Raises:
        ConversionError: bits out of range, no thresholds, an average pool of windows that differ in size, or sums that
            not even float64 holds.
    """
    check_bits(bits)
    if timesteps < 1:
        raise ConversionError(f"timesteps: {timesteps} is less than 1. Give the steps of the simulation")
    unit = fold_amplitudes(network.to(torch.float64))
    rounded = to_grid(unit if per_channel else fold_thresholds(unit), bits, per_channel)
    needed = sum_bits(rounded, timesteps)
    worst = max(needed, key=lambda name: needed[name])
    if needed[worst] > 53:
        raise ConversionError(
            f"{worst} ({type(rounded[worst].op).__name__}): its sums need {needed[worst]} bits over {timesteps} steps, "
            "and float64 holds 53. Give fewer bits or timesteps"
        )
    # every engine adds up scores in float64, whatever the type of the network
    dtype = torch.float32 if max(n for name, n in needed.items() if name != rounded.nodes[-1].name) <= 24 else None
    provenance = {**network.provenance, "quantized": {"bits": bits, "timesteps": timesteps, "sum_bits": needed}}
    return dataclasses.replace(rounded.to(dtype or torch.float64), provenance=provenance)


def to_grid(network: Network, bits: int, per_channel: bool = True) -> Network:
    """The network in float64 with all its numbers on grids. Spikes have size 1 (``fold_amplitudes``); see ``quantize``.

    Raises:
        ConversionError: an operation that does not run on spikes, or a threshold far below the grid of its current.
    """
    network, one = network.to(torch.float64), torch.ones((), dtype=torch.float64)
    ops: dict[str, Op] = {}

    def enter(node: Node, op: Input) -> Tensor:
        step = 2.0 ** math.ceil(math.log2(op.scale)) / PIXELS
        scale = round(op.scale / step) * step
        ops[node.name] = Input(op.shape, scale, scale / step, step)
        return one * (step * op.amplitude / op.scale)

    def fire(node: Node, op: Neuron, unit: Tensor) -> Tensor:
        ops[node.name] = _rounded_neuron(op, unit, network.shapes[node.name], bits)
        return one

    def through(node: Node, units: Sequence[Tensor]) -> Tensor:
        ops[node.name], unit = _rounded(network, node, units, bits, per_channel)
        return unit

    for _ in interpret(network.nodes, enter, fire, through):
        pass
    return network.replace_ops(ops)


def sum_bits(network: Network, timesteps: int = 1) -> dict[str, int]:
    r"""Bits that the largest sum in each node needs to be exact in any order, proved from the network's numbers alone.

    A node's values are multiples of :math:`2^{-g}` and no sum of some of its terms leaves :math:`[-B, B]`, with
    :math:`B = \max_c \sum_i |w_{ci}| B_{in} + |b_c|` of a weighted layer; they need :math:`\lceil \log_2 (B 2^g + 1)
    \rceil` bits. Potentials stay within :math:`V(0) + T B`, since a reset never crosses zero upwards.

    Args:
        network: any calibrated network; input of images that are not on a grid needs more bits than any type has.
        timesteps: T, for potentials and scores.
    Returns:
        bits by node; float32 holds 24, float64 53.
    """
    needed: dict[str, int] = {}

    def enter(node: Node, op: Input) -> _Span:
        return _Span(op.amplitude, _ANY if op.step is None else _grain(op.step * op.amplitude / op.scale))

    def fire(node: Node, op: Neuron, arriving: _Span) -> _Span:
        needed[node.name] = _potentials(op, arriving, timesteps).bits
        _, amplitude = calibrated(node.name, op)
        return _Span(float(amplitude.max()), _grain(amplitude))

    def through(node: Node, inputs: Sequence[_Span]) -> _Span:
        sums, values = _span(network, node, inputs, timesteps)
        needed[node.name] = sums.bits
        return values

    return {
        node.name: needed.get(node.name, span.bits) for node, span in interpret(network.nodes, enter, fire, through)
    }


def _rounded(
    network: Network, node: Node, units: Sequence[Tensor], bits: int, per_channel: bool
) -> tuple[Op, Tensor]:  # fmt: skip
    """The operation on its grid, and the unit of its values, shape () or of a layer that neurons alone read (C,)."""
    op, unit = node.op, units[0]
    if isinstance(op, AvgPool):
        return _rounded_pool(node.name, op, network.shapes[node.inputs[0]], unit, bits)
    if isinstance(op, Sum):
        return _rounded_sum(op, units, bits)
    if isinstance(op, Readout):
        scale = op.scale * unit
        digits = 2.0 ** _exponent(scale, SCORE_BITS)
        return dataclasses.replace(op, scale=float((scale * digits).round() / digits)), torch.ones_like(unit)
    if isinstance(op, Move | WinnerPool) or (isinstance(op, Sparse) and op.moves):
        return op, unit
    if not isinstance(op, Weights):
        raise ConversionError(not_spiking(node))
    readers = network.consumers[node.name]
    alone = len(readers) == 1 and isinstance(neuron := readers[0].op, Neuron) and neuron.ceiling is None
    return _rounded_weights(op, unit, bits, per_channel and alone and isinstance(op, Weighted))


def _rounded_weights(op: Weights, unit: Tensor, bits: int, per_channel: bool) -> tuple[Op, Tensor]:
    weight, bias = op.weight * unit, op.bias
    largest = weight.flatten(1).abs().amax(1)
    exponent = _exponent(largest.max(), bits)
    if per_channel:  # channels that hardly differ from zero stay close to the layer's grid, for the sake of the sums
        exponent = _exponent(largest, bits).minimum(exponent + 8).where(largest > 0, exponent)
    most = 2 ** (bits - 1) - 1  # a magnitude just below a power of two would round up to it
    whole = (weight * _along(2.0**exponent, weight.ndim)).round().clamp(-most, most)
    bias = None if bias is None else (bias * 2.0**exponent).round()
    return dataclasses.replace(op, weight=whole, bias=bias), 2.0**-exponent


def _rounded_pool(name: str, op: AvgPool, shape: tuple[int, ...], unit: Tensor, bits: int) -> tuple[Op, Tensor]:
    """Averages over powers of two stay; over others they become sums, and the division goes to whoever reads them.

    Where windows differ in size, their weights are rounded like others.
    """
    sizes = op.sizes(shape[1:])
    if all(n & (n - 1) == 0 for n in sizes):
        return op, unit
    size = math.prod(op.kernel)
    if sizes == {size}:
        return op.sums(shape[0], torch.float64, unit.device), unit / size
    if (found := pooled(op, shape)) is not None:
        found = map_tensors(found, lambda t: t.to(unit))
        return _rounded_weights(found, unit, bits, False)
    raise ConversionError(
        f"{name} (AvgPool): its windows hold {', '.join(map(str, sorted(sizes)))} elements, and sums of their "
        "averages are not exact. Train with windows of a power of two elements, or without padding in the pool"
    )


def _rounded_sum(op: Sum, units: Sequence[Tensor], bits: int) -> tuple[Op, Tensor]:
    """Weights of a sum as integers: powers of two stay what they are, others are rounded like weights.

    Those that are integers keep their size, even if all of them could be halved: else a network that is quantized again
    would count in another unit behind the sum, and round biases again.
    """
    factors = torch.stack([c * unit for c, unit in zip(op.coefficients, units, strict=True)])
    power_of_two = torch.frexp(factors).mantissa.abs() == 0.5
    exponents = _exponent(factors, bits).where(~power_of_two, _exponent(factors, 2))
    common = exponents.where(factors != 0, exponents.min()).max().clamp(min=0)
    rounded = (factors * 2.0**exponents).round() * 2.0 ** (common - exponents)
    return dataclasses.replace(op, coefficients=tuple(float(c) for c in rounded)), 2.0**-common


def _rounded_neuron(op: Neuron, unit: Tensor, shape: tuple[int, ...], bits: int) -> Neuron:
    assert op.threshold is not None
    threshold = op.threshold / (_along(unit, len(shape)))
    exponent = _exponent(threshold, bits).clamp(0, bits)
    threshold = (threshold * 2.0**exponent).round().clamp(min=1.0) * 2.0**-exponent
    ceiling = None if op.ceiling is None else op.ceiling / float(unit)
    drive = None if op.drive is None else _on(exponent.flatten(), op.drive / unit)
    v_init = op.v_init
    if isinstance(v_init, Tensor):
        v_init = _on(exponent, v_init / _along(unit, len(shape)))
    elif v_init != "uniform":
        v_init = min(round(v_init * STARTS), STARTS - 1) / STARTS
    return Neuron(threshold, op.amplitude, ceiling, op.reset, v_init, drive, op.spikes, op.levels)


def _on(exponent: Tensor, values: Tensor) -> Tensor:
    """Rounded to multiples of 2**-exponent."""
    return (values * 2.0**exponent).round() * 2.0**-exponent


@dataclass(frozen=True)
class _Span:
    """Multiples of 2**-grain, none of them above the bound."""

    bound: float
    grain: int

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(self.bound + 2.0**-self.grain) + self.grain)


def _span(network: Network, node: Node, inputs: Sequence[_Span], timesteps: int) -> tuple[_Span, _Span]:
    """Span of the sums in a node between neurons, and of its values."""
    op, bound, grain = node.op, max(s.bound for s in inputs), max(s.grain for s in inputs)
    values = _Span(bound, grain)
    if isinstance(op, AvgPool):
        sizes = op.sizes(network.shapes[node.inputs[0]][1:])
        fine = math.log2(max(sizes)) if all(n & (n - 1) == 0 for n in sizes) else _ANY
        return _Span(max(sizes) * bound, grain), _Span(bound, grain + int(fine))
    if isinstance(op, Weights):
        most = _rows(op).double().abs().sum(1) * bound
        bias = torch.zeros_like(most) if op.bias is None else op.bias.double().flatten()
        highest = (most + bias.abs().view(-1, len(most))).max()
        values = _Span(float(highest), max(_grain(op.weight) + grain, _grain(bias)))
    elif isinstance(op, Sum):
        parts = [_Span(abs(c) * s.bound, _grain(c) + s.grain) for c, s in zip(op.coefficients, inputs, strict=True)]
        combine = sum if isinstance(op, Add) else max
        values = _Span(combine(part.bound for part in parts), max(part.grain for part in parts))
    elif isinstance(op, Readout):
        values = _Span(timesteps * bound * op.scale, grain + _grain(op.scale))
    return values, values


def _rows(op: Weights) -> Tensor:
    """The weights of each output, (outputs, weights)."""
    return op.weight.T if isinstance(op, Sparse) else op.weight.flatten(1)


def _potentials(op: Neuron, arriving: _Span, timesteps: int) -> _Span:
    """Span of the potentials of neurons that receive such currents."""
    threshold = torch.zeros(()) if op.threshold is None else op.threshold
    drive = torch.zeros(()) if op.drive is None else op.drive
    highest = float(threshold.max())
    if isinstance(op.v_init, Tensor):
        highest, start = max(highest, float(op.v_init.abs().max())), _grain(op.v_init)
    else:
        start = _grain(threshold) + (UNIFORM_BITS if op.v_init == "uniform" else _grain(op.v_init))
    most = arriving.bound + float(drive.abs().max())
    return _Span(highest + timesteps * most, max(arriving.grain, start, _grain(threshold), _grain(drive)))


def _exponent(values: Tensor, bits: int) -> Tensor:
    """The e for which values x 2**e have as many digits as a signed integer of these bits holds; float64."""
    return bits - 1.0 - torch.frexp(values).exponent


def _grain(values: Tensor | float) -> int:
    """The smallest g >= 0 for which all values are multiples of 2**-g."""
    mantissa, exponent = torch.frexp(torch.as_tensor(values, dtype=torch.float64))
    digits = (mantissa * 2.0**53).long()
    lowest = torch.frexp((digits & -digits).double()).exponent - 1
    grains = (53 - exponent - lowest).where(digits != 0, 0)
    return max(0, int(grains.max()))


def _along(values: Tensor, rank: int) -> Tensor:
    """Numbers of a layer () or of its channels (C,), laid along the first of ``rank`` axes."""
    return values.view(-1, *(1,) * (rank - 1)) if values.ndim else values
