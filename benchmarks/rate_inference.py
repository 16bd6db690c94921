"""Second stage of Rate Norm training on digits: what moves, and for whom p is (the table of docs/ratenorm.md).

EQUISPIKE_DATA=FOLDER python -m benchmarks.rate_inference
"""

import argparse

import torch
from torch import nn

import equispike as es
from equispike.zoo.data import load
from equispike.zoo.rate_inference import Settings, lower_thresholds, recipe_of
from equispike.zoo.store import load_model

STEPS = (8, 16, 32)
VARIANTS = (
    {},
    {"batch_norm_moves": False},
    {"maxima_move": False},
    {"maxima_move": False, "batch_norm_moves": False},
    {"shared": False},
    {"shared": False, "batch_norm_moves": False},
)
"""Changes of the settings, in the order of the table."""


def main(steps: int, network: str, lambdas: tuple[float, ...]) -> None:
    """Print a line for each variant and lambda: p, accuracy as trained and as spikes, in percent."""
    data, (model, card) = load("mnist"), load_model(network)
    validation, test = data.validation.take(2000), data.test.take(500)

    def spikes(network: nn.Module, method: es.RateNorm | es.DataNorm) -> str:
        converted = es.convert(network, data.train.take(256).floats(), method=method)
        mean = es.evaluate(converted, test.batches(250), timesteps=max(STEPS)).mean
        return " | ".join(f"{100 * float(mean[t - 1]):.1f}" for t in STEPS)

    print(f"{network}, torch {torch.__version__}, {steps} steps of 64, T = {STEPS}")
    for percentile in (100.0, 99.9):
        print(f"| DataNorm({percentile:g}) | | | | | {spikes(model, es.DataNorm(percentile))} |")
    for changes in VARIANTS:
        settings = Settings(steps=steps, batch=64, recipe=recipe_of(card), **changes)
        curve = lower_thresholds(model, data.train, validation, lambdas, settings)
        for point in curve.points if changes else (curve.trained, *curve.points):
            moves = [("rests", "moves")[moving] for moving in (settings.maxima_move, settings.batch_norm_moves)]
            p = sorted(set(point.p.values()))
            words = (*moves, f"{point.lambda_:g}", " to ".join(f"{one:.2f}" for one in dict.fromkeys((p[0], p[-1]))))
            found = spikes(curve.at(point), es.RateNorm())
            print(f"| {' | '.join(words)} | {100 * point.validation_accuracy:.1f} | {found} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--network", default="mnist-cnn-rnl")
    parser.add_argument("--lambdas", type=float, nargs="+", default=(0.01, 0.03, 0.1, 0.5))
    given = parser.parse_args()
    main(given.steps, given.network, tuple(given.lambdas))
