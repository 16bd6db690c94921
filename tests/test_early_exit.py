"""Early exit: the bound holds, rules are their literal loops, and a run that stops is the full run cut off."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from strategies import images_for, networks, seeds

import equispike as es
from equispike.analysis.early_exit import exits
from equispike.graph.network import Network, Node
from equispike.graph.ops import Flatten, Input, Linear, Neuron, Readout, Sparse, WinnerPool
from equispike.simulation import stop as early_exit
from equispike.simulation.cpu import installed
from equispike.simulation.layerwise import bytes_per_step
from equispike.simulation.stop import largest_gains
from equispike.simulation.task import scores_of
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 40
ENGINES = ["stepwise", "layerwise", *(["events"] if installed() else [])]
everything = st.tuples(networks(form="any"), st.data())


def gains(network: Network) -> Any:
    """Networks whose pixels reach the scores without a neuron in between have no bound."""
    try:
        return largest_gains(network)
    except es.SimulationError:
        return reject()


@given(everything, seeds)
@settings(max_examples=20)
def test_no_class_gains_more_than_the_bound(drawn: Any, seed: int) -> None:
    network, data = drawn
    bound = gains(network)
    totals = es.simulate(network, data.draw(images_for(network)), T, es.Poisson(), seed).totals
    steps = scores_of(dataclasses.replace(network.readout, delay=0.0), totals).diff(dim=0)
    assert bool((steps[..., :, None] - steps[..., None, :] <= bound).all())


@given(everything, seeds, st.sampled_from(ENGINES))
@settings(max_examples=20)
def test_certain_answers_are_those_of_all_steps(drawn: Any, seed: int, engine: Any) -> None:
    network, data = drawn
    if len(gains(network)) == 1:  # one score has no rival
        reject()
    images = data.draw(images_for(network))
    full = es.simulate(network, images, T, es.Poisson(), seed, engine="stepwise")
    run = es.simulate(network, images, T, es.Poisson(), seed, engine=engine, stop=es.Certain())
    assert torch.equal(run.predictions[-1], full.predictions[-1])
    assert torch.equal(exits(full, es.Certain()).predictions, full.predictions[-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_of_steps_are_run_in_chunks_where_memory_is_short(engine: Any) -> None:
    one, weight = torch.ones((), dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 0.375
    nodes = Node("input", Input((3,))), Node("linear", Linear(weight, None), ("input",))
    nodes += Node("neurons", Neuron(one, one), ("linear",)), Node("readout", Readout(), ("neurons",))
    network = Network(nodes)
    images = torch.tensor([[1.0, 0.5, 0.25], [0.125, 0.0, 1.0]]).double()
    room = 3 * len(images) * bytes_per_step(network)  # three steps of layerwise, where a block has 16
    whole = es.simulate(network, images, T, engine="stepwise")
    run = es.simulate(network, images, T, engine=engine, memory=room, stop=es.Stable(T))
    assert torch.equal(run.readout, whole.readout)
    assert torch.equal(run.spikes["neurons"], whole.spikes["neurons"])


def test_negative_weights_of_a_map_widen_the_bound() -> None:
    """The map gives x - y and x of two neurons with spikes of size 1: class 0 gains 1 and loses 1, class 1 gains 1."""
    one = torch.ones((), dtype=torch.float64)
    source, weight = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.0]]).double()
    network = Network(
        (
            Node("input", Input((2,))),
            Node("neurons", Neuron(one, one), ("input",)),
            Node("map", Sparse((2,), 2, source, weight), ("neurons",)),
            Node("readout", Readout(), ("map",)),
        )
    )
    assert float(largest_gains(network)[1, 0]) >= 1 - (-1)
    images = torch.tensor([[0.0, 1.0]]).double()
    assert torch.equal(es.simulate(network, images, 3).readout[-1], torch.tensor([[-3.0, 0.0]]))


def test_the_bound_by_hand() -> None:
    """Two neurons with spikes of size 2; class 1 gains most on class 0 when both fire or only the second."""
    theta, size = torch.tensor(1.0).double(), torch.tensor(2.0).double()
    weight = torch.tensor([[1.0, 0.0], [-1.0, 3.0], [0.5, 0.5]]).double()
    nodes = (
        Node("input", Input((2,))),
        Node("n", Neuron(theta, size), ("input",)),
        Node("out", Linear(weight, torch.tensor([0.0, 1.0, 0.0]).double()), ("n",)),
        Node("readout", Readout(0.5), ("out",)),
    )
    bound = largest_gains(Network(nodes))
    assert bound.tolist() == [
        pytest.approx([0.0, (4 - 1) / 2, 1 / 2]),
        pytest.approx([(6 + 1) / 2, 0.0, (5 + 1) / 2]),
        pytest.approx([1 / 2, (3 - 1) / 2, 0.0]),
    ]


@pytest.mark.parametrize("spikes", ["binary", "signed"])
def test_the_bound_behind_a_winner_pool_by_hand(spikes: Any) -> None:
    """Two windows x and y of spikes of size 2, perhaps negative: how much classes x - y, y and nothing gain."""
    theta, size = torch.tensor(1.0).double(), torch.tensor(2.0).double()
    weight = torch.tensor([[1.0, -1.0], [0.0, 1.0], [0.0, 0.0]]).double()
    nodes = (
        Node("input", Input((1, 4))),
        Node("n", Neuron(theta, size, spikes=spikes), ("input",)),
        Node("pool", WinnerPool((2,), (2,), (0,), (1,)), ("n",)),
        Node("flat", Flatten(), ("pool",)),
        Node("out", Linear(weight, None), ("flat",)),
        Node("readout", Readout(), ("out",)),
    )
    least = -2 if spikes == "signed" else 0
    assert largest_gains(Network(nodes)).tolist() == [
        pytest.approx([0.0, 2 - 2 * least, 2 - least]),
        pytest.approx([4 - least, 0.0, 2]),
        pytest.approx([2 - least, -least, 0.0]),
    ]


def test_scores_of_bare_pixels_have_no_bound() -> None:
    nodes = (Node("input", Input((2,))), Node("out", Linear(torch.eye(2), None), ("input",)))
    with pytest.raises(es.SimulationError, match=r"input: the scores depend on pixels .* Stable"):
        largest_gains(Network((*nodes, Node("readout", Readout(), ("out",)))))


def bare(classes: int) -> Network:
    """A network whose scores are its pixels."""
    return Network((Node("input", Input((classes,))), Node("readout", Readout(), ("input",))))


@given(st.integers(1, 5), st.sampled_from([0.0, 0.5]), seeds, st.integers(1, 3))
def test_stable_is_its_literal_loop(steps: int, lead: float, seed: int, classes: int) -> None:
    readout = torch.randint(-2, 3, (T, 3, classes), generator=torch.Generator().manual_seed(seed)).cumsum(0).double()
    settled = es.Stable(steps, lead).settled(bare(classes), readout, T)
    for image in range(3):
        unchanged = 0
        previous = None
        for t in range(T):
            scores = readout[t, image].tolist()
            winner = int(scores[0] > 0) if classes == 1 else scores.index(max(scores))
            unchanged = unchanged + 1 if winner == previous else 1
            previous = winner
            others = [] if classes == 1 else scores[:winner] + scores[winner + 1 :]
            ahead = not others or scores[winner] - max(others) >= lead * (t + 1)
            assert bool(settled[t, image]) == ((unchanged >= steps and ahead) or t == T - 1)


@given(everything, seeds, st.sampled_from(ENGINES), st.sampled_from([es.Constant(), es.Poisson()]))
@settings(max_examples=25)
def test_a_run_that_stops_is_the_full_run_cut_off(drawn: Any, seed: int, engine: Any, coder: Any) -> None:
    network, data = drawn
    images, stop = data.draw(images_for(network, most=5)), es.Stable(data.draw(st.integers(1, 20)))
    full = es.simulate(network, images, T, coder, seed, engine="stepwise")
    run = es.simulate(network, images, T, coder, seed, engine=engine, batch_size=4, stop=stop, verify=2)
    assert run.mismatch == 0.0
    assert full.steps.tolist() == [T] * len(images)
    wanted = exits(full, stop).steps
    assert bool((run.steps >= wanted).all())  # never counted as fewer than run
    for image, steps in enumerate(run.steps.tolist()):
        assert steps % early_exit.BLOCK == 0 or steps == T
        assert torch.equal(run.readout[:steps, image], full.readout[:steps, image])
        assert bool((run.readout[steps:, image] == full.readout[steps - 1, image]).all())
        for name, layer in full.spikes.items():
            assert torch.equal(run.spikes[name][:steps, image], layer[:steps, image])
            assert int(run.spikes[name][steps:, image].sum()) == 0
            assert int(run.counts[name][image].sum()) == int(layer[:steps, image].sum())


@pytest.mark.parametrize("engine", ENGINES)
def test_spikes_that_are_taken_back_are_counted_across_blocks(engine: Any) -> None:
    theta = torch.ones((), dtype=torch.float64)
    nodes = (
        Node("input", Input((2,))),
        Node("in", Linear(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double(), None), ("input",)),
        Node("n", Neuron(theta, theta, spikes="signed"), ("in",)),
        Node("readout", Readout(), ("n",)),
    )
    network, images = Network(nodes), torch.full((2, 2), 0.5).double()
    full = es.simulate(network, images, T, es.Poisson(), engine="stepwise", trains=["n"])
    run = es.simulate(network, images, T, es.Poisson(), engine=engine, stop=es.Stable(T + 1))
    negative = full.trains["n"] == -1
    assert bool(negative[: early_exit.BLOCK].any())
    assert bool(negative[early_exit.BLOCK :].any())
    assert torch.equal(run.negative["n"], negative.sum(0, dtype=torch.int32))
    assert torch.equal(run.sent("n"), full.trains["n"].sum(0, dtype=torch.int32))


def test_early_exit_saves_steps_on_digits_and_keeps_their_answers() -> None:
    data = load("mnist-sample")
    network = es.convert(load_model("mnist-cnn")[0], data.train.take(64).floats())
    test = data.test.take(40)
    full = es.simulate(network, test.floats(), 64)
    run = es.simulate(network, test.floats(), 64, stop=es.Stable(16))
    assert float(run.steps.double().mean()) < 48
    assert float(es.accuracy(run, test.labels)[-1]) >= float(es.accuracy(full, test.labels)[-1]) - 0.05
    evaluation = es.evaluate(network, test.batches(20), 64, stop=es.Stable(16))
    assert evaluation.steps == float(run.steps.double().mean())


@pytest.mark.parametrize("rule", [es.Stable(0), es.Stable(2, -1.0)])
def test_rules_out_of_range_are_refused(rule: es.Stable) -> None:
    with pytest.raises(es.SimulationError, match="must be at least 1 and 0"):
        rule.settled(bare(2), torch.zeros(2, 1, 2), 2)
