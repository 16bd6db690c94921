"""A grid of ways to convert and run one network; each point is stored when it is done, so that nothing runs twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from equispike.analysis.accuracy import evaluate
from equispike.calibrate.method import Method
from equispike.conversion import Converter, Model, check_delay, check_v_init, digest
from equispike.errors import EquispikeError
from equispike.files.store import Asked, Found, Store
from equispike.functional.coding import Coder, Constant
from equispike.functional.integrate import Reset
from equispike.graph.lossy import LossyPass
from equispike.graph.quantize import check_bits, quantize
from equispike.progress import track
from equispike.provenance import as_data
from equispike.results import Result, conversion, document, documents
from equispike.workers import Workers
from equispike.zoo.data import Part

_BATCH = 100


@dataclass(frozen=True)
class Point:
    """One way to convert and run a network. ConversionError for ``v_init``, ``bits`` or ``delay`` out of range.

    Fields:
        method: how thresholds are set.
        coder: of the images that are simulated.
        reset, v_init: as for ``convert``; the reset's default is the method's own.
        bits: weights and thresholds are rounded to integers of so many bits first; None leaves them as they are.
        seed: of what is drawn in the simulation.
        delay: share of the steps, the first ones, that scores leave out, as for ``convert``.
    """

    method: Method
    coder: Coder = field(default_factory=Constant)
    reset: Reset | None = None
    v_init: float | str = 0.0
    bits: int | None = None
    seed: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        check_v_init(self.v_init)
        check_delay(self.delay)
        if self.bits is not None:
            check_bits(self.bits)

    @property
    def asked(self) -> dict[str, Any]:
        """All that tells it from other points of the same network and images, as data."""
        return {
            "method": as_data(self.method),
            "coder": as_data(self.coder),
            "reset": self.reset or self.method.reset,
            "v_init": self.v_init,
            "bits": self.bits,
            "seed": self.seed,
            "delay": self.delay,
        }


def sweep(
    model: Model,
    calibration: Part,
    judged: Part,
    points: Iterable[Point],
    timesteps: int,
    file: Path,
    name: str,
    lossy: Sequence[LossyPass] = (),
    report: Callable[[int, int], None] | None = None,
    output: int | None = None,
    on: Workers | None = None,
) -> list[dict[str, Any]]:
    """Simulate the points that the file does not hold yet, and store each as soon as it is done.

    Points that differ by nothing but a seed from which nothing is drawn count once. Thresholds are measured once for
    all points that share them, by each process that works on such points.

    Args:
        model: the trained network.
        calibration: images to set thresholds with, all of them.
        judged: labelled images to simulate, all of them; validation images, if a setting is to be chosen.
        timesteps: T; every smaller T comes with it.
        file: an SQLite store, made if it is not there; other processes may fill it at the same time.
        name: of the network, for the report.
        lossy: passes that change the trained function, as for ``convert``.
        report: hears how many points there are, and how many of them the file held.
        output: as for ``convert``.
        on: who works on the points, as for ``evaluate``.
    Returns:
        results of all the points, with seeds put together (see ``results.documents``).
    Raises:
        EquispikeError: there are no points.
        FileError: the file is of another kind, or cannot be written.
        ConversionError, CalibrationError, ...: a point is impossible; those before it are stored.
    """
    points = _distinct(points)
    if not points:
        raise EquispikeError("sweep: no points. Give at least one method")
    about: Asked = {
        "network": name,
        "weights": digest(model),
        "data": judged.name,
        "images": len(judged),
        "calibration_images": len(calibration),
        "timesteps": timesteps,
    } | ({} if output is None else {"output": output})
    asked, store = [{**about, **point.asked} for point in points], Store(file)
    to_do = len(store.missing(asked))
    if report is not None:
        report(len(points), len(points) - to_do)
    about_data = {"network": name, "data": judged.name, "classes": judged.classes}
    work = _Work(points, Converter(model, calibration.batches(_BATCH), lossy, output), judged, timesteps, about_data)
    for _ in track(store.fill(asked, work, on), "points", to_do):
        pass
    return documents(store, asked)


@dataclass(frozen=True)
class _Work:
    """The conversion and simulation of a point, given its number, with all that it needs."""

    points: Sequence[Point]
    convert: Converter
    judged: Part
    timesteps: int
    about: Mapping[str, Any]

    def __call__(self, number: int) -> Found:
        point = self.points[number]
        network = self.convert(point.method, reset=point.reset, v_init=point.v_init, delay=point.delay)
        network = network if point.bits is None else quantize(network, point.bits)
        label = f"simulating {conversion(network.provenance)}"
        found = evaluate(network, self.judged.batches(_BATCH), self.timesteps, point.coder, point.seed, label=label)
        return document([Result(network, point.coder, found, labels=self.judged.labels)], **self.about)


def _distinct(points: Iterable[Point]) -> list[Point]:
    """Without those that repeat another; where nothing is drawn, the first seed stands for all."""
    found: dict[str, Point] = {}
    for point in points:
        drawn = not point.coder.constant or point.v_init == "uniform"
        found.setdefault(repr((point if drawn else replace(point, seed=0)).asked), point)
    return list(found.values())
