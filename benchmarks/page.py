"""Write the tables of docs/speed.md, docs/simulation.md and docs/cluster.md from what the benchmarks printed.

The last line of each run is JSON; such lines, one for each run, are kept in benchmarks/results.jsonl.

    python -m benchmarks.simulation --network resnet20 --threads 1 | tail -n 1 >> benchmarks/results.jsonl
    python -m benchmarks.page
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS, PAGES = (
    HERE / "results.jsonl",
    [HERE.parent / "docs" / name for name in ("speed.md", "simulation.md", "cluster.md")],
)
END = "<!-- end of the table -->"
OURS = "auto", "events", "layerwise"
OTHERS = "plain torch loop", "spikingjelly-multi", "spikingjelly-single", "sinabs", "snntorch"


def row(run: dict[str, Any]) -> str:
    """One run: network, batch, rate, time of the fastest of ours, and the others' times over it."""
    clock = "cpu_median" if run["threads"] == 1 else "median"
    taken = {name: found[clock] for name, found in run["measured"].items()}
    best = min(taken[name] for name in OURS if name in taken)
    ratios = [f"{taken[name] / best:.1f}" if name in taken else "-" for name in OTHERS]
    share = run["additions"] / best / run["cache"] / run["threads"]
    return line(
        run["network"],
        run["weights"].partition(":")[0].partition(" of ")[0],
        run["threads"],
        run["batch"],
        run["timesteps"],
        run["n"],
        f"{run['spike_rate']:.1f} %",
        f"{run['image_steps'] / best:,.0f}",
        f"{share:.0%}",
        *ratios,
    )


def simulation(runs: list[dict[str, Any]]) -> list[str]:
    """For each processor what it is, then one row for each run."""
    lines: list[str] = []
    names = "network", "weights", "threads", "batch", "T", "n", "spike rate", "image-steps/s", "of L2 peak", *OTHERS
    for processor in dict.fromkeys(run["processor"] for run in runs):
        own = [run for run in runs if run["processor"] == processor]
        versions = {**own[0]["versions"], **own[0]["peers"]}
        where = f"**{processor}**, {own[0]['device']}; " + ", ".join(f"{k} {v}" for k, v in versions.items())
        cache, memory = (median(run[name] for run in own) / 1e9 for name in ("cache", "memory"))
        peak = (
            f"One thread adds {cache:.1f} G numbers/s from the L2 cache, {memory:.1f} from memory (medians of all runs)"
        )
        lines += [f"{where}. {peak}.", "", *header(*names), *map(row, own), ""]
    return lines[:-1]


def integers(runs: list[dict[str, Any]]) -> list[str]:
    """The factor by which integers of so many bits are faster than the weights of a float network."""
    lines = header("processor", "network", "weights", "batch", "T", "n", "bits", "16-bit additions", "`auto`")
    for run in runs:
        for bits, faster in run["integers"].items():
            weights, maker = run["weights"].partition(" of ")[0], run["processor"].partition(" ")[0]
            known = maker, run["network"], weights, run["batch"], run["timesteps"], run["n"]
            lines.append(line(*known, bits, *(f"{ratio:.2f}" for ratio in faster.values())))
    return lines


def kernels(runs: list[dict[str, Any]]) -> list[str]:
    """Milliseconds of a run, and those in the compiled kernels."""
    lines = header(
        "processor", "network", "weights", "threads", "batch", "T", "n", "spike rate", "run, ms", "in kernels, ms"
    )
    for run in runs:
        weights, maker = run["weights"].partition(" of ")[0], run["processor"].partition(" ")[0]
        known = maker, run["network"], weights, run["threads"], run["batch"], run["timesteps"], run["n"]
        times = (f"{seconds * 1e3:.2f}" for seconds in run["kernels"].values())
        lines.append(line(*known, f"{run['spike_rate']:.1f} %", *times))
    return lines


