"""Thresholds and a correction for a stated number of steps, chosen by the error of the scores."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from equispike.batches import Batch
from equispike.calibrate.corrections import Bias, Correction, StepBias, correct
from equispike.calibrate.data_norm import PERCENTILES, DataNorm
from equispike.calibrate.method import Method, Thresholds
from equispike.calibrate.scores import halves, score_error
from equispike.errors import CalibrationWarning
from equispike.graph.network import Network
from equispike.progress import track

LONGEST_TABLE = 32
"""Steps up to which a drive by step is tried: behind them a constant one does as well, and tables get long."""

WITH_TABLE = 3
"""Methods that are tried with a drive by step: the best of them with a constant one need not be the best with it."""

Install = Callable[[Network, Thresholds], Network]
"""Put thresholds into a network, with the initial potentials, reset and spikes that are wanted."""


class Choice(NamedTuple):
    """The choice, and what provenance says of it."""

    method: Method
    corrections: tuple[Correction, ...]
    told: dict[str, object]


@dataclass
class _Trials:
    """Candidates on the images that are fitted, and their errors on those that were held out."""

    network: Network
    fitted: Tensor
    held_out: Tensor
    timesteps: int
    install: Install
    errors: list[tuple[float, Method, tuple[Correction, ...]]] = field(
        default_factory=list[tuple[float, Method, tuple[Correction, ...]]]
    )

    def try_(self, method: Method, corrections: tuple[Correction, ...]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # of what is not taken in the end nothing need be said
            spiking = self.install(self.network, method(self.network, self.fitted))
        spiking = correct(spiking, self.fitted, corrections)
        self.errors.append((score_error(spiking, self.held_out, self.timesteps), method, corrections))


def choose(
    network: Network, held: Sequence[Batch], timesteps: int, methods: Sequence[Method], install: Install
) -> Choice:
    """The method and correction whose scores after T steps are nearest to the trained ones.

    Every method is tried without a correction and with ``Bias``, the WITH_TABLE of them that are then best with
    ``StepBias`` too if T is at most LONGEST_TABLE. Labels are not used. All images are fitted again with what was
    chosen.
    """
    fitted, held_out = halves(held)
    trials = _Trials(network, fitted, held_out, timesteps, install)
    constant = (Bias(timesteps),)
    for method in track(methods, f"choosing for T={timesteps}", len(methods)):
        trials.try_(method, ())
        trials.try_(method, constant)
    if timesteps <= LONGEST_TABLE:
        driven = sorted((e for e in trials.errors if e[2] == constant), key=lambda e: e[0])
        for _, method, _ in driven[:WITH_TABLE]:
            trials.try_(method, (StepBias(timesteps),))
    best = min(trials.errors, key=lambda e: e[0])
    error, method, corrections = best
    told: dict[str, object] = {
        "timesteps": timesteps,
        "fitted": len(fitted),
        "held_out": len(held_out),
        "method": str(method),
        "correction": _word(corrections),
        "error": error,
        "others": [
            {"method": str(other[1]), "correction": _word(other[2]), "error": other[0]}
            for other in trials.errors
            if other is not best
        ],
    }
    return Choice(method, corrections, told)


def usual(per_channel: bool = True) -> list[Method]:
    """The methods between which a number of steps decides."""
    return [DataNorm(percentile, per_channel) for percentile in PERCENTILES]


def _word(corrections: tuple[Correction, ...]) -> str:
    return ", ".join(map(str, corrections)) or "none"
