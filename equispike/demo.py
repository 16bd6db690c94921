"""The main job on embedded data: train on real digits, convert with every method, simulate, show what was kept."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from equispike.analysis.accuracy import evaluate
from equispike.analysis.plots import Curve, accuracy_and_spike_rate
from equispike.calibrate.data_norm import DataNorm, ModelNorm
from equispike.calibrate.method import Method
from equispike.calibrate.spike_norm import RMP, SpikeNorm, rescaled
from equispike.conversion import convert, versions
from equispike.export.checkpoint import save
from equispike.functional.coding import Coder, Constant, Poisson
from equispike.graph.network import Network
from equispike.results import Result, write_json
from equispike.zoo.data import load
from equispike.zoo.models import build
from equispike.zoo.recipes import RECIPES
from equispike.zoo.store import save_model
from equispike.zoo.train import Progress, accuracy, train

DATA, MODEL, RECIPE = "mnist-sample", "mnist-cnn", "demo"
CALIBRATION_IMAGES = 128
CALIBRATION_STEPS = 100
SCALES = (1.0, 0.8, 0.6, 0.4)


def networks(model: nn.Module, calibration: list[Tensor]) -> Iterator[tuple[Method, Coder, Network]]:
    """Every method of the demo, its input coding, and the network that it gives."""
    soft = RMP(1.0, CALIBRATION_STEPS)
    for method in (ModelNorm(), DataNorm(), DataNorm(99.9)):
        yield method, Constant(), convert(model, calibration, method)
    hard = SpikeNorm(CALIBRATION_STEPS)
    yield hard, Poisson(), convert(model, calibration, hard)
    measured = convert(model, calibration, soft)
    for scale in SCALES:  # one measurement serves all scales
        method = replace(soft, scale=scale)
        yield method, Constant(), rescaled(measured, method)


def demo(
    out: Path, images: int, timesteps: int, seed: int, report: Callable[[Progress], None]
) -> tuple[float, list[Result]]:
    """Run the whole job and write ``model.safetensors``, networks, ``results.json`` and ``accuracy.png`` to a folder.

    Args:
        out: the folder, made if absent.
        images: test digits to simulate, the first ones of the embedded 2,000.
        timesteps: T.
        seed: of initial weights, training and Poisson draws.
        report: hears of the training's progress.
    Returns:
        accuracy of the trained network on the simulated digits, and one result per method.
    """
    digits = load(DATA)
    test = digits.test.take(images)
    trained = train(build(MODEL, seed), digits.train, digits.validation, RECIPES[RECIPE], seed, report)
    card = {
        "data": DATA,
        "recipe": repr(RECIPES[RECIPE]),
        "seed": seed,
        "best": asdict(trained.best),
        "test_accuracy": accuracy(trained.model, digits.test),
        "test_images": len(digits.test),
        "versions": versions(),
    }
    save_model(out / "model.safetensors", MODEL, trained.model, card)
    calibration = [digits.train.take(CALIBRATION_IMAGES).floats()]
    results: list[Result] = []
    for method, coder, network in networks(trained.model, calibration):
        result = evaluate(network, test.batches(100), timesteps, coder, seed, label=f"simulating {method}")
        results.append(Result(str(method), str(coder), network, result))
    save(results[-2].network, out / "network.safetensors")
    ceiling = results[0].evaluation.trained
    content = {
        "ann_accuracy": ceiling,
        "images": images,
        "runs": [result.to_json() for result in results],
        "versions": versions(),
        "data": f"{DATA}/test",
        "calibration": {"images": CALIBRATION_IMAGES, "timesteps": CALIBRATION_STEPS},
        "model": card,
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }
    write_json(out / "results.json", content)
    title = f"MNIST: a trained network run as spikes, {images:,} test digits"
    accuracy_and_spike_rate([curve(result) for result in results], ceiling, title, out / "accuracy.png")
    return ceiling, results


def curve(result: Result) -> Curve:
    """The line that a result draws."""
    content: Mapping[str, list[float]] = result.to_json()
    steps = range(1, len(content["accuracy"]) + 1)
    label = f"{result.method}, {result.coder.partition('(')[0].lower()}"
    return Curve(label, steps, content["accuracy"], content["spike_rate"])
