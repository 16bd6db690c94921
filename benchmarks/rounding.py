"""Distance of float32 simulations from float64, where rounding hardly matters.

Share of neurons whose number of spikes differs, by engine.

    python -m benchmarks.rounding
"""

import argparse
import json

import torch

from benchmarks import timing
from benchmarks.networks import network_and_images
from equispike.simulation.run import simulate

CASES = {"cnn7": 64, "resnet20": 16, "vgg16": 4}
"""Network -> images."""


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=64)
    arguments = parser.parse_args()
    rows = []
    for name, batch in CASES.items():
        network, images, source = network_and_images(name, batch, 3.5, None)
        truth = simulate(network.to(torch.float64), images.double(), arguments.timesteps, engine="layerwise")
        row: dict[str, object] = {
            "network": name,
            "weights": source,
            "batch": batch,
            "rate": float(truth.spike_rate[-1]),
        }
        for engine in ("stepwise", "layerwise", "events"):
            run = simulate(network, images, arguments.timesteps, engine=engine)
            differing = sum(int((run.counts[layer] != counts).sum()) for layer, counts in truth.counts.items())
            row[engine] = differing / sum(counts.numel() for counts in truth.counts.values())
        print(row)
        rows.append(row)
    known = timing.conditions(network, images, arguments.timesteps)
    print(json.dumps({"timesteps": arguments.timesteps, "device": known["device"], "rounding": rows}))


if __name__ == "__main__":
    main()
