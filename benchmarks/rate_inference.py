"""Second stage of Rate Norm training on digits: maxima and batch norm move or rest (the table of docs/ratenorm.md).

EQUISPIKE_DATA=FOLDER python benchmarks/rate_inference.py --steps 150
"""

import argparse
import itertools

import torch
from torch import nn

import equispike as es
from equispike.zoo.data import load
from equispike.zoo.rate_inference import Settings, lower_thresholds
from equispike.zoo.store import load_model

STEPS = (8, 16, 32)


def main(steps: int, network: str, lambdas: tuple[float, ...]) -> None:
    """Print a line for each variant and lambda: p, accuracy as trained and as spikes, in percent."""
    data, (model, _) = load("mnist"), load_model(network)
    validation, test = data.validation.take(2000), data.test.take(500)

    def spikes(network: nn.Module, method: es.RateNorm | es.DataNorm) -> str:
        converted = es.convert(network, data.train.take(256).floats(), method=method)
        mean = es.evaluate(converted, test.batches(250), timesteps=max(STEPS)).mean
        return " | ".join(f"{100 * float(mean[t - 1]):.1f}" for t in STEPS)

    print(f"{network}, torch {torch.__version__}, {steps} steps of 128, T = {STEPS}")
    for percentile in (100.0, 99.9):
        print(f"| DataNorm({percentile:g}) | | | | | {spikes(model, es.DataNorm(percentile))} |")
    for maxima, norm in itertools.product((True, False), (True, False)):
        settings = Settings(steps=steps, maxima_move=maxima, batch_norm_moves=norm)
        curve = lower_thresholds(model, data.train, validation, lambdas, settings)
        for point in (curve.trained, *curve.points) if maxima and norm else curve.points:
            words = ("move" if maxima else "rest", "moves" if norm else "rests", f"{point.lambda_:g}")
            p, trained = next(iter(point.p.values())), 100 * point.validation_accuracy
            found = spikes(curve.at(point), es.RateNorm())
            print(f"| {' | '.join(words)} | {p:.2f} | {trained:.1f} | {found} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--network", default="mnist-cnn-rnl")
    parser.add_argument("--lambdas", type=float, nargs="+", default=(0.03, 0.1, 0.5))
    given = parser.parse_args()
    main(given.steps, given.network, tuple(given.lambdas))
