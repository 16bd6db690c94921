"""Event-driven engine for CPUs: only spikes cost anything.

Between layers spikes are bits. The core (``csrc/``, C++) adds one row of weights, integers, per spike and output
position, with the potentials in registers for all steps of a chunk. Sums are exact in any order, so what spikes does
not depend on chunks, threads, or kernels.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from equispike.errors import SimulationError
from equispike.graph.network import Network
from equispike.simulation.currents import Current, integers, most_at_once
from equispike.simulation.plan import ByPlan
from equispike.simulation.state import SIGNS, ByLayer, Driven, Machine, Neurons, PlannedBatch, Shapes, by_layer, extents
from equispike.simulation.task import Moment, Replay, Task, Visit
from equispike.simulation.trains import (
    ISA,
    MOST_DIGITS,
    Integers,
    core,
    extent,
    padded,
    to_features,
    train_bytes,
    widen,
)

SLAB = max(320 * 2**10, (core.l2_cache() if core else 0) * 5 // 8)
"""Bytes of weights that are to stay in the L2 cache."""

NARROW = 32
"""Output channels up to which events are looked at one by one: swept up row by row where neighbours read places next to
each other, else scattered in memory, to the currents of all outputs that read them. Above, each output gathers its
events first: more work to find them, less to add."""

SWEPT = 64
"""Output channels up to which sweeping may turn out to be faster."""

SWEPT_AT_ONCE = 64 if ISA in ("avx512", "amx") else 32
"""Of them, those whose sums for three outputs there are registers for."""

EITHER = range(17, 49)
"""Output channels with which either may turn out to be faster."""

LARGEST_SHORT = 2**13 - 1
"""Weights that are integers no larger than this are added up in 16 bits: four of them fit there, whichever they are.
Fewer would hardly pay."""

MULTIPLIES = ISA == "amx"
"""Whether the core's dense kernel can be faster: where there are instructions for products of matrices."""

USUAL_RATE, CYCLES = 0.04, 3e9
"""Spikes per neuron and step, and cycles per second, that are assumed before a layer has run."""

TRY_AGAIN, TRY_BELOW = 64, 3.0
"""So often a kernel runs though another was faster, unless by so much: a machine's speed changes."""

DELAYED = 0.25
"""Of a run that took longer than the kernel's runs before, how much counts: something else may have held it up."""

DENSE_ABOVE = 0.4
"""Additions over the multiplications of the dense operation, above which the dense operation is faster."""

_MOST_COLS = 65535  # of a source whose events are scattered
_WIDTHS = 64, 48, 32, 16  # output channels of a slab, as in the core


