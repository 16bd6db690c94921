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
from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.calibrate.spike_norm import residual_neurons
from equispike.graph.exact import rescale
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Input, Linear, Neuron, Readout
from equispike.graph.reading.trace import trace
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
    expected = reference.spike_norm_graph(network, np.stack([reference.array(images)] * 5), reset, part)
    found = with_thresholds(network, method(network, images), reset).thresholds
    assert {name: float(theta) for name, theta in found.items()} == expected


def test_layers_of_one_block_do_not_share_their_thresholds() -> None:
    """They can be trained further, each by itself."""
    thresholds = es.SpikeNorm(4, residual="unity")(traced(), colour(2))
    assert len({theta.data_ptr() for theta in thresholds.values()}) == len(thresholds)


@pytest.mark.parametrize("method", [es.SpikeNorm, es.RMP])
def test_where_no_paths_meet_unity_means_nothing(method: Any) -> None:
    given = chain(0), dyadic(0, 2, 2, 6, 6)
    unity, measured = (method(timesteps=4, residual=rule)(*given) for rule in ("unity", "measured"))
    assert {name: float(theta) for name, theta in unity.items()} == {n: float(theta) for n, theta in measured.items()}


@pytest.mark.parametrize("method", [es.SpikeNorm, es.RMP])
def test_an_unknown_rule_is_refused_at_once(method: Any) -> None:
    with pytest.raises(es.CalibrationError, match="residual: 'one' is not known"):
        method(residual="one")
    with pytest.raises(es.CalibrationError, match="sums: 'any' is not known"):
        method(sums="any")
    assert "sums='plain'" in str(method(sums="plain"))
    assert "residual='measured'" in str(method(residual="measured"))
    assert "residual" not in str(method())


@given(seeds)
@settings(max_examples=3)
def test_rmp_after_measuring_scales_what_spike_norm_measured(seed: int) -> None:
    network, images = traced(), dyadic(seed, 2, 3, 8, 8, low=0)
    assume(bool(images.any()))
    network = drive(network, images)
    measured = es.SpikeNorm(4, "subtract", residual="unity")(network, images)
    found = es.RMP(0.75, 4, after=True, residual="unity")(network, images)
    unity = residual_neurons(network)
    assert {n: float(t) for n, t in found.items()} == {
        n: float(t) * (1 if n in unity else 0.75) for n, t in measured.items()
    }
    for after in (True, False):
        found = es.RMP(0.75, 4, after=after, residual="unity")(network, images)
        spiking = with_thresholds(network, found)
        balanced = rescale(spiking, "balanced").thresholds
        assert all(float(balanced[name]) == pytest.approx(1.0) for name in unity)
        assert torch.allclose(spiking(images), network(images), rtol=1e-4, atol=1e-4)


# Sums as the paper meant them, and other thresholds in front


def test_sengupta_s_example_unit_spikes_of_unequal_thresholds_add_up_to_too_much() -> None:
    """Section 6.1: inputs 0.5 and 1 through thresholds of 0.5 and 1 send a spike each in every step; what should be
    0.5 + 1 is 2. Spikes that count as much as their thresholds keep 1.5, and so do equal thresholds."""
    pick = [Linear(torch.eye(2)[i : i + 1].double(), None) for i in range(2)]
    nodes = [("w0", pick[0], "x"), ("a", N, "w0"), ("w1", pick[1], "x"), ("b", N, "w1"), ("s", SUM, "b a")]
    network = graph(*nodes)
    images, steps = torch.tensor([[0.5, 1.0]]).double(), 8

    def sums(a: float, b: float, rule: Any) -> float:
        thresholds = Thresholds({"a": torch.tensor(a), "b": torch.tensor(b)})
        thresholds.sums = rule
        return float(es.simulate(with_thresholds(network, thresholds), images, steps).readout[-1]) / steps

    assert sums(0.5, 1.0, "plain") == 2.0
    assert sums(0.5, 1.0, "weighted") == 1.5
    assert sums(1.0, 1.0, "plain") == 1.5


