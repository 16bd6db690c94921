"""Workers that are killed at random moments lose nothing: an evaluation counts what one process counts.

``python tests/trials/workers.py --tries 100 --seed 0`` evaluates a network on two processes again and again, and kills
one of them (SIGKILL) in each after a random time, while it starts or while it works.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from time import perf_counter
from typing import Any

import torch
from shared import Attempt, draws, script

import equispike as es
from equispike.workers import Processes, Workers
from equispike.zoo.data import load
from equispike.zoo.store import load_model


def workers() -> list[int]:
    """Processes of loky that this one has started."""
    found: list[int] = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            if "popen_loky" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def kill_one(draw: random.Random, killed: list[int]) -> None:
    """Kill a worker, if there is one, and note it."""
    if there := workers():
        killed.append(draw.choice(sorted(there)))
        os.kill(killed[-1], signal.SIGKILL)


def counts(found: Any) -> list[Any]:
    """All that an evaluation counted."""
    by_layer = {name: count.tolist() for name, count in found.counts.items()}
    return [found.images, found.accuracy.tolist(), found.predictions.tolist(), by_layer]


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Evaluate so many times, and kill a worker in each."""
    torch.set_num_threads(1)
    data, on = load("mnist-sample"), Processes(2, threads=1)
    network = es.quantize(es.convert(load_model("mnist-cnn")[0], data.train.take(64).floats(), es.DataNorm(99.9)), 8)

    def evaluated(size: int, on: Workers | None = None) -> list[Any]:
        return counts(es.evaluate(network, data.test.take(100).batches(size), 32, es.Poisson(), on=on))

    whole, began = evaluated(100), perf_counter()
    evaluated(5, on)
    seconds = perf_counter() - began
    for number in range(tries):
        draw, killed = draws(seed, number), list[int]()
        after = draw.uniform(0, seconds)
        timer = Timer(after, kill_one, (draw, killed))
        timer.start()
        same = evaluated(5, on) == whole
        timer.cancel()
        timer.join()
        end = ("killed" if killed else "done before") if same else "counted otherwise"
        yield Attempt(f"number {number}: a worker killed after {after:.2f} s", end, same)


if __name__ == "__main__":
    script(__name__, "evaluations with a killed worker", 100, run)
