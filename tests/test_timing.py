"""Contenders take turns, and none is timed whose spikes differ. No test here looks at a time."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import equispike as es
from benchmarks import page, scaling, timing
from equispike.analysis.operations import operations
from equispike.graph.network import Network
from equispike.simulation import cpu
from equispike.zoo.data import load
from equispike.zoo.store import load_model


@pytest.fixture(scope="module")
def digits() -> tuple[Network, torch.Tensor]:
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(16).floats(), es.DataNorm(99.9))
    return network, data.test.take(2).floats()


def test_contenders_run_in_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> timing.Contender:
        def run() -> timing.Spikes:
            order.append(name)
            return {"layer": 10.0}

        return run

    timings = timing.in_turns({name: contender(name) for name in "ab"}, 3, tolerance=0.0, least=0.0)
    assert order == ["a", "b"] * 4  # once before anything is timed
    assert all(len(t.seconds) == len(t.cpu_seconds) == 3 for t in timings.values())
    order.clear()
    timing.in_turns({"a": contender("a")}, 1, tolerance=0.0)
    assert len(order) > 2  # again and again in a turn


def test_whoever_spikes_differently_is_not_timed() -> None:
    contenders: dict[str, timing.Contender] = {"a": lambda: {"layer": 1000.0}, "b": lambda: {"layer": 1020.0}}
    with pytest.raises(es.SimulationError, match=r"b: its spikes differ by 2\.00% in a layer, more than 1\.00%"):
        timing.in_turns(contenders, 1, tolerance=0.01)
    assert timing.disagreement({"a": 1.0}, {"b": 1.0}) == float("inf")
    assert timing.disagreement({"a": 2.0}, {"a": 1.0}) <= 0.01  # rounding moves one spike of a layer that has two


def test_plain_loop_and_engines_spike_alike(digits: tuple[Network, torch.Tensor]) -> None:
    network, images = digits
    timings = timing.in_turns(timing.contenders(network, images, 8, ("layerwise", "auto")), 1, tolerance=0.01)
    work = timing.work(network, images, 8)
    run = es.simulate(network, images, 8)
    assert work.image_steps == 16
    assert work.additions == pytest.approx(2 * operations(network, run.counts, 8).additions)
    lines = timing.table(timings, work).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["plain", "layerwise", "auto", "additions:"]
    known = timing.conditions(network, images, 8)
    found = json.loads(json.dumps(timing.summary(timings, work, known)))
    assert found["measured"]["auto"]["disagreement"] <= 0.01
    assert found["spike_rate"] == float(run.spike_rate[-1])


def test_pages_show_what_was_measured() -> None:
    runs = [json.loads(line) for line in page.RESULTS.read_text().splitlines()]
    texts = [path.read_text() for path in page.PAGES]
    assert [page.page(text, runs) for text in texts] == texts
    assert all(f"| {run['network']} |" in texts[0] for run in runs if "network" in run)
    ratios, rates = [], []
    measured = (run for run in runs if "measured" in run)
    for run in (run for run in measured if run["threads"] == 1 and run["spike_rate"] < 10):
        cpu = {name: found["cpu_median"] for name, found in run["measured"].items()}
        theirs = min(seconds for name, seconds in cpu.items() if name.startswith("spikingjelly"))
        ratios.append(theirs / min(cpu[name] for name in page.OURS if name in cpu))
        rates.append(run["spike_rate"])
    claim = f"one CPU thread {min(ratios):.0f} to {max(ratios):.0f} times as fast as SpikingJelly's faster mode"
    readme = (page.HERE.parent / "README.md").read_text()
    assert claim in readme
    assert f"spike rates of {min(rates):.0f} to {max(rates):.0f} %" in readme


@given(st.integers(1, 100), st.integers(1, 60), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_workers_or_the_driver_keep_simulated_pieces_waiting(workers, pieces, piece, give, take) -> None:
    costs = {"start": 5, "piece": piece, "give": give, "take": take}
    seconds = scaling.simulated(workers, pieces, costs)
    alone = 5 + -(-pieces // workers) * piece
    assert scaling.simulated(workers, pieces, {**costs, "give": 0, "take": 0}) == alone
    assert max(alone, pieces * (give + take)) <= seconds <= alone + pieces * (give + take)


def test_numbers_are_added_up() -> None:
    core = cpu.core
    if core is None:
        pytest.skip("installed without a compiler: there is no core")
    for isa in core.instruction_sets():
        assert core.add_up(torch.arange(256, dtype=torch.float32), 3, isa) == 3 * 256 * 255 / 2
    with pytest.raises(ValueError, match="does not have it"):
        core.add_up(torch.ones(64), 1, "abacus")


def test_thresholds_set_the_spike_rate(digits: tuple[Network, torch.Tensor]) -> None:
    network, images = digits
    run = es.simulate(timing.with_spike_rate(network, images, 10.0), images, 32)
    for name, layer in run.spikes.items():
        assert 100 * float(layer.sum()) / (run.neurons[name] * 2 * 32) == pytest.approx(10.0, rel=0.25)
