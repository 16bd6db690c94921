"""Trains and potentials of chosen layers: the same from every engine, in every cut, and in accord with the counts."""

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds
from test_simulate import one_layer

import equispike as es
from equispike.analysis import plots
from equispike.graph.network import Network, Node
from equispike.graph.ops import Conv, Flatten, Input, Neuron, Readout
from equispike.simulation import cpu, plan
from equispike.simulation.beginning import initial_potentials
from equispike.simulation.stepwise import steps
from equispike.simulation.stop import BLOCK
from equispike.simulation.task import Task
from equispike.zoo.data import Part, load
from equispike.zoo.store import load_model

T = 9
ENGINES = ["stepwise", "layerwise", "auto", *(["events"] if cpu.installed() else [])]


@cache
def digits() -> tuple[es.Network, Part]:
    """A trained network, converted, and test images."""
    data = load("mnist-sample")
    with torch.no_grad():
        return es.convert(load_model("mnist-cnn")[0], data.train.take(32).floats(), es.DataNorm(99.9)), data.test


@given(
    st.tuples(networks(form="any"), st.data()),
    st.sampled_from([es.Constant(), es.Poisson()]),
    seeds,
)
@settings(max_examples=60)
def test_every_engine_keeps_what_the_specification_does(drawn: Any, coder: Any, seed: int) -> None:
    network, data = drawn
    images = data.draw(images_for(network))
    kept = [data.draw(st.sets(st.sampled_from([*network.neurons]))) for _ in range(2)]
    potentials = initial_potentials(network, torch.arange(len(images)), seed)
    found: dict[str, list[Any]] = {name: [] for name in network.neurons}
    for values in steps(Task(network, images, torch.arange(len(images)), T, coder, seed), potentials):
        for name, own in found.items():
            own.append((values[name].sign(), potentials[name]))
    for engine in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "LONGEST", data.draw(st.integers(1, T)))
            size, memory = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 10**4, 10**7]))
            run = es.simulate(
                network, images, T, coder, seed, engine=engine, batch_size=size, memory=memory,
                trains=kept[0], potentials=kept[1],
            )  # fmt: skip
        assert (run.trains.keys(), run.potentials.keys()) == (kept[0], kept[1])
        for name, train in run.trains.items():
            assert train.dtype == (torch.int8 if network.neurons[name].signed else torch.bool)
            assert torch.equal(train.double(), torch.stack([fires for fires, _ in found[name]]))
            assert torch.equal((train != 0).sum(0, dtype=torch.int32), run.counts[name])
            assert torch.equal(train.sum(0, dtype=torch.int32), run.sent(name))
            assert torch.equal((train != 0).flatten(2).sum(2, dtype=torch.int32), run.spikes[name])
        for name, v in run.potentials.items():
            assert v.dtype == network.dtype
            assert torch.equal(v, torch.stack([own for _, own in found[name]]))


@pytest.mark.parametrize("engine", ENGINES)
def test_charge_of_a_trained_network_is_kept(engine: Any) -> None:
    """Soft reset: V(T) = sum of the currents - theta x spikes, and potentials that a spike has left are below theta."""
    network, test = digits()
    first, images = next(iter(network.neurons)), test.take(3).floats()
    plain = es.simulate(network, images, 150, engine=engine, batch_size=2)
    run = es.simulate(network, images, 150, engine=engine, batch_size=2, trains=network.neurons, potentials=[first])
    assert torch.equal(run.readout, plain.readout)
    assert all(torch.equal(run.counts[name], own) for name, own in plain.counts.items())
    assert all(torch.equal(run.trains[name].sum(0, dtype=torch.int32), own) for name, own in plain.counts.items())
    v, theta = run.potentials[first].double(), network.neurons[first].threshold
    assert theta is not None
    current = network[network[first].inputs[0]].op(images).double()
    assert torch.allclose(v[-1], 150 * current - theta * run.counts[first], atol=1e-3)
    below = run.trains[first] & (current < theta)
    assert bool((v[below | ~run.trains[first]] < theta).all())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_that_stopped_is_silent_and_keeps_its_potentials(engine: Any) -> None:
    network, test = digits()
    last = [*network.neurons][-1]
    run = es.simulate(
        network, test.take(6).floats(), 4 * BLOCK, engine=engine, stop=es.Stable(12), trains=[last],
        potentials=[last],
    )  # fmt: skip
    assert run.steps.unique().tolist()[0] < 4 * BLOCK
    assert torch.equal(run.trains[last].flatten(2).sum(2, dtype=torch.int32), run.spikes[last])
    for image, end in enumerate(run.steps.tolist()):
        v = run.potentials[last][:, image]
        assert not run.trains[last][end:, image].any()
        assert run.trains[last][:end, image].any()
        assert torch.equal(v[end:], v[end - 1].expand_as(v[end:]))


