"""Thresholds from the trained network's activations (Diehl 2015, Rueckauer 2017), or from its weights alone."""

import warnings
from dataclasses import dataclass, replace
from operator import length_hint
from typing import Any

import torch
from torch import Tensor

from equispike.arguments import checked_fields
from equispike.batches import Batch, Batches, hold, in_pieces
from equispike.calibrate.method import (
    ReadoutKind,
    Thresholds,
    gain,
    halves,
    score_errors,
    substitute,
    to_layer,
    with_thresholds,
)
from equispike.errors import CalibrationError, CalibrationWarning, warn
from equispike.functional.integrate import Reset
from equispike.functional.statistics import Histogram, Maximum, Percentile
from equispike.graph.network import Network, values_of
from equispike.graph.ops import Neuron, Node
from equispike.graph.walk import Interval, bounds
from equispike.progress import track
from equispike.workers import Workers, done_by

PERCENTILES = 93.0, 95.0, 97.0, 99.0, 99.5, 99.9, 100.0
"""Those between which a number of time-steps decides."""

MUCH = 0.1
"""Share of a layer's activity above its threshold from which on there is a warning."""


@checked_fields
@dataclass(frozen=True)
class DataNorm:
    """Data-based normalisation: threshold = a percentile of the layer's activation in the trained network.

    100 is the maximum (Diehl et al., 2015); 99.9 is robust against outliers (Rueckauer et al., 2017);
    per channel follows Kim et al. (2020). The maximum is exact; other percentiles follow nearest rank over the
    activations above zero, as Rueckauer's reference code has it, within the bound stated at
    ``functional.statistics.Percentile``. A channel that stays silent takes the layer's largest threshold, a layer that
    does so the size of a spike that reaches it, with a warning. There is a warning as well where a threshold cuts off
    more than a tenth of a layer's activity, which no number of steps brings back.

    ``percentile=None`` takes that of PERCENTILES whose scores after ``timesteps`` steps, divided by them, are nearest
    to the trained scores: constant input, half a threshold at the start, on a quarter of the images (at most 128) that
    is held out while thresholds are fitted. With what was chosen all images are fitted.
    """

    percentile: float | None = 100.0
    per_channel: bool = False
    reset: Reset = "subtract"
    readout: ReadoutKind = "potential"
    timesteps: int | None = None

    def __post_init__(self) -> None:
        if (self.percentile is None) != (self.timesteps is not None):
            raise CalibrationError("DataNorm: give a percentile, or percentile=None and the timesteps to choose it for")
        if self.timesteps is not None and self.timesteps < 1:
            raise CalibrationError(f"DataNorm.timesteps: {self.timesteps} is less than 1")
        if self.percentile is not None:
            self._statistic()

    def __str__(self) -> str:
        channels = ", per_channel=True" if self.per_channel else ""
        percentile = f"{self.percentile:g}" if self.percentile is not None else f"None, timesteps={self.timesteps}"
        return f"DataNorm(percentile={percentile}{channels})"

    def __call__(self, network: Network, batches: Batches, on: Workers | None = None) -> Thresholds:
        """Thresholds by layer; ``on`` says who measures, as for ``evaluate``. DataError if the images are unusable."""
        if self.timesteps is not None:
            return self._choose(network, hold(batches, network.input.shape), self.timesteps, on)
        statistic, states = self._statistic(), dict[str, Any]()
        parts = done_by(on, _Work(network, statistic), in_pieces(batches, network.input.shape))
        for _, found in track(parts, str(self), length_hint(batches)):
            states = {name: statistic.merge(states[name], found[name]) for name in states} or found
        thresholds = Thresholds()
        for name in states:
            value = statistic.value(states[name])
            thresholds[name] = self._threshold(network, name, value, thresholds)
            if isinstance(statistic, Percentile) and (lost := statistic.clipped(states[name], value)) > MUCH:
                warn(
                    f"{name}: the threshold of {self} cuts off {100 * lost:.0f} % of the layer's activity on the "
                    "calibration images, at any number of steps. Raise the percentile",
                    CalibrationWarning,
                )
        return thresholds

    def _choose(self, network: Network, held: list[Batch], timesteps: int, on: Workers | None) -> Thresholds:
        fitted, held_out = halves(held)
        errors: dict[float, float] = {}
        for percentile in PERCENTILES:
            method = replace(self, percentile=percentile, timesteps=None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CalibrationWarning)
                spiking = with_thresholds(network, method(network, fitted), self.reset)
            begun = {name: replace(op, v_init=0.5) for name, op in spiking.neurons.items()}
            spiking, delays = spiking.replace_ops(begun), [network.readout.delay]
            (errors[percentile],) = score_errors(spiking, held_out, timesteps, delays)
        best = min(errors, key=lambda percentile: errors[percentile])
        thresholds = replace(self, percentile=best, timesteps=None)(network, held, on)
        thresholds.told = {"timesteps": timesteps, "percentile": best, "errors": {f"{p:g}": errors[p] for p in errors}}
        return thresholds

    def _statistic(self) -> Any:
        if self.percentile == 100.0:
            return Maximum(self.per_channel)
        assert self.percentile is not None
        return Percentile(self.percentile, self.per_channel)

    def _threshold(self, network: Network, name: str, value: Tensor, found: Thresholds) -> Tensor:
        largest = value.max()
        if largest <= 0:
            return substitute(network, name, found, "activation")
        return to_layer(network, name, value.where(value > 0, largest)) / gain(network.neurons[name])


