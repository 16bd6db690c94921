"""Max pooling three ways, and leaky ReLU: what keeps the function, what spikes do, and that all engines agree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import equispike as es
from equispike.files.module import write_module
from equispike.files.nir import write_nir
from equispike.files.onnx import write_onnx
from equispike.graph.fold import early_max_pools
from equispike.graph.lossy import leaky_relu_to_pairs, max_pool_to_winner
from equispike.graph.network import Network, Node
from equispike.graph.ops import Add, Conv, Flatten, Input, LeakyReLU, Linear, MaxPool, Neuron, Op, Readout, WinnerPool
from equispike.simulation.stepwise import winners

POOL = MaxPool((2, 2), (2, 2), (0, 0), (1, 1))
IMAGES = torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(1)) / 256


def conv(inputs: int, outputs: int, seed: int = 0) -> Conv:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    return Conv(weight, torch.randn(outputs, generator=generator) / 4, (1, 1), (1, 1), (1, 1))


def chain(*ops: Op, shape: tuple[int, ...] = (1, 8, 8)) -> Network:
    """A network of one operation after the other, named by type and number."""
    nodes = [Node("input", Input(shape))]
    for number, op in enumerate((*ops, Readout())):
        nodes.append(Node(f"{type(op).__name__.lower()}{number}", op, (nodes[-1].name,)))
    return Network(tuple(nodes))


def head(features: int) -> tuple[Op, Op]:
    return Flatten(), Linear(torch.randn(3, features, generator=torch.Generator().manual_seed(2)), None)


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 8), signed=st.booleans())
def test_a_winner_pool_passes_the_growth_of_the_largest_sum(seed: int, cut: int, signed: bool) -> None:
    """A literal loop over steps and windows; any cut into chunks gives the same."""
    generator = torch.Generator().manual_seed(seed)
    spikes = torch.randint(-1 if signed else 0, 2, (9, 1, 2, 4, 5), generator=generator).float()
    op = WinnerPool((2, 3), (2, 1), (0, 0), (1, 1))
    first, total = winners(op, spikes[:cut], torch.zeros(1, 2, 4, 5, dtype=torch.float64))
    second, total = winners(op, spikes[cut:], total)
    assert torch.equal(total, spikes.double().sum(0))
    passed = torch.cat([first, second])
    assert np.array_equal(passed[:, 0].numpy(), reference.winner_pool(op, spikes[:, 0].numpy()))
    assert torch.equal(passed.sum(0), op(spikes.sum(0)))


@given(st.integers(0, 10**6))
def test_of_inputs_that_stay_the_same_a_winner_pool_passes_the_maximum(seed: int) -> None:
    currents = torch.randn(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    op = WinnerPool((3, 3), (2, 2), (1, 1), (1, 1), ceil_mode=True)
    passed, _ = winners(op, currents.expand(7, -1, -1, -1, -1), torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    assert torch.equal(passed, op(currents[0]).expand(7, -1, -1, -1, -1))


def test_neurons_that_take_turns_do_not_add_up() -> None:
    """Two neurons at half of the highest rate, in turns: the largest of their counts is passed, and not their sum."""
    weights = torch.eye(2)[:, :, None], torch.tensor([[[1.0], [-1.0]]])
    ones = (1,), (0,), (1,)
    network = chain(
        Conv(weights[0], None, *ones), Neuron(), Conv(weights[1], None, *ones), Neuron(),
        MaxPool((2,), (2,), (0,), (1,)), Flatten(), shape=(2, 2),
    )  # fmt: skip
    calibration = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    spiking = es.convert(network, calibration, es.DataNorm(), lossy=[es.max_pool_to_winner])
    image = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]])
    for timesteps in (64, 1024):
        score = float(es.simulate(spiking, image, timesteps).readout[-1] / timesteps)
        assert abs(score - float(network(image))) <= 2 / timesteps


def spiking() -> Network:
    """Both kinds of pools and two-signed neurons, on integer grids."""
    slopes = torch.tensor([0.5, 0.25, 0.125])
    network = chain(
        conv(1, 2), Neuron(), POOL, conv(2, 3, 1), LeakyReLU(slopes), conv(3, 3, 2), LeakyReLU(torch.tensor(0.25)),
        POOL, *head(12),
    )  # fmt: skip
    lossy = [es.max_pool_to_winner, es.leaky_relu_to_pairs]
    return es.quantize(es.convert(network, IMAGES, es.DataNorm(99.0), lossy=lossy), 6)


@pytest.mark.parametrize("coder", [es.Constant(), es.Poisson()], ids=str)
def test_all_engines_agree_on_pools_and_two_signed_neurons(coder: es.Constant | es.Poisson) -> None:
    network = spiking()
    assert [type(node.op) for node in network].count(WinnerPool) == 2
    expected = es.simulate(network, IMAGES, 21, coder, engine="stepwise")
    for engine, memory in (("layerwise", 20_000), ("layerwise", 2**24), ("auto", 2_000), ("auto", 2**24)):
        run = es.simulate(network, IMAGES, 21, coder, engine=engine, memory=memory)  # type: ignore[arg-type]
        assert torch.equal(run.readout, expected.readout)
        assert all(torch.equal(run.counts[name], expected.counts[name]) for name in expected.counts)
    resumed = es.simulate(network, IMAGES, 21, coder, stop=es.Stable(21))
    assert torch.equal(resumed.readout, expected.readout)


def test_an_early_pool_gives_the_counts_of_the_busiest_neuron_of_each_window() -> None:
    first = es.quantize(es.convert(chain(conv(1, 2), Neuron(), *head(128)), IMAGES, es.DataNorm(100.0)), 8)
    flat, linear = head(32)
    behind = Node("pool", POOL, ("neuron1",)), Node("flat", flat, ("pool",)), Node("scores", linear, ("flat",))
    pooled = Network((*first.nodes[:3], *behind, Node("readout", Readout(), ("scores",))))
    network, early = early_max_pools(pooled)
    assert early == {"pool"}
    for timesteps in (1, 7, 16):
        busiest = POOL(es.simulate(first, IMAGES, timesteps).counts["neuron1"].float())
        assert torch.equal(es.simulate(network, IMAGES, timesteps).counts["neuron1"].float(), busiest)


def test_early_pools_keep_the_function_also_where_others_read_the_neurons() -> None:
    stem = chain(conv(1, 2), Neuron(), POOL, POOL, *head(8))
    assert [type(node.op) for node in early_max_pools(stem)[0]][2:5] == [WinnerPool, WinnerPool, Neuron]
    nodes = list(stem.nodes)
    branch = Node("branch", Conv(torch.ones(2, 2, 2, 2), None, (2, 2), (0, 0), (1, 1)), ("neuron1",))
    join = Node("join", Add((1.0, 1.0)), ("branch", "maxpool2"))
    both = Network((*nodes[:4], branch, join, Node("flat", Flatten(), ("join",)), Node("out", Readout(), ("flat",))))
    for network in (stem, both):
        moved, _ = early_max_pools(network)
        assert torch.equal(moved(IMAGES), network(IMAGES))
    assert [type(node.op) for node in early_max_pools(both)[0]].count(Neuron) == 2


def test_pools_of_changing_currents_stay_and_are_refused() -> None:
    network = chain(conv(1, 2), Neuron(), conv(2, 2), Neuron(), POOL, *head(32))
    assert early_max_pools(network) == (network, set())
    with pytest.raises(es.ConversionError, match=r"^maxpool4 \(MaxPool\): a maximum of spikes .*max_pool_to_winner"):
        es.convert(network, IMAGES)
    changed, changes = max_pool_to_winner(network)
    assert torch.equal(changed(IMAGES), network(IMAGES))
    assert [change.layer for change in changes] == ["maxpool4"]


@pytest.mark.parametrize("slope", [torch.tensor(0.25), torch.tensor([0.5, -0.125])])
def test_pairs_of_neurons_are_a_leaky_relu(slope: Tensor) -> None:
    network = chain(conv(1, 2), LeakyReLU(slope), *head(128))
    with pytest.raises(es.ConversionError, match=r"^leakyrelu1 \(LeakyReLU\): .*lossy=\[es\.leaky_relu_to_pairs\]"):
        es.convert(network, IMAGES)
    pairs, changes = leaky_relu_to_pairs(network)
    assert torch.allclose(pairs(IMAGES), network(IMAGES), atol=1e-5)
    assert [change.layer for change in changes] == ["leakyrelu1"]
    converted = es.convert(network, IMAGES, es.DataNorm(100.0), lossy=[es.leaky_relu_to_pairs])
    found = es.simulate(converted, IMAGES, 256).readout[-1] / 256
    steps = sum(float(threshold) for threshold in converted.thresholds.values()) / 256
    bound = steps * float(converted["linear3"].op.weight.abs().sum(1).max())  # each neuron is less than a spike late
    assert float((found - network(IMAGES)).abs().max()) <= bound


def test_files_hold_winner_pools(tmp_path: Path) -> None:
    network = spiking()
    es.save(network, tmp_path / "net.safetensors")
    loaded = es.load(tmp_path / "net.safetensors")
    assert torch.equal(es.simulate(loaded, IMAGES, 9).readout, es.simulate(network, IMAGES, 9).readout)


def stem() -> Network:
    """The stem of a ResNet, whose pool is early, and a pool with windows that reach over the end."""
    over_the_end = MaxPool((3, 3), (2, 2), (0, 0), (1, 1), ceil_mode=True)
    network = chain(conv(1, 2), Neuron(), MaxPool((3, 3), (2, 2), (1, 1), (1, 1)), conv(2, 2, 1), Neuron(),
                    over_the_end, *head(8))  # fmt: skip
    return es.quantize(es.convert(network, IMAGES, es.DataNorm(), lossy=[es.max_pool_to_winner]), 6)


@pytest.mark.parametrize("make", [spiking, stem])
def test_modules_and_onnx_files_give_the_same_scores(tmp_path: Path, make: Callable[[], Network]) -> None:
    network, timesteps = make(), 21
    expected = es.simulate(network, IMAGES, timesteps).readout
    write_module(network, tmp_path / "pools.py")
    module: dict[str, Any] = {"__file__": str(tmp_path / "pools.py")}
    exec((tmp_path / "pools.py").read_text(), module)
    assert torch.equal(module["Network"]()(IMAGES, timesteps).to(expected.dtype), expected)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    write_onnx(network, tmp_path / "pools.onnx")
    given = {"images": IMAGES.float().numpy(), "timesteps": np.array(timesteps)}
    (scores,) = runtime.InferenceSession(tmp_path / "pools.onnx").run(["scores"], given)
    assert torch.equal(torch.from_numpy(scores).to(expected.dtype), expected)


def test_nir_cannot_be_told_of_winner_pools(tmp_path: Path) -> None:
    with pytest.raises(es.ConversionError, match=r"WinnerPool\): takes maxima.*Export to ONNX or torch"):
        write_nir(spiking(), tmp_path / "file.nir")
    assert not list(tmp_path.iterdir())
