"""Costs of a drive, constant or by step, and of signed spikes in a simulation.

The same network without and with them, in turns, in seconds of processor time. Drives are small, so that they move few
spikes; thresholds of the signed network are scaled until it sends as many spikes, of both signs, as the plain one.

    python -m benchmarks.drives --network resnet20 --batch 16 --timesteps 32
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import options


def main() -> None:
    """Measure, and print a line for each and one of JSON."""
    parser = options.parser(__doc__, batch=16, timesteps=32, repeats=15, threads=1)
    parser.add_argument("--engine", default="auto")
    arguments = parser.parse_args()
    options.keep_what_is_freed()

    import torch

    import equispike as es
    from benchmarks.networks import asked_for
    from equispike.graph.network import Network
    from equispike.graph.ops import Neuron

    plain, images, source = asked_for(arguments)

    def changed(change: Callable[[str, Neuron], Neuron]) -> Network:
        return plain.replace_ops({name: change(name, op) for name, op in plain.neurons.items()})

    def driven(rows: int) -> Network:
        def change(name: str, op: Neuron) -> Neuron:
            assert op.threshold is not None
            small = 1e-3 * float(op.threshold.mean())
            draw = torch.Generator().manual_seed(rows)
            drive = small * (2 * torch.rand(rows, plain.shapes[name][0], generator=draw) - 1)
            return dataclasses.replace(op, drive=drive.to(plain.dtype))

        return changed(change)

    def signed(factor: float) -> Network:
        def change(name: str, op: Neuron) -> Neuron:
            assert op.threshold is not None
            return dataclasses.replace(op, threshold=op.threshold * factor, spikes="signed")

        return changed(change)

    def spikes(network: Network) -> int:
        run = es.simulate(network, images, arguments.timesteps, engine=arguments.engine)
        return sum(int(layer.sum()) for layer in run.spikes.values())

    wanted, low, high = spikes(plain), 0.25, 4.0
    for _ in range(8):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spikes(signed(middle)) > wanted else (low, middle)
    contenders = {"plain": plain, "drive": driven(1), "drive by step": driven(8), "signed": signed(high)}
    sent = {name: spikes(network) for name, network in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.repeats):
        for name, network in contenders.items():
            began = time.process_time()
            es.simulate(network, images, arguments.timesteps, engine=arguments.engine)
            seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    print(f"{arguments.network} ({source}), batch {len(images)}, T = {arguments.timesteps}, {arguments.repeats} turns")
    for name, median in medians.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
        print(f"{name:14s} {median:.4f} s, {ratio:.3f} of plain, {sent[name]:,} spikes")
    row: dict[str, Any] = {"network": arguments.network, "batch": len(images), "timesteps": arguments.timesteps}
    print(json.dumps({**row, "turns": arguments.repeats, "spikes": sent, "seconds": medians}))


if __name__ == "__main__":
    main()
