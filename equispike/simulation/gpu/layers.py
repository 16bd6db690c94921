"""Layers as GPUs compute them: products of bytes on their tensor cores, each layer's neurons in the same kernel.

Weights are the integers that the CPU's core adds up (``trains.as_integers``), units and order of the remaining sums are
the same, so a network spikes on a GPU as it does on a CPU. Trains are bytes, (T', B, positions, channels), the channels
filled up to a multiple of 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import accumulate
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from equispike.functional.inputs import listed
from equispike.graph.network import Network
from equispike.simulation import plan
from equispike.simulation.currents import Current, Term, integers, most_at_once
from equispike.simulation.state import SIGNS, Driven, Neurons, PlannedBatch, Shapes, extents
from equispike.simulation.trains import MOST_DIGITS, extent, from_bits, padded, to_bits, train_bytes, widen

kernels: Any = import_module("equispike.simulation.gpu.kernels")  # Triton's language has no types

MOST_AT_ONCE = 127
"""Spikes that a byte may count: of a window's positions, in a step."""

SUMS = 2**28
"""Bytes for what arrives at a layer whose products and neurons take turns."""

PROGRAM = 1024
"""Neurons of a program that needs no products."""


@dataclass(frozen=True)
class Tiles:
    """Output positions, output channels and input channels that one program multiplies, its warps, and its stages.

    Half the stages hold blocks on their way from memory: each load waits for the one that says where it reads.
    """

    rows: int
    cols: int
    deep: int
    warps: int
    stages: int


@dataclass(frozen=True, eq=False)
class Gather:
    """Products with the spikes of one train.

    Attributes:
        train: whose.
        windows: source positions that are summed up first, (cells, most), -1 where a window has fewer; None if none is.
        where: cell or position that each element of the kernel reads, (kernel, positions), -1 for none.
        digits: of the weights, (count, outputs, kernel * depth), int8.
        inputs: channels of the train; ``depth``: of the digits, in whole blocks.
    """

    train: str
    windows: Tensor | None
    where: Tensor
    digits: Tensor
    inputs: int
    depth: int


@dataclass(frozen=True, eq=False)
class Taps:
    """Additions by single spikes: reads of (position, channel) pairs, one after the other.

    Attributes:
        trains: of each read; ``shifts``: output c reads channel c - shift.
        where: source position by read and output position, -1 for none.
        weights: (reads, channels).
    """

    trains: tuple[str, ...]
    shifts: tuple[int, ...]
    where: Tensor
    weights: Tensor


