"""Simulations keep to a budget of 1 GiB beside what they return, whatever the steps, images, neurons and layers.

``python tests/trials/memory.py --tries 22 --seed 0`` takes the largest sizes in turn, each with an engine, a coder and
vectors or pictures, which are drawn. Each is simulated in a fork with ``memory=2**30``, and the growth of the largest
memory that the system saw (peak resident set), less the size of what ``simulate`` returns, is to stay within it.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from operator import ge
from typing import Any

import torch
from shared import Attempt, draws, script

import equispike as es
from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, Flatten, Input, Linear, Neuron, Readout

BUDGET = 2**30
WORK, WEIGHTS = 6e10, 4e7
"""Multiplications, at most, that a dense engine would do; and weights of a network."""
SIZES = [
    (steps, batch, width, depth)
    for steps in (4, 256, 4096)
    for batch in (1, 64, 1000)
    for width in (16, 32, 256, 4096)
    for depth in (2, 50)
    if steps * batch * width**2 * depth <= WORK and width**2 * depth <= WEIGHTS
]
LARGEST = [
    sizes
    for sizes in SIZES
    if not any(other != sizes and all(map(ge, other, sizes)) for other in SIZES)  # in every respect as large
]
"""Sizes than which no others are larger."""


def peak() -> int:
    """Bytes of the largest resident set so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def built(width: int, depth: int, space: bool) -> Network:
    """A network of so many equal layers, on vectors or on 4 x 4 places, and ten classes."""
    channels = width // 16 if space else width
    shape = (channels, 4, 4) if space else (channels,)
    one, draw = torch.tensor(0.5), torch.Generator().manual_seed(0)
    nodes = [Node("input", Input(shape))]
    for number in range(depth):
        scale = 1.5 / (channels * (9 if space else 1)) ** 0.5
        size = (channels, channels, 3, 3) if space else (channels, channels)
        weight = scale * torch.randn(size, generator=draw)
        layer = Conv(weight, None, (1, 1), (1, 1), (1, 1)) if space else Linear(weight, None)
        nodes.append(Node(f"layer{number}", layer, (nodes[-1].name,)))
        nodes.append(Node(f"neurons{number}", Neuron(one, one), (nodes[-1].name,)))
    if space:
        nodes.append(Node("flatten", Flatten(), (nodes[-1].name,)))
    last = Linear(torch.randn(10, width, generator=draw), None)
    nodes.append(Node("last", last, (nodes[-1].name,)))
    return Network((*nodes, Node("readout", Readout(), ("last",))))


def growth(
    steps: int, batch: int, width: int, depth: int, space: bool, engine: str, coder: es.Coder, memory: int = BUDGET
) -> tuple[int, int]:
    """Bytes by which the memory of this process grows at most, when it has simulated once before, and of the run."""
    network = built(width, depth, space)
    images = torch.rand(batch, *network.input.shape)
    es.simulate(network, images[:1], 2, coder, engine=engine)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak begins anew
    before = peak()
    run = es.simulate(network, images, steps, coder, engine=engine, memory=memory)
    assert run.readout.shape == (steps, batch, 10)
    kept = (run.totals, *run.counts.values(), *run.spikes.values(), run.steps)
    return peak() - before, sum(value.nbytes for value in kept)


def in_a_fork(compute: Callable[[], object]) -> Any:
    """What a function returns in a fork; None if that dies."""
    ours, theirs = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(theirs, json.dumps(compute()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        found = told.read()
    os.waitpid(pid, 0)
    return json.loads(found) if found else None


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Simulate so many times."""
    torch.set_num_threads(1)
    for number in range(tries):
        draw = draws(seed, number)
        sizes, space = LARGEST[number % len(LARGEST)], draw.random() < 0.5
        engine, coder = draw.choice(["layerwise", "events", "auto"]), draw.choice([es.Constant(), es.Poisson()])
        what = (
            "T={}, batch {}, {} wide, {} deep".format(*sizes)
            + f", {'pictures' * space or 'vectors'}, {engine}, {coder}"
        )
        grown = in_a_fork(partial(growth, *sizes, space, engine, coder))
        end, good = "its process died", False
        if grown is not None:
            whole, returned = (number / 2**20 for number in grown)
            end, good = f"grew by {whole:,.0f} MiB, of which {returned:,.0f} are returned", whole - returned <= 1024
        print(f"{what}: {end}", file=sys.__stdout__, flush=True)
        yield Attempt(what, "within the budget" if good else end, good)


if __name__ == "__main__":
    script(__name__, "simulations", 2 * len(LARGEST), run)
