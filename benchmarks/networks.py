"""Networks and images to measure on."""

from argparse import Namespace

import torch
from torch import Tensor, nn

from benchmarks.timing import with_spike_rate
from equispike.calibrate.data_norm import DataNorm
from equispike.conversion import convert
from equispike.errors import DataError
from equispike.graph.exact import quantize
from equispike.graph.network import Network
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import build
from equispike.zoo.store import bundled, load_model

NETWORKS = {
    "vgg16": ("vgg16-cifar10", "cifar10"),
    "resnet20": ("resnet20-cifar10", "cifar10"),
    "cnn7": ("mnist-cnn", "mnist-sample"),
}
"""Name -> model and data set. Weights are trained where the package or --weights has them, else random, and said so.

Any other name or file is a trained network."""


def model_and_data(name: str, weights: str | None) -> tuple[nn.Module, Dataset, str]:
    """The model, its data as it was trained on them, and where the weights come from."""
    if name not in NETWORKS:
        model, card = load_model(name)
        data = load(str(card["data"]).partition("/")[0], normalised=bool(card.get("normalised")))
        return model, data, "trained"
    model_name, data_name = NETWORKS[name]
    if weights is None and not bundled(model_name).is_file():
        return build(model_name), load(data_name), "random weights"
    model, card = load_model(weights or model_name)
    source = f"trained: {weights}" if weights else "trained weights of the package"
    return model, load(data_name, normalised=card.get("normalised", False)), source


def network_and_images(
    name: str, batch: int, percent: float, weights: str | None, bits: int | None = None
) -> tuple[Network, Tensor, str]:
    """A converted network whose layers spike at about this rate, real images, and where the weights come from.

    A rate of 0 leaves the thresholds as they were converted.
    """
    model, data, source = model_and_data(name, weights)
    calibration = data.train.take(32).floats()
    with torch.no_grad():
        network = convert(model, calibration, DataNorm(99.9))
    if batch > len(data.test):
        raise DataError(f"batch: {batch} is more than the {len(data.test)} test images of {data.name}")
    if percent:
        network = with_spike_rate(network, calibration[:4], percent)
    if bits is not None:
        network, source = quantize(network, bits, per_channel=False), f"{bits} bits, {source}"
    return network, data.test.take(batch).floats(), source


def asked_for(arguments: Namespace) -> tuple[Network, Tensor, str]:
    """The same, as the options of ``options.parser`` say, which also set the number of threads."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = arguments.network, arguments.batch, arguments.rate, arguments.weights, arguments.bits
    return network_and_images(*given)
