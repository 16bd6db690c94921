r"""Corrections for a stated number of steps T: what spikes make of a ReLU is brought nearer to it, without labels.

All work on a network that has thresholds, in one pass: layer after layer, each with the currents that it receives from
the spikes of the layers before it, which are corrected already. Weights, biases and thresholds stay, and so does the
trained function; corrections go into the neurons' drive and initial potential. With the trained activation :math:`A`,
N spikes in T steps, and the amplitude :math:`a`, the error of a channel is that of its mean over images and space,

.. math:: d_c = \overline{a N / T} - \bar A_c .
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, repeat
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.batches import Batches, hold
from equispike.calibrate.method import gain, in_one_order
from equispike.errors import CalibrationError
from equispike.functional.coding import Constant, left_out
from equispike.functional.statistics import Mean
from equispike.graph.network import OUTPUT_NEURONS, Network, calibrated
from equispike.graph.ops import Input, Neuron, Node, Op, Readout, WinnerPool
from equispike.graph.walk import interpret
from equispike.simulation.stepwise import winners

RIDGE_PENALTIES = tuple(10.0**n for n in range(-4, 4))
"""The grid of ``RidgeReadout``, in units of the mean square of a score, summed over the images."""

HELD_BYTES = 2**28
"""Bytes of a layer's currents that are held for several passes; more are computed again in each."""

IN_CACHE = 2**22
"""Bytes of potentials that are tried at once, so that they stay in a processor's caches."""

Fire = Callable[[Tensor, slice], Tensor]
"""Potential of some images, and which -> spikes, in {-1, 0, 1}."""

Course = Callable[[], Iterator[Tensor]]
"""A node's value in each step in turn, (B, *features), from the first step on."""


class Correction(Protocol):
    """A way to correct one layer. Variants are frozen dataclasses."""

    @property
    def timesteps(self) -> int:
        """T, for which the layer is corrected."""
        ...

    def __call__(self, op: Neuron, currents: Course, trained: Tensor) -> Neuron:
        """The layer, corrected.

        Args:
            op: with threshold and amplitude.
            currents: that it receives in each of T steps, (B, C, *space).
            trained: its activation in the trained network, (B, C, *space).
        """
        ...


@checked_fields
@dataclass(frozen=True)
class Bias:
    r"""A constant drive for each channel (Li et al., 2021, "light pipeline"), set for T steps.

    .. math:: \delta_c \leftarrow \delta_c - d_c / g, \qquad \text{redone } \text{passes times}

    with the layer's ``calibrate.method.gain`` g, which is 1 for a ReLU.
    """

    timesteps: int
    passes: int = 5

    def __post_init__(self) -> None:
        _check(self, self.timesteps, self.passes)

    def __str__(self) -> str:
        return f"Bias(timesteps={self.timesteps})"

    def __call__(self, op: Neuron, currents: Course, trained: Tensor) -> Neuron:
        def put(drive: Tensor) -> Neuron:
            return replace(op, drive=drive.to(trained.dtype).reshape(1, -1))

        start = torch.zeros(trained.shape[1], dtype=torch.float64, device=trained.device)
        return _unbiased(put, start, currents, trained, self, 1)