class GpuLayer:
    """A current as the GPU's kernels compute it."""

    def __init__(
        self,
        current: Current,
        network: Network,
        choose: bool = False,
        neurons: Driven | None = None,
    ) -> None:
        """Prepare weights and tables; there is one way to compute a current, whatever ``choose`` says."""
        device = network.device
        self.threshold = None if neurons is None else neurons.threshold
        self.hard = neurons is not None and neurons.reset == "zero"
        self.shape, self.dense = current.shape, current.dense
        channels, rows, cols = extent(current.shape)
        self.positions, self.channels = rows * cols, padded(channels)
        on_cpu = Current(
            current.shape,
            tuple(replace(term, weight=term.weight.cpu()) for term in current.gathers),
            tuple(replace(term, weight=term.weight.cpu()) for term in current.taps),
        )
        weights = integers(on_cpu, network.dtype)
        self.units = widen(weights.unit, self.channels).to(device)
        self.tiles = tiles(self.channels, min(weights.digits, MOST_DIGITS))
        self._settings = {"num_warps": self.tiles.warps, "num_stages": self.tiles.stages}
        depths = [term.weight.shape[:2].numel() for term in on_cpu.gathers]
        parts = torch.split(weights.whole, depths) if depths else ()
        self.gathers = [
            gather_of(term, whole, min(weights.digits, MOST_DIGITS), self.tiles, device)
            for term, whole in zip(on_cpu.gathers, parts)
        ]
        self.taps = taps_of(on_cpu.taps, self.positions, self.channels, network)
        bias = torch.zeros(channels, dtype=network.dtype) if current.bias is None else current.bias
        self.based = current.bias is not None or bool(current.dense)
        self.bias: Tensor | None = widen(bias, self.channels).to(device).view(1, 1, 1, -1)

    def added(self, state: PlannedBatch, first: int = 0) -> tuple[object, ...]:
        """Terms that are added to the products of steps, from this one of the chunk on, as the kernels take them.

        First the base and how far its images, positions and steps are apart, then what taps read.
        """
        base = state.base(self)
        strides = [0 if size == 1 else stride for size, stride in zip(base.shape, base.stride())]
        base = base[:, :, first:] if strides[2] else base
        trains = [state.trains[name][first:] for name in self.taps.trains]
        reads = [(own.data_ptr(), *own.shape[2:], shift) for own, shift in zip(trains, self.taps.shifts)]
        where = self.taps.where
        table = torch.tensor(reads, dtype=torch.int64).to(where.device) if reads else where  # not looked at then
        return base, *strides[:3], table, where, self.taps.weights, len(reads)

    def spikes(self, state: PlannedBatch, gather: Gather) -> Tensor:
        """Spikes that a gather reads, or their sums in its windows, (T', B, cells, inputs)."""
        train = state.trains[gather.train]
        if gather.windows is None:
            return train
        steps, batch, sources, inputs = train.shape
        cells, most = gather.windows.shape
        pooled = train.new_empty(steps, batch, cells, inputs)
        programs = (-(-pooled.numel() // PROGRAM),)
        kernels.pool[programs](train, gather.windows, pooled, pooled.numel(), sources, cells, inputs, most, PROGRAM)
        return pooled

    def sums(self, spikes: list[Tensor]) -> Tensor:
        """Weights that arrive in every step, (T', B, positions, channels), int32."""
        steps, batch = spikes[0].shape[:2]
        out = self.units.new_empty(steps, batch, self.positions, self.channels, dtype=torch.int32)
        for n, (gather, source) in enumerate(zip(self.gathers, spikes)):
            programs = *self._programs(batch, gather), steps
            kernels.sums[programs](
                source, gather.where, gather.digits, out, batch, source.shape[2], self.positions, len(gather.where),
                gather.digits.shape[1], self.channels, n > 0, *self._sizes(gather), **self._settings,
            )  # fmt: skip
        return out

    def together(self, batch: int) -> bool:
        """Tell whether one kernel makes products and neurons: if there is enough to do in each step."""
        return len(self.gathers) == 1 and prod(self._programs(batch, self.gathers[0])) >= processors(self.units.device)

    def fire(self, state: PlannedBatch, spikes: Tensor, v: Tensor) -> None:
        """Neurons and products in one kernel; fills ``spikes`` and brings ``v`` up to date."""
        (gather,) = self.gathers
        source = self.spikes(state, gather)
        steps, batch = spikes.shape[:2]
        kernels.fire[self._programs(batch, gather)](
            source, gather.where, gather.digits, self.units, *self.added(state), self.threshold, v, spikes, steps,
            batch, source.shape[2], self.positions, len(gather.where), gather.digits.shape[1], self.channels,
            self.based, bool(self.taps.trains), self.hard, *self._sizes(gather), **self._settings,
        )  # fmt: skip

    def integrate(self, state: PlannedBatch, out: Tensor, v: Tensor | None) -> None:
        """Products, then neurons, some steps at a time; or without potentials the currents into ``out``."""
        steps, batch, positions, channels = out.shape
        spikes = [self.spikes(state, gather) for gather in self.gathers]
        size, fires = batch * positions * channels, v is not None
        unread = self.units
        block = max(1, SUMS // (4 * size)) if self.gathers else steps
        for first in range(0, steps, block):
            own = out[first : first + block]
            arrived = self.sums([source[first : first + block] for source in spikes]) if self.gathers else own
            kernels.integrate[(-(-size // PROGRAM),)](
                arrived, self.units, *self.added(state, first), self.threshold if fires else unread,
                v if fires else unread, own, len(own), batch, positions, channels, bool(self.gathers),
                bool(self.taps.trains), fires, self.hard, PROGRAM,
            )  # fmt: skip

    def _programs(self, batch: int, gather: Gather) -> tuple[int, int]:
        return -(-batch * self.positions // self.tiles.rows), gather.digits.shape[1] // self.tiles.cols

    def _sizes(self, gather: Gather) -> tuple[int, ...]:
        return gather.inputs, gather.depth, len(gather.digits), self.tiles.rows, self.tiles.cols, self.tiles.deep


def tiles(channels: int, digits: int) -> Tiles:
    """For so many output channels, and digits of a weight."""
    cols = min(64 if digits > 1 else 128, 1 << (channels - 1).bit_length())
    return Tiles(rows=128, cols=cols, deep=64, warps=8 if cols >= 64 else 4, stages=8)


@cache
def processors(device: torch.device) -> int:
    """Programs that the GPU runs at once, at least."""
    return cast("Any", torch.cuda).get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class GpuNeurons(Neurons):
    """All neurons that run.

    Attributes:
        parts: of each layer its own potentials and spikes, (B, positions, channels), and spikes by image and step.
    """

    def __init__(self, network: Network, shapes: Shapes, images: int, steps: int) -> None:
        found = [(images, *own) for own in extents(shapes)]
        sizes = [prod(own) for own in found]
        potentials = torch.zeros(sum(sizes), dtype=network.dtype, device=network.device)
        counts = torch.zeros_like(potentials, dtype=torch.int32)
        tallies = counts.new_zeros(len(shapes), images, steps)
        super().__init__(shapes, images, potentials, counts, tallies)
        self.parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, own, size, end, tally in zip(shapes, found, sizes, accumulate(sizes), tallies):
            v, spikes = (x[end - size : end].view(own) for x in (potentials, counts))
            self.parts[name] = v, spikes, tally


@dataclass(frozen=True)
class TensorCores:
    """A GPU's tensor cores as a machine (see ``state.Machine``)."""

    Layer = GpuLayer
    Neurons = GpuNeurons

    def suits(self, current: Current) -> bool:
        """Tell whether bytes hold the sums of spikes in all windows of a current."""
        return all(most_at_once(term) <= MOST_AT_ONCE for term in current.gathers)

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Nothing is faster where most neurons spike."""
        return True

    def fire(self, state: PlannedBatch, name: str, layer: GpuLayer) -> None:
        neurons: Any = state.neurons
        v, counts, tally = neurons.parts[name]
        batch, steps = state.batch, len(state.steps)
        spikes = v.new_empty(steps, *v.shape, dtype=torch.int8)
        if layer.together(batch):
            layer.fire(state, spikes, v)
        else:
            layer.integrate(state, spikes, v)
        fired = tally[:, state.rows]
        size = v[0].numel()
        programs = batch, -(-size // (4 * PROGRAM))
        kernels.tally[programs](spikes, counts, fired, fired.stride(0), steps, batch, size, 4 * PROGRAM)
        state.trains[name] = spikes

    def emit(self, state: PlannedBatch, name: str, layer: GpuLayer) -> None:
        batch, steps = state.batch, len(state.steps)
        currents = layer.units.new_empty(steps, batch, layer.positions, layer.channels)
        layer.integrate(state, currents, None)
        value = currents[..., : layer.shape[0]].transpose(2, 3)
        state.dense[name] = value.reshape(steps, batch, *state.network.shapes[name])

    def score(self, state: PlannedBatch, layer: GpuLayer, scale: float) -> None:
        name = state.network.nodes[-1].inputs[0]
        self.emit(state, name, layer)
        plan.score(state, name, scale)

    def replay(self, state: PlannedBatch, name: str) -> None:
        known = state.given[name][state.steps.start - 1 : state.steps.stop - 1].to(state.images.device)
        channels = padded(state.network.shapes[name][0])
        state.trains[name] = from_bits(known)[..., :channels].to(torch.int8).contiguous()

    def draw(self, state: PlannedBatch, name: str) -> None:
        limits, numbers, seed = state.draws
        batch, channels, positions = limits.shape
        trains = [
            limits.new_zeros(len(state.steps), batch, positions, padded(channels), dtype=torch.int8) for _ in SIGNS
        ]
        programs = (-(-limits.numel() // PROGRAM),)
        kernels.draw[programs](
            limits, numbers, seed, state.steps.start, len(state.steps), *trains, batch, positions,
            channels, padded(channels), PROGRAM,
        )  # fmt: skip
        state.trains.update(zip((name + sign for sign in SIGNS), trains))

    def packed(self, state: PlannedBatch, name: str) -> Tensor:
        _, size = train_bytes(state.network.shapes[name])
        return to_bits(state.trains[name], size)

    def bytes_per_step(self, shape: tuple[int, ...]) -> int:
        channels, rows, cols = extent(shape)
        return rows * cols * padded(channels)


def gather_of(term: Term, whole: Tensor, count: int, tiles: Tiles, device: torch.device) -> Gather:
    """Tables of products with a train; ``whole`` are the weights as integers of ``count`` digits."""
    kernel, inputs, outputs = term.weight.shape
    where, windows = _reads(term)
    deep = tiles.deep
    depth = -(-inputs // deep) * deep
    wide = -(-outputs // tiles.cols) * tiles.cols
    rest = F.pad(whole.view(kernel, inputs, outputs), (0, wide - outputs, 0, depth - inputs)).permute(2, 0, 1)
    digits: list[Tensor] = []
    for _ in range(count):
        digit = ((rest + 128) & 255) - 128
        digits.append(digit.to(torch.int8).reshape(wide, kernel * depth))
        rest = (rest - digit) >> 8
    return Gather(
        term.train,
        None if windows is None else windows.to(device),
        where.to(device),
        torch.stack(digits).to(device),
        padded(inputs),
        depth,
    )


def _distinct(ranges: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Which of the ranges it is, (positions, kernel), -1 for empty ones; and the ranges."""
    table = listed(ranges)
    found = sorted({(first, last) for row in table for first, last in row if first < last})
    place = {own: n for n, own in enumerate(found)}
    rows = [[place.get((first, last), -1) for first, last in row] for row in table]
    return torch.tensor(rows, dtype=torch.int32).view(ranges.shape[:2]), found


def _reads(term: Term) -> tuple[Tensor, Tensor | None]:
    """Places that each element of the kernel reads, (kernel, positions), and the windows that are summed up before."""
    _, _, width = term.extent
    (row, rows), (col, cols) = _distinct(term.rows), _distinct(term.cols)
    y, x = row[:, None, :, None], col[None, :, None, :]
    single = all(last - first == 1 for first, last in (*rows, *cols))
    if single:
        starts = [torch.tensor([first for first, _ in own] + [0], dtype=torch.int32) for own in (rows, cols)]
        cell = starts[0][y.long()] * width + starts[1][x.long()]
        windows = None
    else:
        cell = y * len(cols) + x
        covered = [_covered(own, other, width) for own in rows for other in cols]
        most = max(map(len, covered), default=1)
        windows = torch.tensor([own + [-1] * (most - len(own)) for own in covered], dtype=torch.int32)
    where = torch.where((y < 0) | (x < 0), -1, cell)
    kernel, positions = where.shape[2:].numel(), where.shape[:2].numel()
    return where.permute(2, 3, 0, 1).reshape(kernel, positions).contiguous(), windows


def _covered(rows: Sequence[int], cols: Sequence[int], width: int) -> list[int]:
    """Positions in a range of rows and one of columns."""
    return [row * width + col for row in range(rows[0], rows[1]) for col in range(cols[0], cols[1])]


def taps_of(terms: tuple[Term, ...], positions: int, channels: int, network: Network) -> Taps:
    """Reads of all taps in the order in which the core makes them."""
    trains: list[str] = []
    shifts: list[int] = []
    where: list[list[int]] = []
    weights: list[Tensor] = []
    for term in terms:
        width = term.extent[2]
        rows, cols = listed(term.rows), listed(term.cols)
        own = widen(term.weight, channels)
        for ky in range(term.rows.shape[1]):
            for kx in range(term.cols.shape[1]):
                reads = [_covered(row[ky], col[kx], width) for row in rows for col in cols]
                for n in range(max(map(len, reads))):
                    trains.append(term.train)
                    shifts.append(term.shift)
                    where.append([read[n] if n < len(read) else -1 for read in reads])
                    weights.append(own[ky * term.cols.shape[1] + kx])
    table = torch.tensor(where, dtype=torch.int32).view(-1, positions)
    values = torch.stack(weights) if weights else torch.zeros(0, channels, dtype=network.dtype)
    return Taps(tuple(trains), tuple(shifts), table.to(network.device), values.to(network.device))
