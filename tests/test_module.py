"""The exported module gives the scores of the network, and needs nothing of this package."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import images_for, networks

import equispike as es
from equispike.files.module import write_module
from equispike.graph.network import Network, Node
from equispike.graph.ops import Affine, Input, Neuron, Readout


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
