"""Processor time that the experiments on ImageNet would take, from image-steps of 224 pixels a second.

The networks are trained ones for CIFAR-10, which take pictures of any size, and the pictures are CIFAR-10's, enlarged;
thresholds are RMP(0.6)'s, as in Han's figures 8 and 10. Time is taken to grow with the multiplications of the trained
network, from these to the papers' networks.

    EQUISPIKE_DATA=FOLDER python -m benchmarks.imagenet --images 2 --timesteps 256
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F

import equispike as es
from benchmarks.networks import model_and_data
from equispike.analysis.operations import operations

SIZE = 224
PAPERS = {"vgg16": ("vgg16-imagenet", 15_470.3), "resnet20": ("resnet34-imagenet", 4_473.0)}
"""Network to measure -> the papers', and its millions of multiplications (docs/networks.md)."""
IMAGES, TIMESTEPS = 50_000, 4096
"""Of a row of Han's figures 8 and 10."""


def enlarged(images: Tensor) -> Tensor:
    """The images, (N, C, 224, 224)."""
    return F.interpolate(images, size=(SIZE, SIZE), mode="bicubic")


def main() -> None:
    """Print a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--timesteps", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, (paper, millions) in PAPERS.items():
        model, data, source = model_and_data(name, None)
        calibration, test = (enlarged(part.floats()) for part in (data.train.take(4), data.test.take(arguments.images)))
        network = es.convert(model, calibration, es.RMP(0.6, timesteps=24, coder=es.Poisson()))
        began = time.process_time()
        run = es.simulate(network, test, arguments.timesteps, es.Poisson())
        speed = len(test) * arguments.timesteps / (time.process_time() - began)
        measured = operations(network, run.counts, arguments.timesteps).macs / 1e6
        days = IMAGES * TIMESTEPS / (speed * measured / millions) / 86_400
        print(
            f"{name} ({source}): {measured:,.0f} million multiplications, spike rate {run.spike_rate[-1]:.1f} %, "
            f"{speed:.0f} image-steps a second; a row of {paper}: {days:.0f} days of one core",
            flush=True,
        )


if __name__ == "__main__":
    main()
