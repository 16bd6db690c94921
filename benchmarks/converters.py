"""How does this package's conversion compare with SpikingJelly's own, on the same model, images, percentile and steps?

Writes docs/tables/converters.md. SpikingJelly has to be installed: nox -s compare
"""

import argparse
from pathlib import Path

import torch
from tables import write_table

from equispike.converters import Side, compare
from equispike.zoo.data import load
from equispike.zoo.store import load_model

NETWORKS = {
    "mnist-cnn": ("mnist-sample", 200),
    "mnist-cnn-bn": ("mnist-sample", 200),
    "resnet20-cifar10": ("cifar10", 20),
}
TIMESTEPS, SHOWN, CALIBRATION, PERCENTILE = 128, (8, 16, 32, 64, 128), 256, 99.9
HEADER = (
    *("network", "images", "trained", "converter", *(f"T={t}" for t in SHOWN)),
    *("spikes/image", "convert", "simulate", "neurons that differ with our thresholds"),
)


def rows(name: str, data_folder: Path | None) -> list[tuple[str, ...]]:
    model, card = load_model(name)
    place, images = NETWORKS[name]
    data = load(place, data_folder, card.get("normalised", False))
    found = compare(
        model, data.train.take(CALIBRATION).batches(100), data.test.take(images).batches(50), TIMESTEPS, PERCENTILE
    )

    def row(side: Side, last: str) -> tuple[str, ...]:
        accuracies = (f"{side.accuracy[t - 1]:.1%}" for t in SHOWN)
        seconds = f"{side.converting:.1f} s", f"{side.simulating:.1f} s"
        return (
            name,
            str(images),
            f"{found.trained:.1%}",
            side.name,
            *accuracies,
            f"{side.spikes:,.0f}",
            *seconds,
            last,
        )

    return [row(found.ours, ""), row(found.theirs, f"{found.differing:,} of {found.neurons:,}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/tables/converters.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEADER]
    for name in arguments.networks:
        lines += rows(name, arguments.data_folder)
        print(*(" | ".join(line) for line in lines[-2:]), sep="\n", flush=True)
    conditions = (
        f"Written by `benchmarks/converters.py`: the first test images, constant input, {CALIBRATION} training images "
        f"in batches of 100, percentile {PERCENTILE}, soft reset, float32, torch {torch.__version__}, CPU, one run; "
        "processor seconds on one thread."
    )
    write_table(arguments.out, conditions, lines, words=4)


if __name__ == "__main__":
    main()
