"""Results of evaluations as JSON, tables and figures: one shape for the demo, the command line and experiments."""

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from equispike.analysis.closer import CloserLook, Example
from equispike.analysis.energy import FLOAT32_45NM, FLOAT32_45NM_MEMORY, INT8_45NM
from equispike.analysis.evaluation import Evaluation, steps_looked_at
from equispike.analysis.operations import operations
from equispike.errors import FileError
from equispike.files.disk import write_bytes
from equispike.files.store import Asked, Store, key_of
from equispike.functional.coding import Coder
from equispike.graph.network import Network
from equispike.provenance import as_data, circumstances, in_words, versions

FORMAT, VERSION = "equispike.results", 1
_STATED = "date", "command", "processor", "threads"
MOST_CLASSES = 100
"""Of which a confusion matrix is kept."""

COSTS = FLOAT32_45NM, FLOAT32_45NM_MEMORY, INT8_45NM


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation, and what was evaluated."""

    network: Network
    coder: Coder
    evaluation: Evaluation
    closer: CloserLook | None = None
    labels: Tensor | None = None

    @property
    def method(self) -> str:
        """The method by which the network was converted, as a reader would write it."""
        return conversion(self.network.provenance)

    def to_json(self) -> dict[str, Any]:
        """Accuracy (mean over seeds) and spike rate (percent) after each step, and all that they depend on.

        What is told of layers and of energy is told after the steps in ``steps``.
        """
        e = self.evaluation
        timesteps = e.accuracy.shape[1]
        return {
            **self.curves,
            "provenance": dict(self.network.provenance),
            "readout": self.network.provenance.get("readout"),
            "trained_accuracy": e.trained,
            "timesteps": list(range(1, timesteps + 1)),
            "accuracy_std": _rounded(e.std, 6),
            "top5_accuracy": None if e.top5 is None else _rounded(e.top5.mean(0), 6),
            "ties": _rounded(e.ties.mean(0), 6),
            "spikes_per_image": {name: round(count, 3) for name, count in e.spikes.items()},
            "thresholds": {name: _significant(t, 7) for name, t in self.network.thresholds.items()},
            "seeds": list(e.seeds),
            "seconds": round(e.seconds, 2),
            "confusion": self._confusion(),
            "steps": list(steps_looked_at(timesteps)),
            **self._costs(steps_looked_at(timesteps)),
            "closer": None if self.closer is None else _closer(self.closer),
        }

    @property
    def curves(self) -> dict[str, Any]:
        """Accuracy and spike rate after each step, and the way it was converted and run: the content of a table."""
        return {
            "method": self.method,
            "coder": as_data(self.coder),
            "reset": self.network.provenance.get("reset"),
            "accuracy": _rounded(self.evaluation.mean, 6),
            "spike_rate": _rounded(self.evaluation.spike_rate.mean(0), 5),
        }

    def _confusion(self) -> dict[str, list[list[float]]] | None:
        """Images by class and answer after T steps, and those of the trained network; None without labels."""
        classes, *space = self.network.shapes[self.network.nodes[-1].name]
        if self.labels is None or space or classes > MOST_CLASSES:
            return None
        given, size = self.labels[: self.evaluation.images].cpu(), max(classes, 2)
        answers = {"spiking": self.evaluation.predictions, "trained": self.evaluation.trained_predictions[None]}
        return {name: confusion(given, said, size) for name, said in answers.items()}

    def _costs(self, steps: Sequence[int]) -> dict[str, Any]:
        """Neurons, spikes, operations and energy of one image."""
        e, at = self.evaluation, torch.tensor(steps) - 1
        timesteps = e.accuracy.shape[1]
        found = operations(self.network, e.counts, timesteps, e.inputs)
        spikes = e.spikes_by_step
        if e.inputs is not None:
            entrance = self.network.nodes[0].name
            spikes = {entrance: (e.inputs.sum() / timesteps).expand(timesteps), **spikes}
        rate = float(e.spike_rate[:, -1].mean())
        return {
            "layers": {
                name: {"neurons": e.counts[name].numel(), "spikes": _significant(by_step.cumsum(0)[at])}
                for name, by_step in e.spikes_by_step.items()
            },
            "operations": [
                {
                    "layer": row.layer,
                    "macs": row.macs,
                    "analog_macs": row.analog_macs,
                    "additions": _significant(_by_step(row.sources, spikes)[at]),
                }
                for row in found.rows
            ],
            "additions_per_mac": _number(found.ratio),
            "not_counted": list(found.not_counted),
            "energy": [
                {
                    **asdict(costs),
                    "trained": found.trained_energy(costs),
                    "spiking": _significant(found.energy_by_step(spikes, costs)[at]),
                    "break_even_spike_rate": _number(rate * found.break_even(costs)),
                    "break_even_spike_rate_int8": _number(rate * found.break_even(costs, INT8_45NM)),
                }
                for costs in COSTS
            ],
        }


def confusion(labels: Tensor, answers: Tensor, classes: int) -> list[list[float]]:
    """Images of each class (rows) by the class that they were taken for (columns), mean over runs.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([[0, 1, 1], [0, 0, 1]]), 2)
    [[1.5, 0.5], [0.0, 1.0]]
    """
    pairs = torch.bincount((labels * classes + answers).flatten(), minlength=classes**2)
    return [[float(n) / len(answers) for n in row] for row in pairs.view(classes, classes)]


def document(
    results: Sequence[Result], network: str, data: str, classes: Sequence[str], **stated: object
) -> dict[str, Any]:
    """The file that ``equispike report`` reads: results on the same images, and what they depend on.

    Args:
        network: name of the trained network.
        data: name of the part of a data set.
        classes: names of its classes.
        stated: anything else worth knowing, JSON-able.
    Returns:
        JSON-able data; versions, threads, date, command and processor are added.
    """
    first = results[0].evaluation
    return {
        "format": FORMAT,
        "version": VERSION,
        "network": network,
        "ann_accuracy": first.trained,
        "images": first.images,
        "data": data,
        "classes": list(classes),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        **circumstances(),
        **stated,
        "runs": [result.to_json() for result in results],
    }


def documents(store: Store, wanted: Sequence[Asked] | None = None) -> list[dict[str, Any]]:
    """Return a document for each network and images in a store; seeds of one point become one run.

    Args:
        store: whose points were found by :func:`document`, of one result each.
        wanted: what was asked of the points, in the order of the runs; default all.
    Raises:
        FileError: as for ``Store.read``, or points do not hold what they should.
    """
    found = {key_of(point.asked): point for point in store.read()}
    chosen = found if wanted is None else [key_of(asked) for asked in wanted]
    try:
        seeds: dict[str, list[dict[str, Any]]] = {}
        for point in (found[key] for key in chosen):
            seeds.setdefault(key_of({**point.asked, "seed": None}), []).append(point.found)
        together: dict[str, dict[str, Any]] = {}
        for same in seeds.values():
            about = key_of(
                {name: same[0].get(name) for name in ("network", "data", "images", "ann_accuracy", "classes")}
            )
            together.setdefault(about, {**same[0], "runs": []})["runs"].append(_over_seeds(same))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise FileError(f"{store.path}: holds a damaged point: {error!r}. Delete the file and run again") from error
    return list(together.values())


def write_csv(store: Store, out: Path) -> int:
    """Write one line for each point and step: what was asked, then accuracy and spike rate up to that step.

    Returns:
        number of lines below the header.
    Raises:
        FileError: as for ``Store.read``, or ``out`` cannot be written.
    """
    points = [(_flat(point.asked), point.found) for point in store.read()]
    names = list(dict.fromkeys(name for asked, _ in points for name in asked))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*names, *_STATED, "trained_accuracy", "t", "accuracy", "spike_rate_percent"])
    count = 0
    for asked, found in points:
        run = found["runs"][0]
        start = [*map(asked.get, names), *map(found.get, _STATED), run["trained_accuracy"]]
        for row in zip(run["timesteps"], run["accuracy"], run["spike_rate"], strict=True):
            lines.writerow([*start, *row])
            count += 1
    write_bytes(out, text.getvalue().encode())
    return count


def write_json(path: Path, content: object) -> None:
    """Write JSON, atomically. FileError if that is not possible."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file. FileError if it is none, or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: is not readable JSON: {error}. Delete it, and it will be made again") from error


