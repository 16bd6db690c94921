"""Do simulations still give, bit for bit, what they gave?

Runs 30 small networks, made from seeds, in all engines, with every coder, stop and batching; layers have all resets,
initial potentials and readouts between them. What comes out (scores, counts, steps, spikes, potentials) is hashed and
compared with ``freeze.json``. Networks on a grid have one answer, on any machine and in any engine; of the others each
machine and engine has its own, so these are checked where they were written.

    python -m benchmarks.freeze              # check: under two minutes on one thread
    python -m benchmarks.freeze --write    # keep what this machine gives now as the answer
    python -m benchmarks.freeze --timings  # seconds of cnn7 and resnet20 at batch 1, vgg16 at batch 64
"""

import argparse
import hashlib
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import equispike as es
from equispike.graph import ops
from equispike.graph.network import Network, Node
from equispike.simulation.trains import ISA

STORE = Path(__file__).with_name("freeze.json")
NETWORKS = 30
TIMESTEPS = 20
IMAGES = 5
ENGINES = "stepwise", "layerwise", "events", "auto"
CODERS = {"constant": es.Constant(), "poisson": es.Poisson(), "poisson-1.5": es.Poisson(1.5)}
STOPS = {"": None, "stable": es.Stable(3), "certain": es.Certain()}
BATCHINGS = {"one batch": (32, None), "small": (2, 2000)}
TIMED = ("cnn7", 1, 64), ("resnet20", 1, 64), ("vgg16", 64, 16)
"""Network, batch and time-steps."""


