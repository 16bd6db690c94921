"""Three ways around max pools: what does each cost, and how many time-steps? One network, trained on MNIST.

Both of its pools stand behind neurons, so the first can move in front of them. The same network trained with average
pools stands beside it. Writes docs/tables/max_pools.md.
"""

from dataclasses import replace

import torch
from torch import nn

from benchmarks import tables
from equispike.analysis.accuracy import evaluate
from equispike.conversion import convert
from equispike.graph.fold import early_max_pools
from equispike.graph.lossy import max_pool_to_avg, max_pool_to_winner
from equispike.graph.network import Network
from equispike.graph.reading.trace import trace
from equispike.zoo.data import load
from equispike.zoo.data.parts import Dataset
from equispike.zoo.recipes import RECIPES
from equispike.zoo.train import train

STEPS = 4, 8, 16, 32, 128
HEADER = "first pool", "second pool", "trained", *(f"T={t}" for t in STEPS), f"spike rate at T={STEPS[-1]}"
IN_FRONT, WINNER, AVERAGE = "in front of the neurons", "the winner passes", "the average instead"


def model(pool: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), pool(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), pool(2)),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def ways(network: Network) -> dict[tuple[str, str], Network]:
    """The network with its two max pools replaced, by the names of the two ways."""
    early, _ = early_max_pools(network)
    return {
        (IN_FRONT, WINNER): max_pool_to_winner(early)[0],
        (WINNER, WINNER): max_pool_to_winner(network)[0],
        (IN_FRONT, AVERAGE): max_pool_to_avg(early)[0],
        (AVERAGE, AVERAGE): max_pool_to_avg(network)[0],
    }


def row(names: tuple[str, str], network: Network, splits: Dataset, images: int) -> tuple[str, ...]:
    spiking = convert(network, splits.train.take(256).batches(64))
    found = evaluate(spiking, splits.test.take(images).batches(100), max(STEPS))
    at = (f"{100 * float(found.mean[t - 1]):.2f}" for t in STEPS)
    return *names, f"{100 * found.trained:.2f}", *at, f"{float(found.spike_rate[0, -1]):.2f} %"


def main() -> None:
    parser = tables.parser(__doc__, "max_pools")
    parser.add_argument("--images", type=int, default=2000, help="of the test part")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recipe = replace(RECIPES["mnist"], epochs=arguments.epochs)
    splits = load("mnist")
    traced: list[Network] = []
    for pool in (nn.MaxPool2d, nn.AvgPool2d):
        torch.manual_seed(arguments.seed)
        trained = train(model(pool), splits.train, splits.validation, recipe, arguments.seed).model
        traced.append(trace(trained, splits.train.take(2).floats()))
    conditions = (
        f"Written by `benchmarks/max_pools.py`: accuracy in % on {arguments.images:,} test images of MNIST after T "
        "steps, and in front of it that of the network with its pools replaced, before it spikes; trained on "
        f"{len(splits.train):,} images (seed {arguments.seed}, one run) with `{recipe}`, the default method with 256 "
        f"training images, constant input. CPU, torch {torch.__version__}."
    )
    tried = {**ways(traced[0]), ("trained with averages", ""): traced[1]}
    rows = (row(names, network, splits, arguments.images) for names, network in tried.items())
    tables.write_table(arguments.out, conditions, HEADER, rows, words=2)


if __name__ == "__main__":
    main()
