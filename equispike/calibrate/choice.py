"""Thresholds, a correction and a delay for a stated number of steps, chosen by the error of the scores."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from equispike.batches import Batch
from equispike.calibrate.corrections import AnyCorrection, Bias, RidgeReadout, StepBias, correct
from equispike.calibrate.data_norm import PERCENTILES, DataNorm
from equispike.calibrate.method import Method, Thresholds, halves, score_errors, with_delay
from equispike.errors import CalibrationWarning
from equispike.graph.network import OUTPUT_NEURONS, Network
from equispike.progress import track

LONGEST_TABLE = 32
"""Steps up to which a drive by step is tried: behind them a constant one does as well, and tables get long."""

CANDIDATES = tuple(DataNorm(percentile, per_channel=True) for percentile in PERCENTILES)
"""Methods between which a number of steps decides."""

DELAYS = (0.0, 0.25, 0.5, 0.75)
"""Shares of the steps that scores may leave out."""

NEAREST = 3
"""Methods, and then corrections, of the smallest errors, which are tried on."""

Install = Callable[[Network, Thresholds], Network]
"""Put thresholds into a network, with the initial potentials, reset and spikes that are wanted."""


class Choice(NamedTuple):
    """The choice, and what provenance says of it."""

    method: Method
    corrections: tuple[AnyCorrection, ...]
    delay: float
    told: dict[str, object]


class _Trial(NamedTuple):
    """A way that was tried: the network with thresholds and corrections, and the error of its scores."""

    method: Method
    network: Network
    corrections: tuple[AnyCorrection, ...] = ()
    error: float = math.inf

    @property
    def delay(self) -> float:
        return self.network.readout.delay

    def told(self) -> dict[str, object]:
        correction = ", ".join(map(str, self.corrections)) or "none"
        return {"method": str(self.method), "correction": correction, "delay": self.delay, "error": self.error}


def choose(
    network: Network,
    held: Sequence[Batch],
    timesteps: int,
    methods: Sequence[Method],
    install: Install,
    delays: Sequence[float] = DELAYS,
) -> Choice:
    """The method, correction and delay whose scores after T steps are nearest to the trained ones.

    Every method is tried with ``StepBias``, or with ``Bias`` if T is more than LONGEST_TABLE; the NEAREST of them with
    ``Bias`` and without a correction too. The NEAREST of all that are tried with ``RidgeReadout`` as well if the
    network gives class scores by potential and twice as many images as classes are fitted; of each, the best of the
    delays counts. Labels are not used. All images are fitted again with what was chosen.
    """
    fitted, held_out = halves(held)
    trials: list[_Trial] = []

    def begun(method: Method) -> _Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # of what is not taken in the end nothing need be said
            return _Trial(method, install(network, method(network, fitted)))

    def tried(before: _Trial, delays: Sequence[float], *more: AnyCorrection) -> None:
        corrected = correct(before.network, fitted, more)
        errors = score_errors(corrected, held_out, timesteps, delays)
        error, delay = min(zip(errors, delays, strict=True))
        trials.append(_Trial(before.method, with_delay(corrected, delay), (*before.corrections, *more), error))

    def nearest() -> list[_Trial]:
        return sorted(trials, key=lambda trial: trial.error)[:NEAREST]

    drives: Sequence[AnyCorrection] = [StepBias(timesteps), Bias(timesteps)][timesteps > LONGEST_TABLE :]
    starts: list[_Trial] = []
    for method in track(methods, f"choosing for T={timesteps}", len(methods)):
        starts.append(begun(method))
        tried(starts[-1], delays, drives[0])
    for trial in nearest():
        start = next(start for start in starts if start.method is trial.method)
        for others in ((), drives[1:])[: len(drives)]:
            tried(start, delays, *others)
    for trial in nearest() * _has_scores(network, fitted):
        tried(trial, [trial.delay], RidgeReadout(timesteps))
    best = nearest()[0]
    told = {
        "timesteps": timesteps,
        "fitted": len(fitted),
        "held_out": len(held_out),
        **best.told(),
        "others": [trial.told() for trial in trials if trial is not best],
    }
    return Choice(best.method, best.corrections, best.delay, told)


def _has_scores(network: Network, fitted: Tensor) -> bool:
    """There are scores that a map of them can correct, and images enough to learn it."""
    shape = network.shapes[network.nodes[-1].name]
    return OUTPUT_NEURONS not in network.neurons and len(shape) == 1 and len(fitted) >= max(3, 2 * shape[0])
