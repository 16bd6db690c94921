"""Writes the tables of docs/results.md from the files that the experiments left.

Run:  python experiments/results_page.py --out results --page docs/results.md
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cifar10_networks
import mnist_methods
import rate_norm_mnist
from rows import Row, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder that the experiments wrote to")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    arguments.page.write_text(page(arguments.out))


def page(folder: Path) -> str:
    """The whole page, without the networks that have no rows."""
    mnist = read(folder / "mnist_methods", [f"{name}.json" for name in mnist_methods.ROWS])
    versions = mnist[0]["versions"]
    sections = [
        f"""# Results

Written by `python experiments/results_page.py` from the files that the experiments left.

- Accuracy in percent after T steps, on the first test images, as many as stated. "trained" is the trained network on
  the same images; the first half of MNIST's test images is easier than the second.
- Poisson rows with several runs are means over seeds, ± the sample standard deviation at the largest T. Constant coding
  draws nothing: one run is all there is.
- Spike rate: percent of neurons that spike per step, up to the largest T (Han et al., 2020, eq. 8).
- Calibration: 256 training images.
- CPU, float32, torch {versions["torch"]}, equispike {versions["equispike"]}.

## MNIST: every method on the constrained 7-layer network

`{mnist_methods.MODEL}`, weights in the package, trained on 55,000 images, seed 0;
{100 * mnist[0]["model_test_accuracy"]:.2f} % on all 10,000 test images. SPIKE-NORM and RMP observe each layer for
{mnist_methods.CALIBRATION_STEPS} steps. `experiments/mnist_methods.py`.

{table(mnist, mnist_methods.CHOSEN)}
"""
    ]
    for name, rows in networks(folder, rate_norm_mnist):
        points = [
            [f"{point['lambda_']:g}", f"{100 * point['validation_accuracy']:.2f}", f"{point['omega']:.2f}"]
            for point in rows[0]["curve"]
        ]
        curve = "\n".join(
            f"| {' | '.join(cells)} |"
            for cells in [["lambda", "validation accuracy", "mean Omega"], ["--:"] * 3, *points]
        )
        sections.append(
            f"""## MNIST: Rate Norm layers, `{name}`

Trained on 55,000 images, seed 0. Stage 2 takes the smallest Omega that costs at most
{100 * rate_norm_mnist.TOLERANCE:.1f} points of validation accuracy (5,000 images). `experiments/rate_norm_mnist.py`.

{curve}

{table(rows, rate_norm_mnist.CHOSEN)}
"""
        )
    for name, rows in networks(folder, cifar10_networks):
        card = rows[0]["card"]
        sections.append(
            f"""## CIFAR-10: `{name}`

Trained on {card["training_images"]:,} images, seed {card["seed"]}; {100 * card["test_accuracy"]:.2f} % on all
{card["test_images"]:,} test images. `experiments/cifar10_networks.py`.

{table(rows, cifar10_networks.CHOSEN)}
"""
        )
    return "\n".join(sections)


def networks(folder: Path, experiment: ModuleType) -> Iterator[tuple[str, list[Row]]]:
    """Networks of an experiment that has several, with their rows, if they have any."""
    for name in experiment.MODELS:
        rows = read(folder / experiment.__name__, [f"{name}, {label}.json" for label in experiment.LABELS])
        if rows:
            yield name, rows


def read(folder: Path, names: list[str]) -> list[Row]:
    return [json.loads((folder / name).read_text()) for name in names if (folder / name).exists()]


if __name__ == "__main__":
    main()
