"""What the tables of converted networks share: one row is one network, method and coding, kept as a JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import equispike as es
from equispike.calibrate.method import Method
from equispike.functional.coding import Coder
from equispike.results import write_json
from equispike.versions import versions
from equispike.zoo.data import Split

Row = dict[str, Any]


def row(
    path: Path,
    model: nn.Module,
    method: Method,
    coder: Coder,
    calibration: Split,
    test: Split,
    timesteps: int,
    /,
    batch: int = 500,
    seeds: int = 1,
    **stated: object,
) -> Row:
    """The row in that file; converted, simulated and written first if it is not there."""
    if not path.exists():
        network = es.convert(model, calibration.batches(batch), method)
        result = es.evaluate(network, test.batches(batch), timesteps, coder, runs=seeds)
        content = {
            **stated,
            "method": repr(method),
            "coder": repr(coder),
            "reset": network.provenance["reset"],
            "readout": network.provenance["readout"],
            "data": test.name,
            "images": result.images,
            "calibration_images": len(calibration),
            "trained_accuracy": result.trained,
            "seeds": result.seeds,
            "accuracy": [[round(a, 6) for a in run] for run in result.accuracy.tolist()],
            "spike_rate": [[round(r, 5) for r in run] for run in result.spike_rate.tolist()],
            "spikes_per_image": result.spikes,
            "thresholds": {layer: float(value.max()) for layer, value in network.thresholds.items()},
            "seconds": round(result.seconds, 1),
            "threads": torch.get_num_threads(),
            "device": "cpu",
            "versions": versions(),
        }
        write_json(path, content)
    return json.loads(path.read_text())


def table(rows: Sequence[Row], chosen: Sequence[int]) -> str:
    """Markdown: accuracy in percent after the chosen steps, and the spike rate over all of them."""
    words = ["method", "input", "reset", "readout"]
    columns = [*words, "images", "runs", "trained", *(f"T={t}" for t in chosen), "spike rate"]
    lines = [columns, ["---"] * len(words) + ["--:"] * (len(columns) - len(words)), *(_cells(r, chosen) for r in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(one: Row, chosen: Sequence[int]) -> list[str]:
    accuracy = 100 * torch.tensor(one["accuracy"], dtype=torch.float64)
    deviation = f" ± {float(accuracy[:, -1].std()):.2f}" if len(accuracy) > 1 else ""
    numbers = [f"{float(accuracy[:, t - 1].mean()):.2f}" for t in chosen]
    return [
        one.get("label") or short(one["method"]),
        one["coder"].partition("(")[0].lower(),
        {"subtract": "soft", "zero": "hard"}[one["reset"]],
        one["readout"],
        f"{one['images']:,}",
        str(len(accuracy)),
        f"{100 * one['trained_accuracy']:.2f}",
        *numbers[:-1],
        numbers[-1] + deviation,
        f"{sum(rate[-1] for rate in one['spike_rate']) / len(one['spike_rate']):.2f} %",
    ]


def short(method: str) -> str:
    """A method's repr without the fields that a page states once."""
    name, _, fields = method.partition("(")
    telling = ("percentile", "scale=", "per_channel=True", "residual='unity'")
    shown = [f for f in fields.rstrip(")").split(", ") if f.startswith(telling) and f != "scale=None"]
    return f"{name}({', '.join(shown)})".replace("()", "")
