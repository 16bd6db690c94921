"""The content of a page, as plain data: every number is worked out here; the page's script only picks and draws."""

import math
import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from equispike.analysis.accuracy import latency
from equispike.analysis.energy import energy_until, pareto
from equispike.errors import EquispikeError, FileError, one_line
from equispike.provenance import in_words
from equispike.report.read import Document

WITHIN = 0.01
"""Loss of accuracy at which a run counts as having arrived."""

Page = dict[str, Any]
_MADE = "versions", "device", "threads", "date", "command", "processor"
MOST_VALUES = 8
"""Of a setting that colours can tell apart."""

_TOLD = "method", "reset", "readout", "v_init", "delay", "spikes", "quantized", "calibration_images", "corrections"
_COPIED = "method", "reset", "readout", "seeds", "steps", "not_counted", "additions_per_mac"


def page_data(documents: Sequence[tuple[Document, Path]]) -> Page:
    """Everything on the page, of all runs in these documents, each with the file that it comes from.

    Raises:
        FileError: a document lacks something, or it does not fit together; its path is named.
    """
    runs: list[dict[str, Any]] = []
    for document, path in documents:
        with trusting(path):
            runs += [_run(document, run) for run in document["runs"]]
    if not runs:
        raise FileError(f"{documents[0][1]}: holds no runs. Run the evaluation again")
    with trusting(documents[0][1] if len(documents) == 1 else "runs"):
        return _page(runs, documents)


@contextmanager
def trusting(path: Path | str) -> Generator[None]:
    """Name the file, in one line, where values in it are not what an evaluation writes."""
    try:
        yield
    except EquispikeError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise FileError(f"{path}: does not hold the results that it should: {reason}. Run it again") from error


def _page(runs: list[dict[str, Any]], documents: Sequence[tuple[Document, Path]]) -> Page:
    _label(runs)
    costs = runs[0].pop("costs")
    for run in runs[1:]:
        if run.pop("costs") != costs:
            raise FileError("runs: were costed with different tables. Evaluate them with one version of equispike")
    groups = list(dict.fromkeys(_group(run) for run in runs))
    return {
        "runs": runs,
        "steps": sorted({step for run in runs for step in run["steps"]}),
        "costs": costs,
        "fronts": [[_front(runs, group, cost) for group in groups] for cost in range(len(costs))],
        "mixed": _mixed(runs),
        "settings": _differing(runs),
        "within": WITHIN,
        "made": [{"file": str(path), **{k: d[k] for k in _MADE if k in d}} for d, path in documents],
    }


