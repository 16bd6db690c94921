"""Calibration on spikes, layer after layer: what is kept of earlier layers changes its cost and no threshold."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, networks, seeds

import equispike as es
from equispike.calibrate import spike_norm
from equispike.conversion import prepare
from equispike.functional.integrate import if_scan
from equispike.graph.network import Network, Node
from equispike.graph.ops import Neuron
from equispike.simulation import cpu, layerwise
from equispike.simulation.run import default_memory
from equispike.simulation.task import upstream

uncalibrated = networks(calibrated=False)
STEPS = 7


def thresholds(network: Any, images: Any, memory: int, seed: int = 0, coder: Any = None, reset: Any = "zero") -> Any:
    return es.SpikeNorm(STEPS, reset, coder or es.Poisson(), seed, memory=memory)(network, images)


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(
    uncalibrated,
    st.data(),
    seeds,
    st.sampled_from([es.Constant(), es.Poisson()]),
    st.sampled_from(["zero", "subtract"]),
)
@settings(max_examples=15)
def test_thresholds_do_not_depend_on_memory_disk_or_engine(
    network: Any, data: Any, seed: int, coder: Any, reset: Any
) -> None:
    images = [data.draw(images_for(network)) for _ in range(2)]
    expected = thresholds(network, images, 2**20, seed, coder, reset)
    for memory, disk in ((0, True), (0, False), (data.draw(st.integers(0, 3000)), data.draw(st.booleans()))):
        with pytest.MonkeyPatch.context() as patch:
            if not disk:
                patch.setattr(spike_norm.tempfile, "gettempdir", lambda: "/proc")  # a disk without free space
            assert same(thresholds(network, images, memory, seed, coder, reset), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "suits", lambda _: False)
        assert same(thresholds(network, images, 2**20, seed, coder, reset), expected)


def chain(layers: int) -> es.Network:
    torch.manual_seed(0)
    model = [module for _ in range(layers) for module in (torch.nn.Linear(6, 6, bias=False), torch.nn.ReLU())]
    with torch.no_grad():
        for linear in model[::2]:
            linear.weight.abs_()
    return es.trace(torch.nn.Sequential(*model, torch.nn.Linear(6, 2, bias=False)), torch.rand(2, 6))


@pytest.mark.parametrize("event_driven", [True, False])
def test_every_layer_runs_once(monkeypatch: pytest.MonkeyPatch, event_driven: bool) -> None:
    """All but the last, which need not run at all; again and again where nothing can be kept."""
    if event_driven and not cpu.installed():
        pytest.skip("installed without a compiler: there is no core")
    runs = 0
    real = cpu.Cpu.fire if event_driven else if_scan

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal runs
        runs += 1
        return real(*args, **options)

    monkeypatch.setattr(cpu, "suits", lambda _: event_driven)
    monkeypatch.setattr(cpu.Cpu, "fire", counted)
    monkeypatch.setattr(layerwise, "if_scan", counted)
    network, images = chain(5), torch.rand(3, 6)
    thresholds(network, [images], 2**20)
    assert runs == 4
    monkeypatch.setattr(spike_norm.tempfile, "gettempdir", lambda: "/proc")
    runs = 0
    thresholds(network, [images], 0)
    assert runs == 1 + 2 + 3 + 4


def test_of_layers_that_are_known_nothing_before_them_is_needed() -> None:
    network = chain(3)
    first, second, third = network.neurons
    names = [node.name for node in network]
    assert upstream(network, {first, second}) == {*names[names.index(second) :]}
    assert upstream(network, {third}) == {*names[names.index(third) :]}
    assert upstream(network, ()) == {*names}


@pytest.mark.parametrize("event_driven", [True, False])
def test_neurons_right_behind_others_are_measured_on_their_spikes(
    monkeypatch: pytest.MonkeyPatch, event_driven: bool
) -> None:
    if not event_driven:
        monkeypatch.setattr(cpu, "suits", lambda _: False)
    nodes = [*chain(1).nodes]
    second = Node("second", Neuron(), (nodes[2].name,))
    nodes[3:] = [second, replace(nodes[3], inputs=("second",)), *nodes[4:]]
    found = thresholds(Network(tuple(nodes)), [torch.rand(3, 6)], 2**20)
    assert float(found["second"]) == float(found[nodes[2].name]) > 0


def test_no_more_than_half_of_what_is_free_on_the_disk_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spike_norm.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    found = spike_norm._room(30, used=20, memory=10)
    assert found is not None
    assert found.nbytes == 30
    assert spike_norm._room(30, used=21, memory=10) is None


def test_memory_does_not_grow_with_steps_times_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    """The currents of the layer that is measured are looked at chunk by chunk, and never all of them kept."""
    sizes: list[int] = []
    empty = torch.empty

    def noted(*shape: int, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        sizes.append(tensor.nbytes)
        return tensor

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    images, timesteps = torch.rand(2, 1, 16, 16), 3000
    network, _ = prepare(model, (images,))
    monkeypatch.setattr(torch, "empty", noted)
    es.SpikeNorm(timesteps)(network, images)
    assert 0 < max(sizes) <= default_memory(network) < timesteps * len(images) * 8 * 16 * 16 * 4
