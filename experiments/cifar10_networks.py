"""Both worlds on CIFAR-10: a constrained ResNet-20 and a VGG-11 with Rate Norm layers, trained and run as spikes.

Trained with, on one thread each (resnet20 in 20 epochs and 6 more):

    equispike train --model resnet20-cifar10 --data cifar10 --recipe sengupta-cifar-fast --out FIRST
    equispike train --start FIRST --data cifar10 --recipe cifar-again --out FILE
    equispike train --model vgg11-half-rnl-cifar10 --data cifar10 --recipe ding-cifar-fast --epochs 22 --out FILE

45,000 training images, 5,000 for validation (the best epoch is kept), seed 0; every epoch is in experiments/logs.
vgg11-half-rnl-cifar10 has half of VGG-11's channels and hidden layers of 512.

Result (CPU, torch 2.13; docs/results.md): 88.09 and 88.42 % on all 10,000 test images. ResNet-20, constant coding, the
first 500 test images, of which the trained network has 88.00 %: DataNorm(99.9) 87.6, 88.8 and 88.2 % at T = 64, 128 and
256; DataNorm(100) 66.0, 86.4 and 87.8 %. RMP(0.8) stays at 25 %: its rates grow by 1.25 a layer and are clipped.

Run:  python experiments/cifar10_networks.py FILE... --out results --data FOLDER     (what is already there is not done
again)
"""

import argparse
from pathlib import Path

from rows import row, table
from torch import nn

import equispike as es
from equispike.calibrate.method import Method
from equispike.functional.coding import Coder
from equispike.zoo.data import Dataset, load
from equispike.zoo.rate_inference import lower_thresholds
from equispike.zoo.store import load_model

MODELS = ("resnet20-cifar10", "vgg11-half-rnl-cifar10")
IMAGES = 500
TIMESTEPS = 256
CHOSEN = (16, 32, 64, 128, 256)
CALIBRATION_IMAGES = 256
CALIBRATION_STEPS = 256
LAMBDAS = (0.001, 0.003, 0.01, 0.03)
TOLERANCE = 0.01
LABELS = "stage 1", "stage 2", "DataNorm(100)", "DataNorm(99.9)", "RMP(0.9)", "RMP(0.8)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="trained models, by name or file")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10, as torchvision leaves it")
    arguments = parser.parse_args()
    cifar = load("cifar10", arguments.data).normalised()
    for file in arguments.files:
        model, card = load_model(file)
        name = Path(file).stem
        print(f"{name}: {card['test_accuracy']:.2%} of {card['test_images']:,} test images")
        for label, (source, method, coder) in variants(name, model, cifar).items():
            path = arguments.out / "cifar10_networks" / f"{name}, {label}.json"
            calibration, test = cifar.train.take(CALIBRATION_IMAGES), cifar.test.take(IMAGES)
            one = row(
                path, source, method, coder, calibration, test, TIMESTEPS, 100, label=label, model=name, card=card
            )
            print(table([one], CHOSEN).splitlines()[-1], flush=True)


def variants(name: str, model: nn.Module, cifar: Dataset) -> dict[str, tuple[nn.Module, Method, Coder]]:
    """What is compared on a network: model, method and coding by label."""
    baseline: dict[str, tuple[nn.Module, Method, Coder]] = {
        "DataNorm(100)": (model, es.DataNorm(), es.Constant()),
        "DataNorm(99.9)": (model, es.DataNorm(99.9), es.Constant()),
    }
    if "rnl" in name:
        curve = lower_thresholds(model, cifar.train, cifar.validation, LAMBDAS)
        for point in (curve.trained, *curve.points):
            print(f"  lambda {point.lambda_}: validation {point.validation_accuracy:.2%}, Omega {point.omega:.2f}")
        lowered = curve.at(curve.choose(TOLERANCE))
        learnt = es.RateNorm()
        return {"stage 1": (model, learnt, es.Constant()), "stage 2": (lowered, learnt, es.Constant()), **baseline}
    return {
        **baseline,
        "RMP(0.9)": (model, es.RMP(0.9, CALIBRATION_STEPS), es.Constant()),
        "RMP(0.8)": (model, es.RMP(0.8, CALIBRATION_STEPS), es.Constant()),
    }


if __name__ == "__main__":
    main()
