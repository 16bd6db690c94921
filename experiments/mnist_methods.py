"""Every method on MNIST: accuracy and spike rate against the number of time-steps.

The constrained 7-layer network (mnist-cnn, weights in the package: 55,000 training images, seed 0), calibrated with
256 training images; SPIKE-NORM and RMP observe each layer for 512 steps. Poisson rows are means over five seeds.

Result (docs/results.md; CPU, torch 2.13; the trained network has 99.42 % of 10,000 test images and 99.20 % of the first
2,000): DataNorm(99.9) and RMP(0.8), constant coding, 10,000 images: 99.42 % each at T = 128. SpikeNorm, hard reset,
Poisson, 2,000 images, 5 seeds: 98.25, 99.08, 99.20 and 99.26 % at T = 64, 128, 256 and 512. RMP(0.4) loses 1.9 points
for good, ModelNorm stays at chance.

Run:  python experiments/mnist_methods.py --out results --data FOLDER         (hours on 2 cores; a row that is already
there is not run again, and several processes may share the rows by --only)
"""

import argparse
import json
from pathlib import Path

import torch

import equispike as es
from equispike.conversion import versions
from equispike.zoo.data import load
from equispike.zoo.store import load_model

MODEL = "mnist-cnn"
TIMESTEPS = 512
CALIBRATION_IMAGES = 256
CALIBRATION_STEPS = 512
SEEDS = 5
CHOSEN = (8, 16, 32, 64, 128, 256, 512)

