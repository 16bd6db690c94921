"""The residual part of a network, and SPIKE-NORM with thresholds of one in it (Sengupta et al., 2019, section 6)."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks, seeds
from test_calibrate import chain, drive
from torch import Tensor, nn

import equispike as es
from equispike.calibrate.method import with_thresholds
from equispike.graph.exact import rescale
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Input, Linear, Neuron, Readout
from equispike.graph.residual import residual_neurons
from equispike.graph.trace import trace
from equispike.zoo.models import resnet


def graph(*nodes: tuple[str, Any, str]) -> Network:
    """Nodes on vectors of 2, each (name, operation, names of inputs), between an input "x" and a readout."""
    inside = [Node(name, op, tuple(inputs.split())) for name, op, inputs in nodes]
    return Network((Node("x", Input((2,))), *inside, Node("readout", Readout(), (inside[-1].name,))))


def linear(seed: int) -> Linear:
    return Linear(dyadic(seed, 2, 2, low=1), None)


N, W, SUM = Neuron(), linear(0), Add((1.0, 1.0))


GRAPHS = {
    "a chain": ([("a", N, "x"), ("w", W, "a"), ("b", N, "w")], []),
    "front, path, junction, output": (
        [("a", N, "x"), ("w", W, "a"), ("p", N, "w"), ("s", SUM, "p a"), ("j", N, "s"), ("v", W, "j"), ("o", N, "v")],
        ["p", "j"],
    ),
    "without a junction": (
        [("a", N, "x"), ("w", W, "a"), ("p", N, "w"), ("s", SUM, "a p"), ("v", W, "s"), ("o", N, "v")],
        ["p"],
    ),
    "a fork at the input": ([("p", N, "x"), ("s", SUM, "p x"), ("j", N, "s")], ["p", "j"]),
    "two blocks and a layer between": (
        [("p", N, "x"), ("s", SUM, "p x"), ("j", N, "s"), ("w", W, "j"), ("m", N, "w"), ("q", N, "m"),
         ("t", SUM, "q m")],
        ["p", "j", "q"],
    ),
    "nested": (
        [("a", N, "x"), ("p", N, "a"), ("q", N, "p"), ("s", SUM, "q p"), ("w", W, "s"), ("r", N, "w"),
         ("t", SUM, "r a")],
        ["p", "q", "r"],
    ),
    "a shortcut over two blocks": (
        [("a", N, "x"), ("p", N, "a"), ("s", SUM, "a p"), ("q", N, "s"), ("t", Add((1.0,) * 3), "q s a"),
         ("j", N, "t")],
        ["p", "q", "j"],
    ),
    "a sum with itself joins nothing": ([("a", N, "x"), ("s", SUM, "a a"), ("b", N, "s")], []),
    "two ways into one path": (
        [("a", N, "x"), ("b", N, "x"), ("s", SUM, "a b"), ("j", N, "s"), ("c", N, "j")], ["a", "b", "j"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_the_residual_part_is_what_lies_between_fork_and_sum_and_the_junctions(name: str) -> None:
    nodes, expected = GRAPHS[name]
    network = graph(*nodes)
    assert residual_neurons(network) == expected
    assert reference.residual_part(network) == set(expected)


@given(networks(calibrated=False))
@settings(max_examples=50)
def test_the_residual_part_is_that_of_all_paths(network: Network) -> None:
    found = residual_neurons(network)
    assert set(found) == reference.residual_part(network)
    assert found == [name for name in network.neurons if name in found]


def small_resnet(**options: Any) -> nn.Module:
    """The papers' network with few layers, and dyadic weights that excite more than they inhibit."""
    model = resnet(8, width=0.25, **options).double().eval()
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            parameter.copy_(dyadic(n, *parameter.shape, low=-7))
    return model


def colour(n: int) -> Tensor:
    return dyadic(3, n, 3, 8, 8, low=0)


@cache
def traced(**options: Any) -> Network:
    return trace(small_resnet(**options), colour(2))


def test_the_residual_part_of_the_papers_network() -> None:
    network = traced()
    assert list(network.neurons)[:3] == ["front.1", "front.3", "front.5"]
    assert residual_neurons(network) == list(network.neurons)[3:]
    assert len(residual_neurons(network)) == 2 * 3
    basic = traced(junction=False, front=0)
    assert residual_neurons(basic) == [f"stages.{n}.path.1" for n in range(3)]


# Thresholds of one