@checked_fields
@dataclass(frozen=True)
class StepBias:
    r"""A drive for each channel and step (Wu et al., 2024, "forward temporal bias correction"), set for T steps.

    .. math:: \delta_c(t) \leftarrow \delta_c(t) - \rho \, (\overline{a z_c(t)} - \bar A_c) / g

    for t = 1, ..., T in order, each redone ``passes`` times on the potential that the corrected steps before have left.
    Later steps use the last row.
    """

    timesteps: int
    passes: int = 6
    rate: float = 0.5

    def __post_init__(self) -> None:
        _check(self, self.timesteps, self.passes)
        if not 0 < self.rate <= 1:
            raise CalibrationError(f"StepBias.rate: {self.rate} is outside (0, 1]")

    def __str__(self) -> str:
        return f"StepBias(timesteps={self.timesteps})"

    def __call__(self, op: Neuron, currents: Course, trained: Tensor) -> Neuron:
        goal, each = _mean(trained), trained.numel() // trained.shape[1]
        table = torch.zeros(self.timesteps, *goal.shape, dtype=goal.dtype, device=goal.device)
        size, slope = _size(op, goal), _slope(op, goal)
        images = max(1, IN_CACHE * len(trained) // trained.nbytes)
        blocks = [slice(at, at + images) for at in range(0, len(trained), images)]

        def settle(t: int, u: Tensor, fire: Fire) -> Tensor:
            for _ in range(self.passes):
                row = _spread(table[t], u)
                sent = torch.stack([_total(fire(u[some] + row, some)) for some in blocks]).sum(0)
                table[t] -= self.rate * (size * sent / each - goal) / slope
            return u.add_(_spread(table[t], u))

        for _ in _fired(op, currents, trained, settle):
            pass
        return replace(op, drive=table.to(trained.dtype))


@checked_fields
@dataclass(frozen=True)
class Potential:
    r"""An initial potential for each channel (Li et al., 2021; Bu et al., 2022 have theta/2 for all), set for T steps.

    .. math:: V_c(0) \leftarrow V_c(0) - T \, d_c / g, \qquad \text{redone } \text{passes times}
    """

    timesteps: int
    passes: int = 5

    def __post_init__(self) -> None:
        _check(self, self.timesteps, self.passes)

    def __str__(self) -> str:
        return f"Potential(timesteps={self.timesteps})"

    def __call__(self, op: Neuron, currents: Course, trained: Tensor) -> Neuron:
        def put(start: Tensor) -> Neuron:
            return replace(op, v_init=_spread(start, trained))

        start = _first_potential(op, trained)[0].reshape(trained.shape[1], -1)[:, 0]
        return _unbiased(put, start.double(), currents, trained, self, self.timesteps)


@checked_fields
@dataclass(frozen=True)
class RidgeReadout:
    r"""The map of the scores after T steps that brings them nearest to the trained ones, by ridge regression.

    .. math:: \min_M \sum_x \| M (s - \bar s) - (y - \bar y) \|^2 + \lambda \| M - 1 \|^2,
              \qquad c = \bar y - M \bar s

    with :math:`s = s_T(x) / T`, the trained scores y, and that :math:`\lambda` of a grid whose error is smallest on
    images left out one by one (Hoerl and Kennard, 1970; Allen, 1974). No spike changes.
    """

    timesteps: int

    def __post_init__(self) -> None:
        _check(self, self.timesteps)

    def __str__(self) -> str:
        return f"RidgeReadout(timesteps={self.timesteps})"

    def __call__(self, op: Readout, scores: Tensor, trained: Tensor) -> Readout:
        """The readout, corrected.

        Args:
            op: its earlier correction, if it has one, is replaced.
            scores: s, (B, classes).
            trained: y, (B, classes).
        Raises:
            CalibrationError: there are fewer than three images, or outputs are no vector of scores.
        """
        if scores.ndim != 2 or len(scores) < 3:
            raise CalibrationError(
                f"RidgeReadout: outputs of shape {tuple(scores.shape[1:])} on {len(scores)} images. "
                "Give at least three images, and a network whose output is a vector of class scores"
            )
        found, wanted = scores.double(), trained.double()
        s, missing = found - found.mean(0), wanted - wanted.mean(0) - (found - found.mean(0))
        gram, one = s.T @ s, torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
        unit = float(gram.trace()) / len(gram) or 1.0
        best, chosen, linalg = torch.inf, torch.zeros_like(one), cast("Any", torch.linalg)  # untyped in torch
        for penalty in RIDGE_PENALTIES:
            fit: Tensor = linalg.solve(gram + penalty * unit * one, s.T)
            leverage = (s * fit.T).sum(1) + 1 / len(s)
            error = float((((missing - s @ (fit @ missing)) / (1 - leverage)[:, None]) ** 2).sum())
            if error < best:
                best, chosen = error, (fit @ missing).T
        mix = one + chosen
        shift = wanted.mean(0) - mix @ found.mean(0)
        return replace(op, mix=mix.to(trained.dtype), shift=shift.to(trained.dtype))


AnyCorrection = Correction | RidgeReadout
"""A correction of layers or of scores."""


def correct(network: Network, batches: Batches, corrections: Sequence[AnyCorrection]) -> Network:
    """The network with these corrections, applied to each layer in this order; constant input.

    Corrections for the same T share one pass. The spikes of a layer are held for all images and steps, a byte each,
    until the layers that read them have run; currents are computed step by step.

    Raises:
        ConversionError: the network has no thresholds.
        CalibrationError: initial potentials are random, or a correction's own, see there.
        DataError: the images are unusable.
    """
    images = in_one_order(torch.cat([batch.images for batch in hold(batches, network.input.shape)]))
    with torch.no_grad():
        for timesteps, same in groupby(corrections, key=lambda correction: correction.timesteps):
            network = _pass(network, network.check_images(images), timesteps, list(same))
    return network


class _Both(NamedTuple):
    """One node's value as spikes, step by step, and in the trained network, (B, *features).

    Fields:
        fixed: it is the same in every step.
    """

    steps: Course
    trained: Tensor
    fixed: bool = False


def _pass(network: Network, images: Tensor, timesteps: int, corrections: Sequence[AnyCorrection]) -> Network:
    found: dict[str, Op] = {}
    of_scores = [correction for correction in corrections if isinstance(correction, RidgeReadout)]
    of_layers = [correction for correction in corrections if not isinstance(correction, RidgeReadout)]
    if of_scores and OUTPUT_NEURONS in network.neurons:
        raise CalibrationError("RidgeReadout: the readout counts spikes. Convert with readout='potential'")

    def enter(node: Node, op: Input) -> _Both:
        numbers = torch.arange(len(images), device=images.device)
        (x,) = Constant().encode(images, numbers, range(1, 2), 0, op.scale, op.amplitude)
        return _Both(partial(repeat, x, timesteps), op(images), fixed=True)

    def fire(node: Node, op: Neuron, value: _Both) -> _Both:
        calibrated(node.name, op)
        if op.v_init == "uniform":
            raise CalibrationError(f"{node.name}: potentials begin at random. Correct with a fixed v_init, as 0.5")
        trained, currents = op(value.trained), value.steps
        if not value.fixed and trained.nbytes * timesteps <= HELD_BYTES:
            currents = tuple(currents()).__iter__
        for correction in of_layers:
            op = correction(op, currents, trained)
        found[node.name] = op
        size, kind = calibrated(node.name, op)[1], trained.dtype
        train = torch.stack([z.to(torch.int8) for z in _driven(op, currents, trained)])
        return _Both(lambda: (z.to(kind) * size for z in train), trained)

    def through(node: Node, inputs: Sequence[_Both]) -> _Both:
        trained = node.op(*(value.trained for value in inputs))
        if all(value.fixed for value in inputs):
            return _Both(partial(repeat, node.op(*(next(value.steps()) for value in inputs)), timesteps), trained, True)
        steps = partial(_applied, node.op, [value.steps for value in inputs])
        if len(network.consumers[node.name]) > 1:
            steps = tuple(steps()).__iter__
        return _Both(steps, trained)

    for node, value in interpret(network.nodes, enter, fire, through):
        if isinstance(node.op, Readout) and of_scores:
            early = left_out(node.op.delay, timesteps)
            scores = torch.stack([score.double() for score in value.steps()][early:]).mean(0)
            found[node.name] = of_scores[-1](node.op, scores, value.trained)
    return network.replace_ops(found)


def _applied(op: Op, inputs: Sequence[Course]) -> Iterator[Tensor]:
    """An operation between neurons, step by step."""
    total: Tensor | None = None
    for values in zip(*(steps() for steps in inputs), strict=True):
        if isinstance(op, WinnerPool):
            total = torch.zeros_like(values[0], dtype=torch.float64) if total is None else total
            (value,), total = winners(op, values[0][None], total)
            yield value
        else:
            yield op(*values)


def _unbiased(
    put: Callable[[Tensor], Neuron],
    value: Tensor,
    currents: Course,
    trained: Tensor,
    by: "Bias | Potential",
    weight: int,
) -> Neuron:
    r"""The layer with a value per channel, (C,), from which its mean error was taken again and again.

    .. math:: x_c \leftarrow x_c - w \, d_c / g
    """
    goal, places = _mean(trained), by.timesteps * (trained.numel() // trained.shape[1])
    for _ in range(by.passes):
        op = put(value)
        sent = torch.stack([_total(z) for z in _driven(op, currents, trained)]).sum(0)
        value = value - weight * (_size(op, goal) * sent / places - goal) / _slope(op, goal)
    return put(value)


def _driven(op: Neuron, currents: Course, like: Tensor) -> Iterator[Tensor]:
    """Spikes of each step of a layer with its drive."""
    rows = op.drive
    if rows is None:
        return _fired(op, currents, like, lambda t, u, fire: u)
    return _fired(op, currents, like, lambda t, u, fire: u.add_(_spread(rows[min(t, len(rows) - 1)], u)))


def _fired(op: Neuron, currents: Course, like: Tensor, add: Callable[[int, Tensor, Fire], Tensor]) -> Iterator[Tensor]:
    """Spikes, in {-1, 0, 1}, of each step t = 0, 1, ... of a layer without its drive.

    Args:
        like: of its shape, (B, C, *space).
        add: (t, potential, fire) -> the potential with a drive; ``fire`` says which spikes a potential would give.
    """
    theta, _ = calibrated("neurons", op)
    v = _first_potential(op, like)
    sent = torch.zeros_like(v) if op.signed else None

    def fire(u: Tensor, some: slice = slice(None)) -> Tensor:
        z = torch.ge(u, theta, out=torch.empty_like(u))
        return z if sent is None else z.sub_(((u < 0) & (sent[some] > 0)).to(u.dtype))

    for t, current in enumerate(currents()):
        u = add(t, v.add_(current), fire)
        z = fire(u)
        if sent is not None:
            sent += z
        v = u.addcmul_(z, theta, value=-1) if op.reset == "subtract" else u.masked_fill_(z > 0, 0.0)
        yield z


def _first_potential(op: Neuron, like: Tensor) -> Tensor:
    """V(0), (B, C, *space)."""
    theta, _ = calibrated("neurons", op)
    start = op.v_init if isinstance(op.v_init, Tensor) else float(op.v_init) * theta
    return torch.zeros_like(like) + start


def _spread(row: Tensor, like: Tensor) -> Tensor:
    """A value per channel, (C,), that broadcasts over (B, C, *space)."""
    return row.to(like.dtype).view(-1, *(1,) * (like.ndim - 2))


def _mean(trained: Tensor) -> Tensor:
    """Mean of each channel, (C,), float64, exact: the same for any order of the images."""
    statistic = Mean(per_channel=True)
    return statistic.value(statistic.update(statistic.init(trained.device), trained))


def _total(spikes: Tensor) -> Tensor:
    """Spikes of each channel, (C,), float64; sums of whole numbers are exact."""
    return spikes.reshape(*spikes.shape[:2], -1).sum(2).double().sum(0)


def _size(op: Neuron, like: Tensor) -> Tensor:
    """Amplitude of each channel, (C,) or (1,)."""
    return calibrated("neurons", op)[1].to(like.dtype).flatten()


def _slope(op: Neuron, like: Tensor) -> Tensor:
    """Gain of each channel, (C,) or (1,)."""
    return torch.as_tensor(gain(op), dtype=like.dtype, device=like.device).flatten()


def _check(correction: object, timesteps: int, passes: int = 1) -> None:
    for name, value in (("timesteps", timesteps), ("passes", passes)):
        if value < 1:
            raise CalibrationError(f"{type(correction).__name__}.{name}: {value} is less than 1")
