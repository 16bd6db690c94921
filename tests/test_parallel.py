"""Training on two processes, started as users start it: by torchrun, each with a share of every batch."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equispike.errors import EquispikeError
from equispike.nn import with_rate_norm
from equispike.zoo.data import load
from equispike.zoo.models import mnist_cnn
from equispike.zoo.parallel import from_first, processes, rank, total, world
from equispike.zoo.recipes import Recipe
from equispike.zoo.train import Progress, train

RECIPE = Recipe(epochs=2, batch=51, lr=0.05)


@dataclass(frozen=True)
class Job:
    """A training. One that is not `random` has nothing that two processes must do otherwise than one."""

    folder: str
    random: bool = False
    stop: bool = False
    resume: bool = False


class Stop(Exception):
    """What interrupts a training."""


def run(job: Job) -> None:
    """Train in this process, alone or beside others, and write what came of it to a file with its number."""
    sample, folder = load("mnist-sample"), Path(job.folder)
    torch.manual_seed(0)
    # 4 steps a pass, of which the second process takes the smaller half; or 2, as the third batch has 1 image
    model = mnist_cnn(constrained=not job.random, width=4, dropout=0.2 * job.random)
    images = sample.train.take(103 if job.random else 200)
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if job.stop and progress.epoch.number == 2:
            raise Stop

    try:
        result = train(
            with_rate_norm(model, momentum=None) if job.random else model,
            images, sample.validation.take(51), replace(RECIPE, shift=2 * job.random),
            report=report, checkpoint=folder / "run.training", resume=job.resume,
        )  # fmt: skip
    except Stop:
        return
    history = [(epoch.loss, epoch.train_accuracy, epoch.validation_accuracy) for epoch in result.history]
    weights = result.model.state_dict()
    torch.save({"weights": weights, "history": history, "steps": seen[-1].step}, folder / f"{rank()}.pt")


def main(jobs: str) -> None:
    """What each process of torchrun runs."""
    torch.set_num_threads(1)
    with processes("cpu") as device:
        mine = torch.tensor([rank(), 5])
        assert (device.type, world()) == ("cpu", 2)
        assert from_first(mine).tolist() == [0, 5]
        assert mine.tolist() == [rank(), 5]
        assert total([1.0 + rank(), 10.0], device) == [3.0, 20.0]
        for job in json.loads(jobs):
            run(Job(*job))


def together(folder: Path, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes; what torchrun leaves behind goes to the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    return subprocess.run(
        [*torchrun, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By folder the results of each process: all that two do, in one start of them, and what one does by itself."""
    root = tmp_path_factory.mktemp("parallel")
    names = ("alone", "two", "one then two", "two then one", "random", "random resumed")
    at = {name: str(root / name) for name in names}
    for folder in at.values():
        Path(folder).mkdir()
    run(Job(at["alone"]))
    run(Job(at["one then two"], stop=True))
    jobs = [
        Job(at["two"]),
        Job(at["one then two"], resume=True),
        Job(at["two then one"], stop=True),
        Job(at["random"], random=True),
        Job(at["random resumed"], random=True, stop=True),
        Job(at["random resumed"], random=True, resume=True),
    ]
    arguments = json.dumps([[job.folder, job.random, job.stop, job.resume] for job in jobs])
    finished = together(root, Path(__file__), arguments)
    assert finished.returncode == 0, finished.stderr
    run(Job(at["two then one"], resume=True))
    return {name: [torch.load(path) for path in sorted(Path(folder).glob("*.pt"))] for name, folder in at.items()}


def apart(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Largest difference of two networks' weights."""
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("name", ["two", "one then two", "two then one"])
def test_two_processes_do_what_one_does(done, name):
    """Sums are in another order, so to rounding; a share that counted too much would show in the third digit."""
    alone, result = done["alone"][0], done[name][0]
    assert apart(alone["weights"], result["weights"]) < 1e-5
    for mine, other in zip(result["history"], alone["history"], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    assert result["steps"] == 8


@pytest.mark.parametrize("name", ["two", "random"])
def test_all_processes_end_with_one_network_and_one_history(done, name):
    first, second = done[name]
    assert apart(first["weights"], second["weights"]) == 0
    assert first["history"] == second["history"]


def test_a_batch_with_fewer_images_than_processes_is_left_out(done):
    assert done["random"][0]["steps"] == 4
    assert all(torch.isfinite(value).all() for value in done["random"][0]["weights"].values())


def test_two_processes_resume_bit_for_bit(done):
    """Dropout and moves are drawn by each process: the second one's draws come back as well."""
    assert apart(done["random"][0]["weights"], done["random resumed"][0]["weights"]) == 0


CLI = """
import equispike.zoo.data as data
from dataclasses import replace
from equispike.cli import main
whole = data.load("mnist-sample")
few = replace(whole, train=whole.train.take(320), validation=whole.validation.take(50), test=whole.test.take(50))
data.load = lambda *_: few
main()
"""


def test_one_process_writes_and_prints(tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out" / "model.safetensors"
    script.write_text(CLI)
    finished = together(tmp_path, script, "train", "--epochs", "1", "--out", str(out))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("best epoch") == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.jsonl", "model.safetensors"]


# One process


def test_alone_nothing_is_shared():
    with processes("cpu") as device:
        assert (device, rank(), world()) == (torch.device("cpu"), 0, 1)
    tensor = torch.ones(2)
    assert from_first(tensor) is tensor
    assert total([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]


@pytest.mark.parametrize(
    "device", ["gpu", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"))]
)
def test_a_device_that_is_not_here(device):
    with pytest.raises(EquispikeError, match=f"device '{device}': not here. Use cpu"), processes(device):
        pass


if __name__ == "__main__":
    main(sys.argv[1])
