"""Speed of the small integer weights of a quantized network, against the large ones of a float network.

A network rounded by `quantize` runs in turns with its weights added up in 32 bits, as those of float networks are, in
16 bits, and in the engine that may multiply digits instead; all spike alike.

    python -m benchmarks.integers --network vgg16 --threads 1
"""

import json

import torch

from benchmarks import options, timing
from benchmarks.networks import asked_for
from equispike.graph.network import Network
from equispike.simulation import cpu


def in_32_bits(network: Network) -> Network:
    """The same network, planned with no integer small enough to be added up in 16 bits."""
    twin, largest = Network(network.nodes), cpu.LARGEST_SHORT
    cpu.LARGEST_SHORT = 0
    try:
        timing.ours(twin, torch.zeros(1, *network.input.shape), 1, "events")()  # the plan is kept
    finally:
        cpu.LARGEST_SHORT = largest
    return twin


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = options.parser(__doc__, repeats=11)
    parser.add_argument("--each", type=int, nargs="+", default=[8, 12], help="bits to round to, one after the other")
    arguments = parser.parse_args()
    steps, faster, known = arguments.timesteps, dict[int, dict[str, float]](), dict[str, object]()
    for bits in arguments.each:
        arguments.bits = bits
        network, images, source = asked_for(arguments)
        chosen = {
            "32 bits": timing.ours(in_32_bits(network), images, steps, "events"),
            "16 bits": timing.ours(network, images, steps, "events"),
            "auto": timing.ours(network, images, steps, "auto"),
        }
        timings = timing.in_turns(chosen, arguments.repeats, tolerance=0.0)
        faster[bits] = {name: timings["32 bits"].cpu / timings[name].cpu for name in ("16 bits", "auto")}
        print(f"{arguments.network} ({source}), batch {len(images)}, T = {steps}, times as fast: {faster[bits]}")
        known = {"weights": source.partition(", ")[2], **timing.conditions(network, images, steps)}
    own = {"network": arguments.network, "n": arguments.repeats}
    print(json.dumps({**own, **known, "integers": faster}))


if __name__ == "__main__":
    main()
