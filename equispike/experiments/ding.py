"""What the experiments of Ding et al. (2021) share: a Rate Norm network, its lowered thresholds, and the baselines.

Stage 1 is the network as it was trained; stage 2 has its thresholds lowered by the rate inference loss: of several
lambdas the one with the smallest Omega that costs at most TOLERANCE of validation accuracy. In LOCKED the maxima stay
as trained. The baselines take their thresholds from the activations of stage 1, so that all rows are of the same
network. Constant input, soft reset.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import equispike as es
from equispike.conversion import digest
from equispike.experiments.compare import rows_of
from equispike.experiments.networks import SMALL, Amount, Ready, Setting, Wanted, ready
from equispike.experiments.rows import Row, Way
from equispike.results import read_json, write_json
from equispike.zoo.rate_inference import Point, Settings, TradeOff, lower_thresholds

SMALL_NETWORK = "mnist-cnn-rnl"
"""Stands in for the paper's networks at size small."""

AMOUNT = Amount(None, 256, 256, 256)
VGG = Wanted("vgg16-rnl-cifar10", SMALL_NETWORK, AMOUNT)
PREACT = Wanted("preact18-rnl-cifar10", SMALL_NETWORK, AMOUNT)

TOLERANCE = 0.01

STAGE_1, STAGE_2 = Way("RNL", es.RateNorm()), Way("RNL + RIL", es.RateNorm())
LOCKED = Way("RNL + RIL, locked maxima", es.RateNorm())
MAX_NORM, ROBUST_NORM = Way("Max Norm", es.DataNorm()), Way("Robust Norm", es.DataNorm(99.9))
RMP_STYLE = Way("RMP-style, scale 0.8", es.RMP(0.8))

LEARNT: dict[str, tuple[tuple[float, ...], Settings]] = {
    STAGE_2.label: ((0.03, 0.1, 0.5), Settings()),
    LOCKED.label: ((0.003, 0.01, 0.03), Settings(maxima_move=False)),
}
"""Lambdas and settings of the second stage."""
MOST_SMALL = 60
"""Steps of learning for networks of size small."""


@dataclass(frozen=True)
class Lowered:
    """A Rate Norm network with lowered thresholds: what each lambda led to, and the one that was chosen."""

    network: Ready
    points: tuple[Point, ...]
    chosen: Point

    @property
    def told(self) -> dict[str, object]:
        """For the record."""
        return {"points": [asdict(point) for point in self.points], "lambda chosen": self.chosen.lambda_}


@dataclass(frozen=True)
class Stages:
    """A Rate Norm network as trained, and with thresholds lowered in some ways, by label."""

    trained: Ready
    lowered: dict[str, Lowered]

    def rows(self, ways: Sequence[Way], setting: Setting) -> dict[str, Row]:
        """The rows of these ways, by label."""
        found = rows_of([way for way in ways if way.label not in self.lowered], self.trained, setting)
        by_label = dict(zip([way.label for way in ways if way.label not in self.lowered], found, strict=True))
        for way in ways:
            if way.label in self.lowered:
                (by_label[way.label],) = rows_of([way], self.lowered[way.label].network, setting)
        return {way.label: by_label[way.label] for way in ways}

    @property
    def told(self) -> dict[str, object]:
        """For the record."""
        return {label: lowered.told for label, lowered in self.lowered.items()}


def stages(wanted: Wanted, ways: Sequence[Way], setting: Setting) -> Stages:
    """Both stages of a network, as far as these ways ask for them. The second is learnt once and kept in a file."""
    trained = ready(wanted, setting)
    return Stages(trained, {way.label: _lowered(trained, way, setting) for way in ways if way.label in LEARNT})


def _lowered(trained: Ready, way: Way, setting: Setting) -> Lowered:
    lambdas, settings = LEARNT[way.label]
    if trained.name in SMALL:
        settings = replace(settings, steps=min(settings.steps, MOST_SMALL))
    asked = json.dumps([digest(trained.model), trained.data.name, lambdas, asdict(settings)])
    path = setting.out / "rows" / f"{trained.name}-stage-2-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.json"
    data = trained.data
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        learnt = lower_thresholds(trained.model, data.train, data.validation, lambdas, settings)
        write_json(path, [asdict(point) for point in (learnt.trained, *learnt.points)])
    kept: list[dict[str, Any]] = read_json(path)
    first, *others = (Point(**point) for point in kept)
    images = data.train.sample(min(settings.measured, len(data.train))).floats()
    curve = TradeOff(trained.model, first, tuple(others), images, settings)
    chosen = curve.choose(TOLERANCE)
    return Lowered(replace(trained, model=curve.at(chosen)), (first, *others), chosen)
