"""Rows: one network, converted in one way and simulated on test images. Each is kept in a file and never run twice."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from equispike.analysis.accuracy import evaluate
from equispike.calibrate.method import Method, ReadoutKind
from equispike.conversion import Converter, digest
from equispike.experiments.entry import numbers
from equispike.experiments.networks import Ready
from equispike.functional.coding import Coder, Constant, Poisson
from equispike.functional.integrate import Reset
from equispike.graph.network import Network
from equispike.results import read_json, write_json
from equispike.versions import versions

BATCH = 100

Row = dict[str, Any]
"""What a file holds: accuracy and spike rate after each step, one list per seed, and all that they depend on."""


CONSTANT, POISSON = Constant(), Poisson()


@dataclass(frozen=True)
class Way:
    """A way to convert and run a network, with the name that its row has in tables.

    Fields:
        method: its ``timesteps``, if it has such, are replaced by the size's.
        coder: of test images; a method that simulates has its own for calibration images.
        reset, readout: other than the method's own.
        v_init: initial potential, as in ``convert``.
        images: at most so many test images.
    """

    label: str
    method: Method
    coder: Coder = CONSTANT
    reset: Reset | None = None
    v_init: float = 0.0
    readout: ReadoutKind | None = None
    images: int | None = None

    def sized(self, observe: int) -> Method:
        """The method, observing for so many steps."""
        if not hasattr(self.method, "timesteps"):
            return self.method
        changed: Any = dataclasses.replace(cast("Any", self.method), timesteps=observe)
        return changed


def converter(ready: Ready) -> Converter:
    """What gives this network's thresholds, from its calibration images."""
    return Converter(ready.model, ready.data.train.take(ready.amount.calibration).batches(BATCH))


def converted(way: Way, ready: Ready, convert: Converter | None = None) -> Network:
    """The network with thresholds; a converter that is shared measures once for several ways."""
    method = way.sized(ready.amount.observe)
    convert = convert or converter(ready)
    return convert(method, reset=way.reset, readout=way.readout, v_init=way.v_init)


def row(way: Way, ready: Ready, folder: Path, convert: Converter) -> Row:
    """The row from its file in ``folder``; converted, simulated and written first if it is not there."""
    amount = ready.amount
    available = len(ready.data.test)
    images = min(amount.images or available, way.images or available)
    asked: dict[str, Any] = {
        "network": ready.name,
        "weights": digest(ready.model),
        "data": ready.data.test.name,
        "method": repr(way.sized(amount.observe)),
        "coder": repr(way.coder),
        "reset": way.reset or way.method.reset,
        "readout": way.readout or way.method.readout,
        "v_init": way.v_init,
        "images": images,
        "timesteps": amount.timesteps,
        "calibration_images": amount.calibration,
        "runs": 1 if way.coder.constant else amount.seeds,
    }
    number = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{ready.name} {way.method} {asked['coder'][:7]}").strip("-").lower()
    path = folder / f"{words}-{number}.json"
    if path.exists():
        return read_json(path)
    network = converted(way, ready, convert)
    test = ready.data.test.take(images)
    e = evaluate(
        network, test.batches(BATCH), amount.timesteps, way.coder, runs=amount.seeds, label=f"{ready.name}, {way.label}"
    )
    content: Row = {
        **asked,
        "trained_accuracy": e.trained,
        "seeds": list(e.seeds),
        "accuracy": [[round(a, 6) for a in numbers(run)] for run in e.accuracy],
        "spike_rate": [[round(r, 5) for r in numbers(run)] for run in e.spike_rate],
        "spikes_per_image": {name: round(count, 3) for name, count in e.spikes.items()},
        "neurons": {name: torch.Size(network.shapes[name]).numel() for name in network.neurons},
        "thresholds": {name: float(value.max()) for name, value in network.thresholds.items()},
        "seconds": round(e.seconds, 1),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "versions": versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return content


def mean(runs: list[list[float]]) -> list[float]:
    """Over the seeds, after each step."""
    return numbers(torch.tensor(runs, dtype=torch.float64).mean(0))
