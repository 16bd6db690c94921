"""An image as spikes: figure 1 of Sengupta et al. (2019).

A CIFAR-10 test image less the per-pixel mean of the training part, the signed Poisson spikes of one step, and the
spikes accumulated over 1,000 steps. The scale is the largest |x| of the training part, as calibration would find it.
``--data mnist-sample`` takes a digit of the package.

Measured (torch 2.13.0, CPU, 1 image, seed 0, mean over 45,000 training images): scale 0.608, 46.9 % of the
inputs spike in a step, and the mean of 1,000 steps is off by 0.0082 (root mean square, in units of [0, 1]; binomial
sampling predicts 0.0084), with a correlation of 0.9996 to the image.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (some of torch's own signatures lack types)

from typing import Any, cast

import torch
from torch import Tensor

from equispike.analysis.plots import Panel
from equispike.functional.coding import Poisson
from equispike.zoo.data import Split
from experiments.entry import Conditions, Entry, Job, Line, Outcome
from experiments.networks import read_data

IMAGE = 1  # number in the test set
STEP = 1  # of the single frame
SEED = 0
CONDITIONS = Conditions("poisson", "spikes", 1000)
CHUNK = 1000  # images converted at once


def mean_and_scale(images: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean of uint8 images, in [0, 1], (C, H, W), and the largest |x - mean| of them all."""
    mean = (images.sum(0).double() / len(images) / 255).float()
    return mean, max(float((part / 255 - mean).abs().max()) for part in images.split(CHUNK))


def run(job: Job) -> Outcome:
    """The image, its spikes in one step, and those of all steps beside what is expected of them."""
    data = read_data(job.data or "cifar10", job.data_folder)
    train, test = cast("Split", data.train), cast("Split", data.test)
    timesteps = job.conditions.timesteps
    mean, scale = mean_and_scale(train.images)
    image = test.images[IMAGE] / 255 - mean
    currents = Poisson().encode(image[None], torch.tensor([IMAGE]), range(1, timesteps + 1), SEED, scale, scale)
    accumulated = currents.mean(0)[0]

    p = image.double().abs() / scale
    measured = {
        "scale": scale,
        "inputs that spike in a step (%)": 100 * float((currents != 0).double().mean()),
        "rms error": float((accumulated - image).double().square().mean().sqrt()),
        "rms error expected": scale * float((p * (1 - p) / timesteps).mean().sqrt()),
        "correlation": float(torch.stack([accumulated.flatten(), image.flatten()]).corrcoef()[0, 1]),
    }
    # Grey is zero. The image and the accumulated spikes share one range, a single step has spikes of +-1.
    limit = float(image.abs().max())
    parts = (
        ("input of the trained network", "pixel - mean; grey is zero", image / limit),
        (f"spikes of step {STEP}", "per colour channel: -1, 0 or +1", currents[STEP - 1, 0] / scale),
        (f"spikes of {timesteps:,} steps", "accumulated, scaled like the input", accumulated / limit),
    )
    name = test.classes[int(test.labels[IMAGE])]
    line = Line("accumulated spikes", {key: round(value, 4) for key, value in measured.items()})
    note = (
        f"test image {IMAGE} of {data.name} ({name}), T = {timesteps:,}, seed {SEED}, mean over {len(train):,} images"
    )
    figure = tuple(Panel(title, across, picture=_picture(values)) for title, across, values in parts)
    return Outcome((line,), figure, note, numbers=measured)


def _picture(values: Tensor) -> Any:
    """[-1, 1] as a picture."""
    return ((values + 1) / 2).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


ENTRIES = (
    Entry(
        *("sengupta-figure-1", "An image, its spikes in one step and over many", run, CONDITIONS, ()),
        *("sengupta2019", "figure 1", ("salmon2011",)),
    ),
)