class CpuLayer:
    """A current as the core computes it, by one kernel or by whichever turns out to be faster.

    Weights are integers in all kernels, so sums are exact and the choice changes nothing but the time.

    Attributes:
        cores: by the kernel's name.
        products: seconds per image and step that the dense kernel takes, about; it is not tried where others take less.
        pace: of each kernel, seconds per image and step when it ran last, less what may have held it up.
        runs: of all of them.
    """

    def __init__(
        self,
        current: Current,
        network: Network,
        choose: bool = False,
        neurons: Driven | None = None,
    ) -> None:
        """Prepare the event-driven kernel that suits the shape; with ``choose`` all that may pay."""
        dtype = network.dtype
        self.dense, self.shape = current.dense, current.shape
        channels, rows, cols = extent(current.shape)
        self.channels, self.positions = padded(channels), rows * cols
        self.trains = [term.train for term in (*current.gathers, *current.taps)]
        self.bias = None if current.bias is None else widen(current.bias, self.channels)
        weights = integers(current, dtype)
        self.cores = {how: self._core(current, weights, dtype, how) for how in self._kernels(current, weights, choose)}
        self.neurons = neurons
        if neurons is not None:
            for own in self.cores.values():
                own.set_neurons(neurons.threshold, "signed" if neurons.signed else neurons.reset)
        self.products = _products(weights) * self.positions * self.channels / CYCLES
        self.pace: dict[str, float] = {}
        self.runs = 0

    def _kernels(self, current: Current, weights: Integers, choose: bool) -> list[str]:
        """Kernels that may compute the current, the one that looks fastest first; without ``choose`` that one alone."""
        assert core is not None
        scatters = self.positions > 1 and all(term.extent[2] <= _MOST_COLS for term in current.gathers)
        narrow = self.channels <= NARROW or not current.gathers
        events = ["scatter", "gather"] if scatters and narrow else ["gather", "scatter"]
        if not (choose and scatters and self.channels in EITHER):
            events = events[:1]
        if (
            current.gathers
            and scatters
            and self.channels <= SWEPT
            and all(core.sweeps(term.extent, term.rows.numpy(), term.cols.numpy()) for term in current.gathers)
        ):
            events = ["sweep", *events] if narrow else [*events, "sweep"]
        events = events if choose else events[:1]
        if not (choose and MULTIPLIES and _fits(current, weights)):
            return events
        return ["multiply", *events] if _products(weights) < _additions(current) else [*events, "multiply"]

    def _core(self, current: Current, weights: Integers, dtype: torch.dtype, how: str) -> Any:
        assert core is not None
        channels, rows, cols = extent(current.shape)
        short = how == "gather" and weights.largest <= LARGEST_SHORT
        size = weights.digits if how == "multiply" else 2 if short else dtype.itemsize
        depth = len(weights.whole)
        widths = [w for w in _WIDTHS if not self.channels % w and (how != "sweep" or w <= SWEPT_AT_ONCE)]
        width = next((w for w in widths if depth * size * w <= SLAB), widths[-1])
        bias = torch.zeros(self.channels, dtype=dtype) if self.bias is None else self.bias
        own = (core.Layer32 if dtype == torch.float32 else core.Layer64)(rows, cols, channels, width, how, bias)
        for term in current.gathers:
            own.gather(term.extent, term.rows, term.cols)
        whole, unit = widen(weights.whole, self.channels), widen(weights.unit, self.channels)
        slabs = whole.view(depth, self.channels // width, width).movedim(1, 0)
        if how == "multiply":
            own.set_digits(whole.to(torch.int32), unit, weights.digits)
        elif short:
            own.set_shorts(slabs.to(torch.int16).contiguous(), unit)
        else:
            own.set_weights(slabs.contiguous(), unit)
        for term in current.taps:
            own.tap(term.extent, term.rows, term.cols, term.shift, widen(term.weight, self.channels))
        return own

    def run(self, work: int, call: Callable[[Any], Any]) -> Any:
        """Ask one of the kernels to do something for so many images times steps; return what it gives."""
        how = self._fastest()
        began = time.perf_counter()
        found = call(self.cores[how])
        now = (time.perf_counter() - began) / work
        before = self.pace.get(how, now)
        self.pace[how] = min(now, before + (now - before) * DELAYED)
        self.runs += 1
        return found

    def _fastest(self) -> str:
        if self.runs == 1:  # the first run waited for memory to be mapped
            return next(iter(self.pace))
        known = min(self.pace.values(), default=math.inf)
        for how in self.cores:
            if how not in self.pace and (how != "multiply" or self.products / torch.get_num_threads() < known):
                return how
        best, *others = sorted(self.pace, key=self.pace.__getitem__)
        if others and self.runs % TRY_AGAIN == 0:
            other = others[self.runs // TRY_AGAIN % len(others)]
            return other if self.pace[other] < TRY_BELOW * self.pace[best] else best
        return best

    def inputs(self, state: PlannedBatch) -> tuple[list[Any], Any]:
        """Trains, and the current that is there without spikes, (B, positions, T', channels); each extent may be 1.

        None where that is the bias alone. As a NumPy array, which the core takes in a third of the time.
        """
        base = state.base(self).numpy() if self.dense else None
        return [state.trains[name] for name in self.trains], base


class CpuNeurons(Neurons):
    """All neurons that run, in memory of the core.

    Attributes:
        place: number of each layer.
        signed: layers that take spikes back.
        before: what these had sent when the run began, (B, *features).
    """

    def __init__(self, network: Network, shapes: Shapes, images: int, steps: int) -> None:
        assert core is not None
        kind = core.Neurons32 if network.dtype == torch.float32 else core.Neurons64
        self.signed = [name for name in shapes if network.neurons[name].signed]
        self.own = kind(images, steps, extents(shapes), bool(self.signed))
        super().__init__(shapes, images, self.own.v, self.own.counts, torch.as_tensor(self.own.fired))
        self.place = {name: n for n, name in enumerate(shapes)}
        self.dtype = network.dtype
        self.before: dict[str, Tensor] = {}

    def begin(self, sent: Mapping[str, Tensor]) -> None:
        for name in self.signed:
            by_layer(self.own.counts, self.images, self.shapes)[name].copy_(sent[name])
            self.before[name] = sent[name].to(torch.int32)

    @property
    def counts(self) -> Mapping[str, Tensor]:
        net = super().counts
        return ByLayer(self.shapes, lambda name: self._count(net[name], name)) if self.signed else net

    def _count(self, net: Tensor, name: str) -> Tensor:
        if name not in self.signed:
            return net
        return net - self.before.get(name, 0) + 2 * self.negative[name]

    @property
    def negative(self) -> dict[str, Tensor]:
        taken = by_layer(self.own.taken, self.images, self.shapes, torch.int32)
        return {name: taken[name] for name in self.signed}

    @property
    def sent(self) -> dict[str, Tensor]:
        net = by_layer(self.own.counts, self.images, self.shapes, self.dtype)
        return {name: net[name] for name in self.signed}

    def rates_in(self, steps: slice) -> dict[str, float]:
        """Spikes per neuron and step by train; of signed layers all in the train of the positive ones."""
        fired = self.own.fired[:, :, steps].mean((1, 2)).tolist()
        trains = (name + SIGNS[0] if name in self.signed else name for name in self.shapes)
        return {train: spikes / prod(shape) for train, spikes, shape in zip(trains, fired, self.shapes.values())}


def _most_spikes(current: Current) -> int:
    """Spikes of all inputs that an output reads, in one step, at most."""
    return sum(most_at_once(term) * term.weight.shape[:2].numel() for term in current.gathers)


def _fits(current: Current, weights: Integers) -> bool:
    """Tell whether the dense kernel can: bytes hold its spikes, and 32 bits the sums of its digits."""
    most = max((most_at_once(term) for term in current.gathers), default=256)
    return most < 256 and _most_spikes(current) < 2**24 and weights.digits <= MOST_DIGITS


def _additions(current: Current) -> float:
    """Cycles of an output channel and step in an event-driven kernel, about, at the rate that is usual."""
    return _most_spikes(current) * USUAL_RATE / 7


def _products(weights: Integers) -> float:
    """The same in the dense kernel."""
    return len(weights.whole) * weights.digits * 30 / (16 * 16 * 64)


@dataclass(frozen=True)
class Cpu:
    """The compiled core as a machine (see ``state.Machine``)."""

    Layer = CpuLayer
    Neurons = CpuNeurons

    def suits(self, current: Current) -> bool:
        """Tell whether the core can compute this current: it can any."""
        return True

    def multiplies(self, dtype: torch.dtype) -> bool:
        """Tell whether layers of this type may be computed by the core's dense kernel where that is faster."""
        return MULTIPLIES and dtype == torch.float32

    def fire(self, state: PlannedBatch, name: str, layer: CpuLayer) -> None:
        neurons: Any = state.neurons
        first, steps = state.rows.start, len(state.steps)
        assert layer.neurons is not None
        drive = layer.neurons.drive_in(state.steps)
        place = neurons.own, neurons.place[name], first, steps
        given = *layer.inputs(state), *place, torch.get_num_threads(), ISA, None if drive is None else drive.numpy()
        if layer.neurons.signed:
            both = layer.run(state.batch * steps, lambda own: own.fire_signed(*given))
            state.trains.update(zip((name + sign for sign in SIGNS), both))
        else:
            state.trains[name] = layer.run(state.batch * steps, lambda own: own.fire(*given))

    def emit(self, state: PlannedBatch, name: str, layer: CpuLayer) -> None:
        steps = len(state.steps)
        currents = state.images.new_empty(state.batch, layer.positions, steps, layer.channels)
        given = *layer.inputs(state), currents.numpy(), torch.get_num_threads(), ISA
        layer.run(state.batch * steps, lambda own: own.emit(*given))
        value = to_features(currents, layer.shape)
        shape = state.network.shapes[name]
        state.dense[name] = value if shape == layer.shape else value.reshape(*value.shape[:2], *shape)

    def score(self, state: PlannedBatch, layer: CpuLayer, scale: float) -> None:
        first, steps = state.rows.start, len(state.steps)
        scores = state.sums.numpy(), state.totals.numpy()
        given = *layer.inputs(state), *scores, first, steps, scale, torch.get_num_threads(), ISA
        layer.run(state.batch * steps, lambda own: own.score(*given))

    def replay(self, state: PlannedBatch, name: str) -> None:
        assert core is not None
        known = state.given[name][state.steps.start - 1 : state.steps.stop - 1]
        channels, rows, cols = extent(state.network.shapes[name])
        train = state.trains[name] = core.Train(state.batch, rows * cols, len(state.steps), channels)
        torch.as_tensor(train.bits).copy_(known.permute(1, 2, 0, 3))

    def draw(self, state: PlannedBatch, name: str) -> None:
        assert core is not None
        trains = core.draw(*state.draws, state.steps.start, len(state.steps), torch.get_num_threads(), ISA)
        state.trains.update(zip((name + sign for sign in SIGNS), trains))

    def packed(self, state: PlannedBatch, name: str) -> Tensor:
        return torch.as_tensor(state.trains[name].bits).permute(2, 0, 1, 3)

    def bytes_per_step(self, shape: tuple[int, ...]) -> int:
        return prod(train_bytes(shape))


def installed() -> bool:
    """Tell whether the core was compiled when the package was installed."""
    return core is not None


def suits(network: Network) -> bool:
    """Tell whether the core knows the network's device and type."""
    return network.device.type == "cpu" and network.dtype in (torch.float32, torch.float64)


@dataclass(frozen=True)
class Events(ByPlan):
    """The engine for CPUs, on the compiled core; with ``choose``, its dense kernel too where the machine has one.

    Attributes:
        adapt: layers whose input turns out to spike so often that torch's dense operation is faster use it from the
            next chunk on, and events again when it calms down.
    """

    machine: Machine = Cpu()
    choose: bool = False
    adapt: bool = False

    def begin(self, task: Task, memory: int, start: Moment | None = None, replay: Replay | None = None) -> PlannedBatch:
        """See ``task.Engine``.

        Raises:
            SimulationError: there is no core, or it does not suit the network.
        """
        if not (installed() and suits(task.network)):
            raise SimulationError(
                "engine: 'events' needs a network in float32 or float64 on the CPU, and its compiled core. "
                "Choose 'auto' or 'layerwise', or install equispike again where there is a C++ compiler"
            )
        return super().begin(task, memory, start, replay)

    def advance(self, batch: PlannedBatch, visit: Visit | None = None) -> None:
        super().advance(batch, visit)
        if self.adapt and batch.first_plan.events and batch.done < batch.task.timesteps and batch.scored:
            batch.plan = self._plan(batch.task, _crowded(batch), frozenset(), True)


def _crowded(batch: PlannedBatch) -> frozenset[str]:
    """Layers whose input spiked so often in this chunk that the dense operation would have been faster."""
    rates = cast("CpuNeurons", batch.neurons).rates_in(batch.rows)
    return frozenset(
        name
        for name, trains in batch.first_plan.events.items()
        if sum(share * rates.get(train, 0.0) for train, share in trains.items()) > DENSE_ABOVE
    )
