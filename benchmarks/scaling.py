"""The cost of sharing an evaluation among processes, and from it, by simulation, how far up to 100 workers carry it.

Costs are processor time, which a busy machine does not change much; evaluations by one and by two processes of a thread
each take turns, on the clock. The last line is JSON.

    python -m benchmarks.scaling --network cnn7 | tail -n 1 >> benchmarks/results.jsonl
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from heapq import heappop, heappush
from statistics import median
from typing import TypeVar

import cloudpickle
import torch

import equispike as es
from benchmarks.networks import model_and_data
from benchmarks.timing import conditions
from equispike.analysis.evaluation import Evaluation
from equispike.graph.network import Network
from equispike.workers import AHEAD, Processes, pickled
from equispike.zoo.data import Part

Made = TypeVar("Made")
PIECES = 500
"""Pieces of the simulated work: the 50,000 validation images of ImageNet in hundreds."""
WORKERS = 1, 2, 4, 8, 16, 32, 64, 100


def timed(make: Callable[[], Made], clock: Callable[[], float] = time.process_time) -> tuple[float, Made]:
    """Seconds by the clock, and what was made."""
    began = clock()
    made = make()
    return clock() - began, made


def of_children() -> float:
    """Processor seconds of all processes that this one has started, and that have ended."""
    time.sleep(2.0)  # the last ones end a little later than their work
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def all_timed(makes: Sequence[Callable[[], Made]]) -> tuple[float, list[Made]]:
    """Median of the seconds, and what was made."""
    found = [timed(make) for make in makes]
    return median(seconds for seconds, _ in found), [made for _, made in found]


def simulated(workers: int, pieces: int, costs: Mapping[str, float]) -> float:
    """Seconds until a driver has the results of all pieces; it gives another one for each that it takes.

    Args:
        costs: seconds until a worker has started, of a piece, and of the driver to give a piece and to take its result.
    """
    clock, given, free, results = 0.0, 0, [costs["start"]] * workers, list[float]()
    while given < pieces or results:
        if given < pieces and len(results) < AHEAD * workers:
            clock, given = clock + costs["give"], given + 1
            done = max(clock, heappop(free)) + costs["piece"]
            heappush(free, done)
            heappush(results, done)
        else:
            clock = max(clock, heappop(results)) + costs["take"]
    return clock


def costs_of(network: Network, test: Part, size: int, timesteps: int) -> dict[str, float]:
    """Costs of a piece in seconds, and bytes that are sent for it, without any other process; medians over pieces."""
    batches, firsts = test.batches(size), range(0, len(test), size)
    pairs, shards = zip(firsts, batches, strict=True), zip(firsts, batches.shards(), strict=True)
    piece, parts = all_timed([partial(es.evaluate, network, [pair], timesteps, first=first) for first, pair in pairs])
    give, given = all_timed([partial(pickled, shard) for shard in shards])
    sent = [pickled(part) for part in parts]
    take, taken = all_timed([partial(cloudpickle.loads, part) for part in sent])
    merge, _ = timed(lambda: reduce(Evaluation.merge, taken))
    sizes = {"bytes given": median(map(len, given)), "bytes taken": median(map(len, sent))}
    return {"piece": piece, "give": give, "take": take + merge / len(parts), **sizes}


def answer(_: Network, number: int) -> int:
    """The least that a worker who holds a network can do."""
    return number


def main() -> None:
    """Measure, simulate, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cnn7", help="as in benchmarks.simulation")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=50, help="images of a piece")
    parser.add_argument("--timesteps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, data, weights = model_and_data(asked.network, None)
    network = es.convert(model, data.train.take(32).floats(), es.DataNorm(99.9))
    test, size, steps = data.test.take(asked.images), asked.batch, asked.timesteps
    costs, pieces = costs_of(network, test, size, steps), len(test.batches(size))
    starts, driver, seconds = list[float](), list[float](), {1: list[float](), 2: list[float]()}
    for _ in range(asked.repeats):
        alone = Processes(1, threads=1)
        begun = time.process_time()
        starts.append(timed(lambda alone=alone: list(alone.map(partial(answer, network), [1])), of_children)[0])
        driver.append(begun - time.process_time())
        for number, taken in seconds.items():
            begun = time.process_time()
            evaluation = partial(es.evaluate, network, test.batches(size), steps, on=Processes(number, threads=1))
            taken.append(timed(evaluation, time.perf_counter)[0])
            driver[-1] += (time.process_time() - begun) * (number == 1)
    costs |= {"start": median(starts), "driver": median(driver) / pieces}
    costs["take"] = max(costs["take"], costs["driver"] - costs["give"])  # what is between them takes time too
    curve = {workers: simulated(workers, PIECES, costs) for workers in WORKERS}
    print(", ".join(f"{name} {cost:,.4g}" for name, cost in costs.items()))
    print(", ".join(f"{number} processes: {median(found):.2f} s" for number, found in seconds.items()))
    for workers, needed in curve.items():
        print(f"{workers} workers, {PIECES} pieces: {needed:,.1f} s, {curve[1] / needed:.1f} times as fast as one")
    scaling = {"costs": costs, "seconds": seconds, "pieces": pieces, "simulated": curve}
    known = {
        "network": asked.network,
        "weights": weights,
        "n": asked.repeats,
        **conditions(network, test.take(size).floats(), steps),
    }
    print(json.dumps({**known, "scaling": scaling}))


if __name__ == "__main__":
    main()
