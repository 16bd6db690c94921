"""Exact passes: the same function before and after, and the same spikes. On dyadic numbers, to the last bit."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dyadic, images_for, networks
from torch import Tensor

from equispike.calibrate.method import Thresholds, with_thresholds
from equispike.errors import ConversionError
from equispike.functional.coding import Coder, Constant, Poisson
from equispike.graph.exact import (
    fold_affine,
    fold_amplitudes,
    fold_drives,
    fold_thresholds,
    normalise_weights,
    rescale,
    sum_pools,
)
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Affine, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Op, Pad, Readout
from equispike.simulation.run import Run, simulate


def spikes(network: Network, images: Tensor, coder: Coder | None = None) -> Run:
    return simulate(network, images, 12, coder, seed=3, engine="stepwise")


def assert_same_spikes(a: Network, b: Network, images: Tensor) -> None:
    """Equal spikes and scores under both coders. Layers have the same names."""
    for coder in (Constant(), Poisson()):
        run, other = spikes(a, images, coder), spikes(b, images, coder)
        assert run.counts.keys() == other.counts.keys()
        for name in run.counts:
            assert torch.equal(run.counts[name], other.counts[name]), name
        assert torch.equal(run.readout, other.readout)


# -------------------------------------------------------------------------------------------------- fold_affine


def test_maps_per_channel_in_a_row_become_one() -> None:
    network = chain((3,), Neuron(), affine(3, seed=1), affine(3, seed=2), affine(3, seed=3), Neuron(), linear(3, 2))
    folded = fold_affine(network)
    assert [type(node.op) for node in folded] == [Input, Neuron, Linear, Neuron, Linear, Readout]
    images = dyadic(0, 2, 3)
    assert torch.equal(folded(images), network(images))


def test_folding_twice_finds_names_of_its_own() -> None:
    """A shift that a padded convolution cannot take stays behind the pool, and so does what is folded after it."""
    pool, padded = AvgPool((2, 2), (2, 2), (0, 0)), conv(2, 2, padding=1)
    network = fold_affine(chain((2, 4, 4), neuron(0.5, 0.5), affine(2), pool, padded, neuron(1.0, 1.0)))
    assert "2.affine" in [node.name for node in network]
    folded = fold_amplitudes(network)
    images = dyadic(0, 2, 2, 4, 4)
    assert torch.equal(folded(images), network(images))
    assert_same_spikes(network, folded, images)


@settings(max_examples=50)
@given(networks(affine=True, form="any", powers_of_two=True), st.data())
def test_folding_keeps_the_function(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    folded = fold_affine(network)
    assert not any(isinstance(node.op, Affine) for node in folded)
    assert torch.equal(folded(images), network(images))


@settings(max_examples=25)
@given(networks(affine=True, form="any"), st.data())
def test_folding_keeps_the_spikes(network: Network, data: st.DataObject) -> None:
    assert_same_spikes(network, fold_affine(network), data.draw(images_for(network)))


@settings(max_examples=50)
@given(networks(affine=True, calibrated=False))
def test_folding_keeps_the_layers_and_the_network_given(network: Network) -> None:
    before = [(node.name, type(node.op)) for node in network]
    folded = fold_affine(network)
    assert [(node.name, type(node.op)) for node in network] == before
    assert list(folded.neurons) == list(network.neurons)
    assert all(folded.shapes[name] == network.shapes[name] for name in network.neurons)


@settings(max_examples=50)
@given(networks(affine=False))
def test_folding_leaves_networks_without_affine_maps_alone(network: Network) -> None:
    assert all(a is b for a, b in zip(fold_affine(network), network, strict=True))


def chain(shape: tuple[int, ...], *ops: Op) -> Network:
    """Operations one after the other, named 0, 1, ..., behind an input and before a readout."""
    nodes = [Node("input", Input(shape))]
    for i, op in enumerate(ops):
        nodes.append(Node(str(i), op, (nodes[-1].name,)))
    return Network((*nodes, Node("readout", Readout(), (nodes[-1].name,))))


def neuron(threshold: float, amplitude: float) -> Neuron:
    return Neuron(torch.tensor(threshold).double(), torch.tensor(amplitude).double())


def affine(channels: int, shift: bool = True, seed: int = 1) -> Affine:
    scale = dyadic(seed, channels, low=1)
    return Affine(scale, dyadic(seed + 1, channels, low=1) if shift else torch.zeros_like(scale))


def conv(i: int, o: int, k: int = 3, padding: int = 0, bias: bool = True, groups: int = 1) -> Conv:
    weight = dyadic(5, o, i // groups, k, k)
    return Conv(weight, dyadic(6, o) if bias else None, (1, 1), (padding, padding), (1, 1), groups)


def linear(i: int, o: int, bias: bool = True) -> Linear:
    return Linear(dyadic(7, o, i), dyadic(8, o) if bias else None)


def pool(padding: int = 0, count: bool = True) -> AvgPool:
    return AvgPool((2, 2), (2, 2), (padding, padding), count_include_pad=count)


FOLDS: dict[str, tuple[Network, list[str]]] = {
    "into a convolution": (chain((2, 4, 4), conv(2, 3), affine(3), Flatten()), ["Conv", "Flatten"]),
    "into a convolution without bias": (
        chain((2, 4, 4), conv(2, 3, bias=False), affine(3), Flatten()), ["Conv", "Flatten"]
    ),
    "into a linear layer": (chain((4,), linear(4, 3), affine(3)), ["Linear"]),
    "two at once": (chain((4,), linear(4, 3), affine(3), affine(3, seed=3)), ["Linear"]),
    "forward into a convolution": (chain((2, 4, 4), affine(2), conv(2, 3), Flatten()), ["Conv", "Flatten"]),
    "forward into a grouped convolution": (
        chain((4, 4, 4), affine(4), conv(4, 6, groups=2), Flatten()), ["Conv", "Flatten"]
    ),
    "forward into a linear layer": (chain((4,), affine(4), linear(4, 3, bias=False)), ["Linear"]),
    "a factor into a padded convolution": (
        chain((2, 4, 4), affine(2, shift=False), conv(2, 3, padding=1), Flatten()), ["Conv", "Flatten"]
    ),
    "not across padding": (
        chain((2, 4, 4), affine(2), conv(2, 3, padding=1), Flatten()), ["Conv", "Conv", "Flatten"]
    ),
    "across a pool": (chain((2, 4, 4), affine(2), pool(), conv(2, 3, 1), Flatten()), ["AvgPool", "Conv", "Flatten"]),
    "across a pool that does not count padding": (
        chain((2, 4, 4), affine(2), pool(1, count=False), conv(2, 3, 1), Flatten()), ["AvgPool", "Conv", "Flatten"]
    ),
    "not across a padded pool": (
        chain((2, 4, 4), affine(2), pool(1), conv(2, 3, 1), Flatten()), ["Conv", "AvgPool", "Conv", "Flatten"]
    ),
    "a factor across a padded pool": (
        chain((2, 4, 4), affine(2, shift=False), pool(1), conv(2, 3, 1), Flatten()), ["AvgPool", "Conv", "Flatten"]
    ),
    "not across zeros in space": (
        chain((2, 4, 4), affine(2), Pad((0, 0, 0), (0, 0, 1)), conv(2, 3), Flatten()),
        ["Conv", "Pad", "Conv", "Flatten"],
    ),
    "a factor across zeros in space": (
        chain((2, 4, 4), affine(2, shift=False), Pad((0, 1, 1), (0, 1, 1)), conv(2, 3), Flatten()),
        ["Pad", "Conv", "Flatten"],
    ),
    "across zeros as channels, and a cut": (
        chain((2, 4, 4), affine(2), Pad((1, -1, 0), (2, 0, -1)), conv(5, 3), Flatten()), ["Pad", "Conv", "Flatten"]
    ),
    "across a cut of channels": (
        chain((3, 4, 4), affine(3), Pad((-1, 0, 0), (0, 0, 0)), conv(2, 3), Flatten()), ["Pad", "Conv", "Flatten"]
    ),
    "across zeros around a vector": (chain((3,), affine(3), Pad((1,), (1,)), linear(5, 3)), ["Pad", "Linear"]),
    "one factor for all across zeros as channels, into the readout": (
        chain((3,), Neuron(), Affine(torch.full((3,), 0.5).double(), torch.zeros(3).double()), Pad((1,), (1,))),
        ["Neuron", "Pad"],
    ),
    "across a flatten": (chain((2, 2, 2), affine(2), Flatten(), linear(8, 3)), ["Flatten", "Linear"]),
    "across pool and flatten": (
        chain((2, 4, 4), affine(2), pool(), Flatten(), linear(8, 3)), ["AvgPool", "Flatten", "Linear"]
    ),
    "before a neuron, on maps": (chain((2, 2, 2), affine(2), Neuron(), Flatten()), ["Conv", "Neuron", "Flatten"]),
    "before a neuron, on vectors": (chain((3,), affine(3), Neuron()), ["Linear", "Neuron"]),
    "after a neuron, into the readout": (
        chain((3,), Neuron(), Affine(torch.full((3,), 0.5).double(), torch.zeros(3).double())), ["Neuron"]
    ),
    "after a neuron, before the readout": (chain((3,), Neuron(), affine(3)), ["Neuron", "Linear"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_affine_maps_go_where_they_can(name: str) -> None:
    network, expected = FOLDS[name]
    folded = fold_affine(network)
    assert [type(node.op).__name__ for node in folded][1:-1] == expected
    images = dyadic(0, 3, *network.input.shape)
    assert torch.equal(folded(images), network(images))


def fork(*branches: list[Op], join: type[Add] | type[Concat], shape: tuple[int, ...] = (2, 4, 4), first: Op) -> Network:
    """``first``, then branches that read it, joined, flattened and classified."""
    nodes = [Node("input", Input(shape)), Node("first", first, ("input",))]
    ends: list[str] = []
    for b, ops in enumerate(branches):
        ends.append("first")
        for i, op in enumerate(ops):
            nodes.append(Node(f"{b}.{i}", op, (ends[-1],)))
            ends[-1] = nodes[-1].name
    nodes += [Node("join", join((1.0,) * len(ends)), tuple(ends)), Node("flatten", Flatten(), ("join",))]
    return Network((*nodes, Node("readout", Readout(), ("flatten",))))


@pytest.mark.parametrize("join", [Add, Concat])
@pytest.mark.parametrize("shift", [True, False])
def test_an_affine_map_with_several_readers_reaches_all(join: type[Add] | type[Concat], shift: bool) -> None:
    network = fork([], [conv(2, 2, padding=1)], [Neuron()], join=join, first=affine(2, shift))
    folded = fold_affine(network)
    assert not any(isinstance(node.op, Affine) for node in folded)
    images = dyadic(0, 2, 2, 4, 4)
    assert torch.equal(folded(images), network(images))


@pytest.mark.parametrize("join", [Add, Concat])
def test_a_common_factor_on_a_shortcut_becomes_a_coefficient(join: type[Add] | type[Concat]) -> None:
    half = Affine(torch.full((2,), 0.5).double(), torch.zeros(2).double())
    folded = fold_affine(fork([half], [conv(2, 2, padding=1)], join=join, first=Neuron()))
    op = folded["join"].op
    assert isinstance(op, Add | Concat)
    assert op.coefficients == (0.5, 1.0)


def test_a_convolution_read_twice_keeps_its_weights() -> None:
    network = fork([affine(2)], [Neuron()], join=Add, first=conv(2, 2, padding=1))
    folded = fold_affine(network)
    assert folded["first"].op is network["first"].op
    images = dyadic(0, 2, 2, 4, 4)
    assert torch.equal(folded(images), network(images))


def test_a_sum_of_a_map_with_itself_folds() -> None:
    nodes = (
        *(Node("input", Input((3,))), Node("norm", affine(3, shift=False), ("input",))),
        *(Node("sum", Add((1.0, 0.5)), ("norm", "norm")), Node("relu", Neuron(), ("sum",))),
        Node("readout", Readout(), ("relu",)),
    )
    network, images = Network(nodes), dyadic(0, 4, 3)
    assert torch.equal(fold_affine(network)(images), network(images))


# ------------------------------------------------------------------------------------------------------ rescale

SCALARS = {"per_channel": False, "powers_of_two": True}


@settings(max_examples=25)
@given(networks(**SCALARS, form="any"), st.sampled_from(["activation", "balanced"]), st.data())
def test_another_form_has_the_same_spikes_and_scores(network: Network, form, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    other = rescale(network, form)
    assert_same_spikes(network, other, images)
    for name, op in other.neurons.items():
        assert torch.equal(op.amplitude, torch.ones(()) if form == "balanced" else op.threshold), name
    assert other.input.amplitude == (1.0 if form == "balanced" else network.input.scale)


@settings(max_examples=50)
@given(networks(**SCALARS, form="any"), st.data())
def test_the_balanced_form_computes_the_same(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    assert torch.equal(rescale(network, "balanced")(images), network(images))


@settings(max_examples=50)
@given(networks(**SCALARS))
def test_there_and_back_again(network: Network) -> None:
    back = rescale(rescale(network, "balanced"), "activation")
    for node, other in zip(network, back, strict=True):
        for f in dataclasses.fields(node.op):
            a, b = getattr(node.op, f.name), getattr(other.op, f.name)
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, (node.name, f.name)


@settings(max_examples=50)
@given(networks(**SCALARS))
def test_balanced_weights_are_untouched(network: Network) -> None:
    balanced = rescale(network, "balanced")
    for node in network:
        if isinstance(node.op, Conv | Linear):
            assert balanced[node.name].op.weight is node.op.weight  # type: ignore[union-attr]


@settings(max_examples=25)
@given(networks(per_channel=False), st.data())
def test_forms_of_any_threshold_agree_to_rounding(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    torch.testing.assert_close(rescale(network, "balanced")(images), network(images), rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(networks(calibrated=False), st.sampled_from([0.5, 0.25]), st.data())
def test_thresholds_with_a_scale_keep_function_and_spikes_in_each_form(
    network: Network, scale: float, data: st.DataObject
) -> None:
    """RMP: thresholds below the amplitudes; signals grow with depth, and everything added to them too."""
    thresholds = Thresholds(
        {name: torch.tensor(data.draw(st.sampled_from([0.5, 1.0, 2.0]))) for name in network.neurons}
    )
    thresholds.scale, thresholds.grows = scale, True
    images = data.draw(images_for(network))
    scaled = with_thresholds(network, thresholds)
    assert torch.equal(scaled(images), network(images))
    for name, op in scaled.neurons.items():
        assert op.threshold is not None
        assert torch.equal(op.threshold, op.amplitude * scale), name
    for form in ("activation", "balanced"):
        assert_same_spikes(scaled, rescale(scaled, form), images)
        assert torch.equal(rescale(scaled, form)(images), network(images))


def test_balanced_thresholds_are_in_units_of_the_input_current() -> None:
    """Two layers of thresholds 2 and 0.5: behind spikes of size 2, 0.5 is a quarter, and a bias of 1 a half."""
    network = chain(
        (1,),
        *(Neuron(torch.tensor(2.0), torch.tensor(2.0)), Linear(torch.tensor([[3.0]]), torch.tensor([1.0]))),
        *(Neuron(torch.tensor(0.5), torch.tensor(0.5)), Linear(torch.tensor([[1.0]]), torch.tensor([1.0]))),
    )
    balanced = rescale(network, "balanced")
    assert {name: float(t) for name, t in balanced.thresholds.items()} == {"0": 2.0, "2": 0.25}
    biases = [float(node.op.bias) for node in balanced if isinstance(node.op, Linear) and node.op.bias is not None]
    assert biases == [0.5, 2.0]
    readout = balanced["readout"].op
    assert isinstance(readout, Readout)
    assert readout.scale == 0.5


def test_ceilings_follow_the_unit() -> None:
    neurons = Neuron(torch.tensor(2.0), torch.tensor(2.0)), Neuron(torch.tensor(0.5), torch.tensor(0.5), ceiling=4.0)
    balanced = rescale(chain((1,), *neurons), "balanced")
    assert [op.ceiling for op in balanced.neurons.values()] == [None, 2.0]


def test_an_amplitude_per_channel_has_no_balanced_form() -> None:
    levels = torch.tensor([0.5, 1.0])
    with pytest.raises(ConversionError, match=r"^0: has an amplitude per channel.*fold_amplitudes"):
        rescale(chain((2,), Neuron(levels, levels)), "balanced")


def test_equal_amplitudes_per_channel_have_one() -> None:
    levels = torch.tensor([0.5, 0.5])
    balanced = rescale(chain((2,), Neuron(levels, levels)), "balanced")
    assert torch.equal(balanced.neurons["0"].amplitude, torch.ones(2))


@pytest.mark.parametrize(
    "transform", [lambda n: rescale(n, "balanced"), lambda n: rescale(n, "activation"), fold_amplitudes]
)
def test_a_network_without_thresholds_is_refused_by_name(transform) -> None:
    with pytest.raises(ConversionError, match=r"^0: has no threshold yet. Calibrate first"):
        transform(chain((2,), Neuron()))


# ----------------------------------------------------------------------------------------------- fold_amplitudes


@settings(max_examples=25)
@given(networks(form="any", powers_of_two=True), st.data())
def test_unit_spikes_keep_function_and_spikes(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    folded = fold_amplitudes(network)
    assert torch.equal(folded(images), network(images))
    assert_same_spikes(network, folded, images)
    assert folded.input.amplitude == 1.0
    for name, op in folded.neurons.items():
        assert op.amplitude is not None
        assert bool((op.amplitude == 1).all())
        assert torch.equal(op.threshold, network.thresholds[name]), name
    assert not any(isinstance(node.op, Affine) for node in folded)


@settings(max_examples=25)
@given(networks(form="any"), st.data())
def test_unit_spikes_with_any_thresholds(network: Network, data: st.DataObject) -> None:
    images = data.draw(images_for(network))
    assert_same_spikes(network, fold_amplitudes(network), images)


@pytest.mark.parametrize("join", [Add, Concat])
def test_amplitudes_per_channel_on_an_identity_shortcut_become_a_depthwise_convolution(join) -> None:
    levels = torch.tensor([0.5, 2.0]).double().view(2, 1, 1)
    network = fork([], [conv(2, 2, padding=1)], join=join, first=Neuron(levels, levels))
    folded = fold_amplitudes(network)
    shortcut = folded["first.amplitude"].op
    assert isinstance(shortcut, Conv)
    assert shortcut.groups == 2
    assert shortcut.weight.flatten().tolist() == [0.5, 2.0]
    images = dyadic(0, 2, 2, 4, 4)
    assert torch.equal(folded(images), network(images))
    assert_same_spikes(network, folded, images)


@pytest.mark.parametrize("join", [Add, Concat])
def test_a_common_amplitude_on_an_identity_shortcut_becomes_a_coefficient(join) -> None:
    neuron = Neuron(torch.tensor(0.5).double(), torch.tensor(0.5).double())
    folded = fold_amplitudes(fork([], [conv(2, 2, padding=1)], join=join, first=neuron))
    op = folded["join"].op
    assert isinstance(op, Add | Concat)
    assert op.coefficients == (0.5, 1.0)
    assert len(folded.nodes) == 6


def test_the_inputs_amplitude_goes_into_the_first_weights() -> None:
    network = chain((2,), linear(2, 3), Neuron(torch.tensor(1.0).double(), torch.tensor(1.0).double()))
    entrance = Input((2,), scale=4.0, amplitude=4.0)
    network = network.replace_ops({"input": entrance})
    folded = fold_amplitudes(network)
    before, after = network["0"].op, folded["0"].op
    assert isinstance(before, Linear)
    assert isinstance(after, Linear)
    assert torch.equal(after.weight, 4 * before.weight)
    assert after.bias is before.bias
    assert (folded.input.scale, folded.input.amplitude) == (4.0, 1.0)


# ---------------------------------------------------------------------------------- thresholds and pools of tool chains


@settings(max_examples=10)
@given(networks(form="any", powers_of_two=True, ceilings=False), st.data())
def test_normalised_weights_fire_the_same_spikes_at_thresholds_of_one(network: Network, data: st.DataObject) -> None:
    normalised = normalise_weights(network)
    assert all(bool((op.threshold == 1).all() and (op.amplitude == 1).all()) for op in normalised.neurons.values())
    assert_same_spikes(network, normalised, data.draw(images_for(network)))


def test_normalised_weights_are_those_of_the_thresholds() -> None:
    network = chain((2,), linear(2, 3), neuron(4.0, 0.5), linear(3, 1), neuron(0.25, 2.0))
    normalised = normalise_weights(network)
    for name, factor in {"0": 1 / 4, "2": 0.5 / 0.25}.items():
        before, after = network[name].op, normalised[name].op
        assert isinstance(before, Linear)
        assert isinstance(after, Linear)
        assert torch.equal(after.weight, before.weight * factor)


@settings(max_examples=10)
@given(networks(form="any", powers_of_two=True, ceilings=False), st.data())
def test_one_threshold_per_layer_keeps_the_spikes(network: Network, data: st.DataObject) -> None:
    folded = fold_thresholds(network)
    assert all(threshold.ndim == 0 for threshold in folded.thresholds.values())
    assert_same_spikes(network, folded, data.draw(images_for(network)))


def test_one_threshold_per_layer_is_refused_where_a_ceiling_would_differ_by_channel() -> None:
    threshold = torch.tensor([1.0, 2.0])
    nodes = (
        Node("input", Input((2,))),
        Node("n", Neuron(threshold, threshold, 6.0), ("input",)),
        Node("readout", Readout(), ("n",)),
    )
    with pytest.raises(ConversionError, match=r"^n: a clipped ReLU .* one threshold per layer"):
        fold_thresholds(Network(nodes))


@settings(max_examples=10)
@given(networks(form="any"), st.data())
def test_sums_in_the_place_of_averages_keep_the_spikes(network: Network, data: st.DataObject) -> None:
    pools = {n.name: n for n in network if isinstance(n.op, AvgPool)}
    sizes = [n.op.sizes(network.shapes[n.inputs[0]][1:]) for n in pools.values()]
    if any(len(size) > 1 or size != {math.prod(n.op.kernel)} for n, size in zip(pools.values(), sizes)):
        with pytest.raises(ConversionError, match="windows differ in size"):
            sum_pools(network)
        return
    summed = sum_pools(network)
    assert not any(isinstance(node.op, AvgPool) for node in summed)
    assert_same_spikes(network, summed, data.draw(images_for(network)))


@given(networks(form="any", powers_of_two=True), st.data())
@settings(max_examples=15)
def test_constant_drives_become_biases_that_move_no_spike(network: Network, data: Any) -> None:
    constant = {
        n: dataclasses.replace(op, drive=op.drive[:1]) for n, op in network.neurons.items() if op.drive is not None
    }
    network, images = network.replace_ops(constant), data.draw(images_for(network))
    folded = fold_drives(network)
    assert all(op.drive is None for op in folded.neurons.values())
    before, after = simulate(network, images, 9), simulate(folded, images, 9)
    assert torch.equal(before.readout, after.readout)
    assert all(torch.equal(before.counts[name], after.counts[name]) for name in before.counts)


def test_a_drive_by_step_is_no_bias() -> None:
    op = Neuron(torch.ones(()), torch.ones(()), drive=torch.ones(2, 3))
    network = Network((Node("input", Input((3,))), Node("n", op, ("input",)), Node("readout", Readout(), ("n",))))
    with pytest.raises(ConversionError, match="n: its drive changes from step to step"):
        fold_drives(network)
