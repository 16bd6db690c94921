"""Stages of a run, misfit, rates, operating range, power and energy until an accuracy: against the literal thing."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks

import equispike as es
from equispike.analysis.accuracy import speed_up
from equispike.analysis.energy import FLOAT32_45NM, FLOAT32_45NM_MEMORY, energy_until, pareto, power
from equispike.analysis.evaluation import steps_looked_at
from equispike.analysis.fit import misfit, rate_counts, trained_rates
from equispike.analysis.operating_range import operating_range
from equispike.analysis.operations import operations
from equispike.functional.coding import Constant, Poisson
from equispike.graph.network import Network, Node, calibrated
from equispike.graph.ops import Input, Linear, Neuron, Readout
from equispike.simulation.run import stages
from equispike.simulation.stepwise import steps
from equispike.simulation.task import Task

T = 8
coders = st.sampled_from([Constant(), Poisson()])


def every_second_step(theta: float) -> Network:
    """A neuron with threshold theta that receives a current of 1 in every second step."""
    one = torch.tensor(1.0)
    return Network(
        (
            Node("input", Input((1,))),
            Node("half", Linear(torch.tensor([[0.5]]), None), ("input",)),
            Node("clock", Neuron(one, one), ("half",)),
            Node("same", Linear(torch.tensor([[1.0]]), None), ("clock",)),
            Node("n", Neuron(torch.tensor(theta), one), ("same",)),
            Node("readout", Readout(), ("n",)),
        )
    )


@given(networks(), st.data(), coders, st.sets(st.integers(1, T), min_size=1))
@settings(max_examples=10, deadline=None)
def test_each_stage_is_the_simulation_of_so_many_steps(network: Network, data: Any, coder: Any, ends: set[int]) -> None:
    images = data.draw(images_for(network))
    indices = torch.arange(len(images)) + 5
    runs = list(stages(network, images, sorted(ends), coder, 3, indices))
    assert [run.timesteps for run in runs] == sorted(ends)
    for run in runs:
        whole = es.simulate(network, images, run.timesteps, coder, 3, indices)
        assert torch.equal(run.readout, whole.readout)
        assert torch.equal(run.steps, whole.steps)
        assert run.neurons == whole.neurons
        for name in network.neurons:
            assert torch.equal(run.counts[name], whole.counts[name])
            assert torch.equal(run.spikes[name], whole.spikes[name])


@pytest.mark.parametrize("ends", [[], [0, 1], [2, 2], [3, 1]])
def test_stages_that_do_not_increase_are_refused(ends: list[int]) -> None:
    with pytest.raises(es.SimulationError, match="steps"):
        next(stages(every_second_step(1.0), torch.ones(1, 1), ends))


@given(networks(), st.data(), coders)
@settings(max_examples=10, deadline=None)
def test_misfit_and_rates_are_those_of_the_run(network: Network, data: Any, coder: Any) -> None:
    images = data.draw(images_for(network))
    run = es.simulate(network, images, T, coder)
    fit = es.rate_fit(network, images, T, coder)
    for name, found in misfit(run).items():
        rates = trained_rates(network, images)[name].flatten(1)
        told = run.sent(name).flatten(1) / T
        for n in range(len(images)):
            size = float((rates[n] ** 2).sum())
            expected = float(((told[n] - rates[n]) ** 2).sum()) / size if size else math.nan
            assert float(found.k[n]) == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert torch.equal(found.omega, fit.omega[name])
        assert float(found.k.nanmean()) == pytest.approx(float(fit.k[name][-1]), rel=1e-5, nan_ok=True)
    for name, counted in rate_counts(run).items():
        assert counted.tolist() == [int((run.sent(name) == n).sum()) for n in range(T + 1)]


@given(networks(), st.data(), coders)
@settings(max_examples=10, deadline=None)
def test_the_operating_range_is_that_of_the_currents_of_every_step(network: Network, data: Any, coder: Any) -> None:
    images = data.draw(images_for(network))
    currents: dict[str, list[torch.Tensor]] = {name: [] for name in network.neurons}
    for values in steps(Task(network, images, torch.arange(len(images)), T, coder, 0)):
        for name in currents:
            currents[name].append(values[network[name].inputs[0]].double())
    rows = {row.layer: row for row in operating_range(network, images, T, coder)}
    for name, op in network.neurons.items():
        each = torch.stack(currents[name])
        theta = calibrated(name, op)[0].double().expand_as(each[0])
        places = []
        for i in (each.sum(0) > 0).nonzero().tolist():
            train = each[(slice(None), *i)]
            received = [float(current) for current in train if current != 0]
            low, high, threshold = float(train.mean()), sum(received) / len(received), float(theta[tuple(i)])
            places.append("below" if threshold < low else "above" if threshold > high else "inside")
        if not places:
            assert name not in rows
            continue
        for place in ("below", "inside", "above"):
            assert getattr(rows[name], place) == places.count(place) / len(places)
        assert rows[name].largest == float(each.max())


def test_a_threshold_at_the_largest_current_is_the_upper_end_and_a_small_one_clips() -> None:
    """One neuron, current 1 in every second step: f_in = 1/2, V_in = 1, so the range is from 1/2 to 1."""
    for theta, place in ((0.25, "below"), (0.5, "inside"), (0.75, "inside"), (1.0, "inside"), (1.5, "above")):
        clock, row = operating_range(every_second_step(theta), torch.ones(1, 1), 8)
        assert (row.lowest, row.highest, row.largest, row.threshold) == (0.5, 1.0, 1.0, theta)
        assert getattr(row, place) == 1
        assert clock.above == 1  # a current of 1/2 in every step, threshold 1


def test_power_is_spikes_over_a_millisecond_and_its_integral_is_the_energy() -> None:
    spikes = torch.tensor([3, 0, 5])
    watts = power(spikes, joules_per_spike=2e-12)
    assert watts.tolist() == pytest.approx([6e-9, 0, 10e-9])
    assert float(watts.sum()) * 1e-3 == pytest.approx(8 * 2e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto([c for c, _ in points], [v for _, v in points])
    unbeaten = {(c, v) for c, v in points if not any(a <= c and b >= v and (a, b) != (c, v) for a, b in points)}
    assert [points[i] for i in front] == sorted(unbeaten)


def test_energy_until_stops_where_the_accuracy_stays() -> None:
    energy, reached = torch.arange(1.0, 6.0), torch.tensor([0.1, 0.9, 0.8, 0.9, 0.95])
    assert energy_until(energy, reached, 0.9) == 4
    assert energy_until(energy, reached, 0.99) is None
    with pytest.raises(es.SimulationError, match="energy of 5 steps for accuracies of 2"):
        energy_until(energy, reached[:2], 0.9)


def test_input_spikes_are_additions_and_memory_is_a_term_of_its_own() -> None:
    one = torch.tensor(1.0)
    network = Network(
        (
            Node("input", Input((4,))),
            Node("first", Linear(torch.ones(3, 4), None), ("input",)),
            Node("n", Neuron(one, one), ("first",)),
            Node("last", Linear(torch.ones(6, 3), None), ("n",)),
            Node("readout", Readout(), ("last",)),
        )
    )
    counts = {name: torch.tensor([2.0, 0.0, 1.0]) for name in network.neurons}
    found = operations(network, counts, 10, inputs=torch.tensor([1.0, 0.0, 4.0, 5.0]))
    first, second = found.rows
    assert (first.analog_macs, first.additions, second.additions) == (0, 30, 18)
    assert found.ratio == 18 / 18  # of the layer that neurons drive
    assert found.energy() == pytest.approx(48 * 0.9e-12)
    spikes = {"input": torch.ones(10), "n": torch.full((10,), 0.3)}
    assert float(found.energy_by_step(spikes)[-1]) == pytest.approx(found.energy())
    assert found.energy(FLOAT32_45NM_MEMORY) - found.energy(FLOAT32_45NM) == pytest.approx(48 * 5e-12)
    with pytest.raises(es.SimulationError, match="is of shape"):
        operations(network, counts, 10, inputs=dyadic(0, 3))


@given(st.integers(1, 5000))
def test_steps_looked_at_rise_to_the_last_by_a_quarter_at_most(timesteps: int) -> None:
    looked = steps_looked_at(timesteps)
    assert looked[0] == 1
    assert looked[-1] == timesteps
    assert all(a < b <= max(a + 1, 1.25 * a) for a, b in pairwise(looked))
    assert {2**k for k in range(13) if 2**k <= timesteps} <= set(looked)


def test_speed_up_is_a_ratio_of_latencies() -> None:
    fast, slow = torch.tensor([0.2, 0.9, 0.9]), torch.tensor([0.1] * 7 + [0.9])
    assert speed_up(fast, slow, 0.9) == 4
    assert speed_up(slow, fast, 0.9) == 0.25
    assert speed_up(fast, slow, 0.95) is None