@pytest.mark.parametrize("options", [{}, {"junction": False, "front": 0}, {"front": 0}], ids=str)
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_unity_thresholds_are_one_in_the_balanced_form_and_the_literal_loops(options: Any, reset: Any) -> None:
    images, timesteps = colour(2), 6
    method = es.SpikeNorm(timesteps, reset, residual="unity")
    network = es.convert(small_resnet(**options), images, method)
    entering = es.Poisson().encode(images, torch.arange(2), range(1, timesteps + 1), 0, network.input.scale, 1.0)
    part = reference.residual_part(network)
    v_th, trains = reference.spike_norm_unity(network, reference.array(entering), reset, part)
    balanced = {name: float(theta) for name, theta in rescale(network, "balanced").thresholds.items()}
    assert balanced == pytest.approx(v_th, rel=1e-14)
    assert len(part) == (6 if options.get("junction", True) else 3)
    assert all(balanced[name] == pytest.approx(1.0, abs=1e-15) for name in part)
    assert not any(balanced[name] == pytest.approx(1.0) for name in balanced.keys() - part)
    run = es.simulate(network, images, timesteps, es.Poisson())
    assert run.counts.keys() == trains.keys()
    for name, train in trains.items():
        assert np.array_equal(run.counts[name].numpy(), train.sum(0)), name
    assert all(int(run.counts[name].sum()) > 0 for name in part)


def test_unity_thresholds_of_powers_of_two_are_exactly_one() -> None:
    nodes = [("u", Linear(4 * torch.eye(2).double(), None), "x"), ("a", N, "u"), *GRAPHS["nested"][0][1:]]
    network = drive(graph(*nodes), torch.tensor([[0.5, 0.25]]).double())
    images = torch.tensor([[0.5, 0.25]]).double()
    thresholds = es.SpikeNorm(4, coder=es.Constant(), residual="unity")(network, images)
    assert {name: float(theta) for name, theta in thresholds.items()} == {"a": 2.0, "p": 2.0, "q": 2.0, "r": 2.0}
    balanced = rescale(with_thresholds(network, thresholds), "balanced")
    assert [float(theta) for theta in balanced.thresholds.values()] == [4.0, 1.0, 1.0, 1.0]
    assert all(op.coefficients == (1.0, 1.0) for op in (node.op for node in balanced) if isinstance(op, Add))


@given(networks(calibrated=False, v_init=False), st.data(), st.sampled_from(["zero", "subtract"]))
@settings(max_examples=40)
def test_unity_on_any_network_is_the_literal_loop(network: Network, data: Any, reset: Any) -> None:
    images = data.draw(images_for(network))
    assume(bool(images.any()))
    network = drive(network, images)
    part = reference.residual_part(network)
    method = es.SpikeNorm(5, reset, es.Constant(), residual="unity")
    if not part:
        with pytest.raises(es.CalibrationError, match='residual="unity": no two paths'):
            method(network, images)
        return
    expected = reference.spike_norm_graph(network, np.stack([reference.array(images)] * 5), reset, part)
    if min(expected.values()) <= 0:
        with pytest.raises(es.CalibrationError, match=f"^{list(expected)[-1]}: its largest weighted spike input"):
            method(network, images)
    else:
        assert {name: float(theta) for name, theta in method(network, images).items()} == expected


def test_layers_of_one_block_do_not_share_their_thresholds() -> None:
    """They can be trained further, each by itself."""
    thresholds = es.SpikeNorm(4, residual="unity")(traced(), colour(2))
    assert len({theta.data_ptr() for theta in thresholds.values()}) == len(thresholds)


@pytest.mark.parametrize("method", [es.SpikeNorm(4, residual="unity"), es.RMP(timesteps=4, residual="unity")], ids=str)
def test_unity_needs_a_residual_block(method: Any) -> None:
    with pytest.raises(
        es.CalibrationError, match=r'no two paths of this network meet in a sum\. Use residual="measured"'
    ):
        method(chain(0), dyadic(0, 2, 2, 6, 6))


@pytest.mark.parametrize("method", [es.SpikeNorm, es.RMP])
def test_an_unknown_rule_is_refused_at_once(method: Any) -> None:
    with pytest.raises(es.CalibrationError, match="residual: 'one' is not known"):
        method(residual="one")
    assert "residual='unity'" in str(method(residual="unity"))
    assert "residual" not in str(method())


@given(seeds)
@settings(max_examples=3)
def test_rmp_scales_what_spike_norm_finds(seed: int) -> None:
    network, images = traced(), dyadic(seed, 2, 3, 8, 8, low=0)
    assume(bool(images.any()))
    network = drive(network, images)
    measured = es.SpikeNorm(4, "subtract", residual="unity")(network, images)
    found = es.RMP(0.75, 4, residual="unity")(network, images)
    assert {n: float(t) for n, t in found.items()} == {n: 0.75 * float(t) for n, t in measured.items()}
    balanced = rescale(with_thresholds(network, found), "balanced").thresholds
    assert all(float(balanced[name]) == pytest.approx(0.75) for name in residual_neurons(network))
