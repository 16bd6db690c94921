"""Accuracy after few steps beside SpikingJelly's converter, on the same model and images.

Writes docs/tables/few_steps.md. SpikingJelly has to be installed: nox -s few_steps makes an environment with it. Its
recipes are percentiles, of each layer or of each channel, and local threshold balancing; both begin at half a threshold
where they can. Thresholds that are balanced settle batch after batch, so that recipe sees the images several times.

    python -m benchmarks.few_steps --images 1000
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import equispike as es
from benchmarks.comparison import stepped, without_subsampling
from benchmarks.tables import parser, write_table
from equispike.conversion import SpikeKind
from equispike.zoo.data import load
from equispike.zoo.store import load_model

STEPS = 4, 8, 16, 32
BATCH = 5
"""Calibration images in a batch: local threshold balancing takes a step with each."""
PASSES = 8
"""Times that local threshold balancing sees the images: after one, thresholds still move."""


def accuracy_of(peer: Any, test: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Accuracy of SpikingJelly's network after each of STEPS, from the sum of its outputs."""
    right = torch.stack([(stepped(peer, STEPS[-1], x)[0].argmax(2) == labels).sum(1) for x, labels in test]).sum(0)
    images = sum(len(x) for x, _ in test)
    return [int(right[t - 1]) / images for t in STEPS]


def main() -> None:
    """Convert in all ways, print the rows, and write the table."""
    options = parser(__doc__, "few_steps")
    options.add_argument("--network", default="resnet20-bn-cifar10", help="of the zoo, by name or file")
    options.add_argument("--images", type=int, default=1000, help="first test images")
    options.add_argument("--calibration-images", type=int, default=512)
    options.add_argument("--data-folder", type=Path)
    asked = options.parse_args()
    model, card = load_model(asked.network)
    data = load(str(card["data"]).partition("/")[0], asked.data_folder, bool(card.get("normalised", False)))
    held = [x for x, _ in data.train.take(asked.calibration_images).batches(BATCH)]
    test = list(data.test.take(asked.images).batches(50))
    with torch.inference_mode():
        trained = sum(int((model(x).argmax(1) == labels).sum()) for x, labels in test) / sum(len(x) for x, _ in test)
    conditions = (
        f"Written by `benchmarks/few_steps.py`: {asked.network}, trained {trained:.1%} on the first {asked.images:,} "
        f"test images; {asked.calibration_images} training images to calibrate with, which local threshold balancing "
        f"sees {PASSES} times in batches of {BATCH}; constant input, the potential read out, float32, torch "
        f"{torch.__version__}, CPU, one run."
    )
    header = ["converter", *(f"T={t}" for t in STEPS)]
    rows = ([label, *(f"{a:.1%}" for a in find())] for label, find in ways(model, held, test).items())
    write_table(asked.out, conditions, header, rows)


def ways(
    model: torch.nn.Module, held: list[Tensor], test: list[tuple[Tensor, Tensor]]
) -> dict[str, Callable[[], list[float]]]:
    """Accuracy after each of STEPS, by converter."""
    converters: Any = import_module("spikingjelly.activation_based.ann2snn")
    ours, peer = f"equispike {version('equispike')}", f"SpikingJelly {version('spikingjelly')}"

    def theirs(recipe: Any) -> list[float]:
        return accuracy_of(converters.Converter(recipe).convert(without_subsampling(model)), test)

    def default() -> list[float]:
        found = es.evaluate(es.convert(model, held), test, STEPS[-1])
        return [float(found.mean[t - 1]) for t in STEPS]

    def for_each(spikes: SpikeKind) -> list[float]:
        networks = ((t, es.convert(model, held, timesteps=t, spikes=spikes)) for t in STEPS)
        return [float(es.evaluate(network, test, t).mean[-1]) for t, network in networks]

    def percentile(p: str, **more: bool) -> Callable[[], list[float]]:
        return lambda: theirs(converters.RateCodingRecipe([torch.cat(held)], mode=f"{p}%", **more))

    best = {"channel_wise": True, "half_threshold": True}
    return {
        f"{peer}, 99.9 %": percentile("99.9"),
        f"{peer}, 99.9 % per channel, half a threshold": percentile("99.9", **best),
        f"{peer}, 99 % per channel, half a threshold": percentile("99", **best),
        f"{peer}, local threshold balancing": lambda: theirs(converters.LocalThresholdBalancingRecipe(held * PASSES)),
        f"{ours}, default": default,
        f"{ours}, timesteps=T": lambda: for_each("binary"),
        f"{ours}, timesteps=T, signed spikes": lambda: for_each("signed"),
    }


if __name__ == "__main__":
    main()
