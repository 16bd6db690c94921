"""This package's conversion beside SpikingJelly's own, on the same model, images, percentile and steps.

Writes docs/tables/converters.md. SpikingJelly has to be installed: nox -s compare makes an environment with it.

    python -m benchmarks.converters --networks mnist-cnn --images 500 --timesteps 64 --out mine.md
"""

import argparse
from pathlib import Path

import torch

from benchmarks.comparison import Side, compare
from benchmarks.tables import write_table
from equispike.results import chosen_steps
from equispike.zoo.data import load
from equispike.zoo.store import load_model

IMAGES = {"mnist-cnn": 200, "mnist-cnn-bn": 200, "resnet20-cifar10": 20}
"""Test images, by network."""


def rows(name: str, asked: argparse.Namespace) -> list[list[str]]:
    """One row for each converter, words first."""
    model, card = load_model(name)
    place = "mnist-sample" if card["data"] == "mnist" else str(card["data"]).partition("/")[0]
    data = load(place, asked.data_folder, bool(card.get("normalised", False)))
    test = data.test.take(asked.images or IMAGES.get(name, 200))
    held = data.train.take(asked.calibration_images).batches(100)
    found = compare(model, held, test.batches(50), asked.timesteps, asked.percentile)

    def row(side: Side, last: str) -> list[str]:
        accuracies = (f"{side.accuracy[t - 1]:.1%}" for t in chosen_steps(asked.timesteps))
        seconds = f"{side.converting:.1f} s", f"{side.simulating:.1f} s"
        return [
            name,
            str(len(test)),
            f"{found.trained:.1%}",
            side.name,
            *accuracies,
            f"{side.spikes:,.0f}",
            *seconds,
            last,
        ]

    return [row(found.ours, ""), row(found.theirs, f"{found.differing:,} of {found.neurons:,}")]


def main() -> None:
    """Compare, print the rows, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(IMAGES), help="of the zoo, by name or file")
    parser.add_argument("--images", type=int, help="first test images; default 200 digits, 20 of CIFAR-10")
    parser.add_argument("--timesteps", type=int, default=128)
    parser.add_argument("--percentile", type=float, default=99.9, help="of the activations, in both; 100: the maximum")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/tables/converters.md"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps = (f"T={t}" for t in chosen_steps(asked.timesteps))
    last = ("spikes/image", "convert", "simulate", "neurons that differ with our thresholds")
    lines = [["network", "images", "trained", "converter", *steps, *last]]
    for name in asked.networks:
        lines += rows(name, asked)
        print(*(" | ".join(line) for line in lines[-2:]), sep="\n", flush=True)
    conditions = (
        f"Written by `benchmarks/converters.py`: the first test images, constant input, {asked.calibration_images} "
        f"training images in batches of 100, percentile {asked.percentile}, soft reset, float32, torch "
        f"{torch.__version__}, CPU, one run; processor seconds on one thread."
    )
    write_table(asked.out, conditions, lines, words=4)


if __name__ == "__main__":
    main()
