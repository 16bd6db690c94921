"""Do residual, dense and depthwise networks convert? Small ones, trained on MNIST, by the default method.

Each is trained as RECIPE says, converted with 256 training images and simulated on test images with constant input.
Writes docs/tables/blocks.md.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import tables
from equispike.analysis.accuracy import evaluate, latency
from equispike.checking import check
from equispike.conversion import convert
from equispike.zoo.data import load
from equispike.zoo.data.parts import Dataset
from equispike.zoo.models import Residual
from equispike.zoo.recipes import RECIPES
from equispike.zoo.train import train

RECIPE = replace(RECIPES["mnist"], epochs=3)
AFTER = 4, 8, 16, 32, 128
HEADER = "network", "layers of neurons", "trained", *(f"T={t}" for t in AFTER), "within 1 point", "predicted T"


class Dense(nn.Module):
    """Huang et al. (2017): batch norm, ReLU, convolution; its result beside its input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def residual(width: int) -> nn.Module:
    """He et al. (2016a): a ReLU behind the sum."""
    return Residual(nn.Sequential(unit(width, width), nn.ReLU(), unit(width, width)), nn.Identity(), nn.ReLU())


def inverted(width: int, expansion: int) -> nn.Module:
    """Sandler et al. (2018): wide, depthwise, narrow again, with ReLU6 between and none behind the sum."""
    wide = width * expansion
    parts = unit(width, wide, 1), nn.ReLU6(), unit(wide, wide, 3, groups=wide), nn.ReLU6(), unit(wide, width, 1)
    return Residual(nn.Sequential(*parts), nn.Identity(), nn.Identity())


def unit(width: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


def network(name: str) -> nn.Module:
    stem = unit(1, 16, stride=2), nn.ReLU()
    if name == "residual":
        width, body = 32, (residual(16), unit(16, 32, stride=2), nn.ReLU(), residual(32))
    elif name == "dense":
        width, body = 52, (*(Dense(16 + 12 * i, 12) for i in range(3)), nn.BatchNorm2d(52), nn.ReLU())
    else:
        width, body = 32, (inverted(16, 3), unit(16, 32, stride=2), nn.ReLU6(), inverted(32, 3), inverted(32, 3))
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def row(name: str, splits: Dataset, images: int, seed: int) -> tuple[str, ...]:
    torch.manual_seed(seed)
    model = train(network(name), splits.train, splits.validation, RECIPE, seed).model
    spiking = convert(model, splits.train.take(256).batches(64))
    found = evaluate(spiking, splits.test.take(images).batches(100), AFTER[-1])
    at = (f"{100 * float(found.mean[t - 1]):.2f}" for t in AFTER)
    reached = str(latency(found.mean, found.trained - 0.01) or "never")
    predicted = str(check(model, splits.train.take(64).floats()).timesteps)
    return name, str(len(spiking.neurons)), f"{100 * found.trained:.2f}", *at, reached, predicted


def main() -> None:
    parser = tables.parser(__doc__, "blocks")
    parser.add_argument("--images", type=int, default=1000, help="of the test part")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    splits = load("mnist")
    conditions = (
        f"Written by `benchmarks/blocks.py`: accuracy in % on {arguments.images:,} test images of MNIST after T steps; "
        f"trained on {len(splits.train):,} images (seed {arguments.seed}, one run) with `{RECIPE}`, the default "
        "method with 256 training images, constant input; the predicted T is that of `check` with 64 training "
        f"images. CPU, torch {torch.__version__}."
    )
    names = "residual", "dense", "depthwise"
    rows = (row(name, splits, arguments.images, arguments.seed) for name in names)
    tables.write_table(arguments.out, conditions, HEADER, rows)


if __name__ == "__main__":
    main()