@dataclass(frozen=True)
class _Work:
    """The statistics of all layers of the trained network on a piece of the images."""

    network: Network
    statistic: Any

    def __call__(self, piece: Batches) -> dict[str, Any]:
        network, statistic = self.network, self.statistic
        states = {name: statistic.init(network.device) for name in network.neurons}
        with torch.no_grad():
            for batch in hold(piece, network.input.shape):
                for name, value in values_of(network, network.check_images(batch.images), set(states)):
                    states[name] = update(name, statistic, states[name], value)
        return {name: _packed(state) for name, state in states.items()}


def _packed(state: Any) -> Any:
    """The same state in fewer bytes: of the bins of a layer with 512 channels, 67 MB, 3 % are not empty."""
    return state._replace(counts=state.counts.to_sparse()) if isinstance(state, Histogram) else state


@dataclass(frozen=True)
class ModelNorm:
    """Model-based normalisation: threshold = the largest activation that the weights allow (Diehl et al., 2015).

    Inputs are bounded by the calibrated scale, the activations of a layer by its own largest bound; positive weights
    meet the upper bounds and negative weights the lower. Safe and slow: in deep networks the bounds are far too high.
    Of the images, only the range of the pixels is used.
    """

    reset: Reset = "subtract"
    readout: ReadoutKind = "potential"

    def __str__(self) -> str:
        return "ModelNorm()"

    def __call__(self, network: Network, batches: Batches) -> Thresholds:
        """Thresholds by layer. DataError if the images are unusable."""
        signed = any(bool((batch.images < 0).any()) for batch in hold(batches, network.input.shape))
        thresholds = Thresholds()

        def fire(node: Node, op: Neuron, interval: Interval) -> Interval:
            _, high = interval
            largest = op(high).max()
            bound = largest / gain(op)
            thresholds[node.name] = (
                bound if largest > 0 else substitute(network, node.name, thresholds, "possible activation")
            )
            return torch.zeros_like(high), largest.expand_as(high)

        high = torch.full(
            (1, *network.input.shape), network.input.amplitude, dtype=network.dtype, device=network.device
        )
        entrance = (-high if signed else torch.zeros_like(high), high)
        with torch.no_grad():
            for _ in bounds(network.nodes, entrance, fire):
                pass
        return thresholds


def update(name: str, statistic: Any, state: Any, value: Tensor) -> Any:
    """The statistic's state after one layer's values; its CalibrationError names the layer."""
    try:
        return statistic.update(state, value)
    except CalibrationError as error:
        raise CalibrationError(f"{name}: {error}") from error
