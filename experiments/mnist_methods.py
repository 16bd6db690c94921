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
from pathlib import Path

from rows import row, table

import equispike as es
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
    arguments = parser.parse_args()
    mnist = load("mnist", arguments.data)
    model, card = load_model(MODEL)
    stated = {"model": MODEL, "model_test_accuracy": card["test_accuracy"]}
    calibration = mnist.train.take(CALIBRATION_IMAGES)
    for name in arguments.only:
        method, coder, images = ROWS[name]
        path, test = arguments.out / "mnist_methods" / f"{name}.json", mnist.test.take(images)
        one = row(path, model, method, coder, calibration, test, TIMESTEPS, seeds=SEEDS, **stated)
        print(table([one], CHOSEN).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