def _run(document: Document, run: Mapping[str, Any]) -> dict[str, Any]:
    steps: list[int] = run["steps"]
    full = torch.tensor(run["accuracy"], dtype=torch.float64)
    trained = float(run["trained_accuracy"])
    accuracy = _at(run["accuracy"], steps)
    reached = torch.tensor(accuracy, dtype=torch.float64)
    arrived = trained - WITHIN - 1e-9  # a point is a point, whatever the last bit says
    layers = [_layer(name, layer, run) for name, layer in run["layers"].items()]
    spikes = [sum(spiked) for spiked in zip(*(layer["spikes"] for layer in layers), strict=True)]
    rates, quantized = _at(run["spike_rate"], steps), "quantized" in run.get("provenance", {})
    energies = [
        {
            "trained": energy["trained"],
            "spiking": _long(energy["spiking"], steps),
            "break_even": energy["break_even_spike_rate"],
            "break_even_int8": energy["break_even_spike_rate_int8"],
            "until": energy_until(torch.tensor(energy["spiking"]), reached, arrived),
        }
        for energy in run["energy"]
    ]
    return {
        **{name: run[name] for name in _COPIED},
        "input": run["coder"]["name"].lower(),
        "network": document["network"],
        "data": document["data"],
        "classes": document["classes"],
        "images": document["images"],
        "trained": trained,
        "split": document["data"].rpartition("/")[2] or "test",
        "unit": "steps of its integers" if quantized else "units of the trained activation",
        "provenance": _provenance(run),
        "settings": _settings(document, run),
        "confusion": run.get("confusion"),
        "interval": [wilson(share, document["images"]) for share in accuracy],
        "accuracy": accuracy,
        "std": _at(run["accuracy_std"], steps),
        "top5": None if run["top5_accuracy"] is None else _at(run["top5_accuracy"], steps),
        "rate": rates,
        "ties": _at(run["ties"], steps),
        "spikes": spikes,
        "latency": latency(full, arrived),
        "spikes_until": energy_until(torch.tensor(spikes), reached, arrived),
        "layers": layers,
        "operations": [{**row, "additions": _long(row["additions"], steps)} for row in run["operations"]],
        "energy": energies,
        "costs": [{key: energy[key] for key in ("name", "mac", "add", "weight")} for energy in run["energy"]],
        "looked_at": run["closer"]["images"] if run["closer"] else 0,
        "examples": run["closer"]["examples"] if run["closer"] else [],
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    r"""The 95 % confidence interval of a share of n images (Wilson, 1927), with z = 1.96:

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    >>> [round(end, 3) for end in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    z = 1.96
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def _in_words(value: Any) -> str:
    """Data as a reader would write them; of what was tried, only what was taken.

    >>> _in_words({"correction": "none", "error": 0.0389823, "held_out": 8, "others": [{"error": 0.04}]})
    'correction none, error 0.03898, held out 8'
    >>> _in_words([{"name": "Bias", "passes": 5, "timesteps": 8}, {"name": "RidgeReadout", "timesteps": 8}])
    'Bias(timesteps=8, passes=5), RidgeReadout(timesteps=8)'
    """
    if isinstance(value, Mapping):
        told = cast("Mapping[str, Any]", value)
        if "name" in told:
            return in_words(told)
        inner = {key.replace("_", " "): each for key, each in told.items() if key != "others"}
        return ", ".join(f"{key} {_in_words(each)}" for key, each in inner.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, cast("list[Any]", value)))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance(run: Mapping[str, Any]) -> dict[str, str]:
    """The origin of a run's network, in words, by name."""
    told = {"input": run["coder"], **run.get("provenance", {})}
    return {
        key.replace("_", " "): _in_words(value)
        for key, value in told.items()
        if key not in ("versions", "scale", "inputs") and value not in (None, [], {})
    }


def _settings(document: Document, run: Mapping[str, Any]) -> dict[str, str]:
    """All that a run may differ in from others, in words, by name; settings within settings on their own."""
    told: dict[str, Any] = {"network": document["network"], "data": document["data"]}
    told |= {"input": run["coder"]["name"].lower()}
    told |= {key: value for key, value in run.get("provenance", {}).items() if key in _TOLD}
    told |= {"serves": serves(run.get("provenance", {}))}
    found: dict[str, str] = {}
    for key, value in told.items():
        inner: dict[str, Any] = {**value} if isinstance(value, Mapping) else {"name": value}
        found |= {(key if name == "name" else name).replace("_", " "): _in_words(each) for name, each in inner.items()}
    return found


def serves(provenance: Mapping[str, Any]) -> str:
    """Say which steps a network was made for: a curve of one made for T is no promise for other T.

    >>> serves({"corrections": [{"name": "Bias", "timesteps": 8, "passes": 5}]})
    'calibrated for T = 8'
    """
    chosen: Mapping[str, Any] = provenance.get("chosen") or {}
    corrections: Sequence[Mapping[str, Any]] = provenance.get("corrections") or ()
    steps = {int(told["timesteps"]) for told in (chosen, *corrections) if "timesteps" in told}
    return f"calibrated for T = {', '.join(map(str, sorted(steps)))}" if steps else "one network at every T"


def _differing(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings in which runs differ, with their values: that of most values first."""
    found = {
        name: list(dict.fromkeys(run["settings"].get(name, "–") for run in runs))
        for run in runs
        for name in run["settings"]
    }
    for run in runs:
        run["settings"] = {name: run["settings"].get(name, "–") for name in found}
    chosen = [
        {"name": name, "values": sorted(values, key=_by_size)}
        for name, values in found.items()
        if 1 < len(values) <= MOST_VALUES
    ]
    return sorted(chosen, key=lambda setting: -len(setting["values"]))


def _by_size(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def _layer(name: str, layer: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    steps = run["steps"]
    thresholds = run["thresholds"][name]
    looked: dict[str, Any] = run["closer"]["layers"][name] if run["closer"] else {}
    spikes = _long(layer["spikes"], steps)
    return {
        "name": name,
        "neurons": layer["neurons"],
        "threshold": [min(thresholds), max(thresholds)],
        "spikes": spikes,
        "rate": [100 * n / (layer["neurons"] * t) for n, t in zip(spikes, steps, strict=True)],
        **{key: _long(values, steps) for key, values in looked.items() if key != "pairs"},
        "pairs": looked.get("pairs"),
    }


def _at(series: Sequence[float], steps: Iterable[int]) -> list[float]:
    return [series[t - 1] for t in steps]


def _long(series: list[float], steps: Sequence[int]) -> list[float]:
    if len(series) != len(steps):
        raise ValueError(f"{len(series)} numbers for {len(steps)} steps")
    return series


def _label(runs: list[dict[str, Any]]) -> None:
    """A short name for each run, which says as much as is needed to tell the runs apart."""
    labels = [re.sub(r"\(timesteps=\d+(, |\))|\(percentile=|\(scale=|\(\)", _shorter, run["method"]) for run in runs]
    labels = [label if run["input"] == "constant" else f"{label}, {run['input']}" for label, run in zip(labels, runs)]
    if len({run["network"] for run in runs}) > 1:
        labels = [f"{run['network']}: {label}" for label, run in zip(labels, runs)]
    for key, words in (("data", "{}"), ("images", "{} images")):
        if len(set(labels)) < len(runs) and len({run[key] for run in runs}) > 1:
            labels = [f"{label}, {words.format(run[key])}" for label, run in zip(labels, runs)]
    asked = [run["provenance"].get("calibration images") for run in runs]
    if len(set(labels)) < len(runs) and len(set(asked)) > 1:
        labels = [f"{label}, calibrated on {n}" for label, n in zip(labels, asked)]
    seen: Counter[str] = Counter()
    for run, label in zip(runs, labels, strict=True):
        seen[label] += 1
        run["label"] = label if seen[label] == 1 else f"{label} ({seen[label]})"


def _shorter(setting: re.Match[str]) -> str:
    """Shorten a setting for a label: the value of the telling ones; how long a method observed only in the tables."""
    return "" if setting[0].endswith(")") else "("


def _group(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """Runs of one group can be compared by their accuracy."""
    return run["network"], run["data"], run["images"], run["trained"]


def _front(runs: Sequence[Mapping[str, Any]], group: tuple[Any, ...], cost: int) -> list[tuple[int, int]]:
    """Run and place in its steps of what no other run and step of the group beats: as accurate, and cheaper."""
    points = [(r, s) for r, run in enumerate(runs) if _group(run) == group for s in range(len(run["steps"]))]
    joules = [runs[r]["energy"][cost]["spiking"][s] for r, s in points]
    values = [runs[r]["accuracy"][s] for r, s in points]
    return [points[i] for i in pareto(joules, values)]


def _mixed(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Respects in which runs differ that should not when they are compared."""
    words = {"network": "networks", "data": "data sets", "images": "numbers of images", "trained": "trained accuracies"}
    return [word for key, word in words.items() if len({str(run[key]) for run in runs}) > 1]
