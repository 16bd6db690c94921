"""An image as spikes: figure 1 of Sengupta et al. (2019).

A CIFAR-10 test image less the per-pixel mean of the training part, the signed Poisson spikes of one step, and the
spikes accumulated over 1,000 steps. The scale is the largest |x| of the training part, as calibration would find it.

    python experiments/sengupta_figure_1.py --out FOLDER [--data FOLDER]

Measured (torch 2.13.0, CPU, 1 image, seed 0, mean over 45,000 training images): scale 0.608, 46.9 % of the inputs spike
in a step, and the mean of 1,000 steps is off by 0.0082 (root mean square, in units of [0, 1]; binomial
sampling predicts 0.0084), with a correlation of 0.9996 to the image.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from equispike.functional.coding import Poisson
from equispike.zoo.data import load

IMAGE = 1  # number in the test set
TIMESTEPS = 1000
STEP = 1  # of the single frame
SEED = 0
CHUNK = 1000  # images converted at once


def mean_and_scale(images: Tensor) -> tuple[Tensor, float]:
    """Per-pixel mean of uint8 images, in [0, 1], (C, H, W), and the largest |x - mean| of them all."""
    mean = (images.sum(0).double() / len(images) / 255).float()
    return mean, max(float((part / 255 - mean).abs().max()) for part in images.split(CHUNK))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for sengupta_1.png and sengupta_1.json")
    parser.add_argument("--data", type=Path, help="data folder; EQUISPIKE_DATA if not given")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    data = load("cifar10", arguments.data)
    mean, scale = mean_and_scale(data.train.images)
    image = data.test.images[IMAGE] / 255 - mean
    currents = Poisson().encode(image[None], torch.tensor([IMAGE]), range(1, TIMESTEPS + 1), SEED, scale, scale)
    accumulated = currents.mean(0)[0]

    p = image.double().abs() / scale
    result = {
        "image": IMAGE,
        "class": data.test.classes[int(data.test.labels[IMAGE])],
        "timesteps": TIMESTEPS,
        "seed": SEED,
        "scale": scale,
        "spikes_per_step": float((currents != 0).double().mean()),
        "rms_error": float((accumulated - image).double().square().mean().sqrt()),
        "rms_error_expected": scale * float((p * (1 - p) / TIMESTEPS).mean().sqrt()),
        "correlation": float(torch.stack([accumulated.flatten(), image.flatten()]).corrcoef()[0, 1]),
        "torch": torch.__version__,
        "device": "cpu",
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "sengupta_1.json").write_text(json.dumps(result) + "\n")

    # Grey is zero. The image and the accumulated spikes share one range, a single step has spikes of +-1.
    limit = float(image.abs().max())
    panels = [
        ("trained network's input", image / limit),
        (f"spikes of step {STEP}", currents[STEP - 1, 0] / scale),
        (f"spikes of {TIMESTEPS:,} steps", accumulated / limit),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
    for axis, (title, values) in zip(axes, panels, strict=True):
        axis.imshow(((values + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
    axes[0].set_xlabel("pixel - mean; grey is zero")
    axes[1].set_xlabel(r"per colour channel: -1, 0 or +1")
    axes[2].set_xlabel("accumulated, scaled like the input")
    figure.savefig(arguments.out / "sengupta_1.png", dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
