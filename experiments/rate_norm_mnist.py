"""Rate Norm layers and the rate inference loss on MNIST (Ding et al., 2021): what learnt thresholds are worth.

Two networks, with batch norm and biases, are trained on 55,000 digits with Rate Norm layers (stage 1); then their
thresholds are lowered (stage 2) for several lambdas, and the point with the smallest mean Omega within 0.2 points of
validation accuracy is taken. Both are converted as they are; beside them, the stage-1 network with thresholds from its
activations. Constant coding, soft reset; mnist-alexnet-quarter-rnl has a quarter of the channels and hidden neurons.

Run:  python experiments/rate_norm_mnist.py --out results --data FOLDER       (about an hour on 2 cores; what is already
there is not done again)
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from torch import nn

import equispike as es
from equispike.calibrate.method import Method
from equispike.conversion import versions
from equispike.results import write_json
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import build
from equispike.zoo.rate_inference import TradeOff, lower_thresholds
from equispike.zoo.recipes import RECIPES
from equispike.zoo.store import load_model, save_model
from equispike.zoo.train import accuracy, train

MODELS = {"mnist-cnn-rnl": 10_000, "mnist-alexnet-quarter-rnl": 2_000}  # and test images to simulate
LAMBDAS = (0.001, 0.003, 0.01, 0.03, 0.1)
TOLERANCE = 0.002
TIMESTEPS = 256
CHOSEN = (8, 16, 32, 64, 128, 256)
CALIBRATION_IMAGES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--data", type=Path, help="folder with MNIST, as torchvision leaves it")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    arguments = parser.parse_args()
    mnist = load("mnist", arguments.data)
    for name in arguments.only:
        model = trained(name, mnist, arguments.out / "rate_norm_mnist" / f"{name}.safetensors")
        curve = lower_thresholds(model, mnist.train, mnist.validation, LAMBDAS)
        chosen = curve.choose(TOLERANCE)
        print(f"{name}: {accuracy(model, mnist.test):.2%} of all test images")
        for point in (curve.trained, *curve.points):
            print(f"  lambda {point.lambda_}: validation {point.validation_accuracy:.2%}, Omega {point.omega:.2f}")
        print(f"  lambda {chosen.lambda_} taken")
        networks = {
            "stage 1": (model, es.RateNorm()),
            "stage 2": (curve.at(chosen), es.RateNorm()),
            "DataNorm(100)": (model, es.DataNorm()),
            "DataNorm(99.9)": (model, es.DataNorm(99.9)),
        }
        for label, (source, method) in networks.items():
            path = arguments.out / "rate_norm_mnist" / f"{name}, {label}.json"
            if not path.exists():
                row = simulated(source, method, mnist, MODELS[name])
                write_json(path, {"model": name, "label": label, "curve": described(curve), **row})
            print(line(label, json.loads(path.read_text())), flush=True)


def trained(name: str, mnist: Dataset, path: Path) -> nn.Module:
    """Stage 1, resumed if it was interrupted, or read if it was done."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe, checkpoint = RECIPES["mnist"], path.with_suffix(".training")
        run = train(build(name), mnist.train, mnist.validation, recipe, checkpoint=checkpoint, resume=True)
        card = {
            "data": "mnist",
            "training_images": len(mnist.train),
            "recipe": repr(recipe),
            "seed": 0,
            "best": asdict(run.best),
            "test_accuracy": accuracy(run.model, mnist.test),
            "test_images": len(mnist.test),
            "versions": versions(),
        }
        save_model(path, name, run.model, card)
        checkpoint.unlink()
    return load_model(path)[0]


def simulated(model: nn.Module, method: Method, mnist: Dataset, images: int) -> dict[str, object]:
    """Accuracy and spike rate after every step."""
    network = es.convert(model, [mnist.train.take(CALIBRATION_IMAGES).floats()], method)
    result = es.evaluate(network, mnist.test.take(images).batches(500), TIMESTEPS, es.Constant())
    return {
        "method": str(method),
        "images": result.images,
        "calibration_images": CALIBRATION_IMAGES,
        "trained_accuracy": result.trained,
        "accuracy": result.mean.tolist(),
        "spike_rate": result.spike_rate.mean(0).tolist(),
        "thresholds": {layer: float(value.max()) for layer, value in network.thresholds.items()},
        "seconds": result.seconds,
        "versions": versions(),
    }


def described(curve: TradeOff) -> list[dict[str, object]]:
    return [asdict(point) for point in (curve.trained, *curve.points)]


def line(label: str, row: dict) -> str:
    scores = " ".join(f"{100 * row['accuracy'][t - 1]:6.2f}" for t in CHOSEN)
    trained = 100 * row["trained_accuracy"]
    return f"  {label:15} n={row['images']} trained {trained:.2f} | {scores} | {row['spike_rate'][-1]:.2f} % spikes"


if __name__ == "__main__":
    main()
