"""Speed of this package's engines on one network, beside a plain torch loop and other packages.

Same converted network, thresholds and images for all; the spikes of every layer must agree before a time counts.
Contenders take turns. Large blocks stay in the allocator, which the dense contenders gain most from.

    python -m benchmarks.simulation --network vgg16 --batch 64 --rate 3.5
"""

import json

from benchmarks import options


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = options.parser(__doc__)
    parser.add_argument("--tolerance", type=float, default=0.01, help="share by which a layer's spikes may differ")
    parser.add_argument("--only", nargs="*", help="names of contenders; the first is the reference for the spikes")
    arguments = parser.parse_args()
    options.keep_what_is_freed()

    from benchmarks import peers, timing
    from benchmarks.networks import asked_for

    network, images, source = asked_for(arguments)
    steps = arguments.timesteps
    everyone = {**timing.contenders(network, images, steps), **peers.contenders(network, images, steps)}
    if unknown := set(arguments.only or ()) - everyone.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))}: not among {', '.join(everyone)}")
    chosen = {name: everyone[name] for name in arguments.only or everyone}
    timings = timing.in_turns(chosen, arguments.repeats, arguments.tolerance)
    work = timing.work(network, images, steps)
    own = {"network": arguments.network, "weights": source, "peers": peers.installed()}
    print(f"{arguments.network} ({source}), batch {len(images)}, T = {steps}, spike rate {work.spike_rate:.1f} %")
    print(timing.table(timings, work))
    print(json.dumps(timing.summary(timings, work, {**own, **timing.conditions(network, images, steps)})))


if __name__ == "__main__":
    main()
