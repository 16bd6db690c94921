"""How fast is one network simulated by this package's engines, by a plain torch loop, and by other packages?

Same converted network, thresholds and images for all; the spikes of every layer must agree before a time counts.
Contenders take turns. Large blocks stay in the allocator, which the dense contenders gain most from.

    python benchmarks/simulation.py --network vgg16 --batch 64 --rate 3.5
"""

import argparse
import json
import os
import sys

ALLOCATOR = {
    "MALLOC_TOP_PAD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
"""glibc keeps what is freed, instead of giving it back and having every page zeroed again."""


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["vgg16", "resnet20", "cnn7"], default="cnn7")
    parser.add_argument("--weights", help="trained model of that network, a file from 'equispike train'")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--timesteps", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3.5, help="spike rate of each layer, in percent")
    parser.add_argument("--bits", type=int, help="round weights and thresholds to integers of so many bits first")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own number")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share by which a layer's spikes may differ")
    parser.add_argument("--only", nargs="*", help="names of contenders; the first is the reference for the spikes")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})

    import torch
    from networks import network_and_images

    from equispike import bench, peers

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    network, images, source = network_and_images(
        arguments.network, arguments.batch, arguments.rate, arguments.weights, arguments.bits
    )
    steps = arguments.timesteps
    everyone = {**bench.contenders(network, images, steps), **peers.contenders(network, images, steps)}
    if unknown := set(arguments.only or ()) - everyone.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))}: not among {', '.join(everyone)}")
    chosen = {name: everyone[name] for name in arguments.only or everyone}
    timings = bench.in_turns(chosen, arguments.repeats, arguments.tolerance)
    work = bench.work(network, images, steps)
    own = {"network": arguments.network, "weights": source, "peers": peers.installed()}
    print(f"{arguments.network} ({source}), batch {len(images)}, T = {steps}, spike rate {work.spike_rate:.1f} %")
    print(bench.table(timings, work))
    print(json.dumps(bench.summary(timings, work, {**own, **bench.conditions(network, images, steps)})))


if __name__ == "__main__":
    main()
