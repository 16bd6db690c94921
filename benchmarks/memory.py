"""Memory that a simulation takes, and whether it grows with T.

Each contender runs once in a process of its own; what counts is the peak of that process above what it held when the
simulation began (resident set, as Linux reports it).

    python -m benchmarks.memory --network vgg16 --batch 64 --timesteps 64 2048 --only auto spikingjelly-multi
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

OURS = "auto", "events", "layerwise", "plain torch loop"


def peak() -> float:
    """Largest resident set of this process, in MiB, since it was forgotten."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def forget_peak() -> None:
    """Take what the process holds now for the largest so far: building a network takes more than running it."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(network: str, weights: str | None, batch: int, timesteps: int, name: str) -> dict[str, float]:
    from benchmarks import peers, timing
    from benchmarks.networks import network_and_images

    converted, images, _ = network_and_images(network, batch, 3.5, weights)
    if name == "plain torch loop":
        run = timing.plain_loop(converted, images, timesteps)
    elif name in OURS:
        run = timing.ours(converted, images, timesteps, name)  # type: ignore[arg-type]
    else:
        run = peers.contenders(converted, images, timesteps)[name]
    forget_peak()
    before = peak()
    run()
    return {"before": before, "peak": peak(), "simulation": peak() - before}


def main() -> None:
    """Measure each case in a process of its own, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["vgg16", "resnet20", "cnn7"], default="cnn7")
    parser.add_argument("--weights")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--only", nargs="*", default=["auto", "layerwise", "plain torch loop"])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        (timesteps,), (name,) = arguments.timesteps, arguments.only
        print(json.dumps(measure(arguments.network, arguments.weights, arguments.batch, timesteps, name)))
        return
    found: dict[str, dict[int, dict[str, float]]] = {}
    print(f"{arguments.network}, batch {arguments.batch}: MiB of the simulation (of the process)")
    for name in arguments.only:
        for timesteps in arguments.timesteps:
            own = ["--network", arguments.network, "--batch", str(arguments.batch), "--timesteps", str(timesteps)]
            own += ["--weights", arguments.weights] if arguments.weights else []
            command = [sys.executable, "-m", "benchmarks.memory", "--child", *own, "--only", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(name, {})[timesteps] = result
            print(f"{name:>20}  T = {timesteps:>5}  {result['simulation']:8,.0f}  ({result['peak']:,.0f})", flush=True)
    print(json.dumps({"network": arguments.network, "batch": arguments.batch, "MiB": found}))


if __name__ == "__main__":
    main()