# name: (method, coder, test images)
ROWS = {
    "datanorm-99.9": (es.DataNorm(99.9), es.Constant(), 10_000),
    "rmp-0.8": (es.RMP(0.8, CALIBRATION_STEPS), es.Constant(), 10_000),
    "rmp-0.6": (es.RMP(0.6, CALIBRATION_STEPS), es.Constant(), 2_000),
    "spikenorm-poisson": (es.SpikeNorm(CALIBRATION_STEPS), es.Poisson(), 2_000),
    "rmp-0.8-poisson": (es.RMP(0.8, CALIBRATION_STEPS), es.Poisson(), 2_000),
    "datanorm-100": (es.DataNorm(), es.Constant(), 2_000),
    "datanorm-99.9-per-channel": (es.DataNorm(99.9, per_channel=True), es.Constant(), 2_000),
    "rmp-1.0": (es.RMP(1.0, CALIBRATION_STEPS), es.Constant(), 2_000),
    "rmp-0.4": (es.RMP(0.4, CALIBRATION_STEPS), es.Constant(), 2_000),
    "modelnorm": (es.ModelNorm(), es.Constant(), 2_000),
    "datanorm-99.9-poisson": (es.DataNorm(99.9), es.Poisson(), 2_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--data", type=Path, help="folder with MNIST, as torchvision leaves it")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--page", type=Path, help="write the rows that are there to this Markdown page, and run none")
    arguments = parser.parse_args()
    folder = arguments.out / "mnist_methods"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.page is not None:
        rows = [json.loads(path.read_text()) for path in (folder / f"{name}.json" for name in ROWS) if path.exists()]
        arguments.page.write_text(page(rows))
        return
    for name in arguments.only:
        path = folder / f"{name}.json"
        if not path.exists():
            row = run(name, arguments.data)
            path.write_text(json.dumps(row) + "\n")
        print(line(name, json.loads(path.read_text())), flush=True)


def run(name: str, data: Path | None) -> dict[str, object]:
    """Convert, evaluate, and describe one row."""
    method, coder, images = ROWS[name]
    mnist = load("mnist", data)
    model, card = load_model(MODEL)
    network = es.convert(model, [mnist.train.take(CALIBRATION_IMAGES).floats()], method=method)
    batches = mnist.test.take(images).batches(500)
    result = es.evaluate(network, batches, TIMESTEPS, coder, runs=SEEDS)
    return {
        "method": repr(method),
        "coder": repr(coder),
        "reset": network.provenance["reset"],
        "readout": network.provenance["readout"],
        "data": "mnist/test",
        "images": result.images,
        "calibration_images": CALIBRATION_IMAGES,
        "model": MODEL,
        "trained_accuracy": result.trained,
        "model_test_accuracy": card["test_accuracy"],
        "seeds": result.seeds,
        "accuracy": [[round(a, 6) for a in row] for row in result.accuracy.tolist()],
        "spike_rate": [[round(r, 5) for r in row] for row in result.spike_rate.tolist()],
        "spikes_per_image": result.spikes,
        "seconds": round(result.seconds, 1),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "versions": versions(),
    }


def line(name: str, row: dict) -> str:
    """One row of the table: mean accuracy (and deviation over seeds) at the chosen steps, and the spike rate."""
    accuracy = torch.tensor(row["accuracy"], dtype=torch.float64)
    shown = " ".join(f"{100 * float(accuracy[:, t - 1].mean()):6.2f}" for t in CHOSEN)
    deviation = 100 * float(accuracy[:, -1].std()) if len(accuracy) > 1 else 0.0
    rate = sum(r[-1] for r in row["spike_rate"]) / len(row["spike_rate"])
    runs = f"{row['images']:6} images {len(accuracy)} runs"
    return f"{name:26} {runs} | {shown} (sd {deviation:.2f}) | {rate:.2f} % spikes"


def page(rows: list[dict]) -> str:
    """The rows as a page of the documentation."""
    columns = [
        "method",
        "input",
        "reset",
        "readout",
        "images",
        "runs",
        "trained",
        *(f"T={t}" for t in CHOSEN),
        "spike rate",
    ]
    lines = [" | ".join(columns), " | ".join(["---"] * 4 + ["--:"] * (len(columns) - 4))]
    for row in rows:
        accuracy = 100 * torch.tensor(row["accuracy"], dtype=torch.float64)
        deviation = f" ± {float(accuracy[:, -1].std()):.2f}" if len(accuracy) > 1 else ""
        cells = [
            short(row["method"]),
            row["coder"].partition("(")[0].lower(),
            {"subtract": "soft", "zero": "hard"}[row["reset"]],
            row["readout"],
            f"{row['images']:,}",
            str(len(accuracy)),
            f"{100 * row['trained_accuracy']:.2f}",
            *(f"{float(accuracy[:, t - 1].mean()):.2f}" for t in CHOSEN),
            f"{sum(r[-1] for r in row['spike_rate']) / len(row['spike_rate']):.2f} %",
        ]
        cells[-2] += deviation
        lines.append(" | ".join(cells))
    table = "\n".join(f"| {line} |" for line in lines)
    versions = rows[0]["versions"]
    return f"""# Results

Written by `python experiments/mnist_methods.py --page docs/results.md` from the experiment's own files.

## MNIST: every method on the constrained 7-layer network

- Network: `{MODEL}`, weights in the package, trained on 55,000 images, seed 0;
  {100 * rows[0]["model_test_accuracy"]:.2f} % on all 10,000 test images.
- Calibration: {CALIBRATION_IMAGES} training images; SPIKE-NORM and RMP observe a layer for {CALIBRATION_STEPS} steps.
- Accuracy in percent after T steps, on the first test images, as many as stated. "trained" is the trained network on
  the same images; the first half of MNIST's test images is easier than the second.
- Poisson rows are means over seeds 0 to {SEEDS - 1}, ± the sample standard deviation at T={CHOSEN[-1]}. Constant coding
  draws nothing: one run is all there is.
- Spike rate: percent of neurons that spike per step, up to T={TIMESTEPS} (Han et al., 2020, eq. 8).
- CPU, float32, torch {versions["torch"]}, equispike {versions["equispike"]}.

{table}
"""


def short(method: str) -> str:
    """A method's repr without the fields that the page states once."""
    name, _, fields = method.partition("(")
    shown = [
        f for f in fields.rstrip(")").split(", ") if f.startswith(("percentile", "scale=")) or f == "per_channel=True"
    ]
    return f"{name}({', '.join(f for f in shown if f != 'scale=None')})".replace("()", "")


if __name__ == "__main__":
    main()