def calibration(runs: list[dict[str, Any]]) -> list[str]:
    """Seconds of the package and of the algorithm as printed: medians, smallest and largest; and over the package's."""
    ways = {"literal": "as printed, dense, s", "literal, events": "as printed, event-driven, s"}
    lines = header("network", "weights", "images", "steps", "threads", "n", "`SpikeNorm`, s", *ways.values())
    for run in sorted(runs, key=lambda run: run["batch"] * run["timesteps"]):
        ours = run["seconds"]["equispike"]
        known = (run[name] for name in ("network", "weights", "batch", "timesteps", "threads"))
        others = [run["seconds"].get(way, []) for way in ways]
        ratios = [f": {median(own) / median(ours):.1f} times" if own else "" for own in others]
        lines.append(line(*known, len(ours), spread(ours), *(spread(own) + x for own, x in zip(others, ratios))))
    return lines


def memory(runs: list[dict[str, Any]]) -> list[str]:
    """Peak of each process, and how much that is above what it held before the simulation, in MiB."""
    lines = header("network", "batch", "engine", "T", "process, MiB", "simulation, MiB")
    for run in runs:
        for name, by_steps in run["MiB"].items():
            for steps, found in by_steps.items():
                sizes = (f"{round(found[key]):,}" for key in ("peak", "simulation"))
                lines.append(line(run["network"], run["batch"], name, steps, *sizes))
    return lines


def rounding(runs: list[dict[str, Any]]) -> list[str]:
    """Share of neurons that spike otherwise than in float64."""
    engines = "stepwise", "layerwise", "events"
    lines = header("network", "weights", "images", "T", "spike rate", *(f"`{name}`" for name in engines))
    for run in runs:
        for row in run["rounding"]:
            known = row["network"], row["weights"].partition(" of ")[0], row["batch"], run["timesteps"]
            shares = (f"{row[name]:.4%}" for name in engines)
            lines.append(line(*known, f"{row['rate']:.1f} %", *shares))
    return lines


def scaling(runs: list[dict[str, Any]]) -> list[str]:
    """Costs of a piece of an evaluation, seconds of all where nobody else worked, and how far workers bring it."""
    workers = "2", "8", "32", "100"
    names = "piece, s", "driver, ms a piece", "start, s", "1 process, s", "2 processes, s"
    lines = header("network", "images a piece", "T", "pieces", "n", *names, *(f"x at {number}" for number in workers))
    for run in runs:
        found, costs = run["scaling"], run["scaling"]["costs"]
        driver = f"{1e3 * (costs['give'] + costs['take']):.1f}"
        wholes = (spread(found["seconds"][number]) if run["load"] < IDLE else "-" for number in ("1", "2"))
        curve = found["simulated"]
        faster = (f"{curve['1'] / curve[number]:.1f}" for number in workers)
        known = run["network"], run["batch"], run["timesteps"], found["pieces"], run["n"], f"{costs['piece']:.3f}"
        lines.append(line(*known, driver, f"{costs['start']:.1f}", *wholes, *faster))
    return lines


TABLES = {
    "measured": simulation,
    "integers": integers,
    "kernels": kernels,
    "seconds": calibration,
    "MiB": memory,
    "rounding": rounding,
    "scaling": scaling,
}
"""What a line of results holds, and the table that is made of all that hold it."""


IDLE = 3.0
"""Load under which two processes were not held up by others."""


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*names: str) -> list[str]:
    return [line(*names), "|" + " --- |" * len(names)]


def spread(seconds: list[float]) -> str:
    if not seconds:
        return "not run"
    middle = f"{median(seconds):,.1f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):,.1f} .. {max(seconds):,.1f})"


def page(text: str, runs: list[dict[str, Any]]) -> str:
    """The page with new tables between their marks."""
    for kind, table in TABLES.items():
        begin = f"<!-- table of benchmarks/page.py: {kind} -->"
        if begin in text and (own := [run for run in runs if kind in run]):
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(END)
            text = "\n".join([before + begin, *table(own), END]) + after
    return text


def main() -> None:
    """Write the tables into the pages."""
    runs = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8"), runs), encoding="utf-8")


if __name__ == "__main__":
    main()
