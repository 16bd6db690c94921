"""A converted network as a module: step by step the spikes of simulate, and gradients to train on with."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import images_for, networks
from torch import Tensor, nn

import equispike as es
from equispike.functional.coding import delayed
from equispike.graph.network import Network
from equispike.graph.ops import Input, Linear, Neuron, Node, Readout, WinnerPool
from equispike.graph.reading.trace import trace
from equispike.nn import Spiking, Triangle
from equispike.zoo.data import load
from equispike.zoo.models import build
from equispike.zoo.store import load_model


def watched(module: Spiking) -> dict[str, list[Tensor]]:
    """What each layer gives in each step, by the node's name."""
    seen: dict[str, list[Tensor]] = {name: [] for name, _, _ in module.nodes}
    for name, key, _ in module.nodes:

        def keep(_layer: nn.Module, _inputs: object, given: Any, name: str = name) -> None:
            seen[name].append(given[0] if isinstance(given, tuple) else given)

        module.layers[key].register_forward_hook(keep)
    return seen


@given(st.data(), st.integers(1, 6))
@settings(max_examples=60)
def test_its_spikes_and_scores_are_those_of_simulate(data: Any, timesteps: int) -> None:
    network = data.draw(networks(form="any"))
    images = data.draw(images_for(network))
    if any(isinstance(node.op, WinnerPool) for node in network.nodes):
        with pytest.raises(es.ConversionError, match="keeps sums of its own"):
            network.module()
        return
    run = es.simulate(network, images, timesteps, engine="stepwise")
    module = network.module()
    seen = watched(module)
    with torch.no_grad():
        scores = torch.stack([module(images) for _ in range(timesteps)]).cumsum(0)
    assert torch.equal(delayed(scores, network.readout.delay).to(run.readout.dtype), run.readout)
    for name, counts in run.counts.items():
        assert torch.equal(torch.stack(seen[name]).ne(0).sum(0, dtype=torch.int32), counts)


def digits_network(v_init: float = 0.5, name: str = "mnist-cnn") -> Network:
    images = load("mnist-sample").train.take(128).floats()
    return es.convert(load_model(name)[0], images, es.DataNorm(99.9), v_init=v_init)


def test_of_a_quantized_network_too_and_of_its_copy_from_a_state_dict() -> None:
    network, images = es.quantize(digits_network(), 8), load("mnist-sample").test.take(4).floats()
    run = es.simulate(network, images, 6, engine="stepwise")
    module, other = network.module(), es.quantize(digits_network(0.25), 6).module()
    other.load_state_dict(module.state_dict())
    seen = watched(module)
    with torch.no_grad():
        scores = sum(module(images) for _ in range(6))
    assert torch.equal(scores, run.readout[-1])
    assert all(torch.equal(torch.stack(seen[name]).ne(0).sum(0), counts) for name, counts in run.counts.items())
    assert {name.rpartition(".")[2] for name, _ in module.named_parameters()} == {"weight"}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items())


def test_state_goes_in_and_comes_out() -> None:
    network, images = digits_network(), load("mnist-sample").test.take(6).floats()
    module = network.module().requires_grad_(False)
    first = [module(images) for _ in range(3)]
    kept = module.state
    assert kept is not None
    assert kept.step == 3
    later = [module(images) for _ in range(2)]
    module.state = kept
    assert all(torch.equal(module(images), scores) for scores in later)
    scores, after = module.step(images, kept)
    assert torch.equal(scores, later[0])
    assert after.step == 4
    with pytest.raises(es.EquispikeError, match="of 6 images, and 2 came"):
        module(images[:2])
    module.reset()
    assert all(torch.equal(module(images), scores) for scores in first)
    assert torch.equal(copy.deepcopy(network.module())(images), first[0])


def test_gradients_take_a_spike_for_a_step_with_the_surrogates_slope() -> None:
    """Against autograd through the same formulas, for both resets and signed neurons, over four steps."""
    currents = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta, size = torch.tensor(0.7, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    base = Neuron(theta, size)
    for neuron in (base, replace(base, reset="zero"), replace(base, spikes="signed")):
        weight = torch.eye(5, dtype=torch.float64)
        nodes = Node("x", Input((5,))), Node("w", Linear(weight, None), ("x",)), Node("n", neuron, ("w",))
        module = Network((*nodes, Node("out", Readout(), ("n",)))).module(Triangle(2.0))
        x = currents.clone().requires_grad_()
        factors = torch.arange(1.0, 5.0, dtype=torch.float64)
        sum(f * module(row[None]).square().sum() for f, row in zip(factors, x, strict=True)).backward()  # type: ignore[union-attr]
        y = currents.clone().requires_grad_()
        v, sent, total = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64), torch.tensor(0.0)
        for f, row in zip(factors, y, strict=True):
            u = v + row
            z = soft((u - theta) / theta)
            if neuron.signed:
                z = z + (soft(u / theta) - 1) * (sent > 0)
                sent = (sent + z).detach()
            v = u * (1 - z) if neuron.reset == "zero" else u - theta * z
            total = total + f * (z * size).square().sum()
        total.backward()
        assert x.grad is not None
        assert y.grad is not None
        assert bool(x.grad.any())
        assert torch.allclose(x.grad, y.grad, rtol=1e-10)


def soft(distance: Tensor) -> Tensor:
    """A step whose gradient is that of its integral of slope: a triangle of width 2."""
    slope = (1 - distance.abs() / 2).clamp(min=0).detach()
    return (distance >= 0).to(distance.dtype) + slope * (distance - distance.detach())


def test_one_epoch_with_spikes_at_four_steps_gains_accuracy_on_digits() -> None:
    data, network = load("mnist-sample"), digits_network(name="mnist-cnn-rnl")
    module = network.module()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for images, labels in data.train.take(800).batches(50):
        module.reset()
        optimizer.zero_grad()
        scores = torch.stack([module(images) for _ in range(4)]).mean(0)
        nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
    learnt, test = network.replace_ops(module.ops()), data.test.take(300)
    before, after = (
        float((es.simulate(n, test.floats(), 4).predictions[-1] == test.labels).double().mean())
        for n in (network, learnt)
    )
    assert after > before + 0.1
    assert all(torch.equal(learnt.thresholds[name], theta) for name, theta in network.thresholds.items())


def test_networks_without_thresholds_are_refused() -> None:
    with pytest.raises(es.ConversionError, match="has no threshold yet"):
        trace(build("mnist-cnn"), torch.zeros(2, 1, 28, 28)).module()
