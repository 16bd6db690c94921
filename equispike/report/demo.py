"""The main job on embedded data: train on real digits, convert with every method, simulate, show what was kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor, nn

from equispike.analysis.accuracy import evaluate
from equispike.analysis.closer import look_closer
from equispike.analysis.plots import Curve, accuracy_and_spike_rate, line_of
from equispike.calibrate.data_norm import DataNorm, ModelNorm
from equispike.calibrate.rmp import RMP
from equispike.calibrate.spike_norm import SpikeNorm
from equispike.conversion import Converter
from equispike.files.checkpoint import save
from equispike.functional.coding import Constant
from equispike.graph.network import Network
from equispike.provenance import versions
from equispike.results import Result, conversion, document, write_json
from equispike.zoo.data import load
from equispike.zoo.models import build
from equispike.zoo.recipes import RECIPES
from equispike.zoo.store import save_model
from equispike.zoo.train import Progress, card, train

DATA, MODEL, RECIPE = "mnist-sample", "mnist-cnn", "demo"
CALIBRATION_IMAGES = 128
CALIBRATION_STEPS = 100
SCALES = (1.0, 0.6, 0.4)
"""With the others these are eight ways, as many as the report draws with a name and colour each."""
CODER = Constant()


def networks(model: nn.Module, calibration: list[Tensor]) -> Iterator[Network]:
    """The network of every method of the demo; first the one that ``convert`` gives if none is named.

    All have constant input, while thresholds are measured too, and the potential read out: they differ in the method,
    and the first begins at half a threshold.
    """
    convert = Converter(model, calibration)
    spiking = [SpikeNorm(CALIBRATION_STEPS, coder=CODER)]
    scaled = [RMP(scale, CALIBRATION_STEPS, CODER) for scale in SCALES]
    for method in (None, ModelNorm(), DataNorm(), DataNorm(99.9), *spiking, *scaled):
        yield convert(method, readout="potential")


def demo(
    out: Path, images: int, timesteps: int, seed: int, report: Callable[[Progress], None]
) -> tuple[float, list[Result]]:
    """Run the whole job and write ``model.safetensors``, networks, ``results.json`` and ``accuracy.png`` to a folder.

    Args:
        out: the folder, made if absent.
        images: test digits to simulate, the first ones of the embedded 2,000.
        timesteps: T.
        seed: of initial weights and training.
        report: hears of the training's progress.
    Returns:
        accuracy of the trained network on the simulated digits, and one result per method.
    """
    digits = load(DATA)
    test = digits.test.take(images)
    trained = train(build(MODEL, seed), digits.train, digits.validation, RECIPES[RECIPE], seed, report)
    told = {**card(trained, digits, RECIPES[RECIPE], seed), "versions": versions()}
    save_model(out / "model.safetensors", MODEL, trained.model, told)
    calibration = [digits.train.take(CALIBRATION_IMAGES).floats()]
    results: list[Result] = []
    for network in networks(trained.model, calibration):
        label = f"simulating {conversion(network.provenance)}"
        result = evaluate(network, test.batches(100), timesteps, CODER, seed, label=label)
        closer = look_closer(network, result, test, CODER, seed)
        results.append(Result(network, CODER, result, closer, test.labels))
    save(results[-2].network, out / "network.safetensors")
    ceiling = results[0].evaluation.trained
    content = document(
        results, MODEL, test.name, test.classes, model=told, device="cpu",
    )  # fmt: skip
    write_json(out / "results.json", content)
    title = f"MNIST: a trained network run as spikes, {images:,} test digits"
    accuracy_and_spike_rate([curve(result) for result in results], ceiling, title, out / "accuracy.png")
    return ceiling, results


def curve(result: Result) -> Curve:
    """The line that a result draws."""
    return line_of(f"{result.method}, {type(result.coder).__name__.lower()}", result.evaluation)
