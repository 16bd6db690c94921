"""Contenders take turns, and none is timed whose spikes differ. No test here looks at a time."""

import json

import pytest
import torch

import equispike as es
from equispike import bench
from equispike.graph.network import Network
from equispike.zoo.data import load
from equispike.zoo.store import load_model


@pytest.fixture(scope="module")
def digits() -> tuple[Network, torch.Tensor]:
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(16).floats())
    return network, data.test.take(2).floats()


def test_contenders_run_in_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> bench.Contender:
        def run() -> bench.Spikes:
            order.append(name)
            return {"layer": 10.0}

        return run

    timings = bench.in_turns({name: contender(name) for name in "ab"}, 3, tolerance=0.0)
    assert order == ["a", "b"] * 4  # once before anything is timed
    assert all(len(t.seconds) == len(t.cpu_seconds) == 3 for t in timings.values())


def test_whoever_spikes_differently_is_not_timed() -> None:
    contenders: dict[str, bench.Contender] = {"a": lambda: {"layer": 100.0}, "b": lambda: {"layer": 102.0}}
    with pytest.raises(es.SimulationError, match=r"b: its spikes differ by 2\.00% in a layer, more than 1\.00%"):
        bench.in_turns(contenders, 1, tolerance=0.01)
    assert bench.disagreement({"a": 1.0}, {"b": 1.0}) == float("inf")


def test_plain_loop_and_engines_spike_alike(digits: tuple[Network, torch.Tensor]) -> None:
    network, images = digits
    contenders = {
        "loop": bench.plain_loop(network, images, 8),
        "layerwise": bench.ours(network, images, 8, "layerwise"),
        "auto": bench.ours(network, images, 8, "auto"),
    }
    timings = bench.in_turns(contenders, 1, tolerance=0.01)
    assert bench.table(timings, 16).splitlines()[1].split()[0] == "loop"
    known = bench.conditions(network, images, 8, 3.0)
    assert json.loads(json.dumps(bench.summary(timings, known)))["measured"]["auto"]["disagreement"] <= 0.01


def test_thresholds_set_the_spike_rate(digits: tuple[Network, torch.Tensor]) -> None:
    network, images = digits
    run = es.simulate(bench.with_spike_rate(network, images, 10.0), images, 32)
    for name, layer in run.spikes.items():
        assert 100 * float(layer.sum()) / (run.neurons[name] * 2 * 32) == pytest.approx(10.0, rel=0.25)