def conversion(provenance: Mapping[str, Any]) -> str:
    """A network's method, and what of the rest is not as usual.

    >>> method = {"name": "RMP", "scale": None, "timesteps": 128}
    >>> conversion({"method": method, "scale": 0.8, "reset": "zero", "v_init": 0.5, "quantized": {"bits": 8}})
    'RMP(scale=0.8, timesteps=128), hard reset, v_init 0.5, 8 bits'
    """
    method: Any = provenance.get("method", "thresholds as they came")
    if not isinstance(method, Mapping):  # of a file from another release
        return str(method)
    settings = cast("Mapping[str, Any]", method)
    words = [in_words(settings, scale=provenance.get("scale"))]
    if provenance.get("reset") != settings.get("reset", "subtract"):
        words.append("hard reset" if provenance.get("reset") == "zero" else "soft reset")
    words += [f"{name} {value}" for name in ("v_init", "delay") if (value := provenance.get(name))]
    words += map(in_words, provenance.get("corrections", ()))
    if provenance.get("spikes") == "signed":
        words.append("signed spikes")
    if "quantized" in provenance:
        words.append(f"{provenance['quantized']['bits']} bits")
    return ", ".join(words)


def chosen_steps(timesteps: int) -> list[int]:
    """The columns of a table: the powers of two up to T, of more than 16 steps from 8 on, and T itself."""
    powers = [2**k for k in range(3 if timesteps > 16 else 0, timesteps.bit_length())]
    return powers if powers and powers[-1] == timesteps else [*powers, timesteps]


