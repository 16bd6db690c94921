"""Networks with levels, made to answer after as many steps (QCFS): trained on from ReLUs, and run as spikes."""

import math
from pathlib import Path

import pytest
import reference
import torch
from torch import Tensor, nn

import equispike as es
from equispike.graph.network import Network
from equispike.graph.ops import Neuron
from equispike.nn import RateNorm, rate_norms, with_levels, with_rate_norm
from equispike.zoo.data import Dataset, load
from equispike.zoo.models import build
from equispike.zoo.rate_inference import lower_thresholds
from equispike.zoo.recipes import Cosine, Recipe
from equispike.zoo.store import load_model, save_model
from equispike.zoo.train import accuracy_of, train


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load("mnist-sample")


def spiking(model: nn.Module, images: Tensor, signed: bool = False) -> Network:
    return es.convert(model.eval(), images, spikes="signed" if signed else "binary")


def right(network: Network, mnist: Dataset, timesteps: int) -> float:
    test = mnist.test.take(200)
    return float((es.simulate(network, test.floats(), timesteps).predictions[-1] == test.labels).double().mean())


@pytest.mark.parametrize("kind", ["relu", "rate norm"])
def test_many_levels_are_the_network_as_trained(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    model = model if kind == "relu" else with_rate_norm(model)
    images = torch.rand(50, 6, dtype=torch.float64)
    if kind == "rate norm":
        model(images)
    found = with_levels(model, 100_000, images)
    assert found.training
    assert torch.allclose(found.eval()(images), model.eval()(images), atol=1e-3)
    assert [type(layer) for layer in found] == [nn.Linear, RateNorm, nn.Linear, RateNorm, nn.Linear]
    assert all(layer.p.requires_grad for _, layer in rate_norms(found))
    assert [float(layer.running_max) == 1 for _, layer in rate_norms(found)] == [kind == "relu"] * 2


def test_the_start_is_the_threshold_that_costs_least() -> None:
    model, images = (
        nn.Sequential(nn.Identity(), nn.ReLU()),
        torch.rand(100, 3, generator=torch.Generator().manual_seed(0)).square() * 5,
    )
    (_, layer), *_ = rate_norms(with_levels(model, 3, images))
    tried = [float(images.max()) * k / 40 for k in range(1, 41)]
    errors = [
        sum((theta * reference.qcfs(float(x), theta, 3) - float(x)) ** 2 for x in images.flatten()) for theta in tried
    ]
    assert float(layer.threshold.detach()) == pytest.approx(tried[errors.index(min(errors))])


def test_converted_the_network_has_its_levels_and_the_first_layer_is_exact_after_as_many_steps(mnist: Dataset) -> None:
    model, images = load_model("mnist-cnn-rnl")[0], mnist.train.take(64).floats()
    levelled = with_levels(model, 4, images)
    network = spiking(levelled, images)
    digits = mnist.test.take(20).floats()
    assert torch.allclose(network(digits), levelled(digits), rtol=1e-4, atol=1e-3)
    first = next(iter(network.neurons))
    op = network.neurons[first]
    assert isinstance(op, Neuron)
    assert op.levels == 4
    assert op.v_init == 0.5
    assert isinstance(op.amplitude, Tensor)
    sent = es.simulate(network, digits, 4).counts[first] * op.amplitude / 4
    assert torch.allclose(sent, network.values(digits, [first])[first], atol=1e-6)


def test_thresholds_learn_no_faster_for_more_neurons() -> None:
    """In training the gradient of p is that of the formula over sqrt(N L); the output is the same to the last bit."""
    x = torch.randn(5, 6, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    layer = RateNorm(levels=3).double()
    layer.running_max.fill_(2.5)
    gradients: list[float] = []
    outputs: list[Tensor] = []
    for training in (True, False):
        y = layer.train(training)(x)
        (gradient,) = torch.autograd.grad((y * x).sum(), layer.p)
        gradients.append(float(gradient))
        outputs.append(y)
    assert torch.equal(*outputs)
    assert gradients[0] * math.sqrt(96 * 3) == pytest.approx(gradients[1], rel=1e-12)
    assert gradients[1] != 0


def test_training_goes_on_with_levels_and_gains_what_they_cost(mnist: Dataset, tmp_path: Path) -> None:
    """Two levels, two steps, signed spikes. Thresholds learn too, and the file brings all of it back."""
    start = with_levels(load_model("mnist-cnn-rnl")[0], 2, mnist.train.take(128).floats())
    before = {path: float(layer.threshold.detach()) for path, layer in rate_norms(start)}
    part = mnist.train.take(1000)
    recipe = Recipe(epochs=3, batch=50, lr=0.005, dropout=0.0, schedule=Cosine(0.2))
    trained = train(start, part, mnist.validation.take(200), recipe).model
    assert accuracy_of(trained, mnist.test) > accuracy_of(start, mnist.test) + 0.02
    assert all(float(layer.threshold.detach()) != before[path] for path, layer in rate_norms(trained))
    images = part.take(64).floats()
    assert right(spiking(trained, images, signed=True), mnist, 2) > right(spiking(start, images, signed=True), mnist, 2)
    save_model(tmp_path / "m", "mnist-cnn-rnl", trained, {"levels": 2})
    digits = mnist.test.take(20).floats()
    assert torch.equal(load_model(tmp_path / "m")[0](digits), trained(digits))
    es.save(spiking(trained, images), tmp_path / "n")
    assert torch.equal(es.load(tmp_path / "n")(digits), spiking(trained, images)(digits))


def test_what_levels_cannot_do_is_refused(mnist: Dataset) -> None:
    levelled = with_levels(build("mnist-cnn-bn"), 4)
    with pytest.raises(es.EquispikeError, match="has 4 levels already"):
        with_levels(levelled, 4)
    with pytest.raises(es.EquispikeError, match="levels: 0"):
        with_levels(build("mnist-cnn"), 0)
    with pytest.raises(es.EquispikeError, match="threshold is learnt with the weights already"):
        lower_thresholds(levelled, mnist.train, mnist.validation)
    with pytest.raises(es.EquispikeError, match=r"holds no nn\.ReLU"):
        with_levels(nn.Linear(2, 2), 4)