@given(
    networks(calibrated=False, v_init=False),
    st.data(),
    st.sampled_from(["zero", "subtract"]),
    st.sampled_from([None, 1.0, 0.5, 0.75]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=25)
def test_every_rule_on_any_network_is_the_literal_loop(
    network: Network, data: Any, reset: Any, alpha: float | None, plain: bool, front: bool
) -> None:
    """SpikeNorm, and RMP in the loop; with plain sums, unity, and DataNorm in front."""
    images = data.draw(images_for(network))
    assume(bool(images.any()))
    network = drive(network, images)
    part = reference.residual_part(network)
    average = alpha is not None and data.draw(st.booleans())
    unity = data.draw(st.booleans())
    options: Any = {"coder": es.Constant(), "sums": "plain" if plain else "weighted"}
    options["residual"] = "unity" if unity else "measured"
    options |= {"front": es.DataNorm()} if front and part else {}
    if alpha is None:
        method: Any = es.SpikeNorm(5, reset, **options)
    else:
        method = es.RMP(alpha, 5, statistic="average" if average else "maximum", **options)
    trained = reference.trained(network, reference.array(images))
    names = list(network.neurons)
    first = min((names.index(name) for name in part), default=0)
    ahead = {name: float(trained[name].max()) for name in names[:first]} if front else {}
    assume(all(value > 0 for value in ahead.values()))
    expected = reference.spike_norm_graph(
        network,
        np.stack([reference.array(images)] * 5),
        reset if alpha is None else "subtract",
        part if unity else (),
        ahead=ahead,
        alpha=alpha or 1.0,
        average=average,
        plain=plain,
    )
    spiking = with_thresholds(network, method(network, images), method.reset)
    assert {name: float(theta) for name, theta in spiking.thresholds.items()} == pytest.approx(expected, rel=1e-6)


def test_plain_sums_of_equal_thresholds_are_the_weighted_ones() -> None:
    images = colour(2)
    rules: tuple[Any, ...] = ("weighted", "plain")
    spiking = [es.convert(small_resnet(), images, es.SpikeNorm(4, residual="unity", sums=rule)) for rule in rules]
    runs = [es.simulate(network, images, 8, es.Poisson()) for network in spiking]
    assert torch.equal(runs[0].readout, runs[1].readout)
    measured = [es.convert(small_resnet(), images, es.SpikeNorm(4, residual="measured", sums=rule)) for rule in rules]
    sums = [[node.op.coefficients for node in network if isinstance(node.op, Add)] for network in measured]
    assert set(sums[0]) == {(1.0, 1.0)} != set(sums[1])
    balanced = rescale(measured[1], "balanced")
    assert all(node.op.coefficients == pytest.approx((1.0, 1.0)) for node in balanced if isinstance(node.op, Add))


def test_layers_in_front_take_the_trained_maxima() -> None:
    network, images = drive(traced(), colour(2)), colour(2)
    trained = es.DataNorm()(network, images)
    found = es.SpikeNorm(4, residual="unity", front=es.DataNorm())(network, images)
    part = residual_neurons(network)
    ahead = [name for name in network.neurons if name not in part]
    assert len(ahead) == 3
    assert all(torch.equal(found[name], trained[name]) for name in ahead)
    assert {float(found[name]) for name in part} == {float(trained[ahead[-1]])}
    assert "front=DataNorm(percentile=100)" in str(es.SpikeNorm(front=es.DataNorm()))


def test_a_front_needs_a_residual_block_and_unity_one_threshold_per_layer() -> None:
    with pytest.raises(es.CalibrationError, match=r"front: no two paths of this network meet in a sum\. Leave it out"):
        es.SpikeNorm(4, front=es.DataNorm())(chain(0), dyadic(0, 2, 2, 6, 6))
    network = drive(traced(), colour(2))
    for options in ({"residual": "unity"}, {"sums": "plain"}):
        method = es.SpikeNorm(4, front=es.DataNorm(per_channel=True), **options)  # type: ignore[arg-type]
        with pytest.raises(es.CalibrationError, match=r"front\.5: its spikes have a size per channel"):
            method(network, colour(2))
