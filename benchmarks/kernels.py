"""Time that a simulation spends in the compiled kernels, and around them, in Python and torch.

Runs without and with a clock around each layer's kernel take turns; threads and allocator as in simulation.py.

    python -m benchmarks.kernels --network cnn7 --batch 1 --threads 1
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks import options


def main() -> None:
    """Measure, and print one line for people and one of JSON."""
    parser = options.parser(__doc__, repeats=101)
    arguments = parser.parse_args()
    options.keep_what_is_freed()

    from benchmarks import timing
    from benchmarks.networks import asked_for
    from equispike.simulation.cpu import CpuLayer as Layer
    from equispike.simulation.run import simulate

    network, images, source = asked_for(arguments)
    plain = Layer.run
    inside = 0.0

    def clocked(self: Layer, work: int, call: Callable[[Any], Any]) -> Any:
        nonlocal inside
        began = time.perf_counter()
        found = plain(self, work, call)
        inside += time.perf_counter() - began
        return found

    def seconds() -> float:
        began = time.perf_counter()
        simulate(network, images, arguments.timesteps)
        return time.perf_counter() - began

    for _ in range(10):  # until `auto` knows its kernels
        seconds()
    whole, kernels = list[float](), list[float]()
    for _ in range(arguments.repeats):
        whole.append(seconds())
        inside, Layer.run = 0.0, clocked
        seconds()
        kernels.append(inside)
        Layer.run = plain
    rate = timing.work(network, images, arguments.timesteps).spike_rate
    found = {"whole": median(whole), "kernels": median(kernels)}
    print(
        f"{arguments.network} ({source}), batch {len(images)}, T = {arguments.timesteps}, spike rate {rate:.1f} %: "
        f"{found['whole'] * 1e3:.2f} ms, of which {found['kernels'] * 1e3:.2f} in kernels"
    )
    known = {"network": arguments.network, "weights": source, "spike_rate": rate, "n": arguments.repeats}
    print(json.dumps({**known, **timing.conditions(network, images, arguments.timesteps), "kernels": found}))


if __name__ == "__main__":
    main()
