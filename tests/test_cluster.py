"""A Ray cluster of three nodes on this machine: the same results, also when a node dies in the middle of the work."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import exit_code
from strategies import same

import equispike as es
from equispike.files.store import Store
from equispike.results import read_json
from equispike.sweep import Point, sweep
from equispike.workers import Ray
from equispike.zoo.data import load
from equispike.zoo.store import load_model

ray = pytest.importorskip("ray")
utils = pytest.importorskip("ray.cluster_utils")

T = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes with a core each; the workers import equispike and these tests from where this process does."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(es.__file__).parents[1]), str(Path(__file__).parent)])
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray gives its workers the lowest priority
    made = utils.Cluster()
    for _ in range(3):
        made.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
    yield made
    ray.shutdown()
    made.shutdown()
    del os.environ["PYTHONPATH"], os.environ["RAY_worker_niceness"]  # noqa: SIM112


@pytest.fixture(scope="module")
def network() -> es.Network:
    model, _ = load_model("mnist-cnn")
    images = load("mnist-sample").train.take(64).floats()
    return es.quantize(es.convert(model, images, es.DataNorm(99.9)), 8)


def test_a_cluster_finds_what_one_process_finds(cluster: Any, network: es.Network) -> None:
    test = load("mnist-sample").test.take(60)
    alone = es.evaluate(network, test.batches(60), T, es.Poisson(), runs=2)
    assert same(es.evaluate(network, test.batches(7), T, es.Poisson(), runs=2, on=Ray(cluster.address)), alone)


def test_errors_come_as_they_were_raised(cluster: Any) -> None:
    def refuse(number: int) -> int:
        raise es.DataError(f"number {number}: is refused")

    with pytest.raises(es.DataError, match="number 3: is refused"):
        list(Ray(cluster.address).map(refuse, [3]))
    with pytest.raises(es.EquispikeError, match=r"cluster 127.0.0.1:1: cannot be reached: .*ray start --head"):
        list(Ray("127.0.0.1:1").map(refuse, [3]))


def test_killed_workers_and_a_dead_node_lose_nothing(cluster: Any) -> None:
    def square(number: int) -> tuple[int, int]:
        return number**2, os.getpid()

    found: dict[int, int] = {}
    for done, (number, (value, process)) in enumerate(Ray(cluster.address).map(square, range(60))):
        assert number not in found
        found[number] = value
        if done in (10, 20):
            os.kill(process, signal.SIGKILL)
        if done == 30:
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert found == {number: number**2 for number in range(60)}


def test_a_sweep_on_a_cluster_has_one_writer_and_every_point(cluster: Any, tmp_path: Path) -> None:
    model, _ = load_model("mnist-cnn")
    data = load("mnist-sample")
    points = [Point(es.DataNorm(percentile), v_init=v) for percentile in (99.0, 100.0) for v in (0.0, 0.5)]
    parts = data.train.take(20), data.validation.take(20)
    files = tmp_path / "alone.sqlite", tmp_path / "shared.sqlite"
    sweep(model, *parts, points, T, files[0], "mnist-cnn")
    sweep(model, *parts, points, T, files[1], "mnist-cnn", on=Ray(cluster.address))
    curves = [[(point.asked, point.found["runs"][0]["accuracy"]) for point in Store(file).read()] for file in files]
    assert len(curves[0]) == 4
    assert curves[0] == curves[1]


def test_the_command_line_reaches_a_cluster(
    cluster: Any, network: es.Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.safetensors"
    es.save(network, file)
    call = ["evaluate", str(file), "--data", "mnist-sample", "--timesteps", "8", "--images", "40", "--json"]
    for name, how in (("a", []), ("b", ["--cluster", cluster.address]), ("c", ["--workers", "2"])):
        assert exit_code(*call, str(tmp_path / f"{name}.json"), *how) == 0
    runs = [read_json(tmp_path / f"{name}.json")["runs"][0] for name in "abc"]
    assert all(run["accuracy"] == runs[0]["accuracy"] for run in runs)
    assert all(run["spikes_per_image"] == runs[0]["spikes_per_image"] for run in runs)
    assert exit_code(*call, str(tmp_path / "d.json"), "--workers", "2", "--cluster", "auto") == 2
    assert "--workers, --cluster: say one of them" in capsys.readouterr().err
