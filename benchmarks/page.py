"""Write the table of docs/speed.md from what benchmarks/simulation.py printed.

The last line of each run is JSON; such lines, one for each run, are kept in benchmarks/results.jsonl.

    python benchmarks/simulation.py --network resnet20 --threads 1 | tail -n 1 >> benchmarks/results.jsonl
    python benchmarks/page.py
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.jsonl", HERE.parent / "docs" / "speed.md"
BEGIN, END = "<!-- table: benchmarks/page.py -->", "<!-- end of the table -->"
OURS = "auto", "events", "layerwise"
OTHERS = "plain torch loop", "spikingjelly-multi", "spikingjelly-single", "sinabs", "snntorch"


def row(run: dict[str, Any]) -> str:
    """One run: network, batch, rate, processor time of the fastest of ours, and the others' times over it."""
    cpu = {name: found["cpu_median"] for name, found in run["measured"].items()}
    best = min(cpu[name] for name in OURS if name in cpu)
    ratios = [f"{cpu[name] / best:.1f}" if name in cpu else "-" for name in OTHERS]
    share = run["additions"] / best / run["cache"]
    steps = run["image_steps"] / best
    own = (
        run["network"],
        run["weights"].partition(":")[0].partition(" of ")[0],
        run["batch"],
        run["timesteps"],
        run["n"],
    )
    cells = *own, f"{run['spike_rate']:.1f} %", f"{steps:,.0f}", f"{share:.0%}", *ratios
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: what was measured where, then one row for each run."""
    first = runs[0]
    versions = {**first["versions"], **first["peers"]}
    where = f"{first['device']}, {first['threads']} thread; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    cache, memory = (median(run[name] for run in runs) / 1e9 for name in ("cache", "memory"))
    peak = f"One thread adds {cache:.1f} G numbers/s from the L2 cache, {memory:.1f} from memory (medians of all runs)."
    names = "network", "weights", "batch", "T", "n", "spike rate", "image-steps per cpu s", "of L2 peak", *OTHERS
    head = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([f"{where}. {peak}", "", *head, *map(row, runs)])


def page(text: str, runs: list[dict[str, Any]]) -> str:
    """The page with a new table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(runs)}\n{END}{after}"


def main() -> None:
    """Write the table into the page."""
    runs = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), runs), encoding="utf-8")


if __name__ == "__main__":
    main()
