"""The exported ONNX file gives the network's spikes and scores in ONNX Runtime, which knows nothing of spikes."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import images_for, networks

import equispike as es
from equispike.files.onnx import read_onnx, write_onnx
from equispike.graph.network import Network, Node
from equispike.graph.ops import Affine, AvgPool, Conv, Input, Linear, Neuron, Readout
from equispike.zoo.data import load
from equispike.zoo.store import load_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def outputs(path: Path, images: torch.Tensor, timesteps: int) -> dict[str, Any]:
    """What a user runs: scores and spikes by name."""
    running = session(path)
    names = [output.name for output in running.get_outputs()]
    values = running.run(names, {"images": images.float().numpy(), "timesteps": np.array(timesteps)})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


@given(networks(form="any", dtype=torch.float32), st.data(), st.integers(1, 9))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_file_gives_the_networks_spikes_and_scores(
    tmp_path: Path, network: Network, data: Any, timesteps: int
) -> None:
    assume(all(op.v_init != "uniform" for op in network.neurons.values()))
    write_onnx(network, tmp_path / "n.onnx")
    onnx.checker.check_model(str(tmp_path / "n.onnx"), full_check=True)
    images = data.draw(images_for(network))
    found, run = outputs(tmp_path / "n.onnx", images, timesteps), es.simulate(network, images, timesteps)
    assert torch.equal(found.pop("scores").to(run.readout.dtype), run.readout)
    assert found.keys() == {f"spikes.{name}" for name in network.neurons}
    assert all(torch.equal(found[f"spikes.{name}"], count) for name, count in run.counts.items())


@cache
def digits() -> tuple[Network, torch.Tensor]:
    """A network for handwritten digits, and test images."""
    model, card = load_model("mnist-cnn")
    data = load("mnist-sample", None, card.get("normalised", False))
    return es.convert(model, data.train.take(32).batches(32), es.DataNorm(99.9)), data.test.take(4).floats()


def test_real_digits_spike_alike_neuron_by_neuron(tmp_path: Path) -> None:
    network, images = digits()
    network = es.quantize(network, 8)
    write_onnx(network, tmp_path / "n.onnx")
    found, run = outputs(tmp_path / "n.onnx", images, 32), es.simulate(network, images, 32)
    assert torch.equal(found["scores"].float(), run.readout)
    for name, count in run.counts.items():
        assert int(count.sum()) > 0
        assert torch.equal(found[f"spikes.{name}"], count)


def test_weights_of_a_quantized_network_are_stored_as_integers(tmp_path: Path) -> None:
    network, _ = digits()
    for bits, kind in ((8, onnx.TensorProto.INT8), (12, onnx.TensorProto.INT16)):
        write_onnx(es.quantize(network, bits), tmp_path / "n.onnx")
        stored = onnx.load(tmp_path / "n.onnx").graph.initializer
        large = [tensor.data_type for tensor in stored if np.prod(tensor.dims) > 200]
        assert len(large) == sum(isinstance(node.op, Conv | Linear) for node in network)
        assert set(large) == {kind}


def test_real_digits_score_closely_without_rounding(tmp_path: Path) -> None:
    network, images = digits()
    write_onnx(network, tmp_path / "n.onnx")
    scores, run = outputs(tmp_path / "n.onnx", images, 32)["scores"], es.simulate(network, images, 32)
    assert (scores - run.readout).abs().max() < 0.01 * run.readout.abs().max()
    assert torch.equal(scores.argmax(2), run.predictions)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_every_precision_take_images_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    """Weights on a coarse grid, so that every precision holds the same network."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    images = torch.randint(0, 9, (5, 12)) / 8
    network = es.quantize(es.convert(model, images, es.DataNorm()), 6).to(torch.float32)
    write_onnx(network.to(dtype), tmp_path / "n.onnx")
    assert session(tmp_path / "n.onnx").get_inputs()[0].type == "tensor(float)"
    expected = es.simulate(network, images, 16).readout
    assert torch.equal(outputs(tmp_path / "n.onnx", images, 16)["scores"].float(), expected)


