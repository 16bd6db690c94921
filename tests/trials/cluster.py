"""A Ray cluster of three nodes that loses workers, nodes or its driver at random moments counts as one process counts.

``python tests/trials/cluster.py --tries 100 --seed 0`` starts the cluster on this machine. Evaluations and sweeps on it
lose a worker or a node (SIGKILL) after a random time; a sweep of its own process loses that process, and is run again.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Timer
from time import perf_counter, sleep
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from shared import Attempt, draws, script
from workers import counts

import equispike as es
from equispike.files.store import Store
from equispike.sweep import Point, sweep
from equispike.workers import Ray
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 16
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
POINTS = [Point(es.DataNorm(percentile), v_init=v) for percentile in (99.0, 100.0) for v in (0.0, 0.5)]
LINE = "sweep mnist-cnn --percentile 99 100 --v-init 0 0.5 --timesteps 16 --images 50 --calibration 20"


def busy() -> list[int]:
    """Processes of Ray that do work."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_fetch_and_do"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def kill_one(cluster: Any, draw: random.Random, killed: list[str], done: Event) -> None:
    """Kill a worker, as soon as one works, or a node with all its processes; which of them is drawn."""
    if draw.random() < 0.3:
        cluster.remove_node(draw.choice(list(cluster.worker_nodes)), allow_graceful=False)
        killed.append("a node killed")
        return
    while not (there := busy()) and not done.wait(0.02):
        pass
    if there:
        os.kill(draw.choice(there), signal.SIGKILL)
        killed.append("a worker killed")


def stored(file: Path) -> list[Any]:
    """What a store holds: for each point, once, what was asked and how right it was."""
    return [(point.asked, point.found["runs"][0]["accuracy"]) for point in Store(file).read()]


def disturbed(cluster: Any, draw: random.Random, seconds: float, work: Callable[[], Any]) -> tuple[Any, str]:
    """What work on the cluster finds although somebody is killed, and who was; the cluster has three nodes after it."""
    killed, done = list[str](), Event()
    timer = Timer(draw.uniform(0, seconds), kill_one, (cluster, draw, killed, done))
    timer.start()
    found = work()
    done.set()
    timer.cancel()
    timer.join()
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(**NODE)
    return found, killed[0] if killed else "done before"


def without_its_driver(address: str, file: Path, draw: random.Random, seconds: float) -> tuple[Any, str]:
    """What a sweep holds whose process is killed once, and run again."""
    line = [sys.executable, "-m", "equispike.cli", *LINE.split(), "--cluster", address, "--out", str(file)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sleep(draw.uniform(0, seconds))
    end = "done before" if process.poll() is not None else "the driver killed"
    process.kill()
    process.wait()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return stored(file), end


def run(tries: int, seed: int) -> Iterator[Attempt]:
    """Disturb so many evaluations and sweeps."""
    torch.set_num_threads(1)
    root, here = str(Path(es.__file__).parents[1]), str(Path(__file__).parent)
    os.environ |= {"PYTHONPATH": os.pathsep.join([root, here]), "RAY_worker_niceness": "0"}
    cluster = Cluster()
    for _ in range(3):
        cluster.add_node(**NODE)
    on, data, model = Ray(cluster.address), load("mnist-sample"), load_model("mnist-cnn")[0]
    network = es.quantize(es.convert(model, data.train.take(64).floats(), es.DataNorm(99.9)), 8)
    parts = data.train.take(20), data.validation.take(50)

    def evaluated(size: int, on: Ray | None = None) -> list[Any]:
        return counts(es.evaluate(network, data.test.take(100).batches(size), T, es.Poisson(), on=on))

    def swept(file: Path, on: Ray | None = None) -> list[Any]:
        sweep(model, *parts, POINTS, T, file, "mnist-cnn", on=on)
        return stored(file)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = {"evaluate": evaluated(100), "sweep": swept(folder / "alone"), "driver": stored(folder / "alone")}
        began = perf_counter()
        evaluated(5, on)
        seconds = perf_counter() - began
        for number in range(tries):
            draw, file = draws(seed, number), folder / f"{number}"
            kind = draw.choice(["evaluate", "evaluate", "sweep", "driver"])
            match kind:
                case "evaluate":
                    found, end = disturbed(cluster, draw, seconds, lambda: evaluated(5, on))
                case "sweep":
                    found, end = disturbed(cluster, draw, seconds, lambda file=file: swept(file, on))
                case _:
                    found, end = without_its_driver(str(cluster.address), file, draw, 3 * seconds)
            same = found == whole[kind]
            yield Attempt(f"number {number}: {kind}, {end}", f"{kind}: {end}" if same else "counted otherwise", same)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    script(__name__, "pieces of work on a cluster", 100, run)