def table(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows: method, coding, reset, accuracy in percent at the chosen steps, spike rate at T.

    Args:
        runs: of one T, as ``Result.curves`` or ``Result.to_json`` gives them.
    """
    steps = chosen_steps(len(runs[0]["accuracy"]))
    header = ["method", "input", "reset", *(f"T={t}" for t in steps), "spike rate"]
    rows = [
        [
            run["method"],
            run["coder"]["name"].lower(),
            {"subtract": "soft", "zero": "hard"}.get(str(run["reset"]), "-"),
            *(f"{100 * run['accuracy'][t - 1]:.1f}" for t in steps),
            f"{run['spike_rate'][-1]:.2f} %",
        ]
        for run in runs
    ]
    return [header, *rows]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as columns of their own, such as method.percentile."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            inner = cast("dict[str, Any]", value)
            found |= {f"{prefix}{name}": inner["name"]} if "name" in inner else {}
            found |= _flat({key: item for key, item in inner.items() if key != "name"}, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _over_seeds(same: list[dict[str, Any]]) -> dict[str, Any]:
    runs = [document["runs"][0] for document in same]
    if len(runs) == 1:
        return runs[0]
    deviations = [stdev(at) for at in zip(*(run["accuracy"] for run in runs), strict=True)]
    return {**_mean(runs), "accuracy_std": deviations, "seeds": [seed for run in runs for seed in run["seeds"]]}


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; of lists and mappings that of what they hold; of anything else the first."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _mean([value[name] for value in values]) for name in cast("dict[str, Any]", first)}
    if isinstance(first, list):
        return [_mean(parts) for parts in zip(*values, strict=True)]
    numbers = all(isinstance(value, int | float) for value in values)
    return sum(values) / len(values) if numbers and any(value != first for value in values) else first


def _closer(look: CloserLook) -> dict[str, Any]:
    return {
        "images": look.images,
        "steps": list(look.steps),
        "layers": {
            name: {
                **{
                    cause: [round(getattr(row, cause), 5) for row in layer.causes]
                    for cause in ("inherited", "clipping", "quantisation", "unevenness", "total")
                },
                "k": [_number(k) for k in layer.k],
                "bound": [_number(bound) for bound in layer.bound],
                "silent": [round(share, 5) for share in layer.silent],
                "pairs": [[_number(wanted), _number(rate)] for wanted, rate in layer.pairs],
            }
            for name, layer in look.layers.items()
        },
        "examples": [_example(example) for example in look.examples],
    }


def _example(example: Example) -> dict[str, Any]:
    """Pictures are PNGs as data: the image; the input so far and the first layer's spikes so far, one frame a step."""
    low, high = float(example.image.min()), float(example.image.max())
    first = example.first
    if first is not None:
        rates = first / torch.arange(1, 1 + len(first)).view(-1, 1, 1)
        first = rates / rates[-1].max().clamp(min=1e-9)
    return {
        "index": example.index,
        "label": example.label,
        "trained": example.trained,
        "classes": [int(c) for c in example.classes],
        "scores": [_significant(scores) for scores in example.scores],
        "predictions": [int(c) for c in example.predictions],
        "image": picture(example.image[None], low, high),
        "inputs": None if example.inputs is None else picture(example.inputs, low, high),
        "first": None if first is None else picture(first[:, None], 0.0, 1.0),
    }


def picture(frames: Tensor, low: float, high: float) -> str | None:
    """Frames (S, channels, height, width) one below the other as the data URL of a PNG; None if they are no pictures.

    Args:
        low, high: values that become black and white.
    """
    if frames.ndim != 4 or frames.shape[1] not in (1, 3):
        return None
    levels = ((frames.double() - low) / max(high - low, 1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).flatten(0, 1).numpy()
    image = Image.fromarray(pixels if frames.shape[1] == 3 else pixels[..., 0])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _by_step(totals: Mapping[str, float], spikes: Mapping[str, Tensor]) -> Tensor:
    """Additions up to each step, (T,), from those of all steps by their source, as its average spike asks for them."""
    shares = [total * spikes[name].cumsum(0) / spikes[name].sum().clamp(min=1e-300) for name, total in totals.items()]
    return torch.stack(shares).sum(0) if shares else torch.zeros_like(next(iter(spikes.values())))


def _rounded(values: Tensor, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values.flatten()]


def _significant(values: Tensor, digits: int = 5) -> list[float]:
    """To so many significant digits, so that a file does not grow by noise, and what is small is not zero."""
    return [float(f"{float(value):.{digits}g}") for value in values.flatten()]


def _number(value: float) -> float | None:
    """None for what JSON cannot say: no number, or an infinite one."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