@pytest.mark.parametrize("engine", ENGINES)
def test_potentials_of_images_hold_a_drive_by_step(engine: Any) -> None:
    """Of pixels that are zero, a neuron of threshold 1 without spikes has added up its channel's drive."""
    theta, ones = torch.ones((), dtype=torch.float64), (1, 1)
    drive = torch.tensor([[0.25, 0.5], [0.125, -1.0], [0.0, 0.25]]).double()
    nodes = (
        Node("input", Input((2, 3, 4))),
        Node("conv", Conv(dyadic(0, 2, 2, 1, 1), None, ones, (0, 0), ones), ("input",)),
        Node("n", Neuron(theta, theta, drive=drive), ("conv",)),
        Node("flat", Flatten(), ("n",)),
        Node("readout", Readout(), ("flat",)),
    )
    images = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    run = es.simulate(Network(nodes), images, 4, engine=engine, potentials=["n"])
    sums = torch.tensor([[0.25, 0.5], [0.375, -0.5], [0.375, -0.25], [0.375, 0.0]]).double()
    assert torch.equal(run.potentials["n"], sums[:, None, :, None, None].expand(4, 2, 2, 3, 4))


def test_a_layer_that_does_not_spike_is_refused_by_name() -> None:
    network = one_layer()
    (layer,) = network.neurons
    for argument in ("trains", "potentials"):
        with pytest.raises(es.SimulationError, match=rf"{argument}: 'nowhere' is no neuron layer .* from {layer}"):
            es.simulate(network, torch.rand(1, 3), 4, **{argument: [layer, "nowhere"]})
        run = es.simulate(network, torch.rand(1, 3), 4, **{argument: layer})
        assert [*getattr(run, argument)] == [layer]


def test_more_than_the_memory_is_refused_before_anything_runs() -> None:
    network = one_layer()
    (layer,) = network.neurons
    for kept in ({"trains": [layer]}, {"potentials": [layer]}):
        with pytest.raises(es.SimulationError, match=r"GiB to keep, and cpu has .* Name fewer layers"):
            es.simulate(network, torch.rand(64, 3), 2**31, **kept)


def test_trains_are_drawn_with_potentials_if_they_were_kept() -> None:
    network, images = one_layer(), torch.tensor([[0.0, 0.0, 0.0], [0.3, 1.2, 0.0]])
    (layer,) = network.neurons
    plain = es.simulate(network, images, 12, trains=[layer])
    both = es.simulate(network, images, 12, trains=[layer], potentials=[layer])
    widths: list[int] = []
    for run, image in ((plain, 1), (both, 1), (both, 0)):  # the first image drives nobody
        widths.append(len(plots.trains(run, layer, image=image, most=1).axes))
    assert widths[0] == widths[2] < widths[1]
    with pytest.raises(es.SimulationError, match=rf"{layer}: its trains were not kept. .* trains=\['{layer}'\]"):
        plots.trains(es.simulate(network, images, 4), layer)
    with pytest.raises(es.SimulationError, match="image: 2 is none of the run's 2 images, 0 to 1"):
        plots.trains(plain, layer, image=2)