def test_convolutions_in_float64_are_rounded_and_that_is_said(tmp_path: Path) -> None:
    one, pool = torch.ones((), dtype=torch.float64), AvgPool((2,), (2,), (0,))
    nodes = Node("input", Input((1, 4))), Node("p", pool, ("input",)), Node("l", Linear(one.expand(1, 2), None), ("p",))
    network = Network((*nodes, Node("readout", Readout(), ("l",)))).to(torch.float64)
    notes = write_onnx(network, tmp_path / "n.onnx")
    assert "it was written in float32, where its sums are rounded" in notes[1]


def test_without_convolutions_float64_stays(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    images = torch.rand(5, 6, dtype=torch.float64)
    network = es.quantize(es.convert(model, images, v_init=0.5), 16, timesteps=2**12)
    assert network.dtype == torch.float64
    assert len(write_onnx(network, tmp_path / "n.onnx")) == 1
    assert torch.equal(outputs(tmp_path / "n.onnx", images, 16)["scores"], es.simulate(network, images, 16).readout)


def small(name: str = "n", **fields: Any) -> Network:
    one = torch.ones(())
    neuron = dataclasses.replace(Neuron(one, one), **fields)
    return Network((Node("input", Input((2,))), Node(name, neuron, ("input",)), Node("readout", Readout(), (name,))))


def large() -> Network:
    weight = torch.zeros(()).expand(2**15, 2**14)
    nodes = Node("input", Input((2**14,))), Node("l", Linear(weight, None), ("input",)), Node("o", Readout(), ("l",))
    return Network(nodes)


def unfolded() -> Network:
    nodes = (
        Node("input", Input((2,))),
        Node("a", Affine(torch.ones(2), torch.ones(2)), ("input",)),
        Node("readout", Readout(), ("a",)),
    )
    return Network(nodes)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small(v_init="uniform"), "^n: its potentials start at random"),
        (small(threshold=None), "^n: has no threshold yet"),
        (large(), "more than the 2 GiB"),
        (unfolded(), r"^a \(Affine\): does not run on spikes"),
    ],
)
def test_what_no_file_can_hold_is_refused_before_anything_is_written(tmp_path, network, message) -> None:
    with pytest.raises(es.ConversionError, match=message):
        write_onnx(network, tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scores", "images", "timesteps", "x1", "v1", "total", "spikes.n", "a/b é"])
def test_layers_may_have_any_name(tmp_path: Path, name: str) -> None:
    write_onnx(small(name), tmp_path / "n.onnx")
    found = outputs(tmp_path / "n.onnx", torch.tensor([[1.0, 0.5]]), 4)
    assert found[f"spikes.{name}"].tolist() == [[4, 2]]
    assert found["scores"][-1].tolist() == [[4.0, 2.0]]


def test_the_file_tells_its_origin(tmp_path: Path) -> None:
    write_onnx(dataclasses.replace(small(), provenance={"method": "m"}), tmp_path / "n.onnx")
    model = onnx.load(tmp_path / "n.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props} == {"equispike": '{"method": "m"}'}


def test_what_was_exported_is_no_trained_network(tmp_path: Path) -> None:
    """A file with the time loop inside is refused where a trained network is expected."""
    write_onnx(small(), tmp_path / "n.onnx")
    for output in (None, 0):
        with pytest.raises(es.EquispikeError, match="is a converted network with its time loop"):
            read_onnx(tmp_path / "n.onnx", output=output)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [5, 6, 7])
def test_pools_that_reach_over_the_end_average_what_torch_does(tmp_path: Path, size: int, padding: int, counts) -> None:
    one, pool = torch.ones(()), AvgPool((3, 3), (2, 2), (padding, padding), True, counts)
    nodes = [Node("input", Input((2, size, size))), Node("n", Neuron(one, one), ("input",))]
    network = Network((*nodes, Node("p", pool, ("n",)), Node("readout", Readout(), ("p",))))
    write_onnx(network, tmp_path / "n.onnx")
    images = torch.rand(2, 2, size, size)
    found = outputs(tmp_path / "n.onnx", images, 5)["scores"].float()
    assert torch.allclose(found, es.simulate(network, images, 5).readout, atol=1e-6)
