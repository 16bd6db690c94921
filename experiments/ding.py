"""Shared by the experiments of Ding et al. (2021): a Rate Norm network, its lowered thresholds, and the baselines.

Stage 1 is the network as it was trained; stage 2 has its thresholds lowered by the rate inference loss: of several
lambdas the one with the smallest Omega that costs at most TOLERANCE of validation accuracy. All layers share one p, as
in the paper; in OWN each has its own, in RESTING batch norm stays as trained, in LOCKED the maxima do.

The baselines convert a network that was trained with ReLUs, as the paper's do: its section 3.3 takes the largest ReLU
output as Max Norm's threshold. In CONTROLS they convert the Rate Norm network, which tells what training with Rate Norm
does from what lowered thresholds do. Constant input, soft reset, the potential read out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import equispike as es
from equispike.conversion import digest
from equispike.files.store import Store
from equispike.provenance import as_data
from equispike.zoo.rate_inference import (
    LearntPoint,
    Settings,
    TradeOff,
    images_to_measure,
    lower_thresholds,
    recipe_of,
)
from experiments.compare import note, rows_of
from experiments.entry import Conditions, Job
from experiments.networks import Trained, find
from experiments.rows import Row, Way

CONDITIONS = Conditions("constant", "potential", 256, observed_steps=256)
VGG = ("vgg16-rnl-cifar10", "vgg16-bn-cifar10")
PREACT = ("preact18-rnl-cifar10", "preact18-cifar10")
"""The network with Rate Norm layers, and the one with ReLUs."""
TOLERANCE = 0.01

STAGE_1, STAGE_2 = Way("RNL", es.RateNorm()), Way("RNL + RIL", es.RateNorm())
OWN, RESTING = Way("RNL + RIL, p by layer", es.RateNorm()), Way("RNL + RIL, resting batch norm", es.RateNorm())
LOCKED = Way("RNL + RIL, locked maxima", es.RateNorm())
MAX_NORM, ROBUST_NORM = Way("Max Norm", es.DataNorm()), Way("Robust Norm", es.DataNorm(99.9))
RMP = Way("RMP-SNN, scale 0.8", es.RMP(0.8))
OF_RELUS = (MAX_NORM, ROBUST_NORM, RMP)
CONTROLS = tuple(replace(way, label=f"{way.label}, Rate Norm network") for way in (MAX_NORM, ROBUST_NORM))

SHORT = Settings(steps=80, batch=64)
LEARNT: dict[str, tuple[tuple[float, ...], Settings]] = {
    STAGE_2.label: ((0.01, 0.03, 0.1, 0.5), SHORT),
    OWN.label: ((0.003, 0.01, 0.03), replace(SHORT, shared=False)),
    RESTING.label: ((0.003, 0.01, 0.03), replace(SHORT, batch_norm_moves=False)),
    LOCKED.label: ((0.003, 0.01, 0.03), replace(SHORT, maxima_move=False)),
}
"""Lambdas and settings of the second stage; images are changed as in the network's own training."""


def stages(ways: Sequence[Way], job: Job) -> tuple[Trained, Trained, dict[str, Row], dict[str, Any]]:
    """The network with Rate Norm, the one with ReLUs, the rows of all ways, and what stage 2 led to, for the record."""
    trained, relus = (find(name, job.data, job.data_folder) for name in job.networks)
    told: dict[str, Any] = {"network": trained.told, "network with ReLUs": relus.told}
    rows: dict[str, Row] = {}
    for way in ways:
        network = relus if way in OF_RELUS else trained
        if way.label in LEARNT:
            network, told[way.label] = lowered(trained, way, job)
        rows |= rows_of([way], network, job)
    return trained, relus, rows, told


def both(trained: Trained, relus: Trained, one: Row) -> str:
    """Both networks and the images."""
    return f"{note(trained, one)}; Max Norm, Robust Norm and RMP-SNN: {relus.name}"


def remarks(told: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence on each second stage: what its lambdas cost, and which one was chosen."""
    found: list[str] = []
    for label in LEARNT.keys() & told.keys():
        (_, *points), chosen = told[label]["points"], told[label]["lambda chosen"]
        costs = ", ".join(f"{100 * p['validation_accuracy']:.1f} % at {p['lambda_']:g}" for p in points)
        taken = f"{chosen:g} was taken" if chosen else "none keeps it, so the row is of the network as trained"
        allowed = 100 * (told[label]["points"][0]["validation_accuracy"] - TOLERANCE)
        found.append(f"{label}: validation accuracy by lambda {costs}; at least {allowed:.1f} % are allowed: {taken}.")
    return tuple(sorted(found))


def lowered(trained: Trained, way: Way, job: Job) -> tuple[Trained, dict[str, Any]]:
    """The network with lowered thresholds, and all points. The second stage is learnt once and stored."""
    lambdas, settings = LEARNT[way.label]
    settings = replace(settings, recipe=recipe_of(trained.card))
    asked = {"weights": digest(trained.model), "data": trained.data.name, "lambdas": lambdas, **as_data(settings)}

    def learn() -> dict[str, Any]:
        learnt = lower_thresholds(trained.model, trained.data.train, trained.data.validation, lambdas, settings)
        return {"points": [asdict(point) for point in (learnt.trained, *learnt.points)]}

    first, *others = (LearntPoint(**point) for point in Store(job.out / "rows.sqlite").point(asked, learn)["points"])
    images = images_to_measure(trained.data.train, settings)
    curve = TradeOff(trained.model, first, tuple(others), images, settings)
    chosen = curve.choose(TOLERANCE)
    told = {"points": [asdict(point) for point in (first, *others)], "lambda chosen": chosen.lambda_}
    return replace(trained, model=curve.at(chosen)), told
