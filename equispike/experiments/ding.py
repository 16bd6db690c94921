"""What the experiments of Ding et al. (2021) share: a Rate Norm network, its lowered thresholds, and the baselines.

Stage 1 is the network as it was trained; stage 2 has its thresholds lowered by the rate inference loss: of several
lambdas the one with the smallest Omega that costs at most TOLERANCE of validation accuracy. The baselines take their
thresholds from the activations of stage 1, so that all rows are of the same weights. Constant input, soft reset.
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

LAMBDAS = (0.003, 0.01, 0.03)
TOLERANCE = 0.01
STEPS = Settings(steps=200)
STEPS_SMALL = Settings(steps=60)

STAGE_1, STAGE_2 = Way("RNL", es.RateNorm()), Way("RNL + RIL", es.RateNorm())
MAX_NORM, ROBUST_NORM = Way("Max Norm", es.DataNorm()), Way("Robust Norm", es.DataNorm(99.9))
RMP_STYLE = Way("RMP-style, scale 0.8", es.RMP(0.8))


@dataclass(frozen=True)
class Stages:
    """A Rate Norm network before and after its thresholds were lowered, and what each lambda led to."""

    trained: Ready
    lowered: Ready
    points: tuple[Point, ...]
    chosen: Point

    def rows(self, ways: Sequence[Way], setting: Setting) -> dict[str, Row]:
        """The rows of these ways, by label; that of stage 2 with its own thresholds."""
        found = rows_of([way for way in ways if way is not STAGE_2], self.trained, setting)
        by_label = dict(zip([way.label for way in ways if way is not STAGE_2], found, strict=True))
        if STAGE_2 in ways:
            (by_label[STAGE_2.label],) = rows_of([STAGE_2], self.lowered, setting)
        return {way.label: by_label[way.label] for way in ways}

    @property
    def told(self) -> dict[str, object]:
        """For the record."""
        return {"points": [asdict(point) for point in self.points], "lambda chosen": self.chosen.lambda_}


def stages(wanted: Wanted, setting: Setting) -> Stages:
    """Both stages of a network. The second is learnt once and kept in a file."""
    trained = ready(wanted, setting)
    settings = STEPS_SMALL if trained.name in SMALL else STEPS
    asked = json.dumps([digest(trained.model), trained.data.name, LAMBDAS, asdict(settings)])
    path = setting.out / "rows" / f"{trained.name}-stage-2-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.json"
    data = trained.data
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        learnt = lower_thresholds(trained.model, data.train, data.validation, LAMBDAS, settings)
        write_json(path, [asdict(point) for point in (learnt.trained, *learnt.points)])
    kept: list[dict[str, Any]] = read_json(path)
    first, *others = (Point(**point) for point in kept)
    curve = TradeOff(trained.model, first, tuple(others))
    chosen = curve.choose(TOLERANCE)
    return Stages(trained, replace(trained, model=curve.at(chosen)), (first, *others), chosen)
