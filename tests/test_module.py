"""The exported module gives the scores of the network, and needs nothing of this package."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import images_for, networks

import equispike as es
from equispike.files.module import write_module
from equispike.files.nir import write_nir
from equispike.files.onnx import write_onnx
from equispike.graph.network import Network, Node
from equispike.graph.ops import Affine, Input, Neuron, Readout, Sparse


def module(path: Path) -> ModuleType:
    found = ModuleType(path.stem)
    found.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), found.__dict__)
    return found


@given(networks(form="any"), st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_module_gives_the_networks_scores(tmp_path: Path, network: Network, data: Any) -> None:
    assume(all(op.v_init != "uniform" for op in network.neurons.values()))
    write_module(network, tmp_path / "network.py")
    images = data.draw(images_for(network))
    scores = module(tmp_path / "network.py").Network()(images, timesteps=8)
    assert torch.equal(scores.to(images.dtype), es.simulate(network, images, 8, engine="stepwise").readout)


def test_a_quantized_network_takes_images_as_they_are(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    images = torch.rand(5, 6)
    network = es.quantize(es.convert(model, images, v_init=0.5), 8)
    write_module(network, tmp_path / "net.py")
    code = (
        "import sys, torch; from net import Network; images = torch.load('images.pt', weights_only=True);"
        "torch.save(Network()(images, 16), 'scores.pt'); assert 'equispike' not in sys.modules"
    )
    torch.save(images, tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    scores = torch.load(tmp_path / "scores.pt", weights_only=True)
    assert torch.equal(scores.float(), es.simulate(network, images, 16).readout.float())


class Moved(torch.nn.Module):
    """Moves, interpolates, weights and sums up features, as one sparse map each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.scale = torch.nn.Linear(4 * 64, 5), torch.nn.Parameter(torch.rand(4, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x)).flip(2).permute(0, 1, 3, 2)
        x = torch.relu(self.second(x) * self.scale + self.scale)
        x = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear")
        return self.head(torch.relu(x).permute(0, 2, 3, 1).flatten(1))


def moved() -> tuple[Network, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.rand(4, 2, 6, 6)
    network = es.quantize(es.convert(Moved(), images, es.DataNorm()), 6)
    assert sum(isinstance(node.op, Sparse) for node in network) > 2
    return network, images


def test_sparse_maps_are_written(tmp_path: Path) -> None:
    network, images = moved()
    write_module(network, tmp_path / "network.py")
    scores = module(tmp_path / "network.py").Network()(images, timesteps=8)
    assert torch.equal(scores.float(), es.simulate(network, images, 8).readout.float())


def test_sparse_maps_are_written_to_onnx_and_refused_by_nir(tmp_path: Path) -> None:
    network, images = moved()
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    write_onnx(network, tmp_path / "network.onnx")
    given = {"images": images.numpy(), "timesteps": np.array(8)}
    (scores,) = runtime.InferenceSession(tmp_path / "network.onnx").run(["scores"], given)
    assert torch.equal(torch.from_numpy(scores).float(), es.simulate(network, images, 8).readout.float())
    pytest.importorskip("h5py")
    with pytest.raises(es.ConversionError, match=r"\(Sparse\): moves or adds up features.*Export to ONNX or torch"):
        write_nir(network, tmp_path / "network.nir")


def small(name: str = "n", **fields: Any) -> Network:
    one = torch.ones(())
    neuron = dataclasses.replace(Neuron(one, one), **fields)
    return Network((Node("input", Input((2,))), Node(name, neuron, ("input",)), Node("readout", Readout(), (name,))))


def test_names_of_layers_are_no_code(tmp_path: Path) -> None:
    code = "n'''\"\"\"{}raise SystemExit('executed'){}#"
    with pytest.raises(es.ConversionError, match="characters that cannot be printed"):
        small(code.format("\n", "\n"))
    write_module(small(code.format(";", ";")), tmp_path / "n.py")
    assert module(tmp_path / "n.py").Network()(torch.ones(1, 2), 3).shape == (3, 1, 2)


def test_weights_of_another_export_are_refused(tmp_path: Path) -> None:
    for name, network in (("old", small()), ("new", small(threshold=torch.tensor(2.0)))):
        write_module(network, tmp_path / f"{name}.py")
    (tmp_path / "new.pt").rename(tmp_path / "old.pt")  # as when an export is killed after the first of its two files
    with pytest.raises(ValueError, match=r"old\.pt: not the weights that were exported with .*old\.py\. Export again$"):
        module(tmp_path / "old.py").Network()
    (tmp_path / "old.pt").rename(tmp_path / "moved.pt")
    weights = tmp_path / "moved.pt"
    assert module(tmp_path / "new.py").Network(weights)(torch.ones(1, 2), 3).shape == (3, 1, 2)


@pytest.mark.parametrize(
    ("network", "name", "message"),
    [
        (small(v_init="uniform"), "n.py", "n: its potentials start at random"),
        (small(threshold=None), "n.py", "n: has no threshold yet"),
        (small(), "n.txt", "ends in .py"),
    ],
)
def test_what_cannot_be_a_module_is_refused_before_anything_is_written(tmp_path, network, name, message) -> None:
    with pytest.raises(es.EquispikeError, match=message):
        write_module(network, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_maps_that_are_not_folded_are_refused(tmp_path: Path) -> None:
    nodes = (
        Node("input", Input((2,))),
        Node("a", Affine(torch.ones(2), torch.ones(2)), ("input",)),
        Node("readout", Readout(), ("a",)),
    )
    with pytest.raises(es.ConversionError, match=r"^a \(Affine\): does not run on spikes"):
        write_module(Network(nodes), tmp_path / "n.py")
