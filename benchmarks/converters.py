"""This package's conversion beside SpikingJelly's own, on the same model, images, percentile and steps.

Writes docs/tables/converters.md. SpikingJelly has to be installed: nox -s compare makes an environment with it.

    python -m benchmarks.converters --networks mnist-cnn --images 500 --timesteps 64 --out mine.md
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import tables
from benchmarks.comparison import compare
from equispike.results import chosen_steps
from equispike.zoo.data import load
from equispike.zoo.store import load_model

IMAGES = {"mnist-cnn": 200, "mnist-cnn-bn": 200, "resnet20-cifar10": 20}
"""Test images, by network."""


def rows(name: str, asked: argparse.Namespace) -> Iterator[list[str]]:
    """One row for each converter, words first."""
    model, card = load_model(name)
    place = "mnist-sample" if card["data"] == "mnist" else str(card["data"]).partition("/")[0]
    data = load(place, asked.data_folder, bool(card.get("normalised", False)))
    test = data.test.take(asked.images or IMAGES.get(name, 200))
    held = data.train.take(asked.calibration_images).batches(100)
    found = compare(model, held, test.batches(50), asked.timesteps, asked.percentile)
    for side, last in ((found.ours, ""), (found.theirs, f"{found.differing:,} of {found.neurons:,}")):
        accuracies = (f"{side.accuracy[t - 1]:.1%}" for t in chosen_steps(asked.timesteps))
        seconds = f"{side.converting:.1f} s", f"{side.simulating:.1f} s"
        first = name, str(len(test)), f"{found.trained:.1%}", side.name
        yield [*first, *accuracies, f"{side.spikes:,.0f}", *seconds, last]


def main() -> None:
    """Compare, print the rows, and write the table."""
    parser = tables.parser(__doc__, "converters")
    parser.add_argument("--networks", nargs="+", default=list(IMAGES), help="of the zoo, by name or file")
    parser.add_argument("--images", type=int, help="first test images; default 200 digits, 20 of CIFAR-10")
    parser.add_argument("--timesteps", type=int, default=128)
    parser.add_argument("--percentile", type=float, default=99.9, help="of the activations, in both; 100: the maximum")
    parser.add_argument("--calibration-images", type=int, default=256)
    parser.add_argument("--data-folder", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps = (f"T={t}" for t in chosen_steps(asked.timesteps))
    last = ("spikes/image", "convert", "simulate", "neurons that differ with our thresholds")
    conditions = (
        f"Written by `benchmarks/converters.py`: the first test images, constant input, {asked.calibration_images} "
        f"training images in batches of 100, percentile {asked.percentile}, soft reset, float32, torch "
        f"{torch.__version__}, CPU, one run; processor seconds on one thread."
    )
    lines = (line for name in asked.networks for line in rows(name, asked))
    header = ["network", "images", "trained", "converter", *steps, *last]
    tables.write_table(asked.out, conditions, header, lines, words=4)


if __name__ == "__main__":
    main()
