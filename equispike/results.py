"""Results of evaluations as JSON, tables and figures: one shape for the demo, the command line and experiments."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from equispike.analysis.accuracy import Evaluation
from equispike.errors import FileError
from equispike.export.checkpoint import write_bytes
from equispike.graph.network import Network


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation, and what was evaluated: ``method`` and ``coder`` as a reader would write them."""

    method: str
    coder: str
    network: Network
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """Accuracy (mean over seeds) and spike rate (percent) after each step, and all that they depend on."""
        e = self.evaluation
        return {
            "method": self.method,
            "coder": self.coder,
            "reset": self.network.provenance.get("reset"),
            "readout": self.network.provenance.get("readout"),
            "timesteps": list(range(1, e.accuracy.shape[1] + 1)),
            "accuracy": _rounded(e.mean, 6),
            "accuracy_std": _rounded(e.std, 6),
            "spike_rate": _rounded(e.spike_rate.mean(0), 5),
            "ties": _rounded(e.ties.mean(0), 6),
            "spikes_per_image": {name: round(count, 3) for name, count in e.spikes.items()},
            "thresholds": {name: _rounded(t, 7) for name, t in self.network.thresholds.items()},
            "seeds": list(e.seeds),
            "seconds": round(e.seconds, 2),
        }


def write_json(path: Path, content: object) -> None:
    """Write JSON, atomically. FileError if that is not possible."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """What a JSON file holds. FileError if it is none, or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: is not readable JSON: {error}. Delete it, and it will be made again") from error


def chosen_steps(timesteps: int) -> list[int]:
    """The powers of two from 8 on up to T, and T itself: the columns of a table."""
    powers = [2**k for k in range(3, timesteps.bit_length()) if 2**k <= timesteps]
    return powers if powers and powers[-1] == timesteps else [*powers, timesteps]


def table(results: Sequence[Result]) -> list[list[str]]:
    """Header and rows: method, coding, reset, accuracy in percent at the chosen steps, spike rate at T."""
    steps = chosen_steps(results[0].evaluation.accuracy.shape[1])
    header = ["method", "input", "reset", *(f"T={t}" for t in steps), "spike rate"]
    rows = [
        [
            r.method,
            r.coder.partition("(")[0].lower(),
            {"subtract": "soft", "zero": "hard"}.get(str(r.network.provenance.get("reset")), "-"),
            *(f"{100 * float(r.evaluation.mean[t - 1]):.1f}" for t in steps),
            f"{float(r.evaluation.spike_rate[:, -1].mean()):.2f} %",
        ]
        for r in results
    ]
    return [header, *rows]


def _rounded(values: Tensor, digits: int) -> list[float]:
    return [round(float(value), digits) for value in values.flatten()]