class Maker:
    """A network that grows at its end, from one seed: on a grid of 1/8, or of any numbers."""

    def __init__(self, seed: int, dyadic: bool) -> None:
        self.random, self.dyadic = random.Random(seed), dyadic
        self.generator = torch.Generator().manual_seed(seed)
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def tensor(self, *shape: int, low: int = -8, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in [low / 8, 1]."""
        if self.dyadic:
            return torch.randint(low, 9, shape, generator=self.generator).to(dtype) / 8
        return torch.rand(shape, generator=self.generator).to(dtype) * (8 - low) / 8 + low / 8

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[self.last]

    def add(self, op: ops.Op, *inputs: str) -> str:
        inputs = inputs or tuple(node.name for node in self.nodes[-1:])
        node = Node(f"{len(self.nodes)}.{type(op).__name__.lower()}", op, inputs)
        values = (torch.zeros(1, *self.shapes[name]) for name in node.inputs)
        self.shapes[node.name] = op.shape if isinstance(op, ops.Input) else tuple(op(*values).shape[1:])
        self.nodes.append(node)
        return node.name

    def neuron(self) -> str:
        channels, *space = self.shape
        wide = (channels, *(1 for _ in space)) if self.random.random() < 0.5 else ()
        threshold = self.tensor(*wide, low=1) + 0.125
        amplitude = self.random.choice([threshold, torch.ones_like(threshold)])
        v_init = self.random.choice([0.0, 0.5, 0.25, "uniform"])
        return self.add(ops.Neuron(threshold, amplitude, None, self.random.choice(["subtract", "zero"]), v_init))

    def weights(self, out: int) -> str:
        channels, *space = self.shape
        bias = self.tensor(out) if self.random.random() < 0.7 else None
        if not space:
            return self.add(ops.Linear(self.tensor(out, channels), bias))
        kernel = self.random.choice([1, 3])
        ones = (1,) * len(space)
        groups = channels if out == channels and self.random.random() < 0.2 else 1
        weight = self.tensor(out, channels // groups, *(kernel for _ in space))
        return self.add(ops.Conv(weight, bias, ones, tuple(kernel // 2 for _ in space), ones, groups))

    def block(self) -> None:
        fork, width = self.last, self.random.choice([3, 8, 20, 40])
        match self.random.choice(["plain", "plain", "residual", "concat"]):
            case "plain":
                self.weights(width)
            case "residual":
                self.weights(self.shape[0])
                self.neuron()
                self.weights(self.shape[0])
                self.add(ops.Add(self.random.choice([(1.0, 1.0), (0.5, 2.0)])), fork, self.last)
            case _:
                self.weights(width)
                self.neuron()
                self.add(ops.Concat((1.0, 1.0)), fork, self.last)
        self.neuron()

    def pool(self) -> None:
        rank = len(self.shape) - 1
        twos, zeros, ones = (2,) * rank, (0,) * rank, (1,) * rank
        winner = self.random.random() < 0.4
        self.add(ops.WinnerPool(twos, twos, zeros, ones) if winner else ops.AvgPool(twos, twos, zeros))


def networks() -> Iterator[tuple[str, Network, Tensor]]:
    """Name, network and images of all that are frozen; the even ones are on a grid."""
    for seed in range(NETWORKS):
        dyadic = seed % 2 == 0
        make = Maker(seed, dyadic)
        space = make.random.choice([(), (8,), (8, 8), (8, 8)])
        shape = (make.random.choice([1, 3, 5]), *space)
        make.add(ops.Input(shape, make.random.choice([1.0, 2.0]), 1.0))
        for _ in range(make.random.choice([1, 2, 3])):
            make.block()
            if len(make.shape) > 1 and min(make.shape[1:]) > 2 and make.random.random() < 0.6:
                make.pool()
        if len(make.shape) > 1:
            make.add(ops.Flatten())
        make.weights(4)
        if make.random.random() < 0.4:
            make.neuron()
        make.add(ops.Readout(make.random.choice([1.0, 0.5])))
        network = Network(tuple(make.nodes)).to(torch.float64 if seed % 5 == 4 else torch.float32)
        yield f"{'grid' if dyadic else 'real'}-{seed}", network, make.tensor(IMAGES, *shape)


def digest(run: es.Run) -> str:
    """Hash of all that a run holds, but for its time."""
    found = hashlib.sha256()
    parts = {"readout": run.readout, "steps": run.steps}
    for kind in ("counts", "spikes", "trains", "potentials"):
        parts |= {f"{kind} {name}": tensor for name, tensor in getattr(run, kind).items()}
    for name, tensor in sorted(parts.items()):
        zero = torch.zeros((), dtype=tensor.dtype)
        positive = tensor if tensor.dtype == torch.bool else torch.where(tensor == 0, zero, tensor)  # no -0.0
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(positive.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def cases(network: Network) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Engine, name and arguments of ``simulate``, of each way in which a network runs."""
    every, some = list(network.neurons), list(network.neurons)[-1:]
    for engine, (coder, own), (stop, rule), (batching, (size, memory)) in product(
        ENGINES, CODERS.items(), STOPS.items(), BATCHINGS.items()
    ):
        if stop and (engine == "stepwise" or coder == "poisson-1.5"):
            continue  # enough is enough
        keep = every if batching == "small" else [] if stop else some
        arguments = {"engine": engine, "coder": own, "stop": rule, "batch_size": size, "memory": memory}
        name = " ".join(filter(None, (coder, stop, batching)))
        yield engine, name, {**arguments, "seed": 7, "trains": keep, "potentials": keep if batching == "small" else []}


def digests() -> tuple[dict[str, str], dict[str, str]]:
    """Digests of networks on a grid, and of the others by engine."""
    grid: dict[str, str] = {}
    real: dict[str, str] = {}
    for name, network, images in networks():
        numbers = torch.arange(IMAGES) * 3 + 1
        for engine, case, arguments in cases(network):
            run = es.simulate(network, images, TIMESTEPS, indices=numbers, **arguments)  # type: ignore[arg-type]
            own = digest(run)
            if not name.startswith("grid"):
                real[f"{name} {case} {engine}"] = own
            elif grid.setdefault(f"{name} {case}", own) != own:
                sys.exit(f"{name}: {case}: {engine} does not give what the engines before it gave")
    return grid, real


def machine() -> str:
    """The name of what floating-point sums depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {capability}, core {ISA or 'none'}, torch {torch.__version__}"


def compare(kind: str, known: dict[str, str], found: dict[str, str]) -> bool:
    """Print which digests differ."""
    different = [name for name in known.keys() | found.keys() if known.get(name) != found.get(name)]
    print(f"{kind}: {len(found) - len(different)} of {len(known)} digests are the same")
    for name in sorted(different)[:10]:
        print(f"  {name}: {known.get(name, 'not known')} -> {found.get(name, 'no longer made')}")
    return not different


def check_or_write(write: bool) -> bool:
    """Compare with what is stored, or store."""
    stored = json.loads(STORE.read_text()) if STORE.is_file() else {"grid": {}, "real": {}}
    grid, real = digests()
    if write:
        stored = {"grid": grid, "real": {**stored["real"], machine(): real}}
        STORE.write_text(json.dumps(stored, indent=0, sort_keys=True) + "\n")
        return True
    same = compare("grid", stored["grid"], grid)
    if machine() not in stored["real"]:
        print(f"real: none known of {machine()}")
        return same
    return compare("real", stored["real"][machine()], real) and same


def timings(repeats: int) -> None:
    """Print the median and the fastest of several runs: seconds of processor time, so that others disturb less."""
    from benchmarks.networks import network_and_images

    for name, batch, timesteps in TIMED:
        network, images, source = network_and_images(name, batch, 3.5, None)
        seconds: list[float] = []
        for _ in range(repeats + 2):  # the first ones try out kernels
            began = time.process_time()
            es.simulate(network, images, timesteps)
            seconds.append(time.process_time() - began)
        median, least = statistics.median(seconds[2:]), min(seconds[2:])
        print(
            f"{name} ({source}), batch {batch}, T = {timesteps}: median {median:.4f} s, least {least:.4f} s", flush=True
        )


def main() -> None:
    """Check, write or time; exit status 1 if a digest differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--timings", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.timings:
        timings(arguments.repeats)
    elif not check_or_write(arguments.write):
        sys.exit(1)


if __name__ == "__main__":
    main()
