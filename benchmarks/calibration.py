"""Time of SPIKE-NORM, against the literal algorithm that simulates the prefix again for every layer.

The literal loop, whose time grows with the square of the depth, runs in the event-driven engine, where it sets the same
thresholds to the last bit, which is checked; and in the dense one, whose sums are rounded otherwise: now and then a
spike moves, and with it a maximum.

    python -m benchmarks.calibration --network vgg16 --images 32 --timesteps 100
"""

import argparse
import json
import time
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.networks import NETWORKS, model_and_data
from equispike.calibrate.method import with_thresholds
from equispike.calibrate.spike_norm import SpikeNorm
from equispike.conversion import prepare
from equispike.functional.coding import Poisson
from equispike.graph.network import Network
from equispike.simulation.cpu import Events
from equispike.simulation.layerwise import Layerwise
from equispike.simulation.run import default_memory
from equispike.simulation.task import Engine, Task, watch


def literal(network: Network, images: Tensor, timesteps: int, engine: Engine) -> dict[str, Tensor]:
    """For each layer in order: run everything before it for all steps, and take the largest current."""
    thresholds: dict[str, Tensor] = {}
    readout, indices = network.nodes[-1], torch.arange(len(images))
    for name in network.neurons:
        position = next(i for i, node in enumerate(network.nodes) if node.name == name)
        prefix = Network((*network.nodes[:position], replace(readout, inputs=network[name].inputs)))
        largest: list[Tensor] = []

        def visit(name: str, current: Tensor, found: list[Tensor] = largest) -> None:
            if name == readout.name:
                found.append(current.max())

        task = Task(prefix, images, indices, timesteps, Poisson(), 0)
        watch(engine, task, default_memory(network), visit)
        thresholds[name] = torch.stack(largest).max().clamp(min=0.0)
        network = with_thresholds(network, {name: thresholds[name]}, "zero")
    return thresholds


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="cnn7")
    parser.add_argument("--weights")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--timesteps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-literal", action="store_true", help="time the package alone, for the full case")
    arguments = parser.parse_args()
    model, data, source = model_and_data(arguments.network, arguments.weights)
    images = data.train.take(arguments.images).floats()
    network, _ = prepare(model, images)
    method = SpikeNorm(arguments.timesteps)
    ways = {} if arguments.no_literal else {"literal": Layerwise(), "literal, events": Events(choose=True)}
    seconds: dict[str, list[float]] = {name: [] for name in ("equispike", *ways)}
    differences: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            found = method(network, images)
            seconds["equispike"].append(time.perf_counter() - began)
            for way, engine in ways.items():
                began = time.perf_counter()
                expected = literal(network, images, arguments.timesteps, engine)
                seconds[way].append(time.perf_counter() - began)
                differences[way] = max(float(abs(found[name] / own - 1)) for name, own in expected.items())
    assert differences.get("literal, events", 0.0) == 0.0, "thresholds are not those of the literal loop"
    for name, taken in seconds.items():
        if taken:
            spread = f"median {sorted(taken)[len(taken) // 2]:.2f} s  ({min(taken):.2f} .. {max(taken):.2f})"
            print(f"{name:>15}: {spread}; thresholds differ by {differences.get(name, 0.0):.1e} at most")
    known = timing.conditions(network, images, arguments.timesteps)
    print(
        json.dumps(
            {"network": arguments.network, "weights": source, **known, "seconds": seconds, "differences": differences}
        )
    )


if __name__ == "__main__":
    main()
