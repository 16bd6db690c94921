"""Networks on integer grids: every engine gives the same, and what was on a grid before keeps every spike."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st
from strategies import images_for, networks, seeds
from torch import Tensor

import equispike as es
from equispike.files import checkpoint
from equispike.graph.exact import fold_amplitudes, quantize
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, AvgPool, Concat, Conv, Flatten, Input, Linear, Neuron, Op, Readout, map_tensors
from equispike.graph.quantize import sum_bits, to_grid
from equispike.simulation.cpu import installed
from equispike.simulation.layerwise import bytes_per_step
from equispike.simulation.run import Run
from equispike.simulation.stepwise import steps
from equispike.simulation.task import Task
from equispike.zoo.data import load
from equispike.zoo.store import load_model

T = 12
FAST: list[Any] = ["layerwise", *(["events"] if installed() else [])]
coders = st.sampled_from([es.Constant(), es.Poisson()])


def same(a: Run, b: Run) -> None:
    assert torch.equal(a.readout, b.readout)
    for name, count in a.counts.items():
        assert torch.equal(count, b.counts[name]), name
        assert torch.equal(a.spikes[name], b.spikes[name]), name


def off_grid(network: Network, seed: int) -> Network:
    """The network with every number moved by up to a tenth, so that it lies on no grid at all."""
    generator = torch.Generator().manual_seed(seed)

    def move(t: Tensor) -> Tensor:
        return t * (0.9 + 0.2 * torch.rand(t.shape, generator=generator, dtype=t.dtype))

    return network.rewrite(lambda node: dataclasses.replace(node, op=map_tensors(node.op, move)))


def on_grid(network: Network, seed: int, bits: int, timesteps: int = 1) -> Network:
    """Quantized, with every number moved off its grid first; chains of many sums that no type holds are passed over."""
    try:
        return quantize(off_grid(network, seed), bits, timesteps)
    except es.ConversionError:
        event("refused")
        reject()


def chain(shape: tuple[int, ...], *ops: Op) -> Network:
    nodes = [Node("input", Input(shape))]
    for i, op in enumerate(ops):
        nodes.append(Node(str(i), op, (nodes[-1].name,)))
    return Network((*nodes, Node("readout", Readout(), (nodes[-1].name,))))


def neuron(threshold: float = 1.0, **options: Any) -> Neuron:
    theta = torch.tensor(threshold, dtype=torch.float64)
    return Neuron(theta, theta.clone(), **options)


# All engines agree


@given(networks(form="any"), coders, seeds, st.integers(4, 16), st.sampled_from([1, 2, 64]), st.integers(1, T))
@settings(max_examples=20)
def test_engines_agree_whatever_the_batch_and_chunk(
    network: Network, coder: Any, seed: int, bits: int, batch: int, chunk: int
) -> None:
    network = on_grid(network, seed, bits)
    images = torch.rand(3, *network.input.shape, generator=torch.Generator().manual_seed(seed)) * 2.2 - 1.1
    memory = bytes_per_step(network) * min(batch, 3) * chunk
    reference = es.simulate(network, images, T, coder, seed, engine="stepwise")
    for engine in FAST:
        same(es.simulate(network, images, T, coder, seed, engine=engine, batch_size=batch, memory=memory), reference)


@given(networks(form="any"), coders, seeds, st.integers(4, 12))
@settings(max_examples=25)
def test_float32_where_it_was_proved_enough_is_float64(network: Network, coder: Any, seed: int, bits: int) -> None:
    network = on_grid(network, seed, bits, T)
    images = torch.rand(2, *network.input.shape, generator=torch.Generator().manual_seed(seed))
    wide = es.simulate(network.to(torch.float64), images.double(), T, coder, seed)
    run = es.simulate(network, images, T, coder, seed)
    same(run, dataclasses.replace(wide, totals=wide.totals.to(run.totals.dtype)))


@given(networks(form="any"), coders, seeds, st.integers(4, 16))
@settings(max_examples=25)
def test_sums_keep_to_the_bits_that_were_proved(network: Network, coder: Any, seed: int, bits: int) -> None:
    """Values divided by the smallest number that they are multiples of stay below 2**bits."""
    network = on_grid(network, seed, bits, T)
    needed = sum_bits(network, T)
    images = network.check_images(torch.rand(2, *network.input.shape) * 2 - 1)
    score = 0
    for values in steps(Task(network, images, torch.arange(2), T, coder, seed)):
        score = score + values[network.nodes[-1].name]
        for name, value in values.items():
            assert digits(value) <= needed[name], name
    assert digits(torch.as_tensor(score)) <= needed[network.nodes[-1].name]


def digits(values: Tensor) -> int:
    """Bits of the largest number, in units of the lowest bit that any of them uses."""
    fractions = [abs(float(v)).as_integer_ratio() for v in values.flatten()]
    unit = max(denominator for _, denominator in fractions)
    return max(n * (unit // d) for n, d in fractions).bit_length()


# What was exact stays as it was


@given(networks(form="any", powers_of_two=True), st.data(), coders, seeds)
@settings(max_examples=20)
def test_a_network_on_a_grid_keeps_every_spike(network: Network, data: Any, coder: Any, seed: int) -> None:
    """Scales move from weights into thresholds, and nothing else moves."""
    images = data.draw(images_for(network))
    before = es.simulate(network, images, T, coder, seed, engine="stepwise")
    rounded = to_grid(fold_amplitudes(network), 16)
    after = es.simulate(rounded, images, T, coder, seed, engine="stepwise")
    assert before.counts.keys() == after.counts.keys()
    same(before, after)


@given(networks(form="any"), seeds, st.integers(4, 16))
@settings(max_examples=20)
def test_quantizing_twice_is_quantizing_once(network: Network, seed: int, bits: int) -> None:
    once = on_grid(network, seed, bits)
    images = torch.rand(2, *network.input.shape, dtype=torch.float64)
    same(es.simulate(once.to(torch.float64), images, T), es.simulate(quantize(once, bits).to(torch.float64), images, T))


def test_weights_of_a_sum_that_round_to_a_power_of_two_stay_what_they_became() -> None:
    """Else what reads the sum would count in another unit the second time, and round its bias again."""
    theta = torch.tensor(0.6, dtype=torch.float64)
    first, head = torch.tensor([[[0.1, 0.6, 0.5], [0.3, 0.2, 0.7]], [[0.1, -0.6, 0.3], [0.2, 0.4, 0.3]]]).double()
    nodes = [
        Node("input", Input((3,))),
        Node("weights", Linear(first, None), ("input",)),
        *(Node(f"n{i}", Neuron(theta, theta * 0.4 + 0.02 * i), ("weights",)) for i in range(2)),
        Node("both", Concat((1.0, 1.0)), ("n0", "n1")),
        Node("head", Linear(head.view(1, -1)[:, :4], theta[None]), ("both",)),
        Node("readout", Readout(), ("head",)),
    ]
    once = quantize(Network(tuple(nodes)), 4)
    ops: Any = [[network[name].op for name in ("both", "head", "readout")] for network in (once, quantize(once, 4))]
    found = [(both.coefficients, float(head.bias), readout.scale) for both, head, readout in ops]
    assert found[0] == found[1]
    assert found[0][0] == (8.0, 8.0)


@given(networks(form="any"), seeds, st.integers(4, 16))
@settings(max_examples=20)
def test_weights_are_integers_of_the_bits_asked_for(network: Network, seed: int, bits: int) -> None:
    for node in on_grid(network, seed, bits):
        if isinstance(node.op, Conv | Linear):
            for values in (node.op.weight, node.op.bias):
                assert values is None or torch.equal(values, values.round()), node.name
            assert float(node.op.weight.abs().max()) < 2 ** (bits - 1)


def test_rounding_by_hand() -> None:
    """Four bits: channel 0 has max |w| = 0.7 < 1, so e = 3; channel 1 has 2.9 < 4, so e = 1."""
    weight = torch.tensor([[0.7, -0.3], [2.9, 1.1]], dtype=torch.float64)
    bias = torch.tensor([0.2, 0.7], dtype=torch.float64)
    network = chain((2,), Linear(weight, bias), neuron(2.0), Linear(torch.eye(2).double(), None))
    rounded = quantize(network, 4)
    first, second, entrance = rounded["0"].op, rounded["1"].op, rounded.input
    assert isinstance(first, Linear)
    # pixels count in 1/256, which the weights take over: one more power of two on both sides of a comparison
    assert entrance.amplitude == 256.0
    assert first.weight.tolist() == [[6.0, -2.0], [6.0, 2.0]]  # 5.6, -2.4, 5.8, 2.2
    assert isinstance(second, Neuron)
    assert second.threshold is not None
    assert second.threshold.tolist() == [2.0 * 8 * 256, 2.0 * 2 * 256]
    assert first.bias is not None
    assert first.bias.tolist() == [round(0.2 * 8 * 256), round(0.7 * 2 * 256)]


def test_images_are_rounded_and_saturate_at_the_largest_pixel_of_the_calibration() -> None:
    network = chain((3,), Linear(torch.eye(3).double(), None), neuron(), Linear(torch.eye(3).double(), None))
    entrance = quantize(network.replace_ops({"input": Input((3,), 0.7, 0.7)})).input
    assert entrance.step == 1 / 256
    assert entrance.scale == 179 / 256  # 0.7 x 256 = 179.2
    assert entrance.on_grid(torch.tensor([0.3, -5.0, 1.0])).tolist() == [77 / 256, -179 / 256, 179 / 256]


# Pools


@given(*(st.integers(1, 3) for _ in range(3)), st.integers(3, 7), st.booleans(), st.booleans())
def test_windows_hold_what_torch_divides_by(
    kernel: int, stride: int, width: int, height: int, ceil_mode: bool, include: bool
) -> None:
    """A single one somewhere in a window gives one over its size."""
    op = AvgPool((kernel, width), (stride, 1), (kernel // 2, width // 2), ceil_mode, include)
    ones = torch.eye(height * 5, dtype=torch.float64).view(-1, 1, height, 5)
    averages = op(ones).amax(0).flatten()
    assert op.sizes((height, 5)) == {round(1 / float(a)) for a in averages}


def test_pools_of_other_windows_become_sums_and_keep_the_function() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(4, 2, 3, 3, generator=generator, dtype=torch.float64) - 0.3
    head = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    one, zero = (1, 1), (0, 0)
    network = chain(
        (2, 5, 5), Conv(weight, None, one, zero, one), neuron(), AvgPool((3, 3), (1, 1), zero), Flatten(),
        Linear(head, None),
    )  # fmt: skip
    rounded = quantize(network, 16)
    assert not any(isinstance(node.op, AvgPool) for node in rounded)
    images = torch.rand(8, 2, 5, 5, generator=generator)
    assert torch.allclose(rounded(images).double(), network(images), rtol=1e-2)
    run = es.simulate(rounded, images, 64, verify=8)
    assert run.mismatch == 0.0


def test_pools_whose_windows_differ_become_integers_too() -> None:
    pool = AvgPool((3, 3), (1, 1), (1, 1), count_include_pad=False)
    network = chain((1, 4, 4), neuron(), pool, Flatten(), Linear(torch.ones(2, 16).double(), None))
    images = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    rounded = quantize(network)
    assert torch.allclose(rounded(images).double(), network(images), rtol=1e-2)
    assert es.simulate(rounded, images, 64, verify=8).mismatch == 0.0


def test_a_shortcut_shares_the_grid_of_its_sum() -> None:
    """Spikes of size 0.6 meet a branch of weights below 1: both become integers of one unit."""
    theta, size = torch.tensor(1.0).double(), torch.tensor(0.6).double()
    eye = torch.eye(2).double()
    nodes = (
        Node("input", Input((2,))),
        Node("n", Neuron(theta, size), ("input",)),
        Node("branch", Linear(eye * 0.8, None), ("n",)),
        Node("sum", Add((1.0, 1.0)), ("branch", "n")),
        Node("m", neuron(), ("sum",)),
        Node("out", Linear(eye, None), ("m",)),
        Node("readout", Readout(), ("out",)),
    )
    rounded = quantize(Network(nodes), 8)
    total = rounded["sum"].op
    assert isinstance(total, Add)
    assert all(c == int(c) for c in total.coefficients)
    images = torch.rand(4, 2).double()
    assert es.simulate(rounded, images, 32, verify=4).mismatch == 0.0
    assert torch.allclose(rounded(images).double(), Network(nodes)(images), atol=0.02)


# Refusals


@pytest.mark.parametrize("bits", [3, 17, 0])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(es.ConversionError, match=f"bits: {bits} is not between 4 and 16"):
        quantize(chain((2,), neuron(), Linear(torch.eye(2), None)), bits)


def test_networks_without_thresholds_are_refused() -> None:
    with pytest.raises(es.ConversionError, match="has no threshold yet"):
        quantize(chain((2,), Neuron(), Linear(torch.eye(2), None)))


def test_sums_that_no_type_holds_are_refused_by_name() -> None:
    torch.manual_seed(0)
    network = chain((2,), *(Linear(torch.rand(2, 2).double(), None) for _ in range(4)), neuron())
    with pytest.raises(
        es.ConversionError, match=r"[34] \((Linear|Neuron)\): its sums need \d+ bits .* Give fewer bits"
    ):
        quantize(network, 16)


def test_wider_sums_take_float64() -> None:
    torch.manual_seed(0)
    network = chain((2,), Linear(torch.rand(2, 2).double(), None), neuron(), Linear(torch.eye(2).double(), None))
    assert quantize(network, 12).dtype == torch.float32
    assert quantize(network, 12, timesteps=2**14).dtype == torch.float64
    assert max(sum_bits(network).values()) > 53  # not on a grid


# Trained networks and files


@pytest.mark.parametrize(("name", "lost"), [("mnist-cnn", 0.01), ("mnist-cnn-bn", 0.03)])
def test_trained_networks_keep_their_accuracy_on_12_and_8_bits(name: str, lost: float) -> None:
    data = load("mnist-sample")
    network = es.convert(load_model(name)[0], data.train.take(64).floats())
    test = data.test.take(100)
    before = es.simulate(network, test.floats(), 48)
    accuracy = es.accuracy(before, test.labels)[-1]
    for bits in (12, 8):
        rounded = quantize(network, bits)
        run = es.simulate(rounded, test.floats(), 48, verify=5)
        assert rounded.dtype == torch.float32
        assert run.mismatch == 0.0
        assert float(es.accuracy(run, test.labels)[-1]) >= float(accuracy) - lost
        assert float(run.spike_rate[-1]) == pytest.approx(float(before.spike_rate[-1]), rel=0.02)


def test_a_quantized_network_goes_through_its_file(tmp_path: Path) -> None:
    network = quantize(es.convert(load_model("mnist-cnn")[0], load("mnist-sample").train.take(32).floats()))
    es.save(network, tmp_path / "q.safetensors")
    loaded = es.load(tmp_path / "q.safetensors")
    images = load("mnist-sample").test.take(2).floats()
    same(es.simulate(network, images, 8), es.simulate(loaded, images, 8))
    assert loaded.input.step == 1 / 256
    assert loaded.provenance["quantized"] == json.loads(json.dumps(network.provenance["quantized"]))


def test_files_from_before_grids_are_read(tmp_path: Path) -> None:
    network = chain((2,), neuron(), Linear(torch.eye(2).double(), None))
    es.save(network, tmp_path / "old.safetensors")
    description, tensors = checkpoint.read_tensors(tmp_path / "old.safetensors", "equispike.network")
    del description["nodes"][0]["fields"]["step"]
    checkpoint.write_tensors(tmp_path / "old.safetensors", "equispike.network", description, tensors)
    assert es.load(tmp_path / "old.safetensors").input.step is None


@given(networks(form="any", ceilings=False), seeds, st.data())
@settings(max_examples=8)
def test_one_threshold_per_layer_where_asked_for(network: Network, seed: int, data: Any) -> None:
    try:
        rounded = quantize(off_grid(network, seed), 8, per_channel=False)
    except es.ConversionError:
        reject()
    assert all(bool((t == t.flatten()[0]).all()) for t in rounded.thresholds.values())
    images = data.draw(images_for(network))
    same(*(es.simulate(rounded, images, T, engine=engine) for engine in ("stepwise", FAST[-1])))
